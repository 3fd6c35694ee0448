"""What the report says and draws of tangent approximation, covering and drift, on tables whose laws are known."""

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_diagnostics
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from fake_diagnostics import EPSILONS, PROBES, SLACK
from fake_study import Tables, key_of, make_study

from rsl_cli.cli import main
from rsl_cli.report import canvas, summary_text, write_report
from rsl_cli.report.canvas import Drawing
from rsl_cli.report.diagnostics import Rows, read_diagnostics
from rsl_cli.report.evidence import Evidence
from rsl_cli.report.figures import drawings
from rsl_cli.report.judgement import judge_views
from rsl_cli.report.read import read_runs
from rsl_cli.report.tangent import check_inequality, flow_curves, inside_shares, kappa_at_start, telling_epsilon
from rsl_cli.report.verdict import give_verdict
from rsl_cli.stats import clopper_pearson
from rsl_cli.study.files import read_json
from rsl_cli.study.store import StudyStore

LIFTS = (8, 16, 32, 64, 128)
DIAGNOSTICS = ("bound", "length", "kappa", "inside", "coverage", "drift")
Edit = Callable[[Tables], Tables]


def falling(params: int, lift: int) -> float:
    return 50 / params**1.1


def measured(root: Path, edit: Edit | None = None, at: tuple[int, int] | None = None, **changes: Any) -> StudyStore:
    """A measured flow study; ``edit`` changes the tables of one run, or of all."""

    def chosen(lift: int, seed: int, tables: Tables) -> Tables:
        return edit(tables) if edit is not None and at in (None, (lift, seed)) else tables

    return make_study(root, falling, flow=True, measured=True, edit=chosen, **{"lifts": LIFTS, "seeds": 4, **changes})


def without(*names: str) -> Edit:
    return lambda tables: {name: table for name, table in tables.items() if name not in names}


def verdict_of(store: StudyStore) -> dict[str, Any]:
    runs = read_runs(store)
    return give_verdict(runs, judge_views(runs), 0.1, read_diagnostics(store, runs))


def drawings_of(store: StudyStore) -> dict[str, Drawing]:
    """The figures of training and of theory, not yet drawn."""
    runs = read_runs(store)
    made = drawings(Evidence(store, runs, {}, diagnostics=read_diagnostics(store, runs)))
    return {name: made[name] for name in ("trajectories", "decay", *DIAGNOSTICS) if name in made}


def draw(store: StudyStore) -> set[str]:
    """Draw the figures, and return their names."""
    found = drawings_of(store)
    for name, drawing in found.items():
        image = matplotlib.image.imread(io.BytesIO(canvas.render(drawing, ["png"])["png"]), format="png")
        # Ink at the rim would be text that the edge cuts off.
        assert np.all(image[[0, -1]] == 1), name
        assert np.all(image[:, [0, -1]] == 1), name
    return set(found)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    return measured(tmp_path_factory.mktemp("results") / "flow")


@pytest.mark.slow
@pytest.mark.drawn
def test_the_report_of_a_measured_study(store: StudyStore) -> None:
    verdict = write_report(store, formats=("png",))
    folder = store.report_dir
    assert {path.stem for path in folder.glob("*.png")} >= {*DIAGNOSTICS, "decay"}
    assert read_json(folder / "verdict.json") == verdict
    page = (folder / "index.html").read_text()
    for figure in (*DIAGNOSTICS, "decay"):
        assert f'data-chart="{figure}"' in page
    assert "an upper estimate" in page
    assert "Kurdyka-Lojasiewicz inequality was checked" in summary_text(store, verdict)


