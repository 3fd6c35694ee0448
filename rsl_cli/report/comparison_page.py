"""Several studies as one page, that holds everything it shows: a table, and their losses by size and by time."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from rsl_cli.report.chart_parts import HEIGHT, SERIES, axis_of, layered, lift_axis, log_axis, over, tips
from rsl_cli.report.comparison import MOST_KEYS, Compared, compared_rows
from rsl_cli.report.joint import clock_of, isochrone_grid, losses_at
from rsl_cli.report.page import command_of, fill
from rsl_cli.report.page_data import Data, first_seeds, quartiles_of, ranges, table_of
from rsl_cli.report.runs import LOSS_NAMES, StudyRuns, Which

_MOST_DRAWN = 250
"""Runs of one study that are drawn one by one."""


def render_comparison(found: Compared, files: Sequence[str]) -> str:
    """Return the page.

    Args:
        found: the studies.
        files: names of the files beside the page.
    """
    views: list[Which] = ["test", "train"] if found.which == "test" else ["train"]
    data = _data(found)
    params = ranges(data, ("points", "params"))
    lifts = sorted({lift for study in found.studies for lift in study.lifts})
    headers, lines = compared_rows(found)
    names = _labels(found)
    figures = {"sizes": ("Which study ends lower, at the same size?", _losses(names, data))}
    if "times" in data:
        clock = "flow time t" if clock_of(found.studies[0]) == "time" else "training step"
        figures["times"] = ("Which largest lift learns faster?", _times(names, data, clock))
    payload = {
        "tables": data,
        "charts": {name: chart for name, (_, chart) in figures.items()},
        "sizes": {
            "params": alt.X("params:Q", **log_axis(params, "parameters P")).to_dict(),
            "lift": alt.X("lift:Q", **lift_axis(lifts)).to_dict(),
        },
        "heights": {
            name: {view: axis_of(data, *((table, view) for table in drawn)) for view in views}
            for name, drawn in (("sizes", ("points", "lifts")), ("times", ("times",)))
            if name in figures
        },
        "lifts": [],
        "losses": views,
        "columns": [],
        "files": {},
    }
    *others, last = (study.name for study in found.studies)
    texts = {
        "sizes": "Medians and quartiles over seeds, and every run; click a name to follow its study.",
        "times": "Median loss over the seeds of each study's largest lift.",
    }
    return fill(
        "comparison.html",
        payload,
        1,
        title=" and ".join(filter(None, (", ".join(others), last))),
        headline=f"{len(names)} studies side by side",
        headers=headers,
        lines=lines,
        figures=[
            {"name": name, "title": title, "text": texts[name], "lead": False, "image": None}
            for name, (title, _) in figures.items()
        ],
        losses=[(view, LOSS_NAMES[view]) for view in views],
        studies=[
            (study.name, verdict["headline"], command_of(study.study))
            for study, verdict in zip(found.studies, found.verdicts, strict=True)
        ],
        files=files,
    )


def _data(found: Compared) -> Data:
    """Every run and every lift of all studies, and the course of their largest lifts where one clock serves all."""
    points, lifts, times = [], [], []
    for study, label in zip(found.studies, _labels(found), strict=True):
        for run in first_seeds(study.done, _MOST_DRAWN):
            cells = [run.params, *(run.loss(view) if run.loss(view) > 0 else None for view in ("train", "test"))]
            points.append([label, run.name, run.key.lift, run.key.seed, *cells, run.under_trained])
        for lift in study.lifts:
            done = [run for run in study.at(lift) if run.status == "done"]
            if done:
                cells = [cell for view in ("train", "test") for cell in quartiles_of([run.loss(view) for run in done])]
                lifts.append([label, lift, float(np.median([run.params for run in done])), *cells])
    if len({clock_of(study) for study in found.studies if study.done}) == 1:
        times = [
            [label, *row] for study, label in zip(found.studies, _labels(found), strict=True) for row in _course(study)
        ]
    names = ["train", "train_q1", "train_q3", "test", "test_q1", "test_q3"]
    tables = {
        "points": table_of(["study", "run", "lift", "seed", "params", "train", "test", "falling"], points),
        "lifts": table_of(["study", "lift", "params", *names], lifts),
        "times": table_of(["study", "lift", "t", "train", "test"], times),
    }
    return {name: table for name, table in tables.items() if table["rows"]}


def _labels(found: Compared) -> list[str]:
    """Every study's name, and the first keys that it differs in."""
    return [
        study.name + "".join(f", {key} {value}" for key, value in list(keys.items())[:MOST_KEYS])
        for study, keys in zip(found.studies, found.differing, strict=True)
    ]


