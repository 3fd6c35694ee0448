"""Whether a study's files are what was written: what is damaged, missing or foreign, by name.

A damaged run is set aside, so that it counts as missing and the same `rsl run` line trains it anew; so is a damaged
report, or what a run would go on from. Nothing is deleted.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from rsl_cli.errors import StoreError
from rsl_cli.study.files import read_json, read_tensors
from rsl_cli.study.integrity import is_sealed
from rsl_cli.study.store import RunKey, StudyStore

_RUN_FILES = {"record.json", "state.safetensors", "resume.safetensors", "error.txt"}
_FOLDERS = {"runs", "checkpoints", "locks", "report", "damaged"}


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
    """Read every file of a study and compare it with its digest; set aside what does not fit.

    A run that another process holds is left alone: it is being written.

    Raises:
        StoreError: ``study.json`` cannot be read; without it nothing can be told.
    """
    damaged: list[str] = []
    runs = unsealed = 0
    planned = store.planned()
    for key in planned:
        with store.run_lock(key, blocking=False) as held:
            fault = _run_fault(store, key) if held else None
            if fault:
                damaged.append(f"{fault}; set aside: {store.set_aside(store.run_dir(key))}")
                continue
            resume = store.resume_file(key)
            try:
                if held and resume.exists():
                    read_tensors(resume)
            except StoreError as error:
                damaged.append(f"{str(error).partition(';')[0].removeprefix('cannot read ')}; {_aside(store, resume)}")
        path = store.run_dir(key) / "record.json"
        if path.is_file():
            runs += 1
            unsealed += not is_sealed(path.read_bytes())
    verdict = store.report_dir / "verdict.json"
    try:
        if verdict.exists():
            read_json(verdict)
    except StoreError as error:
        damaged.append(f"{str(error).partition(';')[0].removeprefix('cannot read ')}; {_aside(store, verdict)}")
    return Findings(tuple(damaged), tuple(_foreign(store, planned)), runs, unsealed)


def faults(store: StudyStore) -> list[str]:
    """A line for each run whose files are not what was written, so that a report says what it leaves out."""
    found = (store.fault(key, thorough=True) for key in store.planned())
    return [f"{fault}; not reported; `rsl verify {store.root}` sets the run aside" for fault in found if fault]


def _aside(store: StudyStore, path: Path) -> str:
    return f"set aside: {store.set_aside(path)}"


def _run_fault(store: StudyStore, key: RunKey) -> str | None:
    folder = store.run_dir(key)
    if folder.exists() and not folder.is_dir():
        return f"{folder}: not a folder"
    return store.fault(key, thorough=True)


def _foreign(store: StudyStore, planned: list[RunKey]) -> list[Path]:
    names = {key.directory for key in planned}
    found = [path for path in store.root.iterdir() if path.name not in _FOLDERS | {"study.json"}]
    for folder in (store.root / "runs").glob("*"):
        if folder.name not in names:
            found.append(folder)
        elif folder.is_dir():
            # A number at the end: of a run that was being carried further.
            names_there = {path: re.sub(r"\.\d+$", "", path.name) for path in folder.iterdir()}
            found += [
                path for path, name in names_there.items() if name not in _RUN_FILES and not name.endswith(".parquet")
            ]
    return sorted(found)
