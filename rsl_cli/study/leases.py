"""Who trains which run: leases, files that their holders keep fresh, and that others take over when they do not.

A lease is a file made where there was none (``O_EXCL``), which holds on any file system several machines may share,
locks or not. Its holder writes it anew every few seconds; one that has not been written for as long as it promises is
taken over, at once where its holder is known to be dead. That two processes hold one run for a moment all the same (one
was stopped, or could not be reached) does no harm: both compute the same numbers and write each file whole. So leases
save work, and no result rests on them.
"""

import ctypes
import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rsl_cli.errors import RslError

SECONDS = 60.0
"""How long a lease lasts that is not written anew, where nothing else is asked for."""
_BEATS = 6
"""How often it is written in that time."""
_BYTES = 512
"""Size of a lease: always the same, so that one is written over in one go."""


class LeaseLostError(RslError):
    """Runs that this process held are another's now: it was taken for dead."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as the file says.

    Args:
        token: a name of its own for each lease.
        machine: on which one, this boot of it, and of its containers which.
        process: its number there.
        started: when the process was, in the machine's own count; None where that is not known.
        seconds: how long the lease lasts if it is not written anew.
        deaths: how many holders died before, one after the other, without having saved anything.
        note: what the holder says of its work: ``step``, ``steps``, ``loss``.
    """

    token: str
    machine: str
    process: int
    started: int | None
    seconds: float
    deaths: int = 0
    note: Mapping[str, float] | None = None

    def text(self) -> str:
        """For people."""
        return f"process {self.process} on {self.machine.partition('/')[0]}"

    def is_dead(self) -> bool:
        """Whether it is known to be dead: only a holder on this machine can be."""
        return self.machine == machine() and self.started != _started(self.process)


class Claim:
    """Runs that this process holds, kept fresh by a thread until they are released; use it as a context manager.

    Args:
        folder: where leases lie; made if it is missing.
        names: of the runs wanted; those that others hold are left out.
        seconds: how long each lease lasts if this process falls silent.

    Raises:
        OSError: a lease cannot be written.
    """

    def __init__(self, folder: Path, names: Iterable[str], seconds: float = SECONDS) -> None:
        self.folder, self.seconds = folder, seconds
        self._leases: dict[str, tuple[int, Holder]] = {}
        self._lost: set[str] = set()
        self._ended, self._wake, self._writing = False, threading.Event(), threading.Lock()
        self._note: Mapping[str, float] | None = None
        try:
            folder.mkdir(exist_ok=True)
            for name in names:
                lease = _take(folder / name, seconds)
                if lease is not None:
                    self._leases[name] = lease
        except BaseException:
            self.release()
            raise
        if self._leases:
            threading.Thread(target=self._beat, daemon=True).start()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __contains__(self, name: str) -> bool:
        """Whether the run is held."""
        return name in self._leases and name not in self._lost

    def deaths(self, name: str) -> int:
        """How many holders of a run died before, see `Holder`."""
        return self._leases[name][1].deaths

    def tell(self, **note: float) -> None:
        """Say how far the work has come; others read it from the leases."""
        first, self._note = self._note is None, note
        if first:
            self._wake.set()

    def saved(self) -> None:
        """Say that what was done so far is saved, so that no death before counts."""
        for name, (file, holder) in self._leases.items():
            if holder.deaths:
                self._leases[name] = (file, replace(holder, deaths=0))

    def check(self, names: Iterable[str]) -> None:
        """Look whether runs are still held.

        Raises:
            LeaseLostError: some are not, since this process was silent for longer than it promised.
        """
        names = list(names)
        for name in names:
            self._write(name)
        if lost := [name for name in names if name in self._lost]:
            by = f"since this one was silent for {self.seconds:g} s"
            raise LeaseLostError(f"another process took over {', '.join(lost)}, {by}")

    def release(self) -> None:
        """Give all runs back."""
        self._ended = True
        self._wake.set()
        with self._writing:
            for name, (file, holder) in self._leases.items():
                found = read(self.folder / name)
                if found is not None and found.token == holder.token:
                    with suppress(OSError):  # It will be seen to be over.
                        (self.folder / name).unlink()
                os.close(file)
            self._leases = {}

    def _beat(self) -> None:
        while not self._ended:
            self._wake.wait(self.seconds / _BEATS)
            self._wake.clear()
            for name in list(self._leases):
                self._write(name)

    def _write(self, name: str) -> None:
        with self._writing:
            if name not in self._leases or name in self._lost:
                return
            file, holder = self._leases[name]
            found = read(self.folder / name)
            if found is None or found.token != holder.token:
                self._lost.add(name)
                return
            # Into the file once opened, whatever lies in its place by now; a full disk takes what it took before.
            with suppress(OSError):
                _fill(file, replace(holder, note=self._note))


