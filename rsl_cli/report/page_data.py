"""What a page's figures and its table of runs are drawn from, thinned so that the page of any study opens.

Tables are columns and rows of plain JSON, numbers with a few digits: the page has room for what can be told apart.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsl_cli.report.checks import coordinate_slopes, spectra_of
from rsl_cli.report.diagnostics import DiagnosticTables, Rows
from rsl_cli.report.joint import clock_of, isochrone_grid, losses_at, params_of
from rsl_cli.report.population_plots import drift_kinds, quartiles
from rsl_cli.report.runs import Run, StudyRuns, Which
from rsl_cli.report.tangent import flow_curves, inside_shares, kappa_at_start, telling_epsilon
from rsl_cli.report.verdict import learning_numbers, success_by_epsilon
from rsl_cli.report.words import figure_of, group_symbol
from rsl_cli.stats import quantile

Array = NDArray[np.float64]
Data = dict[str, dict[str, list[Any]]]
"""Name -> columns and rows."""

MOST_DRAWN = 600
"""Runs that are drawn one by one; of more, the first seeds of each lift."""
MOST_LISTED = 5000
"""Runs that the table lists."""
_MOST_POINTS = 18_000
_DIGITS = 4


def page_data(runs: StudyRuns, diagnostics: DiagnosticTables, delta: float) -> Data:
    """Return the tables of a page.

    Args:
        runs: the study.
        diagnostics: what was measured on its networks.
        delta: accepted probability of missing a target.

    Returns:
        Tables by name; those of nothing are left out, but for that of the runs.
    """
    drawn = first_seeds(runs.runs, MOST_DRAWN)
    found = {
        "runs": _runs(runs),
        "points": _points(runs, drawn),
        "lifts": _lifts(runs),
        "curves": _curves(runs, drawn),
        "isochrones": _isochrones(runs),
        "success": _success(runs),
        "learning": _learning(runs, delta),
        **_tangent(runs, drawn, diagnostics),
        "coverage": _coverage(diagnostics),
        "drift": _drift(diagnostics),
        "coordinates": _coordinates(diagnostics.coordinates),
        "ntk": _ntk(diagnostics.ntk),
    }
    return {name: table for name, table in found.items() if table["rows"] or name == "runs"}


def first_seeds(runs: Sequence[Run], most: int) -> list[Run]:
    """At most so many of the runs, the first seeds of every lift."""
    lifts = {run.key.lift for run in runs}
    if len(runs) <= most or not lifts:
        return list(runs)
    share, seen, kept = max(1, most // len(lifts)), dict.fromkeys(lifts, 0), []
    for run in runs:
        seen[run.key.lift] += 1
        if seen[run.key.lift] <= share:
            kept.append(run)
    return kept


def thinned(x: Array, most: int) -> NDArray[np.intp]:
    """Indices of at most so many of ascending positive values, evenly in the logarithm, with both ends."""
    if x.size <= most:
        return np.arange(x.size)
    wanted = np.geomspace(x[0], x[-1], most)
    return np.unique(np.clip(np.searchsorted(x, wanted), 0, x.size - 1))


def table_of(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> dict[str, list[Any]]:
    """Columns and rows, as a page holds them."""
    return {"columns": list(columns), "rows": [[_plain(cell) for cell in row] for row in rows]}


def named_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The same of rows that name their cells, all alike."""
    return table_of([*rows[0]] if rows else [], (row.values() for row in rows))


def column(data: Mapping[str, Mapping[str, list[Any]]], table: str, name: str) -> list[Any]:
    """The cells of one column; none where there is no such table or column."""
    found = data.get(table, {"columns": []})
    if name not in found["columns"]:
        return []
    i = found["columns"].index(name)
    return [row[i] for row in found["rows"]]


