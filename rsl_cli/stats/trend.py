"""Does the loss fall, or rise, along the lifts? A rank test of values known to intervals, with seeds as blocks.

Two lifts of a seed count only where their intervals do not overlap. Under the null a seed's intervals could stand at
its lifts in any order, so the distribution of the count is that over permutations, seed by seed.
"""

import math
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from rsl_cli.rng import generator

MIN_LIFTS = 3
"""Fewer lifts than this show no trend: two points lie on every curve."""
MIN_SEEDS = 3
"""Fewer seeds than this cannot reach significance, nor show their noise."""
_MANY = 200
"""So many seeds' distributions are summed; of more, the sum is as good as normal, with their variances."""
_EXACT_LIFTS = 8  # 40,320 orders take some milliseconds
_DRAWS = 20_000


@dataclass(frozen=True)
class Trend:
    """The test in both directions.

    ``statistic`` is Kendall's score, summed over seeds: pairs of lifts that surely fall minus pairs that surely rise,
    out of ``pairs``. ``p_value`` belongs to the hypothesis that the loss falls with the lift, ``p_rising`` to its
    mirror image; ``direction`` is the likelier of the two.
    """

    statistic: int
    pairs: int
    comparable: int
    p_value: float
    p_rising: float
    direction: Literal["falling", "rising"]
    seeds: int
    lifts: int
    method: Literal["exact", "Monte Carlo", "normal law of"]


def interval_trend(low: ArrayLike, high: ArrayLike) -> Trend | None:
    """Test whether values known to intervals fall, or rise, along the lifts.

    Args:
        low: (seeds, lifts), lifts ascending, lower ends; NaN where there is no run.
        high: the same, upper ends; infinite for a diverged run.

    Returns:
        The trend, or None for fewer than 3 lifts or 3 seeds with two lifts. The null distribution is exact up to 8
        lifts of a seed, and drawn 20,000 times, always the same, beyond; of more than 200 seeds it is the normal one.
    """
    bottom, top = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    rows = [np.flatnonzero(~np.isnan(top[seed])) for seed in range(len(top))]
    rows = [(seed, columns) for seed, columns in enumerate(rows) if columns.size > 1]
    lifts = len({int(column) for _, columns in rows for column in columns})
    if len(rows) < MIN_SEEDS or lifts < MIN_LIFTS:
        return None
    score, pairs, comparable = 0, 0, 0
    tables = []
    for seed, columns in rows:
        signs = _signs(bottom[seed, columns], top[seed, columns])
        upper = np.triu_indices(len(columns), 1)
        score += int(signs[upper].sum())
        comparable += int(np.abs(signs[upper]).sum())
        pairs += len(upper[0])
        tables.append(signs)
    falling, rising, method = _tails(score, tables)
    return Trend(
        statistic=score,
        pairs=pairs,
        comparable=comparable,
        p_value=min(1.0, falling),
        p_rising=min(1.0, rising),
        direction="falling" if falling <= rising else "rising",
        seeds=len(rows),
        lifts=lifts,
        method=method,
    )


def _tails(
    score: int, tables: list[NDArray[np.int8]]
) -> tuple[float, float, Literal["exact", "Monte Carlo", "normal law of"]]:
    """Probabilities of a score at least and at most so large, where all orders of each seed are as likely."""
    if len(tables) > _MANY:
        # Two pairs of lifts that share one have a covariance of a third, those that share none have none. The law of
        # each seed is symmetric, and so is the sum's.
        squares = sum(int((signs**2).sum()) / 2 + float((signs.sum(axis=1) ** 2.0).sum()) for signs in tables)
        deviation = math.sqrt(max(squares / 3, 1e-300))
        return float(ndtr((1 - score) / deviation)), float(ndtr((1 + score) / deviation)), "normal law of"
    distribution = reduce(np.convolve, [_null(_sorted(signs).tobytes(), len(signs)) for signs in tables])
    middle = len(distribution) // 2  # from minus to plus its largest
    exact = max(map(len, tables)) <= _EXACT_LIFTS
    floor = 0.0 if exact else 1 / _DRAWS
    falling = max(floor, float(distribution[middle + score :].sum()))
    rising = max(floor, float(distribution[: middle + score + 1].sum()))
    return falling, rising, "exact" if exact else "Monte Carlo"


def _signs(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.int8]:
    """1 where the later interval lies surely below the earlier, -1 where above, 0 where they overlap."""
    falls = high[None, :] < low[:, None]
    return falls.astype(np.int8) - falls.T.astype(np.int8)


def _sorted(signs: NDArray[np.int8]) -> NDArray[np.int8]:
    """The same intervals from the surest to fall on: all orders of them are the same, and need to be counted once."""
    order = np.argsort(-signs.sum(axis=1, dtype=np.int64), kind="stable")
    return signs[np.ix_(order, order)]


@lru_cache(maxsize=4096)
def _null(signs: bytes, size: int) -> NDArray[np.float64]:
    """Distribution of the score over the orders of one seed's intervals."""
    table = np.frombuffer(signs, dtype=np.int8).reshape(size, size)
    orders = _orders(size)
    scores = np.zeros(len(orders), dtype=np.int64)
    for i in range(size):
        for j in range(i + 1, size):
            scores += table[orders[:, i], orders[:, j]]
    largest = size * (size - 1) // 2
    return np.bincount(scores + largest, minlength=2 * largest + 1) / len(orders)


@lru_cache(maxsize=32)
def _orders(size: int) -> NDArray[np.intp]:
    if size <= _EXACT_LIFTS:
        return np.array(list(permutations(range(size))), dtype=np.intp)
    random = generator(0, "report/permutations")
    return np.argsort(random.random((_DRAWS, size)), axis=1)


def quantile(values: ArrayLike, q: float) -> float:
    """Return a linearly interpolated quantile, defined with infinite values too; NaN for none or where one is NaN."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if ordered.size == 0 or math.isnan(ordered[-1]):
        return math.nan
    position = q * (ordered.size - 1)
    below = math.floor(position)
    if position == below or ordered[below] == ordered[below + 1]:
        return float(ordered[below])
    if not np.isfinite(ordered[below + 1]):
        return math.inf
    return float(ordered[below] + (position - below) * (ordered[below + 1] - ordered[below]))
