"""The runs of a study as typed values: what the store holds, read once, for tables, verdict and plots alike."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsl_cli.stats import ZERO_LOSS
from rsl_cli.study.store import RunKey, StudyStore

Which = Literal["train", "test"]
LOSS_NAMES: dict[Which, str] = {"train": "training", "test": "held-out"}

IMPLICIT = ("flow", "lm")
"""Trainers that solve linear systems; all others take first-order steps."""

FALLING_SLOPE = -0.05
"""A run whose log slope ends below this was still falling: training twice as long would remove over 3 % of the loss.

The log slope is d log loss / d log t in flow time where the run has one, and d log loss / d log step otherwise.
"""
FALLING_GRADIENT = 0.1
"""So was a run whose gradient promises to remove more than this share of the loss over the distance travelled."""


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
    log_slope: float
    relative_gradient: float
    resolution: float
    flow_time: float
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
    def under_trained(self) -> bool:
        """Whether training ended above what the arithmetic resolves, and for a reason other than the lift.

        That is so if time or budget ran out while the loss was still falling, by its log slope or its relative
        gradient, or if the trainer stalled: its step fell below what float64 resolves, or its solve was singular. A
        run that was stopped at a target loss is not under-trained, and neither is a stationary one.
        """
        if self.diverged or self.train_loss <= self.least:
            return False
        if self.stop_reason in ("time", "budget"):
            # A run that has not moved has no slope, and is not at rest for that.
            unmoved = math.isnan(self.log_slope) and self.relative_gradient == 0
            return unmoved or self.log_slope < FALLING_SLOPE or self.relative_gradient > FALLING_GRADIENT
        return self.stop_reason == "stalled"

    @property
    def least(self) -> float:
        """The smallest loss that means more than zero."""
        return self.resolution if self.resolution > 0 else ZERO_LOSS

    def loss(self, which: Which) -> float:
        """The final training or held-out loss."""
        return self.train_loss if which == "train" else self.test_loss


@dataclass(frozen=True)
class Table:
    """Losses of seeds by lifts, shape (seeds, lifts), both ascending; ``present`` is False where there is no loss."""

    lifts: tuple[int, ...]
    seeds: tuple[int, ...]
    params: NDArray[np.float64]
    losses: NDArray[np.float64]
    resolution: NDArray[np.float64]
    present: NDArray[np.bool_]


@dataclass(frozen=True)
class StudyRuns:
    """Everything the report says is said from this: the plan with its runs, and ``study.json``."""

    name: str
    study: Mapping[str, Any]
    runs: tuple[Run, ...]
    records: tuple[Mapping[str, Any], ...]

    @cached_property
    def done(self) -> tuple[Run, ...]:
        """The runs that finished, diverged ones included."""
        return tuple(run for run in self.runs if run.status == "done")

    @property
    def lifts(self) -> tuple[int, ...]:
        """The planned lift degrees, ascending."""
        return tuple(sorted({run.key.lift for run in self.runs}))

    @property
    def overparametrised_lifts(self) -> tuple[int, ...]:
        """The lifts with at least one overparametrised run."""
        return tuple(sorted({run.key.lift for run in self.done if run.overparametrised}))

    @property
    def headline(self) -> Which:
        """The loss that the verdict is about: held-out where there is any."""
        return "test" if any(math.isfinite(run.test_loss) for run in self.done) else "train"

    @property
    def limit(self) -> float | None:
        """The number of parameters from which on runs are overparametrised, if it is one number."""
        limits = {run.samples * run.outputs for run in self.done}
        return limits.pop() if len(limits) == 1 else None

    @property
    def loss_unit(self) -> str:
        """What the losses are, for axes."""
        kinds = {record.get("loss") for record in self.records} - {None}
        names = {"mse": "half mean squared error", "cross_entropy": "cross-entropy, nats"}
        return " / ".join(names.get(str(kind), str(kind)) for kind in sorted(map(str, kinds))) or "as recorded"

    @property
    def witness_degree(self) -> int | None:
        """Lift degree of the planted network that fits the data exactly, where one was planted."""
        degrees = {run.witness_degree for run in self.done}
        return degrees.pop() if len(degrees) == 1 else None

    def at(self, lift: int) -> tuple[Run, ...]:
        """The planned runs of one lift."""
        return tuple(run for run in self.runs if run.key.lift == lift)

    def with_loss(self, which: Which) -> tuple[Run, ...]:
        """The finished runs that have this loss, diverged ones included."""
        return tuple(run for run in self.done if not math.isnan(run.loss(which)))

    def table(self, which: Which, keep: Callable[[Run], bool] = lambda run: True) -> Table:
        """Arrange one loss of the runs to keep as seeds by lifts."""
        runs = [run for run in self.with_loss(which) if keep(run)]
        lifts, seeds = _sorted(run.key.lift for run in runs), _sorted(run.key.seed for run in runs)
        params, losses, least = (np.full((len(seeds), len(lifts)), math.nan) for _ in range(3))
        for run in runs:
            place = seeds.index(run.key.seed), lifts.index(run.key.lift)
            params[place], losses[place], least[place] = run.params, run.loss(which), run.least
        return Table(lifts, seeds, params, losses, least, ~np.isnan(losses))


def read_runs(store: StudyStore) -> StudyRuns:
    """Read a study's plan and records.

    Raises:
        StoreError: the folder holds no study, or a file is damaged.
    """
    study = store.read_study()
    pairs = [(key, store.record(key)) for key in sorted(store.planned(), key=lambda key: (key.lift, key.seed))]
    records = tuple(record for _, record in pairs if record is not None)
    tested = any(record.get("test_loss") is not None for record in records)
    return StudyRuns(store.name, study, tuple(_run(key, record, tested) for key, record in pairs), records)


def _run(key: RunKey, record: Mapping[str, Any] | None, tested: bool) -> Run:
    content = {} if record is None else record
    status = content.get("status", "missing")
    diverged = status == "done" and (content.get("stop_reason") == "diverged" or content.get("train_loss") is None)

    def number(name: str) -> float:
        value = content.get(name)
        return math.nan if value is None else float(value)

    return Run(
        key=key,
        status=status,
        trainer=content.get("trainer"),
        params=number("params"),
        samples=number("samples"),
        outputs=number("outputs"),
        train_loss=math.inf if diverged else number("train_loss"),
        # JSON holds no infinity: where others have a held-out loss, none at all means that it was not finite.
        test_loss=math.inf if tested and status == "done" and content.get("test_loss") is None else number("test_loss"),
        accuracy=number("accuracy"),
        stop_reason=content.get("stop_reason"),
        log_slope=number("log_slope"),
        relative_gradient=number("relative_gradient"),
        resolution=number("resolution"),
        flow_time=number("flow_time"),
        witness_degree=content.get("witness_degree"),
        error=content.get("error"),
    )


def _sorted(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
