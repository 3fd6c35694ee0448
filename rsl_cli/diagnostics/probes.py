"""Probes: what is measured on a finished run, each a function from the run to one table."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector

from rsl_cli.contracts import failing
from rsl_cli.diagnostics.coordinates import coordinates_table
from rsl_cli.diagnostics.coverage import coverage_table
from rsl_cli.diagnostics.drift import weight_drift
from rsl_cli.diagnostics.kernel import kernel_table
from rsl_cli.diagnostics.tangent import TangentProbe, tangent_table
from rsl_cli.errors import ConfigError, RslError
from rsl_cli.lift import Lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.registry import Registry
from rsl_cli.train.objective import Objective
from rsl_cli.train.trainer import Trainer
from rsl_cli.train.trajectory import PathPoint, TrainingResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FinishedRun:
    """A run whose training has ended, as a probe is given it.

    Args:
        lift: the run's.
        parametrization: of its network.
        objective: its data and loss.
        result: trajectory, final parameters, why it ended, points on the way.
        witness: the planted network, if there is one.
        trainer: what it was trained by, to be trained again for a few steps.
    """

    lift: Lift
    parametrization: str
    objective: Objective
    result: TrainingResult
    witness: LiftedNetwork | None = None
    trainer: Trainer | None = None

    @cached_property
    def start(self) -> LiftedNetwork:
        """The network as it was drawn, in the host's memory."""
        return LiftedNetwork(self.lift, None, self.objective.x.dtype, self.parametrization)

    @cached_property
    def network(self) -> LiftedNetwork:
        """The network as it was left, on the data's device."""
        network = LiftedNetwork(self.lift, None, self.objective.x.dtype, self.parametrization)
        network.load_state_dict(dict(self.result.state))
        return network.to(self.objective.x.device)

    def after(self, steps: int) -> LiftedNetwork:
        """The network after its trainer's first steps, see `rsl_cli.train.trainer.Trainer`.

        Returns:
            A network of its own, on the data's device; the run's stays as it is.

        Raises:
            ConfigError: the run does not know its trainer.
        """
        if self.trainer is None:
            raise ConfigError("a run without its trainer cannot be trained again; pass FinishedRun(..., trainer=...)")
        network = LiftedNetwork(self.lift, None, self.objective.x.dtype, self.parametrization)
        self.trainer.beginning(steps).train(network.to(self.objective.x.device), self.objective)
        return network


Probe = Callable[..., "pd.DataFrame | Mapping[str, Any] | None"]
"""From a run, and arguments by keyword, to a table, or to the one row of it; None: nothing to say of this run."""

PROBES: Registry[Probe] = Registry("probe")
"""Every probe by the name of the table it makes."""
P = TypeVar("P", bound=Probe)


def along_path(number: str | None = None) -> Callable[[P], P]:
    """A decorator that says of a probe that its table has rows at points of the path, by their ``time``.

    Of a run whose training was begun anew where it stood, the earlier part of the path is not there to be measured
    again: those rows of its earlier table stay.

    Args:
        number: column that counts these points from 0, if there is one.

    Returns:
        The decorator, which returns the probe as it is.
    """

    def say(probe: P) -> P:
        vars(probe)["with_path_before"] = partial(with_path_before, number=number)
        return probe

    return say


def with_path_before(
    table: "pd.DataFrame", before: "pd.DataFrame", until: float, number: str | None = None
) -> "pd.DataFrame":
    """A table that lacks the path up to a flow time, completed from the one that has it.

    Args:
        table: of now.
        before: of the same probe on the same run, as it stood then.
        until: that time.
        number: see `along_path`.

    Returns:
        Rows by their time, and those of now that have none.
    """
    import pandas as pd

    old, new = before.query("time <= @until"), table.query("time > @until")
    if number is not None and len(old):
        new = new.assign(**{number: new.groupby("time").ngroup() + old[number].max() + 1})
    return pd.concat([old, new, table.query("time.isna()")], ignore_index=True)


@dataclass(frozen=True)
class Limit:
    """What a probe measures of small lifts only: of up to ``largest`` parameters, which an argument of it changes."""

    what: str
    largest: int

    def __call__(self, probe: P) -> P:
        """Say so of a probe."""
        vars(probe)["limit"] = self
        return probe


_SPECTRUM = Limit("the tangent kernel's spectrum", 1024)


@PROBES.add("drift")
def drift(run: FinishedRun) -> "pd.DataFrame":
    """How far the weights' law has moved."""
    return weight_drift(run.start, run.result.state)


