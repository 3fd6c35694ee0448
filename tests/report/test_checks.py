"""What the report says and draws of first steps and tangent kernels, on tables whose laws are known."""

import io
import math
from pathlib import Path
from typing import Any

import fake_diagnostics
import matplotlib.image
import numpy as np
import pytest
from fake_diagnostics import EXPONENTS
from fake_study import make_study

from rsl_cli.report import canvas, write_report
from rsl_cli.report.canvas import Drawing
from rsl_cli.report.checks import check_reasons, coordinate_slopes, kernels, passes, spectra_of
from rsl_cli.report.diagnostics import DiagnosticTables, Rows, read_diagnostics
from rsl_cli.report.evidence import Evidence
from rsl_cli.report.figures import drawings
from rsl_cli.report.read import read_runs
from rsl_cli.study.store import StudyStore

LIFTS = (8, 16, 32)


def make(root: Path, **changes: Any) -> StudyStore:
    return make_study(
        root, lambda params, lift: 50 / params, flow=True, measured=True, **{"lifts": LIFTS, "seeds": 4, **changes}
    )


def tables(store: StudyStore) -> DiagnosticTables:
    return read_diagnostics(store, read_runs(store))


def drawings_of(store: StudyStore, found: DiagnosticTables) -> dict[str, Drawing]:
    made = drawings(Evidence(store, read_runs(store), {}, diagnostics=found))
    return {name: made[name] for name in ("coordinates", "ntk") if name in made}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    return make(tmp_path_factory.mktemp("results") / "flow")


def test_slopes_are_those_of_the_tables(store: StudyStore) -> None:
    slopes = {(one.vertex, one.measure): one for one in coordinate_slopes(tables(store).coordinates)}
    assert set(slopes) == set(EXPONENTS)
    for key, exponent in EXPONENTS.items():
        assert slopes[key].exponent == pytest.approx(exponent, abs=0.06)
        assert slopes[key].low < slopes[key].exponent < slopes[key].high
    said = {key: one.says for key, one in slopes.items()}
    assert said == {("h1", "size"): "steady", ("h1", "change"): "shrinks", ("y", "change"): "grows"}
    assert passes(list(slopes.values())) == "fail"
    assert passes([slopes["h1", "size"]]) == "pass"


def test_the_interval_is_over_seeds() -> None:
    lifts, seeds = np.repeat([4.0, 16.0], 3), np.tile([0.0, 1.0, 2.0], 2)
    own = np.array([0.1, 0.2, 0.6])
    rows = Rows(
        {
            "vertex": np.full(6, "h"),
            "step": np.zeros(6),
            "size": lifts ** own[seeds.astype(int)],
            "change": np.zeros(6),
            "lift": lifts,
            "seed": seeds,
        }
    )
    (slope,) = coordinate_slopes(rows)
    # Student's t with two degrees of freedom: 4.3027 standard errors.
    half = 4.30265 * own.std(ddof=1) / math.sqrt(3)
    assert (slope.exponent, slope.low, slope.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half), rel=1e-4)
    assert slope.says == "undecided" and passes([slope]) == "undecided"
    (alone,) = coordinate_slopes(rows.where(rows["seed"] == 0))
    assert alone.says == "undecided" and math.isinf(alone.high)
    assert coordinate_slopes(rows.where(rows["lift"] == 4)) == []


def test_kernels_are_medians_at_both_ends(store: StudyStore) -> None:
    found = {(one.lift, one.place): one for one in kernels(tables(store).ntk)}
    assert set(found) == {(lift, place) for lift in LIFTS for place in ("start", "end")}
    start, end = found[16, "start"], found[16, "end"]
    assert (start.loss, start.alignment, end.alignment) == (fake_diagnostics.LOSS0, 0.01, 0.2)
    assert end.loss == pytest.approx(1e-3 / 16)
    # Of n / rank^2, the sum is n pi^2 / 6 and that of squares n^2 pi^4 / 90, but for their tails.
    assert start.trace == pytest.approx(16 * math.pi**2 / 6, rel=0.02)
    assert start.effective_rank == pytest.approx(2.5, rel=0.05)


def test_spectra_are_drawn_where_all_seeds_have_a_rank(store: StudyStore) -> None:
    start = spectra_of(tables(store).ntk)["start"]
    ranks = {lift: set(part["rank"].tolist()) for lift, part in start.by("lift").items()}
    assert ranks[8] == {1, 2, 4, 8, 16, 32} and 33 not in ranks[8]


def test_the_report_says_and_draws_both(store: StudyStore) -> None:
    verdict = write_report(store, formats=("png",))
    assert verdict["coordinates"]["says"] == "fail"
    assert verdict["coordinates"]["slopes"]["y change"][3] == "grows"
    assert verdict["ntk"]["32 end"]["alignment"] == 0.2
    told = " ".join(verdict["reasons"])
    assert "The coordinate check fails (steady: exponents within 0.25 of 0): change at h1 n^-0.5" in told
    assert "n = 8: effective rank" in told and "alignment 0.01 to 0.2" in told
    page = (store.report_dir / "index.html").read_text()
    assert {path.name for path in store.report_dir.glob("*.png")} >= {"coordinates.png", "ntk.png"}
    for name in ("coordinates", "ntk"):
        assert f'data-chart="{name}"' in page


@pytest.mark.drawn
def test_both_are_drawn_inside_their_figures(store: StudyStore) -> None:
    for drawing in drawings_of(store, tables(store)).values():
        image = matplotlib.image.imread(io.BytesIO(canvas.render(drawing, ["png"])["png"]))
        assert np.all(image[[0, -1]] == 1) and np.all(image[:, [0, -1]] == 1)


@pytest.mark.drawn
def test_one_lift_and_one_seed_are_drawn_too(tmp_path: Path) -> None:
    store = make(tmp_path / "s", lifts=(8,), seeds=1)
    drawn = drawings_of(store, tables(store))
    assert set(drawn) == {"coordinates", "ntk"}
    for drawing in drawn.values():
        assert matplotlib.image.imread(io.BytesIO(canvas.render(drawing, ["png"])["png"])).size
    reasons = check_reasons(tables(store).coordinates, tables(store).ntk)
    assert len(reasons) == 1 and reasons[0].count("n = 8") == 1
    assert check_reasons(Rows(), Rows()) == [] and drawings_of(store, DiagnosticTables()) == {}
