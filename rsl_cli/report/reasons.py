"""Why a study has its verdict, in plain sentences: the deciding fact first, what to do about it last."""

import math
import shlex
from collections.abc import Sequence

from rsl_cli.report.checks import check_reasons
from rsl_cli.report.diagnostics import NOTHING, DiagnosticTables
from rsl_cli.report.judgement import ALPHA, Judgement, Views
from rsl_cli.report.outlook import Outlook, Success
from rsl_cli.report.runs import LOSS_NAMES, Run, StudyRuns
from rsl_cli.report.tangent import Inequality, check_inequality
from rsl_cli.stats import JointLaw, Trend, quantile

DISSIPATION = 0.1
"""A recorded gradient may differ from the flow's, |grad L|^2 = -dL/dt, by this share."""
GAP = 2.0
"""A generalisation gap: held-out limits surely this many times the training losses, in the median of the last lift."""
_NAMES_SHOWN = 6
_NOTHING = 1e-6
"""An exponent below which nobody tells it from 0."""


def give_headline(runs: StudyRuns, chosen: Judgement) -> str:
    """Return one line that is true when quoted alone."""
    used = _judged(runs)
    open_ = [run for run in runs.done if run.under_trained]
    still = f"; {len(open_)} of {len(runs.done)} runs still falling" if open_ else ""
    sure = f"{_factor(chosen.fall)}-fold " if chosen.fall > 1.05 else ""
    name = f"the limit of the {LOSS_NAMES[runs.headline]} loss"
    if runs.compared_at_target:
        name = "the held-out loss at one training loss"
    if chosen.verdict == "falls":
        last = chosen.arrived or used[-1]
        span = f"{sure}over n x {last / used[0]:.3g}: {name}, from lift {used[0]} to {last}"
        end = ", from which on every run reaches its target" if chosen.arrived else ""
        return f"FALLS {span}{end}{still}"
    if chosen.verdict == "plateaus":
        return f"PLATEAUS: {name} is level at {chosen.level:.2g} from lift {chosen.since} on"
    if chosen.verdict == "rises":
        return f"RISES: {name} is higher at lift {used[-1]} than at lift {chosen.since}"
    if chosen.verdict == "unfinished":
        lifts = _lifts(chosen.rests_on)
        known = f"falls {sure}for certain, but whether to the end is open: " if sure else ""
        return f"UNFINISHED: {known}it hangs on the runs at {lifts}, stopped before they showed {name}"
    return f"INCONCLUSIVE: {chosen.why}"


def give_reasons(
    runs: StudyRuns,
    views: Views,
    success: Success | None = None,
    outlook: Outlook | None = None,
    joint: JointLaw | None = None,
    diagnostics: DiagnosticTables = NOTHING,
) -> list[str]:
    """Return the sentences behind a verdict, the deciding one first.

    Args:
        runs: the study.
        views: its judgements.
        success: the reading of its success table.
        outlook: when it is predicted to decide.
        joint: the law of lift and clock.
        diagnostics: what was measured on its networks.
    """
    chosen, crowded = views.headline, runs.overparametrised_lifts
    used = _judged(runs)
    reasons = [_sentence(chosen.why)] if used or not runs.done else []
    if runs.done:
        reasons.append(_scope(runs, used))
    if chosen.trend is not None:
        reasons.append(_trend_sentence(chosen.trend))
    reasons += [
        *_clock_reasons(runs, chosen, outlook),
        *_law_reasons(runs, chosen),
        *_joint_reasons(joint),
        *_success_reasons(success),
    ]
    reasons += _other_views(runs, views)
    if crowded and len(used) < 3:
        reasons.append(
            f"Raise the number of samples above {int(max(run.params for run in runs.done)):,}, or sweep smaller lifts, "
            "so that 3 lifts have fewer parameters than samples x outputs."
        )
    return [
        *reasons,
        *([runs.trainer.remark] if runs.done and runs.trainer.remark else []),
        *_measured_reasons(diagnostics),
        *_identity_reasons(runs),
        *_run_reasons(runs),
    ]


