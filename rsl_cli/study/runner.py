"""Doing what a study still lacks: plan, lock, train, write; a failed run stops no other."""

import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from rsl_cli.errors import RslError, StoreError
from rsl_cli.lift import disjoint_union, expected_parameters, sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.study.spec import StudySpec, refuse_other
from rsl_cli.study.store import SCHEMA, RunKey, StudyStore, first_line, read_tensors, write_tensors
from rsl_cli.train.checkpoint import Saved
from rsl_cli.train.objective import Objective
from rsl_cli.train.trainers import train
from rsl_cli.train.trajectory import TrainingResult

Progress = Callable[["Item", int, int, float], None]
"""Called with (item, step, steps, median loss) while an item is training."""


@dataclass(frozen=True)
class Item:
    """Runs that train together as one union."""

    keys: tuple[RunKey, ...]

    @property
    def lift(self) -> int:
        """Their largest lift degree."""
        return max(key.lift for key in self.keys)

    @property
    def lifts(self) -> str:
        """Their lift degrees, for people."""
        least = min(key.lift for key in self.keys)
        return f"{self.lift}" if least == self.lift else f"{least}..{self.lift}"

    @property
    def name(self) -> str:
        """A name for files, from the members."""
        return f"n{self.lift:05d}-" + "-".join(f"s{key.seed:03d}" for key in self.keys[:8]) + f"-{self.keys[-1].run_id}"


@dataclass(frozen=True)
class Plan:
    """What a study has and lacks.

    Args:
        keys: every run asked for now.
        missing: those without a finished record.
        parameters: expected P by lift.
    """

    keys: tuple[RunKey, ...]
    missing: tuple[RunKey, ...]
    parameters: Mapping[int, int]


def make_plan(spec: StudySpec) -> Plan:
    """Compare what is asked for with what is stored; writes nothing.

    Raises:
        StoreError: the study's folder computes something else.
    """
    keys = tuple(spec.run_keys())
    if spec.store.exists():
        refuse_other(spec.store, spec.identity)
    missing = tuple(key for key in keys if not spec.store.is_done(key))
    parameters = {lift: expected_parameters(spec.base, lift, spec.lifting) for lift in spec.lifts}
    return Plan(keys, missing, parameters)


def register(spec: StudySpec) -> None:
    """Write ``study.json``, or add the runs asked for to the one there."""
    with spec.store.study_lock():
        planned = {key.directory: key for key in spec.run_keys()}
        if spec.store.exists():
            refuse_other(spec.store, spec.identity)
            known = {key.directory: key for key in spec.store.planned()}
            if planned.keys() <= known.keys():
                return
            planned = known | planned
        keys = sorted(planned.values(), key=lambda key: (key.lift, key.seed))
        spec.store.write_study(
            {
                "schema": SCHEMA,
                "name": spec.name,
                "config": spec.config,
                "identity": spec.identity,
                "versions": _versions(),
                "host": {"machine": platform.machine(), "system": platform.platform(), "device": spec.device},
                "git": _revision(),
                "plan": {
                    "lifts": sorted({key.lift for key in keys}),
                    "seeds": sorted({key.seed for key in keys}),
                    "samples": spec.data.samples,
                    "outputs": spec.data.outputs,
                    "runs": [
                        {"lift": k.lift, "seed": k.seed, "run_id": k.run_id, "directory": k.directory} for k in keys
                    ],
                },
            }
        )


def pack(
    store: StudyStore,
    missing: Sequence[RunKey],
    size: Callable[[int, int], int],
    may_share: Callable[[Sequence[int]], bool],
) -> list[Item]:
    """Group missing runs into unions: first what checkpoints hold, then the rest of each degree, shared out.

    Args:
        store: the study.
        missing: what is to be done.
        size: how many seeds of a degree one union is to have, given the degree and how many there are.
        may_share: whether runs of these degrees, as many, may be one union.
    """
    items, left = [], {key.directory: key for key in missing}
    planned = {key.directory: key for key in store.planned()}
    for path in sorted((store.root / "checkpoints").glob("*.safetensors")):
        try:
            members = read_tensors(path)[1]["members"].split(" ")
        except (StoreError, KeyError):
            path.unlink(missing_ok=True)  # Damaged: what it held starts anew.
            continue
        if all(name in planned for name in members) and any(name in left for name in members):
            items.append(Item(tuple(planned[name] for name in members)))
            for name in members:
                left.pop(name, None)
    fresh: list[tuple[RunKey, ...]] = []
    for lift in sorted({key.lift for key in left.values()}):
        keys = [key for key in left.values() if key.lift == lift]
        most = size(lift, len(keys))
        for start in range(0, len(keys), most):
            part = tuple(keys[start : start + most])
            if fresh and may_share([key.lift for key in (*fresh[-1], *part)]):
                fresh[-1] += part
            else:
                fresh.append(part)
    return sorted([*items, *map(Item, fresh)], key=lambda item: item.lift)


def work(spec: StudySpec, item: Item, progress: Progress | None = None, *, wait: bool = False) -> dict[str, str]:
    """Train one item and write its runs.

    Args:
        spec: the study.
        item: what to train; runs that are done or held by another process are left alone.
        progress: see `Progress`.
        wait: wait for other processes' locks, instead of leaving their runs out.

    Returns:
        ``done``, ``failed`` or ``busy`` by run folder.
    """
    with ExitStack() as locks:
        held = [key for key in item.keys if locks.enter_context(spec.store.run_lock(key, blocking=wait))]
        outcome = {key.directory: "busy" for key in item.keys if key not in held}
        lacking = [key for key in held if not spec.store.is_done(key)]
        outcome |= {key.directory: "done" for key in held if key not in lacking}
        if len(held) < len(item.keys):
            item = Item(tuple(lacking)) if lacking else item
        if lacking:
            outcome |= _train(spec, item, lacking, progress)
    return outcome


