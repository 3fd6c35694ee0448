"""What a study lacks for a verdict: at which time its open runs are predicted to decide, and how many seeds would."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rsl_cli.report.judgement import ALPHA, Judgement
from rsl_cli.report.runs import Run, StudyRuns
from rsl_cli.stats import Proportion, cochran_armitage, learning_number, seeds_to_decide

_BELOW = 0.05
"""A tail shows its limit about when what is still to fall is this share of it."""
LATEST = 1e16
"""No prediction goes beyond this flow time: parameters in float64 cannot be told apart there."""
_MOST_STEPS = 1e9


@dataclass(frozen=True)
class Outlook:
    """When an unfinished verdict is predicted to decide.

    Args:
        key: what carries them there, e.g. ``trainer.t_end``.
        time: flow time, or steps where they are the clock, to which the open lifts should be carried.
        minutes: what that costs, at the pace so far; NaN where that is unknown.
        lifts: the lifts whose runs are open.
        runs: names of those runs.
        foreseen: whether limits of other lifts predict the time; else it is a decade more, to see further.
    """

    key: str
    time: float
    minutes: float | None
    lifts: tuple[int, ...]
    runs: tuple[str, ...]
    foreseen: bool


@dataclass(frozen=True)
class Success:
    """The PAC reading: does the share of seeds that reach a target loss tend to one along the lifts?

    Args:
        epsilon: the smallest target that all seeds of the largest lift reach, or the one that most of them do.
        verdict: ``reached`` (surely at least 1 - delta from a lift of the sweep on), ``rises`` (a significant trend,
            and a share of at least 1 - delta at the end), ``fails`` (surely below 1 - delta at the largest lift,
            without a trend), else ``undecided``.
        p_value: of the exact trend test; the larger one of counting open runs as failures and as successes.
        first, last: share at the smallest and at the largest lift.
        from_lift: for ``reached``, the learning number's upper end.
        seeds: how many seeds, all successful, would make the largest lift's share certain.
        open: runs above the target that were stopped on their way.
    """

    epsilon: float
    verdict: Literal["reached", "rises", "fails", "undecided"]
    p_value: float
    first: Proportion
    last: Proportion
    from_lift: int | None
    seeds: int
    open: int


def read_success(table: Mapping[str, Mapping[int, Proportion]], delta: float) -> Success | None:
    """Read a success table, target loss -> lift -> share, descending in the target; None for an empty one."""
    if not table:
        return None
    best = max(row[max(row)].successes for row in table.values())
    key = [key for key, row in table.items() if row[max(row)].successes == best][-1]
    row = table[key]
    shares = [row[lift] for lift in sorted(row)]
    sizes = [share.runs for share in shares]
    hopeful = [share.successes + share.open for share in shares]
    p_value = max(
        cochran_armitage([share.successes for share in shares], sizes),
        cochran_armitage(hopeful, sizes),
    )
    number, last = learning_number(row, delta), shares[-1]
    verdict: Literal["reached", "rises", "fails", "undecided"] = "undecided"
    if number.high is not None:
        verdict = "reached"
    elif p_value < ALPHA and last.successes >= (1 - delta) * last.runs:
        verdict = "rises"
    elif last.high < 1 - delta and p_value >= ALPHA:
        verdict = "fails"
    return Success(
        float(key),
        verdict,
        p_value,
        shares[0],
        last,
        number.high,
        seeds_to_decide(delta),
        sum(hopeful) - sum(share.successes for share in shares),
    )


def foresee(runs: StudyRuns, chosen: Judgement) -> Outlook | None:
    """Predict when an unfinished verdict decides, for runs on a flow's clock; None for all others."""
    if chosen.verdict != "unfinished" or runs.trainer.clock is None:
        return None
    by_steps = runs.trainer.clock == "step"
    stands = {run.name: run.steps if by_steps else run.flow_time for run in runs.done}
    open_ = [run for run in runs.done if run.key.lift in chosen.rests_on and run.can_go_on and stands[run.name] > 0]
    open_ = [run for run in open_ if not run.limit(runs.headline).finished or run.under_trained]
    if not open_:
        return None
    goal = _predicted_limits(runs, chosen)
    times = [max(stands[run.name] for run in open_) * (10 if goal else 100)]
    for run in open_:
        loss, limit = run.loss(runs.headline), goal.get(run.key.lift)
        slope = run.limit(runs.headline).slope
        if limit is not None and math.isfinite(loss) and loss > 0:
            slope = slope if slope > 0.2 else 1.0
            times.append(stands[run.name] * max(1.0, loss / (_BELOW * limit)) ** (1 / slope))
    time = min(_MOST_STEPS if by_steps else LATEST, 10.0 ** math.ceil(math.log10(max(times)) - 1e-9))
    cost = sum(_seconds(run, stands[run.name], time, by_steps) for run in open_) / 60
    return Outlook(
        f"trainer.{runs.trainer.carried_by}",
        time,
        cost if math.isfinite(cost) else None,
        tuple(sorted({run.key.lift for run in open_})),
        tuple(run.name for run in open_),
        bool(goal),
    )


def _seconds(run: Run, stands: float, time: float, by_steps: bool) -> float:
    """What going on costs: as much a step, or a decade of flow time of those from 0.01 on, as so far."""
    if by_steps:
        return run.wall_seconds * (time / stands - 1)
    return run.wall_seconds * math.log10(time / stands) / max(1.0, math.log10(stands / 1e-2))


def _predicted_limits(runs: StudyRuns, chosen: Judgement) -> dict[int, float]:
    """Limits of the open lifts, by the line in log-log through the last two lifts that have shown theirs."""
    shown: list[tuple[float, float]] = []
    for lift in runs.lifts:
        here = [run for run in runs.at(lift) if run.status == "done" and math.isfinite(run.loss(runs.headline))]
        limits = [run.limit(runs.headline) for run in here]
        if here and np.median([limit.finished for limit in limits]) == 1:
            middle = float(np.median([math.log(limit.high) for limit in limits]))
            shown.append((math.log(float(np.median([run.params for run in here]))), middle))
    if len(shown) < 2:
        return {}
    (x0, y0), (x1, y1) = shown[-2:]
    slope = min(0.0, (y1 - y0) / (x1 - x0))
    goal = {}
    for lift in chosen.rests_on:
        params = [run.params for run in runs.at(lift) if run.status == "done"]
        if params:
            goal[lift] = math.exp(y1 + slope * (math.log(float(np.median(params))) - x1))
    return goal
