"""What a report has to know of a trainer: said by the trainer, kept by a study's plan, read without the trainer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Facts:
    """What a report has to know of a trainer, which a study's plan keeps.

    Args:
        clock: the column of a trajectory in which it follows the gradient flow: flow time, or steps, which then stand
            for it; None: it is on no flow, or ends with its schedule, or noise makes a floor that is not the lift's.
        carried_by: the key that carries its runs on; empty: they end with their schedule.
        remark: a sentence beside each verdict; empty: none.
    """

    clock: Literal["time", "step"] | None = None
    carried_by: str = ""
    remark: str = ""


def facts_in_steps(schedule: object, batch_size: object, *, follows_flow: bool) -> Facts:
    """Of a trainer by steps, whose steps at a constant rate on all samples follow the flow or do not."""
    steady = schedule == "constant"
    return Facts("step" if follows_flow and steady and batch_size is None else None, "steps" if steady else "")


FACTS: Mapping[str, Facts] = {
    "flow": Facts("time", "t_end"),
    "lm": Facts(None, "max_steps", "Trained by Levenberg-Marquardt: end points only, not the flow's path."),
}
"""Of the trainers that take no first-order steps."""


def facts_of_old(config: Mapping[str, Any]) -> Facts:
    """Of the trainer of a study whose plan does not say them yet, by its configuration."""
    name = str(config.get("name"))
    if name in FACTS:
        return FACTS[name]
    return facts_in_steps(config.get("schedule"), config.get("batch_size"), follows_flow=name in ("gd", "sgd"))
