"""Studies side by side in one figure: does the same lift end at the same loss, whoever trains it?"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rsl_cli.errors import ConfigError
from rsl_cli.report import canvas
from rsl_cli.report.canvas import SERIES
from rsl_cli.report.runs import LOSS_NAMES, Run, StudyRuns, Which, read_runs
from rsl_cli.stats import quantile
from rsl_cli.study.store import StudyStore

_SIZE = (8.4, 5.0)
_LINE = 0.042  # height of a line of text, as a share of the plot's
_NAME_WIDTH = 18


@dataclass(frozen=True)
class _Line:
    """Medians and quartiles of one study, per lift."""

    params: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def compare_figure(stores: Sequence[StudyStore], form: str) -> bytes:
    """Draw the final losses of several studies against their numbers of parameters.

    The loss is held-out where every study has one, and training loss otherwise. Points of under-trained runs are
    ringed; diverged runs stand at the upper edge.

    Args:
        stores: at most six studies, in the order of their colours.
        form: png, pdf or svg.

    Returns:
        The file's content, the same for the same runs.

    Raises:
        ConfigError: no study or too many, losses that differ in kind, or no finite loss at all.
        StoreError: a study is not there, or a file is damaged.
    """
    if not 1 <= len(stores) <= len(SERIES):
        raise ConfigError(f"got {len(stores)} studies to compare, expected 1 to {len(SERIES)}")
    studies = [read_runs(store) for store in stores]
    kinds = sorted({study.loss_unit for study in studies if study.done})
    if len(kinds) > 1:
        raise ConfigError(f"studies with different losses cannot share an axis: {', '.join(kinds)}; compare them apart")
    which: Which = "test" if all(study.headline == "test" for study in studies if study.done) else "train"
    losses = [run.loss(which) for study in studies for run in study.with_loss(which)]
    if not any(math.isfinite(loss) and loss > 0 for loss in losses):
        raise ConfigError("no run of these studies has a finite loss above zero: there is nothing to compare")
    return canvas.render(lambda figure: _draw(figure, studies, which, losses), [form], _SIZE)[form]


def _draw(figure: Figure, studies: Sequence[StudyRuns], which: Which, losses: Sequence[float]) -> None:
    axes = figure.add_subplot()
    kind = next(study.loss_unit for study in studies if study.done)
    bottom, top = canvas.loss_axis(axes, losses, f"{LOSS_NAMES[which]} loss ({canvas.plain(kind)})")
    limits = {study.limit for study in studies if study.done}
    canvas.params_axis(
        axes, [run.params for study in studies for run in study.done], limits.pop() if len(limits) == 1 else None
    )
    names: list[tuple[float, str, str]] = []
    for study, (colour, marker) in zip(studies, SERIES, strict=False):
        line = _medians(study, which)
        if line is None:
            continue
        _seeds(axes, study.with_loss(which), which, colour, marker, bottom, top)
        axes.fill_between(line.params, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(line.params, line.median, color=colour, linewidth=2.2, zorder=4)
        known = line.median[np.isfinite(line.median)]
        names.append((float(known[-1]) if known.size else top, _name(study), colour))
    _name_lines(axes, names)
    _explain(axes, studies, which)
    canvas.legend(figure, axes, below=True, columns=5)


def _seeds(axes: Axes, runs: Sequence[Run], which: Which, colour: str, marker: str, bottom: float, top: float) -> None:
    inside = [run for run in runs if 0 < run.loss(which) < math.inf]
    places = [run.params for run in inside], [run.loss(which) for run in inside]
    axes.scatter(*places, s=22, marker=marker, color=colour, alpha=0.75, linewidths=0, zorder=3)
    early = [run for run in inside if run.under_trained]
    places = [run.params for run in early], [run.loss(which) for run in early]
    axes.scatter(*places, s=64, facecolors="none", edgecolors="black", linewidths=0.8, zorder=5)
    for edge, chosen, sign in (
        (top, [run for run in runs if not math.isfinite(run.loss(which))], "x"),
        (bottom, [run for run in runs if run.loss(which) <= 0], "v"),
    ):
        axes.scatter([run.params for run in chosen], [edge] * len(chosen), s=40, marker=sign, color=colour, zorder=5)


def _medians(study: StudyRuns, which: Which) -> _Line | None:
    groups = [[run for run in study.with_loss(which) if run.key.lift == lift] for lift in study.lifts]
    groups = [group for group in groups if group]
    if not groups:
        return None
    middle, low, high = (
        np.array([quantile([run.loss(which) for run in group], q) for group in groups]) for q in (0.5, 0.25, 0.75)
    )
    params = np.array([float(np.median([run.params for run in group])) for group in groups])
    return _Line(params, *(np.where((part > 0) & (part < math.inf), part, math.nan) for part in (middle, low, high)))


def _name(study: StudyRuns) -> str:
    """The study's name, on lines that leave the plot its width, and its trainer below."""
    # Names are words joined by underscores, at which alone they may break.
    lines = textwrap.wrap(study.name.replace("_", "_ "), _NAME_WIDTH, break_on_hyphens=False)
    trainers = sorted({run.trainer for run in study.done if run.trainer})
    named = [canvas.plain(line.replace("_ ", "_")) for line in lines]
    return "\n".join([*named, *([f"trainer: {', '.join(trainers)}"] if trainers else [])])


def _name_lines(axes: Axes, names: Sequence[tuple[float, str, str]]) -> None:
    """Name every line where it ends, to the right of the plot; names that would collide move apart."""
    low, high = np.log10(axes.get_ylim())
    order = sorted(names)
    heights = [float((math.log10(loss) - low) / (high - low)) for loss, _, _ in order]
    room = [_LINE * (label.count("\n") + 1.6) / 2 for _, label, _ in order]
    for k in range(1, len(order)):
        heights[k] = max(heights[k], heights[k - 1] + room[k - 1] + room[k])
    ceiling = 1.0
    for k in reversed(range(len(order))):
        heights[k] = min(heights[k], ceiling - room[k])
        ceiling = heights[k] - room[k]
    for height, (_, label, colour) in zip(heights, order, strict=True):
        axes.text(1.015, height, label, transform=axes.transAxes, color=colour, va="center", fontweight="bold")


def _explain(axes: Axes, studies: Sequence[StudyRuns], which: Which) -> None:
    """Entries of the legend for what all studies share."""
    grey = canvas.GREY
    axes.plot([], [], color=grey, linewidth=2.2, label="median")
    if any(len(study.at(lift)) > 1 for study in studies for lift in study.lifts):
        axes.fill_between([], [], [], color=grey, alpha=0.25, linewidth=0, label="quartiles")
    axes.scatter([], [], s=22, color=grey, linewidths=0, label="each seed")
    finished = [run for study in studies for run in study.with_loss(which)]
    early = sum(run.under_trained for run in finished)
    if early:
        label = f"under-trained ({early})"
        axes.scatter([], [], s=64, facecolors="none", edgecolors="black", linewidths=0.8, label=label)
    diverged = sum(not math.isfinite(run.loss(which)) for run in finished)
    if diverged:
        axes.scatter([], [], s=40, marker="x", color=grey, label=f"diverged ({diverged})")
    zero = sum(run.loss(which) <= 0 for run in finished)
    if zero:
        axes.scatter([], [], s=40, marker="v", color=grey, label=f"loss is zero ({zero})")
