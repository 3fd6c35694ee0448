"""Figures of the coordinate check and of the tangent kernel's spectra."""

import numpy as np

from rsl_cli.report import canvas
from rsl_cli.report.canvas import DASHES, GREY, SERIES
from rsl_cli.report.checks import coordinate_slopes, spectra_of
from rsl_cli.report.diagnostics import Rows
from rsl_cli.report.runs import StudyRuns
from rsl_cli.stats import quantile


def series(rows: Rows, place: str, value: str) -> list[tuple[float, float]]:
    """Per value of a column, ascending, the median of another over what else there is; those above 0."""
    found = [(float(at), quantile(part[value], 0.5)) for at, part in rows.by(place).items()]
    return [(at, middle) for at, middle in found if middle > 0]


def coordinates(figure: "canvas.Figure", title: str, runs: StudyRuns, rows: Rows) -> None:
    """Draw the sizes of the sums at each vertex, and of their change."""
    panels = figure.subplots(1, 2)
    figure.suptitle(title, x=0.01, ha="left")
    last = rows["step"].max()
    slopes = {(slope.vertex, slope.measure): slope for slope in coordinate_slopes(rows)}
    words = {"size": "size at the start", "change": f"change after {last:.0f} steps"}
    for panel, (measure, step) in zip(panels, (("size", 0.0), ("change", last)), strict=True):
        canvas.lift_axis(panel, runs.lifts)
        chosen = rows.where(rows["step"] == step)
        canvas.loss_axis(panel, chosen[measure], f"root mean square {words[measure]}")
        for i, (vertex, part) in enumerate(chosen.by("vertex").items()):
            colour, marker = SERIES[i % len(SERIES)]
            points = series(part, "lift", measure)
            slope = slopes.get((vertex, measure))
            told = "" if slope is None else f": n$^{{{slope.exponent:.2f}}}$, {slope.says}"
            told = told if points else ": 0"
            lifts, values = [at for at, _ in points], [value for _, value in points]
            panel.plot(lifts, values, color=colour, marker=marker, label=f"{canvas.plain(vertex)}{told}")
        panel.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none")


def ntk(figure: "canvas.Figure", title: str, runs: StudyRuns, rows: Rows) -> None:
    """Draw the spectra of the tangent kernel, and its alignment with the targets."""
    spectra, beside = figure.subplots(1, 2)
    figure.suptitle(title, x=0.01, ha="left")
    colours = canvas.lift_colours(runs.lifts)
    # What float64 rounds away is no eigenvalue.
    least = 1e-16 * rows["eigenvalue"].max()
    shown = rows["eigenvalue"][rows["eigenvalue"] > least]
    canvas.log_axis(spectra, rows["rank"], "rank")
    canvas.loss_axis(spectra, shown, "eigenvalue of the tangent kernel")
    canvas.log_axis(beside, rows["loss"], "half the mean squared error, as training goes on")
    canvas.loss_axis(beside, rows["alignment"], "alignment with the targets")
    beside.invert_xaxis()
    for lift, part in rows.by("lift").items():
        for run in part.by("run").values():
            first = run.where(run["rank"] == 1)
            order = np.argsort(first["step"])
            beside.plot(
                *(first["loss"][order], first["alignment"][order]), color=colours[int(lift)], marker=".", alpha=0.7
            )
    for dash, (name, chosen) in zip(DASHES[1::-1], spectra_of(rows).items(), strict=False):
        for lift, part in chosen.by("lift").items():
            points = np.array([pair for pair in series(part, "rank", "eigenvalue") if pair[1] > least]).reshape(-1, 2)
            spectra.plot(*points.T, color=colours[int(lift)], linestyle=dash, marker=".")
        spectra.plot([], [], color=GREY, linestyle=dash, label=name)
    spectra.legend(loc="lower left")
    canvas.lift_bar(figure, [spectra, beside], runs.lifts)
