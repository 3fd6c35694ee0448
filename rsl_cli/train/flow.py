"""Gradient flow, theta' = -grad L(theta), integrated with error control over as many decades of time as it takes.

Numerical differentiation formulas of order 1 to 5 (`rsl_cli.train.ndf`), their implicit equation solved by Newton's
method with the Gauss-Newton matrix for the Hessian. The matrix is kept for as many steps as Newton's method converges
with it and taken over no more samples than that needs: stiff modes are few early on, whatever the lift. It decides
speed alone: what is solved is the flow's own equation on all samples, to the tolerance asked for.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsl_cli.data import Dataset
from rsl_cli.errors import ConfigError, DataError
from rsl_cli.lift import LiftUnion
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.checkpoint import Keeper
from rsl_cli.train.gauss_newton import Curvature, SingularError
from rsl_cli.train.implicit import Course, is_stationary, reach, train_implicit
from rsl_cli.train.ndf import Differences
from rsl_cli.train.objective import Objective
from rsl_cli.train.replicas import Answer, Ask, Method
from rsl_cli.train.settings import check_values, known_keys, real, whole
from rsl_cli.train.trajectory import TrainingResult, Trajectory

FIRST_TIME = 1e-2
"""Flow time of the first sample after the start."""
_FIRST_SUBSET = 256
"""Samples of the first Gauss-Newton matrix; twice as many where Newton's method fails with a fresh one, half the step
later too."""
_NEWTON_STEPS = 4
_FIRST_ERROR = 0.01
"""Share of the tolerance that the first step's whole motion may be, before error control takes over."""
_LEAST_FACTOR, _MOST_FACTOR = 0.2, 10.0