def worst_dissipation(runs: StudyRuns) -> float:
    """The |grad L|^2 / (-dL/dt) farthest from 1 at any recorded point of any run; NaN where none was recorded."""
    found = [run.dissipation for run in runs.done if run.dissipation > 0]
    return max(found, key=lambda ratio: abs(math.log(ratio)), default=math.nan)


def _judged(runs: StudyRuns) -> list[int]:
    """The lifts that the verdict is about: not overparametrised, and with a run that finished."""
    finished = {run.key.lift for run in runs.done}
    return [lift for lift in runs.lifts if lift in finished and lift not in runs.overparametrised_lifts]


def _scope(runs: StudyRuns, used: Sequence[int]) -> str:
    name = LOSS_NAMES[runs.headline]
    if not used:
        return "Every lift with a result is overparametrised, P >= samples x outputs, so none is left for the verdict."
    if runs.overparametrised_lifts:
        return f"Judged on {name} loss over {_lifts(used)}, where P < samples x outputs."
    return f"Judged on {name} loss over all lifts; P < samples x outputs at each of them."


def _trend_sentence(trend: Trend) -> str:
    p_value = trend.p_value if trend.direction == "falling" else trend.p_rising
    if not trend.comparable:
        return (
            f"No trend: over {trend.seeds} seeds and {trend.lifts} lifts, no two limits of a seed are known to differ."
        )
    strength = "significant" if p_value < ALPHA else "not significant"
    known = (
        "" if trend.comparable == trend.pairs else f" ({trend.comparable} of {trend.pairs} pairs of limits are known)"
    )
    return (
        f"Trend test over {trend.seeds} seeds and {trend.lifts} lifts{known}: {trend.direction}, {_chance(p_value)} "
        f"({trend.method} permutations within seeds), {strength} at {ALPHA:g}."
    )


def _clock_reasons(runs: StudyRuns, chosen: Judgement, outlook: Outlook | None) -> list[str]:
    open_ = [run for run in runs.done if run.under_trained]
    target = [run for run in runs.done if run.stop_reason == "target"]
    reasons = []
    if open_:
        verb = "had" if len(open_) > 1 else "has"
        reasons.append(
            f"{len(open_)} of {len(runs.done)} runs {verb} not shown the limit when they ended: "
            f"{_how_they_ended(open_)}. The losses reached there are upper bounds of the limits, and nothing more."
        )
    if target:
        reasons.append(f"{len(target)} of {len(runs.done)} runs stopped at the target loss they were asked for.")
    saddles = [run.name for run in runs.done if run.saddle]
    if saddles:
        count = f"{len(saddles)} of {len(runs.done)} runs that seem to rest are"
        reasons.append(
            f"{count} at a saddle, by the Hessian's least eigenvalue, so that no tail bounds their limits: "
            f"{_listed(saddles)}."
        )
    if chosen.verdict != "unfinished":
        return reasons
    if outlook is not None:
        cost = "" if outlook.minutes is None else f", in about {max(1, round(outlook.minutes))} min"
        by_steps = runs.trainer.clock == "step"
        goal = f"{outlook.time:.0f} steps" if by_steps else f"t = {outlook.time:.0e}"
        words = (
            f"The other lifts' limits predict the decision at {goal}{cost}"
            if outlook.foreseen
            else f"Too few lifts have shown a limit to predict when it decides; {goal} will tell more{cost}"
        )
        value = f"{outlook.time:.0f}" if by_steps else f"{outlook.time:.0e}"
        reasons.append(f"{words}: {paste(runs, f'{outlook.key}={value}')}")
    elif open_ and runs.trainer.clock is None:
        # An experiment may set keys that the flow does not have, and for classes it wants a target (trainer.epsilon).
        given = [str(word) for word in runs.study.get("line") or []]
        plain = "cross-entropy" not in runs.loss_unit and not any(word.startswith("experiment=") for word in given)
        line = f": {paste(runs, 'trainer=flow', study=True)}" if plain else " (trainer=flow)."
        reasons.append(
            "A trainer that is on no flow's clock (a rate that falls to zero, noise of batches, Adam) shows no limit "
            f"unless it comes to rest; gradient flow does{line}"
        )
    return reasons


