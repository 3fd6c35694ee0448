"""Studies side by side in one figure and one page: does the same lift end at the same loss, whatever differs?"""

import hashlib
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rsl_cli.errors import ConfigError
from rsl_cli.report import canvas
from rsl_cli.report.canvas import SERIES
from rsl_cli.report.judgement import judge_views
from rsl_cli.report.page import settings_of
from rsl_cli.report.read import read_runs
from rsl_cli.report.runs import LOSS_NAMES, Run, StudyRuns, Which
from rsl_cli.report.verdict import give_verdict
from rsl_cli.report.words import figure_of
from rsl_cli.stats import quantile
from rsl_cli.study.store import StudyStore

_SIZE = (8.4, 5.0)
_LINE = 0.042  # height of a line of text, as a share of the plot's
_NAME_WIDTH = 22
MOST_KEYS = 4
"""Keys that a curve is labelled with; the table has all."""
_LONGEST = 80
_NO_MATTER = ("study", "results_dir", "device", "executor", "horizons", "plugins", "until", "budget", "figures")
"""Keys that say where and how a study ran, not what it is."""
_SEEN = ("lift", "seeds")
"""Keys that a curve shows by itself."""


@dataclass(frozen=True)
class Compared:
    """Studies that share an axis.

    Args:
        studies: in the order of their colours.
        verdicts: of each, as in ``verdict.json``.
        which: held-out loss where every study has one, or else training loss.
        differing: of each, the keys in which the studies differ, and its values.
    """

    studies: tuple[StudyRuns, ...]
    verdicts: tuple[Mapping[str, Any], ...]
    which: Which
    differing: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class _Line:
    """Medians and quartiles of one study, per lift."""

    params: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def compared(stores: Sequence[StudyStore], delta: float = 0.1) -> Compared:
    """Read studies that are to be compared.

    Args:
        stores: at most six studies, in the order of their colours.
        delta: accepted probability that training misses a target.

    Returns:
        What page and figure are made from.

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
    verdicts = [give_verdict(study, judge_views(study), delta) for study in studies]
    return Compared(tuple(studies), tuple(verdicts), which, tuple(differing([study.study for study in studies])))


def compared_name(stores: Sequence[StudyStore]) -> str:
    """The name of a comparison's files: its studies'; with a hash where these would not tell it apart."""
    name = "comparison_" + "_vs_".join(store.root.name for store in stores)
    folders = {store.root.resolve().parent for store in stores}
    if len(folders) == 1 and len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256("\0".join(str(store.root.resolve()) for store in stores).encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - 9]}_{digest}"


def differing(studies: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return of each study the keys whose values differ among them, those of `study.json`'s configuration.

    Of a group whose ``name`` differs the name is told, since other options have other keys; and the rest to tell apart
    those of one name.
    """
    flat = [dict(settings_of(study, "config")) for study in studies]
    keys = dict.fromkeys(key for one in flat for key in one if key.split(".")[0] not in (*_NO_MATTER, *_SEEN))
    found = [key for key in keys if len({one.get(key) for one in flat}) > 1]
    named = {key.removesuffix(".name") for key in found if key.endswith(".name")}
    rows: list[dict[str, str]] = [{} for _ in flat]
    for key in found:
        group = key.split(".")[0]
        for row, one in zip(rows, flat, strict=True):
            name = f"{group}.name"
            alike = [other for other in flat if group not in named or other.get(name) == one.get(name)]
            if key.endswith(".name") or len({other.get(key) for other in alike}) > 1:
                row[key.removesuffix(".name")] = one.get(key, "-")
    return rows


def compare_figure(found: Compared, formats: Sequence[str]) -> dict[str, bytes]:
    """Draw the final losses of several studies against their numbers of parameters.

    Points of under-trained runs are ringed; diverged runs stand at the upper edge.

    Args:
        found: the studies.
        formats: of the figure: png, pdf or svg.

    Returns:
        Format -> content, the same for the same runs.
    """
    return canvas.render((lambda figure: _draw(figure, found), _SIZE), formats)


def _draw(figure: Figure, found: Compared) -> None:
    axes, studies, which = figure.add_subplot(), found.studies, found.which
    losses = [run.loss(which) for study in studies for run in study.with_loss(which)]
    kind = next(study.loss_unit for study in studies if study.done)
    bottom, top = canvas.loss_axis(axes, losses, f"{LOSS_NAMES[which]} loss ({canvas.plain(kind)})")
    limits = {study.limit for study in studies if study.done}
    canvas.params_axis(
        axes, [run.params for study in studies for run in study.done], limits.pop() if len(limits) == 1 else None
    )
    names: list[tuple[float, str, str]] = []
    for study, keys, (colour, marker) in zip(studies, found.differing, SERIES, strict=False):
        line = _medians(study, which)
        if line is None:
            continue
        _seeds(axes, study.with_loss(which), which, colour, marker, bottom, top)
        axes.fill_between(line.params, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(line.params, line.median, color=colour, linewidth=2.2, zorder=4)
        known = line.median[np.isfinite(line.median)]
        names.append((float(known[-1]) if known.size else top, _name(study, keys), colour))
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


def _name(study: StudyRuns, keys: Mapping[str, str]) -> str:
    """The study's name, on lines that leave the plot its width, and below it what it differs in."""
    # Names are words joined by underscores, at which alone they may break.
    lines = textwrap.wrap(study.name.replace("_", "_ "), _NAME_WIDTH, break_on_hyphens=False)
    named = [canvas.plain(line.replace("_ ", "_")) for line in lines]
    return "\n".join([*named, *(canvas.plain(f"{key}: {value}") for key, value in list(keys.items())[:MOST_KEYS])])


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


def compared_rows(found: Compared) -> tuple[list[str], list[list[str]]]:
    """Headers and a row for each study, for reading."""
    keys = list(dict.fromkeys(key for own in found.differing for key in own))
    name = LOSS_NAMES[found.which]
    rows = []
    for study, verdict, own in zip(found.studies, found.verdicts, found.differing, strict=True):
        line = _medians(study, found.which)
        last = math.nan if line is None else float(line.median[-1])
        params = [run.params for run in study.done]
        fall = verdict["fall"]
        rows.append(
            [
                *(study.name, *(own.get(key, "") for key in keys), verdict["verdict"]),
                f"{figure_of(float(f'{fall:.2g}'))}-fold" if fall > 1.05 else "",
                f"{len(study.done)} of {len(study.runs)}",
                " to ".join(str(lift) for lift in dict.fromkeys((min(study.lifts), max(study.lifts)))),
                " to ".join(f"{value:,.0f}" for value in dict.fromkeys((min(params), max(params)))) if params else "",
                "" if math.isnan(last) else figure_of(float(f"{last:.3g}")),
                str(len(verdict["under_trained"]) or ""),
                f"{sum(run.wall_seconds for run in study.done) / 60:.2g}",
            ]
        )
    headers = ["study", *keys, "verdict", "surely falls", "runs", "lifts", "parameters P"]
    return [*headers, f"{name} loss at the largest lift", "still falling", "minutes"], rows
