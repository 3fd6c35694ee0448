"""Figures of training itself: the loss along the way, and how fast it decays in flow time."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsl_cli.report import canvas
from rsl_cli.report.canvas import DASHES
from rsl_cli.report.runs import LOSS_NAMES, StudyRuns, Which

Array = NDArray[np.float64]
Curves = list[tuple[int, Array, Array]]

_MOST_POINTS = 400


def trajectories(figure: "canvas.Figure", title: str, runs: StudyRuns) -> None:
    """Draw every run's losses along its way."""
    flow = any(math.isfinite(run.flow_time) for run in runs.done)
    column, label = ("time", "flow time t") if flow else ("step", "training step")
    views: tuple[Which, ...] = ("train", "test") if runs.headline == "test" else ("train",)
    curves = {view: _curves(runs, view, column) for view in views}
    values = [value for found in curves.values() for _, _, y in found for value in y]
    places = [value for found in curves.values() for _, x, _ in found for value in x]
    panels = figure.subplots(1, len(views), sharey=True, squeeze=False)[0]
    figure.suptitle(title, x=0.01, ha="left")
    for panel, view in zip(panels, views, strict=True):
        canvas.log_axis(panel, places, label)
        canvas.loss_axis(panel, values, f"loss ({canvas.plain(runs.loss_unit)})" if panel is panels[0] else "")
        panel.set_title(f"{LOSS_NAMES[view]} loss", fontweight="normal", fontsize=10)
        if not curves[view]:
            canvas.note(panel, "no trajectory")
        _draw(panel, runs.lifts, curves[view])
    canvas.lift_bar(figure, panels, runs.lifts)


def flows(runs: StudyRuns) -> Curves:
    """Lift, times and 4 t L(t) of every run that is a flow."""
    with np.errstate(over="ignore"):
        return [(lift, t, 4 * t * loss) for lift, t, loss in _curves(runs, "train", "time")]


def decay(figure: "canvas.Figure", title: str, runs: StudyRuns) -> None:
    """Draw 4 t L(t) of every flow."""
    axes, curves = figure.add_subplot(), flows(runs)
    axes.set_title(f"{title} Then 4 t L(t) is level")
    canvas.log_axis(axes, [value for _, t, _ in curves for value in t], "flow time t")
    canvas.loss_axis(axes, [value for _, _, y in curves for value in y], "4 t L(t), training loss")
    _draw(axes, runs.lifts, curves)
    canvas.lift_bar(figure, axes, runs.lifts)


def _draw(panel: "canvas.Axes", lifts: Sequence[int], curves: Curves) -> None:
    from matplotlib.collections import LineCollection

    # One artist for all lines of a lift: a line each would take seconds where there are hundreds.
    for i, (lift, colour) in enumerate(canvas.lift_colours(lifts).items()):
        lines = [np.column_stack([x, y]) for other, x, y in curves if other == lift]
        found = LineCollection(lines, colors=[colour], linestyles=DASHES[i % 4], linewidths=1.0, alpha=0.8)
        panel.add_collection(found, autolim=False)


def _curves(runs: StudyRuns, view: Which, column: str) -> Curves:
    """Positive points of every run's curve, thinned evenly in log place: a figure of a million points opens nowhere."""
    curves = []
    for run in runs.done:
        frame = runs.trajectories.get(run.name)
        name = "loss" if view == "train" else "test_loss"
        if frame is None or column not in frame or name not in frame:
            continue
        x, y = (np.asarray(frame[key], dtype=np.float64) for key in (column, name))
        kept = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
        x, y = x[kept], y[kept]
        if x.size > _MOST_POINTS:
            wanted = np.geomspace(x[0], x[-1], _MOST_POINTS)
            chosen = np.unique(np.clip(np.searchsorted(x, wanted), 0, x.size - 1))
            x, y = x[chosen], y[chosen]
        if x.size:
            curves.append((run.key.lift, x, y))
    return curves
