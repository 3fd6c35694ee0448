"""The files of a report: columns, formats, page, figures of ordinary and of degenerate studies."""

import csv
import html.parser
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from fake_study import LIFTS, key_of, make_study, params_of
from matplotlib.layout_engine import ConstrainedLayoutEngine

import rsl_cli as rsl
from rsl_cli.errors import ConfigError, StoreError
from rsl_cli.report import canvas, summary_text, write_report
from rsl_cli.report.evidence import Evidence
from rsl_cli.report.figures import drawings
from rsl_cli.report.read import assemble, read_runs
from rsl_cli.report.tables import RUN_COLUMNS, runs_csv, summarise, summary_cells, summary_latex, summary_markdown
from rsl_cli.study.files import read_json, write_json
from rsl_cli.study.record import Record
from rsl_cli.study.store import RunKey, StudyStore

FIGURES = ("isochrones", "loss_vs_params", "loss_vs_lift", "trajectories", "success", "learning_number")
DIVERGED = {"train_loss": None, "test_loss": None, "stop_reason": "diverged"}


def falling(params: int, lift: int) -> float:
    return 50 / params**1.1


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyStore, dict[str, Any]]:
    store = make_study(
        tmp_path_factory.mktemp("results") / "mlp_<b>&$x$_adam",
        falling,
        lifts=(16, 32, 64, 128, 256),
        noise=0.1,
        samples=3000,
        failed=[(64, 1)],
        missing=[(32, 2)],
        change=lambda lift, seed: {"stop_reason": "budget", "log_slope": -0.2} if (lift, seed) == (16, 0) else {},
    )
    return store, write_report(store)


def test_every_file_is_there(reported: tuple[StudyStore, dict[str, Any]]) -> None:
    names = {path.name for path in reported[0].report_dir.iterdir()}
    figures = {f"{name}.{form}" for name in FIGURES for form in ("png", "pdf")}
    tables = {"runs.csv", *(f"summary.{form}" for form in ("csv", "md", "tex", "txt"))}
    assert names == figures | tables | {"verdict.json", "digests.json", "index.html"}


def test_runs_csv(reported: tuple[StudyStore, dict[str, Any]]) -> None:
    rows = list(csv.DictReader(io.StringIO((reported[0].report_dir / "runs.csv").read_text())))
    assert tuple(rows[0]) == RUN_COLUMNS
    assert ",".join(RUN_COLUMNS) == (
        "run_id,base,dataset,trainer,lifting,in_degree,lift,seed,params,samples,train_loss,test_loss,loss_std,accuracy,"
        "flow_time,steps,grad_norm,distance,stop_reason,wall_seconds,status,limit_low,limit_high"
    )
    assert len(rows) == 24
    assert [row["status"] for row in rows].count("failed") == 1
    record = reported[0].record(key_of(16, 0))
    assert record is not None
    assert float(rows[0]["train_loss"]) == record.train_loss
    assert rows[0]["params"] == "209"
    assert rows[0]["accuracy"] == ""


def test_summary(reported: tuple[StudyStore, dict[str, Any]]) -> None:
    frame = pd.read_csv(reported[0].report_dir / "summary.csv").set_index("lift")
    counts = frame[["done", "diverged", "failed", "missing"]]
    assert (counts.sum(axis=1) == 5).all()
    assert frame.loc[64, "failed"] == 1
    assert frame.loc[32, "missing"] == 1
    assert frame.loc[16, "under_trained"] == 1
    assert list(frame.index[frame["overparametrised"] == "yes"]) == [256]
    losses = [record.test_loss for record in reported[0].records() if record.lift == 128]
    assert frame.loc[128, "test_median"] == pytest.approx(np.median(losses))
    assert frame.loc[128, "test_q3"] == pytest.approx(np.quantile(losses, 0.75))


