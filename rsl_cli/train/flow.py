"""Gradient flow, theta' = -grad L(theta), integrated with error control over as many decades of time as it takes.

Numerical differentiation formulas of order 1 to 5 (`rsl_cli.train.ndf`), their implicit equation solved by Newton's
method: the flow's own equation on all samples, to the tolerance asked for. Numbers are learned with the Gauss-Newton
matrix (`rsl_cli.train.newton`), classes by products with the Hessian (`rsl_cli.train.krylov`).
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from rsl_cli.train.checkpoint import Saved
from rsl_cli.train.gauss_newton import is_dear, side
from rsl_cli.train.implicit import ImplicitTrainer, ReplicaState, is_stationary, parameters_alone
from rsl_cli.train.krylov import NewtonKrylov
from rsl_cli.train.ndf import Differences
from rsl_cli.train.newton import FEW_STEPS, Newton
from rsl_cli.train.optimizers import Gd
from rsl_cli.train.replicas import Answer, Request, Solver
from rsl_cli.train.settings import FLOW
from rsl_cli.train.trainer import Sizes
from rsl_cli.train.trajectory import Row, Stand

FIRST_TIME = 1e-2
"""Flow time of the first sample after the start."""
_FIRST_ERROR = 0.01
"""Share of the tolerance that the first step's whole motion may be, before error control takes over."""
_LEVEL_FALL = 1.5
"""A loss that has fallen by less than this ratio over a decade may be coming to rest."""
_MOST_PARAMETERS = 2000
"""Beyond, the eigenvalues of a sample cost more than the steps between two."""
_LEAST_UNIT = 1e-12
"""Of the ways that parameters have to go for outputs to move, that errors are measured by."""
_HIDDEN = 10.0
"""Times the solution's derivative, that rounding may add to the gradient before it hides where the flow goes."""
_SHORT = 0.02
"""Of the time, that a step is late, while it is followed; steps that come to be shorter there are rounding's."""
_KNOWN = 0.3
"""Of the gradient, that rounding may add before it is not the flow's."""
_LEAST_FACTOR = 0.2
_FIRST_STEPS = (1e3, 1e30)
"""The least first step, in spacings of floating point at its time, and the longest."""
_SAME = 1 + 1e-12
"""Times that differ by less than this factor are one."""
_SUBSET = 512
"""Samples of the Gauss-Newton matrix, mostly."""
_KEYS = FLOW


@dataclass(frozen=True)
class Flow(ImplicitTrainer):
    """Settings of the gradient flow.

    Args:
        name: ``flow``.
        t_end: flow time at which to stop.
        rtol: accepted local error of each parameter, relative to its size.
        atol: the same, absolute; of a parameter that by itself moves outputs by as much as the first residuals in less
            than 1, a share of that instead: so errors do not depend on the targets' unit.
        epsilon: stop at a loss at or below this; None: do not.
        stationary: stop where the relative gradient (`rsl_cli.train.objective.relative_gradient`) falls to this.
        max_steps: steps after which to give up.
        log_per_decade: samples of the trajectory per decade of time.
    """

    name: str = "flow"
    t_end: float = _KEYS["t_end"].default
    rtol: float = _KEYS["rtol"].default
    atol: float = _KEYS["atol"].default
    epsilon: float | None = _KEYS["epsilon"].default
    stationary: float = _KEYS["stationary"].default
    max_steps: int = _KEYS["max_steps"].default
    log_per_decade: int = _KEYS["log_per_decade"].default

    keys = _KEYS
    pace = 1.5
    """Its first decades of time take fewer steps; stored studies are within a factor of two of this."""

    def matrix(self, sizes: Sizes) -> int:
        """Of some samples, where products do not serve it better."""
        dear = is_dear(sizes.parameters, sizes.samples, sizes.outputs, classify=sizes.classify)
        return 0 if dear else side(sizes.parameters, min(sizes.samples, _SUBSET), sizes.outputs)

    def beginning(self, steps: int) -> "Flow":
        """The same flow for as long as so many steps of gradient descent at its rate, its own being of any length."""
        return self.to(t_end=steps * Gd.usual["learning_rate"], epsilon=None)

    def goes_on(self, rows: list[Row], state: Mapping[str, np.ndarray]) -> Saved:
        """What a run goes on from of which the results alone are left: anew, from where it stands."""
        return parameters_alone(rows, state)

    def reaches(self, stand: Stand) -> bool:
        """Whether a run that stands there is as far as asked for."""
        return stand.time * _SAME >= self.t_end or stand.reaches(self.max_steps, self.epsilon)

    def reopen(self, replica_state: ReplicaState) -> None:
        """See `rsl_cli.train.implicit.Stepper`."""
        if not self.reaches(replica_state.stand):
            grid = {0.0, *time_grid(self.t_end, self.log_per_decade)}
            # Samples from before a restart are all that is known of that time.
            before = -1.0 if replica_state.restarted_at is None else replica_state.restarted_at
            replica_state.go_on(lambda row: row.time <= before or row.time in grid, _is_decade)

    def solver(self, replica_state: ReplicaState, resolution: float) -> Solver:
        """Integrate one replica; see `rsl_cli.train.implicit.Stepper`."""
        return Integration(self, time_grid(self.t_end, self.log_per_decade), replica_state, resolution).run()


