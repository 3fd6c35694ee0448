"""Verdicts and their reasons on studies whose law is known."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_study import LIFTS, make_study

from rsl_cli.report import judge
from rsl_cli.report.canvas import drawn
from rsl_cli.report.evidence import Evidence
from rsl_cli.report.figures import SHIPPED, drawings
from rsl_cli.report.judgement import judge_views
from rsl_cli.report.read import assemble, read_runs
from rsl_cli.report.verdict import give_verdict
from rsl_cli.study.files import write_json
from rsl_cli.study.record import RunKey
from rsl_cli.study.store import StudyStore
from rsl_cli.study.survey import curves, survey
from scripts import calibrate_verdict

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
STOPPED = {"stop_reason": "budget"}
DIVERGED = {"train_loss": None, "test_loss": None, "stop_reason": "diverged"}


def falling(params: int, lift: int) -> float:
    return 50 / params**1.1


def floor(params: int, lift: int) -> float:
    return 2e-3 + 50 * (params / 20) ** -4.0


def level(params: int, lift: int) -> float:
    return 0.1


def turning(params: int, lift: int) -> float:
    return 1e-3 * (params / 200) ** -2 + 2e-6 * (lift / 128) ** 2


def verdict_of(store: StudyStore) -> dict[str, Any]:
    runs = read_runs(store)
    return give_verdict(runs, judge_views(runs), 0.1)


def said(verdict: dict[str, Any], *fragments: str) -> bool:
    return all(any(fragment in reason for reason in verdict["reasons"]) for fragment in fragments)


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    return lambda law, **changes: verdict_of(
        make_study(tmp_path / "study", law, **({"trajectories": False, "noise": 0.1} | changes))
    )


def test_falls(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling)
    assert verdict["verdict"] == "falls"
    assert verdict["headline"].startswith("FALLS ")
    assert 20 < verdict["fall"] < 60
    assert verdict["by_loss"] == {"train": "falls", "test": "falls"}
    assert verdict["trend"]["p_value"] < 1e-6
    low, high = verdict["fit"]["exponent_ci"]
    assert low <= 1.1 <= high
    assert verdict["fit"]["floor"] is None
    assert said(verdict, "falls with the lift, from lift 16 to 512", "Trend test over 5 seeds and 6 lifts", "held-out")
    assert verdict["under_trained"] == verdict["overparametrised"] == verdict["dense"] == []


def test_a_level_loss_over_few_lifts_is_told_from_scatter(study: Callable[..., dict[str, Any]]) -> None:
    """Linear networks on a target that is not: all runs end at one loss, to the last digits."""
    verdict = study(lambda params, lift: 0.125, noise=0.0, lifts=(6, 8, 12, 16))
    assert verdict["verdict"] == "inconclusive"
    told = "the loss is level, but over less than 3.9 times the lift: add a larger or a smaller one"
    assert verdict["headline"] == f"INCONCLUSIVE: {told}"


def test_plateau_names_its_level(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(floor, noise=0.03)
    assert verdict["verdict"] == "plateaus"
    assert verdict["headline"].startswith("PLATEAUS: the limit of the held-out loss is level at 0.0022 from lift ")
    assert said(verdict, "levels off at 0.0022")


def test_flat_is_a_plateau(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(level, noise=0.05)
    assert verdict["verdict"] == "plateaus"
    assert said(verdict, "hardly changes with the lift: it stays at 0.11")


def test_noisy_flat_is_inconclusive_and_says_how_many_seeds(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(level, noise=1.5, seeds=3)
    assert verdict["verdict"] == "inconclusive"
    assert verdict["headline"].startswith("INCONCLUSIVE: ")
    assert said(verdict, "scatter too much")


@pytest.mark.parametrize("exponent", [0.1, 0.02])
def test_a_slow_fall_is_level_only_below_the_band(study: Callable[..., dict[str, Any]], exponent: float) -> None:
    verdict = study(lambda params, lift: params**-exponent, noise=0.005)
    assert verdict["verdict"] == ("falls" if exponent == 0.1 else "plateaus")


def test_rises(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(lambda params, lift: 1e-4 * params**0.5)
    assert verdict["verdict"] == "rises"
    assert verdict["fit"]["exponent_ci"][1] < 0
    assert said(verdict, "rises with the lift, from lift 16 to 512")


@pytest.mark.parametrize(("seeds", "noise"), [(5, 0.1), (3, 0.05)])
def test_falls_then_rises_is_not_falls(study: Callable[..., dict[str, Any]], seeds: int, noise: float) -> None:
    verdict = study(turning, seeds=seeds, noise=noise)
    assert verdict["verdict"] in ("rises", "inconclusive")
    assert verdict["verdict"] == "rises" or seeds == 3


def test_a_turn_shows_with_three_seeds(study: Callable[..., dict[str, Any]]) -> None:
    medians = dict(zip(LIFTS, (1e-2, 2.5e-3, 6.3e-4, 1.6e-4, 3.2e-4, 6.4e-4), strict=True))
    verdict = study(lambda params, lift: medians[lift], seeds=3)
    assert verdict["verdict"] == "rises"
    assert said(verdict, "falls up to lift 128, then rises")


def test_a_flat_pair_at_the_end_is_no_fall(study: Callable[..., dict[str, Any]]) -> None:
    medians = (0.102, 0.0671, 0.0673)
    verdict = study(lambda params, lift: medians[LIFTS.index(lift)], lifts=LIFTS[:3], seeds=3)
    assert verdict["verdict"] == "inconclusive"


def test_lack_of_fit_is_no_floor(study: Callable[..., dict[str, Any]]) -> None:
    losses = dict(zip(LIFTS, (0.1, 3.98e-4, 9.98e-5, 2.5e-5), strict=False))
    verdict = study(lambda params, lift: losses[lift], lifts=LIFTS[:4], seeds=3, noise=0.05)
    assert verdict["verdict"] == "falls"
    assert verdict["fit"]["exponent"] is None
    assert verdict["fit"]["floor"] is None
    assert [round(one["exponent"], 1) for one in verdict["local_exponents"]] == pytest.approx([8.0, 2.0, 2.0], abs=0.3)


def test_divergence_forbids_a_fall(study: Callable[..., dict[str, Any]]) -> None:
    for seeds in (2, 5):
        verdict = study(falling, change=lambda lift, seed, n=seeds: DIVERGED if lift == 512 and seed < n else {})
        assert verdict["verdict"] in ("inconclusive", "unfinished")
        assert said(verdict, f"{seeds} of 30 planned runs diverged")
    assert next(iter(verdict["success"].values()))["512"][:2] == [0, 5]


def test_seeds_left_behind_forbid_a_fall(study: Callable[..., dict[str, Any]]) -> None:
    stuck = {"train_loss": 0.3, "test_loss": 0.3}
    verdict = study(falling, noise=0.05, change=lambda lift, seed: stuck if (lift + seed) % 3 == 0 else {})
    assert verdict["verdict"] != "falls"
    verdict = study(falling, noise=0.05, change=lambda lift, seed: stuck if lift == 16 and seed < 4 else {})
    assert verdict["verdict"] == "falls"


@pytest.mark.parametrize(("seeds", "lifts", "remedy"), [(2, LIFTS, "seeds=5"), (5, (16, 32), "a trend needs 3")])
def test_too_few_is_inconclusive(
    study: Callable[..., dict[str, Any]], seeds: int, lifts: tuple[int, ...], remedy: str
) -> None:
    verdict = study(falling, seeds=seeds, lifts=lifts)
    assert verdict["verdict"] == "inconclusive"
    assert said(verdict, remedy)
    assert verdict["fit"]["exponent"] is None
    assert verdict["trend"] == {"p_value": None, "statistic": None}


def test_everything_diverged(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(lambda params, lift: None)
    assert verdict["verdict"] == "inconclusive"
    assert verdict["losses"] == "train"
    assert verdict["success"] == {}
    assert said(verdict, "No run has a finite loss", "30 of 30 planned runs diverged")


def test_everything_missing(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(level, missing=[(lift, seed) for lift in LIFTS for seed in range(5)])
    assert verdict["verdict"] == "inconclusive"
    assert said(verdict, "There is no run to judge", "30 of 30 planned runs missing", "Run the study again")


def test_missing_largest_lifts_leave_it_unfinished(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, missing=[(512, seed) for seed in range(1, 5)], failed=[(64, 1)])
    assert (verdict["verdict"], verdict["would_be"]) == ("unfinished", "falls")
    assert said(verdict, "Lifts beyond 256 were asked for", "1 of 30 planned runs failed: n00064-s001 (out of memory)")
    whole = study(falling, missing=[(32, 1)], failed=[(64, 1)])
    assert whole["verdict"] == "falls"


def test_overparametrised_lifts_are_left_out_of_the_headline(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(lambda params, lift: falling(params, lift) if lift < 256 else 1.0, samples=3000)
    assert verdict["verdict"] == "falls"
    assert verdict["overparametrised"] == [256, 512]
    assert verdict["with_overparametrised"] != "falls"
    assert said(verdict, "lifts 256, 512; with them the verdict would be")
    assert "256" in verdict["success"]["1e-01"]


def test_all_overparametrised(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, samples=100)
    assert verdict["verdict"] == "inconclusive"
    assert verdict["with_overparametrised"] == "falls"
    assert said(verdict, "Every lift with a result is overparametrised", "Raise the number of samples above 6,657")


@pytest.mark.parametrize("law", [floor, level, falling, turning])
def test_what_stopped_runs_say_is_unfinished(study: Callable[..., dict[str, Any]], law: Callable[..., float]) -> None:
    verdict = study(law, noise=0.03, change=lambda lift, seed: STOPPED)
    expected = study(law, noise=0.03)["verdict"]
    assert (verdict["verdict"], verdict["would_be"]) == ("unfinished", expected)
    assert verdict["headline"].startswith("UNFINISHED: ")
    assert len(verdict["under_trained"]) == 30
    assert said(verdict, "30 of 30 runs had not shown the limit", "upper bounds of the limits, and nothing more")
    assert said(verdict, "trainer=flow")
    # All runs of the level law are below the target that is asked about; none is open.
    assert said(verdict, "exact trend test, wherever the") == (law is not level)
    assert verdict["fit"]["exponent"] is None


def test_upper_bounds_prove_a_fall_below_finished_runs(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, change=lambda lift, seed: STOPPED if lift == 512 else {})
    assert verdict["verdict"] == "falls"
    assert "5 of 30 runs still falling" in verdict["headline"]
    verdict = study(falling, change=lambda lift, seed: STOPPED if lift == 256 else {})
    assert (verdict["verdict"], verdict["would_be"]) == ("unfinished", "falls")
    assert "falls" in verdict["headline"]
    assert "lift 256" in verdict["headline"]


def test_a_floor_needs_finished_runs(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(floor, noise=0.03, change=lambda lift, seed: STOPPED if lift >= 256 and seed != 1 else {})
    assert (verdict["verdict"], verdict["would_be"]) == ("unfinished", "plateaus")
    assert "n00512-s000" in verdict["under_trained"]


def test_a_target_that_was_asked_for_says_no_more_than_that(study: Callable[..., dict[str, Any]]) -> None:
    target = {"stop_reason": "target"}
    verdict = study(falling, change=lambda lift, seed: target if lift >= 128 else {})
    assert verdict["verdict"] == "falls"
    assert "to 128, from which on every run reaches its target" in verdict["headline"]
    assert verdict["under_trained"] == []
    assert said(verdict, "15 of 30 runs stopped at the target loss they were asked for", "every run reaches 0.0")
    some = study(floor, noise=0.03, change=lambda lift, seed: target if lift >= 128 and seed else {})
    assert some["verdict"] in ("unfinished", "inconclusive")


def test_at_one_target_the_held_out_losses_of_classes_are_compared(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, classification=True, change=lambda lift, seed: {"stop_reason": "target"})
    assert verdict["verdict"] == "falls"
    assert "the held-out loss at one training loss, from lift" in verdict["headline"]
    assert said(verdict, "30 of 30 runs stopped at the target loss they were asked for", "Judged on held-out loss")
    assert said(verdict, "The losses at one training loss follow a P^-b")
    assert not said(verdict, "limits follow") and verdict["joint_law"] is None


def test_losses_of_numbers_that_all_stopped_at_the_target_show_no_limit(study: Callable[..., dict[str, Any]]) -> None:
    """They are as level as the target is, whatever the lifts can."""
    for losses in (falling, lambda params, lift: 0.01):
        verdict = study(losses, noise=0.01, change=lambda lift, seed: {"stop_reason": "target"})
        assert verdict["verdict"] in ("inconclusive", "unfinished")
        assert verdict["fit"] is None or verdict["fit"]["exponent"] is None


def test_a_lift_whose_runs_all_reach_the_target_ends_a_fall_from_the_first(
    study: Callable[..., dict[str, Any]],
) -> None:
    """Neither one open run at the first lift, nor one that stays behind in between, keeps that from being certain."""

    def change(lift: int, seed: int) -> dict[str, Any]:
        if lift >= 64:
            return {"stop_reason": "target", "train_loss": 1e-4, "test_loss": 2e-4}
        if (lift, seed) == (16, 0):
            return STOPPED
        return {"train_loss": 0.2, "test_loss": 0.2} if (lift, seed) == (32, 1) else {}

    verdict = study(falling, change=change)
    assert verdict["verdict"] == "falls"
    assert "from lift 16 to 64, from which on every run reaches its target" in verdict["headline"]
    level_held_out = study(
        falling, change=lambda lift, seed: change(lift, seed) | ({"test_loss": 0.1} if lift > 16 else {})
    )
    assert level_held_out["by_loss"]["train"] == "falls"


def test_a_held_out_floor_is_not_at_the_target_of_training(tmp_path: Path) -> None:
    def draw(epsilon: float | None) -> dict[str, Any]:
        case = replace(calibrate_verdict.case_of("held-out floor"), epsilon=epsilon)
        runs, _ = calibrate_verdict.draw_study(case, 10, np.random.default_rng(0))
        return give_verdict(runs, judge_views(runs), 0.1)

    assert draw(None)["verdict"] == "plateaus"
    assert draw(1e-5)["verdict"] == "unfinished"  # Stopped before the held-out losses had levelled.


def test_what_has_reached_a_target_asked_for_later_counts(study: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    change = lambda lift, seed: {"stop_reason": "time"} if lift >= 64 else {}  # noqa: E731
    assert study(falling, change=change)["verdict"] == "unfinished"
    store = StudyStore(tmp_path / "study")
    write_json(store.study_file, store.read_study() | {"carried": {"epsilon": 0.1}})
    verdict = verdict_of(store)
    assert verdict["verdict"] == "falls"
    assert "every run reaches its target" in verdict["headline"]


def test_a_run_at_a_saddle_has_shown_no_limit(tmp_path: Path) -> None:
    """A tail that has levelled, and a Hessian that says it goes on."""
    store = make_study(tmp_path / "s", floor, noise=0.03, flow=True, change=lambda lift, seed: {"stop_reason": "time"})
    for key in store.planned():
        record, time = store.record(key), np.geomspace(1, 1e6, 49)
        assert record is not None
        ends = [(loss or 0.0) * (1 + 1 / time) for loss in (record.train_loss, record.test_loss)]
        least = np.where((key.lift == 512) & (key.seed < 2), -1e-5 * time, np.nan)
        frame = pd.DataFrame({"step": range(49), "time": time, "loss": ends[0], "test_loss": ends[1]})
        store.write_run(key, record, {"trajectory": frame.assign(least_curvature=least)}, {"w": np.zeros(1)})
    runs = read_runs(store)
    assert [run.name for run in runs.done if run.test_limit.low == 0] == ["n00512-s000", "n00512-s001"]
    verdict = verdict_of(store)
    assert (verdict["verdict"], verdict["would_be"]) == ("unfinished", "plateaus")
    assert said(verdict, "2 of 30 runs that seem to rest are at a saddle", "n00512-s000, n00512-s001")


def test_a_flow_at_rest_breaks_no_identity(tmp_path: Path) -> None:
    """Both sides of |grad L|^2 = -dL/dt are rounding there; elsewhere the worst point counts."""
    store = make_study(tmp_path / "s", level, noise=0.01, flow=True)
    for key, last in zip(store.planned(), itertools.cycle([1e-14, 1e-6]), strict=False):
        record, time = store.record(key), np.geomspace(1, 1e6, 25)
        assert record is not None
        frame = pd.DataFrame(
            {"step": range(25), "time": time, "loss": 0.1, "test_loss": 0.1, "least_curvature": np.nan}
        )
        frame = frame.assign(grad_norm=np.r_[np.full(24, 1e-3), last], dissipation=np.r_[np.full(24, 1.02), 0.3])
        store.write_run(key, record, {"trajectory": frame}, {"w": np.zeros(1)})
    assert {run.dissipation for run in read_runs(store).done} == {1.02, 0.3}
    assert said(verdict_of(store), "Recorded gradients break |grad L|^2 = -dL/dt, the worst by 0.3")


def test_flow_curves_show_their_limits(study: Callable[..., dict[str, Any]]) -> None:
    # fake_study's curves approach their last loss like time^-0.6 up to t = 1e6.
    verdict = study(falling, flow=True, trajectories=True, change=lambda lift, seed: {"stop_reason": "time"})
    runs = verdict["under_trained"]
    assert verdict["verdict"] in ("falls", "unfinished")
    assert len(runs) < 30 or verdict["verdict"] == "unfinished"


def test_what_is_said_of_a_trainer_is_in_its_studies_plan_or_declared(tmp_path: Path) -> None:
    sentence = "Trained by Levenberg-Marquardt: end points only, not the flow's path."
    store = make_study(tmp_path / "study", falling, noise=0.1, change=lambda lift, seed: {"stop_reason": "budget"})
    written = store.read_study()

    def verdict(trainer: dict[str, Any], facts: dict[str, Any] | None = None) -> dict[str, Any]:
        plan = written["plan"] | ({} if facts is None else {"trainer": facts})
        write_json(store.study_file, written | {"config": {**written["config"], "trainer": trainer}, "plan": plan})
        return verdict_of(store)

    assert said(verdict({"name": "lm"}), sentence)
    adam = verdict({"name": "adam"})
    assert not said(adam, sentence) and adam["outlook"] is None and said(adam, "is on no flow's clock")
    # A trainer that nobody here knows, whose plan says that its steps are a clock.
    own = {"clock": "step", "carried_by": "paces", "remark": "Trained by hand."}
    known = verdict({"name": "mine.Own"}, own)
    assert known["outlook"]["key"] == "trainer.paces" and said(known, "Trained by hand.", " steps, in about")
    assert not said(known, "is on no flow's clock")
    assert said(verdict({"name": "mine.Own"}), "is on no flow's clock")


def test_generalisation_gap_compares_losses_not_verdicts(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, test_law=level, noise=0.05)
    assert verdict["by_loss"] == {"train": "falls", "test": "plateaus"}
    assert said(verdict, "a generalisation gap")
    near = study(lambda params, lift: 0.1 * (params / 209) ** -0.15, test_law=level, noise=0.01)
    assert near["by_loss"] == {"train": "falls", "test": "plateaus"}
    assert not said(near, "generalisation gap")
    assert said(near, "On training loss alone the verdict would be 'falls'")


def test_without_held_out_data_training_loss_is_judged(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, held_out=False)
    assert verdict["losses"] == "train"
    assert verdict["by_loss"] == {"train": "falls"}
    assert said(verdict, "Judged on training loss")


def test_zero_losses(study: Callable[..., dict[str, Any]]) -> None:
    some = study(lambda params, lift: 1e-3 * (params / 200) ** -8 if lift < 128 else 0.0)
    assert some["verdict"] == "falls"
    every = study(lambda params, lift: 0.0)
    assert every["verdict"] == "inconclusive"
    assert said(every, "as small as the arithmetic resolves")


def test_a_floor_at_the_resolution_is_no_plateau(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(
        lambda params, lift: max(1e-3 * (params / 200) ** -12, 1e-13), change=lambda lift, seed: {"resolution": 1e-12}
    )
    assert verdict["verdict"] == "falls"


def test_dense_lifts_are_named_and_left_out_of_a_view(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, lifting={"kind": "random", "in_degree": 40.0})
    assert verdict["dense"] == [16, 32]
    assert verdict["without_dense"] == "falls"
    assert said(
        verdict, "Dense, not sparse, since the in-degree reaches a fibre: lifts 16, 32; without them the verdict"
    )


def test_success_and_learning_numbers(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, noise=0.01, change=lambda lift, seed: {"witness_degree": 8})
    row = verdict["success"]["5e-02"]
    assert [row[str(lift)][0] for lift in LIFTS] == [0, 0, 5, 5, 5, 5]
    assert row["16"][1:3] == [5, 0.0]
    assert row["64"][3] == 1.0
    assert verdict["approximation_number"]["5e-02"] == 64
    assert verdict["learning_number"]["5e-02"] == {"point": 64, "low": 64, "high": None}
    assert verdict["witness_degree"] == 8
    keys = [float(key) for key in verdict["success"]]
    assert keys == sorted(keys, reverse=True)
    assert set(verdict["success"]) == set(verdict["learning_number"]) == set(verdict["approximation_number"])
    assert verdict["success_verdict"]["verdict"] == "rises"
    assert verdict["success_verdict"]["seeds"] == 36
    assert said(verdict, "36 seeds, all successful, would make it certain")


def test_the_share_of_successes_is_a_verdict_of_its_own(study: Callable[..., dict[str, Any]]) -> None:
    """With probability 1 - p(n) a seed succeeds: the theorem's shape, which medians hide."""
    successes = dict(zip(LIFTS, (2, 6, 8, 9, 10, 10), strict=True))
    good, bad = {"train_loss": 2e-6, "test_loss": 2e-6}, {"train_loss": 0.1, "test_loss": 0.1}
    verdict = study(level, seeds=10, change=lambda lift, seed: good if seed < successes[lift] else bad)
    assert verdict["verdict"] != "rises"
    assert verdict["success_verdict"]["verdict"] == "rises"
    assert verdict["success_verdict"]["p_value"] < 1e-3
    never = study(level, seeds=10, change=lambda lift, seed: good if seed < 6 else bad)
    assert never["verdict"] != "falls"
    assert never["success_verdict"]["verdict"] in ("undecided", "fails")