def _plain(value: Any) -> Any:
    """A cell with the digits that a reader can use; what is no number is null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value


def _runs(runs: StudyRuns) -> dict[str, list[Any]]:
    """The table of runs: every planned one."""
    records = {record.run_id: record for record in runs.records}
    rows = []
    for run in first_seeds(runs.runs, MOST_LISTED):
        record, limit = records.get(run.key.run_id), run.limit(runs.headline)
        told = {} if record is None else record.values()
        status = "diverged" if run.diverged else run.status
        known = status == "done"
        rows.append(
            {
                "run": run.name,
                "lift": run.key.lift,
                "seed": run.key.seed,
                "status": status,
                "params": run.params,
                "train": run.train_loss,
                "test": run.test_loss,
                "low": limit.low if known else None,
                "high": limit.high if known else None,
                "loss_std": told.get("loss_std"),
                "accuracy": run.accuracy,
                "time": run.flow_time,
                "steps": told.get("steps"),
                "grad_norm": told.get("grad_norm"),
                "distance": told.get("distance"),
                "stop": run.stop_reason,
                "seconds": run.wall_seconds,
                "id": run.key.run_id,
            }
        )
    return named_table(rows)


def _points(runs: StudyRuns, drawn: Sequence[Run]) -> dict[str, list[Any]]:
    """Final losses, one row per run; ``end`` says how a mark is to be read."""
    rows = []
    for run in drawn:
        if run.status == "done":
            end = "diverged" if run.diverged else "still falling" if run.under_trained else "at its limit"
            end = "stopped at its target" if run.stop_reason == "target" else end
            rows.append(
                {
                    "run": run.name,
                    "lift": run.key.lift,
                    "seed": run.key.seed,
                    "params": run.params,
                    "train": _positive(run.train_loss),
                    "test": _positive(run.test_loss),
                    "low": _positive(run.limit(runs.headline).low),
                    "end": end,
                }
            )
    return named_table(rows)


def _lifts(runs: StudyRuns) -> dict[str, list[Any]]:
    """Medians and quartiles of all finished runs by lift, and where the limits lie."""
    names = ("train", "test")
    ends = [f"{name}{end}" for name in names for end in ("", "_q1", "_q3")]
    rows = []
    for lift in runs.lifts:
        done = [run for run in runs.at(lift) if run.status == "done"]
        if done:
            limits = [run.limit(runs.headline) for run in done]
            low, high = (_positive(quantile([getattr(one, end) for one in limits], 0.5)) for end in ("low", "high"))
            losses = [cell for name in names for cell in quartiles_of([run.loss(name) for run in done])]
            rows.append([lift, params_of(runs, lift), *losses, low, high, low is None and high is not None])
    return table_of(["lift", "params", *ends, "low", "high", "open"], rows)


def _curves(runs: StudyRuns, drawn: Sequence[Run]) -> dict[str, list[Any]]:
    clock = clock_of(runs)
    most = max(12, min(60, _MOST_POINTS // max(1, len(drawn))))
    rows = []
    for run in drawn:
        frame = runs.trajectories.get(run.name)
        if run.status != "done" or frame is None or not {clock, "loss"} <= frame.keys():
            continue
        at, train = frame[clock], frame["loss"]
        test = frame.get("test_loss", np.full(at.size, np.nan))
        kept = np.isfinite(at) & (at > 0)
        at, train, test = at[kept], train[kept], test[kept]
        rows += [
            [run.name, run.key.lift, run.key.seed, at[i], _positive(train[i]), _positive(test[i])]
            for i in (thinned(at, most) if at.size else [])
        ]
    return table_of(["run", "lift", "seed", "t", "train", "test"], rows)


def _isochrones(runs: StudyRuns) -> dict[str, list[Any]]:
    """Medians and quartiles over seeds on a grid of times; ``k`` counts them, decades and the end are ``whole``."""
    views: tuple[Which, ...] = ("train", "test") if runs.headline == "test" else ("train",)
    column, times = isochrone_grid(runs)
    mark, rows = "t" if column == "time" else "step", []
    for k, at in enumerate(times):
        found = {view: losses_at(runs, column, at, view) for view in views}
        for lift in runs.lifts:
            cells = {view: found[view].get(lift, np.array([])) for view in views}
            if any(cell.size for cell in cells.values()):
                losses = [cell for view in views for cell in quartiles_of(cells[view])]
                seeds, name = len(next(iter(cells.values()))), f"{mark} = {figure_of(float(f'{at:.2g}'))}"
                whole = round(math.log10(at), 6).is_integer() or k == len(times) - 1
                rows.append([k, at, name, whole, lift, params_of(runs, lift), seeds, *losses])
    ends = [f"{view}{end}" for view in views for end in ("", "_q1", "_q3")]
    return table_of(["k", "t", "label", "whole", "lift", "params", "seeds", *ends], rows)


def _success(runs: StudyRuns) -> dict[str, list[Any]]:
    rows = [
        [
            *(float(key), figure_of(float(key)), lift, share.successes, share.runs),
            *(share.successes / share.runs, share.low, share.high),
        ]
        for key, row in success_by_epsilon(runs).items()
        for lift, share in row.items()
    ]
    return table_of(["eps", "target", "lift", "successes", "seeds", "share", "low", "high"], rows)


def _learning(runs: StudyRuns, delta: float) -> dict[str, list[Any]]:
    rows = [
        [eps, some, number.point, number.low, number.high]
        for eps, (some, number) in learning_numbers(runs, delta).items()
    ]
    return table_of(["eps", "some", "point", "low", "high"], rows)


def _tangent(runs: StudyRuns, drawn: Sequence[Run], diagnostics: DiagnosticTables) -> Data:
    kappa = [
        [eps, figure_of(eps), lift, *quartiles_of(values), int(np.isinf(values).sum()), values.size]
        for eps, row in kappa_at_start(diagnostics.tangent).items()
        for lift, values in row.items()
    ]
    names, flow = {run.name: run for run in drawn}, []
    for curve in flow_curves(runs, runs.trajectories, diagnostics.tangent):
        if curve.run in names:
            rows = zip(curve.time, curve.loss, curve.loss_bound, curve.distance, curve.length_bound, strict=True)
            kept = set(thinned(curve.time, 30).tolist())
            start = [curve.run, curve.lift, names[curve.run].key.seed]
            flow += [[*start, *map(_positive, row)] for i, row in enumerate(rows) if i in kept]
    shares, inside = inside_shares(diagnostics.tangent), []
    if shares:
        for level, row in shares[telling_epsilon(shares)].items():
            name = "any finite κ" if math.isinf(level) else f"κ ≤ {figure_of(level)}"
            inside += [
                [name, lift, found.seeds.successes / found.seeds.runs, found.seeds.low, found.seeds.high, found.probes]
                for lift, found in row.items()
            ]
    return {
        "kappa": table_of(["eps", "target", "lift", "kappa", "q1", "q3", "infinite", "seeds"], kappa),
        "flow": table_of(["run", "lift", "seed", "t", "loss", "bound", "distance", "length"], flow),
        "inside": table_of(["level", "lift", "share", "low", "high", "probes"], inside),
    }


def _coverage(diagnostics: DiagnosticTables) -> dict[str, list[Any]]:
    if not len(diagnostics.coverage):
        return table_of([], [])
    rows = [
        [vertex, f"{eta:g}", lift, quantile(group["covering"], 0.5) or None, quantile(group["share"], 0.5)]
        for vertex, part in diagnostics.coverage.by("vertex").items()
        for eta, series in part.by("eta").items()
        for lift, group in series.by("lift").items()
    ]
    return table_of(["vertex", "eta", "lift", "covering", "share"], rows)


def _drift(diagnostics: DiagnosticTables) -> dict[str, list[Any]]:
    rows = []
    for names, column, label in drift_kinds(diagnostics.drift):
        groups = diagnostics.drift.by("group")
        for name in names:
            for lift, low, middle, high in quartiles(groups[name], column):
                rows.append([group_symbol(name), label, int(lift), *map(_positive, (low, middle, high))])
    return table_of(["group", "measure", "lift", "low", "median", "high"], rows)


def _coordinates(coordinates: Rows) -> dict[str, list[Any]]:
    told = {(one.vertex, one.measure): f"n^{one.exponent:.2f}, {one.says}" for one in coordinate_slopes(coordinates)}
    rows = (
        [
            [vertex, measure, lift, told.get((vertex, measure), ""), *quartiles_of(group[measure])]
            for measure, step in (("size", 0.0), ("change", max(coordinates["step"], default=0.0)))
            for vertex, part in coordinates.where(coordinates["step"] == step).by("vertex").items()
            for lift, group in part.by("lift").items()
        ]
        if len(coordinates)
        else []
    )
    return table_of(["vertex", "measure", "lift", "slope", "median", "low", "high"], rows)


def _ntk(ntk: Rows) -> dict[str, list[Any]]:
    rows = [
        [lift, end, rank, *quartiles_of(group["eigenvalue"]), quantile(group["target"], 0.5)]
        for end, part in spectra_of(ntk).items()
        for lift, series in part.by("lift").items()
        for rank, group in series.by("rank").items()
    ]
    return table_of(["lift", "end", "rank", "eigenvalue", "low", "high", "target"], rows)


def quartiles_of(values: Sequence[float] | Array) -> list[float | None]:
    """Median, lower and upper quartile; null where there is none above zero, as on a logarithmic axis."""
    known = [float(value) for value in values if not math.isnan(value)]
    return [_positive(quantile(known, q)) if known else None for q in (0.5, 0.25, 0.75)]


def _positive(value: Any) -> float | None:
    return float(value) if 0 < value < math.inf else None


def ranges(data: Mapping[str, Mapping[str, list[Any]]], *fields: tuple[str, str]) -> list[float]:
    """All positive numbers in some columns of some tables."""
    cells = (cell for table, name in fields for cell in column(data, table, name))
    return [cell for cell in cells if cell is not None and cell > 0]
