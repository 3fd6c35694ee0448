"""First-order trainers, by whichever optimiser they are told, over unions of replicas.

Optimisers act on each number by itself and replicas share no edge, so training a union is training each replica. A
replica that has ended (stationary or diverged) keeps its results while the others go on.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from rsl_cli.errors import CheckpointError
from rsl_cli.keys import Keys, horizon_of, identity_of, read_keys
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.checkpoint import OF_ANOTHER, Checkpointer, Saved
from rsl_cli.train.circuits import CircuitObjective
from rsl_cli.train.engines import AutogradEngine, Batches, CircuitEngine, Engine, joined_state, replica_state
from rsl_cli.train.facts import Facts, facts_in_steps
from rsl_cli.train.objective import Objective
from rsl_cli.train.optimizers import OPTIMIZERS, Optimizer, make_optimizer, trainer_keys
from rsl_cli.train.schedules import SCHEDULES
from rsl_cli.train.settings import TARGET, first_order_keys
from rsl_cli.train.torch_optimizers import TorchOptimizer, own_optimizer
from rsl_cli.train.trainer import Progress, Sizes, Trainer
from rsl_cli.train.trajectory import (
    FINAL,
    Row,
    Stand,
    TrainingResult,
    Trajectory,
    log_grid_steps,
    log_spaced_steps,
)

OPTIMIZERS.add("torch")(TorchOptimizer)
OPTIMIZERS.add("target")(own_optimizer)

_SETTLING_STEPS = 100
"""Steps before which a small relative gradient says only that the start is near."""
_BESIDE = 3e5
"""Operations' worth of what a step takes beside its arithmetic. Measured on small perceptrons."""
_CALL_SECONDS = 0.2
"""About how long an engine is left to itself, before progress is told and a checkpoint may be taken."""


@dataclass(frozen=True)
class FirstOrder(Trainer):
    """Settings of a first-order trainer; `from_config` knows each optimiser's defaults.

    Args:
        name: an optimiser's; ``torch`` or ``target`` for one that `options` names.
        steps: how many steps to take.
        learning_rate: before the factors of the parametrization.
        batch_size: samples a step; None (or at least N) for all of them.
        schedule: of the learning rate, one of `SCHEDULES`. All but ``constant`` end at ``steps``, so that another
            number of steps is another run; a run at a constant rate can be carried on.
        stationary: stop a replica whose relative gradient (`rsl_cli.train.objective.relative_gradient`) falls to this.
        log_per_decade: samples of the trajectory per decade of steps.
        dtype: ``float32`` or ``float64``.
        options: the optimiser's own settings.
    """

    name: str
    steps: int
    learning_rate: float
    schedule: str
    stationary: float
    log_per_decade: int
    dtype: str
    batch_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "FirstOrder":
        """Read and validate the settings.

        Returns:
            The trainer, whose optimiser has been made once to see that it can be.

        Raises:
            ConfigError: an unknown key or a value out of range, with the key as ``trainer.KEY``.
        """
        name = str(config.get("name"))
        keys = FIRST_ORDER.get(name, _OWN)
        own = {} if name in FIRST_ORDER else {key: value for key, value in config.items() if key not in (*keys, "name")}
        read = read_keys("trainer.", keys, config, also=("name", *own))
        options = own | {key: value for key, value in read.items() if key not in cls.__dataclass_fields__}
        common = {key: value for key, value in read.items() if key in cls.__dataclass_fields__}
        settings = cls(name, **common, options=options)
        settings.optimizer  # noqa: B018 - what it cannot be is said here
        return settings

    parametrization = "mup"
    """What it needs for training to go alike at every degree."""
    in_step = True
    copies = 8
    """Weights and gradient, learning rates, moments, and a step's own."""

    @property
    def label(self) -> str:
        """See `Trainer.label`."""
        return str(self.options["target"]) if "target" in self._keys else self.name

    @property
    def facts(self) -> Facts:
        """See `Trainer.facts`."""
        return facts_in_steps(self.schedule, self.batch_size, follows_flow=self.optimizer.follows_flow)

    @property
    def alone(self) -> bool:
        """See `Trainer.alone`."""
        return self.optimizer.over is not None

    @property
    def horizon(self) -> tuple[str, ...]:
        """See `Trainer.horizon`."""
        return horizon_of(self._keys) if self.schedule == "constant" else ()

    @property
    def _keys(self) -> Keys:
        return FIRST_ORDER.get(self.name, _OWN)

    @cached_property
    def optimizer(self) -> Optimizer:
        """What takes the steps."""
        return make_optimizer(self.name, self.options)

    def identity(self) -> dict[str, Any]:
        """See `Trainer.identity`."""
        # Runs of all optimisers said a momentum before each had settings of its own.
        values = {"momentum": 0.0, **vars(self), **self.options}
        said = {key: values[key] for key in ("name", "batch_size", "momentum")} | identity_of(self._keys, values)
        said |= {key: values[key] for key in horizon_of(self._keys) if key not in self.horizon}
        target = self.options.get("target", self.name)
        arguments = self.options.get("arguments") if "target" in self.options else self.options
        origin = OPTIMIZERS.origin(target, arguments or {})
        if origin is None:
            return said
        # However it is named, by target, by a plug-in's name or by its own, it is one.
        return {**said, "name": "torch" if self.name == "torch" else "target", **origin.identity()}

    def reaches(self, stand: Stand) -> bool:
        """Whether a run that stands there is as far as asked for."""
        return stand.reason in FINAL or not self.horizon or stand.step >= self.steps

    def least_steps(self) -> int:
        """All of them."""
        return self.steps

    def effort(self, sizes: Sizes) -> float:
        """Of each step, the gradients of its samples."""
        return self.steps * (_BESIDE + sizes.per_sample * min(self.batch_size or sizes.samples, sizes.samples))

    def train(
        self,
        network: LiftedNetwork,
        objective: Objective,
        *,
        checkpointer: Checkpointer | None = None,
        progress: Progress | None = None,
    ) -> list[TrainingResult]:
        """See `Trainer.train`; all replicas have to stand at one step. Progress is told after each sample, too."""
        return _Run(network, objective, self, checkpointer, progress).results()

    def beginning(self, steps: int) -> Self:
        """The same trainer for so few steps that its schedule has not begun to tell."""
        return replace(self, steps=steps, schedule="constant")

    def grid(self) -> list[int]:
        """Steps at which the trajectory is sampled; at a constant rate, more steps add to them."""
        spaced = log_grid_steps if self.schedule == "constant" else log_spaced_steps
        return spaced(self.steps, self.log_per_decade)

    def factors(self, steps: range) -> np.ndarray:
        """The schedule's factors on the learning rate, float64 (len(steps),)."""
        return SCHEDULES[self.schedule](np.array(steps), self.steps)