def test_a_held_out_loss_that_is_not_finite_is_no_fall(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, change=lambda lift, seed: {"test_loss": None} if lift == 512 else {})
    assert verdict["verdict"] != "falls"


@pytest.fixture(scope="module")
def flow_study() -> tuple[StudyStore, list[RunKey], Any, Any]:
    store = StudyStore(REFERENCE / "versus_flow")
    keys = store.planned()
    found = survey(store, keys, thoroughly=True)
    return store, keys, found.records, curves(store, found.records)


@pytest.mark.parametrize("lifts", [(4, 8, 16, 32, 64), (4, 8, 16, 32)])
@pytest.mark.parametrize("time", [1e4, 1e5, 1e6, 1e7, 1e8])
def test_where_the_clock_stops_is_no_floor(flow_study: Any, lifts: tuple[int, ...], time: float) -> None:
    """A flow whose losses go on falling, cut at any time and read from any of its seeds, shows no level nor floor."""
    store, keys, records, frames = flow_study
    study = store.read_study() | {"carried": {"t_end": time}}
    for seeds in (chosen for size in (3, 4, 5) for chosen in itertools.combinations(range(5), size)):
        kept = [key for key in keys if key.lift in lifts and key.seed in seeds]
        runs = assemble("cut", study, ((key, records[key], frames.get(key)) for key in kept))
        assert {run.flow_time for run in runs.done} == {time}
        judged = judge_views(runs).headline
        assert judged.verdict in ("unfinished", "inconclusive", "falls")
        assert judged.law is None or judged.law.floor is None


