"""Laws of the loss against the number of parameters, quoted only where the seeds' own noise does not reject them.

Noise is the pure error within lifts; what the means of the lifts have beyond it is lack of fit, and a law with too much
of it (F test), or that does not predict the largest lift from the others, is not returned at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from rsl_cli.stats.contrast import contrast, slope_weights
from rsl_cli.stats.trend import MIN_LIFTS, MIN_SEEDS

Array = NDArray[np.float64]

REJECTED = 0.05
"""Level of the test for lack of fit."""
UNPREDICTED = 0.01
"""Level of the test that the other lifts predict the largest."""
FLAT_SHARE = 0.2
"""A floor is quoted if the last step's exponent is surely below this share of the law's: other curves bend, too."""
_DEEPEST = 12.0  # log of the smallest floor looked for, against the smallest mean
_FLOORS = 64


@dataclass(frozen=True)
class Law:
    """``L = floor + amplitude * (P / reference)^-exponent``; without a floor its fields are None.

    ``exponent_ci`` and ``floor_ci`` are 95 % intervals; ``lack_of_fit`` is the p-value that the law was not
    rejected with.
    """

    exponent: float
    exponent_ci: tuple[float, float]
    amplitude: float
    reference: float
    floor: float | None
    floor_ci: tuple[float, float] | None
    lack_of_fit: float

    def predict(self, params: ArrayLike) -> Array:
        """Return the loss at the given numbers of parameters, of the same shape."""
        power = self.amplitude * (np.asarray(params, dtype=np.float64) / self.reference) ** -self.exponent
        return power + (self.floor or 0.0)


@dataclass(frozen=True)
class LocalExponent:
    """``-d log L / d log P`` between two neighbouring lifts, with its 95 % interval."""

    between: tuple[int, int]
    exponent: float
    interval: tuple[float, float]


Shape = Literal["power law", "power law with a floor", "steeper than a power law", "bends", "two regimes", "none"]


def local_exponents(lifts: Sequence[int], x: Array, groups: Sequence[Array]) -> list[LocalExponent]:
    """Exponents between neighbouring lifts.

    Args:
        lifts: degrees, ascending.
        x: (lifts,), mean log number of parameters.
        groups: finite log losses of each lift's seeds, two at least.
    """
    found = []
    for i in range(len(lifts) - 1):
        step = contrast(groups[i : i + 2], np.array([1.0, -1.0]) / (x[i + 1] - x[i]))
        found.append(LocalExponent((lifts[i], lifts[i + 1]), step.value, step.interval()))
    return found


def fit_law(x: Array, groups: Sequence[Array]) -> tuple[Law | None, Shape]:
    """Fit a power law, then one with a floor, and return the first that the data do not reject.

    Args:
        x: (lifts,), mean log number of parameters, ascending.
        groups: finite log losses of each lift's seeds.

    Returns:
        The law, or None if both are rejected or there are fewer than 3 lifts of 3 seeds; and the shape in words.
    """
    if len(groups) < MIN_LIFTS or any(group.size < MIN_SEEDS for group in groups):
        return None, "none"
    means = np.array([group.mean() for group in groups])
    counts = np.array([float(group.size) for group in groups])
    freedom = int(counts.sum()) - len(groups)
    pure = float(sum(((group - group.mean()) ** 2).sum() for group in groups)) / freedom
    centre = x - x.mean()
    law = _power(x, centre, means, counts, groups, pure, freedom)
    if law is not None:
        return law, "power law"
    law = _with_floor(x, centre, means, counts, groups, pure, freedom)
    bend = np.stack([np.ones_like(centre), centre, centre**2], axis=1)
    # A curve that merely bends, and has no floor, fits a floor over a short range: it must be rejected first.
    if law is not None and _lack_of_fit(_weighted_error(bend, means, counts), len(x) - 3, pure, freedom) < REJECTED:
        return law, "power law with a floor"
    return None, _shape(centre, means, counts, groups, pure, freedom)


def _power(
    x: Array, centre: Array, means: Array, counts: Array, groups: Sequence[Array], pure: float, freedom: int
) -> Law | None:
    slope = contrast(groups, slope_weights(x))
    level = means.mean()
    design = np.stack([np.ones_like(centre), centre], axis=1)
    accepted = _lack_of_fit(_weighted_error(design, means, counts), len(x) - 2, pure, freedom)
    if accepted < REJECTED or not _predicts_the_last(centre, groups):
        return None
    low, high = slope.interval()
    return Law(-slope.value, (-high, -low), math.exp(level), math.exp(x.mean()), None, None, accepted)


def _predicts_the_last(centre: Array, groups: Sequence[Array]) -> bool:
    """Whether the line through the other lifts meets the largest one's mean, within the noise of both."""
    if len(groups) < MIN_LIFTS + 1:
        return True
    before = centre[:-1]
    weights = 1 / before.size + slope_weights(before) * (centre[-1] - before.mean())
    miss = contrast(groups, np.append(weights, -1.0))
    return 2 * min(miss.below(0.0), miss.above(0.0)) >= UNPREDICTED


