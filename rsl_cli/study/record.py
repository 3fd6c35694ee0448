"""What is kept of one run: every field by name, with its type and its unit."""

import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Union, get_args, get_origin, get_type_hints


def _of(unit: str) -> Any:
    """A field that is null until there is something to say, in a unit."""
    return field(default=None, metadata={"unit": unit})


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run, done or failed; null stands for what there is none of. Losses are of the unit of the run's loss."""

    schema: int
    run_id: str
    base: str
    dataset: str
    trainer: str
    lifting: str
    in_degree: float | None = _of("sources each copy reads, mean")
    lift: int
    seed: int
    params: int | None = _of("trained numbers, P")
    samples: int | None = _of("training samples, N")
    outputs: int | None = _of("numbers of one output")
    train_loss: float | None = _of("loss")
    test_loss: float | None = _of("loss, held out")
    loss_std: float | None = _of("held-out loss over the targets' variance")
    accuracy: float | None = _of("share of held-out samples classified rightly")
    flow_time: float | None = _of("flow time at the end")
    steps: float | None = _of("steps taken")
    grad_norm: float | None = _of("norm of the training loss's gradient")
    distance: float | None = _of("|theta - theta_0|")
    stop_reason: str | None = None
    wall_seconds: float | None = _of("seconds, an equal share of its unions'")
    status: str
    loss: str | None = None
    parametrization: str | None = None
    initial_loss: float | None = _of("loss before the first step")
    log_slope: float | None = _of("d log loss / d log time, at the end")
    relative_gradient: float | None = _of("|grad L| distance / L")
    resolution: float | None = _of("smallest loss that rounding lets one tell from zero")
    witness_degree: int | None = _of("lift degree of a planted network")
    restarted_at: float | None = _of("flow time at which integration last began anew")
    error: str | None = None

    def plain(self) -> dict[str, Any]:
        """The record as a file holds it: an error only where there is one."""
        return {key: value for key, value in asdict(self).items() if key != "error" or value is not None}


def _accepted(hint: Any) -> tuple[type, ...]:
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    return (int, float) if kinds == (float,) else kinds


_HINTS = get_type_hints(Record)
RECORD_TYPES: Mapping[str, tuple[type, ...]] = {
    **{one.name: _accepted(_HINTS[one.name]) for one in fields(Record)},
    # What the store adds.
    "continued": (int,),
    "files": (dict,),
}
"""What a record's values are, where they are not null."""