def _course(study: StudyRuns) -> list[list[Any]]:
    column, grid = isochrone_grid(study)
    rows = []
    for at in grid:
        lift = max(study.lifts)
        train, test = (losses_at(study, column, at, view).get(lift, np.array([])) for view in ("train", "test"))
        if train.size:
            rows.append([lift, at, quartiles_of(train)[0], quartiles_of(test)[0]])
    return rows


def _colour(names: Sequence[str]) -> alt.Color:
    legend = alt.Legend(orient="top", columns=1, title=None, symbolType="circle", symbolOpacity=1)
    return alt.Color("study:N", scale=alt.Scale(domain=list(names), range=list(SERIES[: len(names)])), legend=legend)


def _followed(chosen: alt.Parameter, shown: float) -> Any:
    return alt.when(chosen).then(alt.value(shown)).otherwise(alt.value(0.08))


def _losses(names: Sequence[str], data: Data) -> dict[str, Any]:
    chosen = alt.selection_point(fields=["study"], bind="legend", name="chosen")
    values = ranges(data, *((table, view) for table in ("points", "lifts") for view in ("train", "test")))
    size, loss, colour = alt.X("@size:Q"), alt.Y("@loss:Q", **log_axis(values, "@name loss")), _colour(names)
    shown = tips("study:N", "run:N", "lift:Q", "seed:Q", "params:Q=P", "train:Q=training loss", "test:Q=held-out loss")
    band = (
        over("lifts")
        .mark_area()
        .encode(size, alt.Y("@loss_q1:Q"), alt.Y2("@loss_q3:Q"), color=colour, opacity=_followed(chosen, 0.15))
    )
    line = over("lifts").mark_line(strokeWidth=2.2).encode(size, loss, color=colour, opacity=_followed(chosen, 1))
    dots = (
        over("points")
        .mark_point(filled=True, size=45)
        .encode(size, loss, color=colour, opacity=_followed(chosen, 0.8), tooltip=shown)
    )
    return _whole(layered(band, line, dots).add_params(chosen), "Final loss of every run by study and size.")


def _times(names: Sequence[str], data: Data, clock: str) -> dict[str, Any]:
    chosen = alt.selection_point(fields=["study"], bind="legend", name="chosen")
    loss = alt.Y("@loss:Q", **log_axis(ranges(data, ("times", "train"), ("times", "test")), "@name loss"))
    time, colour = alt.X("t:Q", **log_axis(ranges(data, ("times", "t")), clock)), _colour(names)
    line = over("times").mark_line(strokeWidth=2.2).encode(time, loss, color=colour, opacity=_followed(chosen, 1))
    dots = (
        over("times")
        .mark_point(filled=True, size=30)
        .encode(
            time,
            loss,
            color=colour,
            opacity=_followed(chosen, 1),
            tooltip=tips("study:N", "lift:Q", "t:Q", "@loss:Q=loss"),
        )
    )
    return _whole(layered(line, dots).add_params(chosen), "Median loss over time of each study's largest lift.")


def _whole(chart: alt.LayerChart, words: str) -> dict[str, Any]:
    state = [alt.param(name=key, value=-1) for key in ("lift", "seed", "at")]
    made = chart.add_params(*state).properties(width="container", height=HEIGHT, description=words)
    return made.to_dict(validate=False)
