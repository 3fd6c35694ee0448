"""A study from start to end, as the command line and a Python session call it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from rsl_cli.errors import StoreError
from rsl_cli.study.costs import check_affordable, may_share, union_size
from rsl_cli.study.executors import execute
from rsl_cli.study.naming import named
from rsl_cli.study.runner import Item, Plan, Progress, make_plan, pack, register
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import RunKey, StudyStore, open_study
from rsl_cli.study.trained import TrainedNetwork, run_network


@dataclass
class Outcome:
    """What one call of `run_study` did.

    Args:
        store: where the study lies.
        done: runs finished now.
        failed: folders of the runs that failed now.
    """

    store: StudyStore
    done: int = 0
    failed: list[str] = field(default_factory=list)


def run_study(
    config: Mapping[str, Any],
    *,
    planned: Callable[[StudySpec, Plan], None] | None = None,
    progress: Progress | None = None,
    finished: Callable[[Item, Mapping[str, str]], None] | None = None,
    line: Sequence[str] | None = None,
) -> Outcome:
    """Do what a study lacks: runs it does not have, and time or steps that runs have not been carried to.

    A run that is as far as asked for is never touched, so that a study can be made to have these lifts, seeds and
    horizons again and again, each call doing what the ones before have not.

    Args:
        config: base, lifting, dataset, trainer as mappings; lift, seeds, loss, ... as in ``conf/config.yaml``. Lifts
            named in ``horizons``, ``{64: {"t_end": 1e10}}``, are carried that far instead of to ``trainer.t_end``
            (``max_steps``, ``epsilon``, ``steps`` likewise).
        planned: called once with the plan, before anything is written.
        progress: called while an item trains, see `rsl_cli.study.runner.Progress`.
        finished: called with each item's outcome.
        line: words of the command line behind the configuration, kept so that a report can say what to paste.

    Returns:
        What was done. Failed runs are recorded and do not raise.

    Raises:
        RslError: a configuration, data or folder that cannot be used.
    """
    spec = named(StudySpec.from_config(config))
    plan = make_plan(spec)
    check_affordable(spec, plan.missing)
    if planned:
        planned(spec, plan)
    outcome = Outcome(spec.store)
    register(spec, line)
    if not plan.missing:
        return outcome

    def end(item: Item, states: Mapping[str, str]) -> None:
        outcome.done += sum(state == "done" for state in states.values())
        outcome.failed += [name for name, state in states.items() if state == "failed"]
        if finished:
            finished(item, states)

    items = pack(
        plan.missing,
        lambda lift, seeds: union_size(spec, lift, seeds),
        lambda lifts: may_share(spec, lifts, len(plan.missing)),
    )
    execute(spec, items, progress or (lambda *_: None), end)
    return outcome


def check_studies(configs: Sequence[Mapping[str, Any]]) -> None:
    """Find out before anything trains whether several studies can all be run; writes nothing.

    Args:
        configs: as for `run_study`.

    Raises:
        RslError: of the first that cannot be run.
    """
    asked: dict[str, dict[str, Any]] = {}
    for config in configs:
        spec = named(StudySpec.from_config(config), asked)
        check_affordable(spec, make_plan(spec).missing)
        asked[spec.name] = spec.identity


@dataclass(frozen=True)
class Study:
    """A stored study, for analysis in Python.

    Args:
        store: where it lies.
    """

    store: StudyStore

    @property
    def runs(self) -> pd.DataFrame:
        """One row per run that has a record."""
        return pd.DataFrame([record.values() for record in self.store.records()])

    def trajectory(self, lift: int, seed: int) -> pd.DataFrame:
        """One run's trajectory.

        Raises:
            StoreError: no such run was planned, or it is not done.
        """
        return self.store.trajectory(self._key(lift, seed))

    def state(self, lift: int, seed: int) -> dict[str, Any]:
        """One run's final parameters by name, NumPy arrays."""
        return self.store.state(self._key(lift, seed))

    def network(self, lift: int, seed: int) -> TrainedNetwork:
        """One run's network, as trained; its ``predict`` takes raw columns and gives values in the target's units.

        Raises:
            StoreError: no such run was planned, or it is not done.
        """
        return run_network(self.store, self._key(lift, seed))

    def _key(self, lift: int, seed: int) -> RunKey:
        for key in self.store.planned():
            if (key.lift, key.seed) == (lift, seed):
                return key
        raise StoreError(f"study '{self.store.name}' has no run of lift {lift}, seed {seed}; Study.runs lists them")


def load_study(path: str | Path) -> Study:
    """Open a stored study.

    Args:
        path: its folder, or its name below ``results``.

    Raises:
        StoreError: there is none.
    """
    return Study(open_study(path))
