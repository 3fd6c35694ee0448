"""Every trainer by name, from its configuration."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rsl_cli.errors import ConfigError, one_of
from rsl_cli.keys import Keys, horizon_of
from rsl_cli.train.checkpoint import Saved
from rsl_cli.train.first_order import FIRST_ORDER, FirstOrder
from rsl_cli.train.flow import Flow
from rsl_cli.train.implicit import ImplicitTrainer
from rsl_cli.train.lm import LevenbergMarquardt
from rsl_cli.train.optimizers import OPTIMIZERS
from rsl_cli.train.settings import AUTO, FLOW, LM
from rsl_cli.train.trainer import Trainer
from rsl_cli.train.trajectory import COLUMNS, Row

if TYPE_CHECKING:
    import pandas as pd

TRAINERS: Mapping[str, Keys] = {"flow": FLOW, "lm": LM, **FIRST_ORDER}
"""Every trainer's keys beside its name."""
_IMPLICIT: Mapping[str, type[ImplicitTrainer]] = {"flow": Flow, "lm": LevenbergMarquardt}


def chosen_trainer(
    config: Mapping[str, Any], task: str, affordable_flow: Callable[[], tuple[bool, str]]
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The configuration of one trainer, ``auto`` being whichever it names for the data's task and the flow's cost.

    Args:
        config: of a trainer; of ``auto``, what is to be otherwise than in `AUTO`.
        task: ``regression`` or ``classification``.
        affordable_flow: whether the flow is affordable, and a line that says so.

    Returns:
        The configuration, and lines for the plan.

    Raises:
        ConfigError: ``auto`` with other keys.
    """
    if config.get("name") != "auto":
        return config, ()
    for key, value in config.items():
        if key not in ("name", *AUTO):
            raise ConfigError(one_of("trainer key", key, AUTO))
        if key != "name" and not isinstance(value, Mapping):
            raise ConfigError(f"trainer.{key}={value!r}; accepted: a trainer's keys, e.g. {{name: flow, t_end: 1e5}}")

    def part(key: str) -> Mapping[str, Any]:
        declared, given = AUTO[key], config.get(key, {})
        return {**declared, **given} if given.get("name", declared["name"]) == declared["name"] else given

    wanted = part("classes" if task == "classification" else "numbers")
    if wanted["name"] != Flow.name:
        return wanted, ()
    affordable, note = affordable_flow()
    return wanted if affordable else part("dear"), (note,)


def trainer_settings(config: Mapping[str, Any]) -> Trainer:
    """Read a trainer's configuration.

    Returns:
        The trainer, every key settled.

    Raises:
        ConfigError: an unknown trainer or key, or a value out of range.
    """
    name = config.get("name")
    if isinstance(name, str) and name in _IMPLICIT:
        return _IMPLICIT[name].from_config(config)
    if not isinstance(name, str) or (name not in OPTIMIZERS and "." not in name):
        raise ConfigError(one_of("trainer.name", name, [*_IMPLICIT, *OPTIMIZERS]))
    return FirstOrder.from_config(config)


def horizon_keys(identity: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of a trainer that say how far a run is carried.

    Args:
        identity: its settings, of today or as studies named them when these keys were part of a run's identity.

    Returns:
        Names of keys; none where a schedule ends the runs.
    """
    ends = identity.get("schedule", "constant") != "constant"  # Its schedule ends such a run.
    return () if ends else horizon_of(TRAINERS.get(identity.get("name", ""), {}))


def from_results(settings: Trainer, trajectory: "pd.DataFrame", state: Mapping[str, np.ndarray]) -> Saved:
    """What a finished run goes on from of which the results alone are left.

    The flow begins anew where the run stands. Other trainers begin at the start, which costs steps and changes nothing.

    Args:
        settings: of the trainer.
        trajectory: its samples.
        state: final parameters by name.

    Returns:
        Arrays and texts, as a checkpoint has them.
    """
    table = trajectory.reindex(columns=list(COLUMNS))
    return settings.goes_on([Row(int(step), *rest) for step, *rest in table.itertuples(index=False)], state)