@PROBES.add("coverage")
def coverage(run: FinishedRun, etas: Sequence[float]) -> "pd.DataFrame | None":
    """How many copies of each vertex were near the witness's at the start."""
    return None if run.witness is None else coverage_table(run.start, run.witness, etas)


@PROBES.add("tangent")
@along_path(number="probe")
def tangent(run: FinishedRun, settings: TangentProbe) -> "pd.DataFrame | None":
    """Kappa at the start, along the path and on a sphere around the start."""
    small = settings.largest is None or run.lift.parameter_count <= settings.largest
    if run.result.stop_reason == "diverged" or not small:
        return None
    origin, *path = _path(run)
    start = run.start.to(run.objective.x.device)
    return tangent_table(start, run.objective, origin.parameters, path, settings, run.lift.seed)


@PROBES.add("ntk")
@along_path()
@_SPECTRUM
def ntk(run: FinishedRun, largest: int | None = _SPECTRUM.largest) -> "pd.DataFrame | None":
    """The tangent kernel's spectrum at the start and along the path; of lifts of up to so many parameters."""
    if run.result.stop_reason == "diverged" or (largest is not None and run.lift.parameter_count > largest):
        return None
    return kernel_table(run.start.to(run.objective.x.device), run.objective, _path(run))


@PROBES.add("coordinates")
def coordinates(run: FinishedRun, steps: Sequence[int] = (1, 2, 4, 8), samples: int = 256) -> "pd.DataFrame":
    """The size of every vertex's sums, and of their change, after so many first steps; over so many samples."""
    return coordinates_table(run.start.to(run.objective.x.device), run.after, run.objective.x[:samples], steps)


def _path(run: FinishedRun) -> list[PathPoint]:
    """The start, and what the trainer kept on its way, or else the end."""
    end = torch.cat([part.reshape(-1) for part in run.result.state.values()])
    path = [point for point in run.result.path if point.step > 0]
    path = path or [PathPoint(int(run.result.trajectory.last["step"]), math.nan, end)]
    return [PathPoint(0, 0.0, parameters_to_vector(run.start.parameters()).detach()), *path]


def measure(
    name: str,
    probe: Probe,
    run: FinishedRun,
    arguments: Mapping[str, Any],
    before: "Callable[[], pd.DataFrame | None]" = lambda: None,
) -> "pd.DataFrame | None":
    """The table of a probe.

    Args:
        name: of the probe, for errors.
        probe: the function.
        run: what it measures.
        arguments: by keyword.
        before: the table that it left when the run was last finished, if it did; see `along_path`.

    Returns:
        The table; None where the probe gives none for this run.

    Raises:
        ConfigError: it gives neither a table nor a row of one, or no time along the path.
    """
    import pandas as pd

    made = probe(run, **arguments)
    table = pd.DataFrame([made]) if isinstance(made, Mapping) else made
    if table is None:
        return None
    if not isinstance(table, pd.DataFrame) or not len(table.columns):
        raise ConfigError(f"probe {name}: gives a {type(made).__name__}; accepted: a pandas.DataFrame, a mapping, None")
    wrong = [column for column in table.columns if not isinstance(column, str)]
    if wrong:
        raise ConfigError(f"probe {name}: a column is called {wrong[0]!r}; accepted: names that are texts")
    complete = getattr(probe, "with_path_before", None)
    if complete is None:
        return table
    if "time" not in table:
        raise ConfigError(f"probe {name}: says along_path, and its table has no column time")
    earlier = None if run.result.restarted_at is None else before()
    return table if earlier is None else complete(table, earlier, run.result.restarted_at)


def check_probe(name: str, probe: Probe, run: FinishedRun, arguments: Mapping[str, Any]) -> None:
    """The contract of a probe on a run: a table, the same at every call, and the run left as it was.

    Args:
        name: of the probe, for errors.
        probe: the function.
        run: any finished run.
        arguments: by keyword.

    Raises:
        RslError: what it breaks, in one line.
        ConfigError: it gives no table, or changes the run.
    """
    before = {key: value.clone() for key, value in run.result.state.items()}
    try:
        with failing(f"probe {name}"):
            tables = [measure(name, probe, run, arguments) for _ in range(2)]
    except RslError as error:
        raise ConfigError(str(error)) from error
    first, second = (None if table is None else table.to_csv(index=False) for table in tables)
    if first != second:
        raise ConfigError(f"probe {name}: gives another table when called again; it must not depend on chance")
    moved = [key for key, value in run.result.state.items() if not np.array_equal(value, before[key], equal_nan=True)]
    if moved:
        raise ConfigError(f"probe {name}: changes the run's parameters ({moved[0]}); work on a copy of run.network")
