"""What was measured on the networks of a study: the rows of one kind of table, over all finished runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsl_cli.errors import StoreError
from rsl_cli.report.runs import StudyRuns
from rsl_cli.study.store import StudyStore

TEXT = ("place", "vertex", "group", "vertex", "place")
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "tangent": ("probe", "time", "step", "distance", "loss", "grad_norm", "epsilon", "kappa"),
    "coverage": ("eta", "copies", "covering", "share", "least", "witness_copies"),
    "drift": ("count", "std_start", "std_end", "ks", "wasserstein", "moved", "occupied", "expected_occupied"),
    "coordinates": ("step", "size", "change"),
    "ntk": ("time", "step", "loss", "trace", "effective_rank", "alignment", "rank", "eigenvalue", "target"),
}
"""The tables of a run that a report reads, and their columns besides the first, which is one of `TEXT`."""


@dataclass(frozen=True)
class Rows:
    """Rows of equal tables as one array per column, all of shape (rows,)."""

    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The column of that name."""
        return self.columns[name]

    def where(self, chosen: ArrayLike) -> "Rows":
        """The rows at which the mask, shape (rows,), is true."""
        mask = np.asarray(chosen, dtype=bool)
        return Rows({name: column[mask] for name, column in self.columns.items()})

    def by(self, name: str) -> dict[Any, "Rows"]:
        """The rows parted by the values of a column: numbers ascending, texts as they come; a NaN is no value."""
        values = self.columns[name]
        found = [value for value in dict.fromkeys(values.tolist()) if value == value]
        return {value: self.where(values == value) for value in (sorted(found) if values.dtype.kind in "if" else found)}


@dataclass(frozen=True)
class DiagnosticTables:
    """Rows of all finished runs; none where no run has the table.

    Columns are those of the table and ``run`` (its name), ``lift`` and ``seed``. ``unreadable`` names the tables
    that are damaged or lack a column, as ``n00064-s003 tangent``.
    """

    tangent: Rows = Rows()
    coverage: Rows = Rows()
    drift: Rows = Rows()
    coordinates: Rows = Rows()
    ntk: Rows = Rows()
    unreadable: tuple[str, ...] = ()


NOTHING = DiagnosticTables()
"""Of a study whose networks were not measured."""


def read_diagnostics(store: StudyStore, runs: StudyRuns) -> DiagnosticTables:
    """Read the tables of the runs that are shown; those that cannot be read are named, not raised.

    Args:
        store: the study.
        runs: its runs.

    Returns:
        Rows by table, empty where nothing was measured, and the faults found.
    """
    found: dict[str, Rows] = {}
    unreadable: list[str] = []
    files = {(record.lift, record.seed): record.files for record in runs.records}
    for (name, numbers), text in zip(NUMBERS.items(), TEXT, strict=True):
        parts: dict[str, list[NDArray[Any]]] = {}
        for run in runs.shown:
            named = files.get((run.key.lift, run.key.seed))
            if named and f"{name}.parquet" not in named:
                continue
            try:
                table = store.table(run.key, name)
                if table is None:
                    continue
                columns = {text: np.asarray(table[text], dtype=str)}
                columns |= {number: np.asarray(table[number], dtype=np.float64) for number in numbers}
            except (StoreError, KeyError, ValueError, TypeError):
                unreadable.append(f"{run.name} {name}")
                continue
            columns |= {
                "run": np.full(len(table), run.name),
                "lift": np.full(len(table), run.key.lift),
                "seed": np.full(len(table), run.key.seed),
            }
            for column, values in columns.items():
                parts.setdefault(column, []).append(values)
        found[name] = Rows({column: np.concatenate(values) for column, values in parts.items()})
    return DiagnosticTables(**found, unreadable=tuple(unreadable))
