"""A folder of an object store: its objects by name, read, written, and made where there are none.

It knows no study. What reaches the store is fsspec, imported when the first address is met: s3fs, gcsfs, each an extra.
Whatever a store refuses is said in one line, with its address.
"""

import hashlib
import importlib
import importlib.util
import re
import time
import uuid
import zlib
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from rsl_cli.errors import ConfigError, StoreError, first_line

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_PART = re.compile(r"[A-Za-z0-9_=+@,~-][A-Za-z0-9._=+@,~-]*")
_STORES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs")}
"""What reaches the stores of a scheme, and the extra that brings it."""
ACCEPTED = "s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
_PATIENCE: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "s3": (
        {"config_kwargs": {"connect_timeout": 2, "read_timeout": 2, "retries": {"max_attempts": 0}}},
        {"config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 3}}},
    ),
    "gs": ({"requests_timeout": 3}, {"requests_timeout": 60}),
}
"""Settings before a store has ever answered, and after."""
_AT_ONCE = 256
"""Objects read at once."""


@dataclass(frozen=True)
class Entry:
    """An object, as a listing has it.

    Args:
        size: in bytes.
        etag: another one where the content is another; where the store says so the content's MD5, as hex digits.
        modified: when it was written, by the store's clock, in seconds.
    """

    size: int
    etag: str
    modified: float

    @property
    def mark(self) -> int:
        """Time and content in one, as a file's time of last change can hold it: nanoseconds, in steps of 100."""
        return int(self.modified) * 10**9 + zlib.crc32(self.etag.encode()) % 10**7 * 100

    def is_of(self, content: bytes) -> bool:
        """Whether the content is known to be that."""
        return len(content) == self.size and hashlib.md5(content, usedforsecurity=False).hexdigest() == self.etag


def is_address(text: str) -> bool:
    """Whether text names a place in an object store: it has a scheme."""
    return _ADDRESS.match(text) is not None


def is_safe(name: str) -> bool:
    """Whether an object's name can be that of a file below a folder, and of none elsewhere."""
    return all(_PART.fullmatch(word) for word in name.split("/"))


def parts_of(address: str) -> list[str]:
    """Scheme, bucket and folders of an address.

    Returns:
        Words that are also names of folders.

    Raises:
        ConfigError: another scheme, no bucket, or characters that are not accepted.
    """
    found = _ADDRESS.match(address)
    scheme, words = (found[1], found[2].rstrip("/").split("/")) if found else ("", [])
    if scheme not in _STORES or not all(_PART.fullmatch(word) for word in words):
        raise ConfigError(f"results_dir={address}; accepted: the path of a folder, {ACCEPTED}")
    return [scheme, *words]