def _with_floor(
    x: Array, centre: Array, means: Array, counts: Array, groups: Sequence[Array], pure: float, freedom: int
) -> Law | None:
    """Profile over the floor: for each of a grid of floors the best power law above it, by Gauss-Newton at once."""
    if len(x) < MIN_LIFTS + 1 or pure <= 0:
        return None
    last = float(means[-1]) + 3 * math.sqrt(pure / counts[-1])
    floors = np.linspace(means.min() - _DEEPEST, min(last, means.max() - 1e-3), _FLOORS)
    reach = pure * float(stats.f.ppf(0.95, 1, freedom))
    _, _, errors = _above(floors, centre, means, counts)
    near = np.flatnonzero(errors - errors.min() <= reach)
    if near[0] == 0:
        return None  # no floor at all would do
    floors = np.linspace(floors[near[0] - 1], floors[min(near[-1] + 1, _FLOORS - 1)], _FLOORS)
    level, exponent, errors = _above(floors, centre, means, counts)
    best = int(errors.argmin())
    accepted = _lack_of_fit(errors[best], len(x) - 3, pure, freedom)
    inside = errors - errors[best] <= reach
    low, high = floors[inside][[0, -1]]
    # A floor above the largest lift's own losses contradicts them.
    if accepted < REJECTED or exponent[best] <= 0 or floors[best] > means[-1]:
        return None
    last = contrast(groups[-2:], np.array([1.0, -1.0]) / (x[-1] - x[-2]))
    if last.below(FLAT_SHARE * float(exponent[best])) > 0.025:
        return None
    reached = _exponent_reach(level[best], exponent[best], floors[best], centre, counts, pure, freedom)
    return Law(
        float(exponent[best]),
        (float(exponent[best]) - reached, float(exponent[best]) + reached),
        math.exp(level[best]),
        math.exp(x.mean()),
        math.exp(floors[best]),
        (math.exp(low), math.exp(high)),
        accepted,
    )


def _exponent_reach(
    level: float, exponent: float, floor: float, centre: Array, counts: Array, pure: float, freedom: int
) -> float:
    """Half the 95 % interval of the exponent, by the linearised law with all three parameters free."""
    power = level - exponent * centre
    share = np.exp(power - np.logaddexp(power, floor))
    columns = np.stack([share, -share * centre, 1 - share], axis=1)
    covariance = pure * np.linalg.pinv(columns.T @ (counts[:, None] * columns))
    return float(stats.t.ppf(0.975, freedom) * math.sqrt(covariance[1, 1]))


