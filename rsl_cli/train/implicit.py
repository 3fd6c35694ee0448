"""What the flow and Levenberg-Marquardt share: rounds of questions, samples of the trajectory, checkpoints, ends."""

import json
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from rsl_cli.errors import CheckpointError, ConfigError, TrainingError
from rsl_cli.keys import Keys, horizon_of, identity_of, read_keys
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.checkpoint import OF_ANOTHER, Checkpointer, Saved
from rsl_cli.train.facts import FACTS, Facts
from rsl_cli.train.gauss_newton import is_dear
from rsl_cli.train.losses import Loss, is_straight
from rsl_cli.train.objective import Objective, relative_gradient
from rsl_cli.train.replicas import Answer, Replicas, Solver
from rsl_cli.train.trainer import Progress, Sizes, Trainer
from rsl_cli.train.trajectory import PathPoint, Row, Stand, TrainingResult, Trajectory

SOLVER = 2
"""Raised where a step is computed otherwise than before: what an earlier one left is not gone on from then."""
_FEW_STEPS = 100
"""Steps that a solver takes at the least."""
PER_MATRIX = 6
"""Gradients taken for each matrix. Measured: 4 to 6."""
_BESIDE = 1e7
"""Operations' worth of what a gradient takes beside its arithmetic, its share of a step's algebra among it. Measured:
runs of few parameters take a fifth to a fourth of the time of those of 800."""
_TELLING = 1e-8
"""Of -d log L / d log t: where a loss falls more slowly, rounding is what its gradient shows."""


@dataclass
class ReplicaState:
    """One replica's way so far, and what it needs to go on after an interruption.

    Args:
        start: parameters theta_0, (P,).
        samples: N.
        by_products: whether equations are to be solved without a matrix; see `rsl_cli.train.gauss_newton.is_dear`.
        rows: samples of its trajectory.
        path: the points kept for later analysis.
        state: named arrays from which to go on; empty at the start.
        share: how far it has come, from 0 to 1.
        end: why it ended; None while it goes on.
        accuracy: held-out share classified rightly at the last sample.
        relative_gradient: there; see `rsl_cli.train.objective.relative_gradient`.
        parameters: at the last sample, (P,).
        restarted_at: flow time at which it last began anew from parameters alone.
        saved: what a checkpoint keeps of it: arrays, and JSON values.
    """

    start: np.ndarray
    samples: int
    by_products: bool = False
    rows: list[Row] = field(default_factory=list)
    path: list[PathPoint] = field(default_factory=list)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    share: float = 0.0
    end: str | None = None
    accuracy: float = math.nan
    relative_gradient: float = math.nan
    parameters: np.ndarray = field(default_factory=lambda: np.empty(0))
    restarted_at: float | None = None
    saved: tuple[dict[str, np.ndarray], dict[str, Any]] = field(default=({}, {}))

    @property
    def stand(self) -> Stand:
        """Where it ended."""
        last = self.rows[-1]
        return Stand(str(self.end), last.step, last.time, last.loss)

    def keep(self, step: int, time: float, parameters: np.ndarray) -> None:
        """Keep a point of the path."""
        self.path.append(PathPoint(step, time, torch.from_numpy(parameters.copy())))

    def commit(self, **state: np.ndarray) -> None:
        """Between whole steps: from here training can go on with these arrays."""
        arrays = {f"state/{name}": value for name, value in state.items()}
        arrays |= {f"path/{i:05d}": point.parameters.numpy() for i, point in enumerate(self.path)}
        arrays |= {"parameters": self.parameters, "start": self.start}
        path = [(point.step, point.time) for point in self.path]
        text = {"rows": list(self.rows), "path": path, "share": self.share, "end": self.end, "accuracy": self.accuracy}
        text |= {"restarted_at": self.restarted_at, "relative_gradient": self.relative_gradient, "solver": SOLVER}
        self.saved = (arrays, text)

    def restore(self, arrays: Mapping[str, np.ndarray], text: Mapping[str, Any]) -> None:
        """Take up what was committed; nothing, if nothing was.

        Raises:
            CheckpointError: it is of another network, or of another version of the solver.
        """
        if not text:
            return
        if text.get("solver") != SOLVER:
            raise CheckpointError("the checkpoint is of another version of the solver; the run begins anew")
        if not np.array_equal(arrays["start"], self.start):
            raise CheckpointError(OF_ANOTHER)
        self.rows = [Row(*row) for row in text["rows"]]
        points = enumerate(text["path"])
        self.path = [PathPoint(step, at, torch.from_numpy(arrays[f"path/{i:05d}"])) for i, (step, at) in points]
        self.share, self.end, self.accuracy = text["share"], text["end"], text["accuracy"]
        self.relative_gradient = text["relative_gradient"]
        self.parameters, self.restarted_at = arrays["parameters"], text["restarted_at"]
        self.state = {k.removeprefix("state/"): v for k, v in arrays.items() if k.startswith("state/")}
        self.saved = (dict(arrays), dict(text))

    def go_on(self, is_sample: Callable[[Row], bool], is_point: Callable[[float], bool]) -> None:
        """Leave the end it came to, keeping of its samples those that it would have had without that end.

        Args:
            is_sample: whether a row of the trajectory is such a sample.
            is_point: whether the path has a point at a flow time.
        """
        self.end, self.share = None, 0.0
        self.rows = [row for row in self.rows if self.state and is_sample(row)]
        self.path = [point for point in self.path if self.state and is_point(point.time)]

    def sample(
        self,
        step: int,
        flow_time: float,
        parameters: np.ndarray,
        answer: Answer,
        slope: np.ndarray | None = None,
        least_curvature: float = math.nan,
    ) -> None:
        """Add a row to the trajectory; ``slope`` is the solution's derivative by time, (P,), where there is one."""
        grad_norm, distance = (float(np.linalg.norm(v)) for v in (answer.gradient, parameters - self.start))
        # Not a quotient of losses: between two points each of which is right to a tolerance, that is their errors'.
        falling = 0.0 if slope is None else -float(answer.gradient @ slope)
        tells = falling * flow_time > _TELLING * answer.loss
        dissipation = grad_norm**2 / falling if tells else math.nan
        losses = answer.loss, answer.test_loss
        self.rows.append(Row(step, flow_time, *losses, grad_norm, distance, dissipation, least_curvature))
        self.accuracy, self.relative_gradient = answer.accuracy, self.relative(parameters, answer)
        self.parameters = parameters.copy()

    def relative(self, parameters: np.ndarray, answer: Answer) -> float:
        """The relative gradient at parameters (P,), of an answer that has the lone reach."""
        assert answer.lone_reach is not None
        return relative_gradient(answer.loss, answer.gradient, parameters, self.start, answer.lone_reach)


