"""The runs of a study as typed values: what the store holds, read once, for tables, verdict and plots alike."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsl_cli.errors import RslError
from rsl_cli.garbage import unswept
from rsl_cli.liftings import edge_lifting
from rsl_cli.stats import ZERO_LOSS, Limit, at_saddle, tail_limit
from rsl_cli.study.record import Record, RunKey
from rsl_cli.study.store import StudyStore
from rsl_cli.study.survey import Sampled, survey
from rsl_cli.study.survey import curves as read_curves

Which = Literal["train", "test"]
LOSS_NAMES: dict[Which, str] = {"train": "training", "test": "held-out"}

IMPLICIT = ("flow", "lm")
"""Trainers that solve linear systems; all others take first-order steps."""

FINISHED = 1.1
"""A run has shown its limit if that is known within this ratio."""
MOST_SHOWN = 100
"""So many seeds of a lift have their curves drawn and followed; verdict, tables and limits rest on all."""
FAR = 10.0
"""A held-out loss this many times the training loss is not at the target that the training loss reached."""
AT_REST = 1e-3
"""How far, relatively, the limit of a run may still lie below the loss at which its trainer found it stationary."""


@dataclass(frozen=True)
class Run:
    """One planned run. Numbers that are not there are NaN; the losses of a diverged run are infinite."""

    key: RunKey
    status: Literal["done", "failed", "missing"]
    trainer: str | None
    params: float
    samples: float
    outputs: float
    train_loss: float
    test_loss: float
    accuracy: float
    stop_reason: str | None
    saddle: bool
    train_limit: Limit
    test_limit: Limit
    dissipation: float
    resolution: float
    flow_time: float
    steps: float
    wall_seconds: float
    witness_degree: int | None
    error: str | None

    @property
    def name(self) -> str:
        """The short name, e.g. ``n00064-s003``."""
        return f"n{self.key.lift:05d}-s{self.key.seed:03d}"

    @property
    def diverged(self) -> bool:
        """Whether it finished without a finite loss."""
        return self.status == "done" and not math.isfinite(self.train_loss)

    @property
    def overparametrised(self) -> bool:
        """Whether the parameters are as many as the equations they could interpolate, P >= samples x outputs."""
        return self.params >= self.samples * self.outputs

    @property
    def can_go_on(self) -> bool:
        """Whether it ended because it was told to, not since nothing was left to do."""
        return self.status == "done" and self.stop_reason in ("time", "budget")

    @property
    def under_trained(self) -> bool:
        """Whether training ended, above what the arithmetic resolves, before the run had shown its limit.

        A run that was stopped at a target loss is not called under-trained, though its limit is as open.
        """
        if self.status != "done" or self.diverged or self.train_loss <= self.least or self.stop_reason == "target":
            return False
        return self.train_limit.high > FINISHED * self.train_limit.low

    @property
    def least(self) -> float:
        """The smallest loss that means more than zero."""
        return self.resolution if self.resolution > 0 else ZERO_LOSS

    def resolved(self, which: Which) -> float:
        """The loss at which a run has gone as far as was asked: its target's, or else what the arithmetic resolves.

        The target is one of training: a held-out loss far above it has not gone there.

        Returns:
            A loss above 0.
        """
        there = self.stop_reason == "target" and self.loss(which) <= FAR * self.train_loss
        return max(self.least, self.loss(which)) if there else self.least

    def loss(self, which: Which) -> float:
        """The final training or held-out loss."""
        return self.train_loss if which == "train" else self.test_loss

    def limit(self, which: Which) -> Limit:
        """What is known of the limit of the training or held-out loss."""
        return self.train_limit if which == "train" else self.test_limit


NO_LIMIT = Limit(math.nan, math.nan)
"""Of a loss that has none, or whose limit nobody asks for."""


@dataclass(frozen=True)
class LossTable:
    """Losses of seeds by lifts, shape (seeds, lifts), both ascending; ``present`` is False where there is no loss.

    ``low`` and ``high`` bound the limits; ``high`` is no smaller than ``resolution``, the loss from which on a run has
    gone as far as was asked or as the arithmetic resolves.
    """

    lifts: tuple[int, ...]
    seeds: tuple[int, ...]
    params: NDArray[np.float64]
    losses: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    resolution: NDArray[np.float64]
    present: NDArray[np.bool_]


@dataclass(frozen=True)
class StudyRuns:
    """Everything the report says is said from this: the plan with its runs, ``study.json``, trajectories by run.

    ``trajectories`` are those of ``shown``. ``faults`` says whose files are damaged: these runs are missing here.
    """

    name: str
    study: Mapping[str, Any]
    runs: tuple[Run, ...]
    records: tuple[Record, ...]
    trajectories: Mapping[str, Sampled] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    @cached_property
    def done(self) -> tuple[Run, ...]:
        """The runs that finished, diverged ones included."""
        return tuple(run for run in self.runs if run.status == "done")

    @cached_property
    def shown(self) -> tuple[Run, ...]:
        """The finished runs whose curves are drawn and followed: of each lift the first `MOST_SHOWN` seeds'."""
        return tuple(
            run for lift in self.lifts for run in [r for r in self.at(lift) if r.status == "done"][:MOST_SHOWN]
        )

    @property
    def few_shown(self) -> str:
        """Whose curves are followed, where they are not all runs'; empty where they are."""
        return f"of each lift the first {MOST_SHOWN} seeds alone" if len(self.shown) < len(self.done) else ""

    @cached_property
    def lifts(self) -> tuple[int, ...]:
        """The planned lift degrees, ascending."""
        return tuple(sorted({run.key.lift for run in self.runs}))

    @cached_property
    def overparametrised_lifts(self) -> tuple[int, ...]:
        """The lifts with at least one overparametrised run."""
        return tuple(sorted({run.key.lift for run in self.done if run.overparametrised}))

    @cached_property
    def dense_lifts(self) -> tuple[int, ...]:
        """The lifts that are complete graphs, since the in-degree reaches a fibre: small dense networks."""
        config = self.study.get("config", {})
        try:
            law = edge_lifting(config.get("lifting")).law
        except RslError:
            return ()  # A user's own that is not here any more.
        least = {lift: min(_fibres(config.get("base") or {}, lift), default=lift) for lift in self.lifts}
        reached = [lift for lift, n in least.items() if law.mean_in_degree(n, n) >= n]
        return () if law.complete else tuple(reached)

    @cached_property
    def headline(self) -> Which:
        """The loss that the verdict is about: held-out where there is any."""
        return "test" if any(math.isfinite(run.test_loss) for run in self.done) else "train"

    @cached_property
    def limit(self) -> float | None:
        """The number of parameters from which on runs are overparametrised, if it is one number."""
        limits = {run.samples * run.outputs for run in self.done}
        return limits.pop() if len(limits) == 1 else None

    @property
    def loss_unit(self) -> str:
        """What the losses are, for axes."""
        kinds = {record.loss for record in self.records} - {None}
        names = {"mse": "half mean squared error", "cross_entropy": "cross-entropy, nats"}
        return " / ".join(names.get(str(kind), str(kind)) for kind in sorted(map(str, kinds))) or "as recorded"

    @property
    def witness_degree(self) -> int | None:
        """Lift degree of the planted network that fits the data exactly, where one was planted."""
        degrees = {run.witness_degree for run in self.done}
        return degrees.pop() if len(degrees) == 1 else None

    def at(self, lift: int) -> tuple[Run, ...]:
        """The planned runs of one lift."""
        return self._by_lift.get(lift, ())

    @cached_property
    def _by_lift(self) -> Mapping[int, tuple[Run, ...]]:
        found: dict[int, list[Run]] = {}
        for run in self.runs:
            found.setdefault(run.key.lift, []).append(run)
        return {lift: tuple(runs) for lift, runs in found.items()}

    def with_loss(self, which: Which) -> tuple[Run, ...]:
        """The finished runs that have this loss, diverged ones included."""
        return tuple(run for run in self.done if not math.isnan(run.loss(which)))

    @cached_property
    def at_one_target(self) -> bool:
        """Whether held-out losses are compared as they are: those of classes, where all training ended at one target.

        A held-out cross-entropy has no limit, as it rises for ever; losses of numbers go on towards theirs.
        """
        ends = {run.stop_reason for run in self.done}
        return ends == {"target"} and {record.loss for record in self.records} == {"cross_entropy"}

    @property
    def clock(self) -> Literal["time", "step"] | None:
        """The column of a trajectory in which the trainer follows the gradient flow, if it does."""
        return _clock(self.study.get("config", {}).get("trainer") or {})

    @property
    def compared_at_target(self) -> bool:
        """Whether the verdict compares held-out losses so; their runs' `Run.test_limit` is not a number then."""
        return self.headline == "test" and self.at_one_target

    def table(self, which: Which, keep: Callable[[Run], bool] = lambda run: True) -> LossTable:
        """Arrange one loss of the runs to keep as seeds by lifts."""
        runs = [run for run in self.with_loss(which) if keep(run)]
        lifts, seeds = _sorted(run.key.lift for run in runs), _sorted(run.key.seed for run in runs)
        params, losses, low, high, least = (np.full((len(seeds), len(lifts)), math.nan) for _ in range(5))
        rows, columns = ({value: i for i, value in enumerate(values)} for values in (seeds, lifts))
        compared = which == "test" and self.at_one_target
        for run in runs:
            place, loss = (rows[run.key.seed], columns[run.key.lift]), run.loss(which)
            limit = Limit(loss, loss) if compared else run.limit(which)
            params[place], losses[place] = run.params, loss
            least[place] = run.least if compared else run.resolved(which)
            low[place] = limit.low if limit.low > least[place] else 0.0
            high[place] = max(limit.high, least[place])
        return LossTable(lifts, seeds, params, losses, low, high, least, ~np.isnan(losses))


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
    clock = _clock(study.get("config", {}).get("trainer") or {})
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


