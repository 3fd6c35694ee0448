"""Going on until the verdict is decided: what is done next, and that the study is what its grid would have made."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_study import make_study

from rsl_cli import adaptive
from rsl_cli.adaptive import Round, next_round, run_until, until_of
from rsl_cli.errors import ConfigError
from rsl_cli.report.judgement import judge_views
from rsl_cli.report.read import read_runs
from rsl_cli.report.verdict import give_verdict
from rsl_cli.study.api import run_study
from rsl_cli.study.files import write_json
from rsl_cli.study.store import StudyStore


def following(store: StudyStore, **config: Any) -> Round | str:
    runs = read_runs(store)
    plan = store.read_study()["plan"]
    return next_round({"lift": plan["lifts"], "seeds": plan["seeds"], **config}, runs, judge_views(runs).headline)


def falling(params: int, lift: int) -> float:
    return 50 / params**1.1


def test_words() -> None:
    assert until_of(None, None) is None
    assert until_of("verdict", "15m") == 900
    assert until_of("verdict", "1.5h") == 5400
    assert until_of("verdict", None) == until_of("verdict", "none") == float("inf")
    for until, budget in (("maybe", None), ("verdict", "soon"), ("verdict", "0m"), ("verdict", 15), (None, "15m")):
        with pytest.raises(ConfigError, match=r"accepted|add until=verdict"):
            until_of(until, budget)


def test_open_lifts_are_carried_further(tmp_path: Path) -> None:
    store = make_study(
        tmp_path / "s",
        lambda params, lift: 1e-2 / lift,
        flow=True,
        change=lambda lift, seed: {"stop_reason": "time"},
        noise=0.05,
    )
    step = following(store)
    assert isinstance(step, Round)
    assert set(step.changes) == {"horizons"}
    assert all(1e6 < horizon["t_end"] <= 1e8 * 1.001 for horizon in step.changes["horizons"].values())
    assert "to t = 1e+0" in step.why


def test_steps_at_a_constant_rate_are_a_clock(tmp_path: Path) -> None:
    def change(lift: int, seed: int) -> dict[str, Any]:
        return {"stop_reason": "budget" if lift >= 256 else "stationary", "trainer": "gd"}

    store = make_study(tmp_path / "s", falling, change=change, noise=0.05)
    study = store.read_study()
    study["config"]["trainer"] = {"name": "gd", "schedule": "constant"}
    write_json(store.study_file, study | {"line": ["trainer=gd"], "carried": {"steps": 1000}})
    step = following(store)
    assert isinstance(step, Round)
    assert step.changes["horizons"]["256"]["steps"] in range(10_000, 100_001)
    assert step.why.startswith("lift 256 to ") and step.why.endswith(" steps")
    runs = read_runs(store)
    verdict = give_verdict(runs, judge_views(runs), 0.1)
    (told,) = [reason for reason in verdict["reasons"] if "rsl run" in reason]
    assert f"the decision at {verdict['outlook']['time']:.0f} steps, in about" in told
    assert told.endswith(f": rsl run trainer=gd trainer.steps={verdict['outlook']['time']:.0f}")


def test_scatter_asks_for_seeds(tmp_path: Path) -> None:
    step = following(make_study(tmp_path / "s", falling, noise=1.0, trajectories=False))
    assert isinstance(step, Round)
    assert step.changes["seeds"][:5] == [0, 1, 2, 3, 4]
    assert 5 < len(step.changes["seeds"]) <= 20


def test_too_few_lifts_ask_for_larger_ones_while_there_is_room(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", falling, lifts=(16, 32), trajectories=False)
    assert following(store) == Round({"lift": [16, 32, 64]}, "lifts 64, for a trend over more of them")
    crowded = make_study(tmp_path / "c", falling, lifts=(16, 32, 64), samples=500, trajectories=False)
    step = following(crowded)
    assert isinstance(step, Round)
    assert step.changes["lift"] == [16, 23, 32, 64]


def test_where_parameters_reach_the_samples_more_are_drawn_in_a_study_of_their_own(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", falling, lifts=(16, 32), samples=100, trajectories=False)
    drawn = {"name": "sine2d", "samples": 100, "seed": 3}
    assert following(store, dataset=drawn) == Round(
        {"dataset": {**drawn, "samples": 400}},
        "400 samples in a study of their own, since P reaches the 100 of this one",
    )
    named = following(store, dataset=drawn, study="mine_samples100")
    assert isinstance(named, Round)
    assert named.changes["study"] == "mine_samples400"
    read = following(store, dataset={"name": "digits", "samples": None})
    assert isinstance(read, str) and "as many parameters as there are samples" in read


def test_rounds_go_on_in_the_study_with_more_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    # One round is enough to see where it goes on.
    monkeypatch.setattr(adaptive, "next_round", lambda *known: "enough" if said else next_round(*known))
    config = CONFIG | {"lift": [8, 12, 16], "seeds": 3, "results_dir": str(tmp_path)}
    config |= {"dataset": {"name": "sine2d", "samples": 24, "test_samples": 32}, "study": "few"}
    config["trainer"] = {"name": "flow", "t_end": 1.0}
    outcome = run_until(config, float("inf"), say=said.append)
    assert any("96 samples in a study of their own" in line for line in said)
    assert outcome.store.name == "few_samples96"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few", "few_samples96"]
    samples = [StudyStore(tmp_path / name).read_study()["plan"]["samples"] for name in ("few", "few_samples96")]
    assert samples == [24, 96]


def test_a_schedule_cannot_be_carried_on(tmp_path: Path) -> None:
    stopped = {"stop_reason": "budget"}
    store = make_study(tmp_path / "s", falling, trajectories=False, change=lambda lift, seed: stopped)
    step = following(store)
    assert isinstance(step, str)
    assert "trainer=flow" in step


CONFIG: dict[str, Any] = {
    "base": {
        "name": "tiny",
        "vertices": {"x": {"kind": "input"}, "h": {"kind": "hidden", "activation": "tanh"}, "y": {"kind": "output"}},
        "edges": [
            {"source": "x", "target": "h", "map": "linear"},
            {"source": "h", "target": "y", "map": "scale", "init": {"kind": "zeros"}},
        ],
    },
    "lifting": {"kind": "random", "in_degree": 2},
    "dataset": {"name": "sine2d", "samples": 64, "test_samples": 32},
    "trainer": {"name": "flow", "t_end": 10.0},
    "executor": {"name": "local"},
    "lift": [2, 3, 4],
    "seeds": 3,
    "study": "rounds",
}


@pytest.mark.slow
def test_rounds_end_where_the_grid_asked_for_outright_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    steps = iter(
        [Round({"horizons": {"2": {"t_end": 100.0}}}, "time"), Round({"seeds": [0, 1, 2, 3]}, "seeds"), "enough"]
    )
    monkeypatch.setattr(adaptive, "next_round", lambda *_: next(steps))
    outcome = run_until({**CONFIG, "results_dir": str(tmp_path / "a")}, 1e9, say=said.append)
    assert [line.partition(":")[0] for line in said][-1] == "nothing more can be tried"
    outright = {**CONFIG, "results_dir": str(tmp_path / "b"), "seeds": 4, "horizons": {"2": {"t_end": 100.0}}}
    whole = run_study(outright).store
    ours, theirs = outcome.store.read_study(), whole.read_study()
    assert ours["plan"] == theirs["plan"]
    assert ours["identity"] == theirs["identity"]
    for key in whole.planned():
        ours_at, theirs_at = outcome.store.trajectory(key), whole.trajectory(key)
        pd.testing.assert_frame_equal(ours_at, theirs_at, check_exact=True)


def test_the_same_line_begins_where_the_study_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**CONFIG, "results_dir": str(tmp_path)}
    steps = iter([Round({"seeds": [0, 1, 2, 3]}, "seeds"), "enough", "enough"])
    monkeypatch.setattr(adaptive, "next_round", lambda *_: next(steps))
    run_until(config, 1e9, say=lambda _: None)
    again = run_until(config, 1e9, say=lambda _: None)
    assert again.done == 0
    assert again.store.read_study()["plan"]["seeds"] == [0, 1, 2, 3]


def test_a_spent_budget_keeps_what_is_done(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = run_until({**CONFIG, "results_dir": str(tmp_path)}, 1e-9, say=said.append)
    assert "budget is spent" in said[-1]
    assert outcome.store.root == tmp_path / "rounds"
