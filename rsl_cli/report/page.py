"""The report as one page of HTML that holds everything it shows: mail it, open it from any folder, no network."""

import base64
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_hex

from rsl_cli.report import canvas
from rsl_cli.report.charts import size_axes
from rsl_cli.report.evidence import Evidence
from rsl_cli.report.figures import Made
from rsl_cli.report.joint import params_of
from rsl_cli.report.page_data import MOST_DRAWN, MOST_LISTED, Data, column
from rsl_cli.report.runs import LOSS_NAMES, MOST_SHOWN, StudyRuns, Which
from rsl_cli.report.tables import LiftSummary, summary_cells
from rsl_cli.report.vega import vega_script
from rsl_cli.report.words import figure_of, remedy_of, symbols
from rsl_cli.stats import quantile

_WEB = Path(__file__).parent / "web"
_COLUMNS = {
    "run": "run",
    "lift": "lift n",
    "seed": "seed",
    "status": "status",
    "params": "P",
    "train": "training loss",
    "test": "held-out loss",
    "low": "limit ≥",
    "high": "limit ≤",
    "loss_std": "loss / variance",
    "accuracy": "accuracy",
    "time": "flow time",
    "steps": "steps",
    "grad_norm": "|∇L|",
    "distance": "|θ − θ₀|",
    "stop": "ended",
    "seconds": "seconds",
    "id": "id",
}
"""Columns of the table of runs; those that are empty are left out, those of one value are said once."""
_HELD = range(1, 500_000)
"""Bytes of a file that the page holds as well."""
_TEXT = ("run", "status", "stop", "id")


def render_page(
    found: Evidence,
    verdict: Mapping[str, Any],
    summary: Sequence[LiftSummary],
    files: Mapping[str, bytes],
    figures: Sequence[Made],
    *,
    refresh: int | None = None,
) -> str:
    """Return the page.

    Args:
        found: what the report knows of the study.
        verdict: content of ``verdict.json``.
        summary: rows of the summary table.
        files: name -> content of the files beside the page; those of text are in the page too.
        figures: in their order; those without a chart stand there as images, if anything draws them.
        refresh: seconds after which the page loads itself again, if it is of a running study.

    Returns:
        HTML in which every text of the study is escaped.
    """
    runs, data = found.runs, found.data
    columns, constant = _columns(data)
    headers, lines = summary_cells(summary)
    state, colon, rest = verdict["headline"].partition(" ")
    reasons = [remedy_of(reason) for reason in verdict["reasons"]]
    views: list[Which] = ["test", "train"] if runs.headline == "test" else ["train"]
    inside = [name for name in ("runs.csv", "summary.csv", "verdict.json") if len(files.get(name, b"")) in _HELD]
    payload = {
        "tables": data,
        "charts": {one.name: one.chart for one in figures if one.chart is not None},
        "sizes": size_axes(runs, data),
        "heights": {
            one.name: one.figure.losses.each(data, runs.headline) for one in figures if one.figure.losses is not None
        },
        "lifts": list(runs.lifts),
        "losses": views,
        "refresh": refresh,
        "columns": columns,
        "files": {name: files[name].decode() for name in inside},
    }
    return fill(
        "study.html",
        payload,
        len(runs.lifts),
        title=f"{runs.name}: {verdict['verdict']}",
        headline=verdict["headline"],
        name=runs.name,
        state=Markup("<b>{}</b>").format(state),
        rest=colon + rest,
        verdict=verdict,
        facts=_facts(runs),
        reasons=[text for text, line in reasons if line is None],
        remedies=[(text, line) for text, line in reasons if line is not None],
        figures=_figures(runs, figures, files),
        few=_few(runs),
        lifts=runs.lifts,
        seeds=sorted({run.key.seed for run in runs.runs}),
        losses=[(view, LOSS_NAMES[view]) for view in views],
        times=1 + max(column(data, "isochrones", "k"), default=0) if "isochrones" in data else None,
        headers=headers,
        lines=lines,
        columns=columns,
        constant=constant,
        unlisted=f"Of {len(runs.runs):,} runs, {len(data['runs']['rows']):,} are listed: the first seeds of each lift; "
        "runs.csv has all."
        if len(runs.runs) > MOST_LISTED
        else "",
        states=_states(data),
        targets=_targets(verdict),
        line=command_of(runs.study),
        versions=settings_of(runs.study, "versions", "host", "git"),
        settings=settings_of(runs.study, "config"),
        inside=inside,
        files=[name for name in files if name not in inside],
    )


