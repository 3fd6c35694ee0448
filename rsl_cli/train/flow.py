"""Gradient flow, theta' = -grad L(theta), integrated with error control over as many decades of time as it takes.

Numerical differentiation formulas of order 1 to 5 (`rsl_cli.train.ndf`), their implicit equation solved by Newton's
method (`rsl_cli.train.newton`): the flow's own equation on all samples, to the tolerance asked for.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsl_cli.data import Dataset
from rsl_cli.errors import ConfigError, DataError
from rsl_cli.lift import LiftUnion
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.checkpoint import Keeper
from rsl_cli.train.implicit import Course, is_stationary, reach, train_implicit
from rsl_cli.train.ndf import Differences
from rsl_cli.train.newton import FEW_STEPS, Newton
from rsl_cli.train.objective import Objective
from rsl_cli.train.replicas import Answer, Ask, Method
from rsl_cli.train.settings import check_values, known_keys, real, whole
from rsl_cli.train.trajectory import TrainingResult, Trajectory

FIRST_TIME = 1e-2
"""Flow time of the first sample after the start."""
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
        tolerance = max(10 * np.finfo(float).eps / settings.rtol, min(0.03, settings.rtol**0.5))
        self.newton = Newton(course.samples, tolerance, course.start)

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
        diff, halved = self.differences, False
        while True:
            if diff.h < 10 * np.spacing(self.t) or diff.h < 1e-290:
                return None
            predicted = diff.predicted
            solved = yield from self.newton.solve(predicted, diff.psi, diff.c, partial(self._norm, y=predicted))
            if solved is None:
                # Too few samples in the matrix, or too long a step: the step's length is tried first.
                if halved and self.newton.grow():
                    halved = False
                else:
                    self._rescale(0.5)
                    halved = True
                continue
            correction = solved.correction
            y = predicted + correction
            safety = 0.9 * (2 * FEW_STEPS + 1) / (2 * FEW_STEPS + solved.iterations)
            error = self._norm(diff.error(correction), y)
            if error > 1:
                self._rescale(max(_LEAST_FACTOR, safety * error ** (-1 / (diff.order + 1))))
                continue
            self.step += 1
            self.t += diff.h
            self.since_change += 1
            self.newton.accepted()
            diff.advance(correction)
            if self.since_change > diff.order:
                self._choose_order(error, y, safety)
            return solved.loss

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
        scalars = np.array([self.step, self.t, diff.h, diff.order, self.since_change])
        self.course.commit(differences=diff.d.copy(), scalars=scalars, **self.newton.state())

    def _resume(self) -> Generator[Ask, Answer, None]:
        state = self.course.state
        step, self.t, h, order, since = state["scalars"].tolist()
        self.step, self.since_change = int(step), int(since)
        self.differences = Differences(state["differences"].copy(), h, int(order))
        self.times = [at for at in self.times if at > self.t]
        yield from self.newton.resume(state)