def _clock(trainer: Mapping[str, Any]) -> Literal["time", "step"] | None:
    """The column of a trajectory in which the trainer follows the gradient flow, if it does.

    Steps at a constant rate on all samples do. A schedule that ends at rate zero stops the clock, noise of batches or
    of Adam's own step size makes a floor that is not the lift's, and Levenberg-Marquardt is on no flow.

    Returns:
        ``time``, ``step`` or None.
    """
    if trainer.get("name") == "flow":
        return "time"
    steady = trainer.get("schedule") == "constant" and trainer.get("batch_size") is None
    return "step" if steady and trainer.get("name") in ("gd", "sgd") else None


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

    return Run(
        key=key,
        status=status,
        trainer=record.trainer,
        params=_number(record.params),
        samples=_number(record.samples),
        outputs=_number(record.outputs),
        train_loss=train,
        test_loss=test,
        accuracy=_number(record.accuracy),
        stop_reason=record.stop_reason,
        saddle=saddle,
        train_limit=limit(train, "loss"),
        test_limit=limit(test, "test_loss"),
        dissipation=_worst_dissipation(frame),
        resolution=_number(record.resolution),
        flow_time=_number(record.flow_time),
        steps=_number(record.steps),
        wall_seconds=_number(record.wall_seconds),
        witness_degree=record.witness_degree,
        error=record.error,
    )


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


def _fibres(base: Mapping[str, Any], lift: int) -> list[int]:
    """Copies of each hidden vertex; a vertex that sizes itself by an expression counts as one of width 1."""
    sizes = []
    for vertex in (base.get("vertices") or {}).values():
        if isinstance(vertex, Mapping) and vertex.get("kind") == "hidden":
            written = vertex.get("width", 1), vertex.get("growth", 1)
            # A base's own key, as in "{width1}".
            width, growth = (base.get(str(one).strip("{}"), one) for one in written)
            plain = all(isinstance(value, int | float) for value in (width, growth))
            sizes.append(round(width * lift**growth) if plain else lift)
    return sizes


def _sorted(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