def fill(template: str, payload: Mapping[str, Any], colours: int, **words: Any) -> str:
    """Fill a template of the folder ``web``: the style, the data, the library that draws and the page's own script.

    Args:
        template: its name.
        payload: what the script reads.
        colours: how many there are of a ramp, for lifts or for whatever else is ordered.
        **words: what the template shows.

    Returns:
        The page, HTML that needs no other file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_WEB),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters["symbols"] = symbols
    # Inside a script only an end tag or a comment could end it; JSON may write the sign otherwise.
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return environment.get_template(template).render(
        data=Markup(text),
        vega=Markup(vega_script()),
        script=Markup((_WEB / "page.js").read_text(encoding="utf-8")),
        lift_colours={name: _ramp(colours, *ends) for name, ends in _RAMPS.items()},
        **words,
    )


_RAMPS = {"light": (0.0, 0.82), "dark": (0.3, 1.0)}
"""Which part of the colours can be told from the paper."""


def _ramp(count: int, low: float, high: float) -> str:
    ramp = matplotlib.colormaps["viridis"](np.linspace(low, high, max(1, count)))
    return " ".join(f"--l{i}: {to_hex(colour)};" for i, colour in enumerate(ramp))


def command_of(study: Mapping[str, Any]) -> str | None:
    """The line that made a study; None where it was made in another way."""
    line = study.get("line")
    return shlex.join(["rsl", "run", *map(str, line)]) if isinstance(line, list) else None


def settings_of(study: Mapping[str, Any], *parts: str) -> list[tuple[str, str]]:
    """Return parts of ``study.json`` as lines of key and value, nested keys joined by dots."""
    return [line for part in parts for line in _flat("" if part in ("config", "versions") else part, study.get(part))]


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [line for key, item in value.items() for line in _flat(f"{prefix}.{key}" if prefix else str(key), item)]
    return [] if value is None or value == {} else [(prefix or "config", str(value))]


def _facts(runs: StudyRuns) -> list[tuple[str, str]]:
    done, seeds = len(runs.done), {run.key.seed for run in runs.runs}
    lifts = runs.lifts
    params = [params_of(runs, lift) for lift in lifts if any(run.key.lift == lift for run in runs.done)]
    facts = [
        ("runs", f"{done} of {len(runs.runs)}"),
        ("lifts", " to ".join(str(lift) for lift in dict.fromkeys(lifts[:1] + lifts[-1:]))),
        ("seeds", str(len(seeds))),
    ]
    if params:
        facts.append(("parameters", f"{min(params):,.0f} to {max(params):,.0f}"))
    samples = {run.samples for run in runs.done}
    if len(samples) == 1:
        facts.append(("samples", f"{samples.pop():,.0f}"))
    ends = [run.flow_time for run in runs.done if run.flow_time > 0]
    if ends:
        facts.append(("flow time", figure_of(max(ends))))
    reached = [
        quantile([run.loss(runs.headline) for run in runs.with_loss(runs.headline) if run.key.lift == lift], 0.5)
        for lift in dict.fromkeys(lifts[:1] + lifts[-1:])
    ]
    reached = [loss for loss in reached if math.isfinite(loss)]
    if reached:
        ends = " to ".join(figure_of(float(f"{loss:.2g}")) for loss in dict.fromkeys(reached))
        facts.append((f"{LOSS_NAMES[runs.headline]} loss reached, medians", ends))
    trainers = sorted({run.trainer for run in runs.done if run.trainer})
    return [*facts, *([("trainer", ", ".join(trainers))] if trainers else [])]


def _figures(runs: StudyRuns, figures: Sequence[Made], files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    for one in figures:
        face, image = one.figure, None
        text = face.text + (f" Followed here: {runs.few_shown}." if face.timed and runs.few_shown else "")
        if face.chart is None and one.drawing is not None:
            image = image_data(files.get(f"{one.name}.png") or canvas.render(one.drawing, ["png"])["png"])
        if image or one.chart:
            kept = {"name": one.name, "title": face.title, "text": text, "image": image, "timed": face.timed}
            shown.append({**kept, "lead": not shown and image is None})
    return shown


def image_data(content: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _few(runs: StudyRuns) -> str:
    words = []
    if len(runs.runs) > MOST_DRAWN:
        words.append(
            f"Of {len(runs.runs):,} runs, about {MOST_DRAWN} are drawn one by one, the first seeds of each lift; "
            "medians, quartiles and shares of what runs end at are those of all, unless a figure says otherwise."
        )
    if len(runs.shown) < len(runs.done):
        words.append(
            f"What is told of the way there (losses at a time, the law of lift and clock, what was measured) is told "
            f"by the first {MOST_SHOWN} seeds of each lift."
        )
    return " ".join(words)


def _columns(data: Data) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Columns of the table of runs that differ from run to run, and the others' values."""
    columns, constant = [], []
    for key, title in _COLUMNS.items():
        values = column(data, "runs", key)
        known = {value for value in values if value is not None}
        if known and (len(set(values)) > 1 or key in ("lift", "seed", "run")):
            columns.append({"key": key, "title": title, "text": key in _TEXT})
        elif known:
            value = known.pop()
            constant.append((title, figure_of(value) if isinstance(value, float) else str(value)))
    return columns, constant


def _states(data: Data) -> list[str]:
    return sorted({*column(data, "runs", "status"), *column(data, "runs", "stop")} - {None})


def _targets(verdict: Mapping[str, Any]) -> list[list[str]]:
    def shown(value: int | None) -> str:
        return "-" if value is None else str(value)

    return [
        [
            figure_of(float(key)),
            shown(verdict["approximation_number"][key]),
            *(shown(number[end]) for end in ("point", "low", "high")),
        ]
        for key, number in verdict["learning_number"].items()
    ]
