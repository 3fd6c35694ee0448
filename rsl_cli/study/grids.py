"""What a study was asked for, each time a grid of runs and how far to carry them: all of it as one."""

from collections.abc import Mapping, Sequence
from typing import Any


def merged(grids: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was asked for last, with the lifts, seeds and runs of every time; runs by lift, then seed."""
    if len(grids) == 1:
        return dict(grids[0])
    every = {(run["lift"], run["seed"], run["run_id"]): run for grid in grids for run in grid["plan"]["runs"]}
    runs = sorted(every.values(), key=lambda run: (run["lift"], run["seed"]))
    # Grids of earlier versions do not say which lifts are dense, and so do not all together.
    said = {key for key in ("lifts", "seeds", "dense") if all(key in grid["plan"] for grid in grids)}
    plan: dict[str, Any] = {key: sorted({one for grid in grids for one in grid["plan"][key]}) for key in said}
    last = {key: value for key, value in grids[-1]["plan"].items() if key != "dense"}
    return {**grids[0], **grids[-1], "plan": {**last, **plan, "runs": runs}}


def carried(study: Mapping[str, Any], lift: int | None = None) -> dict[str, Any]:
    """How far the latest call asked a study's runs to be carried; they may stand further, or not yet there.

    Args:
        study: the content of ``study.json``.
        lift: runs of which lift; None: those that were given no horizon of their own.

    Returns:
        Of the flow ``t_end``, ``max_steps`` and ``epsilon`` (None: no target), of Levenberg-Marquardt the last two, of
        a first-order trainer at a constant rate ``steps``; nothing where a schedule ends the runs.
    """
    if "carried" in study:
        return {**study["carried"], **study.get("config", {}).get("horizons", {}).get(str(lift), {})}
    # Before runs could be carried on, what they were named by said how far.
    trainer = study.get("identity", {}).get("trainer", {})
    keys = ("t_end", "max_steps", "epsilon", *(("steps",) if trainer.get("schedule") == "constant" else ()))
    return {key: trainer[key] for key in keys if key in trainer}
