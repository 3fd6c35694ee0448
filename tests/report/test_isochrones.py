"""Losses against size at several times: up to the end of training, and of whose runs."""

from dataclasses import replace
from pathlib import Path

import pytest
from fake_study import make_study

from rsl_cli.report import figure, runs, write_report
from rsl_cli.report.diagnostics import NOTHING
from rsl_cli.report.joint import isochrone_grid, isochrone_times
from rsl_cli.report.page_data import page_data
from rsl_cli.report.read import read_runs


def law(params: int, lift: int) -> float:
    return 50 / params


@pytest.mark.parametrize(
    ("steps", "times"), [(2000, [1, 10, 100, 1000, 2000]), (1000, [1, 10, 100, 1000]), (30000, [1, 100, 10000, 30000])]
)
def test_the_last_one_is_the_end_of_training(tmp_path: Path, steps: int, times: list[float]) -> None:
    found = read_runs(make_study(tmp_path / "s", law, lifts=(4, 8), seeds=2))
    frames = {name: {**dict(frame), "step": frame["step"] * steps / 1000} for name, frame in found.trajectories.items()}
    found = replace(found, trajectories=frames)
    assert isochrone_times(found) == ("step", pytest.approx(times))
    column, grid = isochrone_grid(found)
    assert column == "step" and grid[-1] == pytest.approx(steps) and grid == sorted(grid)
    table = page_data(found, NOTHING, 0.1)["isochrones"]
    k, whole = (table["columns"].index(name) for name in ("k", "whole"))
    assert {row[k] for row in table["rows"]} == {*range(len(grid))}
    shown = [grid[at] for at in sorted({row[k] for row in table["rows"] if row[whole]})]
    assert {*times} <= {round(at) for at in shown} and shown[-1] == grid[-1]


def test_it_says_so_where_the_first_seeds_alone_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_SHOWN", 2)
    few, all_ = (make_study(tmp_path / str(seeds), law, lifts=(4, 8), seeds=seeds) for seeds in (3, 2))
    said = "of each lift the first 2 seeds alone"
    for store, says in ((few, True), (all_, False)):
        write_report(store, formats=())
        drawn = figure(store, "isochrones").axes[0].get_title(loc="left")
        assert drawn == (f"O{said[1:]}." if says else "")
        assert (f"Followed here: {said}." in (store.report_dir / "index.html").read_text()) == says