def test_verdict_json_is_what_was_returned(reported: tuple[StudyStore, dict[str, Any]]) -> None:
    content = read_json(reported[0].report_dir / "verdict.json")
    assert content == reported[1]
    assert list(content)[:3] == ["verdict", "headline", "reasons"]


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_from_elsewhere(reported: tuple[StudyStore, dict[str, Any]]) -> None:
    folder = reported[0].report_dir
    text = (folder / "index.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.links == []
    assert all(f"<code>{path.name}</code>" in text for path in folder.glob("*.p*"))
    assert "mlp_<b>" not in text
    assert "mlp_&lt;b&gt;" in text
    assert "trainer.lr" in text
    assert "&lt;any&gt;" in text


@pytest.mark.drawn
def test_equal_runs_give_equal_files(reported: tuple[StudyStore, dict[str, Any]]) -> None:
    store = reported[0]
    before = {path.name: path.read_bytes() for path in store.report_dir.iterdir()}
    write_report(store)
    assert {path.name: path.read_bytes() for path in store.report_dir.iterdir()} == before


def test_terminal_text(reported: tuple[StudyStore, dict[str, Any]]) -> None:
    text = summary_text(*reported)
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["lift", "seeds"]
    assert re.search(r"^ *64 +4/5 .* 1 failed$", text, re.MULTILINE)
    assert "overparametrised" in text
    assert any(line.startswith("VERDICT: FALLS") for line in lines)
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)


