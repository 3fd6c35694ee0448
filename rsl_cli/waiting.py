"""Words for silences: what is being done where nothing has been heard for some seconds. It imports nothing heavy."""

import contextlib
import sys
import threading
import time


class Waiting:
    """Says on standard error what is being done, if it takes longer than a moment; use as a context manager.

    Args:
        text: what is being done.
        first: seconds until it is said.
        then: seconds until it is said again.
    """

    def __init__(self, text: str, first: float = 3.0, then: float = 15.0) -> None:
        self._text, self._pauses, self._began = text, (first, then), time.monotonic()
        self._over = threading.Event()
        threading.Thread(target=self._say, daemon=True).start()

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        self.over()

    def over(self) -> None:
        """Something has been heard."""
        self._over.set()

    def _say(self) -> None:
        pause, again = self._pauses
        while not self._over.wait(pause):
            pause = again
            with contextlib.suppress(OSError):
                seconds = time.monotonic() - self._began
                print(f"[{seconds:.0f} s] {self._text}", file=sys.stderr, flush=True)
