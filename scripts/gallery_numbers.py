"""What the gallery's figures are made of: numbers in the page's form, and what is read off a study's runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import fisher_exact, rankdata

from rsl_cli.report.diagnostics import DiagnosticTables, read_diagnostics
from rsl_cli.report.read import read_runs
from rsl_cli.report.runs import Run, StudyRuns
from rsl_cli.study.studies import open_study


def number(value: float, digits: int = 2) -> str:
    """A number as the page has it: 0.016, 114, 4.8e-4."""
    if value and not 1e-2 <= abs(value) < 1e4:
        figure, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{float(figure):g}e{int(exponent)}"
    return f"{float(f'{value:.{digits}g}'):g}"


def listed(values: Iterable[object], last: str = "and") -> str:
    """``a, b and c``; numbers as the page has them."""
    *first, end = [number(value) if isinstance(value, float) else str(value) for value in values]
    return f"{', '.join(first)} {last} {end}" if first else end


def median(values: Iterable[float]) -> float:
    """The median, infinite values among them."""
    return float(np.median(list(values)))


def read(folder: Path, study: str) -> tuple[StudyRuns, DiagnosticTables]:
    """A study's runs and what was measured on them."""
    store = open_study(folder / study)
    runs = read_runs(store)
    return runs, read_diagnostics(store, runs)


def medians(runs: StudyRuns, lifts: Sequence[int] | None = None, of: str = "test_loss") -> list[float]:
    """The median over seeds of what a run has, lift by lift."""
    return [median(getattr(run, of) for run in runs.at(lift)) for lift in lifts or runs.lifts]


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation."""
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def fisher(some: int, others: int, of: int) -> float:
    """Fisher's exact p value that two groups of equal size succeed alike."""
    return float(np.asarray(fisher_exact([[some, of - some], [others, of - others]]))[1])


def reached(runs: Iterable[Run], epsilon: float) -> int:
    """How many runs end at a training loss of at most epsilon."""
    return sum(run.train_loss <= epsilon for run in runs)


def signed(value: float, digits: int = 2) -> str:
    """A number with a minus sign proper."""
    return f"{value:.{digits}f}".replace("-", "−")
