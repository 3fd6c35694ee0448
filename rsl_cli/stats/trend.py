"""Does the loss fall, or rise, along the lifts? Rank tests with seeds as blocks.

A loss that is not finite belongs to a diverged run and ranks as the worst there is.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

MIN_LIFTS = 3
"""Fewer lifts than this show no trend: two points lie on every curve."""
MIN_SEEDS = 3
"""Fewer seeds than this cannot reach significance, nor be resampled."""
_EXACT_WORK = 500_000  # steps of SciPy's exact recursion that take about a tenth of a second


@dataclass(frozen=True)
class Trend:
    """Page's test in both directions, over complete blocks.

    ``statistic`` and ``p_value`` belong to the hypothesis that the loss falls with the lift, ``p_rising`` to its
    mirror image; ``direction`` is the likelier of the two.
    """

    statistic: float
    p_value: float
    p_rising: float
    direction: Literal["falling", "rising"]
    seeds: int
    lifts: int
    method: Literal["exact", "asymptotic"]


@dataclass(frozen=True)
class TailRise:
    """How the largest lift compares with the lift of the smallest median loss.

    ``ratio`` is the quotient of the two median losses; ``p_value`` is one-sided and corrected for having
    looked for the minimum.
    """

    lowest: int
    ratio: float
    p_value: float


def page_trend(losses: ArrayLike, present: NDArray[np.bool_] | None = None) -> Trend | None:
    """Test whether losses fall, or rise, along the lifts, with seeds as blocks (Page, JASA 58, 1963).

    Args:
        losses: (seeds, lifts), lifts ascending; ties take average ranks.
        present: (seeds, lifts), False where there is no run; the test uses the blocks of `complete_blocks`.

    Returns:
        The trend, or None for fewer than 3 complete seeds or 3 lifts. P-values are exact where that is cheap and the
        normal approximation is poor, which is for few lifts and few seeds.
    """
    table = np.asarray(losses, dtype=np.float64)
    rows, columns = complete_blocks(np.ones(table.shape, dtype=bool) if present is None else present)
    table = np.where(np.isfinite(table), table, np.inf)[np.ix_(rows, columns)]
    seeds, lifts = table.shape
    if seeds < MIN_SEEDS or lifts < MIN_LIFTS:
        return None
    spread = lifts * (lifts**2 - 1) // 6
    method = "exact" if lifts <= 8 and (seeds * spread) ** 2 / 2 <= _EXACT_WORK else "asymptotic"
    ranks = stats.rankdata(table, axis=1)
    falling = stats.page_trend_test(lifts + 1 - ranks, ranked=True, method=method)
    rising = stats.page_trend_test(ranks, ranked=True, method=method)
    return Trend(
        statistic=float(falling.statistic),
        p_value=min(1.0, float(falling.pvalue)),
        p_rising=min(1.0, float(rising.pvalue)),
        direction="falling" if falling.pvalue <= rising.pvalue else "rising",
        seeds=seeds,
        lifts=lifts,
        method=method,
    )


def complete_blocks(present: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Choose seeds and lifts without gaps: lifts with most gaps go first, until enough seeds are complete.

    Args:
        present: (seeds, lifts), True where there is a run.

    Returns:
        Indices of rows and of columns.
    """
    columns = np.flatnonzero(present.any(axis=0))
    while columns.size > MIN_LIFTS and present[:, columns].all(axis=1).sum() < MIN_SEEDS:
        gaps = (~present[:, columns]).sum(axis=0)
        columns = np.delete(columns, int(np.argmax(gaps)))
    return np.flatnonzero(present[:, columns].all(axis=1)), columns


def tail_rise(losses: ArrayLike, present: NDArray[np.bool_] | None = None) -> TailRise | None:
    """Compare the largest lift with the lift of the smallest median: has the curve turned upwards?

    Args:
        losses: (seeds, lifts), lifts ascending.
        present: (seeds, lifts), False where there is no run.

    Returns:
        The comparison (Mann-Whitney, one-sided, Bonferroni over the lifts that could have been lowest), or None if the
        largest lift is the lowest, or there are fewer than two lifts.
    """
    table = np.asarray(losses, dtype=np.float64)
    table = np.where(np.isfinite(table), table, np.inf)
    mask = np.ones(table.shape, dtype=bool) if present is None else present
    columns = np.flatnonzero(mask.any(axis=0))
    if columns.size < 2:
        return None
    medians = [quantile(table[mask[:, column], column], 0.5) for column in columns]
    lowest, last = columns[int(np.argmin(medians))], columns[-1]
    if lowest == last or min(medians) == medians[-1]:
        return None
    before, after = table[mask[:, lowest], lowest], table[mask[:, last], last]
    p_value = float(stats.mannwhitneyu(after, before, alternative="greater").pvalue)
    ratio = medians[-1] / min(medians) if min(medians) > 0 else math.inf
    return TailRise(int(lowest), ratio, min(1.0, p_value * (columns.size - 1)))


def quantile(values: ArrayLike, q: float) -> float:
    """Return a linearly interpolated quantile that stays defined with infinite values; NaN for no value."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if ordered.size == 0:
        return math.nan
    position = q * (ordered.size - 1)
    below = math.floor(position)
    if position == below or ordered[below] == ordered[below + 1]:
        return float(ordered[below])
    if not np.isfinite(ordered[below + 1]):
        return math.inf
    return float(ordered[below] + (position - below) * (ordered[below + 1] - ordered[below]))
