"""A study from start to end, as the command line and a Python session call it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rsl_cli.errors import RAISED, RslError, TrainingError, first_line
from rsl_cli.registry import is_ours
from rsl_cli.study.costs import check_affordable, unions
from rsl_cli.study.growth import register
from rsl_cli.study.leases import sweep
from rsl_cli.study.naming import named
from rsl_cli.study.plan import RunBatch, StudyPlan, make_plan
from rsl_cli.study.runner import Progress
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import StudyStore
from rsl_cli.study.survey import survey


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
    config: Mapping[str, Any] | StudySpec,
    *,
    planned: Callable[[StudySpec, StudyPlan], None] | None = None,
    progress: Progress | None = None,
    finished: Callable[[RunBatch, Mapping[str, str]], None] | None = None,
    line: Sequence[str] | None = None,
    first: bool = False,
) -> Outcome:
    """Do what a study lacks: runs it does not have, and time or steps that runs have not been carried to.

    A run that is as far as asked for is never touched, so that a study can be made to have these lifts, seeds and
    horizons again and again, each call doing what the ones before have not.

    Args:
        config: base, lifting, dataset, trainer as mappings; lift, seeds, loss, ... as in ``conf/config.yaml``. Lifts
            named in ``horizons``, ``{64: {"t_end": 1e10}}``, are carried that far instead of to ``trainer.t_end``
            (``max_steps``, ``epsilon``, ``steps`` likewise). Or what was read of one.
        planned: called once with the plan, before anything is written.
        progress: called while a batch trains, see `rsl_cli.study.runner.Progress`.
        finished: called with each batch's outcome.
        line: words of the command line behind the configuration, kept so that a report can say what to paste.
        first: do the first run of what is lacking alone.

    Returns:
        What was done. Failed runs are recorded and do not raise.

    Raises:
        RslError: a configuration, data or folder that cannot be used.
        TrainingError: the executor ended without having done its runs.
    """
    spec = config if isinstance(config, StudySpec) else named(StudySpec.from_config(config))
    plan = make_plan(spec, first=first)
    check_affordable(spec, plan.to_do)
    if planned:
        planned(spec, plan)
    outcome, told = Outcome(spec.store), set[str]()
    if plan.to_do:
        _check_executor(spec)
    register(spec, line)
    if not plan.to_do:
        return outcome

    def end(batch: RunBatch, states: Mapping[str, str]) -> None:
        # What another process did meanwhile is as good.
        states = {name: "done" if state == "there" else state for name, state in states.items()}
        told.update(states)
        outcome.done += sum(state == "done" for state in states.values())
        outcome.failed += [name for name, state in states.items() if state == "failed"]
        if finished:
            finished(batch, states)

    try:
        with _naming(spec):
            spec.executor.run(spec, unions(spec, plan.to_do), progress or (lambda *_: None), end)
    finally:
        sweep(spec.store.leases)
    untold = [key.directory for key in plan.to_do if key.directory not in told]
    if untold:
        raise TrainingError(_broken(spec, f"ended without a word of {len(untold)} runs, {untold[0]} among them"))
    if not is_ours(spec.executor):
        there = survey(spec.store, plan.to_do).records
        lost = [key.directory for key in plan.to_do if key not in there]
        if lost:
            raise TrainingError(_broken(spec, f"says that it trained {len(lost)} runs that are not there: {lost[0]}"))
    return outcome


def _broken(spec: StudySpec, what: str) -> str:
    kind = type(spec.executor)
    return f"executor {kind.__module__}.{kind.__qualname__}: {what}; the same line goes on with another executor"


@contextmanager
def _naming(spec: StudySpec) -> Iterator[None]:
    """Say of what a user's own executor raises that it is that."""
    try:
        yield
    except RslError:
        raise
    except RAISED as error:
        if is_ours(spec.executor):
            raise
        raise TrainingError(_broken(spec, f"fails with {type(error).__name__}: {first_line(error)}")) from error


def _check_executor(spec: StudySpec) -> None:
    with _naming(spec):
        spec.executor.check()


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
        missing = make_plan(spec).missing
        check_affordable(spec, missing)
        if missing:
            _check_executor(spec)
        asked[spec.name] = spec.identity
