"""One study, resolved: what everything that plans, trains and stores runs reads."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from rsl_cli.data import Dataset, is_planted
from rsl_cli.diagnostics.probes import FinishedRun
from rsl_cli.graph import EdgeLifting
from rsl_cli.lift import sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.study.answers import Answers, refuse_changed, study_answers
from rsl_cli.study.executor import Executor, make_executor
from rsl_cli.study.identity import run_id, study_identity
from rsl_cli.study.parse import parse
from rsl_cli.study.resolve import Resolved, planted, resolve
from rsl_cli.study.store import RunKey, StudyStore
from rsl_cli.study.studies import study_in
from rsl_cli.train.objective import Objective
from rsl_cli.train.trainer import Trainer
from rsl_cli.train.trajectory import Row, TrainingResult, Trajectory


@dataclass(frozen=True, eq=False)
class StudySpec(Resolved):
    """One study, fully resolved; make one with `StudySpec.from_config`.

    Args:
        lifts: degrees, ascending.
        seeds: ascending.
        lifting: for edges that name none.
        device: ``cpu`` or ``cuda``.
    """

    lifts: tuple[int, ...]
    seeds: tuple[int, ...]
    lifting: EdgeLifting
    device: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any], data: Dataset | None = None) -> "StudySpec":
        """Validate a configuration; reads the data, writes nothing.

        Args:
            config: see `rsl_cli.study.api.run_study`.
            data: what reading gave already.

        Returns:
            The study, all of it settled.

        Raises:
            ConfigError, GraphError, DataError: the first thing that cannot be run, in one line.
        """
        asked = parse(config)
        sizes = {"lifts": asked.lifts, "seeds": asked.seeds, "lifting": asked.lifting, "device": asked.device}
        spec = cls(**vars(resolve(asked, data)), **sizes)
        if spec.diagnostics.probes:
            spec.diagnostics.check(_untrained(spec))
        return spec

    @cached_property
    def store(self) -> StudyStore:
        """Where the study lies."""
        return study_in(str(self.config["results_dir"]), self.name)

    @cached_property
    def executor(self) -> Executor:
        """What trains."""
        return make_executor(self.config["executor"])

    def trainer_of(self, lift: int) -> Trainer:
        """The trainer's settings for a lift, to its own horizon where it has one."""
        return self.trainer.to(**self.config["horizons"].get(str(lift), {}))

    @property
    def carried(self) -> dict[str, Any]:
        """How far runs are to be carried, but for lifts with a horizon of their own; see `StudyStore.carried`."""
        return {key: getattr(self.trainer, key) for key in self.trainer.horizon}

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and data."""
        return torch.float64 if self.trainer.dtype == "float64" else torch.float32

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the numbers, but lift and seed: no names, paths, devices, executors, horizons."""
        return study_identity(self, self.lifting)

    @cached_property
    def answers(self) -> Answers:
        """What its user's parts answer to fixed questions."""
        return study_answers(self, self.lifting)

    def check_parts(self) -> None:
        """Refuse parts that answer otherwise than they did in this process.

        Raises:
            RslError: one does, or fails, in one line.
        """
        if self.answers:
            refuse_changed(self.store, study_answers(self, self.lifting), self.answers)

    def run_keys(self) -> list[RunKey]:
        """Every run, by lift, then seed."""
        return [RunKey(n, s, run_id(self.identity, n, s)) for n in self.lifts for s in self.seeds]

    @cached_property
    def witness(self) -> LiftedNetwork | None:
        """The planted network of ``dataset=teacher``: it fits the targets exactly, up to their scale."""
        if not is_planted(self.config["dataset"]):
            return None
        return planted(self.config["base"], self.config["dataset"], self.lifting)


def _untrained(spec: StudySpec) -> FinishedRun:
    """A run of the smallest lift on a few samples that ended before its first step."""
    data = spec.data.first(32)
    objective = Objective(data, spec.loss, dtype=spec.dtype)
    lift = sample_lift(spec.base, spec.lifts[0], spec.seeds[0], spec.lifting)
    network = LiftedNetwork(lift, None, spec.dtype, str(spec.config["parametrization"]))
    figures = objective.evaluate(network)
    row = Row(0, math.nan, float(figures.loss), float(figures.test_loss), float(figures.grad_norm), 0.0)
    state = {name: parameter.detach() for name, parameter in network.named_parameters()}
    shares = float(figures.accuracy), float(figures.relative_gradient)
    result = TrainingResult(Trajectory((row,)), "budget", *shares, state)
    return FinishedRun(lift, network.parametrization, objective, result, spec.witness, spec.trainer)
