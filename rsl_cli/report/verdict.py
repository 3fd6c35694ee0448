"""The verdict of a study: the headline judgement, what other views of the same runs say, and success statistics."""

import math
from dataclasses import asdict, fields
from typing import Any

from numpy.typing import ArrayLike

from rsl_cli.report.checks import check_content
from rsl_cli.report.diagnostics import NOTHING, DiagnosticTables
from rsl_cli.report.joint import joint_law
from rsl_cli.report.judgement import ALPHA, Judgement, Views
from rsl_cli.report.outlook import foresee, read_success
from rsl_cli.report.reasons import give_headline, give_reasons, worst_dissipation
from rsl_cli.report.runs import StudyRuns
from rsl_cli.report.tangent import check_inequality, epsilon_key, inside_shares, kappa_at_start
from rsl_cli.stats import (
    Law,
    LearningNumber,
    Proportion,
    Trend,
    approximation_number,
    epsilon_grid,
    learning_number,
    quantile,
    success_table,
)


def give_verdict(
    runs: StudyRuns, views: Views, delta: float, diagnostics: DiagnosticTables = NOTHING
) -> dict[str, Any]:
    """Compose the verdict of a study.

    Success, approximation and learning numbers are of the headline loss over all lifts, diverged runs counting as
    failures to reach the target; failed and missing runs do not count. ``under_trained`` names runs,
    ``overparametrised`` the lifts left out of the headline.

    Args:
        runs: the study.
        views: its judgements.
        delta: accepted probability that training misses the target, for the learning number.
        diagnostics: what was measured on the networks; each table adds its keys, and a study without it lacks them.

    Returns:
        The content of ``verdict.json``: JSON values only.
    """
    chosen, success = views.headline, success_by_epsilon(runs)
    joint = joint_law(runs)
    pac, outlook = read_success(success, delta), foresee(runs, chosen)
    content = {
        "verdict": chosen.verdict,
        "headline": give_headline(runs, chosen),
        "reasons": give_reasons(runs, views, pac, outlook, joint, diagnostics),
        "losses": runs.headline,
        "would_be": chosen.would_be,
        "fall": chosen.fall,
        "trend": _trend(chosen.trend),
        "fit": _fit(chosen),
        "joint_law": None if joint is None else asdict(joint),
        "local_exponents": [asdict(exponent) for exponent in chosen.exponents],
        "success": {key: {str(lift): _share(share) for lift, share in row.items()} for key, row in success.items()},
        "success_verdict": None if pac is None else asdict(pac),
        "learning_number": {key: asdict(learning_number(row, delta)) for key, row in success.items()},
        "approximation_number": {key: approximation_number(row) for key, row in success.items()},
        "outlook": None if outlook is None else asdict(outlook),
        "under_trained": [run.name for run in runs.done if run.under_trained],
        "overparametrised": list(runs.overparametrised_lifts),
        "dense": list(runs.dense_lifts),
        "by_loss": {view: judgement.verdict for view, judgement in views.by_loss.items()},
        "with_overparametrised": views.with_overparametrised.verdict,
        "without_dense": views.without_dense.verdict,
        "dissipation": worst_dissipation(runs),
        "witness_degree": runs.witness_degree,
        "delta": delta,
        "alpha": ALPHA,
        **_tangent(diagnostics),
        **_coverage(diagnostics),
        **check_content(diagnostics.coordinates, diagnostics.ntk),
    }
    return {name: _plain(value) for name, value in content.items()}


def success_by_epsilon(runs: StudyRuns) -> dict[str, dict[int, Proportion]]:
    """Return target loss (as ``"1e-03"``, descending) -> lift -> share of the headline losses at or below it."""
    finished = runs.with_loss(runs.headline)
    lifts, losses = [run.key.lift for run in finished], [run.loss(runs.headline) for run in finished]
    table = success_table(lifts, losses, epsilon_grid(losses)[::-1], [run.limit(runs.headline).low for run in finished])
    return {f"{epsilon:.0e}": row for epsilon, row in table.items()}


def learning_numbers(runs: StudyRuns, delta: float) -> dict[float, tuple[int | None, LearningNumber]]:
    """Return target loss -> approximation number and learning number, descending in the target."""
    return {
        float(key): (approximation_number(row), learning_number(row, delta))
        for key, row in success_by_epsilon(runs).items()
    }


def _tangent(diagnostics: DiagnosticTables) -> dict[str, Any]:
    """The checked inequality, kappa at the start (null: out of reach) and the shares of seeds within A(kappa, eps)."""
    if not len(diagnostics.tangent):
        return {}
    found = check_inequality(diagnostics.tangent)
    parts: dict[str, Any] = {
        "kurdyka_lojasiewicz": {
            "checked": found.checked,
            "violations": found.violations,
            "least_slack": _number(found.least_slack),
        }
    }
    start, inside = kappa_at_start(diagnostics.tangent), inside_shares(diagnostics.tangent)
    if start:
        parts["tangent"] = {
            epsilon_key(epsilon): {str(lift): _quartiles(kappas) for lift, kappas in row.items()}
            for epsilon, row in start.items()
        }
    if inside:
        parts["inside"] = {
            epsilon_key(epsilon): {
                f"{kappa:.0e}": {str(lift): _share(share.seeds) for lift, share in row.items()}
                for kappa, row in rows.items()
            }
            for epsilon, rows in inside.items()
        }
    return parts


def _coverage(diagnostics: DiagnosticTables) -> dict[str, Any]:
    if not len(diagnostics.coverage):
        return {}
    return {
        "coverage": {
            vertex: {
                f"{eta:g}": {
                    str(lift): _number(quantile(group["share"], 0.5)) for lift, group in series.by("lift").items()
                }
                for eta, series in rows.by("eta").items()
            }
            for vertex, rows in diagnostics.coverage.by("vertex").items()
        }
    }


def _quartiles(values: ArrayLike) -> dict[str, float | None]:
    return {name: _number(quantile(values, q)) for name, q in (("median", 0.5), ("low", 0.25), ("high", 0.75))}


def _plain(value: Any) -> Any:
    """A value as JSON gives it back: lists, text keys, no number that is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _number(value) if isinstance(value, float) else value


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _trend(trend: Trend | None) -> dict[str, Any]:
    return {"p_value": None, "statistic": None} if trend is None else asdict(trend)


def _fit(chosen: Judgement) -> dict[str, Any]:
    """The law of the limits, its fields null where the data reject every law or runs have not shown their limits."""
    law = dict.fromkeys(field.name for field in fields(Law)) if chosen.law is None else asdict(chosen.law)
    return {**law, "shape": chosen.shape}


def _share(share: Proportion) -> list[float]:
    return [share.successes, share.runs, share.low, share.high]
