"""Tables, plots, verdict and page of a study, from its run files alone."""

import html
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rsl_cli.errors import ConfigError, StoreError, first_line, one_of
from rsl_cli.report import figures, tables
from rsl_cli.report.evidence import DELTA, Evidence
from rsl_cli.report.runs import StudyRuns
from rsl_cli.report.terminal import loss_plot
from rsl_cli.study.files import write_atomic, write_json
from rsl_cli.study.integrity import seal
from rsl_cli.study.store import StudyStore
from rsl_cli.study.studies import open_study
from rsl_cli.study.verify import write_digests

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Verdict", "figure", "figure_names", "judge", "summary_text", "write_comparison", "write_report"]

FORMATS = ("png", "pdf", "svg")
_WIDTH = 100


def write_report(
    store: StudyStore, *, formats: Sequence[str] = ("png", "pdf"), delta: float = DELTA, refresh: int | None = None
) -> dict[str, Any]:
    """Write tables, figures, verdict and page of a study into its report folder; equal runs give equal files.

    Args:
        store: the study; runs that failed or are missing are reported as such.
        formats: of the figures beside the page, among png, pdf and svg.
        delta: accepted probability that training misses a target loss, for the learning number.
        refresh: seconds after which the page loads itself again; None for a study that is done.

    Returns:
        The content of ``verdict.json``; ``undrawn`` says which figures of the user's own could not be drawn, and why.

    Raises:
        ConfigError: a format that is not known, a delta outside (0, 1).
        StoreError: no study is there, a file is damaged, or the folder cannot be written.
    """
    # Drawing takes a second to import, which the table on the terminal should not wait for.
    from rsl_cli.report.page import render_page

    for form in formats:
        _check_format(form)
    _check_delta(delta)
    found = Evidence.of(store, delta, tidy=True)
    runs, verdict = found.runs, dict(found.verdict)
    made, undrawn = figures.made_figures(found, runs.study.get("config", {}))
    if runs.faults:
        verdict["damaged"] = list(runs.faults)
    if undrawn:
        verdict["undrawn"] = undrawn
    summary = tables.summarise(runs)
    drawn = figures.draw_all(made, formats)
    texts = {
        "runs.csv": tables.runs_csv(runs),
        "summary.csv": tables.summary_csv(summary),
        "summary.md": tables.summary_markdown(summary),
        "summary.tex": tables.summary_latex(summary),
        "summary.txt": _terminal(runs, summary),
    }
    for name, text in texts.items():
        write_atomic(store.report_dir / name, text.encode())
    for name, content in drawn.items():
        write_atomic(store.report_dir / name, content)
    write_json(store.report_dir / "verdict.json", verdict)
    known = {**drawn, **{name: text.encode() for name, text in texts.items()}, "verdict.json": seal(verdict)}
    page = render_page(found, verdict, summary, known, made, refresh=refresh)
    write_atomic(store.report_dir / "index.html", page.encode())
    write_digests(store.report_dir, [*texts, *drawn, "verdict.json", "index.html"])
    store.publish()
    return verdict


@dataclass(frozen=True)
class Verdict:
    """What a study says.

    Args:
        verdict: falls, plateaus, rises, unfinished or inconclusive.
        headline: one line, true when quoted alone.
        reasons: sentences, the deciding one first.
        content: everything, as in ``verdict.json``.
    """

    verdict: str
    headline: str
    reasons: tuple[str, ...]
    content: Mapping[str, Any] = field(repr=False)

    def _repr_html_(self) -> str:
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        return f"<p><b>{html.escape(self.headline)}</b></p><ul>{reasons}</ul>"


def judge(study: str | Path, *, delta: float = DELTA) -> Verdict:
    """Judge a study by its run files; writes nothing.

    Args:
        study: its folder, its address in an object store, or its name below ``results``.
        delta: accepted probability that training misses a target loss, for the learning number.

    Returns:
        The verdict with its reasons, as ``verdict.json`` has them.

    Raises:
        ConfigError: a delta outside (0, 1).
        StoreError: no study is there, or a file is damaged.
    """
    _check_delta(delta)
    content = Evidence.of(open_study(study), delta).verdict
    return Verdict(content["verdict"], content["headline"], tuple(content["reasons"]), content)