def time_grid(t_end: float, per_decade: int) -> list[float]:
    """Sample times after 0: about evenly spaced in the logarithm, decades hit exactly; a later end adds to them."""
    count = 0 if t_end < FIRST_TIME else math.floor(per_decade * math.log10(t_end / FIRST_TIME) + 1) + 1
    spaced = (10.0 ** (math.log10(FIRST_TIME) + i / per_decade) for i in range(count))
    return [at for at in spaced if at <= t_end * _SAME]


def _is_decade(at: float) -> bool:
    """Whether the path has a point at a time: at 0, and once a decade from 1."""
    decade = math.log10(at) if at > 0 else 0.0
    return abs(decade - round(decade)) < 1e-9 and round(decade) >= 0


class Integration:
    """One replica under way: error control, Newton's method, samples."""

    def __init__(self, settings: Flow, grid: Sequence[float], replica_state: ReplicaState, resolution: float) -> None:
        self.settings, self.replica_state, self.resolution = settings, replica_state, resolution
        last = [] if grid and grid[-1] * _SAME >= settings.t_end else [settings.t_end]
        self.grid, self.times = set(grid), [at for at in (*grid, *last) if at > 0]
        self.step, self.t, self.loss = 0, 0.0, math.inf
        self.under_way = False
        self.since_change = 0
        tolerance = max(10 * np.finfo(float).eps / settings.rtol, min(0.03, settings.rtol**0.5))
        by_products = NewtonKrylov(tolerance) if replica_state.by_products else None
        self.newton = by_products or Newton(replica_state.samples, tolerance, replica_state.start)

    def run(self) -> Solver:
        """Integrate from the replica's state to its end."""
        replica_state = self.replica_state
        first = yield Request(replica_state.start, lone_reach=True, held_out=True)
        assert first.lone_reach is not None
        self.atol = self.settings.atol * np.clip(first.lone_reach, _LEAST_UNIT, 1.0)
        if replica_state.state:
            yield from self._resume()
        elif not self._begin(first):
            return
        while replica_state.end is None:
            while self.times and self.times[0] <= self.t and replica_state.end is None:
                at = self.times.pop(0)
                yield from self._sample(at)
            if replica_state.end is not None:
                break
            if self.settings.epsilon is not None and self.loss <= self.settings.epsilon:
                yield from self._finish("target")
            elif not self.times:
                yield from self._finish("time")  # Less is asked for now than when it came here.
            elif self.step >= self.settings.max_steps:
                yield from self._finish("budget")
            else:
                if self.under_way:
                    self._commit()
                yield from self._one_step()

    def _begin(self, answer: Answer) -> bool:
        y, replica_state = self.replica_state.start, self.replica_state
        replica_state.sample(0, 0.0, y, answer)
        replica_state.keep(0, 0.0, y)
        if not (math.isfinite(answer.loss) and np.isfinite(answer.gradient).all()):
            replica_state.end = "diverged"
        elif self._is_stationary():
            replica_state.end = "stationary"
        elif self.settings.epsilon is not None and answer.loss <= self.settings.epsilon:
            replica_state.end = "target"
        elif not self.times:
            replica_state.end = "time"
        if replica_state.end is not None:
            replica_state.commit()
            return False
        self._set_out(y, answer)
        return True

    def _set_out(self, y: np.ndarray, answer: Answer) -> None:
        """Begin the formulas at parameters y, at the present time."""
        slope, (least, longest) = -answer.gradient, _FIRST_STEPS
        h = _FIRST_ERROR / max(self._norm(slope, y), 1e-300)
        self.differences = Differences.start(y, slope, min(max(h, least * np.spacing(self.t)), longest))
        self.loss = answer.loss

    def _one_step(self) -> Generator[Request, Answer, None]:
        """Take one accepted step, or end where none is possible."""
        diff, halved = self.differences, False
        while True:
            if diff.h < 10 * np.spacing(self.t) or diff.h < 1e-290:
                yield from self._finish("stalled")
                return
            predicted = diff.predicted
            solved = yield from self.newton.solve(
                diff.d[0].copy(), predicted, diff.psi, diff.c, partial(self._norm, y=predicted)
            )
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
            self.loss, self.under_way = solved.loss, True
            self.since_change += 1
            self.newton.accepted()
            diff.advance(correction)
            if self.since_change > diff.order:
                self._choose_order(error, y, safety)
            return

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
        self._rescale(min(self.newton.most_growth, safety * factors[diff.order]))

    def _rescale(self, factor: float) -> None:
        self.differences.rescale(factor)
        self.since_change = 0

    def _norm(self, vector: np.ndarray, y: np.ndarray) -> float:
        """Root mean square over parameters, in units of the tolerance."""
        scaled = vector / (self.atol + self.settings.rtol * np.abs(y))
        return float(np.sqrt(scaled @ scaled / len(scaled)))

    def _sample(self, at: float) -> Generator[Request, Answer, None]:
        replica_state = self.replica_state
        hidden = yield from self._take(at)
        last, on_grid = not self.times, at in self.grid
        if last or _is_decade(at):
            replica_state.keep(self.step, at, replica_state.parameters)
        replica_state.share = min(1.0, self._progress(at))
        if last:
            replica_state.end = "time"
        # One that is to go on has no sample between the grid's, where it could be told that it is at rest.
        if on_grid and self._is_stationary():
            replica_state.end = "stationary"
        elif on_grid and hidden and self.differences.h < _SHORT * at and replica_state.rows[-1].least_curvature >= 0:
            replica_state.end = "stalled"
        if replica_state.end is not None:
            self._commit()

    def _take(self, at: float) -> Generator[Request, Answer, bool]:
        """Add a row at a time of the last step.

        Yields:
            What finds the point, and figures of it.

        Returns:
            Whether rounding of the parameters hides the flow's own gradient there.
        """
        value, slope = self.differences.at(self.t - at)
        z, rounding = yield from self.newton.polish(value, slope, self.differences.c)
        y, hidden = value + z, rounding > _HIDDEN * float(np.linalg.norm(slope))
        answer = yield Request(y, lone_reach=True, held_out=True)
        known = None if rounding > _KNOWN * float(np.linalg.norm(answer.gradient)) else slope
        least = yield from self._least_curvature(at, y, answer, rests=hidden)
        self.replica_state.sample(self.step, at, y, answer, known, least)
        return hidden

    def _least_curvature(
        self, at: float, y: np.ndarray, answer: Answer, *, rests: bool
    ) -> Generator[Request, Answer, float]:
        """The Hessian's least eigenvalue times the time, where a loss seems to come to rest.

        Of shared weights and of classes, where it takes longer than the way between two samples, only where the flow
        itself comes to rest, and where training is level at a power of ten or at the end: a report judges what stands
        there.

        Yields:
            A request for matrices.

        Returns:
            NaN where it was not taken.
        """
        rows, replica_state = [row for row in self.replica_state.rows if row.time <= at / 10], self.replica_state
        level = [before / now for before, now in ((rows[-1].loss, answer.loss), (rows[-1].test_loss, answer.test_loss))]
        rests = rests or replica_state.relative(y, answer) <= self.settings.stationary
        if len(y) > _MOST_PARAMETERS or not (rests or any(0 < fall < _LEVEL_FALL for fall in level)):
            return math.nan
        decides = rests or (0 < level[0] < _LEVEL_FALL and (_is_decade(at) or at not in self.grid))
        there = yield Request(y, curvature=replica_state.samples, bending=True, cheaply=not decides)
        if there.curvature is None or there.bending is None:
            return math.nan
        return there.curvature.plus(there.bending).least() * at

    def _is_stationary(self) -> bool:
        """At the last sample; at a saddle a flow seems at rest, and is not."""
        replica_state = self.replica_state
        loss = replica_state.rows[-1].loss
        if replica_state.rows[-1].least_curvature < 0 and loss > self.resolution:
            return False
        return is_stationary(loss, replica_state.relative_gradient, self.settings.stationary, self.resolution)

    def _progress(self, at: float) -> float:
        span = math.log10(max(self.settings.t_end, 10 * FIRST_TIME) / FIRST_TIME)
        return math.log10(max(at, FIRST_TIME) / FIRST_TIME) / span

    def _finish(self, reason: str) -> Generator[Request, Answer, None]:
        """End where training stands, with a last sample there if there is none."""
        replica_state, y = self.replica_state, self.differences.d[0].copy()
        if replica_state.rows[-1].time < self.t:
            yield from self._take(self.t)
            y = replica_state.parameters.copy()
        if not replica_state.path or replica_state.path[-1].time < self.t:
            replica_state.keep(self.step, self.t, y)
        replica_state.end = reason
        self._commit()

    def _commit(self) -> None:
        if not self.under_way:
            self.replica_state.commit(**self.replica_state.state)
            return
        diff = self.differences
        scalars = np.array([self.step, self.t, self.loss, diff.h, diff.order, self.since_change])
        self.replica_state.commit(differences=diff.d.copy(), scalars=scalars, **self.newton.state())

    def _resume(self) -> Generator[Request, Answer, None]:
        replica_state = self.replica_state
        if "parameters" in replica_state.state:
            self.step, self.t = replica_state.rows[-1].step, replica_state.rows[-1].time
            answer = yield Request(replica_state.state["parameters"], lone_reach=True, held_out=True)
            replica_state.parameters, replica_state.accuracy = replica_state.state["parameters"], answer.accuracy
            self._set_out(replica_state.parameters, answer)
        else:
            step, self.t, self.loss, h, order, since = replica_state.state["scalars"].tolist()
            self.step, self.since_change, self.under_way = int(step), int(since), True
            self.differences = Differences(replica_state.state["differences"].copy(), h, int(order))
            yield from self.newton.resume(replica_state.state)
        self.times = [at for at in self.times if at > replica_state.rows[-1].time]
