"""How often training reaches a target loss: exact intervals, approximation number, learning number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rsl_cli.stats.power_law import ZERO_LOSS


@dataclass(frozen=True)
class Proportion:
    """``successes`` out of ``runs`` with the exact interval of the probability behind them."""

    successes: int
    runs: int
    low: float
    high: float


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
    interval = stats.binomtest(successes, runs).proportion_ci(confidence_level=confidence, method="exact")
    return Proportion(successes, runs, float(interval.low), float(interval.high))


def success_table(
    lifts: ArrayLike, losses: ArrayLike, epsilons: Sequence[float], confidence: float = 0.95
) -> dict[float, dict[int, Proportion]]:
    """Count, per target loss and lift, the runs that ended at or below the target.

    Args:
        lifts: (runs,) lift degrees.
        losses: (runs,) final losses; not finite counts as no success.
        epsilons: target losses.
        confidence: of the exact intervals.

    Returns:
        epsilon -> lift -> proportion.
    """
    degrees, final = np.asarray(lifts, dtype=np.int64), np.asarray(losses, dtype=np.float64)
    groups = {int(lift): final[degrees == lift] for lift in np.unique(degrees)}
    return {
        epsilon: {
            lift: clopper_pearson(int(np.sum(group <= epsilon)), int(group.size), confidence)
            for lift, group in groups.items()
        }
        for epsilon in epsilons
    }


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
