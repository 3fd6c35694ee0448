"""What of the theory is measured on each run, and the tables it leaves."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import parameters_to_vector

from rsl_cli.data import Dataset
from rsl_cli.errors import ConfigError, one_of
from rsl_cli.lift import Lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.theory.coverage import coverage_table
from rsl_cli.theory.drift import weight_drift
from rsl_cli.theory.tangent import TangentProbe, tangent_table
from rsl_cli.train.objective import Objective
from rsl_cli.train.trainers import Flow, Settings
from rsl_cli.train.trajectory import PathPoint, TrainingResult

if TYPE_CHECKING:
    import pandas as pd

_KEYS = ("name", "tangent", "coverage")


@dataclass(frozen=True)
class Theory:
    """What is measured; make one with `Theory.from_config`.

    Args:
        tangent: kappa at the start, along the path and on a sphere around the start; None: not.
        coverage: the etas at which copies are held against the planted witness; empty: not.
    """

    tangent: TangentProbe | None = None
    coverage: tuple[float, ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], trainer: Settings, loss: str, data: Dataset) -> "Theory":
        """Read and validate; what has no meaning for this trainer, loss or dataset is refused if asked for by name.

        Raises:
            ConfigError: an unknown key, a value out of range, kappa of another loss, coverage without a witness.
        """
        for key in config:
            if key not in _KEYS:
                raise ConfigError(one_of("theory key", key, _KEYS))
        tangent = None if config.get("tangent") is None else TangentProbe.from_config(config["tangent"])
        if tangent is not None and tangent.probes == 0 and (loss != "mse" or not isinstance(trainer, Flow)):
            tangent = None  # Only along a flow, and there is none here.
        if tangent is not None and loss != "mse":
            raise ConfigError(f"theory.tangent is defined for loss=mse, not {loss}; use theory=none or loss=mse")
        etas = _etas(config.get("coverage"))
        if etas and data.witness_degree is None:
            raise ConfigError(
                f"theory.coverage needs a planted witness, dataset '{data.name}' has none; use dataset=teacher"
            )
        return cls(tangent, etas)

    def identity(self) -> dict[str, Any]:
        """Everything that determines the tables."""
        return {"tangent": None if self.tangent is None else self.tangent.identity(), "coverage": list(self.coverage)}

    def tables(
        self,
        lift: Lift,
        parametrization: str,
        witness: LiftedNetwork | None,
        objective: Objective,
        result: TrainingResult,
    ) -> "dict[str, pd.DataFrame]":
        """Measure one finished run.

        Args:
            lift: the run's.
            parametrization: of its network.
            witness: the planted network, if there is one.
            objective: the run's data and loss.
            result: how its training ended.

        Returns:
            Tables by name: ``drift`` always, ``tangent`` and ``coverage`` where asked for.
        """
        dtype = objective.x.dtype
        start = LiftedNetwork(lift, None, dtype, parametrization)
        tables = {"drift": weight_drift(start, result.state)}
        if self.coverage and witness is not None:
            tables["coverage"] = coverage_table(start, witness, self.coverage)
        if self.tangent is not None and result.stop_reason != "diverged" and self._is_small(lift):
            start = start.to(objective.x.device)
            last = result.trajectory.last
            end = torch.cat([part.reshape(-1) for part in result.state.values()])
            path = [point for point in result.path if point.step > 0]
            path = path or [PathPoint(int(last["step"]), math.nan, end)]
            origin = parameters_to_vector(start.parameters()).detach()
            tables["tangent"] = tangent_table(start, objective, origin, path, self.tangent, lift.seed)
        return tables

    def _is_small(self, lift: Lift) -> bool:
        assert self.tangent is not None
        return self.tangent.largest is None or lift.parameter_count <= self.tangent.largest


def with_path_before(before: "pd.DataFrame | None", table: "pd.DataFrame", until: float) -> "pd.DataFrame":
    """A table of kappa whose path lacks all up to a flow time, completed from the one that has it."""
    import pandas as pd

    if before is None:
        return table
    old = before.query("place == 'path' and time <= @until")
    new = table.query("place == 'path' and time > @until")
    new = new.assign(probe=new.groupby("time").ngroup() + len(set(old["time"])))
    return pd.concat([table.query("place == 'start'"), old, new, table.query("place == 'ball'")], ignore_index=True)


def _etas(value: Any) -> tuple[float, ...]:
    if value is None:
        return ()
    etas = value if isinstance(value, list | tuple) else [value]
    for eta in etas:
        if isinstance(eta, bool) or not isinstance(eta, int | float) or not (math.isfinite(eta) and eta >= 0):
            raise ConfigError(f"theory.coverage={value!r}; accepted: null or a list of numbers from 0, e.g. [0.5,1]")
    return tuple(float(eta) for eta in etas)
