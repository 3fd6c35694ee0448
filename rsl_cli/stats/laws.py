"""Laws of the loss against the number of parameters, quoted only where the seeds' own noise does not reject them.

Noise is the error within lifts; what the means of the lifts have beyond it is lack of fit, and a law with too much
of it (F test), or that does not predict the largest lift from the others, is not returned at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import fdtrc, stdtrit

from rsl_cli.stats.contrast import contrast, slope_weights
from rsl_cli.stats.noise import noise
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

    Returns:
        One for each pair of neighbours, lifts - 1 in all.
    """
    found = []
    for i in range(len(lifts) - 1):
        weights = np.zeros(len(lifts))
        weights[[i, i + 1]] = np.array([1.0, -1.0]) / (x[i + 1] - x[i])
        step = contrast(groups, weights)
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
    points = _points(x, groups)
    law = _power(points)
    if law is not None:
        return law, "power law"
    law = _with_floor(points)
    # A curve that merely bends, and has no floor, fits a floor over a short range: it must be rejected first.
    if law is not None and points.fit(points.centre, points.centre**2) < REJECTED:
        return law, "power law with a floor"
    return None, _shape(points)


@dataclass(frozen=True)
class _Points:
    """Means of log losses over centred log P, (lifts,), with what their noise leaves of them.

    ``weights`` are 1 / squared standard errors; without any noise, of means that are all exact, they are infinite.
    ``even`` are the same if all lifts had one noise: a curve is fitted with those, since few seeds make bad weights,
    and what that costs is in its intervals.
    """

    groups: Sequence[Array]
    x: Array
    centre: Array
    means: Array
    weights: Array
    even: Array
    freedom: Array
    total: float

    @property
    def exact(self) -> bool:
        """Whether no seed differs from another."""
        return bool(np.isinf(self.weights).all())

    def error(self, *columns: Array) -> float:
        """Weighted squared error of the best combination of columns and a constant."""
        design = np.stack([np.ones_like(self.centre), *columns], axis=1)
        root = np.ones_like(self.weights) if self.exact else np.sqrt(self.weights)
        residual = self.means - design @ np.linalg.lstsq(design * root[:, None], self.means * root, rcond=None)[0]
        return float(((root * residual) ** 2).sum())

    def fit(self, *columns: Array) -> float:
        """P-value with which the means are such a combination."""
        return self.lack_of_fit(self.error(*columns), 1 + len(columns))

    def lack_of_fit(self, error: float, parameters: int) -> float:
        """P-value of a law's weighted squared error (Welch, Biometrika 38, 1951, for more than a common mean)."""
        lifts = self.means.size
        excess = lifts - parameters
        if excess <= 0:
            return 1.0
        if self.exact:
            return float(error <= 1e-20)
        uneven = float(((excess / lifts) ** 2 / self.freedom).sum())
        ratio = error / excess / (1 + 2 * (excess - 1) * uneven / (excess * (excess + 2)))
        return float(fdtrc(excess, min(self.total, excess * (excess + 2) / (3 * uneven)), ratio))


def _points(x: Array, groups: Sequence[Array]) -> _Points:
    known = noise(groups)
    # A lift whose seeds all agree, as at what the arithmetic resolves, is not known any better than the others.
    agree = not (known.variance > 0).all()
    pooled = np.full(known.variance.shape, known.variance.mean())
    sizes, means = np.array([group.size for group in groups]), np.array([group.mean() for group in groups])
    with np.errstate(divide="ignore"):
        weights, even = sizes / (pooled if agree else known.variance), sizes / pooled
    return _Points(groups, x, x - x.mean(), means, weights, even, known.freedom, known.total)


def _power(points: _Points) -> Law | None:
    accepted = points.fit(points.centre)
    if accepted < REJECTED or not _predicts_the_last(points):
        return None
    slope = contrast(points.groups, slope_weights(points.x))
    low, high = slope.interval()
    amplitude, reference = math.exp(points.means.mean()), math.exp(points.x.mean())
    return Law(-slope.value, (-high, -low), amplitude, reference, None, None, accepted)


def _predicts_the_last(points: _Points) -> bool:
    """Whether the line through the other lifts meets the largest one's mean, within the noise of both."""
    if len(points.groups) < MIN_LIFTS + 1:
        return True
    before = points.centre[:-1]
    weights = 1 / before.size + slope_weights(before) * (points.centre[-1] - before.mean())
    miss = contrast(points.groups, np.append(weights, -1.0))
    return 2 * min(miss.below(0.0), miss.above(0.0)) >= UNPREDICTED


