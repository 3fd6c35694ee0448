"""Whether a study's files are what was written: what is damaged, missing or foreign, by name.

A damaged run is set aside, so that it counts as missing and the same `rsl run` line trains it anew; so is a damaged
report, or what a run would go on from. Nothing is deleted. A study that may be read only is told about, and left as it
is.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsl_cli.errors import StoreError
from rsl_cli.study.files import read_json, read_tensors, write_json
from rsl_cli.study.integrity import digest, is_sealed
from rsl_cli.study.store import RunKey, StudyStore
from rsl_cli.study.survey import known, note

_RUN_FILES = {"record.json", "state.safetensors", "resume.safetensors", "error.txt"}
_DIGESTS = "digests.json"
_FOLDERS = {
    *("runs", "growth", "catalogue", "report", "damaged", "leases", "pilots"),
    *("checkpoints", "locks"),  # of earlier versions
}


@dataclass(frozen=True)
class Findings:
    """What was found in one study.

    Args:
        damaged: a line for each file or run that is not what was written, and where it was put.
        foreign: paths that no part of rsl writes there.
        runs: with a record.
        unsealed: of these, those written before records held digests; nothing could be compared.
    """

    damaged: tuple[str, ...]
    foreign: tuple[Path, ...]
    runs: int
    unsealed: int

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.damaged or self.foreign)

    def text(self, name: str) -> str:
        """A line for each finding, and one for the study of that name."""
        lines = [f"damaged {line}" for line in self.damaged] + [f"foreign {path}" for path in self.foreign]
        old = f", {self.unsealed} of them without digests, which were not compared" if self.unsealed else ""
        again = "; run the same `rsl run` line again to train what was set aside" if self.damaged else ""
        counts = f"{len(self.damaged)} damaged, {len(self.foreign)} foreign"
        return "\n".join([*lines, f"study {name}: {self.runs} runs{old}; {counts}{again}"])


def verify(store: StudyStore) -> Findings:
    """Read every file of a study and compare it with its digest; set aside what does not fit; catalogue it anew.

    A run that another process holds is left alone: it is being written.

    Returns:
        What was found, with where damaged files were put.

    Raises:
        StoreError: ``study.json`` cannot be read; without it nothing can be told.
    """
    store.fetch()
    damaged = [
        f"{path}: its content does not fit its name; {_aside(store, path)}" for path in store.catalogue.damaged()
    ]
    runs = unsealed = 0
    planned = store.planned()
    noted = known(store)
    for key in planned:
        found = _faults(store, key, noted)
        if found:
            # Unless it is being written: nobody else does once it is held here.
            with _held(store, key) as held:
                found = _faults(store, key, noted) if held else []
                damaged += [f"{fault}; {_aside(store, path)}" if path else fault for fault, path in found]
        path = store.run_dir(key) / "record.json"
        if path.is_file():
            runs += 1
            unsealed += not is_sealed(path.read_bytes())
    for path, fault in _report_faults(store.report_dir):
        there = f"; {_aside(store, path)}" if path.exists() else ""
        damaged.append(f"{path}: {fault}{there}; `rsl report {store.address}` writes it anew")
    if store.sharded:
        with suppress(StoreError):  # A copy of what is there, which may be read only.
            note(store, planned, anew=True)
    return Findings(tuple(damaged), tuple(_foreign(store, planned)), runs, unsealed)


def write_digests(folder: Path, names: Iterable[str]) -> None:
    """Keep what the files of a folder are, in one more file, so that `verify` can tell whether they are that still."""
    write_json(folder / _DIGESTS, {name: digest((folder / name).read_bytes()) for name in sorted(names)})


@contextmanager
def _held(store: StudyStore, key: RunKey) -> Iterator[bool]:
    """Whether nobody else writes a run meanwhile; nobody does where nothing can be written."""
    try:
        claim = store.claim([key])
    except StoreError:
        yield True
        return
    with claim:
        yield key.directory in claim


def _report_faults(folder: Path) -> Iterator[tuple[Path, str]]:
    due: dict[str, Any] = {}
    for path in (folder / _DIGESTS, folder / "verdict.json"):
        try:
            content = read_json(path) if path.exists() else {}
        except StoreError as error:
            yield path, str(error).partition(";")[0].removeprefix(f"cannot read {path}: ")
        else:
            due |= content if path.name == _DIGESTS else {}
    due.pop("verdict.json", None)  # It is sealed itself.
    for name, expected in due.items():
        file = folder / name
        if not file.is_file():
            yield file, "missing"
        elif digest(file.read_bytes()) != expected:
            yield file, "its content does not fit its digest"


def _aside(store: StudyStore, path: Path) -> str:
    try:
        return f"set aside: {store.set_aside(path)}"
    except StoreError as error:
        return f"left there, since it cannot be set aside: {error}"


def _faults(store: StudyStore, key: RunKey, noted: Collection[str]) -> list[tuple[str, Path | None]]:
    """What is wrong with a run, a line for each fault, and what to set aside for it."""
    if fault := _run_fault(store, key):
        return [(fault, store.run_dir(key))]
    found: list[tuple[str, Path | None]] = []
    if key.directory in noted and not (store.run_dir(key) / "record.json").exists():
        found.append((f"{store.run_dir(key)}: missing, but was recorded", None))
    resume = store.resume_file(key)
    try:
        if resume.exists():
            read_tensors(resume)
    except StoreError as error:
        found.append((str(error).partition(";")[0].removeprefix("cannot read "), resume))
    return found


def _run_fault(store: StudyStore, key: RunKey) -> str | None:
    folder = store.run_dir(key)
    if folder.exists() and not folder.is_dir():
        return f"{folder}: not a folder"
    return store.fault(key, thorough=True)


def _foreign(store: StudyStore, planned: list[RunKey]) -> list[Path]:
    owners = {store.run_dir(key): key for key in planned}
    shards = {folder.parent for folder in owners} - {store.root / "runs"}
    found = [path for path in store.root.iterdir() if path.name not in _FOLDERS | {"study.json"}]
    for path in [path for folder in (store.root / "runs", *shards) for path in folder.glob("*")]:
        if path not in owners and path not in shards:
            found.append(path)
        elif path in owners and path.is_dir():
            record = store.record(owners[path])
            # A record of before there were digests does not say what its tables are.
            files = set(record.files) if record and record.files else {one.name for one in path.glob("*.parquet")}
            # A number at the end: of a run that was being carried further.
            names = {one: re.sub(r"\.\d+$", "", one.name) for one in path.iterdir()}
            found += [one for one, name in names.items() if name not in files | _RUN_FILES]
    # What a process that was killed was about to put in place.
    return sorted(path for path in found if not re.fullmatch(r"\..+\.[a-z0-9_]{8}\.tmp", path.name))
