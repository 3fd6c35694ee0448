"""What a folder's file system gives that studies rely on, tried from two processes, on two machines where asked to.

The second process is this file, run by any Python that can be started there: it obeys words on its standard input.
"""

import os
import shlex
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_TRIES = 200
_ANSWER = 60.0
"""Seconds that the second process has to answer."""
_SKEW = 5.0
"""Seconds by which a clock may be off before that is said."""
_TOO_LATE = 10.0
"""Seconds after which what one process wrote should be seen by the other."""


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Args:
        text: a line for people.
        harms: whether studies in that folder cannot be relied on.
    """

    text: str
    harms: bool = False


def examine(folder: Path, other: Path, through: str = "") -> list[Finding]:
    """Try what studies rely on.

    Args:
        folder: an existing folder; what is made there is removed.
        other: the same folder, as the second process sees it.
        through: words that start a command on the second machine, e.g. ``ssh node2``; empty: this machine.

    Returns:
        One finding for each thing tried, in the order tried.

    Raises:
        StoreError: the folder cannot be written, or the second process does not answer.
    """
    from rsl_cli.errors import StoreError

    name = f".rsl-doctor-{uuid.uuid4().hex}"
    here = folder / name
    try:
        here.mkdir()
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror}; name a folder that is there, and yours") from error
    try:
        with _partner(other / name, through) as ask:
            return [trial(here, ask) for trial in (_once, _replaced, _appended, _linked, _seen, _clock, _locked)]
    except (OSError, ValueError, TimeoutError) as error:
        raise StoreError(f"cannot examine {folder}: {str(error).splitlines()[0]}") from error
    finally:
        for path in here.glob("*"):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            here.rmdir()


class _Partner:
    """The second process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, *words: object) -> str:
        self.send(*words)
        return self.answer()

    def send(self, *words: object) -> None:
        assert self._process.stdin is not None
        try:
            print(*words, file=self._process.stdin, flush=True)
        except OSError:
            self.answer()

    def answer(self) -> str:
        assert self._process.stdout is not None
        watch = threading.Timer(_ANSWER, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            raise TimeoutError(f"the second process does not answer, or cannot be started: {self._process.args}")
        if line.startswith("error "):
            raise OSError(f"the second process: {line[6:].strip()}")
        return line.strip()


@contextmanager
def _partner(folder: Path, through: str) -> Iterator[_Partner]:
    words = [*shlex.split(through), sys.executable, str(Path(__file__).resolve()), str(folder.absolute())]
    # On another machine a shell reads the words once more.
    words = [shlex.quote(word) if through.startswith("ssh") and i else word for i, word in enumerate(words)]
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise ValueError(f"{words[0]}: {error.strerror}") from error
    with process:
        try:
            yield _Partner(process)
        finally:
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _say(ok: bool, good: str, bad: str) -> Finding:
    return Finding(f"ok    {good}" if ok else f"FAILS {bad}", not ok)


def _once(here: Path, ask: _Partner) -> Finding:
    ask.send("make", _TRIES)
    own = _make(here, _TRIES)
    theirs = {int(number) for number in ask.answer().split()}
    lost, both = set(range(_TRIES)) - own - theirs, own & theirs
    return _say(
        not lost and not both,
        "files are made by one process only (O_EXCL): no run is trained twice",
        f"of {_TRIES} files {len(both)} were made by both processes and {len(lost)} by neither (O_EXCL): runs may be "
        "trained twice, though never wrongly",
    )


def _replaced(here: Path, ask: _Partner) -> Finding:
    _replace(here, b"a")
    ask.send("read", _TRIES)
    for i in range(_TRIES):
        _replace(here, b"ab"[i % 2 : i % 2 + 1])
    faults = int(ask.answer())
    return _say(
        not faults,
        "files are replaced whole (rename): readers see the old content or the new one",
        f"{faults} of {_TRIES} reads saw a file half written or missing while it was replaced: results may be misread",
    )


def _appended(here: Path, ask: _Partner) -> Finding:
    ask.send("append", _TRIES)
    _append(here, "a", _TRIES)
    ask.answer()
    lines = (here / "log").read_bytes().splitlines()
    whole = sum(line in (b"a" * 100, b"b" * 100) for line in lines)
    text = "appending from two processes keeps every line (O_APPEND)"
    if whole == len(lines) == 2 * _TRIES:
        return Finding(f"ok    {text}")
    return Finding(f"no    {text}: {whole} of {2 * _TRIES}; nothing in a study relies on it")


def _linked(here: Path, ask: _Partner) -> Finding:
    try:
        os.link(here / "log", here / "link")
        return Finding("ok    hard links: two processes that make one study at once make one")
    except OSError as error:
        return Finding(f"no    hard links ({error.strerror}): do not make one study from two processes at once")


def _seen(here: Path, ask: _Partner) -> Finding:
    ask.send("wait", _ANSWER / 2)
    time.sleep(0.2)
    began = time.time()
    (here / "seen").write_text("x")
    answer = float(ask.answer())
    took = max(0.0, time.time() - began)
    return _say(
        answer >= 0 and took < _TOO_LATE,
        f"what one process writes, the other sees after {took:.2g} s",
        f"what one process wrote, the other {'did not see' if answer < 0 else 'saw'} after {took:.0f} s; raise "
        "executor.lease_seconds to ten times that",
    )


def _clock(here: Path, ask: _Partner) -> Finding:
    (here / "clock").write_text("x")
    own = time.time() - (here / "clock").stat().st_mtime
    theirs = float(ask("clock"))
    apart = abs(own - theirs)
    return _say(
        apart < _SKEW,
        f"clocks against the file system's: {own:+.2g} s here, {theirs:+.2g} s in the second process",
        f"clocks against the file system's: {own:+.1f} s here, {theirs:+.1f} s in the second process; set them, or "
        f"raise executor.lease_seconds above {10 * apart:.0f}",
    )


def _locked(here: Path, ask: _Partner) -> Finding:
    try:
        import fcntl
    except ImportError:
        return Finding("no    locks to try on this system; nothing in a study relies on them")
    with (here / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return Finding(f"no    locks (flock: {error.strerror}); nothing in a study relies on them")
        held = ask("lock") == "held"
    text = "locks (flock) hold across the two processes"
    return Finding(f"ok    {text}" if held else f"no    {text}; nothing in a study relies on them")


def _make(folder: Path, count: int) -> set[int]:
    made = set()
    for number in range(count):
        with suppress(FileExistsError):
            os.close(os.open(folder / f"once{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            made.add(number)
    return made


def _replace(folder: Path, letter: bytes) -> None:
    (folder / "next").write_bytes(letter * 65536)
    (folder / "next").replace(folder / "whole")


def _append(folder: Path, letter: str, count: int) -> None:
    for _ in range(count):
        file = os.open(folder / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(file, letter.encode() * 100 + b"\n")
        os.close(file)


def _faults(folder: Path, count: int) -> int:
    faults = 0
    for _ in range(count):
        try:
            content = (folder / "whole").read_bytes()
        except OSError:
            content = b""
        faults += content not in (b"a" * 65536, b"b" * 65536)
    return faults


def _until_seen(folder: Path, seconds: float) -> float:
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with suppress(OSError):
            if (folder / "seen").read_text() == "x":
                return time.monotonic() - began
        time.sleep(0.01)
    return -1.0


def _try_lock(folder: Path) -> str:
    import fcntl

    with (folder / "lock").open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return "held"
    return "free"


def _obey(folder: Path, word: str, number: float) -> object:
    match word:
        case "make":
            return " ".join(map(str, sorted(_make(folder, int(number))))) or " "
        case "read":
            return _faults(folder, int(number))
        case "append":
            _append(folder, "b", int(number))
            return "appended"
        case "wait":
            return _until_seen(folder, number)
        case "clock":
            (folder / "clock2").write_text("x")
            return time.time() - (folder / "clock2").stat().st_mtime
        case "lock":
            return _try_lock(folder)
        case _:
            raise OSError(f"{word} is no word between these processes")


def _main() -> None:
    for line in sys.stdin:
        word, *rest = line.split()
        try:
            print(_obey(Path(sys.argv[1]), word, float(rest[0]) if rest else 0.0), flush=True)
        except OSError as error:
            print(f"error {error}", flush=True)


if __name__ == "__main__":
    _main()
