"""The gradient flow of a network on arrays of one's own; studies train by `rsl_cli.train.flow` itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rsl_cli.data import Dataset
from rsl_cli.errors import ConfigError, DataError
from rsl_cli.lift import LiftUnion
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.flow import Flow, Integration
from rsl_cli.train.implicit import ReplicaState, train_implicit
from rsl_cli.train.losses import read_loss
from rsl_cli.train.objective import Objective
from rsl_cli.train.replicas import Solver
from rsl_cli.train.trajectory import Trajectory


def gradient_flow(
    net: LiftedNetwork,
    x: Tensor,
    y: Tensor,
    *,
    x_test: Tensor | None = None,
    y_test: Tensor | None = None,
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
        x_test: (M, *input_shape) to take held-out losses on; None: they are nan.
        y_test: as ``y``, of length M.
        t_end: flow time at which to stop.
        rtol: accepted local error of each parameter, relative to its size.
        atol: the same, absolute.
        sample_times: when to sample the trajectory, besides 0 and t_end; None: four times a decade from 0.01.
        loss: ``mse`` (half the mean squared residual norm) or ``cross_entropy``.
        epsilon: stop at a loss at or below this.
        max_steps: steps after which to give up.

    Returns:
        The trajectory; for a union one for each replica.

    Raises:
        ConfigError: a setting out of its range, a sample time out of 0 to ``t_end``, or a loss of straight pieces.
        DataError: inputs and targets that do not fit each other or the network.
        TrainingError: the network is not float64.
    """
    chosen = {"t_end": t_end, "rtol": rtol, "atol": atol, "epsilon": epsilon, "max_steps": max_steps}
    settings = Flow.from_config(chosen)
    if (x_test is None) != (y_test is None):
        raise DataError("held-out inputs or targets are missing; give x_test and y_test, or neither")
    classify = read_loss(loss)[0].labels
    inputs, targets = _arrays(x, y, classify)
    held_inputs, held_targets = (
        (inputs[:0], targets[:0]) if x_test is None or y_test is None else _arrays(x_test, y_test, classify)
    )
    task = "classification" if classify else "regression"
    data = Dataset("given", task, inputs, targets, held_inputs, held_targets, outputs=net.lift.base.output_size)
    device = next(net.parameters()).device
    objective = Objective(data, loss, dtype=torch.float64, device=device)
    settings.check(objective.loss)
    stepper = settings if sample_times is None else _Timed(settings, _chosen_times(sample_times, t_end))
    results = train_implicit(net, objective, stepper)
    paths = tuple(result.trajectory for result in results)
    return paths if isinstance(net.lift, LiftUnion) else next(iter(paths))


def _arrays(x: Tensor, y: Tensor, classify: bool) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets as a dataset holds them."""
    inputs, targets = (tensor.detach().cpu().numpy() for tensor in (x, y))
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise DataError(f"{len(inputs)} inputs and {len(targets)} targets; as many of one as of the other are needed")
    shaped = targets.astype(np.int64) if classify else targets.astype(np.float64).reshape(len(targets), -1)
    return inputs.astype(np.float64), shaped


@dataclass(frozen=True)
class _Timed:
    """The flow sampled at times of one's own."""

    settings: Flow
    times: Sequence[float]

    def reopen(self, replica_state: ReplicaState) -> None:
        """Nothing ever goes on: there is no checkpointer."""

    def solver(self, replica_state: ReplicaState, resolution: float) -> Solver:
        return Integration(self.settings, self.times, replica_state, resolution).run()


def _chosen_times(times: Sequence[float], t_end: float) -> list[float]:
    for t in times:
        if not 0 <= t <= t_end:
            raise ConfigError(f"sample time {t!r} lies outside 0 to t_end={t_end!r}")
    return sorted({*(float(t) for t in times if t > 0), *([t_end] if t_end > 0 else [])})