def test_formats_and_delta_are_checked(reported: tuple[StudyStore, dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"figure format 'pgn' is not known; accepted: png, pdf, svg; did you mean"):
        write_report(reported[0], formats=("pgn",))
    with pytest.raises(ConfigError, match=r"delta is 1\.5, expected a probability"):
        write_report(reported[0], delta=1.5)


def test_judge_reads_and_writes_nothing(reported: tuple[StudyStore, dict[str, Any]]) -> None:
    store, verdict = reported
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    found = rsl.judge(store.root)
    assert (found.verdict, found.headline, list(found.reasons)) == (
        verdict["verdict"],
        verdict["headline"],
        verdict["reasons"],
    )
    assert found.content == verdict
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
    with pytest.raises(StoreError, match="no study at"):
        rsl.judge(store.root / "nowhere")


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no study at"):
        write_report(StudyStore(tmp_path))


def test_accuracy_is_shown_for_classification(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", falling, lifts=(16, 32), classification=True, trajectories=False)
    headers, lines = summary_cells(summarise(read_runs(store)))
    assert float(lines[0][headers.index("accuracy")]) == pytest.approx(0.81, abs=0.05)
    assert read_runs(store).loss_unit == "cross-entropy, nats"


def test_columns_without_a_value_are_left_out(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", falling, lifts=(16, 32), held_out=False, trajectories=False)
    rows = summarise(read_runs(store))
    headers, _ = summary_cells(rows)
    assert headers == ["lift", "seeds", "parameters P", "P / (N k)", "training loss", "training quartiles", "limit"]
    table = summary_markdown(rows).splitlines()
    assert table[1] == "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert len(table) == 4
    assert summary_latex(rows).startswith(r"\begin{tabular}{rrrrrrr}")


def test_half_diverged_medians_are_infinite(tmp_path: Path) -> None:
    store = make_study(
        tmp_path / "s",
        falling,
        lifts=(16, 32),
        seeds=4,
        trajectories=False,
        change=lambda lift, seed: DIVERGED if lift == 32 and seed < 2 else {},
    )
    row = summarise(read_runs(store))[1]
    assert (row.done, row.diverged) == (2, 2)
    assert row.train_median == np.inf
    assert row.train_q1 < 1
    assert summary_cells([row])[1][0][-1] == "2 diverged"


def test_failed_records_leave_empty_cells() -> None:
    record = Record(run_id="a", lift=4, seed=0, status="failed")
    text = runs_csv(assemble("s", {}, [(RunKey(4, 0, "a"), record, None)]))
    assert text.splitlines()[1] == "a,,,,,,4,0,,,,,,,,,,,,,failed,,"


def test_runs_csv_bounds_the_limits(tmp_path: Path) -> None:
    store = make_study(
        tmp_path / "s",
        falling,
        lifts=(16, 32),
        seeds=1,
        change=lambda lift, _: {"stop_reason": "budget"} if lift > 16 else {},
    )
    first, second = csv.DictReader(io.StringIO(runs_csv(read_runs(store))))
    assert float(first["limit_low"]) == pytest.approx(float(first["test_loss"]), rel=2e-3)
    assert first["limit_high"] == first["test_loss"]
    assert (second["limit_low"], second["limit_high"]) == ("0.0", second["test_loss"])


def test_a_run_carried_beyond_what_is_asked_counts_at_the_time_asked_for(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", falling, lifts=(16, 32, 64), seeds=3, flow=True)
    whole = read_runs(store)
    write_json(store.study_file, {**store.read_study(), "carried": {"t_end": 1e4}})
    cut = read_runs(store)
    for before, after in zip(whole.runs, cut.runs, strict=True):
        frame = store.trajectory(before.key)
        row = frame[frame["time"] <= 1e4].iloc[-1]
        assert (after.train_loss, after.test_loss, after.flow_time) == (row["loss"], row["test_loss"], row["time"])
        assert after.train_loss > before.train_loss
        assert after.stop_reason == "time"


DEGENERATE: dict[str, Callable[[Path], StudyStore]] = {
    "one run": lambda root: make_study(root, falling, lifts=(64,), seeds=1, held_out=False),
    "one lift": lambda root: make_study(root, falling, lifts=(64,), flow=True),
    "one seed": lambda root: make_study(root, falling, seeds=1),
    "all diverged": lambda root: make_study(root, lambda params, lift: None),
    "nothing": lambda root: make_study(root, falling, missing=[(lift, seed) for lift in LIFTS for seed in range(5)]),
    "all zero": lambda root: make_study(root, lambda params, lift: 0.0),
    "floor": lambda root: make_study(
        root,
        lambda params, lift: 2e-3 + 50 * (params / 20) ** -2.0,
        samples=6000,
        change=lambda lift, seed: {"witness_degree": 8, "stop_reason": "time", "relative_gradient": 1.0},
    ),
    "many lifts": lambda root: make_study(root, falling, lifts=range(10, 50, 2), seeds=3, samples=100),
    "no trajectories": lambda root: make_study(root, falling, trajectories=False, lifts=(3, 5, 7)),
}


@pytest.mark.drawn
@pytest.mark.parametrize("name", DEGENERATE)
def test_figures_are_drawn_whatever_the_runs(name: str, tmp_path: Path) -> None:
    store = DEGENERATE[name](tmp_path / "study")
    runs = read_runs(store)
    found = drawings(Evidence.of(store))
    files = {f"{name}.png": canvas.render(drawing, ["png"])["png"] for name, drawing in found.items()}
    flow = any(np.isfinite(run.flow_time) for run in runs.done)
    assert set(files) == {f"{figure}.png" for figure in (*FIGURES, *(["decay"] if flow else []))}
    for content in files.values():
        image = matplotlib.image.imread(io.BytesIO(content), format="png")
        assert image.shape[:2] == (736, 1344)
        # Ink at the rim would be text that the edge cuts off.
        assert np.all(image[[0, -1]] == 1)
        assert np.all(image[:, [0, -1]] == 1)


@pytest.mark.drawn
def test_a_layout_is_found_once_for_all_formats_and_nothing_is_drawn_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: found.append(figure))
    drawing = (lambda figure: found.append(figure.subplots()), canvas.WIDE)
    assert canvas.render(drawing, ()) == {} and found == []
    assert set(canvas.render(drawing, ("pdf", "png", "svg"))) == {"pdf", "png", "svg"} and len(found) == 2


def test_a_damaged_trajectory_is_only_absent(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", falling, lifts=(16, 32, 64), seeds=5, noise=0.02)
    (store.run_dir(key_of(16, 0)) / "trajectory.parquet").write_bytes(b"half a file")
    (store.run_dir(key_of(16, 1)) / "trajectory.parquet").unlink()
    assert write_report(store, formats=("svg",))["verdict"] == "falls"
    assert "loss_vs_params.svg" in (store.report_dir / "index.html").read_text()


def test_importing_the_report_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, rsl_cli.report; assert not {'torch', 'matplotlib'} & set(sys.modules)\n"
        "assert len(rsl_cli.FIGURES) == 15 and not {'torch', 'matplotlib', 'altair'} & set(sys.modules)\n"
        "import rsl_cli.report.page; assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.drawn
@pytest.mark.parametrize(("slope", "first"), [(40, 1e200), (-40, 1e-200), (220, 1e-300), (0, 1.7e308), (0, 5e-324)])
@pytest.mark.parametrize("flow", [False, True])
def test_no_loss_that_a_float_can_hold_stops_a_report(slope: int, first: float, flow: bool, tmp_path: Path) -> None:
    def law(params: int, lift: int) -> float:
        with np.errstate(over="ignore", under="ignore"):
            loss = float(np.float64(first) * np.float64(params_of(lift) / params_of(2)) ** slope)
        return min(max(loss, 5e-324), 1.6e308)

    store = make_study(tmp_path / "s", law, lifts=(2, 4, 8, 16, 32), noise=0, test_law=law, flow=flow)
    with np.errstate(all="ignore"):
        verdict = write_report(store, formats=("png",))
    assert {path.stem for path in store.report_dir.glob("*.png")} >= set(FIGURES)
    assert verdict["verdict"] and summary_text(store, verdict)
