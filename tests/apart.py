"""Scripts in processes of their own that are there at once: copies of one that has imported rsl, where those are safe.

For tests of what several processes do to a study; where a process's own beginning is the subject it is a new one.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from rsl_cli.study.processes import start


class Script:
    """A script in a process of its own, to be used as what `subprocess.Popen` gives; it ends with this process.

    Args:
        text: the script.
        environment: variables that it has beside those of this process.
    """

    def __init__(self, text: str, **environment: str) -> None:
        errors, name = tempfile.mkstemp()
        os.close(errors)
        self._errors = Path(name)
        reading, writing = os.pipe()
        self._process = start(_run, text, environment, DupFd(writing), name)
        os.close(writing)
        self.stdout = os.fdopen(reading)
        self.pid: int = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """As of `subprocess.Popen`."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is there still."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end, or end it; returns what it wrote since, and all that it wrote to standard error."""
        limit = threading.Timer(timeout, self.kill)
        limit.start()
        with self.stdout:
            said = self.stdout.read()
        self._process.join()
        limit.cancel()
        errors = self._errors.read_text(encoding="utf-8")
        self._errors.unlink()
        return said, errors


def told(_: object) -> dict[str, float]:
    """What a variable of the environment is, as a probe of a study."""
    return {"told": float(os.environ["TOLD"])}


def _run(text: str, environment: dict[str, str], output: Any, errors: str) -> None:
    os.environ.update(environment)
    os.dup2(output.detach(), 1)
    os.dup2(os.open(errors, os.O_WRONLY), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    exec(compile(text, "script", "exec"), {"__name__": "__main__"})
