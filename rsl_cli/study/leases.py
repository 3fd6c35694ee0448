"""Who trains which run: leases, which their holders keep fresh, and which others take over when they do not.

A lease is made where there was none. Its holder writes it anew every few seconds; one that has not been written for as
long as it promises is taken over, at once where its holder is known to be dead. That two processes hold one run for a
moment all the same (one was stopped, or could not be reached) does no harm: both compute the same numbers and write
each file whole. So leases save work, and no result rests on them. What a lease is made of is for `Leases` to say.
"""

import ctypes
import json
import os
import platform
import sys
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rsl_cli.errors import RslError, StoreError

SECONDS = 60.0
"""How long a lease lasts that is not written anew, where nothing else is asked for."""
_BEATS = 6
"""How often it is written in that time."""
_REFUSED = (OSError, StoreError)
"""What is raised where leases cannot be reached."""


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

    def content(self) -> bytes:
        """For a lease to hold; read by `Holder.read`."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, content: bytes) -> "Holder | None":
        """What `content` made; None of anything else."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None


@dataclass(frozen=True)
class Lease:
    """A lease as it was found.

    Args:
        holder: who holds it; None where that cannot be read, or is just being written.
        written: when it was last written, by the clock that `Leases.now` reads.
        number: how many there were for the run before, where leases are counted.
    """

    holder: Holder | None
    written: float
    number: int = 0


class Leases(ABC):
    """Where the leases of a study lie, by their runs' names; OSError or StoreError where that cannot be reached."""

    @abstractmethod
    def every(self) -> dict[str, Lease]:
        """All that there are, by run."""

    @abstractmethod
    def look(self, name: str) -> Lease | None:
        """The lease of a run; None if there is none."""

    @abstractmethod
    def take(self, name: str, holder: Holder, over: Lease | None) -> Any:
        """Make a lease where there is none, or in the place of one that is over.

        Returns:
            What `renew` needs to find it again; None if another process has done so, or does.
        """

    @abstractmethod
    def renew(self, name: str, handle: Any, holder: Holder) -> None:
        """Write a lease anew, whatever lies in its place by now."""

    @abstractmethod
    def drop(self, name: str, handle: Any, mine: bool) -> None:
        """Remove a lease, unless it is another's by now; let its handle go."""

    @abstractmethod
    def now(self) -> float:
        """The time by the clock that writes the times of leases: clocks of machines differ."""

    def tidy(self) -> None:
        """Remove what is left of leases that were about to be made."""
        return

    def is_over(self, lease: Lease) -> bool:
        """Whether a lease may be taken over."""
        if lease.holder is not None and lease.holder.is_dead():
            return True
        return self.now() - lease.written > (lease.holder.seconds if lease.holder else SECONDS)


class Claim:
    """Runs that this process holds, kept fresh by a thread until they are released; use it as a context manager.

    Args:
        leases: where they lie.
        names: of the runs wanted; those that others hold are left out.
        seconds: how long each lease lasts if this process falls silent.

    Raises:
        OSError, StoreError: a lease cannot be written.
    """

    def __init__(self, leases: Leases, names: Iterable[str], seconds: float = SECONDS) -> None:
        self.leases, self.seconds = leases, seconds
        self._held: dict[str, tuple[Any, Holder]] = {}
        self._lost: set[str] = set()
        self._ended, self._wake, self._writing = False, threading.Event(), threading.Lock()
        self._note: Mapping[str, float] | None = None
        try:
            for name in names:
                self._take(name)
        except BaseException:
            self.release()
            raise
        if self._held:
            threading.Thread(target=self._beat, daemon=True).start()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __contains__(self, name: str) -> bool:
        """Whether the run is held."""
        return name in self._held and name not in self._lost

    def deaths(self, name: str) -> int:
        """How many holders of a run died before, see `Holder`."""
        return self._held[name][1].deaths

    def tell(self, **note: float) -> None:
        """Say how far the work has come; others read it from the leases."""
        first, self._note = self._note is None, note
        if first:
            self._wake.set()

    def saved(self) -> None:
        """Say that what was done so far is saved, so that no death before counts."""
        for name, (handle, holder) in self._held.items():
            if holder.deaths:
                self._held[name] = (handle, replace(holder, deaths=0))

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
            for name, (handle, holder) in self._held.items():
                with suppress(*_REFUSED):  # It will be seen to be over.
                    self.leases.drop(name, handle, self._is_mine(name, holder))
            self._held = {}

    def _take(self, name: str) -> None:
        found = self.leases.look(name)
        if found is not None and not self.leases.is_over(found):
            return
        deaths = found.holder.deaths + 1 if found and found.holder else 0
        holder = Holder(uuid.uuid4().hex, machine(), os.getpid(), _started(os.getpid()), self.seconds, deaths)
        handle = self.leases.take(name, holder, found)
        if handle is not None:
            self._held[name] = (handle, holder)

    def _is_mine(self, name: str, holder: Holder) -> bool:
        found = self.leases.look(name)
        return found is not None and found.holder is not None and found.holder.token == holder.token

    def _beat(self) -> None:
        while not self._ended:
            self._wake.wait(self.seconds / _BEATS)
            self._wake.clear()
            for name in list(self._held):
                self._write(name)

    def _write(self, name: str) -> None:
        with self._writing:
            if name not in self._held or name in self._lost:
                return
            handle, holder = self._held[name]
            # A full disk takes what it took before; who cannot be reached takes it the next time.
            with suppress(*_REFUSED):
                if self._is_mine(name, holder):
                    self.leases.renew(name, handle, replace(holder, note=self._note))
                else:
                    self._lost.add(name)


def holders(leases: Leases) -> dict[str, Holder]:
    """All leases that their holders are not known to have let go, by run."""
    found = leases.every()
    return {name: one.holder for name, one in found.items() if one.holder is not None and not leases.is_over(one)}


def sweep(leases: Leases) -> None:
    """Remove what the dead have left: leases, and what they were about to make leases of."""
    with suppress(*_REFUSED):
        Claim(leases, [name for name, one in leases.every().items() if leases.is_over(one)]).release()
        leases.tidy()


def at_work(leases: Leases) -> list[str]:
    """A line for each process that holds leases: what it trains, and how far that is."""
    lines, by = [], {}
    for name, holder in sorted(holders(leases).items()):
        by.setdefault(holder.text(), []).append((name, holder))
    for who, held in by.items():
        (name, holder), *others = held
        more, note = f" and {len(others)} more" if others else "", holder.note
        far = f": step {note['step']} of {note['steps']}, loss {note['loss']:.2e}" if note else ""
        lines.append(f"{who} trains {name.rpartition('-')[0]}{more}{far}")
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