@dataclass(frozen=True)
class Flow:
    """Settings of the gradient flow.

    Args:
        name: ``flow``.
        t_end: flow time at which to stop.
        rtol: accepted local error of each parameter, relative to its size.
        atol: the same, absolute.
        epsilon: stop at a loss at or below this; None: do not.
        stationary: stop where |grad L| * max(|theta|, distance) / L falls to this.
        max_steps: steps after which to give up.
        log_per_decade: samples of the trajectory per decade of time.
    """

    name: str = "flow"
    t_end: float = 1e6
    rtol: float = 1e-3
    atol: float = 1e-6
    epsilon: float | None = None
    stationary: float = 1e-4
    max_steps: int = 20000
    log_per_decade: int = 4

    @property
    def dtype(self) -> str:
        """Always float64: the last decades of time lie below float32's rounding."""
        return "float64"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Flow":
        """Read and validate the settings.

        Raises:
            ConfigError: an unknown key or a value out of range, with the key as ``trainer.KEY``.
        """
        settings = cls(**known_keys(config, cls))
        return settings.validated()

    def validated(self) -> "Flow":
        """These settings, if they can be used."""
        rules = {
            "t_end": (real(self.t_end) and self.t_end >= 0, "a number from 0"),
            "rtol": (real(self.rtol) and 1e-12 <= self.rtol <= 0.1, "a number from 1e-12 to 0.1"),
            "atol": (real(self.atol) and self.atol > 0, "a number above 0"),
            "epsilon": (self.epsilon is None or (real(self.epsilon) and self.epsilon > 0), "null or a number above 0"),
            "stationary": (real(self.stationary) and self.stationary >= 0, "a number from 0"),
            "max_steps": (whole(self.max_steps, 0), "a whole number from 0"),
            "log_per_decade": (whole(self.log_per_decade, 1), "a whole number from 1"),
        }
        check_values(self, rules)
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that determine the numbers: all of them."""
        return asdict(self)

    def method(self, course: Course, resolution: float) -> Method:
        """Integrate one replica; see `rsl_cli.train.implicit.Stepper`."""
        return _Integration(self, _times(self.t_end, self.log_per_decade), course, resolution).run()


def gradient_flow(
    net: LiftedNetwork,
    x: Tensor,
    y: Tensor,
    *,
    t_end: float = 1e6,
    rtol: float = 1e-3,
    atol: float = 1e-6,
    sample_times: Sequence[float] | None = None,
    loss: str = "mse",
    epsilon: float | None = None,
    max_steps: int = 20000,
) -> Trajectory | tuple[Trajectory, ...]:
    """Train a network by gradient flow on all samples.

    Args:
        net: float64, over a lift or a union; left with the final parameters.
        x: (N, *input_shape).
        y: (N, outputs), or class numbers (N,) for ``cross_entropy``.
        t_end: flow time at which to stop.
        rtol: accepted local error of each parameter, relative to its size.
        atol: the same, absolute.
        sample_times: when to sample the trajectory, besides 0 and t_end; None: four times a decade from 0.01.
        loss: ``mse`` (half the mean squared residual norm) or ``cross_entropy``.
        epsilon: stop at a loss at or below this.
        max_steps: steps after which to give up.

    Returns:
        The trajectory, its held-out losses being the training ones; for a union one for each replica.

    Raises:
        ConfigError, DataError, TrainingError: what cannot be integrated, in one line.
    """
    settings = Flow("flow", t_end, rtol, atol, epsilon, max_steps=max_steps).validated()
    inputs, targets = (tensor.detach().cpu().numpy() for tensor in (x, y))
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise DataError(f"{len(inputs)} inputs and {len(targets)} targets; as many of one as of the other are needed")
    classify = loss == "cross_entropy"
    targets = targets.astype(np.int64) if classify else targets.astype(np.float64).reshape(len(targets), -1)
    outputs = net.lift.base.output_size
    inputs = inputs.astype(np.float64)
    data = Dataset(
        "given", "classification" if classify else "regression", inputs, targets, inputs[:1], targets[:1], outputs
    )
    device = next(net.parameters()).device
    objective = Objective(data, loss, dtype=torch.float64, device=device)
    times = None if sample_times is None else _chosen_times(sample_times, t_end)
    results = train_implicit(net, objective, _Timed(settings, times))
    paths = tuple(result.trajectory for result in results)
    return paths if isinstance(net.lift, LiftUnion) else next(iter(paths))


@dataclass(frozen=True)
class _Timed:
    """The flow sampled at times of one's own."""

    settings: Flow
    times: Sequence[float] | None

    def method(self, course: Course, resolution: float) -> Method:
        if self.times is None:
            return self.settings.method(course, resolution)
        return _Integration(self.settings, self.times, course, resolution).run()


