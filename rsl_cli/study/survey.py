"""What a study's runs say: by its catalogue where their files are unchanged, by the files where they are not.

The cheap look compares size and time of last change of a run's files with what they were when they were noted; a file
that passes it and yet is damaged (its change has to have gone past the operating system) is for `rsl verify` to find.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsl_cli.garbage import unswept
from rsl_cli.study.catalogue import Kind
from rsl_cli.study.files import read_parquet
from rsl_cli.study.integrity import DamageError, digest
from rsl_cli.study.record import FIELDS, Record, RunKey, Written
from rsl_cli.train.trajectory import COLUMNS, LATER

if TYPE_CHECKING:
    import pyarrow

    from rsl_cli.study.store import StudyStore

CLOSELY = 20_000
"""Up to so many runs even a listing looks at every file; of more it looks at the records alone."""
_TICK = 20_000_000
"""Nanoseconds within which two changes of a file may bear one time."""

Sampled = Mapping[str, np.ndarray]
"""Columns of one run's trajectory, each (samples,)."""


@dataclass
class Survey:
    """What was found of the runs looked for.

    Args:
        records: by run; those that have none, or a faulty one, are left out.
        faults: a line for each run whose files are not what was written.
        unnoted: those of the records that the catalogue does not know as they are.
    """

    records: dict[RunKey, Record] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    unnoted: list[RunKey] = field(default_factory=list)


@unswept()
def survey(store: "StudyStore", keys: Iterable[RunKey], *, thoroughly: bool = False) -> Survey:
    """Find the records of runs.

    Args:
        store: their study.
        keys: which runs.
        thoroughly: compare the digests of all files that the catalogue does not know as they are, as a report does.

    Returns:
        Records by run, and what is wrong with files.
    """
    keys, found = list(keys), Survey()
    closely = thoroughly or len(keys) <= CLOSELY
    rows = _Rows.read(store, ["record_bytes", "changed", "others", *FIELDS])
    for key in keys:
        name = key.directory
        folder, row = store.place_of(name), rows.of.get(name)
        record = None
        if row is not None and rows.fits(row, folder, closely):
            record = rows.record(row)
        if record is None:
            fault = store.fault(key, thorough=thoroughly)
            record = None if fault else store.record(key)
            if fault:
                found.faults.append(f"{fault}; counts as missing; `rsl verify {store.address}` sets the run aside")
            elif record is not None:
                found.unnoted.append(key)
            elif row is not None:
                found.faults.append(f"{folder}: missing, but was recorded; the same `rsl run` line trains it anew")
        if record is not None:
            found.records[key] = record
    return found


@unswept()
def counted(store: "StudyStore", keys: list[RunKey]) -> tuple[int, int]:
    """How many runs are done, and how many failed."""
    if len(keys) <= CLOSELY:
        states = [record.status for record in survey(store, keys).records.values()]
        return states.count("done"), states.count("failed")
    rows, counts = _Rows.read(store, ["record_bytes", "changed", "status"]), {"done": 0, "failed": 0}
    for key in keys:
        name = key.directory
        row = rows.of.get(name)
        if row is not None and rows.fits(row, store.place_of(name), False):
            counts[rows.columns["status"][row]] += 1
        elif record := store.record(key):
            counts[record.status] += 1
    return counts["done"], counts["failed"]


def note(store: "StudyStore", keys: Iterable[RunKey], *, anew: bool = False) -> None:
    """Write rows of the catalogue for runs that have a record.

    Args:
        store: their study.
        keys: which runs.
        anew: instead of all the rows there are.

    Raises:
        StoreError: the folder cannot be written.
    """
    import pyarrow as pa

    rows, curves = [], []
    for key in keys:
        record = store.record(key)
        noted = _noted(store.files_of(key, record)) if record else None
        if record is None or noted is None:
            continue
        sizes = {name: (file.bytes, file.sha256) for name, file in record.files.items()}
        values = record.values() | {"continued": record.continued, "files": json.dumps(sizes)}
        rows.append({"run": key.directory, **noted, **values})
        due, curve = record.files.get("trajectory.parquet"), _trajectory(store, key, record) if record.done else None
        if due is not None and curve is not None and len(curve) == len(COLUMNS):
            curves.append({"run": key.directory, "sha256": due.sha256, **curve})
    tables: tuple[tuple[Kind, list[dict[str, Any]], pa.Schema], ...]
    tables = ("records", rows, _record_schema()), ("paths", curves, _curve_schema())
    for kind, content, schema in tables:
        old = store.catalogue.shards(kind) if anew else []
        if content or old:
            columns = [pa.array([row[one.name] for row in content], one.type) for one in schema]
            store.catalogue.replace(kind, pa.table(columns, schema=schema), old)
            store.catalogue.tidy(kind)


def known(store: "StudyStore") -> set[str]:
    """The folders of the runs that the catalogue knows."""
    return set(_Rows.read(store, []).of)


