"""Flow, Levenberg-Marquardt and the theory's tables through a whole study."""

import json

import numpy as np
import pandas as pd
import problems
import pytest

from rsl_cli import load_study
from rsl_cli.errors import ConfigError
from rsl_cli.report import write_report
from rsl_cli.study.api import Outcome, run_study
from rsl_cli.study.spec import StudySpec

FLOW = problems.group("trainer", "flow", t_end=100.0)
TEACHER = problems.group("dataset", "teacher", samples=200, test_samples=40, degree=2)


def study(tmp_path, **changes):
    config = problems.study(results_dir=str(tmp_path), trainer=FLOW, seeds=2, theory=problems.group("theory", "path"))
    return config | changes


def tables(outcome, name):
    found = (outcome.store.table(key, name) for key in outcome.store.planned())
    return [table for table in found if table is not None]


def test_a_flow_study_checks_the_inequality_along_every_flow(tmp_path):
    outcome = run_study(study(tmp_path))
    assert (outcome.done, outcome.failed) == (6, [])
    for table in tables(outcome, "tangent"):
        assert table["place"].unique().tolist() == ["start", "path"]
        assert table.query("place == 'path'")["time"].drop_duplicates().tolist() == [1.0, 10.0, 100.0]
    verdict = write_report(outcome.store, formats=["png"])
    inequality = verdict["kurdyka_lojasiewicz"]
    assert inequality["checked"] > 20
    assert inequality["violations"] == 0
    assert inequality["least_slack"] >= 1 - 1e-9
    assert {"bound.png", "decay.png", "length.png", "kappa.png"} <= {p.name for p in outcome.store.report_dir.iterdir()}
    record = load_study(outcome.store.root).runs.iloc[0]
    assert (record["stop_reason"], record["flow_time"]) == ("time", 100.0)


def test_the_measured_loss_stays_below_the_bound_of_the_largest_kappa_on_the_way(tmp_path):
    from rsl_cli.diagnostics.bound import loss_bound

    outcome = run_study(study(tmp_path, lift=[4]))
    for key in outcome.store.planned():
        path, tangent = outcome.store.trajectory(key), outcome.store.table(key, "tangent")
        assert tangent is not None
        for epsilon, rows in tangent[tangent["epsilon"] < path["loss"].iloc[-1]].groupby("epsilon"):
            kappa = rows["kappa"].max()
            if np.isfinite(kappa):
                bound = loss_bound(path["loss"].iloc[0], float(epsilon), kappa, path["time"].to_numpy())
                # Sampled once a decade, so the largest kappa on the way may be missed by a little.
                assert (path["loss"].to_numpy() <= 1.05 * bound).all()


def test_coverage_and_the_ball_are_measured_where_asked_for(tmp_path):
    diagnostics = problems.group("theory", "tangent")
    diagnostics["tangent"] |= {"probes": 2}
    config = study(tmp_path, dataset=TEACHER, theory=diagnostics | {"coverage": [0.5, 2.0]}, lift=[2, 4, 8])
    outcome = run_study(config)
    assert all(set(table["eta"]) == {0.5, 2.0} for table in tables(outcome, "coverage"))
    assert all((table["place"] == "ball").sum() == 2 * 6 for table in tables(outcome, "tangent"))
    verdict = json.loads(json.dumps(write_report(outcome.store, formats=["png"])))
    assert {"coverage", "inside", "tangent"} <= verdict.keys()
    assert verdict["witness_degree"] == 2


@pytest.mark.parametrize("name", ["ntk", "coordinates"])
@pytest.mark.parametrize("trainer", ["adam", "flow"])
def test_first_steps_and_kernels_are_measured_on_any_study(tmp_path, name, trainer):
    settings = FLOW if trainer == "flow" else problems.group("trainer", "adam", steps=20)
    config = study(tmp_path, trainer=settings, theory=problems.group("theory", name), parametrization="mup")
    outcome = run_study(config)
    assert len(tables(outcome, name)) == 6 and tables(outcome, "tangent") == []
    if name == "ntk":
        times = tables(outcome, name)[0]["time"].drop_duplicates().tolist()
        assert times[0] == 0 and (times[1:] == [1.0, 10.0, 100.0] if trainer == "flow" else np.isnan(times[1]))
    verdict = write_report(outcome.store, formats=["png"])
    assert name in verdict and (outcome.store.report_dir / f"{name}.png").exists()