def paste(runs: StudyRuns, change: str, *, study: bool = False) -> str:
    """Return the study's command line with a change, to be pasted; ``study``: it is another study then."""
    key, line = change.partition("=")[0], runs.study.get("line")
    if not isinstance(line, list):
        return f"rsl run ... {change}, the dots being the words that made this study"
    dropped = (f"{key}=", f"{key}.", "study=") if study else (f"{key}=",)
    return shlex.join(["rsl", "run", *(str(word) for word in line if not str(word).startswith(dropped)), change])


def _how_they_ended(open_: Sequence[Run]) -> str:
    ways = {
        "time": "at the end of the flow time",
        "budget": "when the steps ran out",
        "stalled": "stalled, by a step below what float64 resolves or a singular solve",
    }
    counts = {reason: sum(run.stop_reason == reason for run in open_) for reason in ways}
    return "; ".join(f"{count} {ways[reason]}" for reason, count in counts.items() if count) or "for other reasons"


def _law_reasons(runs: StudyRuns, chosen: Judgement) -> list[str]:
    law, reasons = chosen.law, []
    name = "losses at one training loss" if runs.compared_at_target else "limits"
    if law is not None:
        floor = "floor + " if law.floor is not None else ""
        power = _exponent(law.exponent, law.exponent_ci, 3)
        reasons.append(f"The {name} follow {floor}a P^-b, b = {power} (95 %; lack of fit: p = {law.lack_of_fit:.2g}).")
        if law.floor is not None and law.floor_ci is not None:
            reasons.append(f"That law's floor is {_between(law.floor, law.floor_ci)}.")
    elif chosen.shape != "none":
        words = {"bends": "bend: they fall ever more slowly", "two regimes": "show two regimes"}
        reasons.append(
            f"No power law fits the {name}; in log-log they {words.get(chosen.shape, 'fall ' + chosen.shape)}."
        )
    if chosen.exponents:
        steps = ", ".join(
            f"{_exponent(e.exponent, e.interval)} ({e.between[0]} to {e.between[1]})" for e in chosen.exponents[-6:]
        )
        reasons.append(f"Local exponents of the losses reached, -d log L / d log P from lift to lift: {steps}.")
    return reasons


def _joint_reasons(joint: JointLaw | None) -> list[str]:
    if joint is None:
        return []
    clock = (
        f"what has still to fall goes like P^-d t^-p, d = {_between(joint.clock_params, joint.clock_params_ci)}, "
        f"p = {_between(joint.clock_time, joint.clock_time_ci)}"
    )
    if joint.limit_exponent is None:
        limit = "no limit shows in them yet"
    else:
        floor = "" if joint.floor is None else f"above a floor of {_between(joint.floor, joint.floor_ci)}, "
        limit = f"{floor}the limits go like P^-b, b = {_between(joint.limit_exponent, joint.limit_exponent_ci)}"
    return [f"Lift and clock together: {clock}; {limit} (rms misfit of log loss {joint.misfit:.2g})."]


def _chance(p_value: float) -> str:
    """A p-value as far as float64 tells it."""
    return f"p = {p_value:.2g}" if p_value > 1e-15 else "p < 1e-15"


def _exponent(value: float, interval: tuple[float, float], digits: int = 2) -> str:
    """An exponent with its interval; where rounding is all there is of it, a bound."""
    largest = max(map(abs, interval))
    return f"0 within {_NOTHING:g}" if largest < _NOTHING else _between(value, interval, digits)


def _between(value: float, interval: tuple[float, float] | None, digits: int = 2) -> str:
    """A figure with its interval; without, where seeds agree to the last digit: no noise tells how sure it is."""
    if interval is None or interval[1] - interval[0] <= 1e-9 * abs(value) + 1e-300:
        return f"{value:.{digits}g}"
    return f"{value:.{digits}g} [{interval[0]:.{digits}g}, {interval[1]:.{digits}g}]"


