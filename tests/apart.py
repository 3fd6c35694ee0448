"""Scripts in processes of their own that are there at once: copies of one that has imported rsl, where those are safe.

For tests of what several processes do to a study; where a process's own beginning is the subject it is a new one.
"""

import contextlib
import os
import signal
import sys
import tempfile
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

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; returns what it wrote since, to standard output and, all of it, to standard error."""
        self._process.join(timeout)
        assert self.returncode is not None, f"it has not ended within {timeout} s"
        with self.stdout:
            said = self.stdout.read(), self._errors.read_text(encoding="utf-8")
        self._errors.unlink()
        return said


def _run(text: str, environment: dict[str, str], output: Any, errors: str) -> None:
    os.environ.update(environment)
    os.dup2(output.detach(), 1)
    os.dup2(os.open(errors, os.O_WRONLY), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    exec(compile(text, "script", "exec"), {"__name__": "__main__"})