def _above(floors: Array, centre: Array, means: Array, counts: Array) -> tuple[Array, Array, Array]:
    """Best level and exponent above each floor (floors,), and their weighted squared errors."""
    span = centre[-1] - centre[0]
    top = np.log(np.maximum(np.exp(means[0] - floors) - 1, 1e-6)) + floors
    exponent = np.clip((top - np.minimum(means[-1] - 1, top - 0.1)) / span, 0.1, 20.0)
    level = top + exponent * centre[0]
    damping = np.full(floors.shape, 1e-2)

    def model(level: Array, exponent: Array) -> tuple[Array, Array, Array]:
        power = level[:, None] - exponent[:, None] * centre
        fitted = np.logaddexp(power, floors[:, None])
        share = np.exp(power - fitted)
        residual = means - fitted
        return residual, share, (counts * residual**2).sum(axis=1)

    residual, share, errors = model(level, exponent)
    for _ in range(60):
        columns = np.stack([share, -share * centre], axis=2)
        normal = np.einsum("fli,flj,l->fij", columns, columns, counts)
        right = np.einsum("fli,fl,l->fi", columns, residual, counts)
        normal += (damping[:, None] * np.einsum("fii->fi", normal) + 1e-12)[:, :, None] * np.eye(2)
        step = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
        tried = level + np.clip(step[:, 0], -3, 3), np.clip(exponent + np.clip(step[:, 1], -3, 3), -20.0, 20.0)
        new_residual, new_share, new_errors = model(*tried)
        better = new_errors <= errors
        level, exponent = np.where(better, tried[0], level), np.where(better, tried[1], exponent)
        residual = np.where(better[:, None], new_residual, residual)
        share = np.where(better[:, None], new_share, share)
        done = np.all(np.abs(errors - new_errors) <= 1e-9 * errors + 1e-15)
        errors = np.where(better, new_errors, errors)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-12, 1e9)
        if done:
            break
    return level, exponent, errors


def _shape(centre: Array, means: Array, counts: Array, groups: Sequence[Array], pure: float, freedom: int) -> Shape:
    """What the curve looks like in log-log, where no law fits: two lines, or the sign of its curvature."""
    for knot in centre[1:-1] if len(centre) >= MIN_LIFTS + 2 else ():
        design = np.stack([np.ones_like(centre), centre, np.maximum(centre - knot, 0.0)], axis=1)
        if _lack_of_fit(_weighted_error(design, means, counts), len(centre) - 3, pure, freedom) >= REJECTED:
            return "two regimes"
    line = np.stack([np.ones_like(centre), centre], axis=1)
    curve = centre**2 - line @ np.linalg.lstsq(line, centre**2, rcond=None)[0]
    bend = contrast(groups, curve)
    if bend.below(0.0) < REJECTED:
        return "steeper than a power law"
    return "bends" if bend.above(0.0) < REJECTED else "none"


def _weighted_error(design: Array, means: Array, counts: Array) -> float:
    root = np.sqrt(counts)
    residual = means - design @ np.linalg.lstsq(design * root[:, None], means * root, rcond=None)[0]
    return float((counts * residual**2).sum())


def _lack_of_fit(error: float, excess: int, pure: float, freedom: int) -> float:
    """P-value of the F test of a law's squared error between lifts against the pure error within them."""
    if excess <= 0:
        return 1.0
    if pure <= 0:
        return float(error <= 1e-20)
    return float(stats.f.sf(error / excess / pure, excess, freedom))


def straight(x: Array, groups: Sequence[Array]) -> float:
    """P-value with which means over x lie on a line, against the noise within groups."""
    means, counts = np.array([group.mean() for group in groups]), np.array([float(group.size) for group in groups])
    freedom = int(counts.sum()) - len(groups)
    pure = float(sum(((group - group.mean()) ** 2).sum() for group in groups)) / freedom
    design = np.stack([np.ones_like(x), x - x.mean()], axis=1)
    return _lack_of_fit(_weighted_error(design, means, counts), len(x) - 2, pure, freedom)
