"""What a report knows of a study: everything that its figures are drawn from, read once."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rsl_cli.report.diagnostics import NOTHING, DiagnosticTables, read_diagnostics
from rsl_cli.report.judgement import judge_views
from rsl_cli.report.page_data import Data, page_data
from rsl_cli.report.read import read_runs
from rsl_cli.report.runs import StudyRuns
from rsl_cli.report.tangent import Curve, flow_curves
from rsl_cli.report.verdict import give_verdict
from rsl_cli.stats import Law
from rsl_cli.study.store import StudyStore

DELTA = 0.1
"""Probability of missing a target loss that the learning number accepts, if left out."""


@dataclass(frozen=True)
class Evidence:
    """A study as its figures are given it.

    Args:
        store: the study.
        runs: what was read of its runs.
        verdict: what they say, as in ``verdict.json``.
        law: what the limits follow, if the data accept a law.
        delta: accepted probability of missing a target.
        diagnostics: what was measured on the networks.
    """

    store: StudyStore
    runs: StudyRuns
    verdict: Mapping[str, Any]
    law: Law | None = None
    delta: float = DELTA
    diagnostics: DiagnosticTables = NOTHING

    @classmethod
    def of(cls, store: StudyStore, delta: float = DELTA, *, tidy: bool = False) -> "Evidence":
        """Read and judge a study; see `rsl_cli.report.read.read_runs`."""
        runs = read_runs(store, tidy=tidy)
        views, diagnostics = judge_views(runs), read_diagnostics(store, runs)
        verdict = give_verdict(runs, views, delta, diagnostics)
        return cls(store, runs, verdict, views.headline.law, delta, diagnostics)

    @cached_property
    def data(self) -> Data:
        """The tables of the page, by name."""
        return page_data(self.runs, self.diagnostics, self.delta)

    @cached_property
    def curves(self) -> list[Curve]:
        """The bounded part of every run's flow."""
        return flow_curves(self.runs, self.runs.trajectories, self.diagnostics.tangent)
