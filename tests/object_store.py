"""A real S3 server on this machine, that counts what is written, and forgets conditions where it is told to."""

import contextlib
import importlib
import importlib.util
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from rsl_cli.report.vega import vega_script
from rsl_cli.study.objects import _reached

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "rsl", "AWS_SECRET_ACCESS_KEY": "rsl", "AWS_DEFAULT_REGION": "us-east-1"}


class Server:
    """What a test knows of the server.

    Args:
        endpoint: its address.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.written: Counter[str] = Counter()
        self.careless = False

    def client(self) -> Any:
        """Past rsl, to what lies there."""
        return importlib.import_module("boto3").client("s3", endpoint_url=self.endpoint)

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Of all objects."""
        found = self.client().list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return [one["Key"] for one in found]

    def flip(self, bucket: str, name: str, at: int) -> None:
        """Change a bit of an object."""
        content = bytearray(self.client().get_object(Bucket=bucket, Key=name)["Body"].read())
        content[at % len(content)] ^= 1
        self.client().put_object(Bucket=bucket, Key=name, Body=bytes(content))


@contextlib.contextmanager
def served() -> Iterator[Server]:
    """A server with one bucket, ``bucket``; this process and its children use it meanwhile."""
    moto = importlib.import_module("moto.server")
    serving = importlib.import_module("werkzeug.serving")
    app, one_at_a_time = moto.DomainDispatcherApplication(moto.create_backend_app), threading.Lock()

    def answer(environ: dict[str, Any], start: Any) -> list[bytes]:
        # Moto looks whether an object is there, then writes it; a store does both at once.
        with one_at_a_time:
            if environ["REQUEST_METHOD"] == "PUT":
                server.written[environ["PATH_INFO"]] += 1
                if server.careless:
                    environ.pop("HTTP_IF_NONE_MATCH", None)
            return list(app(environ, start))

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = serving.make_server("127.0.0.1", 0, answer, threaded=True)
    server = Server(f"http://127.0.0.1:{made.server_port}")
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": server.endpoint}.items():
            patch.setenv(name, value)
        # Whoever moves to the cache of another machine need not bundle again what draws the figures of pages.
        patch.setattr("rsl_cli.report.page.vega_script", cache(vega_script))
        _reached.cache_clear()  # Another server's.
        server.client().create_bucket(Bucket="bucket")
        yield server
    made.shutdown()
    thread.join()
    made.server_close()


HERE = all(importlib.util.find_spec(name) for name in ("s3fs", "moto", "flask", "flask_cors"))
"""Whether the extra ``dev`` is installed."""
