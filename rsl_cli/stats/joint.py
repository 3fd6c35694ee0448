"""One law for the lift and the clock: ``L(P, t) = floor + a P^-b + c P^-d t^-p``, intervals by resampling seeds.

The limit's law, floor + a P^-b, and the clock's, c P^-d t^-p, come apart where curves of several lifts are seen bending
from one to the other. Where they are not, the limit's terms are left out; where no form follows the curves, there is no
law.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import stdtrit

from rsl_cli.rng import generator
from rsl_cli.stats.trend import MIN_LIFTS, MIN_SEEDS

Array = NDArray[np.float64]

FOLLOWS = 0.25
"""A law follows the curves if its log loss misses theirs by this in the root mean square at most."""
LEAST_CLOCK = 0.4
"""Beside a clock slower than t to minus this, a logarithm's say, no limit can be told from what is still to fall."""
_DRAWS = 40
_POINTS = 3
_MARGIN = 6.0
_NAMES = ("log_c", "d", "p", "log_a", "b", "log_floor")


@dataclass(frozen=True)
class JointLaw:
    """Exponents with their 95 % intervals; None for a term that the curves do not show.

    ``misfit`` is the root mean square of log loss against the law.
    """

    clock_params: float
    clock_params_ci: tuple[float, float]
    clock_time: float
    clock_time_ci: tuple[float, float]
    limit_exponent: float | None
    limit_exponent_ci: tuple[float, float] | None
    floor: float | None
    floor_ci: tuple[float, float] | None
    misfit: float


def fit_joint_law(x: Array, t: Array, curves: Sequence[Array]) -> JointLaw | None:
    """Fit the law to the curves of all lifts at once.

    Args:
        x: (lifts,), mean log number of parameters.
        t: (times,), of the clock, above 0.
        curves: log loss of each lift's seeds, (seeds, times), NaN where a run did not get so far.

    Returns:
        The law of the smallest Bayesian information criterion among those with the clock's term alone, with the
        limit's, and with a floor; None if it does not follow the curves, if the clock is too slow to tell a limit, or
        if there are fewer than 3 lifts of 3 seeds.
    """
    told = [len(curve) >= MIN_SEEDS and np.isfinite(_mean(curve)).sum() >= _POINTS for curve in curves]
    x, curves = x[np.array(told, dtype=bool)], [curve for curve, enough in zip(curves, told, strict=True) if enough]
    if len(curves) < MIN_LIFTS or t.size < 4:
        return None
    centre, clock = x - x.mean(), np.log(t)
    means = np.array([_mean(curve) for curve in curves])
    if np.isfinite(means).sum() < 2 * len(_NAMES):
        return None
    best: tuple[float, Array, int] | None = None
    for terms in (3, 5, 6):
        theta, error = _fit(centre, clock, means, _start(centre, clock, means, terms))
        # Points of one lift share its seeds' deviations: a lift counts as few independent ones, not as all its times.
        count = _POINTS * len(curves)
        criterion = count * np.log(max(error, 1e-12)) + terms * np.log(count)
        # A floor that is the smaller part even of the largest lift's limit is a deviation of its seeds.
        hidden = terms == 6 and theta[5] < theta[3] - theta[4] * centre[-1]
        if best is None or (not hidden and criterion < best[0] - _MARGIN):
            best = criterion, theta, terms
    assert best is not None
    _, theta, terms = best
    if theta[2] < (LEAST_CLOCK if terms > 3 else 0.0):
        return None
    misfit = float(np.sqrt(np.nanmean((_model(theta, centre, clock) - means) ** 2)))
    if misfit > FOLLOWS:
        return None
    random = generator(0, "report/joint")
    draws = []
    for _ in range(_DRAWS):
        drawn = [curve[random.integers(len(curve), size=len(curve))] for curve in curves]
        draws.append(_fit(centre, clock, np.array([_mean(curve) for curve in drawn]), theta)[0])
    spread = np.array(draws)

    def interval(i: int) -> tuple[float, float]:
        # Few seeds resample too narrowly: Student's quantile, and the spread widened as a variance of m is.
        seeds = min(len(curve) for curve in curves)
        reach = float(stdtrit(seeds - 1, 0.975)) * float(spread[:, i].std(ddof=1)) * np.sqrt(seeds / (seeds - 1))
        return float(theta[i] - reach), float(theta[i] + reach)

    floor_ci = None
    if terms == 6:
        low, high = interval(5)
        floor_ci = float(np.exp(low)), float(np.exp(high))
    return JointLaw(
        clock_params=float(theta[1]),
        clock_params_ci=interval(1),
        clock_time=float(theta[2]),
        clock_time_ci=interval(2),
        limit_exponent=float(theta[4]) if terms > 3 else None,
        limit_exponent_ci=interval(4) if terms > 3 else None,
        floor=float(np.exp(theta[5])) if terms == 6 else None,
        floor_ci=floor_ci,
        misfit=misfit,
    )


def _mean(curve: Array) -> Array:
    """Mean over the seeds at the times that all of them reached, NaN at others."""
    return curve.mean(axis=0)


def _model(theta: Array, centre: Array, clock: Array) -> Array:
    """Log loss, (lifts, times)."""
    total = theta[0] - theta[1] * centre[:, None] - theta[2] * clock
    if theta.size > 3:
        total = np.logaddexp(total, (theta[3] - theta[4] * centre)[:, None])
    return np.logaddexp(total, theta[5]) if theta.size > 5 else total


def _start(centre: Array, clock: Array, means: Array, terms: int) -> Array:
    known = np.isfinite(means)
    rows = np.repeat(centre[:, None], clock.size, axis=1)[known]
    columns = np.repeat(clock[None], centre.size, axis=0)[known]
    design = np.stack([np.ones(rows.size), -rows, -columns], axis=1)
    first = np.linalg.lstsq(design, means[known], rcond=None)[0]
    last = np.array([curve[np.isfinite(curve)][-1] for curve in means])
    slope = -np.polyfit(centre, last, 1)[0]
    return np.array([*first, last.mean() - 0.7, slope, last.min() - 1.0])[:terms]


def _fit(centre: Array, clock: Array, means: Array, start: Array) -> tuple[Array, float]:
    known = np.isfinite(means)

    def residual(theta: Array) -> Array:
        return (_model(theta, centre, clock) - means)[known]

    bound = np.array([200.0, 20.0, 5.0, 200.0, 20.0, 200.0])[: start.size]
    found = least_squares(residual, np.clip(start, -bound, bound), bounds=(-bound, bound), max_nfev=60)
    return np.asarray(found.x), float(np.mean(found.fun**2))
