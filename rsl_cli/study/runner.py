"""Doing what a study still lacks: lock, train, write; a failed run stops no other."""

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rsl_cli.errors import RAISED, CheckpointError, RslError, TrainingError, first_line
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.study.leases import Claim, LeaseLostError, holders
from rsl_cli.study.plan import RunBatch, is_reached, stand_of
from rsl_cli.study.record import Record
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import RunKey
from rsl_cli.train.checkpoint import Saved
from rsl_cli.train.objective import Objective
from rsl_cli.train.trainers import from_results
from rsl_cli.train.trajectory import FINAL, TrainingResult

Progress = Callable[[RunBatch, int, int, float], None]
"""Called with (batch, step, steps, median loss) while a batch is training."""
Finished = Callable[[RunBatch, Mapping[str, str]], None]
"""Called with (batch, outcome by run folder) when a batch has ended."""

_LOOK, _WORD = 1.0, 60.0
"""Seconds between two looks at runs that others hold, and between two words about it."""
_DEADLY = 5
"""Deaths of its holders, with nothing saved in between, after which a run counts as failed."""


class LeavingError(RslError):
    """A training that was told to stop has saved what it goes on from."""


def work(
    spec: StudySpec,
    batch: RunBatch,
    progress: Progress | None = None,
    *,
    wait: bool = False,
    leave: threading.Event | None = None,
) -> dict[str, str]:
    """Train one batch and write its runs.

    Args:
        spec: the study.
        batch: what to train; runs that are as far as asked for, or held by another process, are left alone.
        progress: see `Progress`.
        wait: go on until no run is held by another process, saying once a minute by which, instead of leaving it out.
        leave: once set, what has been trained is saved, and `LeavingError` raised.

    Returns:
        ``done``, ``failed``, ``busy``, or ``there``, as far as asked for before this call, by run folder.
    """
    outcome, said = _attempt(spec, batch, progress, leave), time.monotonic()
    while wait and (held := [key for key in batch.keys if outcome[key.directory] == "busy"]):
        time.sleep(_LOOK)
        outcome |= _attempt(spec, RunBatch(tuple(held)), progress, leave)
        if time.monotonic() - said > _WORD:
            said = time.monotonic()
            by = next(iter(holders(spec.store.leases).values()), None)
            whose = f", held by {by.text()}; it is taken over if that falls silent" if by else ""
            print(f"rsl: waiting for {len(held)} runs of lift {batch.lifts}{whose}", file=sys.stderr)
    return outcome


def _attempt(
    spec: StudySpec, batch: RunBatch, progress: Progress | None, leave: threading.Event | None
) -> dict[str, str]:
    spec.store.check_there()
    with spec.store.claim(batch.keys, float(spec.config["executor"]["lease_seconds"])) as claim:
        held = [key for key in batch.keys if key.directory in claim]
        for key in held:
            spec.store.mend(key)
        outcome = {key.directory: "busy" for key in batch.keys if key not in held}
        lacking = [key for key in held if not is_reached(spec, key, stand_of(spec.store, key))]
        outcome |= {key.directory: "there" for key in held if key not in lacking}
        for key in [key for key in lacking if claim.deaths(key.directory) >= _DEADLY]:
            lacking.remove(key)
            text = f"{_DEADLY} processes that trained it died, one after the other, before they could save anything"
            outcome[key.directory] = record_failure(spec, key, TrainingError(text))
        hooks = _Hooks(claim, progress, leave or threading.Event())
        for starts in _together(spec, lacking, claim):
            try:
                outcome |= _train(spec, starts, hooks)
            except LeaseLostError as error:
                spec.store.check_there()  # It may have been lost with all else.
                print(f"rsl: {error}", file=sys.stderr)
                outcome |= {key.directory: "busy" for key in starts}
    return outcome


@dataclass(frozen=True)
class _Hooks:
    """What goes on around a training: who holds its runs, who follows it, and whether it is to stop."""

    claim: Claim
    progress: Progress | None
    leave: threading.Event


