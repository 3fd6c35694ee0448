"""The results folder: where files lie, how they are written, who may write them. It knows no torch.

Layout of a study::

    <root>/study.json               what was asked for first
    <root>/growth/000001-<hash>.json  what was asked for after that, a file for each time, never changed
    <root>/runs/<first two digits of id>/n00064-s003-<id>/
                                    record.json  trajectory.parquet  state.safetensors  error.txt
                                    and a <name>.parquet for every other table of the run;
                                    resume.safetensors: what it goes on from, while it trains or could further
    <root>/catalogue/               a copy of all records and trajectories in few files, see `rsl_cli.study.catalogue`
    <root>/damaged/                 what was found damaged, set aside
    <root>/leases/                  which runs are being trained, and by whom: see `rsl_cli.study.leases`
    <root>/report/

A run is done when its record says so, never before: see `rsl_cli.study.run_files`. ``resume.safetensors`` says by
itself where it stands, which may be beyond the record. Studies of earlier versions have their runs in ``runs`` itself
and no catalogue, and keep it so. JSON ends in a digest of its own, and a record holds the digests
of its run's files: a run that they do not fit is missing.
"""

import math
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsl_cli.errors import StoreError, first_line
from rsl_cli.garbage import unswept
from rsl_cli.study import grids, lease_files, run_files
from rsl_cli.study.catalogue import Catalogue
from rsl_cli.study.files import (
    MENDED,
    cannot_read,
    cannot_write,
    read_json,
    read_tensors,
    write_atomic,
    write_json,
    write_tensors,
)
from rsl_cli.study.integrity import SCHEMA as SCHEMA
from rsl_cli.study.integrity import DamageError, check_study, digest, seal
from rsl_cli.study.leases import SECONDS, Claim, Leases
from rsl_cli.study.record import Record
from rsl_cli.study.record import RunKey as RunKey
from rsl_cli.study.survey import counted, note, survey
from rsl_cli.train.trajectory import LATER

if TYPE_CHECKING:
    import pandas as pd

LAYOUT = "sharded"
"""Of the folders of a study's runs."""
_ROOM = 2**20
"""Bytes that a disk has to have left."""


