"""Levenberg-Marquardt to a stationary point: where training can end, by a path that is not the flow's.

Each step solves (H + mu I) u = -grad L with H the (generalised) Gauss-Newton matrix and mu steered by how well the
quadratic model foretold the loss; Nielsen (1999), *Damping parameter in Marquardt's method*.
"""

import math
from dataclasses import dataclass

import numpy as np

from rsl_cli.train.gauss_newton import SingularError, side
from rsl_cli.train.implicit import ImplicitTrainer, ReplicaState, is_stationary
from rsl_cli.train.replicas import Answer, Request, Solver
from rsl_cli.train.settings import LM
from rsl_cli.train.trainer import Sizes
from rsl_cli.train.trajectory import Stand, log_grid_steps

_FIRST_DAMPING = 1e-2
"""Of the curvature along the first gradient."""
_LEAST_DAMPING = 1e-300
_MOST_GROWTH = 60
"""Rejected steps in a row after which damping has grown beyond what any problem needs."""
_KEYS = LM


@dataclass(frozen=True)
class LevenbergMarquardt(ImplicitTrainer):
    """Settings of Levenberg-Marquardt, whose trajectory has steps but no flow time.

    Args:
        name: ``lm``.
        max_steps: accepted steps after which to give up.
        epsilon: stop at a loss at or below this; None: do not.
        stationary: stop where the relative gradient (`rsl_cli.train.objective.relative_gradient`) falls to this.
        log_per_decade: samples of the trajectory per decade of steps.
    """

    name: str = "lm"
    max_steps: int = _KEYS["max_steps"].default
    epsilon: float | None = _KEYS["epsilon"].default
    stationary: float = _KEYS["stationary"].default
    log_per_decade: int = _KEYS["log_per_decade"].default

    keys = _KEYS

    def matrix(self, sizes: Sizes) -> int:
        """Of all samples."""
        return side(sizes.parameters, sizes.samples, sizes.outputs)

    def reaches(self, stand: Stand) -> bool:
        """Whether a run that stands there is as far as asked for."""
        return stand.reaches(self.max_steps, self.epsilon)

    def reopen(self, replica_state: ReplicaState) -> None:
        """See `rsl_cli.train.implicit.Stepper`."""
        if not self.reaches(replica_state.stand):
            grid = set(log_grid_steps(self.max_steps, self.log_per_decade))
            replica_state.go_on(lambda row: row.step in grid, lambda _: False)

    def solver(self, replica_state: ReplicaState, resolution: float) -> Solver:
        """Descend from the replica's state to its end; see `rsl_cli.train.implicit.Stepper`."""
        grid = set(log_grid_steps(self.max_steps, self.log_per_decade))
        if replica_state.state:
            y, (step_number, mu) = replica_state.state["y"], replica_state.state["scalars"].tolist()
            step, mu = int(step_number), float(mu)
        else:
            y, step, mu = replica_state.start, 0, math.nan
        while True:
            sampled = step in grid and not (replica_state.rows and replica_state.rows[-1].step == step)
            samples = replica_state.samples if step < self.max_steps else 0
            answer = yield Request(y, curvature=samples, lone_reach=True, held_out=sampled)
            loss, gradient, curvature = answer.loss, answer.gradient, answer.curvature
            reason = self._reason(step, answer, replica_state.relative(y, answer), resolution)
            if reason is None and curvature is not None:
                if math.isnan(mu):
                    rayleigh = float(gradient @ curvature.times(gradient) / (gradient @ gradient))
                    mu = _FIRST_DAMPING * max(rayleigh, _LEAST_DAMPING)
                replica_state.share = max(replica_state.share, step / max(self.max_steps, 1))
            elif not sampled and replica_state.rows[-1].step < step:
                answer, sampled = (yield Request(y, lone_reach=True, held_out=True)), True
            if sampled:
                replica_state.sample(step, math.nan, y, answer)
            if reason is not None:
                replica_state.end = reason
                replica_state.keep(step, math.nan, y)
                replica_state.commit(y=y, scalars=np.array([step, mu]))
                return
            replica_state.commit(y=y, scalars=np.array([step, mu]))
            assert curvature is not None
            growth = 2.0
            for _ in range(_MOST_GROWTH):
                if math.isinf(mu):
                    continue  # No step is short enough.
                try:
                    update = curvature.solve(1 / mu, -gradient / mu)
                except SingularError:
                    mu, growth = mu * growth, 2 * growth
                    continue
                foretold = 0.5 * float(update @ (mu * update - gradient))
                trial = yield Request(y + update)
                gain = (loss - trial.loss) / foretold if foretold > 0 else math.nan
                if gain > 0 and math.isfinite(trial.loss):
                    mu = max(mu * max(1 / 3, 1 - (2 * gain - 1) ** 3), _LEAST_DAMPING)
                    break
                mu, growth = mu * growth, 2 * growth
            else:
                replica_state.end = "stalled"
                if replica_state.rows[-1].step < step:
                    replica_state.sample(step, math.nan, y, (yield Request(y, lone_reach=True, held_out=True)))
                replica_state.keep(step, math.nan, y)
                replica_state.commit()
                return
            y, step = y + update, step + 1

    def _reason(self, step: int, answer: Answer, relative_gradient: float, resolution: float) -> str | None:
        if not (math.isfinite(answer.loss) and np.isfinite(answer.gradient).all()):
            return "diverged"
        if is_stationary(answer.loss, relative_gradient, self.stationary, resolution):
            return "stationary"
        if self.epsilon is not None and answer.loss <= self.epsilon:
            return "target"
        return "budget" if step >= self.max_steps else None
