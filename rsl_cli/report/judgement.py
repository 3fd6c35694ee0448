"""What one loss over one set of lifts says about the limits of the lifts, whatever time training had.

A run gives an interval for the limit of its loss (`rsl_cli.stats.limit`). What holds wherever in their intervals the
limits lie is a verdict; what would hold if every run's limit were the loss it reached, and does not hold without that,
is `unfinished`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsl_cli.report.runs import LossTable, StudyRuns, Which
from rsl_cli.stats import (
    MIN_LIFTS,
    MIN_SEEDS,
    Contrast,
    Law,
    LocalExponent,
    Shape,
    Trend,
    cochran_armitage,
    fit_law,
    interval_contrast,
    interval_trend,
    local_exponents,
    slope_weights,
    straight,
)

Verdict = Literal["falls", "plateaus", "rises", "unfinished", "inconclusive"]
Finding = Literal["falls", "plateaus", "rises"]
Array = NDArray[np.float64]

ALPHA = 0.05
"""Level of the trend tests."""
STEP_ALPHA = 0.005
"""Level, one-sided, of a fall over the last doubling of the lift; a rise is looked for in two places, at half of it."""
LEVEL_ALPHA = 0.01
"""Level of each of the two tests that a curve is level."""
BENT_ALPHA = 0.01
"""Level of the test that a level curve bends."""
LEVEL = 0.09
"""Level means that the exponent lies within this of zero: doubling P changes the loss by less than 7 %."""
MATERIAL = 0.05
"""A fall or rise by less than this exponent is none."""
LEFT_BEHIND = 10.0
"""A run is left behind if it surely ends this many times above its lift's median, and above the smallest lift's."""
_ROUNDING = 1e-9
_OCTAVES = 3.9  # a level stretch spans this ratio of degrees at least


@dataclass(frozen=True)
class Judgement:
    """A verdict with its evidence.

    ``would_be`` is what an `unfinished` curve shows if its runs had reached their limits; ``rests_on`` are the lifts
    that decide; ``since`` is the first lift of a level stretch; ``fall`` is the ratio by which the limit surely falls
    from some lift to the largest, in the medians; ``arrived`` is the lift from
    which on all runs reach their target or what the arithmetic resolves; ``stuck`` counts the runs left behind.
    """

    verdict: Verdict
    why: str
    would_be: Finding | None = None
    trend: Trend | None = None
    law: Law | None = None
    shape: Shape = "none"
    exponents: tuple[LocalExponent, ...] = ()
    rests_on: tuple[int, ...] = ()
    since: int | None = None
    level: float | None = None
    fall: float = 1.0
    arrived: int | None = None
    stuck: int = 0
    seeds_needed: int | None = None


@dataclass(frozen=True)
class Views:
    """Judgements of the same study.

    The headline loss without overparametrised lifts; each loss; with those lifts; without lifts that are dense.
    """

    headline: Judgement
    by_loss: dict[Which, Judgement]
    with_overparametrised: Judgement
    without_dense: Judgement


@dataclass(frozen=True)
class _Curve:
    """Log losses, seed by seed, of the lifts that have enough of them: ends of the limits' intervals.

    The last lift is the first from which on all runs ``arrived`` at the target, or at what the arithmetic resolves;
    ``there`` counts those of each lift that did.
    """

    lifts: tuple[int, ...]
    x: Array
    loss: tuple[Array, ...]
    low: tuple[Array, ...]
    high: tuple[Array, ...]
    arrived: bool
    there: Array

    @property
    def before_last(self) -> int:
        """Where the step to the last lift starts: the largest lift at most half the last, or the one before.

        Where all runs of the last arrived, no floor is left to look for there: what has fallen, fell from the first.
        """
        if self.arrived:
            return 0
        half = [i for i, lift in enumerate(self.lifts) if 2 * lift <= self.lifts[-1]]
        return half[-1] if half else len(self.lifts) - 2

    def step(self, i: int, j: int) -> tuple[Contrast, Contrast]:
        """Bounds of the slope between two lifts, d log L / d log P."""
        weights = np.zeros(len(self.lifts))
        weights[[i, j]] = np.array([-1.0, 1.0]) / (self.x[j] - self.x[i])
        return interval_contrast(self.low, self.high, weights)

    def slope(self, start: int) -> tuple[Contrast, Contrast]:
        """Bounds of the least-squares slope over the lifts from one on."""
        weights = np.append(np.zeros(start), slope_weights(self.x[start:]))
        return interval_contrast(self.low, self.high, weights)

    def reached(self) -> "_Curve":
        """The curve if every run had reached its limit."""
        return replace(self, low=self.loss, high=self.loss)

    @cached_property
    def stuck(self) -> Array:
        """(lifts,), how many runs are left behind at each."""
        first = float(np.median(self.high[0]))
        return np.array(
            [
                sum((low >= max(first, np.median(high) + math.log(LEFT_BEHIND))) | (high == np.inf))
                for low, high in zip(self.low, self.high, strict=True)
            ]
        )


def judge_views(runs: StudyRuns) -> Views:
    """Judge every view of a study once; the headline is on held-out loss, where there is any."""
    crowded, dense = set(runs.overparametrised_lifts), set(runs.dense_lifts)
    planned = [lift for lift in runs.lifts if lift not in crowded]
    views: tuple[Which, ...] = ("train", "test") if runs.headline == "test" else ("train",)
    by_loss: dict[Which, Judgement] = {
        view: judge(runs.table(view, lambda run: run.key.lift not in crowded), planned) for view in views
    }
    headline = by_loss[runs.headline]
    sparse = [lift for lift in planned if lift not in dense]
    return Views(
        headline,
        by_loss,
        judge(runs.table(runs.headline), runs.lifts) if crowded else headline,
        judge(runs.table(runs.headline, lambda run: run.key.lift in sparse), sparse) if dense else headline,
    )


def judge(table: LossTable, planned: Sequence[int] = ()) -> Judgement:
    """Judge the limits of a table's losses.

    `falls`: the limits fall for certain along the lifts (a rank test of intervals), and over the last doubling too (a
    t test of the upper ends there against the lower ends before), and no run is left behind; where all runs of a lift
    reach their target, up to there, by either test at the stricter level. `plateaus`: over the last
    lifts, three at least, the exponent lies within a narrow band around zero (two t tests), wherever the limits are.
    `rises`: over the last doubling or from the lowest lift on, the lower ends rise above the upper ends.

    Args:
        table: losses of seeds by lifts, with the intervals of their limits.
        planned: lifts that were asked for; larger ones than the table's, or ones it has too little of, forbid `falls`.

    Returns:
        The judgement; never an error, whatever is missing.
    """
    curve = _curve(table)
    short = _too_little(table, curve)
    if short is not None:
        return Judgement("inconclusive", short, exponents=_exponents(curve))
    with np.errstate(divide="ignore"):
        trend = interval_trend(np.log(table.low), np.log(table.high))
    found, start = _decide(curve, trend)
    reached = curve.reached()
    with np.errstate(divide="ignore"):
        ends = np.log(np.maximum(table.losses, table.resolution))
    guess, guess_start = _decide(reached, interval_trend(ends, ends))
    law, shape = _law(curve)
    evidence = Judgement(
        "inconclusive",
        "",
        trend=trend,
        law=law,
        shape=shape,
        exponents=_exponents(curve),
        fall=_fall(curve),
        arrived=curve.lifts[-1] if curve.arrived else None,
        stuck=int(curve.stuck.sum()),
    )
    enough = [lift for i, lift in enumerate(table.lifts) if table.present[:, i].sum() >= MIN_SEEDS]
    absent = [lift for lift in planned if lift > enough[-1]]
    if found == "falls" and absent:
        why = f"lifts beyond {enough[-1]} were asked for, and too few of their runs have a result"
        return replace(evidence, verdict="unfinished", why=why, would_be="falls", rests_on=tuple(absent))
    if found is not None:
        return _settled(evidence, curve, found, start)
    rests_on = _decisive(curve, guess, guess_start)
    if guess is not None:
        open_ = [lift for lift in rests_on if not _closed(curve, curve.lifts.index(lift))]
        settled = _settled(evidence, reached, guess, guess_start)
        why = f"the losses reached would say: {settled.why}"
    else:
        open_ = [lift for lift in rests_on if np.isneginf(curve.low[curve.lifts.index(lift)]).any()]
        settled = evidence
        why = f"the losses reached would not decide either: {_doubt(reached)}"
    if open_:
        return replace(settled, verdict="unfinished", why=why, would_be=guess, rests_on=tuple(open_))
    return replace(evidence, why=_doubt(curve), rests_on=rests_on, seeds_needed=_seeds_needed(curve))


def _curve(table: LossTable) -> _Curve:
    lifts, x, loss, low, high = [], [], [], [], []
    with np.errstate(divide="ignore"):
        bottom, top = np.log(table.low), np.log(table.high)
        reached = np.log(np.maximum(table.losses, table.resolution))
    counts: list[int] = []
    there = table.high <= table.resolution * (1 + _ROUNDING)
    for i, lift in enumerate(table.lifts):
        rows = table.present[:, i]
        if rows.sum() >= MIN_SEEDS:
            lifts.append(lift)
            x.append(float(np.log(table.params[rows, i]).mean()))
            loss.append(reached[rows, i])
            low.append(bottom[rows, i])
            high.append(top[rows, i])
            counts.append(int(there[rows, i].sum()))
            if there[rows, i].all() and there[:, i:].sum() == table.present[:, i:].sum():
                # From here on every run has gone as far as was asked, or as the arithmetic resolves: no fall is left.
                return _Curve(tuple(lifts), np.array(x), tuple(loss), tuple(low), tuple(high), True, np.array(counts))
    return _Curve(tuple(lifts), np.array(x), tuple(loss), tuple(low), tuple(high), False, np.array(counts))


def _too_little(table: LossTable, curve: _Curve) -> str | None:
    lifts, seeds = len(table.lifts), len(table.seeds)
    if lifts == 0:
        return "there is no run to judge"
    if not np.isfinite(table.high).any() and np.isfinite(table.losses).any():
        return (
            "every loss rises at its end, and nothing bounds it: stop at a training loss, by trainer.epsilon=1e-3, say"
        )
    if not np.isfinite(table.high).any():
        return "no run has a finite loss: lower the step size, or repair the runs that failed"
    if lifts < MIN_LIFTS:
        return f"only {_plural(lifts, 'lift')} can be compared, a trend needs {MIN_LIFTS}"
    if seeds < MIN_SEEDS:
        return f"only {_plural(seeds, 'seed')} per lift, a trend needs {MIN_SEEDS}: seeds=5, say"
    if (table.losses <= table.resolution)[table.present].all():
        return (
            "every loss is at its target, or as small as the arithmetic resolves: take a smaller trainer.epsilon, "
            "smaller lifts or harder data"
        )
    if len(curve.lifts) < MIN_LIFTS:
        return f"only {_plural(len(curve.lifts), 'lift')} with {MIN_SEEDS} finished seeds, a trend needs {MIN_LIFTS}"
    return None


def _decide(curve: _Curve, trend: Trend | None) -> tuple[Finding | None, int]:
    """What holds for all limits within their intervals, and from which lift on."""
    last, before = len(curve.lifts) - 1, curve.before_last
    means = [float(group.mean()) for group in curve.high]
    lowest = int(np.argmin(means[:-1]))
    for i, share in ((lowest, last), (before, 1)):
        least, _ = curve.step(i, last)
        if least.above(MATERIAL) < STEP_ALPHA / 2 / share:
            return "rises", i
    level = _level_since(curve)
    if level is not None:
        return "plateaus", level
    if trend is None:
        return None, before
    least, most = curve.step(before, last)
    # What arrived at the last lift may stand on a rank test alone, where some limits before have no lower end.
    fallen = most.below(-MATERIAL) < STEP_ALPHA or (curve.arrived and trend.p_value < STEP_ALPHA)
    if trend.p_value < ALPHA and fallen and not _left_behind(curve):
        return "falls", before
    overall, _ = curve.slope(0)
    if trend.p_rising < ALPHA and overall.above(MATERIAL) < STEP_ALPHA and most.below(0.0) >= ALPHA:
        return "rises", 0
    return None, before


def _level_since(curve: _Curve) -> int | None:
    """The first lift from which on the curve is level for certain, if it is, over three lifts and two octaves."""
    last = len(curve.lifts) - 1
    for start in range(len(curve.lifts) - MIN_LIFTS + 1):
        if curve.lifts[last] < _OCTAVES * curve.lifts[start]:
            return None
        if not _is_level(curve, start):
            continue
        ends = zip(curve.low[start:], curve.high[start:], strict=True)
        middle = [np.where(np.isfinite(low), (low + high) / 2, high) for low, high in ends]
        if straight(curve.x[start:], middle) >= BENT_ALPHA:
            return start
    return None


def _is_level(curve: _Curve, start: int) -> bool:
    """Whether the exponent from a lift on surely lies in the narrow band around zero."""
    least, most = curve.slope(start)
    return least.above(-LEVEL) < LEVEL_ALPHA and most.below(LEVEL) < LEVEL_ALPHA


def _left_behind(curve: _Curve) -> bool:
    """Whether some runs fail, and their share does not surely fall to none."""
    stuck = curve.stuck
    if not stuck.any():
        return False
    sizes = np.array([group.size for group in curve.high])
    if curve.arrived:
        return cochran_armitage(curve.there, sizes) >= ALPHA
    return bool(stuck[-1] > 0 or cochran_armitage(sizes - stuck, sizes) >= ALPHA)


def _settled(evidence: Judgement, curve: _Curve, found: Finding, start: int) -> Judgement:
    lifts, first, last = curve.lifts, curve.lifts[0], curve.lifts[-1]
    if found == "falls":
        end = f", where every run reaches {math.exp(float(curve.high[-1].max())):.2g}" if curve.arrived else ""
        why = f"the loss falls with the lift, from lift {first} to {last}{end or ', over the last doubling too'}"
        return replace(evidence, verdict="falls", why=why, rests_on=(lifts[start], last))
    if found == "rises":
        lowest = lifts[start]
        why = (
            f"the loss falls up to lift {lowest}, then rises"
            if start > 0
            else f"the loss rises with the lift, from lift {first} to {last}"
        )
        return replace(evidence, verdict="rises", why=why, rests_on=lifts[start:], since=lowest)
    level = math.exp(float(np.mean([np.median(group) for group in curve.high[start:]])))
    why = (
        f"the loss levels off at {level:.2g} from lift {lifts[start]} on"
        if start > 0
        else f"the loss hardly changes with the lift: it stays at {level:.2g}"
    )
    return replace(evidence, verdict="plateaus", why=why, rests_on=lifts[start:], since=lifts[start], level=level)


def _decisive(curve: _Curve, guess: Finding | None, start: int) -> tuple[int, ...]:
    """The lifts whose limits decide: of a fall, where the last doubling starts, since at its end upper bounds do."""
    before = curve.before_last
    if guess == "falls" and not _closed(curve, before):
        return (curve.lifts[before],)
    return (curve.lifts[before], curve.lifts[-1]) if guess in ("falls", None) else curve.lifts[start:]


def _closed(curve: _Curve, i: int) -> bool:
    """Whether all runs of a lift have shown their limits, within a tenth."""
    return bool(np.all(curve.high[i] - curve.low[i] <= 0.1))


def _doubt(curve: _Curve) -> str:
    if any((group == np.inf).any() for group in curve.loss):
        count = sum(int((group == np.inf).sum()) for group in curve.loss)
        return f"{_plural(count, 'run')} diverged, so nothing is certain: lower the step size"
    if _left_behind(curve):
        return (
            f"{int(curve.stuck.sum())} of {sum(group.size for group in curve.high)} runs are left behind by the "
            "others: whether their share falls to none needs more seeds"
        )
    if curve.lifts[-1] < _OCTAVES * curve.lifts[0] and _is_level(curve, 0):
        return f"the loss is level, but over less than {_OCTAVES:g} times the lift: add a larger or a smaller one"
    return "the seeds scatter too much to say whether the loss still falls over the last doubling of the lift"


def _seeds_needed(curve: _Curve) -> int | None:
    """How many seeds a lift would make the last step as large as it looks significant."""
    pair = [curve.loss[i] for i in (curve.before_last, -1)]
    step = abs(float(pair[1].mean() - pair[0].mean()))
    if not math.isfinite(step) or step == 0:
        return None
    spread = float(sum(group.var(ddof=1) for group in pair))
    return max(MIN_SEEDS, math.ceil(spread * (2.6 / step) ** 2) + 1)


def _law(curve: _Curve) -> tuple[Law | None, Shape]:
    """A law of the limits, of the lifts whose runs have all shown theirs."""
    shown = [i for i in range(len(curve.lifts)) if _closed(curve, i)]
    return fit_law(curve.x[shown], [curve.high[i] for i in shown])


def _exponents(curve: _Curve) -> tuple[LocalExponent, ...]:
    known = [i for i, group in enumerate(curve.loss) if np.isfinite(group).all()]
    return tuple(local_exponents([curve.lifts[i] for i in known], curve.x[known], [curve.loss[i] for i in known]))


def _fall(curve: _Curve) -> float:
    """The ratio by which the median limit surely falls from some lift to the largest; 1 if it does not."""
    low, high = max(float(np.median(group)) for group in curve.low[:-1]), float(np.median(curve.high[-1]))
    return math.exp(min(low - high, 700.0)) if low > high else 1.0


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