@pytest.mark.parametrize("case", ["early floor", "power law, b = 2", "clock: limits b = 6, kappa constant, p = 1"])
def test_planted_truths(case: str) -> None:
    """A small piece of scripts/calibrate_verdict.py's table."""
    found = next(one for one in calibrate_verdict.CASES if one.name == case)
    # A floor is an equivalence, which wants more seeds than a fall does: the table says how many.
    tally = calibrate_verdict.calibrate(found, seeds=10 if found.floor else 5, draws=20)
    wrong = {"falls", "plateaus", "rises"} - set(found.right)
    assert sum(tally.verdicts[verdict] for verdict in wrong) == 0
    assert np.mean(tally.limit) == 1
    if not case.startswith("clock"):
        assert sum(tally.verdicts[verdict] for verdict in found.right) >= 12


def test_seeds_that_agree_to_the_last_digit_give_no_interval_of_no_width(tmp_path: Path) -> None:
    store = make_study(tmp_path / "same", lambda params, lift: 0.5, noise=0.0, flow=True)
    reasons = " ".join(judge(store.root).reasons)
    assert "from lift to lift: 0 within 1e-06 (16 to 32)" in reasons
    assert "[0, 0]" not in reasons and "e-17" not in reasons.partition("Lift and clock")[0]