def _success_reasons(success: Success | None) -> list[str]:
    if success is None or success.last.successes == 0:
        return []
    first, last = success.first, success.last
    words = {
        "reached": f"that is surely at least 1 - delta from lift {success.from_lift} on",
        "rises": "the share rises",
        "fails": "that is surely too few, and the share does not rise",
        "undecided": "too few seeds to say that the share tends to one",
    }[success.verdict]
    stopped = f"{success.open} stopped runs" if success.open > 1 else "stopped run"
    open_ = f", wherever the {stopped} would end" if success.open else ""
    more = "" if success.verdict == "reached" else f"; {success.seeds} seeds, all successful, would make it certain"
    return [
        f"Success at eps = {success.epsilon:g}: {first.successes} of {first.runs} seeds at the smallest lift, "
        f"{last.successes} of {last.runs} [{last.low:.3g}, {last.high:.3g}] at the largest; {words} "
        f"(exact trend test{open_}: {_chance(success.p_value)}){more}."
    ]


def _other_views(runs: StudyRuns, views: Views) -> list[str]:
    chosen, reasons = views.headline, []
    on_training = views.by_loss["train"]
    if runs.headline == "test" and on_training.verdict != chosen.verdict:
        ratio = _gap(runs)
        if chosen.verdict in ("plateaus", "rises") and on_training.verdict == "falls" and ratio >= GAP:
            reasons.append(
                "Training loss falls and held-out loss does not, being "
                f"{ratio:.2g} times as large at the largest lift: a generalisation gap. Raise the number of samples."
            )
        else:
            reasons.append(f"On training loss alone the verdict would be '{on_training.verdict}'.")
    if runs.overparametrised_lifts:
        reasons.append(
            f"Left out as overparametrised, P >= samples x outputs: {_lifts(runs.overparametrised_lifts)}; "
            f"with them {_would_be(views.with_overparametrised, chosen)}."
        )
    if runs.dense_lifts:
        reasons.append(
            f"Dense, not sparse, since the in-degree reaches a fibre: {_lifts(runs.dense_lifts)}; "
            f"without {'them' if len(runs.dense_lifts) > 1 else 'it'} {_would_be(views.without_dense, chosen)}."
        )
    return reasons


def _would_be(other: Judgement, chosen: Judgement) -> str:
    return "the verdict is the same" if other.verdict == chosen.verdict else f"the verdict would be '{other.verdict}'"


def _gap(runs: StudyRuns) -> float:
    """How many times the lower end of the held-out limit is the training loss, in the median of the last lift."""
    last = [run for run in runs.done if run.key.lift == max(other.key.lift for other in runs.done)]
    ratios = [run.test_limit.low / run.train_loss for run in last if run.train_loss > 0]
    return quantile(ratios, 0.5) if ratios else math.nan


def _identity_reasons(runs: StudyRuns) -> list[str]:
    worst = worst_dissipation(runs)
    if math.isnan(worst):
        if not runs.done or runs.trainer.clock != "time":
            return []
        return [
            "Recorded gradients were not checked against the flow's, |grad L|^2 = -dL/dt: the runs are older than that."
        ]
    inside = abs(worst - 1) <= DISSIPATION
    return [
        f"Recorded gradients obey |grad L|^2 = -dL/dt; the worst of all points is {worst:.3g} times the flow's."
        if inside
        else f"Recorded gradients break |grad L|^2 = -dL/dt, the worst by {worst:.3g}: lower trainer.rtol."
    ]


def _measured_reasons(diagnostics: DiagnosticTables) -> list[str]:
    reasons = []
    if len(diagnostics.tangent):
        found = check_inequality(diagnostics.tangent)
        if found.checked:
            reasons.append(_inequality_sentence(found))
        else:
            reasons.append("The Kurdyka-Lojasiewicz inequality could not be checked: no kappa is finite and positive.")
    reasons += check_reasons(diagnostics.coordinates, diagnostics.ntk)
    if diagnostics.unreadable:
        names = _listed(diagnostics.unreadable)
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


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _factor(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 100 else f"{float(f'{ratio:.2g}'):,.0f}" if ratio < 1e6 else f"{ratio:.1e}"
