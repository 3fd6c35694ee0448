"""Verdicts and their reasons on studies whose law is known."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_study import LIFTS, make_study

from rsl_cli.report.judgement import judge_views
from rsl_cli.report.runs import read_runs
from rsl_cli.report.verdict import give_verdict
from rsl_cli.study.store import StudyStore

BUDGET = {"stop_reason": "budget", "log_slope": -0.3}
DIVERGED = {"train_loss": None, "test_loss": None, "stop_reason": "diverged"}


def falling(params: int, lift: int) -> float:
    return 50 / params**1.1


def floor(params: int, lift: int) -> float:
    return 2e-3 + 50 * (params / 20) ** -2.0


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
    return lambda law, **changes: verdict_of(make_study(tmp_path / "study", law, trajectories=False, **changes))


def test_falls(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling)
    assert verdict["verdict"] == "falls"
    assert verdict["by_loss"] == {"train": "falls", "test": "falls"}
    assert verdict["trend"]["p_value"] < 1e-6
    low, high = verdict["fit"]["exponent_ci"]
    assert 0 < low <= 1.2
    assert high >= 1.05
    assert said(verdict, "falls with the lift, from lift 16 to 512", "Page's trend test over 5 seeds and 6 lifts")
    assert said(verdict, "No floor is visible", "held-out")
    assert verdict["under_trained"] == verdict["overparametrised"] == []


def test_plateau_names_its_floor(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(floor)
    assert verdict["verdict"] == "plateaus"
    assert verdict["fit"]["floor"] == pytest.approx(2.2e-3, rel=0.3)
    assert said(verdict, f"levels off at a floor of {verdict['fit']['floor']:.2g}")
    assert not said(verdict, "under-trained")


def test_a_bend_at_the_last_lift_needs_larger_lifts(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(lambda params, lift: 2e-3 * (1 + (400 / lift) ** 2), noise=0.05, change=lambda lift, seed: BUDGET)
    assert verdict["verdict"] == "inconclusive"
    assert said(verdict, "bends at its end as if towards a floor", "would rest on a single lift", "doubt about the end")


def test_flat_is_a_plateau(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(level, noise=0.1)
    assert verdict["verdict"] == "plateaus"
    assert said(verdict, "hardly changes with the lift: it stays at a floor of 0.11")


def test_noisy_flat_is_inconclusive(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(level, noise=1.5, seeds=3)
    assert verdict["verdict"] == "inconclusive"
    assert said(verdict, "add seeds or widen the range of lifts")


def test_slow_but_sure_fall(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(lambda params, lift: params**-0.1, noise=0.02)
    assert verdict["verdict"] == "falls"
    assert said(verdict, "but slowly")


def test_rises(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(lambda params, lift: 1e-4 * params**0.5)
    assert verdict["verdict"] == "rises"
    assert verdict["fit"]["exponent_ci"][1] < 0
    assert said(verdict, "rises with the lift, from lift 16 to 512")


def test_falls_then_rises_is_not_falls(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(turning)
    assert verdict["verdict"] == "rises"
    assert verdict["trend"]["p_value"] < 0.05
    assert said(verdict, "falls up to lift 256, then rises")


def test_a_rise_too_few_seeds_to_prove_is_not_falls_either(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(turning, seeds=3, noise=0.05)
    assert verdict["verdict"] in ("inconclusive", "rises")
    assert said(verdict, "lift 256")


def test_divergence_at_the_largest_lift_is_a_rise(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, change=lambda lift, seed: DIVERGED if lift == 512 else {})
    assert verdict["verdict"] == "rises"
    assert said(verdict, "5 of 5 runs diverged at lift 512", "5 of 30 planned runs diverged")
    assert next(iter(verdict["success"].values()))["512"][:2] == [0, 5]


def test_scattered_divergence_is_the_cause_named(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, change=lambda lift, seed: DIVERGED if lift >= 256 and seed < 3 else {})
    assert verdict["verdict"] == "inconclusive"
    assert said(verdict, "6 of 30 runs diverge: lower the step size")


@pytest.mark.parametrize(("seeds", "lifts", "remedy"), [(2, LIFTS, "add seeds"), (5, (16, 32), "widen the sweep")])
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


def test_failed_and_missing_runs_are_mentioned(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, missing=[(512, seed) for seed in range(1, 5)], failed=[(64, 1)])
    assert verdict["verdict"] == "falls"
    assert said(verdict, "1 of 30 planned runs failed: n00064-s001 (out of memory)", "4 of 30 planned runs missing")
    assert said(verdict, "without gaps")


def test_no_complete_blocks(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, seeds=4, missing=[(lift, i % 4) for i, lift in enumerate(LIFTS * 3)][:14])
    assert verdict["verdict"] == "inconclusive"


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
    assert said(verdict, "Every lift is overparametrised", "Raise the number of samples", "would be 'falls'")


def test_a_plateau_of_under_trained_runs_is_no_evidence(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(floor, change=lambda lift, seed: BUDGET if lift >= 256 and seed != 1 else {})
    assert verdict["verdict"] == "plateaus"
    assert "n00512-s000" in verdict["under_trained"]
    assert len(verdict["under_trained"]) == 8
    assert said(
        verdict, "plateau rests on under-trained runs: 8 of 10", "not evidence against the theorem", "gradient flow"
    )


def test_a_rise_resting_in_part_on_under_trained_runs(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(turning, change=lambda lift, seed: BUDGET if lift == 512 and seed < 2 else {})
    assert verdict["verdict"] == "rises"
    assert said(verdict, "rise rests in part on under-trained runs: 2 of 5 runs at lift 512")


def test_under_trained_runs_do_not_spoil_a_fall(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, change=lambda lift, seed: BUDGET if lift == 512 else {})
    assert verdict["verdict"] == "falls"
    assert said(
        verdict, "5 of 30 runs are under-trained. Of these, 5 still falling when the steps ran out. To go lower, raise"
    )
    assert not said(verdict, "evidence against")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"stop_reason": "budget", "log_slope": -0.06}, True),
        ({"stop_reason": "time", "log_slope": -0.04}, False),
        ({"stop_reason": "time", "log_slope": None, "relative_gradient": 0.2}, True),
        ({"stop_reason": "budget", "log_slope": None, "relative_gradient": None}, False),
        ({"stop_reason": "time", "log_slope": None, "relative_gradient": 0.0}, True),
        ({"stop_reason": "stationary", "log_slope": -0.5, "relative_gradient": 1.0}, False),
        ({"stop_reason": "budget", "log_slope": -0.5, "resolution": 1.0}, False),
        ({"stop_reason": "budget", "log_slope": -0.5, "resolution": None}, True),
        ({**DIVERGED, "log_slope": -0.5}, False),
        ({"stop_reason": "stalled", "log_slope": 0.0}, True),
        ({"stop_reason": "stalled", "resolution": 1.0}, False),
        ({"stop_reason": "target", "log_slope": -0.5, "relative_gradient": 1.0}, False),
    ],
)
def test_what_is_under_trained(study: Callable[..., dict[str, Any]], change: dict[str, Any], expected: bool) -> None:
    verdict = study(level, lifts=(16,), seeds=1, change=lambda lift, seed: change)
    assert verdict["under_trained"] == (["n00016-s000"] if expected else [])


@pytest.mark.parametrize(
    ("trainer", "reason", "how", "remedy"),
    [
        ("flow", "time", "5 still falling at the end of the flow time", "To go lower, raise trainer.t_end."),
        ("flow", "budget", "5 still falling when the steps ran out", "To go lower, raise trainer.max_steps."),
        (
            "flow",
            "stalled",
            "5 stalled, by a step below what float64 resolves",
            "compare the stalled runs with trainer=lm",
        ),
        ("lm", "stalled", "5 stalled", "compare the stalled runs with trainer=flow"),
        ("adam", "budget", "5 still falling", "To go lower, raise trainer.steps, or integrate the gradient flow"),
    ],
)
def test_the_remedy_names_the_knob(
    study: Callable[..., dict[str, Any]], trainer: str, reason: str, how: str, remedy: str
) -> None:
    change = {"trainer": trainer, "stop_reason": reason, "log_slope": -0.5}
    verdict = study(falling, change=lambda lift, seed: change if lift == 512 else {"trainer": trainer})
    assert said(verdict, f"5 of 30 runs are under-trained. Of these, {how}", remedy)
    assert trainer == "adam" or not said(verdict, "trainer.steps")
    plateau = study(floor, change=lambda lift, seed: change if lift == 512 else {"trainer": trainer})
    assert said(plateau, "rests on under-trained runs: 5 of 10", "not evidence against the theorem", how, remedy)


def test_a_plateau_at_the_target_that_was_asked_for(study: Callable[..., dict[str, Any]]) -> None:
    target = {"stop_reason": "target"}
    verdict = study(floor, change=lambda lift, seed: target if lift >= 128 else {})
    assert verdict["verdict"] == "plateaus"
    assert verdict["under_trained"] == []
    assert said(verdict, "15 of 30 runs stopped at the target loss they were asked for, and the plateau rests on some")
    verdict = study(falling, change=lambda lift, seed: target if lift >= 128 else {})
    assert said(verdict, "15 of 30 runs stopped at the target loss they were asked for; training on would go lower")


def test_levenberg_marquardt_is_not_the_flow(study: Callable[..., dict[str, Any]]) -> None:
    sentence = "Trained by Levenberg-Marquardt: end points only, not the flow's path."
    assert sentence in study(falling, change=lambda lift, seed: {"trainer": "lm"})["reasons"]
    assert sentence not in study(falling, flow=True)["reasons"]


def test_generalisation_gap(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, test_law=level, noise=0.1, change=lambda lift, seed: BUDGET if seed == 0 else {})
    assert verdict["verdict"] == "plateaus"
    assert verdict["by_loss"] == {"train": "falls", "test": "plateaus"}
    assert said(verdict, "generalisation gap, due neither to the optimiser nor to the lift")
    assert not said(verdict, "evidence against")


def test_training_loss_may_disagree_the_other_way(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(level, test_law=falling, noise=0.1)
    assert verdict["verdict"] == "falls"
    assert said(verdict, "On training loss alone the verdict would be 'plateaus'")


def test_without_held_out_data_training_loss_is_judged(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, held_out=False)
    assert verdict["losses"] == "train"
    assert verdict["by_loss"] == {"train": "falls"}
    assert said(verdict, "Judged on training loss")


def test_zero_losses(study: Callable[..., dict[str, Any]]) -> None:
    some = study(lambda params, lift: 1e-3 * (params / 200) ** -8 if lift < 128 else 0.0)
    assert some["verdict"] == "falls"
    assert said(some, "At lifts 128, 256, 512 the median loss is as small as the arithmetic resolves")
    every = study(lambda params, lift: 0.0)
    assert every["verdict"] == "inconclusive"
    assert said(every, "as small as the arithmetic can resolve")


def test_a_floor_at_the_resolution_is_no_plateau(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(
        lambda params, lift: max(1e-3 * (params / 200) ** -12, 1e-13),
        noise=0.1,
        change=lambda lift, seed: {"resolution": 1e-12},
    )
    assert verdict["verdict"] == "falls"


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


def test_a_held_out_loss_that_is_not_finite_is_the_worst(study: Callable[..., dict[str, Any]]) -> None:
    verdict = study(falling, change=lambda lift, seed: {"test_loss": None} if lift == 512 else {})
    assert verdict["verdict"] == "rises"
    assert math.isfinite(verdict["fit"]["exponent"])