def _together(spec: StudySpec, keys: Sequence[RunKey], claim: Claim) -> list[dict[RunKey, Saved]]:
    """What runs go on from, grouped as they can be one union: to one horizon; in first-order steps from one step.

    Runs whose holders died, more than once, are tried alone: one of them may be deadly.

    Returns:
        What each run of a union goes on from, by run; a mapping for each union.
    """
    groups: dict[Any, dict[RunKey, Saved]] = {}
    for key in keys:
        settings, saved = spec.trainer_of(key.lift), _start(spec, key)
        content = json.loads(saved[1].get("training", "{}"))
        step = content.get("step") if settings.in_step else None
        alone = key if claim.deaths(key.directory) > 1 else None
        groups.setdefault((settings, step, alone), {})[key] = saved
    return list(groups.values())


def _start(spec: StudySpec, key: RunKey) -> Saved:
    """What a run goes on from: what was saved on its way, or what its results say, or nothing."""
    saved = spec.store.resume(key)
    if saved is None and spec.store.is_done(key):
        return from_results(spec.trainer, spec.store.trajectory(key), spec.store.state(key))
    return saved or ({}, {})


def _train(spec: StudySpec, starts: Mapping[RunKey, Saved], hooks: _Hooks) -> dict[str, str]:
    batch = RunBatch(tuple(starts))
    checkpointer = _Checkpointer(spec, starts, hooks)
    try:
        lifts = [sample_lift(spec.base, key.lift, key.seed, spec.lifting) for key in batch.keys]
        network = LiftedNetwork(disjoint_union(lifts), None, spec.dtype, str(spec.config["parametrization"]))
        network = network.to(spec.device)
        objective = Objective(spec.data, spec.loss, dtype=spec.dtype, device=spec.device)

        def report(step: int, steps: int, loss: float) -> None:
            hooks.claim.tell(step=step, steps=steps, loss=loss)
            if hooks.progress is not None:
                hooks.progress(batch, step, steps, loss)

        settings = spec.trainer_of(batch.lift)
        results = settings.train(network, objective, checkpointer=checkpointer, progress=report)
        tables = [
            spec.diagnostics.tables(
                lift, network.parametrization, spec.witness, objective, result, settings, partial(spec.store.table, key)
            )
            for key, lift, result in zip(batch.keys, lifts, results, strict=True)
        ]
    except CheckpointError as error:
        return _started_anew(spec, starts, error, hooks)
    except RslError:
        raise
    except RAISED as error:
        return _failed(spec, starts, error, hooks)
    spec.store.check_there()
    finals = [result.stop_reason in FINAL or not settings.horizon for result in results]
    hooks.claim.check(key.directory for key in starts)
    checkpointer.keep([({}, {}) if final else result.saved for final, result in zip(finals, results, strict=True)])
    for key, lift, result, measured, final in zip(batch.keys, lifts, results, tables, finals, strict=True):
        record = _record(spec, key, lift.parameter_count, result, checkpointer.seconds(key), objective.resolution())
        state = {name: tensor.cpu().numpy() for name, tensor in result.state.items()}
        spec.store.write_run(key, record, {"trajectory": result.trajectory.to_frame(), **measured}, state, final=final)
    spec.store.note(batch.keys)
    return {key.directory: "done" for key in batch.keys}


def _started_anew(spec: StudySpec, starts: Mapping[RunKey, Saved], error: Exception, hooks: _Hooks) -> dict[str, str]:
    """Find out which run of a union cannot go on from what it saved; set that aside, and start it anew."""
    outcome: dict[str, str] = {}
    for key, saved in starts.items():
        if len(starts) == 1:
            if not spec.store.can_resume(key):
                raise error
            spec.store.discard(spec.store.resume_file(key), error)
        outcome |= _train(spec, {key: saved if len(starts) > 1 else ({}, {})}, hooks)
    return outcome