def _with_floor(points: _Points) -> Law | None:
    """Profile over the floor: for each of a grid of floors the best power law above it, by Gauss-Newton at once."""
    means, centre, x = points.means, points.centre, points.x
    if len(x) < MIN_LIFTS + 1 or points.exact:
        return None
    last = float(means[-1]) + 3 / math.sqrt(points.even[-1])
    floors = np.linspace(means.min() - _DEEPEST, min(last, means.max() - 1e-3), _FLOORS)
    level, exponent, errors = _above(floors, centre, means, points.even)
    best = int(errors.argmin())
    near = np.flatnonzero(errors - errors.min() <= _reach(level[best], exponent[best], floors[best], points)[1])
    if near[0] == 0:
        return None  # no floor at all would do
    floors = np.linspace(floors[near[0] - 1], floors[min(near[-1] + 1, _FLOORS - 1)], _FLOORS)
    level, exponent, errors = _above(floors, centre, means, points.even)
    best = int(errors.argmin())
    misses = means - np.logaddexp(level[best] - exponent[best] * centre, floors[best])
    accepted = points.lack_of_fit(float((points.weights * misses**2).sum()), 3)
    of_exponent, of_errors = _reach(level[best], exponent[best], floors[best], points)
    low, high = _inside(floors, errors - errors[best] - of_errors)
    # A floor above all of the largest lift's own losses contradicts them.
    if accepted < REJECTED or exponent[best] <= 0 or floors[best] > points.groups[-1].max():
        return None
    last_step = np.append(np.zeros(len(x) - 2), np.array([1.0, -1.0]) / (x[-1] - x[-2]))
    if contrast(points.groups, last_step).below(FLAT_SHARE * float(exponent[best])) > 0.025:
        return None
    return Law(
        float(exponent[best]),
        (float(exponent[best]) - of_exponent, float(exponent[best]) + of_exponent),
        math.exp(level[best]),
        math.exp(x.mean()),
        math.exp(floors[best]),
        (math.exp(low), math.exp(high)),
        accepted,
    )


def _inside(grid: Array, excess: Array) -> tuple[float, float]:
    """Where a sampled function that is negative somewhere crosses zero, on either side; the ends where it does not."""
    first, last = np.flatnonzero(excess <= 0)[[0, -1]]
    ends = []
    for i, outside in ((first, first - 1), (last, last + 1)):
        if 0 <= outside < grid.size:
            share = excess[i] / (excess[i] - excess[outside])
            ends.append(float(grid[i] + share * (grid[outside] - grid[i])))
        else:
            ends.append(float(grid[i]))
    return ends[0], ends[1]


def _reach(level: float, exponent: float, floor: float, points: _Points) -> tuple[float, float]:
    """Half the 95 % interval of the exponent, and by how much errors may exceed the best within that of the floor."""
    power = level - exponent * points.centre
    share = np.exp(power - np.logaddexp(power, floor))
    columns = np.stack([share, -share * points.centre, 1 - share], axis=1)
    covariance = np.linalg.pinv(columns.T @ (points.even[:, None] * columns))
    parts = (covariance @ columns.T * points.even) ** 2 / points.weights  # (3, lifts), of the parameters' variances
    variance = parts.sum(axis=1)
    freedom = variance**2 / np.maximum((parts**2 / points.freedom).sum(axis=1), 1e-300)
    quantiles = stdtrit(np.clip(freedom, 1.0, points.total), 0.975)
    wider = variance[2] / max(covariance[2, 2], 1e-300)  # than if all lifts had one noise
    return float(quantiles[1] * math.sqrt(variance[1])), float(quantiles[2] ** 2 * wider)


def _above(floors: Array, centre: Array, means: Array, weights: Array) -> tuple[Array, Array, Array]:
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
        return residual, share, (weights * residual**2).sum(axis=1)

    residual, share, errors = model(level, exponent)
    for _ in range(60):
        columns = np.stack([share, -share * centre], axis=2)
        normal = np.einsum("fli,flj,l->fij", columns, columns, weights)
        right = np.einsum("fli,fl,l->fi", columns, residual, weights)
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


def _shape(points: _Points) -> Shape:
    """What the curve looks like in log-log, where no law fits: two lines, or the sign of its curvature."""
    centre = points.centre
    for knot in centre[1:-1] if len(centre) >= MIN_LIFTS + 2 else ():
        if points.fit(centre, np.maximum(centre - knot, 0.0)) >= REJECTED:
            return "two regimes"
    line = np.stack([np.ones_like(centre), centre], axis=1)
    curve = centre**2 - line @ np.linalg.lstsq(line, centre**2, rcond=None)[0]
    bend = contrast(points.groups, curve)
    if bend.below(0.0) < REJECTED:
        return "steeper than a power law"
    return "bends" if bend.above(0.0) < REJECTED else "none"


def straight(x: Array, groups: Sequence[Array]) -> float:
    """P-value with which means over x lie on a line, against the noise within groups."""
    points = _points(x, groups)
    return points.fit(points.centre)
