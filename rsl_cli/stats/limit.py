"""What a training curve says about its limit: an interval for lim L(t), from where the loss stands and how it fell.

A loss reached at a finite time is an upper bound of the limit, since gradient flow never rises; nothing but the tail
gives a lower one. Let s(t) = -d log L / d log t. What is still to come is a factor exp(-integral of s d log t). Where L
falls like a power of t, s is constant and the integral infinite: no floor is in sight. Where L = L_inf + c t^-p, s
decays like t^-p, and faster and faster until it does: then the integral is at most s / q, q being the exponent at
which s decays now. A logarithm's s decays ever more slowly, and so does that of a loss that leaves a saddle: those give
no bound. No tail shows a saddle ahead: the Hessian does (`at_saddle`), and then there is no bound either.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

WINDOWS = 3
"""Decades of the clock, counted back from the end, whose slopes are compared."""
LEAST_DECAY = 0.25
"""The slope must decay at least like t to minus this: a slower one may be a logarithm's, which has no floor."""
STEADY = 0.75
"""So much of its earlier rate must the slope's decay keep: a rate that falls off is a plateau on the way."""
LEVEL_SLOPE = 5e-3
"""A slope whose bound is below this in each window, hidden by noise, counts as level: the loss loses 1 % a decade."""
LATE_SLOPE = 0.1
"""A slope above this at the end is too far from a floor to foresee one: on the way down, a stair looks like it."""
LEAST_FALL = 1.25
"""A loss that has not yet fallen by this ratio may be at its start."""
UNSTABLE = 0.1
"""A Hessian's least eigenvalue below minus this, in units of 1 / t: what grows by it tells within ten times t."""
_SEEN, _STEADILY = 1e-3, 3.0
_SIGMAS = 3.0


@dataclass(frozen=True)
class Limit:
    """An interval for the limit of a loss; ``low`` is 0 where the tail cannot tell, ``high`` infinite where nothing is.

    ``slope`` is -d log L / d log t over the last decade of the clock, NaN if there is none.
    """

    low: float
    high: float
    slope: float = math.nan

    @property
    def finished(self) -> bool:
        """Whether the tail bounds the limit from below within a factor of two."""
        return self.low > 0 and self.high <= 2 * self.low


def at_saddle(clock: ArrayLike, curvature: ArrayLike) -> bool:
    """Whether a flow that seems at rest will leave: its Hessian has an eigenvalue below 0 that lasts.

    Args:
        clock: (samples,), flow time, ascending.
        curvature: (samples,), the least eigenvalue times the time; NaN where it was not taken.

    Returns:
        Whether the last eigenvalue is far below 0, or has stayed below it for a decade of time.
    """
    t, least = np.asarray(clock, dtype=np.float64), np.asarray(curvature, dtype=np.float64)
    if not least.size or not least[-1] < -_SEEN:
        return False
    # An eigenvalue that goes to 0 like 1 / t, as where parameters run off to infinity, is none; one that stays shows.
    before = least[(t <= t[-1] / 9.9) & np.isfinite(least)]
    return bool(least[-1] < -UNSTABLE or (before.size > 0 and least[-1] < _STEADILY * min(before[-1], 0.0)))


def tail_limit(clock: ArrayLike, losses: ArrayLike) -> Limit:
    """Bound the limit of a loss along a trajectory whose clock is a flow's, or proportional to it.

    Args:
        clock: (samples,), ascending; samples at 0 are left out.
        losses: (samples,), positive and finite, or else left out.

    Returns:
        For a loss that falls at its end, low and high, the loss reached. A loss that surely rises at its end, as a
        held-out one may, is bounded above in the way that a falling one is below.
    """
    t, loss = np.asarray(clock, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    kept = (t > 0) & np.isfinite(t) & (loss > 0) & np.isfinite(loss)
    if not kept.any():
        return Limit(0.0, math.inf)
    x, edges, enough, late, even = _windows(t[kept].tobytes())
    y, width = np.log(loss[kept]), math.log(10)
    end = float(np.exp(y[-1]))
    if not enough:
        return Limit(0.0, end, _last_slope(x, y, width))
    slopes = -np.diff(np.interp(edges, x, y)) / width
    error = _SIGMAS * math.sqrt(2) / width * _noise(even, x[late], y[late])
    begun = abs(y - y[-1]).max() >= math.log(LEAST_FALL)
    rises = slopes[-1] < -error
    rest = _rest(-slopes if rises else slopes, error) if begun else math.inf
    if rises:
        # A held-out loss may: it is bounded above by what it still has to go, and below by where it stands.
        known = math.isfinite(rest)
        return Limit(end if known else 0.0, end * math.exp(rest) if known else math.inf, float(slopes[-1]))
    return Limit(end * math.exp(-rest), end, float(slopes[-1]))


@lru_cache(maxsize=1024)
def _windows(clock: bytes) -> tuple[Array, Array, bool, slice, Array]:
    """What is told by the times alone, which runs of a study have in common.

    Returns:
        Their logarithms; the edges of the windows; whether samples fill these; where the later two of them begin, and
        as many places there as samples, evenly.
    """
    x = np.log(np.frombuffer(clock))
    edges = x[-1] - math.log(10) * np.arange(WINDOWS, -1, -1)
    enough = edges[0] >= x[0] - 1e-9 and (x >= edges[0] - 1e-9).sum() >= 2 * WINDOWS + 1
    late = slice(int(np.searchsorted(x, edges[1] - 1e-9)), None)
    return x, edges, bool(enough), late, np.linspace(x[late][0], x[-1], x[late].size)


def _rest(slopes: Array, error: float) -> float:
    """A bound on what log L still has to go, or infinity."""
    if np.all(np.abs(slopes) + error <= LEVEL_SLOPE):
        return float((np.abs(slopes[-1]) + error) / LEAST_DECAY)
    sure, most = slopes[:-1] - error, slopes[-1] + error
    if most > LATE_SLOPE or sure[0] <= 0:
        return math.inf
    decades = math.log(10)
    if sure[-1] <= 0:
        # Noise hides all but the first slope: from there to here it has decayed at least so fast.
        rate = math.log(sure[0] / most) / (2 * decades) if sure[0] > most else 0.0
        return most / rate if rate >= LEAST_DECAY else math.inf
    late = math.log(sure[-1] / most) / decades
    early = math.log(max(slopes[0], 1e-300) / slopes[1]) / decades
    if late < LEAST_DECAY or late < STEADY * early:
        return math.inf
    return most / late


def _noise(even: Array, x: Array, y: Array) -> float:
    """Standard deviation of what is not smooth, by the median fourth difference at even places: a cubic has none."""
    if y.size < 5:
        return 0.0
    fourth = np.interp(even, x, y)
    for _ in range(4):  # NumPy's own difference and median take most of their time to look at what they are given.
        fourth = fourth[1:] - fourth[:-1]
    ordered = np.sort(np.abs(fourth))
    middle = (ordered[(ordered.size - 1) // 2] + ordered[ordered.size // 2]) / 2
    return float(middle / 0.6745 / math.sqrt(70.0))


def _last_slope(x: Array, y: Array, width: float) -> float:
    before = max(x[0], x[-1] - width)
    if before >= x[-1]:
        return math.nan
    return float(-(y[-1] - np.interp(before, x, y)) / (x[-1] - before))