@unswept()
def curves(store: "StudyStore", records: Mapping[RunKey, Record]) -> dict[RunKey, Sampled]:
    """The trajectories of runs: from the catalogue where the record says that they are those, from their files else."""
    table, found = store.catalogue.read("paths"), {}
    of: dict[str, int] = {}
    digests: list[str] = []
    flat: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if table is not None:
        table = table.combine_chunks()
        of = {name: row for row, name in enumerate(table["run"].to_pylist())}
        digests = table["sha256"].to_pylist()
        for name in COLUMNS:
            if name not in table.column_names:
                continue  # A catalogue from before it was recorded.
            column = table[name].chunk(0) if table.num_rows else None
            if column is not None:
                flat[name] = (column.offsets.to_numpy(), column.values.to_numpy(zero_copy_only=False))
    for key, record in records.items():
        row, due = of.get(key.directory), record.files.get("trajectory.parquet")
        if row is not None and due is not None and digests[row] == due.sha256:
            found[key] = {name: values[at[row] : at[row + 1]] for name, (at, values) in flat.items()}
        elif (frame := _trajectory(store, key, record)) is not None:
            found[key] = frame
    return found


class _Rows:
    """Rows of the catalogue, as lists by column."""

    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        self.columns, self.of = columns, {name: row for row, name in enumerate(columns.get("run", []))}

    @classmethod
    def read(cls, store: "StudyStore", columns: list[str]) -> "_Rows":
        table = store.catalogue.read("records", ["run", *columns])
        if table is None or not {*columns} <= {*table.column_names}:
            return cls({})  # Of before a record had some field: the runs themselves are read.
        return cls({name: table[name].to_pylist() for name in table.column_names})

    def fits(self, row: int, folder: str, closely: bool) -> bool:
        """Whether a run's files are what they were when the row was written."""
        try:
            if _state(f"{folder}/record.json") != (self.columns["record_bytes"][row], self.columns["changed"][row]):
                return False
            others = json.loads(self.columns["others"][row]) if closely else {}
            return all(_state(f"{folder}/{name}") == tuple(due) for name, due in others.items())
        except OSError:
            return False

    def record(self, row: int) -> Record:
        # Its fields one by one, as a frozen class sets them, take five times as long.
        record = object.__new__(Record)
        fields = vars(record)
        fields.update(zip(FIELDS, self._tuples[row], strict=True))
        fields["files"] = {name: Written(*due) for name, due in self._files[row].items()}
        return record

    @cached_property
    def _files(self) -> list[dict[str, tuple[int, str]]]:
        return json.loads(f"[{','.join(self.columns['files'])}]")

    @cached_property
    def _tuples(self) -> list[tuple[Any, ...]]:
        return list(zip(*(self.columns[name] for name in FIELDS), strict=True))


def _state(path: str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 - making a Path takes as long
    # A file's content cannot change without one of the two; where the second is the time of its making, the first does.
    return found.st_size, max(found.st_mtime_ns, found.st_ctime_ns)


def _trajectory(store: "StudyStore", key: RunKey, record: Record) -> Sampled | None:
    try:
        content = store.content(key, "trajectory.parquet", record)
        if content is None:
            return None
        table = read_parquet(content)
    except (DamageError, OSError, ValueError):
        # Without a tail a loss bounds its limit from above only; the file's damage is for `rsl verify` to tell.
        return None
    found = {name: table[name].to_numpy().astype(np.float64) for name in COLUMNS if name in table.column_names}
    later = {name: np.full(table.num_rows, np.nan) for name in LATER if name not in found}
    return {**found, **later}


def _noted(files: Mapping[str, Path]) -> dict[str, Any] | None:
    """What a run's files are, by name; None if they are being changed."""
    try:
        states = {name: _state(str(path)) for name, path in files.items()}
        if time.time_ns() - max(changed for _, changed in states.values()) < _TICK:
            time.sleep(_TICK / 1e9)  # Two changes at one time could not be told apart.
            states = {name: _state(str(path)) for name, path in files.items()}
        own = digest(files["record.json"].read_bytes())
    except OSError:
        return None
    size, changed = states.pop("record.json")
    return {"record_bytes": size, "changed": changed, "record_sha256": own, "others": json.dumps(states)}


def _record_schema() -> "pyarrow.Schema":
    import pyarrow as pa

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), dict: pa.string()}
    own = {"run": str, "record_bytes": int, "changed": int, "record_sha256": str, "others": str}
    return pa.schema([(name, kinds[kind]) for name, kind in {**own, **FIELDS}.items()])


def _curve_schema() -> "pyarrow.Schema":
    import pyarrow as pa

    columns = [(name, pa.list_(pa.float64())) for name in COLUMNS]
    return pa.schema([("run", pa.string()), ("sha256", pa.string()), *columns])