def read(path: Path) -> Holder | None:
    """Who holds a lease; None if it is free, or was just being written."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def holders(folder: Path) -> dict[str, Holder]:
    """All leases of a folder that their holders are not known to have let go, by run."""
    names = [path.name for path in folder.iterdir() if path.suffix != ".tmp"] if folder.is_dir() else []
    found = {name: read(folder / name) for name in names}
    return {name: one for name, one in found.items() if one is not None and not _is_over(folder / name, one)}


def sweep(folder: Path) -> None:
    """Remove what the dead have left: leases, and files that they were about to make leases of."""
    with suppress(OSError):
        paths = list(folder.iterdir()) if folder.is_dir() else []
        Claim(folder, [path.name for path in paths if path.suffix != ".tmp" and _is_over(path, read(path))]).release()
        for path in [path for path in paths if path.suffix == ".tmp"]:
            if now(folder) - path.stat().st_mtime > SECONDS:
                path.unlink(missing_ok=True)


def at_work(folder: Path) -> list[str]:
    """A line for each process that holds leases of a folder: what it trains, and how far that is."""
    lines, by = [], {}
    for name, holder in sorted(holders(folder).items()):
        by.setdefault(holder.text(), []).append((name, holder))
    for who, held in by.items():
        name, note = held[0][0].rpartition("-")[0], held[0][1].note
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        far = f": step {note['step']} of {note['steps']}, loss {note['loss']:.2e}" if note else ""
        lines.append(f"{who} trains {name}{more}{far}")
    return lines


def machine() -> str:
    """This machine's name, with what tells this boot of it and this container from others."""
    return f"{platform.node()}/{_boot()}"


@cache
def _boot() -> str:
    parts = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
        parts.append(Path("/proc/self/ns/pid").readlink().name)
    return "/".join(parts)


def _started(process: int) -> int | None:
    """When a process of this machine started; None if there is none such."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    if sys.platform == "win32":  # Where os.kill would end it.
        return _runs_on_windows(process)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return 0


def _runs_on_windows(process: int) -> int | None:
    kernel, code = ctypes.windll.kernel32, ctypes.c_ulong()  # pyright: ignore[reportAttributeAccessIssue]
    handle = kernel.OpenProcess(0x1000, False, process)  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return None
    kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return 0 if code.value == 259 else None  # STILL_ACTIVE


def _take(path: Path, seconds: float) -> tuple[int, Holder] | None:
    """Make a lease where there is none, or take over one that is over."""
    seen, there = read(path), path.exists()
    if there and not _is_over(path, seen):
        return None
    deaths = seen.deaths + 1 if seen else 0
    holder = Holder(uuid.uuid4().hex, machine(), os.getpid(), _started(os.getpid()), seconds, deaths)
    return _taken_over(path, seen, holder) if there else _written(path, holder)


def _written(path: Path, holder: Holder) -> tuple[int, Holder] | None:
    """Write a lease into a new file; None if there is one by now."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    except FileExistsError:
        return None
    try:
        _fill(file, holder)
    except OSError:
        os.close(file)
        path.unlink(missing_ok=True)
        raise
    return file, holder


def _taken_over(path: Path, seen: Holder | None, holder: Holder) -> tuple[int, Holder] | None:
    """Put a lease in the place of an old one; None if another process does so, or has."""
    guard = path.with_name(f".{path.name}.tmp")
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        with suppress(OSError):  # Whoever was about to take the lease over may have died on it.
            if now(path.parent) - guard.stat().st_mtime > SECONDS:
                guard.unlink()
        return None
    try:
        found = read(path)
        if not path.exists() or (found and found.token) != (seen and seen.token):
            return None
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        made = _written(temporary, holder)
        if made is not None:
            temporary.replace(path)
        return made
    finally:
        guard.unlink(missing_ok=True)


def _is_over(path: Path, seen: Holder | None) -> bool:
    if seen is not None and seen.is_dead():
        return True
    try:
        # Opened, since a file system may answer from memory what it is asked about a closed file.
        with path.open("rb") as file:
            written = os.fstat(file.fileno()).st_mtime
    except OSError:
        return False
    return now(path.parent) - written > (seen.seconds if seen else SECONDS)


def now(folder: Path) -> float:
    """The time as the file system's own clock has it, which writes the times of files: clocks of machines differ."""
    path = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        path.touch()
        return path.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            path.unlink()


def _fill(file: int, holder: Holder) -> None:
    content: dict[str, Any] = asdict(holder)
    os.pwrite(file, json.dumps(content).encode().ljust(_BYTES - 1) + b"\n", 0)
    os.fsync(file)
