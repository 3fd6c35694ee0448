"""Tables of a study: one row per run, one row per lift, as CSV, Markdown, LaTeX and terminal text."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from rsl_cli.report.runs import FINISHED, Run, StudyRuns, Which
from rsl_cli.stats import quantile

RUN_COLUMNS = (
    *("run_id", "base", "dataset", "trainer", "lifting", "in_degree", "lift", "seed", "params", "samples"),
    *("train_loss", "test_loss", "loss_std", "accuracy", "flow_time", "steps", "grad_norm", "distance"),
    *("stop_reason", "wall_seconds", "status", "limit_low", "limit_high"),
)
"""Columns of ``runs.csv``, in this order; other programs read them."""


@dataclass(frozen=True)
class LiftSummary:
    """One lift: its runs counted, then medians and quartiles over those that finished.

    A diverged run counts as an infinite loss, so a median is infinite where half of the runs diverged. The columns
    ``done``, ``diverged``, ``failed`` and ``missing`` add up to the planned runs. NaN stands for no value.
    """

    lift: int
    done: int
    diverged: int
    failed: int
    missing: int
    params: float
    samples: float
    params_per_equation: float
    train_median: float
    train_q1: float
    train_q3: float
    test_median: float
    test_q1: float
    test_q3: float
    limit_low: float
    limit_high: float
    accuracy: float
    under_trained: int
    overparametrised: bool
    dense: bool


def runs_csv(runs: StudyRuns) -> str:
    """Return all records, done or failed, as CSV with the columns `RUN_COLUMNS`; nulls are empty.

    ``limit_low`` and ``limit_high`` bound the limit of the loss that the verdict is about, held-out where there is one.
    """
    limits = {run.key.run_id: run.limit(runs.headline) for run in runs.done}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(RUN_COLUMNS)
    for record in runs.records:
        limit = limits.get(record.run_id)
        values = record.values()
        known = {} if limit is None or math.isnan(limit.high) else {"limit_low": limit.low, "limit_high": limit.high}
        writer.writerow([{**values, **known}.get(column) for column in RUN_COLUMNS])
    return buffer.getvalue()


def summarise(runs: StudyRuns) -> list[LiftSummary]:
    """Summarise every planned lift, ascending."""
    return [_summary(lift, runs.at(lift), runs.headline, lift in runs.dense_lifts) for lift in runs.lifts]


def summary_csv(rows: Sequence[LiftSummary]) -> str:
    """Return the summary as CSV in full precision; no value is empty, a diverged median is ``inf``."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in fields(LiftSummary)]
    writer.writerow(names)
    writer.writerows([_cell(getattr(row, name)) for name in names] for row in rows)
    return buffer.getvalue()


def summary_cells(rows: Sequence[LiftSummary]) -> tuple[list[str], list[list[str]]]:
    """Return headers and cells of the summary rounded for reading; columns without any value are left out."""
    columns: dict[str, list[str]] = {
        "lift": [str(row.lift) for row in rows],
        "seeds": [f"{row.done}/{row.done + row.diverged + row.failed + row.missing}" for row in rows],
        "parameters P": [_count(row.params) for row in rows],
        "P / (N k)": [_figure(row.params_per_equation, 2) for row in rows],
        "training loss": [loss_figure(row.train_median) for row in rows],
        "training quartiles": [_range(row.train_q1, row.train_q3) for row in rows],
        "held-out loss": [loss_figure(row.test_median) for row in rows],
        "held-out quartiles": [_range(row.test_q1, row.test_q3) for row in rows],
        "limit": [_limit(row) for row in rows],
        "accuracy": [_figure(row.accuracy, 4) for row in rows],
        "remarks": [", ".join(marks(row)) for row in rows],
    }
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    return list(kept), [list(line) for line in zip(*kept.values(), strict=True)]