@dataclass(frozen=True)
class StudyStore:
    """One study on disk.

    Args:
        root: the study's folder; it need not exist yet.
    """

    root: Path

    @property
    def name(self) -> str:
        """The study's name, which is its folder's."""
        return self.root.name

    @property
    def address(self) -> str:
        """What names the study on a command line."""
        return str(self.root)

    @property
    def absolute(self) -> str:
        """The same, from wherever it is read."""
        return str(self.root.resolve())

    @property
    def results_dir(self) -> str:
        """The folder of studies that it lies in, as ``results_dir`` has it."""
        return str(self.root.parent)

    @property
    def report_dir(self) -> Path:
        """Where the report goes."""
        return self.root / "report"

    @property
    def catalogue(self) -> Catalogue:
        """The copy of all records."""
        return Catalogue(self.root / "catalogue")

    @property
    def sharded(self) -> bool:
        """Whether run folders lie in folders by their hash, and are catalogued; those of older studies do not."""
        known = self.__dict__.get("_sharded")
        if known is None:
            if not self.exists():
                return True
            known = self._remember(read_json(self.study_file))
        return known

    def _remember(self, study: Mapping[str, Any]) -> bool:
        return self.__dict__.setdefault("_sharded", study.get("layout") == LAYOUT)

    @property
    def study_file(self) -> Path:
        """The file that makes a folder a study."""
        return self.root / "study.json"

    def look(self) -> None:
        """Take note of what others have written; a folder shows it by itself."""

    def fetch(self) -> None:
        """Have all files here, those that only who trains a run needs included; in a folder they are."""

    def publish(self) -> None:
        """Show others the report that was written; in a folder they see it."""

    def exists(self) -> bool:
        """Whether the folder holds a study."""
        return self.study_file.is_file()

    def check_there(self) -> None:
        """Find out whether the study is there still: runs beside no ``study.json`` would belong to nothing.

        Raises:
            StoreError: it is not.
        """
        if not self.exists():
            raise StoreError(f"{self.study_file} is gone: the folder was moved or removed while it was computed into")

    def check_room(self) -> None:
        """Find out whether the study can be written.

        Raises:
            StoreError: it cannot, or the disk has no mebibyte left.
        """
        try:
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".room.", suffix=".tmp") as file:
                file.write(bytes(_ROOM))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(cannot_write(self.root, error)) from error

    def grids(self) -> list[dict[str, Any]]:
        """What the study was asked for, each time: ``study.json`` first, then as it grew; of like content.

        ``plan`` has the lifts and seeds that were asked for, and of their runs those that were new.

        Returns:
            The contents, as they were written.

        Raises:
            StoreError: the folder holds no study, or a file is damaged.
        """
        if not self.exists():
            raise StoreError(
                f"no study at {self.address}: it has no study.json; `rsl list` names the studies there are"
            )
        found = []
        for path in [self.study_file, *self._growth()]:
            found.append(read_json(path))
            try:
                check_study(found[-1])
            except DamageError as error:
                raise StoreError(cannot_read(path, error)) from error
        self._remember(found[0])
        return found

    def read_study(self) -> dict[str, Any]:
        """What the study is: what was asked for last, with the runs of every time.

        Returns:
            The content of ``study.json``, its plan being that of all times.

        Raises:
            StoreError: the folder holds no study, or a file is damaged.
        """
        return grids.merged(self.grids())

    def create(self, content: Mapping[str, Any]) -> bool:
        """Make the study; False if another process has made it meanwhile, whose it is then.

        Returns:
            Whether this process made it.

        Raises:
            StoreError: the folder cannot be written.
        """
        return write_atomic(self.study_file, seal({**content, "layout": LAYOUT}), new=True)

    def grow(self, content: Mapping[str, Any]) -> None:
        """Add what is asked for now. Nothing there is changed, so that of two processes at once neither is lost.

        Raises:
            StoreError: the folder cannot be written.
        """
        text = seal(content)
        number = 1 + max((int(path.name[:6]) for path in self._growth()), default=0)
        write_atomic(self.root / "growth" / f"{number:06d}-{digest(text)[:8]}.json", text)
        with suppress(OSError):
            os.utime(self.study_file)  # The study is the most recently changed one.

    def _growth(self) -> list[Path]:
        return sorted((self.root / "growth").glob("[0-9]*.json"))

    @unswept()
    def planned(self) -> list[RunKey]:
        """Every run that the study has been asked for, by lift, then seed.

        Equal numbers written differently once made runs of their own; of such, one that is done stands for all.

        Returns:
            Each run once.
        """
        keys: dict[tuple[int, int], RunKey] = {}
        for run in self.read_study()["plan"]["runs"]:
            key = RunKey(run["lift"], run["seed"], run["run_id"])
            known = keys.setdefault((key.lift, key.seed), key)
            if known is not key and known != key and not self.is_done(known) and self.is_done(key):
                keys[key.lift, key.seed] = key
        return list(keys.values())

    def carried(self, lift: int | None = None) -> dict[str, Any]:
        """How far the latest call asked the study's runs to be carried, see `carried`."""
        return grids.carried(self.read_study(), lift)

    def run_dir(self, key: RunKey) -> Path:
        """The run's folder."""
        return self.folder_of(key.directory)

    def folder_of(self, name: str) -> Path:
        """The folder of the run whose folder has that name."""
        return Path(self.place_of(name))

    def place_of(self, name: str) -> str:
        """The same as text: a hundred thousand paths take a second to make."""
        runs = self.__dict__.setdefault("_runs", f"{self.root}{os.sep}runs{os.sep}")
        return f"{runs}{name[-16:-14]}{os.sep}{name}" if self.sharded else f"{runs}{name}"

    def files_of(self, key: RunKey, record: Record) -> dict[str, Path]:
        """A run's record and the files that it names, by the names they have at present."""
        return run_files.files_of(self.run_dir(key), record)

    def record(self, key: RunKey) -> Record | None:
        """The run's record, or None if it has none yet, or one that `fault` finds fault with."""
        try:
            return run_files.read_record(self.run_dir(key), key)
        except DamageError:
            return None

    def fault(self, key: RunKey, *, thorough: bool = False) -> str | None:
        """What shows that a run's files are not what was written, in one line; None if nothing does.

        Args:
            key: which run.
            thorough: read all files and compare their digests, instead of names and sizes only.

        Returns:
            The line, or None.
        """
        try:
            folder = self.run_dir(key)
            record = run_files.read_record(folder, key)
            for name in record.files if record and thorough else ():
                run_files.check_content(folder, name, record)
        except DamageError as error:
            return str(error)
        return None

    def content(self, key: RunKey, name: str, record: Record | None) -> bytes | None:
        """A file of a run as its record says it is, or None if the run has none of that name.

        Returns:
            Its bytes.

        Raises:
            DamageError: it is another.
        """
        return run_files.read_content(self.run_dir(key), name, record)

    def set_aside(self, path: Path) -> str:
        """Move a damaged file or folder into ``damaged``, under a name that nothing there has.

        Returns:
            Where it lies now.

        Raises:
            StoreError: it cannot be moved.
        """
        target, number = self.root / "damaged" / path.name, 1
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            while target.exists():
                number += 1
                target = target.with_name(f"{path.name}.{number}")
            return str(path.rename(target))
        except OSError as error:
            raise StoreError(cannot_write(target, error)) from error

    def discard(self, path: Path, error: Exception) -> None:
        """Set aside what cannot be gone on from, and say so."""
        print(f"rsl: {path}: {first_line(error)}; set aside: {self.set_aside(path)}", file=sys.stderr)

    def mend(self, key: RunKey) -> None:
        """Set a damaged run aside, so that it starts anew; hold the run's lease."""
        fault = self.fault(key)
        if fault:
            self.discard(self.run_dir(key), DamageError(fault))

    def is_done(self, key: RunKey) -> bool:
        """Whether the run finished; a failed run did not, and a damaged one is to be done again."""
        record = self.record(key)
        return record is not None and record.done

    def records(self) -> list[Record]:
        """The records of all planned runs that have one, done or failed, by lift, then seed; not the damaged ones."""
        return list(survey(self, self.planned()).records.values())

    def counted(self) -> tuple[int, int, int]:
        """How many planned runs are done, failed and missing."""
        keys = self.planned()
        done, failed = counted(self, keys)
        return done, failed, len(keys) - done - failed

    def note(self, keys: Iterable[RunKey]) -> None:
        """Enter runs into the catalogue, if the study has one."""
        if self.sharded:
            note(self, keys)

    def trajectory(self, key: RunKey) -> "pd.DataFrame":
        """The run's trajectory, of the columns of `rsl_cli.train.trajectory.COLUMNS`.

        What runs of earlier versions did not record is NaN.

        Returns:
            A row for each sample, times ascending.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        frame = self.table(key, "trajectory")
        if frame is None:
            path = self.run_dir(key) / "trajectory.parquet"
            raise StoreError(f"cannot read {path}: No such file; {MENDED}")
        later = [name for name in LATER if name not in frame]
        return frame.assign(**dict.fromkeys(later, math.nan))

    def table(self, key: RunKey, name: str) -> "pd.DataFrame | None":
        """One of the run's tables by name, or None if the run has no such table.

        Returns:
            As the run's probe made it.

        Raises:
            StoreError: the table is damaged.
        """
        return run_files.read_table(self.run_dir(key), key, name)

    def state(self, key: RunKey) -> dict[str, np.ndarray]:
        """The run's final parameters by name.

        Returns:
            Arrays, of one replica.

        Raises:
            StoreError: there are none, or they are damaged.
        """
        return run_files.read_state(self.run_dir(key), key)

    def resume_file(self, key: RunKey) -> Path:
        """Where lies what the run goes on from."""
        return self.run_dir(key) / "resume.safetensors"

    def resume(self, key: RunKey) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
        """What the run goes on from, arrays and text, or None if there is nothing; what is not whole is set aside."""
        path = self.resume_file(key)
        try:
            return read_tensors(path) if path.exists() else None
        except StoreError as error:
            self.discard(path, error)
            return None

    def can_resume(self, key: RunKey) -> bool:
        """Whether there is something that the run goes on from."""
        return self.resume_file(key).is_file()

    def write_resume(self, key: RunKey, arrays: Mapping[str, np.ndarray], text: Mapping[str, str]) -> None:
        """Replace what the run goes on from."""
        write_tensors(self.resume_file(key), arrays, text)

    def write_run(
        self,
        key: RunKey,
        record: Record,
        tables: Mapping[str, "pd.DataFrame"],
        state: Mapping[str, np.ndarray],
        *,
        final: bool = True,
    ) -> None:
        """Write a finished run; hold the run's lease. See `rsl_cli.study.run_files.write_run`.

        Args:
            key: which run.
            record: what is read back by `record`.
            tables: by name; ``trajectory`` must be among them.
            state: final parameters by name.
            final: whether it goes no further, so that what it would go on from is removed.
        """
        run_files.write_run(self.run_dir(key), self.record(key), record, tables, state)
        if final:
            self.resume_file(key).unlink(missing_ok=True)

    def write_failure(self, key: RunKey, record: Record, error: str) -> None:
        """Write why a run failed; it counts as missing when the study is run again, or is what it was before."""
        folder = self.run_dir(key)
        write_atomic(folder / "error.txt", error.encode())
        if not self.is_done(key):
            write_json(folder / "record.json", record.plain())

    def failed_at(self, key: RunKey) -> float:
        """When the run last failed, by the clock that `now` reads; 0 for never."""
        return _time(self.run_dir(key) / "error.txt")

    def grid_count(self) -> int:
        """How many times the study was asked for something."""
        return 1 + len(self._growth())

    def saved_at(self, keys: Iterable[RunKey]) -> float:
        """When any of these runs last saved what it goes on from, by the file system's clock; 0 for never."""
        return max((_time(self.resume_file(key)) for key in keys), default=0.0)

    def now(self) -> float:
        """The time by the clock of the file system that the study lies on: that of its files' times."""
        return lease_files.now(self.root)

    @property
    def pilot_dir(self) -> Path:
        """Where lies what a cluster writes of its tasks."""
        return self.root / "pilots"

    @property
    def pilot_name(self) -> str:
        """What a cluster calls the study's tasks: a name of this folder's alone."""
        return f"rsl-{self.name}-{digest(os.fsencode(self.absolute))[:8]}"

    @property
    def lease_dir(self) -> Path:
        """Where lies who trains what."""
        return self.root / "leases"

    @property
    def leases(self) -> Leases:
        """Who trains what."""
        return lease_files.FileLeases(self.lease_dir)

    def claim(self, keys: Iterable[RunKey], seconds: float = SECONDS) -> Claim:
        """Hold runs, those that no other process holds; see `rsl_cli.study.leases.Claim`.

        Returns:
            What is held, to be released by leaving it as a context.

        Raises:
            StoreError: the folder cannot be written.
        """
        try:
            return Claim(self.leases, [key.directory for key in keys], seconds)
        except OSError as error:
            raise StoreError(cannot_write(self.lease_dir, error)) from error


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