def test_where_the_dense_lifts_end_is_drawn(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", falling, lifts=(16, 32, 64), seeds=2, trajectories=False)
    found = read_runs(store)
    known = replace(found, study={**found.study, "plan": {**found.study["plan"], "dense": [16, 32]}})
    assert (found.dense_lifts, known.dense_lifts) == ((), (16, 32)) and known.sparse_from == pytest.approx(2**5.5)
    sizes = [np.median([run.params for run in known.at(lift)]) for lift in (32, 64)]
    assert known.sparse_params == pytest.approx(np.sqrt(np.prod(sizes)))
    whole = replace(found, study={**found.study, "plan": {**found.study["plan"], "dense": [16, 32, 64]}})
    assert np.isinf(whole.sparse_from) and np.isinf(whole.sparse_params)
    for runs, marked in ((found, False), (known, True), (whole, True)):
        evidence = Evidence(store, runs, {})
        made = drawings(evidence)
        for name in ("loss_vs_lift", "loss_vs_params"):
            (axes,) = drawn(made[name]).axes
            assert ("dense, not sparse" in axes.get_legend_handles_labels()[1]) == marked
        chart = json.dumps(SHIPPED["loss_vs_params"].specification(evidence))
        assert ('"is": "dense"' in chart) == (runs is known)
