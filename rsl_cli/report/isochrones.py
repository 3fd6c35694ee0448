"""The first figure of a report: the loss against P at several times, and the band in which the limits lie.

One sees what the clock does and what the lift does: curves of one time each, sinking as time goes on, above the limits'
own curve, which is known where runs have shown their limits and open below where the clock stopped them.
"""

import math
from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rsl_cli.report import canvas
from rsl_cli.report.canvas import GREEN
from rsl_cli.report.runs import LOSS_NAMES, StudyRuns
from rsl_cli.stats import quantile

Array = NDArray[np.float64]
_MOST_TIMES = 6
_COLUMNS = {"train": "loss", "test": "test_loss"}


def isochrone_times(runs: StudyRuns) -> tuple[str, list[float]]:
    """The clock's column, and powers of ten of it that runs reached, six at most: every second one back."""
    flow = any(run.flow_time > 0 for run in runs.done)
    column = "time" if flow else "step"
    ends = [
        float(frame[column].to_numpy(dtype=np.float64).max())
        for frame in runs.trajectories.values()
        if column in frame and len(frame)
    ]
    ends = [end for end in ends if math.isfinite(end) and end > 0]
    if not ends:
        return column, []
    last = math.floor(math.log10(max(ends)) + 1e-9)
    stride = 2 if last >= 4 else 1
    times = [10.0**decade for decade in range(last, -1, -stride)][:_MOST_TIMES]
    return column, times[::-1]


def losses_at(runs: StudyRuns, column: str, at: float) -> dict[int, Array]:
    """Return lift -> headline losses of the runs that reached a time, interpolated in log-log; (runs,)."""
    found: dict[int, list[float]] = {}
    for run in runs.done:
        frame = runs.trajectories.get(run.name)
        value = math.nan if frame is None else _at(frame, column, _COLUMNS[runs.headline], at)
        # A run at rest stays where it is.
        if math.isnan(value) and run.stop_reason == "stationary":
            value = run.loss(runs.headline)
        if math.isfinite(value):
            found.setdefault(run.key.lift, []).append(value)
    return {lift: np.array(values) for lift, values in sorted(found.items())}


def _at(frame: pd.DataFrame, column: str, loss: str, at: float) -> float:
    if not {column, loss} <= set(frame.columns):
        return math.nan
    clock, values = (frame[name].to_numpy(dtype=np.float64) for name in (column, loss))
    kept = (clock > 0) & np.isfinite(clock) & (values > 0) & np.isfinite(values)
    if not kept.any() or clock[kept][-1] < at * (1 - 1e-6) or clock[kept][0] > at * (1 + 1e-6):
        return math.nan
    return float(np.exp(np.interp(math.log(at), np.log(clock[kept]), np.log(values[kept]))))


def draw_isochrones(figure: Figure, runs: StudyRuns, headline: str) -> None:
    """Draw the figure; ``headline`` is its title."""
    axes = figure.add_subplot()
    column, times = isochrone_times(runs)
    curves = {at: losses_at(runs, column, at) for at in times}
    limits = {lift: band for lift in runs.lifts if (band := _band(runs, lift)) is not None}
    values = [value for row in curves.values() for losses in row.values() for value in losses]
    values += [low for low, _ in limits.values() if low > 0]
    bottom, _ = canvas.loss_axis(axes, values, f"{LOSS_NAMES[runs.headline]} loss ({canvas.plain(runs.loss_unit)})")
    canvas.params_axis(axes, [run.params for run in runs.done], runs.limit)
    axes.set_title(canvas.wrapped(headline), loc="left")
    if not values:
        canvas.note(axes, "no run has a trajectory")
        return
    params = {lift: _params(runs, lift) for lift in runs.lifts}
    _draw_limits(axes, params, limits, bottom)
    colours = matplotlib.colormaps["plasma"](np.linspace(0.8, 0.0, len(times)))
    for (at, row), colour in zip(curves.items(), colours, strict=True):
        if not row:
            continue
        lifts = list(row)
        x = [params[lift] for lift in lifts]
        middle = [quantile(row[lift], 0.5) for lift in lifts]
        axes.plot(x, middle, color=colour, marker="o", markersize=3.5, label=_label(column, at), zorder=4)
        for lift in lifts:
            place = [params[lift]] * len(row[lift])
            axes.scatter(place, row[lift], s=7, color=[colour], alpha=0.45, linewidths=0, zorder=3)
    canvas.legend(figure, axes)


def _draw_limits(
    axes: Axes, params: Mapping[int, float], limits: Mapping[int, tuple[float, float]], bottom: float
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


def _params(runs: StudyRuns, lift: int) -> float:
    return float(np.median([run.params for run in runs.at(lift) if run.status == "done"] or [math.nan]))


def _label(column: str, at: float) -> str:
    power = f"10$^{{{round(math.log10(at))}}}$"
    return f"t = {power}" if column == "time" else f"{power} steps"