PATH = """
import pandas as pd
import torch
from rsl_cli import along_path

@along_path(number="point")
def {name}(run):
    rows = [(i, p.{column}, float(p.parameters.norm())) for i, p in enumerate(run.result.path)]
    return pd.DataFrame(rows, columns=["point", "{column}", "norm"])
"""


def test_a_probe_along_the_path_keeps_what_it_measured_before_training_began_anew(tmp_path, monkeypatch):
    (tmp_path / "own_path.py").write_text(PATH.format(name="norms", column="time"))
    monkeypatch.syspath_prepend(tmp_path)
    theory = {"probes": ["own_path.norms", "ntk"]}
    first = run_study(study(tmp_path, lift=[2, 4], seeds=1, theory=theory, trainer=FLOW | {"t_end": 30.0})).store
    before = tables(Outcome(first), "norms"), tables(Outcome(first), "ntk")
    for key in first.planned():
        first.resume_file(key).unlink()
    whole = run_study(study(tmp_path / "whole", lift=[2, 4], seeds=1, theory=theory, trainer=FLOW | {"t_end": 1e3}))
    again = run_study(study(tmp_path, lift=[2, 4], seeds=1, theory=theory, trainer=FLOW | {"t_end": 1e3}))
    assert again.done == 2 and {record.restarted_at for record in again.store.records()} == {30.0}
    for name, old in zip(("norms", "ntk"), before, strict=True):
        for table, earlier, wanted in zip(tables(again, name), old, tables(whole, name), strict=True):
            times = table["time"].drop_duplicates().tolist()
            # A run that goes on from its own state has no point at its end before.
            assert [at for at in times if at != 30.0] == wanted["time"].drop_duplicates().tolist() and 30.0 in times
            pd.testing.assert_frame_equal(table[table["time"] <= 30.0].reset_index(drop=True), earlier)
    assert all(table["point"].tolist() == list(range(len(table))) for table in tables(again, "norms"))


def test_a_probe_along_the_path_without_its_time_is_refused(tmp_path, monkeypatch):
    (tmp_path / "own_steps.py").write_text(PATH.format(name="timeless", column="step"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"probe own_steps.timeless: says along_path, and its table has no column"):
        StudySpec.from_config(study(tmp_path, lift=2, theory={"probes": ["own_steps.timeless"]}))


def test_every_run_records_how_far_its_weights_law_moved(tmp_path):
    outcome = run_study(study(tmp_path, trainer=problems.group("trainer", "adam", steps=20)))
    assert tables(outcome, "tangent") == []
    drift = pd.concat(tables(outcome, "drift"))
    assert (drift["moved"].dropna() > 0).all()


def test_lm_ends_by_name_and_the_report_says_it_is_no_flow(tmp_path):
    outcome = run_study(study(tmp_path, trainer=problems.group("trainer", "lm", max_steps=10), seeds=3))
    assert load_study(outcome.store.root).runs["stop_reason"].isin(["budget", "stationary"]).all()
    assert "not the flow's path" in " ".join(write_report(outcome.store, formats=["png"])["reasons"])


def test_parametrization_follows_the_trainer_unless_named():
    flow = StudySpec.from_config(problems.study(trainer=FLOW)).identity["parametrization"]
    adam = StudySpec.from_config(problems.study()).identity["parametrization"]
    named = StudySpec.from_config(problems.study(trainer=FLOW, parametrization="ntk")).identity["parametrization"]
    assert (flow, adam, named) == ("standard", "mup", "ntk")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theory": {"coverage": [0.5]}}, "theory.coverage needs a planted witness, dataset 'sine2d' has none"),
        ({"theory": {"coverage": ["near"]}, "dataset": TEACHER}, "theory.coverage=.'near'.; accepted: null or a list"),
        ({"theory": {"kappa": 1}}, "theory key 'kappa' is not known; accepted: name, tangent, coverage"),
        (
            {"theory": {"tangent": {"probes": 1}}, "dataset": problems.group("dataset", "spirals")},
            "theory.tangent is defined for loss=mse, not cross_entropy",
        ),
        ({"trainer": {"name": "flows"}}, "trainer.name 'flows' is not known; accepted: flow, lm, adam"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_line(changes, message):
    with pytest.raises(ConfigError, match=message):
        StudySpec.from_config(problems.study(**changes))
