"""Leases as objects of a store, made where there were none by a conditional write.

They are counted: who takes a run over makes the next one, so that of several who do so at once one does; the last one
counts.
"""

import time
from functools import cached_property

from rsl_cli.errors import StoreError
from rsl_cli.study.leases import Holder, Lease, Leases
from rsl_cli.study.objects import Entry, Objects


class ObjectLeases(Leases):
    """The leases in a folder of an object store; their handles are the objects' names.

    Args:
        objects: the folder.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    def every(self) -> dict[str, Lease]:
        """See `Leases.every`."""
        return self._found("")

    def look(self, name: str) -> Lease | None:
        """See `Leases.look`."""
        return self._found(f"{name}.").get(name)

    def take(self, name: str, holder: Holder, over: Lease | None) -> str | None:
        """See `Leases.take`."""
        before = 0 if over is None else over.number
        own = _object(name, before + 1)
        if not self.objects.create(own, holder.content()):
            return None
        if over is not None:
            self.objects.remove([_object(name, before)])
        return own

    def renew(self, name: str, handle: str, holder: Holder) -> None:
        """See `Leases.renew`."""
        self.objects.put(handle, holder.content())

    def drop(self, name: str, handle: str, mine: bool) -> None:
        """See `Leases.drop`."""
        if mine:
            self.objects.remove([handle])

    def now(self) -> float:
        """See `Leases.now`."""
        return time.time() + self._skew

    @cached_property
    def _skew(self) -> float:
        try:
            return self.objects.skew()
        except StoreError:  # It may be read only.
            return 0.0

    def _found(self, prefix: str) -> dict[str, Lease]:
        last: dict[str, tuple[int, str, Entry]] = {}
        for path, entry in self.objects.listed(prefix).items():
            name, _, number = path.rpartition(".")
            if name and number.isdigit():
                last[name] = max(last.get(name, (0, "", entry)), (int(number), path, entry), key=lambda one: one[0])
        contents = dict(self.objects.get([path for _, path, _ in last.values()]))
        # One that is gone since it was listed is being taken over, or dropped: another's, as far as is known.
        return {
            name: Lease(Holder.read(contents.get(path, b"")), entry.modified, number)
            for name, (number, path, entry) in last.items()
        }


def _object(name: str, number: int) -> str:
    return f"{name}.{number:06d}"