class Objects:
    """The objects below an address.

    Args:
        address: see `parts_of`.

    Raises:
        ConfigError: it is none, or what reaches it is not installed.
    """

    def __init__(self, address: str) -> None:
        self.parts = parts_of(address)
        self.address = f"{self.parts[0]}://{'/'.join(self.parts[1:])}"
        self._root = "/".join(self.parts[1:])
        module, extra = _STORES[self.parts[0]]
        if importlib.util.find_spec(module) is None:
            remedy = f"pip install 'rsl-cli[{extra}]'"
            raise ConfigError(f"results_dir={self.address} needs {module}, which is not installed: {remedy}")

    def at(self, *names: str) -> "Objects":
        """Those of a folder below."""
        return Objects("/".join([self.address, *names]))

    def listed(self, prefix: str = "") -> dict[str, Entry]:
        """All whose names begin so, by name."""
        folder, _, start = f"{self._root}/{prefix}".rpartition("/")
        with self._spoken() as files:
            found = files.find(folder, prefix=start, detail=True)
        return {path[len(self._root) + 1 :]: _entry(info) for path, info in found.items() if info["type"] == "file"}

    def folders(self) -> list[str]:
        """Names of the folders right below."""
        with self._spoken() as files:
            try:
                found = files.ls(self._root, detail=True)
            except FileNotFoundError:  # A folder without objects is none.
                found = []
        return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory")

    def entry(self, name: str) -> Entry | None:
        """One object; None if there is none."""
        with self._spoken() as files:
            try:
                return _entry(files.info(self._path(name)))
            except FileNotFoundError:
                return None

    def get(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """The contents of objects; those that are gone are left out."""
        wanted = list(names)
        for start in range(0, len(wanted), _AT_ONCE):
            paths = [self._path(name) for name in wanted[start : start + _AT_ONCE]]
            with self._spoken() as files:
                found: Mapping[str, Any] = files.cat(paths, on_error="return")
                for path, content in found.items():
                    if isinstance(content, bytes):
                        yield path[len(self._root) + 1 :], content
                    elif not isinstance(content, FileNotFoundError):
                        raise content

    def put(self, name: str, content: bytes) -> None:
        """Write an object, whatever was there."""
        with self._spoken() as files:
            files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write an object where there is none; of several who do so at once one does.

        Returns:
            Whether it was written.
        """
        with self._spoken() as files:
            try:
                files.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
        return True

    def move(self, names: Mapping[str, str]) -> None:
        """Give objects other names."""
        with self._spoken() as files:
            for name, other in names.items():
                files.cp_file(self._path(name), self._path(other))
        self.remove(names)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, of which some may be gone."""
        paths = [self._path(name) for name in names]
        with self._spoken() as files:
            if paths:
                files.rm(paths)

    def skew(self) -> float:
        """By how much the store's clock is ahead of this machine's, to a second."""
        name = f".clock-{uuid.uuid4().hex}"
        began = time.time()
        self.put(name, b"")
        middle = (began + time.time()) / 2
        found = self.entry(name)
        self.remove([name])
        # The store says whole seconds.
        apart = found.modified - middle if found else 0.0
        return 0.0 if -1.0 <= apart <= 0.0 else apart

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _spoken(self) -> Iterator[Any]:
        """The store's file system; whatever it refuses is a StoreError, in one line."""
        try:
            yield _reached(self.parts[0], self.parts[1])
        except Exception as error:
            raise StoreError(f"{self.address}: {_said(error, self.parts[1])}") from error


@cache
def _reached(scheme: str, bucket: str) -> Any:
    """What reaches a bucket, once that has answered: with little patience first."""
    filesystem = importlib.import_module("fsspec").filesystem
    first, later = _PATIENCE[scheme]
    hasty = filesystem(scheme, use_listings_cache=False, skip_instance_cache=True, **first)
    hasty.retries = 1
    hasty.find(bucket, prefix=".clock-")
    return filesystem(scheme, use_listings_cache=False, skip_instance_cache=True, **later)


def _said(error: Exception, bucket: str) -> str:
    """What a store refused, and what mends that."""
    words = " ".join(f"{type(error).__name__} {error}".split())
    if isinstance(error, FileNotFoundError):
        return f"there is no bucket '{bucket}' ({first_line(error)}); make it, or mend results_dir"
    if "redential" in words:
        return f"no credentials ({first_line(error)}); set what the store's own tools read, e.g. AWS_ACCESS_KEY_ID"
    if isinstance(error, PermissionError):
        return f"not permitted ({first_line(error)}); choose other credentials, or another place"
    remedy = "; is the store running, and is it what AWS_ENDPOINT_URL says?"
    return f"the store does not answer as it should ({words[:200]}){remedy}"


def _entry(info: Mapping[str, Any]) -> Entry:
    when = info.get("LastModified") or info.get("mtime")
    if not isinstance(when, datetime):
        when = datetime.fromisoformat(str(info.get("updated") or when))
    own = info.get("md5Hash")
    etag = b64decode(own).hex() if own else str(info.get("ETag") or info.get("etag") or info.get("generation"))
    return Entry(int(info["size"]), etag.strip('"'), when.timestamp())