def train_flow(
    network: LiftedNetwork,
    objective: Objective,
    settings: Flow,
    *,
    keeper: Keeper | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[TrainingResult]:
    """Train every replica by gradient flow; see `rsl_cli.train.implicit.train_implicit`."""
    return train_implicit(network, objective, settings, keeper=keeper, progress=progress)


def _times(t_end: float, per_decade: int) -> list[float]:
    """Sample times after 0: about evenly spaced in the logarithm, decades hit exactly, then ``t_end``."""
    count = 0 if t_end <= FIRST_TIME else math.floor(per_decade * math.log10(t_end / FIRST_TIME) + 1e-9) + 1
    first = math.log10(FIRST_TIME)
    spaced = (10.0 ** (first + i / per_decade) for i in range(count))
    return sorted({*(t for t in spaced if 0 < t < t_end * (1 - 1e-12)), *([t_end] if t_end > 0 else [])})


def _chosen_times(times: Sequence[float], t_end: float) -> list[float]:
    for t in times:
        if not 0 <= t <= t_end:
            raise ConfigError(f"sample time {t!r} lies outside 0 to t_end={t_end!r}")
    return sorted({*(float(t) for t in times if t > 0), *([t_end] if t_end > 0 else [])})


class _Integration:
    """One replica under way: error control, Newton's method, samples."""

    def __init__(self, settings: Flow, times: Sequence[float], course: Course, resolution: float) -> None:
        self.settings, self.course, self.resolution = settings, course, resolution
        self.times = list(times)
        self.step, self.t = 0, 0.0
        self.since_change = 0
        self.curvature: Curvature | None = None
        self.formed_at = course.start
        self.fresh = False
        self.subset = min(course.samples, _FIRST_SUBSET)
        rtol = settings.rtol
        self.newton_tolerance = max(10 * np.finfo(float).eps / rtol, min(0.03, rtol**0.5))

    def run(self) -> Method:
        """Integrate from the course's state to its end."""
        course = self.course
        if course.state:
            yield from self._resume()
        elif not (yield from self._begin()):
            return
        while course.end is None:
            if self.step >= self.settings.max_steps:
                yield from self._finish("budget")
                break
            loss = yield from self._one_step()
            if loss is None:
                yield from self._finish("stalled")
                break
            while self.times and self.times[0] <= self.t and course.end is None:
                at = self.times.pop(0)
                yield from self._sample(at, self.differences.at(self.t - at))
            if course.end is None and self.settings.epsilon is not None and loss <= self.settings.epsilon:
                yield from self._finish("target")
            if course.end is None:
                self._commit()

    def _begin(self) -> Generator[Ask, Answer, bool]:
        y, course = self.course.start, self.course
        answer = yield Ask(y, held_out=True)
        course.sample(0, 0.0, y, answer)
        course.path.append((0, 0.0, y.copy()))
        if not (math.isfinite(answer.loss) and np.isfinite(answer.gradient).all()):
            course.end = "diverged"
        elif self._is_stationary(y, answer):
            course.end = "stationary"
        elif self.settings.epsilon is not None and answer.loss <= self.settings.epsilon:
            course.end = "target"
        elif not self.times:
            course.end = "time"
        if course.end is not None:
            course.commit()
            return False
        slope = -answer.gradient
        h = _FIRST_ERROR / max(self._norm(slope, y), 1e-300)
        self.differences = Differences.start(y, slope, min(h, self.settings.t_end))
        return True

    def _one_step(self) -> Generator[Ask, Answer, float | None]:
        """Take one accepted step; its loss, or None if no step is possible."""
        diff, halved = self.differences, 0
        while True:
            if diff.h < 10 * np.spacing(self.t) or diff.h < 1e-290:
                return None
            predicted = diff.predicted
            solved = yield from self._solve(predicted, diff.psi, diff.c)
            if solved is None:
                if not self.fresh:
                    self.curvature = None
                elif self.subset < self.course.samples and halved > 0:
                    self.subset, self.curvature, halved = min(2 * self.subset, self.course.samples), None, 0
                else:
                    self._rescale(0.5)
                    halved += 1
                continue
            correction, loss, iterations = solved
            y = predicted + correction
            safety = 0.9 * (2 * _NEWTON_STEPS + 1) / (2 * _NEWTON_STEPS + iterations)
            error = self._norm(diff.error(correction), y)
            if error > 1:
                self._rescale(max(_LEAST_FACTOR, safety * error ** (-1 / (diff.order + 1))))
                continue
            self.step += 1
            self.t += diff.h
            self.since_change += 1
            self.fresh = False
            diff.advance(correction)
            if self.since_change > diff.order:
                self._choose_order(error, y, safety)
            return loss

    def _solve(
        self, predicted: np.ndarray, psi: np.ndarray, c: float
    ) -> Generator[Ask, Answer, tuple[np.ndarray, float, int] | None]:
        """Newton's method for the correction; (correction, loss, iterations), or None if it does not converge."""
        correction, previous = np.zeros_like(predicted), None
        for iteration in range(1, _NEWTON_STEPS + 1):
            y = predicted + correction
            answer = yield Ask(y, curvature=self.subset if self.curvature is None else 0)
            if answer.curvature is not None:
                self.curvature, self.formed_at, self.fresh = answer.curvature, y, True
            if not (math.isfinite(answer.loss) and np.isfinite(answer.gradient).all()) or self.curvature is None:
                return None
            try:
                update = self.curvature.solve(c, -c * answer.gradient - psi - correction)
            except SingularError:
                return None
            size = self._norm(update, predicted)
            rate = None if previous is None else size / previous
            if not math.isfinite(size) or (
                rate is not None
                and (rate >= 1 or rate ** (_NEWTON_STEPS + 1 - iteration) / (1 - rate) * size > self.newton_tolerance)
            ):
                return None
            correction = correction + update
            if size == 0 or (rate is not None and rate / (1 - rate) * size < self.newton_tolerance):
                return correction, answer.loss, iteration
            previous = size
        return None

    def _choose_order(self, error: float, y: np.ndarray, safety: float) -> None:
        diff = self.differences
        lower, higher = diff.neighbour_errors()
        errors = {diff.order: error}
        if lower is not None:
            errors[diff.order - 1] = self._norm(lower, y)
        if higher is not None:
            errors[diff.order + 1] = self._norm(higher, y)
        factors = {k: math.inf if e == 0 else e ** (-1 / (k + 1)) for k, e in errors.items()}
        diff.order = max(factors, key=lambda k: factors[k])
        self._rescale(min(_MOST_FACTOR, safety * factors[diff.order]))

    def _rescale(self, factor: float) -> None:
        self.differences.rescale(factor)
        self.since_change = 0

    def _norm(self, vector: np.ndarray, y: np.ndarray) -> float:
        """Root mean square over parameters, in units of the tolerance."""
        scaled = vector / (self.settings.atol + self.settings.rtol * np.abs(y))
        return float(np.sqrt(scaled @ scaled / len(scaled)))

    def _sample(self, at: float, y: np.ndarray) -> Generator[Ask, Answer, None]:
        course = self.course
        answer = yield Ask(y, held_out=True)
        course.sample(self.step, at, y, answer)
        decade = math.log10(at)
        last = not self.times
        if last or (abs(decade - round(decade)) < 1e-9 and round(decade) >= 0):
            course.path.append((self.step, at, y.copy()))
        course.share = min(1.0, self._progress(at))
        if last:
            course.end = "time"
        if self._is_stationary(y, answer):
            course.end = "stationary"
        if course.end is not None:
            course.commit()

    def _is_stationary(self, y: np.ndarray, answer: Answer) -> bool:
        grad_norm = float(np.linalg.norm(answer.gradient))
        far = reach(y, self.course.start)
        return is_stationary(answer.loss, grad_norm, far, self.settings.stationary, self.resolution)

    def _progress(self, at: float) -> float:
        span = math.log10(max(self.settings.t_end, 10 * FIRST_TIME) / FIRST_TIME)
        return math.log10(max(at, FIRST_TIME) / FIRST_TIME) / span

    def _finish(self, reason: str) -> Generator[Ask, Answer, None]:
        """End where training stands, with a last sample there if there is none."""
        course, y = self.course, self.differences.d[0].copy()
        if course.rows[-1][1] < self.t:
            answer = yield Ask(y, held_out=True)
            course.sample(self.step, self.t, y, answer)
        if course.path[-1][1] < self.t:
            course.path.append((self.step, self.t, y))
        course.end = reason
        course.commit()

    def _commit(self) -> None:
        diff = self.differences
        scalars = np.array([self.step, self.t, diff.h, diff.order, self.since_change, self.subset])
        self.course.commit(differences=diff.d.copy(), scalars=scalars, formed_at=self.formed_at.copy())

    def _resume(self) -> Generator[Ask, Answer, None]:
        """Go on from a checkpoint: the matrix is formed again where it was formed before."""
        state = self.course.state
        step, self.t, h, order, since, subset = state["scalars"].tolist()
        self.step, self.since_change, self.subset = int(step), int(since), int(subset)
        self.formed_at = state["formed_at"]
        self.differences = Differences(state["differences"].copy(), h, int(order))
        self.times = [at for at in self.times if at > self.t]
        answer = yield Ask(self.formed_at, curvature=self.subset)
        self.curvature = answer.curvature
