"""Losses of many lifts at one time, and the joint law of lift and clock that they follow; draws nothing."""

import math

import numpy as np
from numpy.typing import NDArray

from rsl_cli.report.runs import StudyRuns, Which
from rsl_cli.stats import JointLaw, fit_joint_law
from rsl_cli.study.survey import Sampled

Array = NDArray[np.float64]
_MOST_TIMES = 6
_SAME = 1 + 1e-6
"""Times that differ by less than this factor are one."""
_COLUMNS = {"train": "loss", "test": "test_loss"}


def clock_of(runs: StudyRuns) -> str:
    """The column of the trajectories that time is read from: flow time where there is any, or else steps."""
    return "time" if any(run.flow_time > 0 for run in runs.done) else "step"


def isochrone_times(runs: StudyRuns) -> tuple[str, list[float]]:
    """The clock's column, the end of training and powers of ten before it, six times at most: every second one back."""
    column, end = clock_of(runs), _end(runs)
    if end is None:
        return column, []
    last = _decade(end)
    stride = 2 if last >= 4 else 1
    times = [10.0**decade for decade in range(last, -1, -stride)]
    return column, _to_the_end(times[::-1], end)[-_MOST_TIMES:]


def isochrone_grid(runs: StudyRuns) -> tuple[str, list[float]]:
    """The clock's column, and two times a decade of it from 1 to the end of training, the end among them."""
    end = _end(runs)
    halves = [] if end is None else [10.0 ** (half / 2) for half in range(2 * _decade(end) + 2)]
    return clock_of(runs), halves if end is None else _to_the_end([at for at in halves if at <= end * _SAME], end)


def _to_the_end(times: list[float], end: float) -> list[float]:
    return times if times and times[-1] * _SAME >= end else [*times, end]


def _decade(end: float) -> int:
    """The last power of ten before an end, itself included."""
    return math.floor(math.log10(end * _SAME))


def _end(runs: StudyRuns) -> float | None:
    """The farthest that a run came, at least 1; None where none came so far."""
    column = clock_of(runs)
    ends = [float(frame[column].max()) for frame in runs.trajectories.values() if column in frame and len(frame)]
    ends = [end for end in ends if math.isfinite(end) and end >= 1]
    return max(ends) if ends else None


def losses_at(runs: StudyRuns, column: str, at: float, which: Which | None = None) -> dict[int, Array]:
    """Return lift -> losses of the runs that reached a time, interpolated in log-log; (runs,).

    Args:
        runs: the study.
        column: the clock's.
        at: the time.
        which: loss; None takes the headline's.
    """
    which = which or runs.headline
    found: dict[int, list[float]] = {}
    for run in runs.shown:
        frame = runs.trajectories.get(run.name)
        value = math.nan if frame is None else _at(frame, column, _COLUMNS[which], at)
        # A run at rest stays where it is, and one that was stopped at its target would not rise above it.
        if math.isnan(value) and run.stop_reason in ("stationary", "target"):
            value = run.loss(which)
        if math.isfinite(value):
            found.setdefault(run.key.lift, []).append(value)
    return {lift: np.array(values) for lift, values in sorted(found.items())}


def _at(frame: Sampled, column: str, loss: str, at: float) -> float:
    if not {column, loss} <= frame.keys():
        return math.nan
    clock, values = frame[column], frame[loss]
    kept = (clock > 0) & np.isfinite(clock) & (values > 0) & np.isfinite(values)
    if not kept.any() or clock[kept][-1] < at * (1 - 1e-6) or clock[kept][0] > at * (1 + 1e-6):
        return math.nan
    return float(np.exp(np.interp(math.log(at), np.log(clock[kept]), np.log(values[kept]))))


def joint_law(runs: StudyRuns) -> JointLaw | None:
    """The law of lift and clock that the headline losses of a flow follow over their last six decades, if any."""
    ends = [run.flow_time for run in runs.done if run.flow_time > 0]
    if not ends or max(ends) < 1e3 or runs.compared_at_target:  # Held-out losses of classes have no limit.
        return None
    last = math.log10(max(ends))
    times = 10.0 ** np.arange(max(1.0, last - 6), last + 0.01, 0.5)
    x, curves = [], []
    for lift in runs.lifts:
        if lift in runs.overparametrised_lifts:
            continue
        frames = [runs.trajectories[run.name] for run in runs.at(lift) if run.name in runs.trajectories]
        seeds = [[_at(frame, "time", _COLUMNS[runs.headline], at) for at in times] for frame in frames]
        if seeds:
            x.append(math.log(params_of(runs, lift)))
            curves.append(np.log(np.array(seeds)))
    return fit_joint_law(np.array(x), times, curves)


def params_of(runs: StudyRuns, lift: int) -> float:
    """Median number of parameters of a lift's finished runs; NaN if there is none."""
    return float(np.median([run.params for run in runs.at(lift) if run.status == "done"] or [math.nan]))
