"""The verdict of a study: the headline judgement, what other views of the same runs say, and success statistics."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rsl_cli.report.judgement import ALPHA, Judgement, judge
from rsl_cli.report.runs import LOSS_NAMES, Run, StudyRuns, Which
from rsl_cli.stats import (
    LearningNumber,
    PowerLawFit,
    Proportion,
    Trend,
    approximation_number,
    epsilon_grid,
    learning_number,
    success_table,
)

_NAMES_SHOWN = 6


@dataclass(frozen=True)
class Views:
    """Judgements of the same study: per loss without overparametrised lifts, and the headline loss with them."""

    headline: Judgement
    by_loss: dict[Which, Judgement]
    with_overparametrised: Judgement


def judge_views(runs: StudyRuns) -> Views:
    """Judge every view of a study once; the headline is on held-out loss, where there is any."""
    crowded = set(runs.overparametrised_lifts)
    views: tuple[Which, ...] = ("train", "test") if runs.headline == "test" else ("train",)
    by_loss: dict[Which, Judgement] = {
        view: judge(runs.table(view, lambda run: run.key.lift not in crowded)) for view in views
    }
    headline = by_loss[runs.headline]
    return Views(headline, by_loss, judge(runs.table(runs.headline)) if crowded else headline)


def give_verdict(runs: StudyRuns, views: Views, delta: float) -> dict[str, Any]:
    """Compose the verdict of a study.

    Success, approximation and learning numbers are of the headline loss over all lifts, diverged runs counting as
    failures to reach the target; failed and missing runs do not count. ``under_trained`` names runs,
    ``overparametrised`` the lifts left out of the headline.

    Args:
        runs: the study.
        views: its judgements.
        delta: accepted probability that training misses the target, for the learning number.

    Returns:
        The content of ``verdict.json``: JSON values only.
    """
    chosen, success = views.headline, success_by_epsilon(runs)
    return {
        "verdict": chosen.verdict,
        "reasons": _reasons(runs, views),
        "losses": runs.headline,
        "trend": _trend(chosen.trend),
        "fit": _fit(chosen.fit),
        "success": {key: {str(lift): _share(share) for lift, share in row.items()} for key, row in success.items()},
        "learning_number": {key: asdict(learning_number(row, delta)) for key, row in success.items()},
        "approximation_number": {key: approximation_number(row) for key, row in success.items()},
        "under_trained": [run.name for run in runs.done if run.under_trained],
        "overparametrised": list(runs.overparametrised_lifts),
        "by_loss": {view: judgement.verdict for view, judgement in views.by_loss.items()},
        "with_overparametrised": views.with_overparametrised.verdict,
        "witness_degree": runs.witness_degree,
        "delta": delta,
        "alpha": ALPHA,
    }


def success_by_epsilon(runs: StudyRuns) -> dict[str, dict[int, Proportion]]:
    """Return target loss (as ``"1e-03"``, descending) -> lift -> share of the headline losses at or below it."""
    finished = runs.with_loss(runs.headline)
    lifts, losses = [run.key.lift for run in finished], [run.loss(runs.headline) for run in finished]
    table = success_table(lifts, losses, epsilon_grid(losses)[::-1])
    return {f"{epsilon:.0e}": row for epsilon, row in table.items()}


def learning_numbers(runs: StudyRuns, delta: float) -> dict[float, tuple[int | None, LearningNumber]]:
    """Return target loss -> approximation number and learning number, descending in the target."""
    return {
        float(key): (approximation_number(row), learning_number(row, delta))
        for key, row in success_by_epsilon(runs).items()
    }


def _reasons(runs: StudyRuns, views: Views) -> list[str]:
    chosen, crowded, on_training = views.headline, runs.overparametrised_lifts, views.by_loss["train"].verdict
    everything = views.with_overparametrised
    used = [lift for lift in runs.lifts if lift not in crowded]
    name = LOSS_NAMES[runs.headline]
    if crowded:
        scope = (
            f"Judged on {name} loss over {_lifts(used)}, where P < samples x outputs."
            if used
            else "Every lift is overparametrised, P >= samples x outputs, so none is left for the verdict."
        )
    else:
        scope = f"Judged on {name} loss over all lifts; P < samples x outputs at each of them."
    first, *evidence = chosen.reasons
    reasons = [*([first] if used else []), *([scope] if runs.done else []), *evidence]
    gap = runs.headline == "test" and chosen.verdict != "falls" and on_training == "falls"
    if gap:
        reasons.append(
            "Training loss falls but held-out loss does not: this is a generalisation gap, due neither to the "
            "optimiser nor to the lift. Raise the number of samples."
        )
    elif runs.headline == "test" and on_training != chosen.verdict:
        reasons.append(f"On training loss alone the verdict would be '{on_training}'.")
    if crowded:
        with_all = (
            "the verdict is the same"
            if everything.verdict == chosen.verdict
            else f"the verdict would be '{everything.verdict}'"
        )
        reasons.append(
            f"Left out as overparametrised, P >= samples x outputs: {_lifts(crowded)}; with them {with_all}."
        )
        if len(used) < 3:
            reasons.append("Raise the number of samples or sweep smaller lifts, so that 3 lifts have P below that.")
    return [*reasons, *_training_reasons(runs, chosen, blame=not gap), *_run_reasons(runs)]


def _training_reasons(runs: StudyRuns, chosen: Judgement, *, blame: bool) -> list[str]:
    concerned = [run for run in runs.done if run.key.lift in chosen.rests_on]
    falling = [run for run in concerned if run.under_trained]
    if chosen.verdict != "falls" and falling and blame:
        what = {"plateaus": "plateau", "rises": "rise"}.get(chosen.verdict, "doubt about the end of the curve")
        extent = "rests on" if 2 * len(falling) >= len(concerned) else "rests in part on"
        return [
            f"The {what} {extent} under-trained runs: {len(falling)} of {len(concerned)} runs at "
            f"{_lifts(chosen.rests_on)} stopped while their loss was still falling. It is not evidence against the "
            "theorem. Train with more steps or for longer, or with a trainer that integrates the gradient flow to "
            "stationarity."
        ]
    total = sum(run.under_trained for run in runs.done)
    if total:
        verb = "run was" if total == 1 else "runs were"
        return [
            f"{total} of {len(runs.done)} {verb} still falling when training stopped; longer training would go lower."
        ]
    return []


def _run_reasons(runs: StudyRuns) -> list[str]:
    planned = len(runs.runs)
    diverged = [run for run in runs.done if run.diverged]
    failed = [run for run in runs.runs if run.status == "failed"]
    missing = [run for run in runs.runs if run.status == "missing"]
    reasons = []
    if diverged:
        reasons.append(f"{_of(diverged, planned)} diverged and rank as the worst loss: {_named(diverged)}.")
    if failed:
        why = f" ({failed[0].error})" if failed[0].error else ""
        reasons.append(f"{_of(failed, planned)} failed: {_named(failed)}{why}. Run the study again once mended.")
    if missing:
        reasons.append(f"{_of(missing, planned)} missing: {_named(missing)}. Run the study again to complete it.")
    return reasons


def _of(runs: Sequence[Run], planned: int) -> str:
    return f"{len(runs)} of {planned} planned runs"


def _named(runs: Sequence[Run]) -> str:
    shown = ", ".join(run.name for run in runs[:_NAMES_SHOWN])
    return shown if len(runs) <= _NAMES_SHOWN else f"{shown} and {len(runs) - _NAMES_SHOWN} more"


def _lifts(lifts: Sequence[int]) -> str:
    if len(lifts) == 1:
        return f"lift {lifts[0]}"
    return f"lifts {', '.join(map(str, lifts))}" if len(lifts) <= 4 else f"lifts {lifts[0]} to {lifts[-1]}"


def _trend(trend: Trend | None) -> dict[str, Any]:
    return {"p_value": None, "statistic": None} if trend is None else asdict(trend)


def _fit(fit: PowerLawFit | None) -> dict[str, Any]:
    if fit is None:
        return {"exponent": None, "exponent_ci": None, "floor": None, "floor_ci": None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(fit).items()}


def _share(share: Proportion) -> list[float]:
    return [share.successes, share.runs, share.low, share.high]
