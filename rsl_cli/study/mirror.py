"""A study in an object store. It is read from a copy on this machine, and written to the store alone.

The bucket is the truth. The copy, in the user's cache, has what the bucket has, and may be removed at any time: what
others wrote is fetched when a study is looked at, what is here already is known by size, time and content. A run counts
once its record is there, which is put last. What a run goes on from is fetched by who trains it, and by `rsl verify`.
"""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsl_cli.errors import ConfigError, StoreError
from rsl_cli.study import run_files
from rsl_cli.study.files import cannot_write, user_cache, write_tensors
from rsl_cli.study.integrity import digest, seal
from rsl_cli.study.leases import SECONDS, Claim, Leases
from rsl_cli.study.object_leases import ObjectLeases
from rsl_cli.study.objects import Entry, Objects, is_safe
from rsl_cli.study.record import Record, RunKey
from rsl_cli.study.store import LAYOUT, StudyStore
from rsl_cli.waiting import Waiting

if TYPE_CHECKING:
    import pandas as pd

_STUDY, _RECORD, _RESUME, _VERDICT = "study.json", "record.json", "resume.safetensors", "report/verdict.json"
_LOOK = 1.0
"""Seconds between two looks at the bucket, at least; as a look takes no more than a tenth of the time."""


@dataclass(frozen=True)
class MirroredStore(StudyStore):
    """One study in an object store.

    Args:
        root: its copy's folder.
        objects: those of the study.
    """

    objects: Objects

    @classmethod
    def at(cls, address: str) -> "MirroredStore":
        """The study at an address.

        Returns:
            What nothing has been fetched of yet.

        Raises:
            ConfigError: the address names no study, or what reaches it is not installed.
        """
        objects = Objects(address)
        if len(objects.parts) < 3:
            raise ConfigError(f"study {address}; accepted: {objects.parts[0]}://BUCKET/PREFIX/STUDY")
        return cls(user_cache().joinpath("objects", *objects.parts), objects)

    @property
    def address(self) -> str:
        """See `StudyStore.address`."""
        return self.objects.address

    @property
    def absolute(self) -> str:
        """See `StudyStore.absolute`."""
        return self.objects.address

    @property
    def results_dir(self) -> str:
        """See `StudyStore.results_dir`."""
        return self.address.rpartition("/")[0]

    @property
    def leases(self) -> Leases:
        """See `StudyStore.leases`."""
        known = self.__dict__.get("_leases")
        return known or self.__dict__.setdefault("_leases", ObjectLeases(self.objects.at("leases")))

    def now(self) -> float:
        """See `StudyStore.now`; whole seconds, as files of the copy have them from the store."""
        return float(int(self.leases.now()))

    def saved_at(self, keys: Iterable[RunKey]) -> float:
        """See `StudyStore.saved_at`."""
        names = {self._name(self.resume_file(key)) for key in keys}
        found = self.objects.listed("runs/") if names else {}
        return max((entry.modified for name, entry in found.items() if name in names), default=0.0)

    def exists(self) -> bool:
        """See `StudyStore.exists`."""
        self.look()
        return super().exists()

    def grids(self) -> list[dict[str, Any]]:
        """See `StudyStore.grids`."""
        self.look()
        return super().grids()

    def grid_count(self) -> int:
        """See `StudyStore.grid_count`."""
        self.look()
        return super().grid_count()

    def look(self) -> None:
        """See `StudyStore.look`."""
        if time.monotonic() >= self.__dict__.get("_next_look", 0.0):
            self._pull()

    def fetch(self) -> None:
        """See `StudyStore.fetch`."""
        self._pull(resume=True)

    def create(self, content: Mapping[str, Any]) -> bool:
        """See `StudyStore.create`."""
        made = self.objects.create(_STUDY, seal({**content, "layout": LAYOUT}))
        self._pull()
        return made

    def grow(self, content: Mapping[str, Any]) -> None:
        """See `StudyStore.grow`."""
        self._pull()
        text = seal(content)
        self.objects.create(f"growth/{self.grid_count():06d}-{digest(text)[:8]}.json", text)
        self.objects.put(_STUDY, self.study_file.read_bytes())  # The study is the most recently changed one.
        self._pull()

    def claim(self, keys: Iterable[RunKey], seconds: float = SECONDS) -> Claim:
        """See `StudyStore.claim`; of what is held all is fetched, a state to go on from too."""
        keys = list(keys)
        claim = super().claim(keys, seconds)
        try:
            for key in keys:
                if key.directory in claim:
                    self._pull(self._name(self.run_dir(key)), resume=True)
        except BaseException:
            claim.release()
            raise
        return claim

    def set_aside(self, path: Path) -> str:
        """See `StudyStore.set_aside`."""
        name, number = self._name(path), 1
        names = [one for one in self.objects.listed(name) if one == name or one.startswith(f"{name}/")]
        if not names:
            return super().set_aside(path)
        taken = {one.split("/")[1] for one in self.objects.listed("damaged/")}
        target = path.name
        while target in taken:
            number += 1
            target = f"{path.name}.{number}"
        self.objects.move({one: f"damaged/{target}{one.removeprefix(name)}" for one in names})
        self._pull(name)
        return f"{self.address}/damaged/{target}"

    def write_resume(self, key: RunKey, arrays: Mapping[str, np.ndarray], text: Mapping[str, str]) -> None:
        """See `StudyStore.write_resume`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / _RESUME
            write_tensors(path, arrays, text)
            self.objects.put(self._name(self.resume_file(key)), path.read_bytes())

    def write_run(
        self,
        key: RunKey,
        record: Record,
        tables: Mapping[str, "pd.DataFrame"],
        state: Mapping[str, np.ndarray],
        *,
        final: bool = True,
    ) -> None:
        """See `StudyStore.write_run`."""
        place = self._name(self.run_dir(key))
        with tempfile.TemporaryDirectory() as folder:
            run_files.write_run(Path(folder), self.record(key), record, tables, state)
            written = run_files.read_record(Path(folder), key)
            assert written is not None
            contents = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        own = contents.pop(_RECORD)
        # Beside those of the record that is there, until it is replaced.
        names = {f"{place}/{run_files.beside(name, written.continued)}": name for name in contents}
        for path, name in names.items():
            self.objects.put(path, contents[name])
        self.objects.put(f"{place}/{_RECORD}", own)
        kept = {*names, f"{place}/{_RECORD}", *([] if final else [f"{place}/{_RESUME}"])}
        self.objects.remove([name for name in self.objects.listed(f"{place}/") if name not in kept])
        self._pull(place, resume=True)

    def write_failure(self, key: RunKey, record: Record, error: str) -> None:
        """See `StudyStore.write_failure`."""
        place = self._name(self.run_dir(key))
        self.objects.put(f"{place}/error.txt", error.encode())
        if not self.is_done(key):
            self.objects.put(f"{place}/{_RECORD}", seal(record.plain()))
        self._pull(place)

    def publish(self) -> None:
        """See `StudyStore.publish`."""
        files = {self._name(path): path for path in self.report_dir.rglob("*") if path.is_file()}
        for name, path in files.items():
            if is_safe(name):
                self.objects.put(name, path.read_bytes())
        self.objects.remove([name for name in self.objects.listed("report/") if name not in files])

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _pull(self, place: str = "", *, resume: bool = False) -> None:
        """Make the copy, or that of one run, have what the bucket has; a record is the last of its run's files."""
        began, clock = time.monotonic(), time.time()
        found = {name: entry for name, entry in self.objects.listed(place).items() if _is_mirrored(name)}
        lacking = [
            name
            for name, entry in found.items()
            if (resume or not name.endswith(_RESUME)) and not _is_here(self.root / name, entry)
        ]
        try:
            with Waiting(f"fetching {len(lacking)} objects of {self.address}"):
                for last in (False, True):
                    names = [name for name in lacking if name.endswith(f"/{_RECORD}") == last]
                    for name, content in self.objects.get(names):
                        _keep(self.root / name, content, found[name].mark)
            for path in self._copied(place):
                # What was fetched by another process meanwhile is newer than this listing.
                if self._name(path) not in found and path.stat().st_ctime < clock:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(cannot_write(self.root, error)) from error
        if not place:
            pause = max(_LOOK, 9 * (time.monotonic() - began))
            self.__dict__["_next_look"] = time.monotonic() + pause

    def _copied(self, place: str) -> Iterator[Path]:
        """The copy's files, of one run or of all."""
        for top in [place] if place else [_STUDY, "growth", "runs"]:
            path = self.root / top
            for file in [path] if path.is_file() else path.rglob("*"):
                if file.is_file() and not file.name.startswith("."):
                    yield file


def _is_mirrored(name: str) -> bool:
    """Whether an object is copied: what a study is, and the verdict that its report found."""
    return is_safe(name) and (name in (_STUDY, _VERDICT) or name.partition("/")[0] in ("growth", "runs"))


def _is_here(path: Path, entry: Entry) -> bool:
    """Whether a file is what an object is: by its size and time, or else by its content."""
    try:
        found = path.stat()
        if found.st_size != entry.size or found.st_mtime_ns == entry.mark:
            return found.st_size == entry.size
        with path.open("rb") as file:
            same = entry.is_of(file.read())
            if same:
                # By its handle where that can be done: another may have replaced it.
                os.utime(file.fileno() if os.utime in os.supports_fd else path, ns=(entry.mark, entry.mark))
            return same
    except OSError:
        return False


def _keep(path: Path, content: bytes, mark: int) -> None:
    """Write a file of the copy: whole, and with the time by which it is known again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.utime(temporary, ns=(mark, mark))
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