class Stepper(Protocol):
    """A method's settings, and the method for one replica."""

    def solver(self, replica_state: ReplicaState, resolution: float) -> Solver:
        """Questions until ``replica_state.end`` is set; starts from ``replica_state.state`` if there is any."""
        ...

    def reopen(self, replica_state: ReplicaState) -> None:
        """Take the end from a replica that is asked to go further than it did (`ReplicaState.go_on`)."""
        ...


class ImplicitTrainer(Trainer):
    """A trainer whose steps solve equations with the loss's curvature: a `Stepper`, in float64."""

    keys: ClassVar[Keys]
    """The declaration of its settings."""
    max_steps: int
    dtype = "float64"
    """The last decades of time lie below float32's rounding."""
    parametrization = "standard"
    """What the theorem is about: weights whose law does not change with the degree."""
    copies = 4

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and validate the settings.

        Args:
            config: keys and values, ``name`` among them or not.

        Returns:
            The trainer.

        Raises:
            ConfigError: an unknown key or a value out of range, with the key as ``trainer.KEY``.
        """
        return cls(**read_keys("trainer.", cls.keys, config))

    @property
    def facts(self) -> Facts:
        """See `Trainer.facts`."""
        return FACTS[self.name]

    @property
    def horizon(self) -> tuple[str, ...]:
        """See `Trainer.horizon`."""
        return horizon_of(self.keys)

    def identity(self) -> dict[str, object]:
        """See `Trainer.identity`."""
        return {"name": self.name, **identity_of(self.keys, vars(self))}

    def check(self, loss: Loss) -> None:
        """See `Trainer.check`: where a gradient jumps no step is short enough."""
        if is_straight(loss):
            raise ConfigError(
                f"loss={loss.name} is made of straight pieces, between which its gradient jumps; trainer={self.name} "
                "steps by curvature: use a smooth loss, such as Huber's, or trainer=adam"
            )

    def least_steps(self) -> int:
        """So many as no solve is done without, if it may take them."""
        return min(_FEW_STEPS, self.max_steps)

    def effort(self, sizes: Sizes) -> float:
        """Of each of its matrices, with the gradients between two."""
        rows = self.matrix(sizes)
        matrix = sizes.per_sample * rows + rows**2 * sizes.parameters + rows**3 / 3
        return PER_MATRIX * (_BESIDE + sizes.per_sample * sizes.samples) + matrix

    def beginning(self, steps: int) -> Self:
        """The same trainer for so few steps."""
        return self.to(max_steps=steps, epsilon=None)

    @abstractmethod
    def solver(self, replica_state: ReplicaState, resolution: float) -> Solver:
        """See `Stepper.solver`."""

    @abstractmethod
    def reopen(self, replica_state: ReplicaState) -> None:
        """See `Stepper.reopen`."""

    def train(
        self,
        network: LiftedNetwork,
        objective: Objective,
        *,
        checkpointer: Checkpointer | None = None,
        progress: Progress | None = None,
    ) -> list[TrainingResult]:
        """See `Trainer.train` and `train_implicit`."""
        return train_implicit(network, objective, self, checkpointer=checkpointer, progress=progress)


def is_stationary(loss: float, relative_gradient: float, threshold: float, resolution: float) -> bool:
    """Whether nothing is left to gain: the relative gradient is below a threshold, or rounding hides the loss."""
    return loss <= resolution or relative_gradient <= threshold


def train_implicit(
    network: LiftedNetwork,
    objective: Objective,
    stepper: Stepper,
    *,
    checkpointer: Checkpointer | None = None,
    progress: Progress | None = None,
) -> list[TrainingResult]:
    """Train every replica by a solver that asks for gradients and Gauss-Newton matrices.

    Args:
        network: a lift's or a union's, float64; left with the final parameters.
        objective: data and loss, float64.
        stepper: makes the solver of each.
        checkpointer: where to leave and find what to go on from, taken between whole steps of each replica.
        progress: called with (share, 1000, median loss), the share of the way in thousandths, about twice a second.

    Returns:
        One result per replica.

    Raises:
        TrainingError: a checkpoint of another network, or parameters that are not float64.
    """
    if network.dtype != torch.float64 or objective.x.dtype != torch.float64:
        raise TrainingError(f"parameters are {network.dtype}; flow and lm need torch.float64")
    replicas = Replicas(network, objective)
    sizes = (objective.samples, objective.outputs)
    dear = [is_dear(len(start), *sizes, classify=objective.classify) for start in replicas.start]
    replica_states = [
        ReplicaState(start, replicas.samples, one) for start, one in zip(replicas.start, dear, strict=True)
    ]
    _restore(replicas, replica_states, checkpointer)
    for replica_state in replica_states:
        if replica_state.end:
            stepper.reopen(replica_state)
    solvers = {
        r: stepper.solver(replica_state, objective.resolution())
        for r, replica_state in enumerate(replica_states)
        if not replica_state.end
    }
    # How a factorisation is shared out decides how it is rounded; and a thread of the linear algebra's own costs as
    # much by waiting beside torch's as it computes.
    with threadpool_limits(1, "blas"):
        _rounds(replicas, replica_states, solvers, checkpointer, progress)
    results = [_result(replicas, r, replica_state) for r, replica_state in enumerate(replica_states)]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.cat([result.state[name] for result in results]))
    return results


def _rounds(
    replicas: Replicas,
    replica_states: list[ReplicaState],
    solvers: Mapping[int, Solver],
    checkpointer: Checkpointer | None,
    progress: Progress | None,
) -> None:
    requests = {replica: next(solver) for replica, solver in solvers.items()}
    reported = time.monotonic()
    while requests:
        answers = replicas.answer(requests)
        for replica, answer in answers.items():
            try:
                requests[replica] = solvers[replica].send(answer)
            except StopIteration:
                del requests[replica]
        if checkpointer is not None and requests and checkpointer.due():
            _save(replica_states, checkpointer)
        if progress and (time.monotonic() - reported > 0.5 or not requests):
            reported = time.monotonic()
            _report(replica_states, progress)


def _result(replicas: Replicas, replica: int, replica_state: ReplicaState) -> TrainingResult:
    assert replica_state.end is not None
    state = replicas.tensors(replica, replica_state.parameters)
    trajectory = Trajectory(tuple(replica_state.rows))
    figures = (replica_state.accuracy, replica_state.relative_gradient)
    return TrainingResult(
        trajectory,
        replica_state.end,
        *figures,
        state,
        tuple(replica_state.path),
        _saved(replica_state),
        replica_state.restarted_at,
    )


def _report(replica_states: list[ReplicaState], progress: Progress) -> None:
    losses = sorted(
        replica_state.rows[-1].loss
        for replica_state in replica_states
        if replica_state.rows and math.isfinite(replica_state.rows[-1].loss)
    )
    share = sum(1.0 if replica_state.end else replica_state.share for replica_state in replica_states) / len(
        replica_states
    )
    progress(int(1000 * share), 1000, losses[len(losses) // 2] if losses else math.nan)


def _save(replica_states: list[ReplicaState], checkpointer: Checkpointer) -> None:
    checkpointer.save([_saved(replica_state) for replica_state in replica_states])


def _saved(replica_state: ReplicaState) -> Saved:
    arrays, text = replica_state.saved
    return arrays, {"training": json.dumps(text)} if text else {}


def _restore(replicas: Replicas, replica_states: list[ReplicaState], checkpointer: Checkpointer | None) -> None:
    try:
        for r, (arrays, text) in enumerate([] if checkpointer is None else checkpointer.load()):
            content = json.loads(text.get("training", "{}"))
            if "parameter_rows" in content:
                _begin_anew(replica_states[r], content["parameter_rows"], replicas.flat(r, arrays))
            else:
                replica_states[r].restore(arrays, content)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(OF_ANOTHER) from error


def parameters_alone(rows: list[Row], state: Mapping[str, np.ndarray]) -> Saved:
    """What a run goes on from of which only samples and final parameters, by name, are left."""
    return state, {"training": json.dumps({"parameter_rows": rows})}


def _begin_anew(replica_state: ReplicaState, rows: list[Row], parameters: np.ndarray) -> None:
    replica_state.rows = [Row(*row) for row in rows]
    replica_state.state, replica_state.restarted_at = {"parameters": parameters}, replica_state.rows[-1].time
