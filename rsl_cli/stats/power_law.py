"""The power law with a floor: least squares on log loss, intervals over resampled seeds."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import expit

from rsl_cli.rng import generator
from rsl_cli.stats.trend import MIN_LIFTS, MIN_SEEDS

Array = NDArray[np.float64]

MATERIAL_FLOOR = 0.2
"""A floor is visible only if its interval starts above this share of the smallest median loss."""
LEVEL_CHANGE = 1.5
"""Where a floor dominates, losses that change by less than this ratio against the fitted law still count as level."""
ZERO_LOSS = float(np.finfo(np.float64).eps) ** 2
"""Where a loss of zero is censored if its run recorded no resolution: the square of a rounding error."""
_STEEPEST = 50.0


@dataclass(frozen=True)
class PowerLawFit:
    """The law ``L = floor + amplitude * (P / reference)^-exponent``, fitted on log loss.

    ``floor`` and ``floor_ci`` always come from the law with a floor. ``exponent``, its interval, ``amplitude`` and
    ``sigma`` (residual standard deviation of log loss) come from that law only if the floor is visible,
    otherwise from the pure power law, since a floor that is not there leaves the exponent undetermined. A floor that
    rests on a single lift is suspected, not visible: any bend would give one.
    """

    exponent: float
    exponent_ci: tuple[float, float]
    amplitude: float
    reference: float
    floor: float
    floor_ci: tuple[float, float]
    floor_p_value: float
    floor_visible: bool
    floor_suspected: bool
    sigma: float

    def predict(self, params: ArrayLike) -> Array:
        """Return the fitted loss at the given numbers of parameters, of the same shape."""
        power = self.amplitude * (np.asarray(params, dtype=np.float64) / self.reference) ** -self.exponent
        return power + (self.floor if self.floor_visible else 0.0)


def fit_power_law(
    params: ArrayLike,
    losses: ArrayLike,
    resolution: ArrayLike = 0.0,
    *,
    resamples: int = 400,
    confidence: float = 0.95,
) -> PowerLawFit | None:
    """Fit ``L = floor + a P^-b`` by least squares on log loss, from several starts, with intervals over seeds.

    A loss at or below its resolution is censored: it only says that the law must not lie above it. Intervals are
    percentiles over resampled seeds, at levels widened for few seeds (Hesterberg, American Statistician 69, 2015). A
    floor is visible if the F test prefers it to the pure power law, the interval of the floor starts at a material
    share of the smallest median loss, the last lifts have no material slope against the law, and the floor is the
    larger part of the law at two lifts or more.

    Args:
        params: (seeds, lifts) or (lifts,), numbers of parameters P.
        losses: (seeds, lifts); losses that are not finite are left out.
        resolution: broadcast to (seeds, lifts), the smallest loss that each run can resolve.
        resamples: bootstrap refits.
        confidence: of both intervals.

    Returns:
        The fit, or None if fewer than 3 seeds or 3 lifts have a finite loss, or none lies above its resolution.
    """
    table = np.asarray(losses, dtype=np.float64)
    kept = np.isfinite(table)
    least = np.maximum(np.broadcast_to(np.asarray(resolution, dtype=np.float64), table.shape), ZERO_LOSS)
    seeds, lifts = np.nonzero(kept)
    seed_index = np.unique(seeds, return_inverse=True)[1]
    if len(set(seeds)) < MIN_SEEDS or len(set(lifts)) < MIN_LIFTS or not (table > least)[kept].any():
        return None
    log_params = np.log(np.broadcast_to(np.asarray(params, dtype=np.float64), table.shape)[kept])
    points = _Points(
        x=log_params - log_params.mean(),
        y=np.log(np.maximum(table, least)[kept]),
        censored=(table <= least)[kept],
        lift=lifts,
    )
    one = np.ones((1, points.x.size))
    pure, pure_sse = _best(points, one, _pure_start(points)[None], floor=False)
    full, full_sse = _best(points, one, _starts(points, pure[0]), floor=True)
    count = int(seed_index.max()) + 1
    draws = generator(0, "report/bootstrap").multinomial(count, np.full(count, 1 / count), size=resamples)
    weights = draws[:, seed_index].astype(np.float64)
    pure_draws, pure_errors = _best(points, weights, pure, floor=False)
    low = float(points.y.min())
    alternatives = np.array([full[0], [*pure[0, :2], low - 2.0], [*full[0, :2], low - 0.1]])
    full_draws, full_errors = _best(points, weights, alternatives, floor=True)
    smallest = min(float(np.median(points.y[lifts == lift])) for lift in set(lifts))
    floors = _floors(full_draws[:, 2], full_errors, pure_errors, smallest)
    floor = float(_floors(full[:, 2], full_sse, pure_sse, smallest)[0])
    floor_ci = _interval(floors, count, confidence)
    p_value = _floor_p_value(float(pure_sse[0]), float(full_sse[0]), points.x.size)
    suspected = (
        p_value < 1 - confidence
        and full[0, 1] > 0
        and floor_ci[0] >= MATERIAL_FLOOR * math.exp(smallest)
        and _levels_off(points, full[0], 1 - confidence)
    )
    visible = suspected and len(_on_floor(points, full[0])) > 1
    best, errors, slopes = (
        (full[0], full_sse[0], full_draws[:, 1]) if visible else (pure[0], pure_sse[0], pure_draws[:, 1])
    )
    freedom = max(1, points.x.size - (3 if visible else 2))
    return PowerLawFit(
        exponent=float(best[1]),
        exponent_ci=_interval(slopes, count, confidence),
        amplitude=math.exp(best[0]),
        reference=math.exp(log_params.mean()),
        floor=floor,
        floor_ci=floor_ci,
        floor_p_value=p_value,
        floor_visible=visible,
        floor_suspected=suspected and not visible,
        sigma=math.sqrt(errors / freedom),
    )


@dataclass(frozen=True)
class _Points:
    """Centred log parameters, log losses, whether censored, and the lift of each point."""

    x: Array
    y: Array
    censored: NDArray[np.bool_]
    lift: NDArray[np.intp]


def _pure_start(points: _Points) -> Array:
    spread = float(points.x @ points.x)
    slope = -float(points.x @ points.y) / spread if spread > 0 else 0.0
    return np.array([points.y.mean(), slope, -np.inf])


def _starts(points: _Points, pure: Array) -> Array:
    low, first = float(points.y.min()), points.lift == points.lift.min()
    starts = [[pure[0], pure[1], low - depth] for depth in (0.05, 0.5, 2.0, 6.0)]
    left, top = float(points.x[first].mean()), float(np.median(points.y[first]))
    starts += [[top + slope * left, slope, low - depth] for slope in (0.5, 1.5, 4.0, 12.0) for depth in (0.1, 1.0)]
    return np.array(starts)


def _best(points: _Points, weights: Array, starts: Array, *, floor: bool) -> tuple[Array, Array]:
    """Fit every row of weights from every start; return the best parameters (rows, 3) and their errors (rows,)."""
    rows, tries = weights.shape[0], starts.shape[0]
    theta, errors = _levenberg_marquardt(points, np.repeat(weights, tries, axis=0), np.tile(starts, (rows, 1)), floor)
    errors = errors.reshape(rows, tries)
    choice = errors.argmin(axis=1)
    return theta.reshape(rows, tries, 3)[np.arange(rows), choice], errors[np.arange(rows), choice]


def _levenberg_marquardt(points: _Points, weights: Array, theta: Array, floor: bool) -> tuple[Array, Array]:
    """Minimise all the weighted problems at once: hundreds of small fits one by one would take minutes."""
    bounds = np.array([np.inf, _STEEPEST, np.inf])
    deepest = float(points.y.min()) - 25.0
    if floor:
        theta = np.concatenate([theta[:, :2], np.maximum(theta[:, 2:], deepest)], axis=1)
    damping = np.full(theta.shape[0], 1e-2)
    free = np.array([1.0, 1.0, 1.0 if floor else 0.0])
    residual, jacobian = _residuals(points, theta)
    errors = np.sum(weights * residual**2, axis=1)
    for _ in range(80):
        weighted = jacobian * weights[:, :, None]
        normal = np.swapaxes(jacobian, 1, 2) @ weighted * np.outer(free, free)
        gradient = np.einsum("rnk,rn->rk", weighted, residual) * free
        diagonal = np.einsum("rkk->rk", normal)
        ridge = damping[:, None] * diagonal + 1e-10 + (1 - free)
        step = np.linalg.solve(normal + ridge[:, :, None] * np.eye(3), gradient[:, :, None])[:, :, 0]
        tried = np.clip(theta - np.clip(step, -5.0, 5.0) * free, -bounds, bounds)
        if floor:
            tried[:, 2] = np.maximum(tried[:, 2], deepest)
        else:
            tried[:, 2] = -np.inf
        new_residual, new_jacobian = _residuals(points, tried)
        new_errors = np.sum(weights * new_residual**2, axis=1)
        better = new_errors <= errors
        gain = np.where(better, errors - new_errors, 0.0)
        theta, residual = np.where(better[:, None], tried, theta), np.where(better[:, None], new_residual, residual)
        jacobian, errors = np.where(better[:, None, None], new_jacobian, jacobian), np.where(better, new_errors, errors)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-12, 1e9)
        if np.all((better & (gain <= 1e-10 * errors + 1e-18)) | (damping > 1e8)):
            break
    return theta, errors


def _residuals(points: _Points, theta: Array) -> tuple[Array, Array]:
    power = theta[:, :1] - theta[:, 1:2] * points.x
    model = np.logaddexp(power, theta[:, 2:])
    residual = model - points.y
    share = expit(power - theta[:, 2:])
    jacobian = np.stack([share, -share * points.x, 1 - share], axis=-1)
    slack = points.censored & (residual < 0)
    return np.where(slack, 0.0, residual), np.where(slack[..., None], 0.0, jacobian)


def _floors(log_floor: Array, errors: Array, pure_errors: Array, smallest: float) -> Array:
    useless = (errors >= pure_errors * (1 - 1e-9)) | (log_floor < smallest + math.log(1e-4))
    return np.where(useless, 0.0, np.exp(log_floor))


def _floor_p_value(pure: float, full: float, points: int) -> float:
    if points <= 3 or pure <= 1e-16 * points or full >= pure:
        return 1.0
    return float(stats.f.sf((pure - full) / max(full, 1e-300) * (points - 3), 1, points - 3))


def _levels_off(points: _Points, theta: Array, alpha: float) -> bool:
    """A bend is not a floor: where the floor dominates, do losses keep no slope against the fitted law?"""
    third = sorted(set(points.lift))[-3]
    tail = points.lift >= min(_on_floor(points, theta), default=third)
    tail |= points.lift >= third
    power = theta[0] - theta[1] * points.x
    x, residual = points.x[tail], points.y[tail] - np.logaddexp(power[tail], theta[2])
    if tail.sum() < 4 or np.ptp(residual) < 1e-9:
        return True
    slope, _, _, p_value, _ = np.asarray(stats.linregress(x, residual), dtype=np.float64)
    return bool(p_value >= alpha or abs(slope) * np.ptp(x) < math.log(LEVEL_CHANGE))


def _on_floor(points: _Points, theta: Array) -> list[int]:
    """The lifts at which the floor is the larger part of the law."""
    below = theta[0] - theta[1] * points.x <= theta[2]
    return [int(lift) for lift in set(points.lift) if below[points.lift == lift].all()]


def _interval(draws: Array, seeds: int, confidence: float) -> tuple[float, float]:
    tail = stats.norm.cdf(stats.t.ppf((1 - confidence) / 2, seeds - 1) * math.sqrt(seeds / (seeds - 1)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)
