"""Figures of copies and weights as populations: covering copies of a witness, and how far training moved a law."""

import math
from collections.abc import Sequence

import numpy as np

from rsl_cli.report import canvas
from rsl_cli.report.canvas import DASHES, GREY, SERIES, WIDE
from rsl_cli.report.diagnostics import Rows
from rsl_cli.report.runs import StudyRuns
from rsl_cli.report.words import group_symbol
from rsl_cli.stats import quantile


def coverage(figure: "canvas.Figure", title: str, runs: StudyRuns, rows: Rows) -> None:
    """Draw the copies that cover each vertex of a witness."""
    panels = figure.subplots(1, 2)
    figure.suptitle(title, x=0.01, ha="left")
    etas = list(rows.by("eta"))
    for panel, column, label in zip(
        panels,
        ("covering", "share"),
        ("covering copies, median over seeds", "share of copies, median over seeds"),
        strict=True,
    ):
        canvas.lift_axis(panel, runs.lifts)
        bottom, _ = canvas.loss_axis(panel, _medians(rows, column), label)
        for i, (vertex, part) in enumerate(rows.by("vertex").items()):
            colour, marker = SERIES[i % len(SERIES)]
            for eta, series in part.by("eta").items():
                lifts, medians = _series(series, column)
                drawn = np.where(medians > 0, medians, math.nan)
                panel.plot(
                    *(lifts, drawn),
                    color=colour,
                    marker=marker,
                    linestyle=DASHES[etas.index(eta) % len(DASHES)],
                    label=f"{canvas.plain(vertex)}, η = {eta:g}",
                )
                none = lifts[medians == 0] * 2 ** (0.12 * i)
                panel.scatter(none, np.full(none.size, bottom), marker="v", s=34, color=colour, zorder=4)
    _proportional(panels[0], runs.lifts, rows)
    if 0.0 in _medians(rows, "covering"):
        panels[0].scatter([], [], marker="v", s=34, color=GREY, label="median is 0")
    canvas.legend(figure, panels[0])


def _proportional(axes: "canvas.Axes", lifts: Sequence[int], coverage: Rows) -> None:
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
    kinds = [
        (moving, "wasserstein", "Wasserstein distance"),
        (fixed, "ks", "Kolmogorov-Smirnov (all equal at the start)"),
    ]
    kinds = [
        ([name for name in names if quartiles(groups[name], column)], column, label) for names, column, label in kinds
    ]
    return [kind for kind in kinds if kind[0]]


def drift(figure: "canvas.Figure", title: str, runs: StudyRuns, rows: Rows) -> None:
    """Draw a line for each group of weights, however many there are, and on it a mark for each lift."""
    kinds, groups, colours = drift_kinds(rows), rows.by("group"), canvas.lift_colours(runs.lifts)
    heights = [len(names) + 1 for names, _, _ in kinds]
    figure.set_size_inches(WIDE[0], 1.9 + 0.3 * max(5, sum(heights) - len(kinds)))
    panels = figure.subplots(len(kinds), 1, squeeze=False, height_ratios=heights)[:, 0]
    figure.suptitle(title, x=0.01, ha="left")
    for panel, (names, column, label) in zip(panels, kinds, strict=True):
        values = np.concatenate([groups[name][column] for name in names])
        canvas.log_axis(panel, values[np.isfinite(values)], label)
        left = panel.get_xlim()[0]
        panel.set_ylim(len(names) - 0.4, -0.6)
        panel.set_yticks(range(len(names)), [group_symbol(canvas.plain(name), tex=True) for name in names])
        for line, name in enumerate(names):
            for lift, low, middle, high in quartiles(groups[name], column):
                colour = colours[int(lift)]
                panel.hlines(line, max(low, left), max(high, left), color=colour, linewidth=2.2, alpha=0.45)
                sign = "o" if middle > 0 else "<"
                panel.plot(max(middle, left), line, marker=sign, color=colour, markersize=6, linestyle="none", zorder=4)
    canvas.lift_bar(figure, list(panels), runs.lifts)


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
