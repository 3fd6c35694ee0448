"""Going on until the verdict is decided: after each round, the one thing that promises most for its cost.

A round is an ordinary call of `run_study` with more lifts, more seeds, or later horizons for some lifts, so that the
study is at any time what it would be had its grid been asked for outright. Samples are what every run has learned from:
a round with more of them is the same grid in a study of its own, which the next rounds go on with.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rsl_cli.data.keys import DatasetBuilder
from rsl_cli.data.target import DATASETS
from rsl_cli.errors import ConfigError
from rsl_cli.report.judgement import Judgement, judge_views
from rsl_cli.report.outlook import LATEST, foresee
from rsl_cli.report.read import read_runs
from rsl_cli.report.runs import StudyRuns
from rsl_cli.stats import MIN_LIFTS
from rsl_cli.study.api import Outcome, run_study
from rsl_cli.study.naming import named
from rsl_cli.study.plan import RunBatch, StudyPlan
from rsl_cli.study.runner import Progress
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.sweep import lift_degrees, seed_list

DECIDED = ("falls", "plateaus", "rises")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_MOST_SEEDS = 200
_LEAP = 2.0  # decades of time by which a round carries a lift further at most
_FORMS = "accepted: a time such as 90s, 15m or 2h, or none"


class _BudgetSpentError(Exception):
    """Raised from a progress callback to leave a round; what was trained is kept as after Ctrl-C."""


@dataclass(frozen=True)
class Round:
    """What to do next, as changes of the study's configuration, and why."""

    changes: Mapping[str, Any]
    why: str


def until_of(until: Any, budget: Any) -> float | None:
    """Read ``until`` and ``budget``.

    Returns:
        Seconds to spend, infinite for ``budget=none``; None if the study is not to go on by itself.

    Raises:
        ConfigError: values that are not accepted, or a budget without a goal.
    """
    if until not in (None, "verdict"):
        raise ConfigError(f"until={until}; accepted: verdict, or null for one round")
    if budget is None or (isinstance(budget, str) and budget.lower() == "none"):
        seconds = float("inf")
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", str(budget))
        if match is None or float(match[1]) == 0:
            raise ConfigError(f"budget={budget}; {_FORMS}")
        seconds = float(match[1]) * _UNITS[match[2]]
    if until is None:
        if budget is not None:
            raise ConfigError(f"budget={budget} without a goal; add until=verdict")
        return None
    return seconds


def run_until(
    config: Mapping[str, Any],
    seconds: float,
    *,
    say: Callable[[str], None],
    planned: Callable[[StudySpec, StudyPlan], None] | None = None,
    progress: Progress | None = None,
    finished: Callable[[RunBatch, Mapping[str, str]], None] | None = None,
    line: list[str] | None = None,
) -> Outcome:
    """Run a study in rounds until its verdict is `falls`, `plateaus` or `rises`, or the budget is spent.

    Args:
        config: of the first round.
        seconds: to spend.
        say: told in a line what each round does, and why the last one was the last.
        planned: see `rsl_cli.study.api.run_study`, like the rest.
        progress: the same.
        finished: the same.
        line: the same.

    Returns:
        The last round's outcome, with the failures of all.

    Raises:
        RslError: what cannot be run.
    """
    began, failed = time.monotonic(), []
    wanted = _from_where_it_stands(dict(config))

    def watch(batch: RunBatch, step: int, steps: int, loss: float) -> None:
        if time.monotonic() - began > seconds:
            raise _BudgetSpentError
        if progress is not None:
            progress(batch, step, steps, loss)

    outcome = Outcome(named(StudySpec.from_config(wanted)).store)
    while True:
        try:
            outcome = run_study(wanted, planned=planned, progress=watch, finished=finished, line=line)
        except _BudgetSpentError:
            say("the budget is spent in the middle of a round; what is done is kept, the same line goes on")
            break
        failed += outcome.failed
        runs = read_runs(outcome.store)
        chosen = judge_views(runs).headline
        if chosen.verdict in DECIDED:
            say(f"decided after {time.monotonic() - began:.0f} s: {chosen.verdict}")
            break
        step = next_round(wanted, runs, chosen)
        if isinstance(step, str):
            say(f"nothing more can be tried: {step}")
            break
        if time.monotonic() - began > seconds:
            say(f"the budget is spent; next would be: {step.why}")
            break
        say(f"{chosen.verdict}; next: {step.why}")
        assert any(wanted.get(key) != value for key, value in step.changes.items()), "a round must add something"
        wanted = {**wanted, **step.changes}
        if "dataset" in step.changes:  # Another study, which an earlier call may have brought further.
            wanted = _from_where_it_stands(wanted)
    outcome.failed = failed
    return outcome


