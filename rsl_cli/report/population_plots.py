"""Figures of copies and weights as populations: covering copies of a witness, and how far training moved a law."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rsl_cli.report import canvas
from rsl_cli.report.canvas import DASHES, GREY, SERIES, WIDE, Drawing
from rsl_cli.report.measures import Measures, Rows
from rsl_cli.report.runs import StudyRuns
from rsl_cli.stats import quantile


def population_drawings(runs: StudyRuns, measures: Measures) -> dict[str, Drawing]:
    """Return the figures of covering and of drift, each if it was measured.

    Args:
        runs: the study.
        measures: rows of all runs.
    """
    drawings: dict[str, Drawing] = {}
    if len(measures.coverage):
        drawings["coverage"] = (lambda figure: _coverage(figure, runs, measures.coverage), WIDE)
    kinds = drift_kinds(measures.drift)
    if kinds:
        drawings["drift"] = (lambda figure: _drift(figure, runs, measures.drift, kinds), WIDE)
    return drawings


def _coverage(figure: Figure, runs: StudyRuns, coverage: Rows) -> None:
    panels = figure.subplots(1, 2)
    figure.suptitle(
        f"{canvas.plain(runs.name)}: copies covering a witness",
        fontsize=canvas.STYLE["axes.titlesize"],
    )
    etas = list(coverage.by("eta"))
    for panel, column, label in zip(
        panels,
        ("covering", "share"),
        ("covering copies, median over seeds", "share of copies, median over seeds"),
        strict=True,
    ):
        canvas.lift_axis(panel, runs.lifts)
        bottom, _ = canvas.loss_axis(panel, _medians(coverage, column), label)
        for i, (vertex, rows) in enumerate(coverage.by("vertex").items()):
            colour, marker = SERIES[i % len(SERIES)]
            for eta, series in rows.by("eta").items():
                lifts, medians = _series(series, column)
                drawn = np.where(medians > 0, medians, math.nan)
                panel.plot(
                    *(lifts, drawn),
                    color=colour,
                    marker=marker,
                    linestyle=DASHES[etas.index(eta) % len(DASHES)],
                    label=f"{canvas.plain(vertex)}, eta = {eta:g}",
                )
                none = lifts[medians == 0] * 2 ** (0.12 * i)
                panel.scatter(none, np.full(none.size, bottom), marker="v", s=34, color=colour, zorder=4)
    _proportional(panels[0], runs.lifts, coverage)
    if 0.0 in _medians(coverage, "covering"):
        panels[0].scatter([], [], marker="v", s=34, color=GREY, label="median is 0")
    canvas.legend(figure, panels[0])


def _proportional(axes: Axes, lifts: Sequence[int], coverage: Rows) -> None:
    """A line of slope 1 through the geometric middle of what is drawn, as a ruler."""
    low, high = axes.get_ylim()
    counts = [value for value in _medians(coverage, "covering") if value > 0]
    if not counts:
        canvas.note(axes, "no copy covers the witness")
        return
    middle = math.exp(np.mean(np.log(counts)) - np.mean(np.log(lifts)))
    grid = np.array([min(lifts), max(lifts)], dtype=np.float64)
    axes.plot(grid, middle * grid, color=GREY, linestyle=(0, (1, 1)), linewidth=2, label="proportional to n", zorder=1)
    axes.set_ylim(low, high)


def _medians(rows: Rows, column: str) -> list[float]:
    return [
        value
        for part in rows.by("vertex").values()
        for series in part.by("eta").values()
        for value in _series(series, column)[1]
    ]


_Kind = tuple[list[str], str, str]
"""Groups, the column that is drawn of them, and what it is."""


def drift_kinds(drift: Rows) -> list[_Kind]:
    """What can be drawn: a group without weights, or whose weights diverged in all runs, has no distance."""
    # Where all weights start at one value there is no width to measure a distance in; the KS distance needs none.
    groups = drift.by("group") if len(drift) else {}
    fixed = [name for name, rows in groups.items() if not (rows["std_start"] > 0).all()]
    moving = [name for name in groups if name not in fixed]
    kinds = [(moving, "wasserstein", "Wasserstein distance"), (fixed, "ks", "KS distance (std 0 at the start)")]
    kinds = [
        ([name for name in names if quartiles(groups[name], column)], column, label) for names, column, label in kinds
    ]
    return [kind for kind in kinds if kind[0]]


def _drift(figure: Figure, runs: StudyRuns, drift: Rows, kinds: Sequence[_Kind]) -> None:
    groups = drift.by("group")
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    figure.suptitle(
        f"{canvas.plain(runs.name)}: drift of the weights",
        fontsize=canvas.STYLE["axes.titlesize"],
    )
    styles = {name: (*SERIES[i % len(SERIES)], DASHES[i % len(DASHES)]) for i, name in enumerate(groups)}
    for panel, (names, column, label) in zip(panels, kinds, strict=True):
        canvas.lift_axis(panel, runs.lifts)
        values = np.concatenate([groups[name][column] for name in names])
        bottom, _ = canvas.loss_axis(panel, values[np.isfinite(values)], label)
        for i, name in enumerate(names):
            colour, marker, dash = styles[name]
            lifts, low, middle, high = (np.array(part) for part in zip(*quartiles(groups[name], column), strict=True))
            places = lifts * 2 ** (0.06 * (i - (len(names) - 1) / 2))
            panel.plot(
                *(places, np.where(middle > 0, middle, math.nan)),
                color=colour,
                marker=marker,
                linestyle=dash,
                label=canvas.plain(name),
            )
            panel.vlines(places, np.maximum(low, bottom), high, color=colour, linewidth=2.2, alpha=0.45)
            panel.scatter(places[middle == 0], np.full((middle == 0).sum(), bottom), marker="v", s=34, color=colour)
    canvas.legend(figure, *panels)


def _series(rows: Rows, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Lifts and medians over seeds."""
    found = quartiles(rows, column)
    return np.array([lift for lift, *_ in found]), np.array([middle for _, _, middle, _ in found])


def quartiles(rows: Rows, column: str) -> list[tuple[float, float, float, float]]:
    """Per lift: the lift, lower quartile, median, upper quartile over seeds."""
    groups = {lift: group[column][np.isfinite(group[column])] for lift, group in rows.by("lift").items()}
    return [
        (float(lift), quantile(values, 0.25), quantile(values, 0.5), quantile(values, 0.75))
        for lift, values in groups.items()
        if values.size
    ]