def _failed(spec: StudySpec, starts: Mapping[RunKey, Saved], error: BaseException, hooks: _Hooks) -> dict[str, str]:
    """Find out which run of a union fails by training each alone; write why."""
    if len(starts) > 1:
        outcome: dict[str, str] = {}
        for key, saved in starts.items():
            outcome |= _train(spec, {key: saved}, hooks)
        return outcome
    (key,) = starts
    return {key.directory: record_failure(spec, key, error)}


def record_failure(spec: StudySpec, key: RunKey, error: BaseException) -> str:
    """Write why a run failed; returns ``failed``."""
    text = "".join(traceback.format_exception(error))
    record = Record(**_named(spec, key), status="failed", error=f"{type(error).__name__}: {first_line(error)}")
    spec.store.write_failure(key, record, text)
    spec.store.note([key])
    return "failed"


class _Checkpointer:
    """Keeps what each run of a union goes on from in the run's own folder, so that any union can take it up."""

    def __init__(self, spec: StudySpec, starts: Mapping[RunKey, Saved], hooks: _Hooks) -> None:
        self.spec, self.store, self.starts, self.hooks = spec, spec.store, starts, hooks
        self.interval = float(spec.config["executor"]["checkpoint_seconds"])
        self.saved_at = self.began = time.monotonic()

    def load(self) -> Sequence[Saved]:
        return list(self.starts.values()) if any(text for _, text in self.starts.values()) else []

    def due(self) -> bool:
        return self.hooks.leave.is_set() or time.monotonic() - self.saved_at >= self.interval

    def save(self, replicas: Sequence[Saved]) -> None:
        self.hooks.claim.check(key.directory for key in self.starts)
        self.keep(replicas)
        self.hooks.claim.saved()
        if self.hooks.leave.is_set():
            raise LeavingError("told to leave; what was trained is saved")

    def keep(self, replicas: Sequence[Saved]) -> None:
        self.spec.check_parts()  # Nothing is kept of a part that has changed on the way.
        for key, (arrays, text) in zip(self.starts, replicas, strict=True):
            if text:
                self.store.write_resume(key, arrays, {**text, "seconds": repr(self.seconds(key))})
        self.saved_at = time.monotonic()

    def seconds(self, key: RunKey) -> float:
        """What a run has taken so far, an equal share of its unions'."""
        record = self.store.record(key)
        before = self.starts[key][1].get("seconds") or (record.wall_seconds if record else None)
        return float(before or 0.0) + (time.monotonic() - self.began) / len(self.starts)


def _named(spec: StudySpec, key: RunKey) -> dict[str, Any]:
    """What a record says of a run before it is trained."""
    return {
        "run_id": key.run_id,
        "base": spec.base.name,
        "dataset": spec.data.name,
        "trainer": spec.trainer.label,
        "lifting": spec.lifting.kind,
        "in_degree": spec.lifting.in_degree,
        "lift": key.lift,
        "seed": key.seed,
    }


def _record(
    spec: StudySpec, key: RunKey, params: int, result: TrainingResult, seconds: float, resolution: float
) -> Record:
    last, variance = result.trajectory.last, spec.data.target_variance
    diverged = result.stop_reason == "diverged"
    return Record(
        **_named(spec, key),
        params=params,
        samples=spec.data.samples,
        outputs=spec.data.outputs,
        train_loss=None if diverged else last["loss"],
        test_loss=None if diverged else last["test_loss"],
        loss_std=last["test_loss"] / variance if variance and not diverged else None,
        accuracy=None if diverged else result.accuracy,
        flow_time=last["time"],
        steps=int(last["step"]),
        grad_norm=last["grad_norm"],
        distance=last["distance"],
        stop_reason=result.stop_reason,
        wall_seconds=seconds,
        status="done",
        loss=spec.loss.name,
        parametrization=str(spec.config["parametrization"]),
        initial_loss=result.trajectory.rows[0].loss,
        log_slope=result.trajectory.log_slope(),
        relative_gradient=None if diverged else result.relative_gradient,
        resolution=resolution,
        witness_degree=spec.data.witness_degree,
        restarted_at=result.restarted_at,
    )
