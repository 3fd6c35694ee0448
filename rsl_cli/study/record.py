"""What is kept of one run: every field by name, with its type and its unit; of whichever version it was written.

One type serves the runner, the store, the report, its CSV and Python: nothing else says what a run's values are.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from rsl_cli.study.integrity import DamageError

RECORD_SCHEMA = 2
"""Version of a record: 1 may lack digests, 2 holds those of all the run's files and is sealed."""

MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: lambda content: content}
"""What makes a record's content of one version that of the next; what it lacks then is null."""


@dataclass(frozen=True)
class RunKey:
    """Which run: its lift degree, its seed and the hash of everything that determines its numbers."""

    lift: int
    seed: int
    run_id: str

    @property
    def directory(self) -> str:
        """Name of the run's folder, e.g. ``n00064-s003-0123456789abcdef``."""
        return f"n{self.lift:05d}-s{self.seed:03d}-{self.run_id}"


class Written(NamedTuple):
    """What a file was when it was written."""

    bytes: int
    sha256: str


def _of(unit: str) -> Any:
    """A field that is null until there is something to say, in a unit."""
    return field(default=None, metadata={"unit": unit})


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run, done or failed; null stands for what there is none of. Losses are of the unit of the run's loss."""

    schema: int = RECORD_SCHEMA
    run_id: str
    base: str | None = None
    dataset: str | None = None
    trainer: str | None = None
    lifting: str | None = None
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
    steps: int | None = _of("steps taken")
    grad_norm: float | None = _of("norm of the training loss's gradient")
    distance: float | None = _of("|theta - theta_0|")
    stop_reason: str | None = None
    wall_seconds: float | None = _of("seconds, an equal share of its unions'")
    status: Literal["done", "failed"]
    loss: str | None = None
    parametrization: str | None = None
    initial_loss: float | None = _of("loss before the first step")
    log_slope: float | None = _of("d log loss / d log time, at the end")
    relative_gradient: float | None = _of("|grad L| distance / L")
    resolution: float | None = _of("smallest loss that rounding lets one tell from zero")
    witness_degree: int | None = _of("lift degree of a planted network")
    restarted_at: float | None = _of("flow time at which integration last began anew")
    error: str | None = None
    continued: int = 0
    """How often it was carried further."""
    files: Mapping[str, Written] = field(default_factory=dict)
    """By name, what its files were when they were written."""

    @property
    def key(self) -> RunKey:
        """Which run."""
        return RunKey(self.lift, self.seed, self.run_id)

    @property
    def done(self) -> bool:
        """Whether the run finished."""
        return self.status == "done"

    def values(self) -> dict[str, Any]:
        """What it says of the run, as a row of a table."""
        return {name: getattr(self, name) for name in VALUES}

    def plain(self) -> dict[str, Any]:
        """The record as a file holds it: an error, repetitions and files only where there are any."""
        kept = {name: value for name, value in self.values().items() if name != "error" or value is not None}
        files = {name: file._asdict() for name, file in self.files.items()}
        return kept | ({"continued": self.continued} if self.continued else {}) | ({"files": files} if files else {})

    @classmethod
    def read(cls, content: Mapping[str, Any], key: RunKey | None = None, *, sealed: bool = True) -> "Record":
        """Read what `plain` made, of this version or an earlier one.

        Args:
            content: names and values; values of no field are passed over.
            key: which run it is due to be, filled in where nothing is said.
            sealed: whether the file it comes from ends in a digest.

        Returns:
            A record of this version's fields, whatever version wrote it.

        Raises:
            DamageError: no status, the record of another run, or a value of another type than its field's.
        """
        due = {} if key is None else {"lift": key.lift, "seed": key.seed, "run_id": key.run_id}
        content = {**due, **content}
        if content.get("status") not in ("done", "failed"):
            raise DamageError(f"status is {content.get('status')!r}; accepted: done or failed")
        content = _of_today(content, sealed)
        for name, value in due.items():
            if content[name] != value:
                raise DamageError(f"{name} is {content[name]!r}, its folder's is {value!r}")
        known = {name: _value(name, value) for name, value in content.items() if name in _TYPES and value is not None}
        for name in ("run_id", "lift", "seed"):
            if name not in known:
                raise DamageError(f"it does not say {name}")
        return cls(**{**known, "files": _files(known.get("files", {}))})


def _of_today(content: dict[str, Any], sealed: bool) -> dict[str, Any]:
    schema = content.get("schema", 1)
    if schema not in range(1, RECORD_SCHEMA + 1):
        accepted = ", ".join(map(str, range(1, RECORD_SCHEMA + 1)))
        raise DamageError(f"written by another version of rsl, schema {schema!r}; accepted: {accepted}")
    if schema >= 2 and not (sealed and (content["status"] == "failed" or content.get("files"))):
        raise DamageError("its digests are missing")
    for version in range(schema, RECORD_SCHEMA):
        content = MIGRATIONS[version](content)
    return content


def _value(name: str, value: Any) -> Any:
    if FIELDS[name] is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
        raise DamageError(f"{name} is {value!r}, a {type(value).__name__}")
    return float(value) if FIELDS[name] is float else value


def _files(files: Mapping[str, Any]) -> dict[str, Written]:
    for one in files.values():
        if not (isinstance(one, dict) and type(one.get("bytes")) is int and isinstance(one.get("sha256"), str)):
            raise DamageError("files is no mapping of names to sizes and digests")
    return {name: Written(one["bytes"], one["sha256"]) for name, one in files.items()}


def _accepted(hint: Any) -> tuple[type, ...]:
    """What a value of a field may be, where it is not null."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    found = []
    for kind in kinds:
        origin = get_origin(kind)
        found += [str] if origin is Literal else [dict] if origin is not None else [kind]
    found = [kind for kind in found if kind is not type(None)]
    return (int, float) if found == [float] else tuple(found)


_TYPES = {name: _accepted(hint) for name, hint in get_type_hints(Record).items()}
FIELDS: Mapping[str, type] = {name: kinds[-1] for name, kinds in _TYPES.items()}
"""Every field, with what its value is where it is not null."""
VALUES = tuple(one.name for one in fields(Record) if one.name not in ("continued", "files"))
"""The fields that say something of the run itself, in the order of a file and a table."""