def figure_names(store: StudyStore) -> list[str]:
    """The names of a study's figures, for `figure`.

    Returns:
        Names in the order of the report.

    Raises:
        StoreError: no study is there, or a file is damaged.
    """
    return list(figures.drawings(Evidence.of(store)))


def figure(store: StudyStore, name: str) -> "Figure":
    """Draw one figure of a study's report, to be gone on with; writes nothing.

    Args:
        store: the study.
        name: among `figure_names`.

    Returns:
        A Matplotlib figure that belongs to no window.

    Raises:
        ConfigError: the study has no such figure.
        StoreError: no study is there, or a file is damaged.
    """
    from rsl_cli.report.canvas import drawn

    found = figures.drawings(Evidence.of(store))
    if name not in found:
        raise ConfigError(one_of("figure", name, found))
    return drawn(found[name])


def write_comparison(
    stores: Sequence[StudyStore], folder: Path, *, formats: Sequence[str] = ("png", "pdf"), delta: float = DELTA
) -> Path:
    """Write one page and one figure of several studies: their verdicts, what they differ in, their losses.

    Args:
        stores: at most six studies, in the order of their colours.
        folder: where the files go, which are named after the studies.
        formats: of the figure beside the page, among png, pdf and svg.
        delta: accepted probability that training misses a target loss.

    Returns:
        The page.

    Raises:
        ConfigError: a format that is not known, or studies that cannot be compared.
        StoreError: a study is not there or damaged, or a file cannot be written.
    """
    from rsl_cli.report.comparison import compare_figure, compared
    from rsl_cli.report.comparison_page import render_comparison

    for form in formats:
        _check_format(form)
    found, page = compared(stores, delta), comparison_file(stores, folder)
    for form, content in compare_figure(found, formats).items():
        write_atomic(page.with_suffix(f".{form}"), content)
    write_atomic(page, render_comparison(found, [page.with_suffix(f".{form}").name for form in formats]).encode())
    return page


def comparison_file(stores: Sequence[StudyStore], folder: Path) -> Path:
    """Where the page of a comparison goes; its figure lies beside it, under the same name."""
    from rsl_cli.report.comparison import compared_name

    return folder / f"{compared_name(stores)}.html"


def summary_text(store: StudyStore, verdict: Mapping[str, Any]) -> str:
    """Return what a terminal shows of a report: a table by lift, a plot in characters, the verdict and its reasons.

    Args:
        store: the study, reported.
        verdict: what `write_report` returned, or ``verdict.json``.

    Returns:
        Lines without a final newline.

    Raises:
        StoreError: its report has no summary.
    """
    file = store.report_dir / "summary.txt"
    try:
        table = file.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {file}: {first_line(error)}; `rsl report` writes it") from error
    if "utf" not in (sys.stdout.encoding or "").lower():
        table = re.sub(r"[\u2801-\u28ff]", "o", table)  # What standard output cannot write would end the command.
    headline = textwrap.wrap(f"VERDICT: {verdict['headline']}", _WIDTH, subsequent_indent="  ")
    lines = [table, "", *headline]
    for reason in verdict["reasons"]:
        lines += textwrap.wrap(reason, _WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _terminal(runs: StudyRuns, summary: Sequence[tables.LiftSummary]) -> str:
    losses = {lift: [run.loss(runs.headline) for run in runs.at(lift)] for lift in runs.lifts}
    plot = loss_plot(losses)
    return "\n\n".join([tables.summary_terminal(summary), *([plot] if plot else [])]) + "\n"


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta!r}, expected a probability between 0 and 1, e.g. delta=0.1")


def _check_format(form: str) -> None:
    if form not in FORMATS:
        raise ConfigError(one_of("figure format", form, FORMATS))


class _CallableModule(ModuleType):
    """``rsl_cli.report(store)`` is promised beside the package of the same name; both are this module."""

    def __call__(self, store: StudyStore, **options: Any) -> dict[str, Any]:
        return write_report(store, **options)


sys.modules[__name__].__class__ = _CallableModule