def next_round(config: Mapping[str, Any], runs: StudyRuns, chosen: Judgement) -> Round | str:
    """What an undecided verdict lacks most, or why nothing can be done about it."""
    lifts, seeds = lift_degrees(config["lift"]), seed_list(config["seeds"])
    crowded = set(runs.overparametrised_lifts)
    used = [lift for lift in lifts if lift not in crowded]
    if len(used) < MIN_LIFTS:
        return _more_lifts(config, lifts, used, crowded)
    if chosen.verdict == "unfinished":
        return _more_time(config, runs, chosen, lifts, used)
    if len(seeds) < 5:
        return Round({"seeds": list(range(5))}, "5 seeds a lift, since a trend needs them")
    needed = min(chosen.seeds_needed or 2 * len(seeds), 4 * len(seeds), _MOST_SEEDS)
    if needed <= len(seeds):
        needed = 2 * len(seeds)
    if needed > _MOST_SEEDS:
        return f"{len(seeds)} seeds a lift still scatter too much"
    fresh = [seed for seed in range(needed + len(seeds)) if seed not in seeds][: needed - len(seeds)]
    return Round({"seeds": sorted([*seeds, *fresh])}, f"{needed} seeds a lift, since {chosen.why}")


def _more_time(
    config: Mapping[str, Any], runs: StudyRuns, chosen: Judgement, lifts: tuple[int, ...], used: list[int]
) -> Round | str:
    asked = {str(lift): dict(value) for lift, value in (config.get("horizons") or {}).items()}
    outlook = foresee(runs, chosen)
    if outlook is None:
        return _more_steps(asked, runs, chosen)
    # Of a lift's runs some may have ended before its horizon, at the target say: the horizon is what moves on.
    key, by_time = outlook.key.removeprefix("trainer."), runs.trainer.clock == "time"
    common = (runs.study.get("carried") or {}).get(key)
    reached = {lift: asked.get(str(lift), {}).get(key, common or _farthest(runs, lift)) for lift in outlook.lifts}
    ends = {lift: max(min(outlook.time, at * 10**_LEAP), 10 * at) for lift, at in reached.items()}
    if max(reached.values()) >= LATEST * (1 - 1e-9):
        return _more_lifts(config, lifts, used, set(runs.overparametrised_lifts))
    for lift, end in ends.items():
        asked[str(lift)] = {**asked.get(str(lift), {}), key: end if by_time else round(end)}
    goals = {lift: f"t = {end:.0e}" if by_time else f"{end:.0f} steps" for lift, end in sorted(ends.items())}
    return Round({"horizons": asked}, ", ".join(f"lift {lift} to {goal}" for lift, goal in goals.items()))


def _farthest(runs: StudyRuns, lift: int) -> float:
    """Where the farthest run of a lift stands, for studies that did not yet say how far they were to be carried."""
    ends = [run.steps if runs.trainer.clock == "step" else run.flow_time for run in runs.at(lift)]
    return max(end for end in ends if end > 0)


def _more_steps(asked: dict[str, dict[str, Any]], runs: StudyRuns, chosen: Judgement) -> Round | str:
    """Runs that no schedule ends take four times the steps."""
    carried, key = runs.study.get("carried") or {}, runs.trainer.carried_by
    if runs.trainer.clock == "time":
        return "the runs that decide have gone as far as float64 lets them, and show no limit of this loss"
    if key not in carried or not any(run.can_go_on for run in runs.done if run.key.lift in chosen.rests_on):
        return "runs of this trainer end with their schedule and show no limit; trainer=flow does"
    for lift in chosen.rests_on:
        last = asked.get(str(lift), {}).get(key, carried[key])
        asked[str(lift)] = {**asked.get(str(lift), {}), key: 4 * last}
    lifts = ", ".join(map(str, chosen.rests_on))
    return Round({"horizons": asked}, f"four times the steps at lift {lifts}")


def _more_lifts(config: Mapping[str, Any], lifts: tuple[int, ...], used: list[int], crowded: set[int]) -> Round | str:
    """A lift between the others, or beyond the largest while parameters are fewer than samples; then more samples."""
    between = sorted({round((a * b) ** 0.5) for a, b in pairwise(used)} - set(lifts))
    beyond = [] if crowded or not used else [2 * used[-1]]
    fresh = beyond or between if len(used) < MIN_LIFTS else between or beyond
    if not fresh:
        return _more_samples(config)
    named = ", ".join(map(str, fresh))
    return Round({"lift": sorted({*lifts, *fresh})}, f"lifts {named}, for a trend over more of them")


def _more_samples(config: Mapping[str, Any]) -> Round | str:
    """Four times as many, where data are drawn: in a study of its own, since no run of this one has seen them."""
    data = dict(config["dataset"])
    builder, samples = DATASETS.get(str(data.get("name"))), data.get("samples")
    if not isinstance(builder, DatasetBuilder) or builder.inputs is None or not isinstance(samples, int):
        return "no lift is left between the others, and larger ones have as many parameters as there are samples"
    changes: dict[str, Any] = {"dataset": {**data, "samples": 4 * samples}}
    if config.get("study"):
        changes["study"] = f"{re.sub(r'_samples[0-9]+$', '', str(config['study']))}_samples{4 * samples}"
    return Round(changes, f"{4 * samples} samples in a study of their own, since P reaches the {samples} of this one")


def _from_where_it_stands(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration, with what an earlier call of the same line had added to the study."""
    spec = named(StudySpec.from_config(config))
    if not spec.store.exists():
        return config
    study = spec.store.read_study()
    plan, horizons = study["plan"], study["config"].get("horizons") or {}
    config["lift"] = sorted({*spec.lifts, *plan["lifts"]})
    config["seeds"] = sorted({*spec.seeds, *plan["seeds"]})
    config["horizons"] = {**horizons, **(config.get("horizons") or {})}
    return config