def _train(spec: StudySpec, item: Item, lacking: Sequence[RunKey], progress: Progress | None) -> dict[str, str]:
    started = time.perf_counter()
    keeper = _Checkpoints(spec.store, item, float(spec.config["executor"]["checkpoint_seconds"]))
    try:
        lifts = [sample_lift(spec.base, key.lift, key.seed, spec.lifting) for key in item.keys]
        network = LiftedNetwork(disjoint_union(lifts), None, spec.dtype, str(spec.config["parametrization"]))
        network = network.to(spec.device)
        objective = Objective(spec.data, spec.loss, dtype=spec.dtype, device=spec.device)
        report = None if progress is None else lambda step, steps, loss: progress(item, step, steps, loss)
        results = train(network, objective, spec.trainer, keeper=keeper, progress=report)
        tables = [
            spec.theory.tables(lift, network.parametrization, spec.witness, objective, result) if key in lacking else {}
            for key, lift, result in zip(item.keys, lifts, results, strict=True)
        ]
    except RslError:
        raise
    except Exception as error:
        return _failed(spec, item, lacking, error, progress)
    seconds = keeper.seconds_before + time.perf_counter() - started
    for key, lift, result, measured in zip(item.keys, lifts, results, tables, strict=True):
        if key in lacking:
            record = _record(spec, key, lift.parameter_count, result, seconds / len(item.keys), objective.resolution())
            state = {name: tensor.cpu().numpy() for name, tensor in result.state.items()}
            spec.store.write_run(key, record, {"trajectory": result.trajectory.to_frame(), **measured}, state)
    keeper.remove()
    return {key.directory: "done" for key in lacking}


def _failed(
    spec: StudySpec, item: Item, lacking: Sequence[RunKey], error: Exception, progress: Progress | None
) -> dict[str, str]:
    """Find out which run of a union fails by training each alone; write why."""
    if len(item.keys) > 1:
        outcome: dict[str, str] = {}
        for key in lacking:
            outcome |= _train(spec, Item((key,)), [key], progress)
        return outcome
    key = lacking[0]
    text = "".join(traceback.format_exception(error))
    record = {**_identity_fields(spec, key), **dict.fromkeys(_RESULT_FIELDS)}
    record |= {"status": "failed", "error": f"{type(error).__name__}: {first_line(error)}"}
    spec.store.write_failure(key, record, text)
    return {key.directory: "failed"}


class _Checkpoints:
    """One atomic file per union in training, named by its members."""

    def __init__(self, store: StudyStore, item: Item, interval: float) -> None:
        self.path = store.root / "checkpoints" / f"{item.name}.safetensors"
        self.members = " ".join(key.directory for key in item.keys)
        self.interval, self.saved_at, self.began = interval, time.monotonic(), time.monotonic()
        self.seconds_before = 0.0

    def load(self) -> Saved | None:
        if not self.path.is_file():
            return None
        try:
            arrays, text = read_tensors(self.path)
        except StoreError:
            return None
        if text.get("members") != self.members:
            return None
        self.seconds_before = float(text["seconds"])
        return arrays, text

    def due(self) -> bool:
        return time.monotonic() - self.saved_at >= self.interval

    def save(self, arrays: Mapping[str, np.ndarray], text: Mapping[str, str]) -> None:
        seconds = self.seconds_before + time.monotonic() - self.began
        write_tensors(self.path, arrays, {**text, "members": self.members, "seconds": repr(seconds)})
        self.saved_at = time.monotonic()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


_RESULT_FIELDS = (
    "params",
    "samples",
    "outputs",
    "train_loss",
    "test_loss",
    "loss_std",
    "accuracy",
    "flow_time",
    "steps",
    "grad_norm",
    "distance",
    "stop_reason",
    "wall_seconds",
    "status",
    "loss",
    "parametrization",
    "initial_loss",
    "log_slope",
    "relative_gradient",
    "resolution",
    "witness_degree",
)


def _identity_fields(spec: StudySpec, key: RunKey) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "run_id": key.run_id,
        "base": spec.base.name,
        "dataset": spec.data.name,
        "trainer": spec.trainer.name,
        "lifting": spec.lifting.kind,
        "in_degree": spec.lifting.in_degree,
        "lift": key.lift,
        "seed": key.seed,
    }


def _record(
    spec: StudySpec, key: RunKey, params: int, result: TrainingResult, seconds: float, resolution: float
) -> dict[str, Any]:
    last, variance = result.trajectory.last, spec.data.target_variance
    diverged = result.stop_reason == "diverged"
    values = (
        params,
        spec.data.samples,
        spec.data.outputs,
        None if diverged else last["loss"],
        None if diverged else last["test_loss"],
        last["test_loss"] / variance if variance and not diverged else None,
        None if diverged else result.accuracy,
        last["time"],
        last["step"],
        last["grad_norm"],
        last["distance"],
        result.stop_reason,
        seconds,
        "done",
        spec.loss,
        spec.config["parametrization"],
        result.trajectory.rows[0][2],
        result.trajectory.log_slope(),
        None if diverged else result.trajectory.relative_gradient(),
        resolution,
        spec.data.witness_degree,
    )
    return _identity_fields(spec, key) | dict(zip(_RESULT_FIELDS, values, strict=True))


def _versions() -> dict[str, str]:
    names = ("rsl-cli", "torch", "numpy", "numba", "scipy", "scikit-learn", "pandas", "hydra-core")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _revision() -> str | None:
    """The git revision of the code, if it runs from a checkout."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
