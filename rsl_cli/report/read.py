"""From what the store holds of a study to its runs as the report speaks of them: read once, cut to what is asked."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from rsl_cli.garbage import unswept
from rsl_cli.report.runs import AT_REST, NO_LIMIT, Run, StudyRuns, trainer_facts
from rsl_cli.stats import Limit, at_saddle, tail_limit
from rsl_cli.study.record import FIELDS, Record, RunKey
from rsl_cli.study.store import StudyStore
from rsl_cli.study.survey import Sampled, survey
from rsl_cli.study.survey import curves as read_curves


@unswept()
def read_runs(store: StudyStore, *, tidy: bool = False) -> StudyRuns:
    """Read a study's plan, records and trajectories.

    Args:
        store: the study.
        tidy: enter what its catalogue lacks, and merge that.

    Returns:
        The study with all its planned runs, those that are missing or damaged among them.

    Raises:
        StoreError: the folder holds no study, or a file is damaged.
    """
    study = store.read_study()
    keys = sorted(store.planned(), key=lambda key: (key.lift, key.seed))
    found = survey(store, keys, thoroughly=True)
    curves = read_curves(store, found.records)
    parts = ((key, found.records.get(key), curves.get(key)) for key in keys)
    runs = replace(assemble(store.name, study, parts), faults=tuple(found.faults))
    if tidy:
        store.note(found.unnoted)
        store.catalogue.merge()
    return runs


def assemble(
    name: str,
    study: Mapping[str, Any],
    parts: Iterable[tuple[RunKey, Record | None, Sampled | None]],
) -> StudyRuns:
    """Put together what the report speaks of, from a study's plan and each run's record and trajectory.

    A run that was carried further than the study now asks for is taken at the time asked for.

    Returns:
        The same, from parts that are in memory.
    """
    asked, own = study.get("carried") or {}, study.get("config", {}).get("horizons") or {}
    cut = [(key, *_cut(record, frame, {**asked, **own.get(str(key.lift), {})})) for key, record, frame in parts]
    records = tuple(record for _, record, _ in cut if record is not None)
    tested = any(record.test_loss is not None for record in records)
    clock = trainer_facts(study).clock
    runs = tuple(_run(key, record, frame, tested, clock) for key, record, frame in cut)
    frames = {run.name: frame for run, (_, _, frame) in zip(runs, cut, strict=True) if frame is not None}
    found = StudyRuns(name, study, runs, records)
    if found.compared_at_target:
        found = StudyRuns(name, study, tuple(replace(run, test_limit=NO_LIMIT, saddle=False) for run in runs), records)
    shown = {run.name: frames[run.name] for run in found.shown if run.name in frames}
    return replace(found, trajectories=shown)


def _cut(
    record: Record | None, frame: Sampled | None, asked: Mapping[str, Any]
) -> tuple[Record | None, Sampled | None]:
    """A run at the time or step that the study asks for, if it was carried beyond that."""
    if record is None or frame is None or not record.done:
        return record, frame
    epsilon, loss = asked.get("epsilon"), record.train_loss
    if epsilon is not None and loss is not None and loss <= epsilon and record.stop_reason in ("time", "budget"):
        return replace(record, stop_reason="target"), frame
    for column, reached, most in (
        ("time", record.flow_time, asked.get("t_end")),
        ("step", record.steps, asked.get("steps")),
    ):
        if most is not None and reached is not None and reached > most * (1 + 1e-9):
            early = frame[column] <= most * (1 + 1e-9)
            kept = {name: values[early] for name, values in frame.items()}
            return _ended_early(record, kept, "time" if column == "time" else "budget"), kept
    return record, frame


def _ended_early(record: Record, frame: Sampled, reason: str) -> Record:
    """The record that a run would have if its trajectory had ended where this one does."""
    last = {name: float(values[-1]) for name, values in frame.items()}
    test = last["test_loss"] if math.isfinite(last["test_loss"]) else None
    variance = record.test_loss / record.loss_std if record.loss_std and record.test_loss else None
    return replace(
        record,
        train_loss=last["loss"],
        test_loss=test,
        loss_std=test / variance if variance and test is not None else None,
        accuracy=None,
        flow_time=last["time"] if math.isfinite(last["time"]) else None,
        steps=int(last["step"]),
        grad_norm=last["grad_norm"],
        distance=last["distance"],
        stop_reason=reason,
    )


def _run(key: RunKey, record: Record | None, frame: Sampled | None, tested: bool, clock: str | None) -> Run:
    record, status = record or _NOTHING, "missing" if record is None else record.status
    diverged = status == "done" and (record.stop_reason == "diverged" or record.train_loss is None)
    # JSON holds no infinity: where others have a held-out loss, none at all means that it was not finite.
    lost = tested and status == "done" and record.test_loss is None
    train = math.inf if diverged else _number(record.train_loss)
    test = math.inf if lost else _number(record.test_loss)

    known = frame is not None and "time" in frame and "least_curvature" in frame
    saddle = frame is not None and known and at_saddle(frame["time"], frame["least_curvature"])

    def limit(loss: float, column: str) -> Limit:
        if not math.isfinite(loss) or loss <= 0:
            return Limit(0.0, loss)
        tail = Limit(0.0, loss)
        if frame is not None and clock is not None and clock in frame and column in frame and not saddle:
            tail = tail_limit(frame[clock], frame[column])
        if record.stop_reason == "stationary":
            return Limit(max(tail.low, loss * (1 - AT_REST)), max(loss, min(tail.high, loss)), tail.slope)
        return Limit(min(tail.low, loss), max(tail.high, loss), tail.slope)

    said = vars(record)
    told: dict[str, Any] = {name: math.nan if (value := said[name]) is None else float(value) for name in _NUMBERS}
    told |= {name: said[name] for name in _OTHERS}
    told |= {"status": status, "train_loss": train, "test_loss": test}
    limits = {"train_limit": limit(train, "loss"), "test_limit": limit(test, "test_loss")}
    return Run(key=key, saddle=saddle, dissipation=_worst_dissipation(frame), **limits, **told)


_TOLD = [one for one in fields(Run) if one.name in FIELDS]
_NUMBERS = [one.name for one in _TOLD if one.type is float]
_OTHERS = [one.name for one in _TOLD if one.type is not float]
"""What a run takes over from its record, numbers being NaN where there are none."""
_NOTHING = Record(run_id="", lift=0, seed=0, status="failed")
"""What is known of a run that has no record."""


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _worst_dissipation(frame: Sampled | None) -> float:
    """The recorded |grad L|^2 / (-dL/dt) farthest from 1 along a flow; NaN where it was not recorded."""
    if frame is None or not {"time", "loss", "grad_norm", "dissipation"} <= frame.keys():
        return math.nan
    # Once the loss moves, over as long again, by less than float64 resolves, both sides are rounding: the flow rests.
    ratio = frame["dissipation"]
    moves = frame["time"] * frame["grad_norm"] ** 2 > np.finfo(float).eps * frame["loss"]
    ratio = ratio[np.isfinite(ratio) & (ratio > 0) & moves]
    return float(ratio[np.argmax(np.abs(np.log(ratio)))]) if ratio.size else math.nan
