"""How often training reaches a target loss: exact intervals, approximation number, learning number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv

ZERO_LOSS = float(np.finfo(np.float64).eps) ** 2
"""The loss that counts as zero if its run recorded no resolution: the square of a rounding error."""


@dataclass(frozen=True)
class Proportion:
    """``successes`` out of ``runs`` with the exact interval of the probability behind them.

    ``open`` of the others may still succeed; the interval's upper end counts them as successes.
    """

    successes: int
    runs: int
    low: float
    high: float
    open: int = 0


@dataclass(frozen=True)
class LearningNumber:
    """Least lift degree from which on success is likely enough; None if there is none in the sweep.

    ``point`` goes by the observed shares, ``low`` by the upper ends of their intervals, ``high`` by the lower ends.
    """

    point: int | None
    low: int | None
    high: int | None


@lru_cache(maxsize=4096)
def clopper_pearson(successes: int, runs: int, confidence: float = 0.95) -> Proportion:
    """Return a share with its exact (Clopper-Pearson) interval; no run at all leaves [0, 1]."""
    if runs == 0:
        return Proportion(0, 0, 0.0, 1.0)
    failures, tail = runs - successes, (1 - confidence) / 2
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - tail)) if failures else 1.0
    return Proportion(successes, runs, low, high)


def success_table(
    lifts: ArrayLike,
    reached: ArrayLike,
    epsilons: Sequence[float],
    least: ArrayLike | None = None,
    confidence: float = 0.95,
) -> dict[float, dict[int, Proportion]]:
    """Count, per target loss and lift, the runs that ended at or below the target.

    Args:
        lifts: (runs,) lift degrees.
        reached: (runs,) losses reached; not finite counts as no success.
        epsilons: target losses.
        least: (runs,) lower bounds of the limits: a run that has not reached the target and may still do so counts as a
            failure in ``low`` and as a success in ``high``. None: what a run reached is its limit.
        confidence: of the exact intervals.

    Returns:
        epsilon -> lift -> proportion.
    """
    degrees, final = np.asarray(lifts, dtype=np.int64), np.asarray(reached, dtype=np.float64)
    bottom = final if least is None else np.asarray(least, dtype=np.float64)
    table: dict[float, dict[int, Proportion]] = {}
    for epsilon in epsilons:
        row = table[epsilon] = {}
        for lift in np.unique(degrees):
            here = degrees == lift
            sure, possible = int((final[here] <= epsilon).sum()), int((bottom[here] <= epsilon).sum())
            row[int(lift)] = Proportion(
                sure,
                int(here.sum()),
                clopper_pearson(sure, int(here.sum()), confidence).low,
                clopper_pearson(max(sure, possible), int(here.sum()), confidence).high,
                max(0, possible - sure),
            )
    return table


def learning_number(success: Mapping[int, Proportion], delta: float) -> LearningNumber:
    """Return the least lift from which on, at it and all larger ones, the share of successes is >= 1 - delta."""

    def least(reached: Mapping[int, float]) -> int | None:
        found = None
        for lift in sorted(reached, reverse=True):
            if reached[lift] < 1 - delta - 1e-12:
                break
            found = lift
        return found

    observed = {lift: share for lift, share in success.items() if share.runs > 0}
    return LearningNumber(
        point=least({lift: share.successes / share.runs for lift, share in observed.items()}),
        low=least({lift: share.high for lift, share in observed.items()}),
        high=least({lift: share.low for lift, share in observed.items()}),
    )


MOST_EXACT = 200
"""So many successes, or failures, are counted out exactly."""


def cochran_armitage(successes: ArrayLike, runs: ArrayLike) -> float:
    """Test whether the share of successes rises along the lifts (Cochran 1954, Armitage 1955).

    It is exact unless both successes and failures are more than `MOST_EXACT`, where the sum is as good as normal.

    The score of a success is the place of its lift; given the total of successes, the null distribution of their
    score's sum is that of draws without replacement.

    Args:
        successes: (lifts,).
        runs: (lifts,).

    Returns:
        One-sided p-value; 1 where all runs succeed, or none.
    """
    count, size = np.asarray(successes, dtype=np.int64), np.asarray(runs, dtype=np.int64)
    total, places = int(count.sum()), np.arange(size.size)
    if total in (0, int(size.sum())):
        return 1.0
    share = total / int(size.sum())
    if min(total, int(size.sum()) - total) > MOST_EXACT:
        mean, score = float(np.average(places, weights=size)), float((places * count).sum())
        spread = float(np.average((places - mean) ** 2, weights=size))
        deviation = math.sqrt(total * (1 - share) * spread * size.sum() / (size.sum() - 1))
        return 0.5 * math.erfc((score - 0.5 - total * mean) / deviation / math.sqrt(2)) if deviation > 0 else 1.0
    if total > MOST_EXACT:
        # Failures that become rarer are the same event.
        return cochran_armitage((size - count)[::-1], size[::-1])
    # ways[k, s]: how many sets of k successes among the lifts so far have the score s; scaled, since they are many.
    ways = np.zeros((total + 1, total * (size.size - 1) + 1))
    ways[0, 0] = 1.0
    for place, lift_size in zip(places, size.tolist(), strict=True):
        grown = np.zeros_like(ways)
        for k in range(min(lift_size, total) + 1):
            # Weighted by what cancels, the chance of as many at the share of all, so that nothing underflows.
            chance = k * math.log(share) + (lift_size - k) * math.log1p(-share)
            weight = math.exp(_log_choose(lift_size, k) + chance)
            shift = k * int(place)
            grown[k:, shift:] += weight * ways[: total + 1 - k, : ways.shape[1] - shift]
        ways = grown
    law = ways[total] / ways[total].sum()
    return float(min(1.0, law[int((places * count).sum()) :].sum()))


def seeds_to_decide(delta: float, confidence: float = 0.95) -> int:
    """Seeds, all of them successful, from which on the exact interval of the share lies above 1 - delta."""
    return math.ceil(math.log((1 - confidence) / 2) / math.log1p(-delta))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def approximation_number(success: Mapping[int, Proportion]) -> int | None:
    """Return the least lift at which some run succeeded: an upper bound on the approximation number."""
    return min((lift for lift, share in success.items() if share.successes > 0), default=None)


def epsilon_grid(losses: ArrayLike, most: int = 25) -> list[float]:
    """Return ascending target losses around all finite losses: 1, 2, 5 per decade, or decades if those are too many."""
    values = np.asarray(losses, dtype=np.float64)
    values = np.maximum(values[np.isfinite(values)], ZERO_LOSS)
    if values.size == 0:
        return []
    low, high = float(values.min()), float(values.max())
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    fine = [float(f"{digit}e{decade}") for decade in range(first, last + 1) for digit in (1, 2, 5)]
    start = max((i for i, value in enumerate(fine) if value <= low), default=0)
    stop = min((i for i, value in enumerate(fine) if value >= high), default=len(fine) - 1)
    if stop - start < most:
        return fine[start : stop + 1]
    stride = math.ceil((last - first + 1) / most)
    return [float(f"1e{decade}") for decade in range(last - (last - first) // stride * stride, last + 1, stride)]
