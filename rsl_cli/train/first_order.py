"""First-order trainers: Adam, SGD and gradient descent, over unions of replicas.

Optimisers act on each number by itself and replicas share no edge, so training a union is training each replica. A
replica that has ended (stationary or diverged) keeps its results while the others go on.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsl_cli.errors import ConfigError, TrainingError
from rsl_cli.network import LiftedNetwork
from rsl_cli.rng import generator
from rsl_cli.train.checkpoint import Keeper
from rsl_cli.train.objective import Objective, distances
from rsl_cli.train.settings import check_values, known_keys, real, whole
from rsl_cli.train.trajectory import Row, TrainingResult, Trajectory, log_spaced_steps

_SETTLING_STEPS = 100
"""Steps before which a small relative gradient says only that the start is near."""


@dataclass(frozen=True)
class FirstOrder:
    """Settings of a first-order trainer.

    Args:
        name: ``adam``, ``sgd`` or ``gd``.
        steps: how many steps to take.
        learning_rate: before the factors of the parametrization.
        batch_size: samples a step; None (or at least N) for all of them.
        momentum: of SGD, in [0, 1).
        schedule: ``cosine`` (to zero) or ``constant``.
        stationary: stop a replica whose |grad L| * distance / L falls below this.
        log_per_decade: samples of the trajectory per decade of steps.
        dtype: ``float32`` or ``float64``.
    """

    name: str
    steps: int = 2000
    learning_rate: float = 0.01
    batch_size: int | None = None
    momentum: float = 0.0
    schedule: str = "constant"
    stationary: float = 1e-4
    log_per_decade: int = 8
    dtype: str = "float32"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "FirstOrder":
        """Read and validate the settings.

        Raises:
            ConfigError: an unknown key or a value out of range, with the key as ``trainer.KEY``.
        """
        settings = cls(**known_keys(config, cls))
        checks = {
            "name": (settings.name in TRAINERS, " or ".join(TRAINERS)),
            "steps": (whole(settings.steps, 0), "a whole number from 0"),
            "learning_rate": (real(settings.learning_rate) and settings.learning_rate > 0, "a number above 0"),
            "batch_size": (
                settings.batch_size is None or whole(settings.batch_size, 1),
                "null or a whole number from 1",
            ),
            "momentum": (real(settings.momentum) and 0 <= settings.momentum < 1, "a number from 0 to below 1"),
            "schedule": (settings.schedule in ("cosine", "constant"), "cosine or constant"),
            "stationary": (real(settings.stationary) and settings.stationary >= 0, "a number from 0"),
            "log_per_decade": (whole(settings.log_per_decade, 1), "a whole number from 1"),
            "dtype": (settings.dtype in ("float32", "float64"), "float32 or float64"),
        }
        check_values(settings, checks)
        if settings.name == "gd" and settings.batch_size is not None:
            raise ConfigError(
                f"trainer.batch_size={settings.batch_size}: gd takes all samples; use trainer=sgd for batches"
            )
        if settings.name != "sgd" and settings.momentum:
            raise ConfigError(f"trainer.momentum={settings.momentum}: only sgd has momentum; leave it out")
        return settings

    def identity(self) -> dict[str, Any]:
        """The settings that determine the numbers: all of them."""
        return asdict(self)


TRAINERS = ("adam", "sgd", "gd")


def train_first_order(
    network: LiftedNetwork,
    objective: Objective,
    settings: FirstOrder,
    *,
    keeper: Keeper | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[TrainingResult]:
    """Train every replica of a network.

    Args:
        network: a lift's or a union's, all replicas of one degree; left with the final parameters.
        objective: data and loss.
        settings: which trainer, for how long.
        keeper: where to leave and find checkpoints; training goes on from one bit for bit (on the CPU).
        progress: called with (step, steps, median training loss) after each sample of the trajectory and about twice
            a second.

    Returns:
        One result per replica.

    Raises:
        TrainingError: a checkpoint of another network.
    """
    return _Run(network, objective, settings, keeper, progress).results()


class _Run:
    def __init__(
        self,
        network: LiftedNetwork,
        objective: Objective,
        settings: FirstOrder,
        keeper: Keeper | None,
        progress: Callable[[int, int, float], None] | None,
    ) -> None:
        self.network, self.objective, self.settings = network, objective, settings
        self.keeper, self.progress = keeper, progress
        self.count = network.replica_count
        self.start = {name: p.detach().clone() for name, p in network.named_parameters()}
        self.scales = network.learning_rate_scales(adaptive=settings.name == "adam")
        self.optimizer = self._optimizer()
        self.rows: list[list[Row]] = [[] for _ in range(self.count)]
        self.ended: dict[int, tuple[str, float, dict[str, Tensor]]] = {}
        self.step = 0
        self.batches = _Batches(objective, [replica.seed for replica in network.lift.replicas], settings.batch_size)

    def results(self) -> list[TrainingResult]:
        self._restore()
        samples = set(log_spaced_steps(self.settings.steps, self.settings.log_per_decade))
        reported = time.monotonic()
        while True:
            if self.step in samples and self._sampled_until() < self.step:
                self._sample()
            if self.step >= self.settings.steps or len(self.ended) == self.count:
                break
            self._advance()
            if self.keeper is not None and self.keeper.due():
                self._save()
            if self.progress and time.monotonic() - reported > 0.5:
                reported = time.monotonic()
                self._report()
        for replica in range(self.count):
            if replica not in self.ended:
                self._end(replica, "budget", self._accuracy[replica])
        return [
            TrainingResult(Trajectory(tuple(self.rows[r])), *self.ended[r][:2], self.ended[r][2])
            for r in range(self.count)
        ]

    def _advance(self) -> None:
        factor = 1.0
        if self.settings.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * self.step / self.settings.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.objective.backward(self.network, self.batches.at(self.step))
        if not torch.isfinite(losses).all():
            self._diverged(losses)
        self.optimizer.step()
        self.step += 1

    def _sample(self) -> None:
        evaluation = self.objective.evaluate(self.network)
        self._accuracy = evaluation.accuracy.tolist()
        moved = distances(self.network, self.start)
        columns = zip(
            evaluation.loss.tolist(),
            evaluation.test_loss.tolist(),
            evaluation.grad_norm.tolist(),
            moved.tolist(),
            strict=True,
        )
        for replica, (loss, test_loss, grad_norm, distance) in enumerate(columns):
            if replica in self.ended:
                continue
            self.rows[replica].append((self.step, self._time(), loss, test_loss, grad_norm, distance))
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                self._end(replica, "diverged", math.nan)
            elif grad_norm == 0 or self._stationary(loss, grad_norm, distance):
                self._end(replica, "stationary", self._accuracy[replica])
        if self.progress:
            self._report()

    def _stationary(self, loss: float, grad_norm: float, distance: float) -> bool:
        return self.step >= _SETTLING_STEPS and grad_norm * distance <= self.settings.stationary * loss

    def _diverged(self, losses: Tensor) -> None:
        for replica in torch.nonzero(~torch.isfinite(losses)).flatten().tolist():
            if replica not in self.ended:
                self.rows[replica].append((self.step, self._time(), *(math.nan,) * 4))
                self._end(replica, "diverged", math.nan)

    def _end(self, replica: int, reason: str, accuracy: float) -> None:
        tensors = {name: p.detach() for name, p in self.network.named_parameters()}
        state = {name: part.clone() for name, part in self.network.replica_tensors(tensors, replica).items()}
        self.ended[replica] = (reason, accuracy, state)

    def _time(self) -> float:
        """Flow time of gradient descent: Euler steps of the flow, if all parameters take the same."""
        scales = set(self.scales.values())
        if self.settings.name != "gd" or len(scales) > 1 or self.settings.schedule != "constant":
            return math.nan
        return self.step * self.settings.learning_rate * scales.pop()

    def _sampled_until(self) -> int:
        return max((rows[-1][0] for rows in self.rows if rows), default=-1)

    def _report(self) -> None:
        assert self.progress is not None
        losses = sorted(rows[-1][2] for rows in self.rows if rows and math.isfinite(rows[-1][2]))
        self.progress(self.step, self.settings.steps, losses[len(losses) // 2] if losses else math.nan)

    def _optimizer(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": [parameter], "scale": self.scales[name], "lr": self.settings.learning_rate * self.scales[name]}
            for name, parameter in self.network.named_parameters()
        ]
        if self.settings.name == "adam":
            return torch.optim.Adam(groups, foreach=False)
        return torch.optim.SGD(groups, momentum=self.settings.momentum, foreach=False)

    def _save(self) -> None:
        assert self.keeper is not None
        arrays = {f"parameter/{name}": p.detach() for name, p in self.network.named_parameters()}
        for index, state in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer/{index}/{key}": value for key, value in state.items() if value is not None}
        for replica, (_, _, state) in self.ended.items():
            arrays |= {f"ended/{replica}/{name}": value for name, value in state.items()}
        text = {
            "step": self.step,
            "rows": self.rows,
            "accuracy": self._accuracy,
            "ended": {replica: [reason, accuracy] for replica, (reason, accuracy, _) in self.ended.items()},
        }
        self.keeper.save({k: v.cpu().numpy() for k, v in arrays.items()}, {"training": json.dumps(text)})

    def _restore(self) -> None:
        saved = None if self.keeper is None else self.keeper.load()
        if saved is None:
            return
        arrays, text = saved
        content = json.loads(text["training"])
        try:
            with torch.no_grad():
                for name, parameter in self.network.named_parameters():
                    parameter.copy_(torch.as_tensor(arrays[f"parameter/{name}"]))
        except (KeyError, RuntimeError) as error:
            raise TrainingError(
                "the checkpoint is of another network; remove it from checkpoints/ and run again"
            ) from error
        state: dict[int, dict[str, Tensor]] = {}
        for name, array in arrays.items():
            kind, *rest = name.split("/", 2)
            if kind == "optimizer":
                state.setdefault(int(rest[0]), {})[rest[1]] = torch.as_tensor(array).clone()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.step, self._accuracy = content["step"], content["accuracy"]
        self.rows = [[(row[0], *row[1:]) for row in rows] for rows in content["rows"]]
        for replica, (reason, accuracy) in content["ended"].items():
            prefix = f"ended/{replica}/"
            parts = {
                k.removeprefix(prefix): torch.as_tensor(v).clone() for k, v in arrays.items() if k.startswith(prefix)
            }
            self.ended[int(replica)] = (reason, accuracy, parts)


class _Batches:
    """Which samples each replica sees at each step: a pure function of its seed and the step."""

    def __init__(self, objective: Objective, seeds: list[int], size: int | None) -> None:
        self.samples, self.seeds = objective.samples, seeds
        self.device = objective.x.device
        self.size = None if size is None or size >= self.samples else size
        self.epoch, self.order = -1, torch.empty(0)

    def at(self, step: int) -> Tensor | None:
        """int64 (R, B), or None for all samples."""
        if self.size is None:
            return None
        epoch, batch = divmod(step, self.samples // self.size)
        if epoch != self.epoch:
            orders = [generator(seed, f"batches/{epoch}").permutation(self.samples) for seed in self.seeds]
            self.epoch, self.order = epoch, torch.as_tensor(np.stack(orders), device=self.device)
        return self.order[:, batch * self.size : (batch + 1) * self.size]
