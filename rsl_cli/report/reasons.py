"""Why a study has its verdict, in plain sentences: the deciding fact first, what to do about it last."""

from collections.abc import Sequence

from rsl_cli.report.judgement import Judgement, Views
from rsl_cli.report.measures import NOTHING, Measures
from rsl_cli.report.runs import IMPLICIT, LOSS_NAMES, Run, StudyRuns
from rsl_cli.report.tangent import Inequality, check_inequality

_NAMES_SHOWN = 6


def give_reasons(runs: StudyRuns, views: Views, measures: Measures = NOTHING) -> list[str]:
    """Return the sentences behind a verdict, the deciding one first.

    Args:
        runs: the study.
        views: its judgements.
        measures: what was measured on its networks.
    """
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
    return [
        *reasons,
        *_training_reasons(runs, chosen, blame=not gap),
        *_target_reasons(runs, chosen),
        *_trainer_reasons(runs),
        *_measured_reasons(measures),
        *_run_reasons(runs),
    ]


def _training_reasons(runs: StudyRuns, chosen: Judgement, *, blame: bool) -> list[str]:
    concerned = [run for run in runs.done if run.key.lift in chosen.rests_on]
    early = [run for run in concerned if run.under_trained]
    if chosen.verdict != "falls" and early and blame:
        extent = "rests on" if 2 * len(early) >= len(concerned) else "rests in part on"
        return [
            f"The {_finding(chosen)} {extent} under-trained runs: {len(early)} of {len(concerned)} runs at "
            f"{_lifts(chosen.rests_on)}. {_how_they_ended(early)} It is not evidence against the theorem. "
            f"{_remedy(early)}"
        ]
    early = [run for run in runs.done if run.under_trained]
    if early:
        verb = "is" if len(early) == 1 else "are"
        return [
            f"{len(early)} of {len(runs.done)} runs {verb} under-trained. {_how_they_ended(early)} {_remedy(early)}"
        ]
    return []


def _how_they_ended(early: Sequence[Run]) -> str:
    """One sentence on runs that are under-trained, by stop reason."""
    ways = {
        "time": "still falling at the end of the flow time",
        "budget": "still falling when the steps ran out",
        "stalled": "stalled, by a step below what float64 resolves or a singular solve",
    }
    counts = {reason: sum(run.stop_reason == reason for run in early) for reason in ways}
    kinds = [f"{count} {ways[reason]}" for reason, count in counts.items() if count]
    return f"Of these, {'; '.join(kinds)}."


def _remedy(early: Sequence[Run]) -> str:
    """Which knob to turn, by what stopped the runs and who trained them."""
    knobs = []
    reasons = {(run.stop_reason, run.trainer in IMPLICIT) for run in early}
    if any(reason == "time" for reason, _ in reasons):
        knobs.append("raise trainer.t_end")
    if ("budget", True) in reasons:
        knobs.append("raise trainer.max_steps")
    if ("budget", False) in reasons:
        knobs.append("raise trainer.steps")
    if any(not implicit for _, implicit in reasons):
        knobs.append("integrate the gradient flow to stationarity with trainer=flow")
    elif any(reason == "stalled" for reason, _ in reasons):
        other = "flow" if any(run.trainer == "lm" for run in early if run.stop_reason == "stalled") else "lm"
        knobs.append(f"compare the stalled runs with trainer={other}")
    return f"To go lower, {', or '.join(knobs)}."


def _target_reasons(runs: StudyRuns, chosen: Judgement) -> list[str]:
    stopped = [run for run in runs.done if run.stop_reason == "target"]
    if not stopped:
        return []
    count = f"{len(stopped)} of {len(runs.done)} runs stopped at the target loss they were asked for"
    if chosen.verdict != "falls" and any(run.key.lift in chosen.rests_on for run in stopped):
        return [f"{count}, and the {_finding(chosen)} rests on some of them: lower the target to see further."]
    return [f"{count}; training on would go lower."]


def _trainer_reasons(runs: StudyRuns) -> list[str]:
    if all(run.trainer != "lm" for run in runs.done):
        return []
    return ["Trained by Levenberg-Marquardt: end points only, not the flow's path."]


def _measured_reasons(measures: Measures) -> list[str]:
    reasons = []
    if len(measures.tangent):
        found = check_inequality(measures.tangent)
        if found.checked:
            reasons.append(_inequality_sentence(found))
        else:
            reasons.append("The Kurdyka-Lojasiewicz inequality could not be checked: no kappa is finite and positive.")
    if measures.unreadable:
        names = _listed(measures.unreadable)
        reasons.append(f"Left out, since they cannot be read: {names}. Delete those runs' folders and run again.")
    return reasons


def _inequality_sentence(found: Inequality) -> str:
    times = "violation" if found.violations == 1 else "violations"
    points = "point" if found.points == 1 else "points"
    lifts = f"lift{'s' if len(found.lifts) > 1 else ''} {', '.join(map(str, found.lifts))}"
    sentence = (
        f"The Kurdyka-Lojasiewicz inequality was checked at {found.points} {points} of training, {lifts}, for every "
        f"target loss below the point's, with {found.violations} {times}; the least slack is {found.least_slack:.3g}."
    )
    if found.violations:
        sentence += f" The worst is in {found.worst}: its loss, gradient or kappa is wrong."
    return sentence


def _finding(chosen: Judgement) -> str:
    return {"plateaus": "plateau", "rises": "rise"}.get(chosen.verdict, "doubt about the end of the curve")


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
    return _listed([run.name for run in runs])


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def _lifts(lifts: Sequence[int]) -> str:
    if len(lifts) == 1:
        return f"lift {lifts[0]}"
    return f"lifts {', '.join(map(str, lifts))}" if len(lifts) <= 4 else f"lifts {lifts[0]} to {lifts[-1]}"