def summary_markdown(rows: Sequence[LiftSummary]) -> str:
    """Return the summary as a Markdown table."""
    headers, lines = summary_cells(rows)
    align = ["---" if name == "remarks" else "---:" for name in headers]
    return "".join(f"| {' | '.join(line)} |\n" for line in [headers, align, *lines])


def summary_latex(rows: Sequence[LiftSummary]) -> str:
    """Return the summary as a LaTeX ``tabular`` (booktabs)."""
    headers, lines = summary_cells(rows)
    layout = "".join("l" if name == "remarks" else "r" for name in headers)
    # An escaping of every underscore and percent sign by hand would miss one.
    return pd.DataFrame(lines, columns=pd.Index(headers)).to_latex(index=False, escape=True, column_format=layout)


def summary_terminal(rows: Sequence[LiftSummary]) -> str:
    """Return the summary as aligned text, short enough for a terminal."""
    headers, lines = summary_cells(rows)
    kept = [i for i, name in enumerate(headers) if name != "P / (N k)" and not name.endswith("quartiles")]
    table = [[line[i] for i in kept] for line in [headers, *lines]]
    widths = [max(len(line[i]) for line in table) for i in range(len(kept))]
    left = table[0][-1] == "remarks"

    def justify(cell: str, i: int) -> str:
        return cell if left and i == len(kept) - 1 else cell.rjust(widths[i])

    return "\n".join("  ".join(justify(cell, i) for i, cell in enumerate(line)).rstrip() for line in table)


def marks(row: LiftSummary) -> list[str]:
    """Return what a reader must know before trusting the lift's numbers."""
    counts = [("diverged", row.diverged), ("failed", row.failed), ("missing", row.missing)]
    found = [f"{count} {name}" for name, count in counts if count]
    if row.under_trained:
        found.append(f"{row.under_trained} still falling")
    if row.overparametrised:
        found.append("overparametrised")
    if row.dense:
        found.append("dense")
    return found


def loss_figure(value: float | None) -> str:
    """Format a loss for reading; infinite is ``diverged``, none is empty."""
    if value is None or math.isnan(value):
        return ""
    return "diverged" if math.isinf(value) else f"{value:.3g}"


def _summary(lift: int, runs: Sequence[Run], headline: Which, dense: bool) -> LiftSummary:
    done = [run for run in runs if run.status == "done"]

    def quartiles(which: Which) -> tuple[float, float, float]:
        losses = [run.loss(which) for run in done if not math.isnan(run.loss(which))]
        return quantile(losses, 0.5), quantile(losses, 0.25), quantile(losses, 0.75)

    def median(values: Sequence[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return float(np.median(known)) if known else math.nan

    return LiftSummary(
        lift,
        sum(not run.diverged for run in done),
        sum(run.diverged for run in done),
        sum(run.status == "failed" for run in runs),
        sum(run.status == "missing" for run in runs),
        median([run.params for run in done]),
        median([run.samples for run in done]),
        median([run.params / (run.samples * run.outputs) for run in done]),
        *quartiles("train"),
        *quartiles("test"),
        median([run.limit(headline).low for run in done]),
        quantile([run.limit(headline).high for run in done], 0.5),
        median([run.accuracy for run in done]),
        sum(run.under_trained for run in done),
        any(run.overparametrised for run in done),
        dense,
    )


def _cell(value: float | int | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if isinstance(value, float) and math.isnan(value) else repr(value)


def _figure(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}g}"


def _count(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}"


def _limit(row: LiftSummary) -> str:
    """Median interval of the limits: an upper bound alone where the median run has shown no lower one."""
    if math.isnan(row.limit_high):
        return ""
    if math.isinf(row.limit_high):
        return "open"
    if row.limit_low <= 0:
        return f"< {loss_figure(row.limit_high)}"
    narrow = row.limit_high <= FINISHED * row.limit_low
    return loss_figure(row.limit_high) if narrow else _range(row.limit_low, row.limit_high)


def _range(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{loss_figure(low)} to {loss_figure(high)}"
