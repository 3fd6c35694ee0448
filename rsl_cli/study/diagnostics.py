"""What is measured on each run of a study, and the tables it leaves."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from rsl_cli.data import is_planted
from rsl_cli.diagnostics.probes import PROBES, FinishedRun, check_probe, measure
from rsl_cli.diagnostics.tangent import TANGENT, TangentProbe
from rsl_cli.errors import ConfigError
from rsl_cli.keys import Key, Keys, identity_of, read_keys
from rsl_cli.lift import Lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.registry import Origin, is_ours, plain_arguments
from rsl_cli.train.losses import Loss
from rsl_cli.train.objective import Objective
from rsl_cli.train.trainer import Trainer
from rsl_cli.train.trajectory import TrainingResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class UserProbe:
    """A probe asked for by name: its table's name, what names it in a configuration, and where it comes from."""

    table: str
    target: str
    origin: Origin = field(compare=False)


@dataclass(frozen=True)
class Diagnostics:
    """What is measured; make one with `Diagnostics.from_config`.

    Args:
        tangent: kappa at the start, along the path and on a sphere around the start; None: not.
        coverage: the etas at which copies are held against the planted witness; empty: not.
        probes: that ship, or of the user's own.
    """

    tangent: TangentProbe | None = None
    coverage: tuple[float, ...] = ()
    probes: tuple[UserProbe, ...] = ()

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], trainer: Trainer, loss: Loss, dataset: Mapping[str, Any]
    ) -> "Diagnostics":
        """Read and validate; what has no meaning for this trainer, loss or dataset is refused if asked for by name.

        Returns:
            What is to be measured on each finished run.

        Raises:
            ConfigError: an unknown key, a value out of range, kappa of another loss, coverage without a witness.
        """
        read = read_keys("theory.", DIAGNOSTICS, config)
        tangent, etas = read["tangent"], read["coverage"]
        if tangent is not None and tangent.probes == 0 and not (loss.quadratic and trainer.facts.clock == "time"):
            tangent = None  # Only along a flow, and there is none here.
        if tangent is not None and not loss.quadratic:
            raise ConfigError(f"theory.tangent is defined for loss=mse, not {loss.name}; use theory=none or loss=mse")
        if etas and not is_planted(dataset):
            raise ConfigError(
                f"theory.coverage needs a planted witness, dataset '{dataset['name']}' has none; use dataset=teacher"
            )
        return cls(tangent, etas, read["probes"])

    def identity(self) -> dict[str, Any]:
        """Everything that determines the tables."""
        tangent = None if self.tangent is None else self.tangent.identity()
        probes = tuple(probe.origin.identity() for probe in self.probes)
        return identity_of(DIAGNOSTICS, {"tangent": tangent, "coverage": list(self.coverage), "probes": probes})

    def tables(
        self,
        lift: Lift,
        parametrization: str,
        witness: LiftedNetwork | None,
        objective: Objective,
        result: TrainingResult,
        trainer: Trainer,
        before: "Callable[[str], pd.DataFrame | None]",
    ) -> "dict[str, pd.DataFrame]":
        """Measure one finished run.

        Args:
            lift: the run's.
            parametrization: of its network.
            witness: the planted network, if there is one.
            objective: the run's data and loss.
            result: how its training ended.
            trainer: what it was trained by.
            before: the run's tables of when it was last finished, by name.

        Returns:
            Tables by name: ``drift`` always, others where asked for.
        """
        run = FinishedRun(lift, parametrization, objective, result, witness, trainer)
        asked: list[tuple[str, str, Mapping[str, Any]]] = [("drift", "drift", {})]
        asked += [("coverage", "coverage", {"etas": self.coverage})] if self.coverage else []
        asked += [("tangent", "tangent", {"settings": self.tangent})] if self.tangent is not None else []
        asked += [(probe.table, probe.target, probe.origin.arguments) for probe in self.probes]
        made = {
            table: measure(name, PROBES.find(name), run, arguments, partial(before, table))
            for table, name, arguments in asked
        }
        return {table: frame for table, frame in made.items() if frame is not None}

    def check(self, run: FinishedRun) -> None:
        """Hold the user's probes to their contract on a run.

        Raises:
            ConfigError: what one breaks, in one line.
        """
        for probe in self.probes:
            check_probe(probe.target, PROBES.find(probe.target), run, probe.origin.arguments)


def _probes(value: Any) -> tuple[UserProbe, ...]:
    listed = [] if value is None else value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    found: dict[str, UserProbe] = {}
    for config in listed:
        given = dict(config) if isinstance(config, Mapping) else {"target": config}
        target, arguments = str(given.pop("target", None)), given.pop("arguments", None) or {}
        if given:
            raise ConfigError(f"theory.probes has no key {next(iter(given))!r}; accepted: target, arguments")
        table = target.rpartition(".")[2]
        shipped = table in _TABLES or (table in PROBES and is_ours(PROBES[table]) and target != table)
        if shipped or table in found:
            taken = "shipped" if shipped else "listed twice"
            raise ConfigError(f"theory.probes: table '{table}' of {target} is {taken}; name the function otherwise")
        if not callable(PROBES.find(target, "theory.probes")):
            raise ConfigError(f"theory.probes: {target} is no function; accepted: one from a finished run to a table")
        arguments = plain_arguments(f"probe {target}", arguments)
        # One that ships is known by its name; a user's by its source too.
        origin = PROBES.origin(target, arguments) or Origin(target, "", arguments)
        found[table] = UserProbe(table, target, origin)
    return tuple(found.values())


def _etas(value: Any) -> tuple[float, ...]:
    if value is None:
        return ()
    etas = value if isinstance(value, list | tuple) else [value]
    for eta in etas:
        if isinstance(eta, bool) or not isinstance(eta, int | float) or not (math.isfinite(eta) and eta >= 0):
            raise ConfigError(f"theory.coverage={value!r}; accepted: null or a list of numbers from 0, e.g. [0.5,1]")
    return tuple(float(eta) for eta in etas)


DIAGNOSTICS: Keys = {
    "tangent": Key(
        None,
        f"null or the keys {', '.join(TANGENT)}",
        "{probes: 4}",
        lambda value: None if value is None else TangentProbe.from_config(value),
        "kappa at the start, along the path and on a sphere; null: not",
    ),
    "coverage": Key(
        None,
        "null or a list of numbers from 0",
        "[0.5,1]",
        _etas,
        "sizes eta within which copies are held against the planted witness's; null: not",
    ),
    "probes": Key(
        None,
        "null or a list of functions",
        "[mine.sharpness]",
        _probes,
        "ntk, coordinates, or of your own, e.g. [mine.sharpness]: functions from a finished run to a table",
    ).of("changed"),
}
"""What can be measured of a finished run."""

_TABLES = ("trajectory", "drift", *(key for key in DIAGNOSTICS if key in PROBES))
"""Tables that no probe asked for by name may have."""