def test_every_figure_needs_its_data(tmp_path: Path) -> None:
    plain = make_study(tmp_path / "plain", falling, lifts=LIFTS, seeds=2)
    assert not {*DIAGNOSTICS, "decay"} & set(drawings_of(plain))
    assert not {"tangent", "inside", "kurdyka_lojasiewicz", "coverage"} & set(verdict_of(plain))
    flow = measured(tmp_path / "flow", without("tangent", "coverage"), seeds=2)
    assert {*DIAGNOSTICS, "decay"} & set(drawings_of(flow)) == {"decay", "drift"}

    def no_time(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        return {name: table.assign(time=math.nan) if "time" in table else table for name, table in tables.items()}

    steps = measured(tmp_path / "lm", no_time, seeds=2, change=lambda lift, seed: {"flow_time": None, "trainer": "lm"})
    assert {*DIAGNOSTICS, "decay"} & set(drawings_of(steps)) == {"kappa", "inside", "coverage", "drift"}
    assert verdict_of(steps)["kurdyka_lojasiewicz"]["violations"] == 0


@pytest.mark.slow
@pytest.mark.drawn
def test_tables_that_only_some_runs_have(tmp_path: Path) -> None:
    store = measured(tmp_path / "s", without("tangent", "coverage", "drift"), at=(64, 1), failed=[(8, 0)])
    assert draw(store) >= set(DIAGNOSTICS)
    assert verdict_of(store)["inside"]["1e-01"]["inf"]["64"][1] == 3
    assert not any("cannot be read" in reason for reason in verdict_of(store)["reasons"])


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    store = measured(tmp_path / "s", lambda tables: {**tables, "drift": tables["drift"][["group"]]}, at=(16, 1))
    (store.run_dir(key_of(8, 2)) / "tangent.parquet").write_bytes(b"half a file")
    reason = next(reason for reason in verdict_of(store)["reasons"] if "cannot be read" in reason)
    assert reason.startswith("Left out, since they cannot be read: n00016-s001 drift.")
    assert set(drawings_of(store)) >= set(DIAGNOSTICS)


def test_kappa_at_the_start(store: StudyStore) -> None:
    tangent = read_diagnostics(store, read_runs(store)).tangent
    found = kappa_at_start(tangent)
    assert list(found) == list(EPSILONS)
    content = verdict_of(store)["tangent"]
    assert list(content) == ["1e-01", "1e-02", "1e-03", "1e-04", "1e-05", "1e-06"]
    expected = [fake_diagnostics.kappa(32, seed, fake_diagnostics.LOSS0, 1e-2) for seed in range(4)]
    assert content["1e-02"]["32"]["median"] == pytest.approx(np.median(expected))
    assert content["1e-02"]["32"]["low"] == pytest.approx(np.quantile(expected, 0.25))
    assert content["1e-02"]["32"]["high"] == pytest.approx(np.quantile(expected, 0.75))
    assert content["1e-06"]["8"] == {"median": None, "low": None, "high": None}


def test_half_of_the_seeds_out_of_reach(tmp_path: Path) -> None:
    def unreachable(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        return {**tables, "tangent": tables["tangent"].assign(kappa=math.inf)}

    content = verdict_of(measured(tmp_path / "s", unreachable, at=(128, 0)))["tangent"]["1e-01"]["128"]
    assert content["high"] is None
    assert content["median"] is not None


def test_the_inequality_holds_with_the_planted_slack(store: StudyStore) -> None:
    verdict, tangent = verdict_of(store), read_diagnostics(store, read_runs(store)).tangent
    rows = tangent.where((tangent["place"] != "ball") & np.isfinite(tangent["kappa"]) & (tangent["kappa"] > 0))
    content = verdict["kurdyka_lojasiewicz"]
    assert content["checked"] == len(rows)
    assert content["violations"] == 0
    assert content["least_slack"] == pytest.approx(SLACK)
    points = len({*zip(rows["run"], rows["place"], rows["probe"], strict=True)})
    sentence = f"The Kurdyka-Lojasiewicz inequality was checked at {points} points of training"
    assert any(sentence in reason and "with 0 violations" in reason for reason in verdict["reasons"])


def test_a_planted_violation_is_counted_and_its_run_named(tmp_path: Path) -> None:
    def weak(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        rows = tables["tangent"]
        chosen = (rows["place"] == "path") & (rows["probe"] == 2) & (rows["epsilon"] == 1e-3)
        assert chosen.sum() == 1
        # A smaller kappa than the true one is what an error would look like.
        return {**tables, "tangent": rows.assign(kappa=rows["kappa"].where(~chosen, rows["kappa"] / 4))}

    verdict = verdict_of(measured(tmp_path / "s", weak, at=(64, 2)))
    assert verdict["kurdyka_lojasiewicz"]["violations"] == 1
    assert verdict["kurdyka_lojasiewicz"]["least_slack"] == pytest.approx(SLACK / 2)
    assert any(
        "with 1 violation;" in reason and "The worst is in n00064-s002" in reason for reason in verdict["reasons"]
    )


@pytest.mark.slow
@pytest.mark.drawn
def test_nothing_to_check(tmp_path: Path) -> None:
    def unreachable(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        return {**tables, "tangent": tables["tangent"].assign(kappa=math.inf)}

    store = measured(tmp_path / "s", unreachable)
    verdict = verdict_of(store)
    assert verdict["kurdyka_lojasiewicz"] == {"checked": 0, "violations": 0, "least_slack": None}
    assert any("inequality could not be checked" in reason for reason in verdict["reasons"])
    assert set(verdict["inside"]["1e-01"]) == {"inf"}
    names = draw(store)
    assert names >= {"bound", "kappa", "inside"}
    assert "length" not in names


def ball(kappas: dict[tuple[int, int], list[float]], epsilon: float = 1e-2) -> Rows:
    """Rows of probes: (lift, seed) -> kappa of each."""
    rows = [(lift, seed, probe, value) for (lift, seed), row in kappas.items() for probe, value in enumerate(row)]
    lifts, seeds, probes, values = (np.array(column) for column in zip(*rows, strict=True))
    constant = {"epsilon": np.full(len(rows), epsilon), "place": np.full(len(rows), "ball")}
    return Rows({"lift": lifts, "seed": seeds, "probe": probes, "kappa": values, **constant})


def test_a_seed_is_inside_only_with_all_its_probes() -> None:
    rows = ball({(8, 0): [9.0, 30.0], (8, 1): [9.0, 11.0], (16, 0): [1.0, 2.0], (16, 1): [math.inf, 9.0]})
    shares = inside_shares(rows)[1e-2]
    assert list(shares) == [5.0, 10.0, math.inf]
    assert shares[10.0][8].seeds == clopper_pearson(0, 2)
    assert shares[10.0][8].probes == 0.5
    assert shares[10.0][16].seeds == clopper_pearson(1, 2)
    assert shares[10.0][16].probes == 0.75
    assert shares[math.inf][8].seeds == clopper_pearson(2, 2)
    assert shares[math.inf][16].seeds == clopper_pearson(1, 2)


def test_an_unknown_kappa_is_not_inside() -> None:
    shares = inside_shares(ball({(8, 0): [2.0, math.nan], (8, 1): [2.0, 2.0]}))[1e-2]
    assert shares[2.0][8].seeds == clopper_pearson(1, 2)


def test_the_telling_epsilon() -> None:
    dull = ball({(8, 0): [2.0], (16, 0): [2.0]}, 1e-1)
    bright = ball({(8, 0): [50.0], (16, 0): [2.0]}, 1e-2)
    merged = Rows({name: np.concatenate([dull[name], bright[name]]) for name in dull.columns})
    assert telling_epsilon(inside_shares(merged)) == 1e-2


def test_inside_in_the_verdict(store: StudyStore) -> None:
    content, tangent = verdict_of(store)["inside"], read_diagnostics(store, read_runs(store)).tangent
    for kappa, row in content["1e-02"].items():
        for lift, (successes, seeds, low, high) in row.items():
            chosen = (tangent["place"] == "ball") & (tangent["lift"] == int(lift)) & (tangent["epsilon"] == 1e-2)
            values = tangent.where(chosen)["kappa"].reshape(4, PROBES)
            inside = np.isfinite(values) & (values <= float(kappa))
            assert (successes, seeds) == (inside.all(axis=1).sum(), 4)
            assert low <= successes / seeds <= high


def test_coverage_in_the_verdict(store: StudyStore) -> None:
    content = verdict_of(store)["coverage"]
    assert list(content) == ["h1", "h2"]
    assert list(content["h1"]) == ["0.25", "0.5", "1"]
    expected = np.median(
        [
            fake_diagnostics.coverage(64, seed).set_index(["vertex", "eta"]).loc[("h2", 0.5), "share"]
            for seed in range(4)
        ]
    )
    assert content["h2"]["0.5"]["64"] == pytest.approx(expected)


def test_the_bounds_hold_on_the_known_flow_and_end_with_the_measurements(store: StudyStore) -> None:
    runs = read_runs(store)
    frames = runs.trajectories
    tangent = read_diagnostics(store, runs).tangent
    curves = flow_curves(runs, frames, tangent)
    assert len(curves) == len(runs.done)
    for curve in curves:
        assert (curve.loss <= curve.loss_bound * (1 + 1e-9)).all()
        assert (curve.distance <= curve.length_bound).all()
        assert curve.time[-1] == pytest.approx(fake_diagnostics.END)
    large = next(curve for curve in curves if curve.lift == 128)
    assert large.loss_bound[-1] < 1e-3 < fake_diagnostics.LOSS0
    early = flow_curves(runs, frames, tangent.where(~(tangent["time"] > 1e3)))
    assert all(curve.time[-1] <= 1e3 * (1 + 1e-9) for curve in early)
    assert flow_curves(runs, frames, tangent.where(tangent["place"] == "start")) == []


def test_epsilons_that_differ_in_their_last_bit_are_one_series(tmp_path: Path) -> None:
    def other(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        rows = tables["tangent"]
        return {**tables, "tangent": rows.assign(epsilon=np.nextafter(rows["epsilon"], 1))}

    store = measured(tmp_path / "s", other, at=(8, 1))
    tangent = read_diagnostics(store, read_runs(store)).tangent
    assert list(kappa_at_start(tangent)) == pytest.approx(EPSILONS)
    assert check_inequality(tangent).violations == 0


SIZES: dict[str, dict[str, Any]] = {
    "one run": {"lifts": (16,), "seeds": 1},
    "two lifts": {"lifts": (16, 64), "seeds": 2},
    "many lifts": {"lifts": (4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128), "seeds": 3},
}


@pytest.mark.slow
@pytest.mark.drawn
@pytest.mark.parametrize("size", SIZES)
def test_figures_at_several_sizes(size: str, tmp_path: Path) -> None:
    assert draw(measured(tmp_path / "a_study_with_a_rather_long_name_$x_0$", **SIZES[size])) >= set(DIAGNOSTICS)


@pytest.mark.drawn
def test_values_that_have_no_place_on_a_log_axis(tmp_path: Path) -> None:
    def zeros(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        changed = dict.fromkeys(("covering", "share", "ks", "wasserstein"), 0.0)
        return {
            "trajectory": tables["trajectory"],
            "tangent": tables["tangent"].assign(kappa=0.0),
            **{
                name: tables[name].assign(**{key: value for key, value in changed.items() if key in tables[name]})
                for name in ("coverage", "drift")
            },
        }

    assert draw(measured(tmp_path / "s", zeros)) >= {"kappa", "inside", "coverage", "drift"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_groups_without_weights_or_all_diverged_draw_no_drift(tmp_path: Path, value: float) -> None:
    store = make_study(tmp_path / "s", lambda params, lift: 1 / params, lifts=(16, 32), seeds=2, measured=True)
    for key in store.planned():
        record, drift = store.record(key), store.table(key, "drift")
        assert record is not None and drift is not None
        for column in ("std_end", "ks", "wasserstein", "moved"):
            drift[column] = value
        store.run_dir(key).joinpath("record.json").unlink()
        store.write_run(key, record, {"trajectory": store.trajectory(key), "drift": drift}, {})
    verdict = write_report(store, formats=("png",))
    assert verdict["verdict"] and not (store.report_dir / "drift.png").exists()


def test_a_report_names_the_runs_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_study(tmp_path / "s", lambda params, lift: 1 / params, lifts=(16, 32), seeds=2)
    key = store.planned()[0]
    path = store.run_dir(key) / "record.json"
    path.write_bytes(path.read_bytes().replace(b'"train_loss": 0', b'"train_loss": 7'))
    assert main(["report", str(store.root), "--format", "png"]) == 0
    out, err = capsys.readouterr()
    assert f"rsl: {path}: its content does not fit its digest; counts as missing" in err
    assert re.search(r"\b7\.\d+\b", out) is None
