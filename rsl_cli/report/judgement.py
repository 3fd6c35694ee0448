"""What one loss over one set of lifts says: falls, plateaus, rises, or nothing yet, and why in plain sentences."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsl_cli.report.runs import StudyRuns, Table, Which
from rsl_cli.stats import (
    MIN_LIFTS,
    MIN_SEEDS,
    PowerLawFit,
    TailRise,
    Trend,
    fit_power_law,
    page_trend,
    quantile,
    tail_rise,
)

Verdict = Literal["falls", "plateaus", "rises", "inconclusive"]

ALPHA = 0.05
"""Level of every test."""
FLAT_EXPONENT = 0.15
"""An exponent interval within +- this is flat: a hundredfold P would not even halve the loss."""
SLIGHT_CHANGE = 1.1
"""A significant change of the loss over the sweep, or at its largest lift, counts from this ratio on."""
DOUBTFUL_RISE = 1.5
"""A rise at the largest lift by this ratio of medians forbids `falls`, significant or not."""
LEVEL_SPREAD = 2.0
"""A flat curve keeps the medians of all its lifts within this ratio: a hump has a flat fit, too."""


@dataclass(frozen=True)
class Judgement:
    """A verdict with its evidence; ``rests_on`` are the lifts that make it a plateau or a rise."""

    verdict: Verdict
    reasons: tuple[str, ...]
    trend: Trend | None = None
    fit: PowerLawFit | None = None
    rests_on: tuple[int, ...] = ()


@dataclass(frozen=True)
class Views:
    """Judgements of the same study: per loss without overparametrised lifts, and the headline loss with them."""

    headline: Judgement
    by_loss: dict[Which, Judgement]
    with_overparametrised: Judgement


def judge_views(runs: StudyRuns) -> Views:
    """Judge every view of a study once; the headline is on held-out loss, where there is any."""
    crowded = set(runs.overparametrised_lifts)
    views: tuple[Which, ...] = ("train", "test") if runs.headline == "test" else ("train",)
    by_loss: dict[Which, Judgement] = {
        view: judge(runs.table(view, lambda run: run.key.lift not in crowded)) for view in views
    }
    headline = by_loss[runs.headline]
    return Views(headline, by_loss, judge(runs.table(runs.headline)) if crowded else headline)


def judge(table: Table) -> Judgement:
    """Judge the losses of a table.

    Losses count as no smaller than what the arithmetic resolves. `falls` needs a significant falling trend, an
    exponent interval above zero, no visible floor and no turn at the largest lift.

    Args:
        table: losses of seeds by lifts.

    Returns:
        The judgement; never an error, whatever is missing.
    """
    losses = np.maximum(table.losses, table.resolution)
    short = _too_little(table, losses)
    if short is not None:
        return Judgement("inconclusive", (short,))
    trend, tail = page_trend(losses, table.present), tail_rise(losses, table.present)
    fit = fit_power_law(table.params, table.losses, table.resolution)
    if trend is None:
        rows = "no lift has all its seeds" if not table.present.all() else "there are too few"
        return Judgement(
            "inconclusive",
            (f"No trend test is possible, since {rows}: complete at least {MIN_SEEDS} seeds at {MIN_LIFTS} lifts.",),
            fit=fit,
        )
    evidence = [_trend_sentence(trend, table), *([] if fit is None else [_fit_sentence(fit), _floor_sentence(fit)])]
    small = [lift for i, lift in enumerate(table.lifts) if _at_resolution(table, losses, i)]
    if small:
        evidence.append(
            f"At lifts {', '.join(map(str, small))} the median loss is as small as the arithmetic resolves."
        )
    verdict, why, rests_on = _decide(table, losses, trend, fit, tail)
    return Judgement(verdict, (why, *evidence), trend, fit, rests_on)


def _too_little(table: Table, losses: NDArray[np.float64]) -> str | None:
    lifts, seeds = len(table.lifts), len(table.seeds)
    if lifts == 0:
        return "There is no run to judge."
    if not np.isfinite(losses).any():
        return "No run has a finite loss: nothing can be said; lower the step size or repair the runs that failed."
    if lifts < MIN_LIFTS:
        count = _plural(lifts, "lift")
        return f"Only {count} can be compared, a trend needs {MIN_LIFTS}: widen the sweep, e.g. lift=16..1024."
    if seeds < MIN_SEEDS:
        return f"Only {_plural(seeds, 'seed')} per lift, a trend needs {MIN_SEEDS}: add seeds, e.g. seeds=5."
    if (losses <= table.resolution)[table.present].all():
        return (
            "Every loss is as small as the arithmetic can resolve, so no trend can show: "
            "sweep smaller lifts or take a harder target."
        )
    return None


def _decide(
    table: Table, losses: NDArray[np.float64], trend: Trend, fit: PowerLawFit | None, tail: TailRise | None
) -> tuple[Verdict, str, tuple[int, ...]]:
    lifts, last = table.lifts, table.lifts[-1]
    diverged = np.isinf(losses)
    after = () if tail is None else lifts[tail.lowest + 1 :]
    turn = "" if tail is None else _turn_sentence(table, losses, tail)
    significant = tail is not None and tail.p_value < ALPHA and tail.ratio >= SLIGHT_CHANGE
    if tail is not None and significant and tail.lowest > 0:
        return "rises", f"The loss falls up to lift {lifts[tail.lowest]}, then rises: {turn}.", after
    if fit is not None and _is_flat(table, losses, fit):
        level = quantile(losses[table.present], 0.5)
        return "plateaus", f"The loss hardly changes with the lift: it stays at a floor of {level:.2g}.", lifts
    if trend.p_rising < ALPHA or significant:
        return "rises", f"The loss rises with the lift, from lift {lifts[0]} to {last}.", lifts
    if fit is not None and fit.floor_visible:
        median = np.nanmedian(table.params, axis=0)
        low = tuple(lift for lift, p in zip(lifts, median, strict=True) if fit.predict(p) <= 2 * fit.floor)
        return "plateaus", f"The loss falls, then levels off at a floor of {fit.floor:.2g}.", low or (last,)
    if trend.p_value >= ALPHA and diverged.any():
        count = f"{diverged.sum()} of {table.present.sum()} runs"
        return "inconclusive", f"No trend is significant while {count} diverge: lower the step size.", ()
    if trend.p_value >= ALPHA:
        return (
            "inconclusive",
            "No trend is significant, nor is the curve flat for certain: add seeds or widen the range of lifts.",
            after,
        )
    if fit is None or fit.exponent_ci[0] <= 0:
        return (
            "inconclusive",
            "The ranks of the losses fall, but the exponent of the fall may be zero: add seeds or larger lifts.",
            after,
        )
    if fit.floor_suspected:
        return (
            "inconclusive",
            f"The loss falls, but bends at its end as if towards a floor of {fit.floor:.2g}: add larger lifts.",
            (last,),
        )
    if tail is not None and tail.ratio >= DOUBTFUL_RISE:
        return (
            "inconclusive",
            f"The loss falls up to lift {lifts[tail.lowest]}, but may rise after it: {turn}; add seeds.",
            after,
        )
    slow = "" if fit.exponent >= FLAT_EXPONENT else ", but slowly: a hundredfold P would not even halve it"
    return "falls", f"The loss falls with the lift, from lift {lifts[0]} to {last}{slow}.", ()


def _is_flat(table: Table, losses: NDArray[np.float64], fit: PowerLawFit) -> bool:
    """Whether the exponent is surely small, and even its certain part changes the loss little over the sweep."""
    low, high = fit.exponent_ci
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    medians = [quantile(losses[table.present[:, i], i], 0.5) for i in range(len(table.lifts))]
    params = table.params[table.present]
    return (
        not np.isinf(losses).any()
        and max(-low, high) <= FLAT_EXPONENT
        and (params.max() / params.min()) ** nearest < SLIGHT_CHANGE
        and max(medians) < LEVEL_SPREAD * min(medians)
    )


def _at_resolution(table: Table, losses: NDArray[np.float64], i: int) -> bool:
    rows = table.present[:, i]
    return quantile(losses[rows, i] / table.resolution[rows, i], 0.5) <= 1


def _trend_sentence(trend: Trend, table: Table) -> str:
    p_value = trend.p_value if trend.direction == "falling" else trend.p_rising
    strength = "significant" if p_value < ALPHA else "not significant"
    whole = (trend.seeds, trend.lifts) == table.losses.shape
    blocks = "" if whole else " without gaps"
    return (
        f"Page's trend test over {trend.seeds} seeds and {trend.lifts} lifts{blocks}: {trend.direction}, "
        f"p = {p_value:.2g} ({trend.method}), {strength} at {ALPHA:g}."
    )


def _fit_sentence(fit: PowerLawFit) -> str:
    low, high = fit.exponent_ci
    return (
        f"Fitted law: loss = {'floor + ' if fit.floor_visible else ''}a P^-b with b = {fit.exponent:.3g}, "
        f"95 % interval {low:.3g} to {high:.3g}."
    )


def _floor_sentence(fit: PowerLawFit) -> str:
    low, high = fit.floor_ci
    interval = f"95 % interval {low:.2g} to {high:.2g}"
    test = f"F test against no floor: p = {fit.floor_p_value:.2g}"
    if fit.floor_visible:
        return f"A floor is visible at {fit.floor:.2g}, {interval}; {test}."
    if fit.floor_suspected:
        return f"A floor at {fit.floor:.2g}, {interval}, would rest on a single lift; {test}."
    if fit.floor_p_value < ALPHA:
        return f"The curve bends ({test}), yet shows no floor: {interval}, or not level after the bend."
    return f"No floor is visible: {interval}; {test}."


def _turn_sentence(table: Table, losses: NDArray[np.float64], tail: TailRise) -> str:
    lowest, last = table.lifts[tail.lowest], table.lifts[-1]
    final = losses[table.present[:, -1], -1]
    if not math.isfinite(tail.ratio):
        return (
            f"{np.isinf(final).sum()} of {final.size} runs diverged at lift {last} (corrected p = {tail.p_value:.2g})"
        )
    return (
        f"the median at lift {last} is {tail.ratio:.3g} times that at lift {lowest} "
        f"(Mann-Whitney, corrected p = {tail.p_value:.2g})"
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