FIRST_ORDER: Mapping[str, Keys] = {
    **{name: trainer_keys(part) for name, part in OPTIMIZERS.items()},
    "target": first_order_keys(TARGET, {}),
}
"""Every shipped optimiser's keys beside its name."""
_OWN = first_order_keys({}, {})
"""Keys of an optimiser that a plug-in has given a name, beside its own."""


@dataclass(frozen=True)
class _End:
    # How a replica ended; the figures of its last sample are its accuracy and relative gradient.
    reason: str
    figures: tuple[float, float]
    state: dict[str, Tensor]


class _Run:
    def __init__(
        self,
        network: LiftedNetwork,
        objective: Objective,
        settings: FirstOrder,
        checkpointer: Checkpointer | None,
        progress: Progress | None,
    ) -> None:
        self.network, self.settings, self.checkpointer, self.progress = network, settings, checkpointer, progress
        self.count = network.replica_count
        circuits = CircuitObjective.of(network, objective) if settings.optimizer.over is None else None
        batches = Batches(objective, [replica.seed for replica in network.lift.replicas], settings.batch_size)
        self.engine: Engine = (
            AutogradEngine(network, objective, batches, settings.optimizer)
            if circuits is None
            else CircuitEngine(network, circuits, batches, settings.optimizer)
        )
        self.euler_steps = [_euler_step(network, replica, settings) for replica in range(self.count)]
        self.rows: list[list[Row]] = [[] for _ in range(self.count)]
        self.ended: dict[int, _End] = {}
        self.step = 0

    def results(self) -> list[TrainingResult]:
        self._restore()
        samples = self.settings.grid()
        reported, pace = time.monotonic(), 1
        while True:
            if self.step in samples and self._sampled_until() < self.step:
                self._sample(ending=True)
            if self.step >= self.settings.steps or len(self.ended) == self.count:
                break
            upto = min(self.step + pace, *(at for at in samples if at > self.step), self.settings.steps)
            pace = self._advance(upto)
            if self.checkpointer is not None and self.checkpointer.due():
                self._save()
            if self.progress and time.monotonic() - reported > 0.5:
                reported = time.monotonic()
                self._report()
        if len(self.ended) < self.count and self._sampled_until() < self.step:
            # Between two samples of one that goes on, which would not be told there that it is at rest.
            self._sample(ending=False)
        for replica in range(self.count):
            if replica not in self.ended:
                self._end(replica, "budget")
        self.engine.finish({replica: end.state for replica, end in self.ended.items()})
        saved = self._saved() if self.settings.horizon else [({}, {})] * self.count
        return [
            TrainingResult(Trajectory(tuple(self.rows[r])), end.reason, *end.figures, end.state, saved=saved[r])
            for r, end in sorted(self.ended.items())
        ]

    def _advance(self, upto: int) -> int:
        """Go on to a step; returns how many steps would take about `_CALL_SECONDS`."""
        began, steps = time.monotonic(), range(self.step, upto)
        rates = self.settings.learning_rate * self.settings.factors(steps)
        active = [replica for replica in range(self.count) if replica not in self.ended]
        for replica, step in self.engine.advance(active, steps, rates).items():
            at = step * self.euler_steps[replica]
            self.rows[replica].append(Row(step, at, math.nan, math.nan, math.nan, math.nan))
            self._end(replica, "diverged")
        self.step = upto
        return max(1, int(len(steps) * _CALL_SECONDS / max(time.monotonic() - began, 1e-6)))

    def _sample(self, *, ending: bool) -> None:
        found = self.engine.evaluate()
        self._figures = list(zip(found.accuracy.tolist(), found.relative_gradient.tolist(), strict=True))
        columns = zip(
            *(figure.tolist() for figure in (found.loss, found.test_loss, found.grad_norm, found.distance)), strict=True
        )
        for replica, (loss, test_loss, grad_norm, distance) in enumerate(columns):
            if replica in self.ended:
                continue
            at = self.step * self.euler_steps[replica]
            self.rows[replica].append(Row(self.step, at, loss, test_loss, grad_norm, distance))
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                self._end(replica, "diverged")
            elif ending and (grad_norm == 0 or self._is_stationary(self._figures[replica][1])):
                self._end(replica, "stationary")
        if self.progress:
            self._report()

    def _is_stationary(self, relative_gradient: float) -> bool:
        return self.step >= _SETTLING_STEPS and relative_gradient <= self.settings.stationary

    def _end(self, replica: int, reason: str) -> None:
        figures = (math.nan, math.nan) if reason == "diverged" else self._figures[replica]
        self.ended[replica] = _End(reason, figures, self.engine.parameters(replica))

    def _sampled_until(self) -> int:
        return max((rows[-1].step for r, rows in enumerate(self.rows) if rows and r not in self.ended), default=-1)

    def _report(self) -> None:
        assert self.progress is not None
        losses = sorted(rows[-1].loss for rows in self.rows if rows and math.isfinite(rows[-1].loss))
        self.progress(self.step, self.settings.steps, losses[len(losses) // 2] if losses else math.nan)

    def _save(self) -> None:
        assert self.checkpointer is not None
        self.checkpointer.save(self._saved())

    def _saved(self) -> list[Saved]:
        state, every = self.engine.state(), []
        for replica in range(self.count):
            arrays = replica_state(self.network, state, replica)
            end = self.ended.get(replica)
            if end is not None and end.reason in FINAL:
                arrays |= {f"ended/{name}": value for name, value in end.state.items()}
            figures = self._figures[replica] if end is None else end.figures
            ended = None if end is None else end.reason
            text = {"step": self.step, "rows": self.rows[replica], "figures": figures, "ended": ended}
            every.append(({k: v.cpu().numpy() for k, v in arrays.items()}, {"training": json.dumps(text)}))
        return every

    def _restore(self) -> None:
        saved = [] if self.checkpointer is None else self.checkpointer.load()
        try:
            self._resume(saved)
        except (LookupError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(OF_ANOTHER) from error

    def _resume(self, saved: Sequence[Saved]) -> None:
        if not saved:
            return
        parts = [{name: torch.as_tensor(array) for name, array in arrays.items()} for arrays, _ in saved]
        states = [{k: v for k, v in part.items() if not k.startswith("ended/")} for part in parts]
        contents = [json.loads(text["training"]) for _, text in saved]
        (self.step,) = {content["step"] for content in contents}
        self.engine.resume(joined_state(states))
        # States of earlier versions have none.
        self._figures = [(a, g) for a, g in (content.get("figures", (math.nan, math.nan)) for content in contents)]
        self.rows = [[Row(*row) for row in content["rows"]] for content in contents]
        for replica, (content, part) in enumerate(zip(contents, parts, strict=True)):
            reason = content["ended"]
            if reason in FINAL:
                final = {k.removeprefix("ended/"): v.clone() for k, v in part.items() if k.startswith("ended/")}
                self.ended[replica] = _End(reason, self._figures[replica], final)
            elif reason is not None and self.step < self.settings.steps:
                # The last sample stays only if one that was never to end here has it too.
                grid = self.settings.grid()
                self.rows[replica] = [row for row in self.rows[replica] if row.step in grid]


def _euler_step(network: LiftedNetwork, replica: int, settings: FirstOrder) -> float:
    """Flow time of a step of gradient descent: Euler steps of the flow, if all parameters take the same."""
    if not settings.optimizer.euler or settings.schedule != "constant":
        return math.nan
    scales = set(network.learning_rate_scales(adaptive=False, replica=replica).values())
    return settings.learning_rate * scales.pop() if len(scales) == 1 else math.nan
