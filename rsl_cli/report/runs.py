"""The runs of a study as typed values: what the store holds, read once, for tables, verdict and plots alike."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsl_cli.errors import RslError
from rsl_cli.liftings import edge_lifting
from rsl_cli.stats import ZERO_LOSS, Limit
from rsl_cli.study.record import Record, RunKey
from rsl_cli.study.survey import Sampled
from rsl_cli.train.facts import Facts, facts_of_old

Which = Literal["train", "test"]
LOSS_NAMES: dict[Which, str] = {"train": "training", "test": "held-out"}

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
    """One planned run. Numbers that are not there are NaN; the losses of a diverged run are infinite.

    What bears the name of a field of its record is what the record says.
    """

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
        said = self.study.get("plan", {}).get("dense")
        if said is not None:
            return tuple(lift for lift in self.lifts if lift in said)
        config = self.study.get("config", {})
        try:
            law = edge_lifting(config.get("lifting")).law
        except RslError:
            return ()  # A user's own that is not here any more.
        least = {lift: min(_fibres(config.get("base") or {}, lift), default=lift) for lift in self.lifts}
        reached = [lift for lift, n in least.items() if law.mean_in_degree(n, n) >= n]
        return () if law.complete else tuple(reached)

    @cached_property
    def sparse_from(self) -> float:
        """The lift degree, between two lifts or beyond them, from which on none is dense; 0 where none is."""
        if not self.dense_lifts:
            return 0.0
        last = max(self.dense_lifts)
        return math.sqrt(last * min((lift for lift in self.lifts if lift > last), default=math.inf))

    @cached_property
    def sparse_params(self) -> float:
        """The number of parameters that stands for `sparse_from`; 0 or infinite as that is."""
        ends = [lift for lift in self.lifts if lift > self.sparse_from][:1]
        if not self.dense_lifts or not ends:
            return math.inf if self.dense_lifts else 0.0
        sizes = [
            [run.params for run in self.at(lift) if run.status == "done"] for lift in (self.dense_lifts[-1], *ends)
        ]
        return math.sqrt(math.prod(float(np.median(found)) for found in sizes)) if all(sizes) else 0.0

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
        said = self.study.get("plan", {}).get("loss_unit")
        if said:
            return str(said)
        # Studies of earlier versions name their loss alone.
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

    @cached_property
    def trainer(self) -> Facts:
        """What is to be known of the trainer."""
        return trainer_facts(self.study)

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


def trainer_facts(study: Mapping[str, Any]) -> Facts:
    """What is to be known of the trainer of a study, by its ``study.json``."""
    said = study.get("plan", {}).get("trainer")
    return facts_of_old(study.get("config", {}).get("trainer") or {}) if said is None else Facts(**said)


def _fibres(base: Mapping[str, Any], lift: int) -> list[int]:
    """Copies of each hidden vertex; a vertex that sizes itself by an expression counts as one of width 1."""
    sizes = []
    for vertex in (base.get("vertices") or {}).values():
        if isinstance(vertex, Mapping) and vertex.get("kind", "hidden") == "hidden":
            written = vertex.get("width", 1), vertex.get("growth", 1)
            # A base's own key, as in "{width1}".
            width, growth = (base.get(str(one).strip("{}"), one) for one in written)
            plain = all(isinstance(value, int | float) for value in (width, growth))
            sizes.append(round(width * lift**growth) if plain else lift)
    return sizes


def _sorted(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
