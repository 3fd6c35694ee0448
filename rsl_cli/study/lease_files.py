"""Leases as files of a folder, made where there were none (``O_EXCL``).

That holds on any file system several machines may share, locks or not.
"""

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

from rsl_cli.study.leases import SECONDS, Holder, Lease, Leases

_BYTES = 512
"""Size of a lease: always the same, so that one is written over in one go."""


class FileLeases(Leases):
    """The leases in a folder; their handles are open files, each into what was made, whatever lies in its place later.

    Args:
        folder: made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def every(self) -> dict[str, Lease]:
        """See `Leases.every`."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        found = {name: self.look(name) for name in names if not name.endswith(".tmp")}
        return {name: one for name, one in found.items() if one is not None}

    def look(self, name: str) -> Lease | None:
        """See `Leases.look`."""
        try:
            # Opened, since a file system may answer from memory what it is asked about a closed file.
            with (self.folder / name).open("rb") as file:
                return Lease(Holder.read(file.read()), os.fstat(file.fileno()).st_mtime)
        except OSError:
            return None

    def take(self, name: str, holder: Holder, over: Lease | None) -> int | None:
        """See `Leases.take`."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / name
        if over is None:
            return _written(path, holder)
        guard = path.with_name(f".{name}.tmp")
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            with suppress(OSError):  # Whoever was about to take the lease over may have died on it.
                if self.now() - guard.stat().st_mtime > SECONDS:
                    guard.unlink()
            return None
        try:
            found = self.look(name)
            if found is None or (found.holder and found.holder.token) != (over.holder and over.holder.token):
                return None
            temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
            made = _written(temporary, holder)
            if made is not None:
                temporary.replace(path)
            return made
        finally:
            guard.unlink(missing_ok=True)

    def renew(self, name: str, handle: int, holder: Holder) -> None:
        """See `Leases.renew`."""
        _fill(handle, holder)

    def drop(self, name: str, handle: int, mine: bool) -> None:
        """See `Leases.drop`."""
        os.close(handle)
        if mine:
            (self.folder / name).unlink()

    def now(self) -> float:
        """See `Leases.now`."""
        return now(self.folder)

    def tidy(self) -> None:
        """See `Leases.tidy`."""
        for path in self.folder.glob(".*.tmp"):
            if self.now() - path.stat().st_mtime > SECONDS:
                path.unlink(missing_ok=True)


def now(folder: Path) -> float:
    """The time as the file system's own clock has it, which writes the times of files."""
    path = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        path.touch()
        return path.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            path.unlink()


def _written(path: Path, holder: Holder) -> int | None:
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
    return file


def _fill(file: int, holder: Holder) -> None:
    os.pwrite(file, holder.content().ljust(_BYTES - 1) + b"\n", 0)
    os.fsync(file)
