"""The first figure of a report: the loss against P at several times, and the band in which the limits lie.

One sees what the clock does and what the lift does: curves of one time each, sinking as time goes on, above the limits'
own curve, which is known where runs have shown their limits and open below where the clock stopped them.
"""

import math
from collections.abc import Mapping

import numpy as np

from rsl_cli.report import canvas
from rsl_cli.report.canvas import GREEN
from rsl_cli.report.joint import isochrone_times, losses_at, params_of
from rsl_cli.report.runs import LOSS_NAMES, StudyRuns
from rsl_cli.report.words import figure_of
from rsl_cli.stats import quantile


def isochrones(figure: "canvas.Figure", runs: StudyRuns, headline: str) -> None:
    """Draw the figure; ``headline`` is its title."""
    from matplotlib import colormaps

    axes = figure.add_subplot()
    column, times = isochrone_times(runs)
    curves = {at: losses_at(runs, column, at) for at in times}
    limits = {lift: band for lift in runs.lifts if (band := _band(runs, lift)) is not None}
    values = [value for row in curves.values() for losses in row.values() for value in losses]
    values += [low for low, _ in limits.values() if low > 0]
    bottom, _ = canvas.loss_axis(axes, values, f"{LOSS_NAMES[runs.headline]} loss ({canvas.plain(runs.loss_unit)})")
    canvas.params_axis(axes, [run.params for run in runs.done], runs.limit)
    canvas.shade_dense(axes, runs.sparse_params)
    figure.suptitle(canvas.wrapped(headline, 88), x=0.01, ha="left")
    if not values:
        canvas.note(axes, "no run has a trajectory")
        return
    params = {lift: params_of(runs, lift) for lift in runs.lifts}
    _draw_limits(axes, params, limits, bottom)
    colours = colormaps["plasma"](np.linspace(0.75, 0.0, len(times)))
    for (at, row), colour in zip(curves.items(), colours, strict=True):
        if not row:
            continue
        lifts = list(row)
        x = [params[lift] for lift in lifts]
        middle = [quantile(row[lift], 0.5) for lift in lifts]
        axes.plot(x, middle, color=colour, marker="o", markersize=3.5, label=_label(column, at), zorder=4)
        places = np.repeat(x, [len(row[lift]) for lift in lifts])
        axes.scatter(
            places, np.concatenate(list(row.values())), s=7, color=[colour], alpha=0.45, linewidths=0, zorder=3
        )
    if runs.few_shown:
        axes.set_title(f"{runs.few_shown.capitalize()}.", fontsize="small", loc="left")
    canvas.legend(figure, axes)


def _draw_limits(
    axes: "canvas.Axes", params: Mapping[int, float], limits: Mapping[int, tuple[float, float]], bottom: float
) -> None:
    if not limits:
        return
    lifts = list(limits)
    x = [params[lift] for lift in lifts]
    low = [limits[lift][0] if limits[lift][0] > 0 else axes.get_ylim()[0] for lift in lifts]
    high = [limits[lift][1] for lift in lifts]
    label = "where the limits lie, medians\n(an arrow: open below, the clock stopped)"
    axes.fill_between(x, low, high, color=GREEN, alpha=0.18, linewidth=0, label=label, zorder=1)
    for lift in lifts:
        if limits[lift][0] <= 0:
            axes.annotate(
                "",
                xy=(params[lift], bottom),
                xytext=(params[lift], limits[lift][1]),
                arrowprops={"arrowstyle": "-|>", "color": GREEN, "linewidth": 1.0, "shrinkA": 4, "shrinkB": 0},
                zorder=2,
            )
        else:
            axes.plot([params[lift]] * 2, limits[lift], color=GREEN, linewidth=3, zorder=2, solid_capstyle="butt")


def _band(runs: StudyRuns, lift: int) -> tuple[float, float] | None:
    """Medians over seeds of the ends of the limits' intervals; a lower end of 0 is open."""
    limits = [run.limit(runs.headline) for run in runs.at(lift) if run.status == "done" and not run.diverged]
    if not limits:
        return None
    low, high = (quantile([getattr(limit, end) for limit in limits], 0.5) for end in ("low", "high"))
    return (low, high) if 0 < high < math.inf else None


def _label(column: str, at: float) -> str:
    figure = figure_of(float(f"{at:.3g}"), tex=True)
    return f"t = {figure}" if column == "time" else f"{figure} steps"
