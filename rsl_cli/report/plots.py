"""The figures of a study. What diverged or reached zero is marked at the edge of the plot.

Every run is shown, up to a number of seeds of each lift; medians, quartiles and shares are those of all.
"""

import math

import numpy as np
from numpy.typing import NDArray

from rsl_cli.report import canvas
from rsl_cli.report.canvas import BLUE, DASHES, GREEN, GREY, ORANGE, SERIES, VERMILLION
from rsl_cli.report.runs import LOSS_NAMES, MOST_SHOWN, Run, StudyRuns, Which
from rsl_cli.report.verdict import learning_numbers, success_by_epsilon
from rsl_cli.report.words import figure_of
from rsl_cli.stats import Law, quantile

_LOSS_STYLES: dict[Which, tuple[str, str, str]] = {"test": (BLUE, "o", "-"), "train": (ORANGE, "s", "--")}
_DODGE: dict[Which, float] = {"test": -0.007, "train": 0.007}
"""How far the two losses of a run stand apart, as shares of the axis: one would hide the other."""


def losses(figure: "canvas.Figure", title: str, runs: StudyRuns, fit: Law | None, *, by_lift: bool) -> None:
    """Draw final losses against the number of parameters or the lift, and the law of their limits, if there is one."""
    axes = figure.add_subplot()
    views: tuple[Which, ...] = ("test", "train") if runs.headline == "test" else ("train",)
    all_losses = [run.loss(view) for view in views for run in runs.with_loss(view)]
    lows = [run.limit(runs.headline).low for run in runs.done]
    extra = [low for low in lows if low > 0] + ([fit.floor] if fit is not None and fit.floor is not None else [])
    bottom, top = canvas.loss_axis(axes, [*all_losses, *extra], f"loss ({canvas.plain(runs.loss_unit)})")
    axes.set_title(title)
    if by_lift:
        canvas.lift_axis(axes, runs.lifts)
        _shade_lifts(axes, runs)
    else:
        canvas.params_axis(axes, [run.params for run in runs.done], runs.limit)
        canvas.shade_dense(axes, runs.sparse_params)
    if not runs.done:
        canvas.note(axes, "no run has finished")
        return
    for view in views:
        _points(axes, runs, view, by_lift, bottom)
    _mark_runs(axes, runs, by_lift, top)
    _limit_bars(axes, runs, by_lift, bottom)
    if fit is not None:
        _draw_fit(axes, runs, fit, by_lift)
    canvas.legend(figure, axes)


def _points(axes: "canvas.Axes", runs: StudyRuns, view: Which, by_lift: bool, bottom: float) -> None:
    colour, marker, line = _LOSS_STYLES[view]
    found, name = runs.with_loss(view), LOSS_NAMES[view]
    # Hollow and filled alone are lost where points pile up, so the losses stand a little apart as well.
    dodge = _dodge(axes, runs, view)
    fill = colour if view == runs.headline else "none"
    zero = [run for run in found if run.loss(view) <= 0]
    if zero:
        axes.scatter(
            *([_place(run, by_lift) * dodge for run in zero], [bottom] * len(zero)),
            s=34,
            marker="v",
            facecolors=fill,
            edgecolors=colour,
            label=f"{name} loss is zero ({len(zero)})",
            zorder=4,
        )
    inside = [run for run in runs.shown if 0 < run.loss(view) < math.inf]
    if not inside:
        return
    seeds = "each seed" if len(runs.shown) == len(runs.done) else f"{MOST_SHOWN} seeds a lift"
    axes.scatter(
        *([_place(run, by_lift) * dodge for run in inside], [run.loss(view) for run in inside]),
        s=24,
        marker=marker,
        facecolors=fill,
        edgecolors=colour,
        alpha=0.75,
        linewidths=1.0,
        label=f"{name} loss, {seeds}",
        zorder=3,
    )
    groups = [[run for run in found if run.key.lift == lift] for lift in sorted({run.key.lift for run in found})]
    centre = [float(np.median([_place(run, by_lift) for run in group])) * dodge for group in groups]
    middle, low, high = (
        np.array([canvas.drawable(quantile([run.loss(view) for run in group], q)) for group in groups])
        for q in (0.5, 0.25, 0.75)
    )
    axes.plot(centre, middle, color=colour, linestyle=line, label=f"{name} loss, median", zorder=3)
    if max((len(group) for group in groups), default=0) > 1:
        axes.fill_between(centre, low, high, color=colour, alpha=0.2, linewidth=0, label=f"{name} loss, quartiles")


def _mark_runs(axes: "canvas.Axes", runs: StudyRuns, by_lift: bool, top: float) -> None:
    under = [run for run in runs.done if run.under_trained and 0 < run.loss(runs.headline) < math.inf]
    dodge = _dodge(axes, runs, runs.headline)
    if under:
        drawn = [run for run in runs.shown if run.under_trained and 0 < run.loss(runs.headline) < math.inf]
        axes.scatter(
            *([_place(run, by_lift) * dodge for run in drawn], [run.loss(runs.headline) for run in drawn]),
            s=85,
            marker="o",
            facecolors="none",
            edgecolors=VERMILLION,
            linewidths=1.3,
            label=f"under-trained ({len(under)})",
            zorder=5,
        )
    beyond = [run for run in runs.done if not math.isfinite(run.loss(runs.headline))]
    if beyond:
        places = [_place(run, by_lift) for run in beyond]
        label = f"diverged ({len(beyond)})"
        axes.scatter(places, [top] * len(beyond), s=40, marker="x", color="black", label=label, zorder=5)


def _limit_bars(axes: "canvas.Axes", runs: StudyRuns, by_lift: bool, bottom: float) -> None:
    """A bar from each loss down to the least that its limit can be, an arrow where that is 0."""
    dodge = _dodge(axes, runs, runs.headline)
    finite = [run for run in runs.done if 0 < run.loss(runs.headline) < math.inf]
    shown = [run for run in runs.shown if 0 < run.loss(runs.headline) < math.inf]
    known = [run for run in shown if run.limit(runs.headline).low > 0]
    if known:
        axes.vlines(
            [_place(run, by_lift) * dodge for run in known],
            [run.limit(runs.headline).low for run in known],
            [run.limit(runs.headline).high for run in known],
            color=BLUE,
            linewidth=1.0,
            alpha=0.6,
            label="where its limit lies",
        )
    open_ = [run for run in shown if run.limit(runs.headline).low <= 0]
    if open_:
        places = [_place(run, by_lift) * dodge for run in open_]
        losses = np.array([run.loss(runs.headline) for run in open_])
        # Each arrow goes a tenth of the axis's decades down: how far the limit lies below is not known.
        low, high = np.log10(axes.get_ylim())
        length = np.minimum(10 ** (0.1 * (high - low)), losses / bottom)
        axes.errorbar(
            *(places, losses),
            yerr=[losses - losses / np.maximum(length, 1.0), np.zeros(losses.size)],
            fmt="none",
            ecolor=BLUE,
            elinewidth=0.7,
            alpha=0.5,
            uplims=True,
            label=f"limit open below ({sum(run.limit(runs.headline).low <= 0 for run in finite)})",
        )


def law_span(runs: StudyRuns, fit: Law) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where a law may be drawn: parameters and degrees of the lifts whose limits it was fitted to, both ascending.

    It is fitted to lifts all of whose runs have shown their limits, and says nothing of the others. Nothing is returned
    where it runs past the seeds of the largest of them, or of half of them: what is drawn must look true.

    Returns:
        Two arrays, (lifts,), of parameters and of degrees; empty where the law may not be drawn.
    """
    params, lifts, met = [], [], []
    for lift in runs.lifts:
        done = [run for run in runs.at(lift) if run.status == "done"]
        limits = [run.limit(runs.headline) for run in done]
        if lift in runs.overparametrised_lifts or not done or not all(limit.finished for limit in limits):
            continue
        params.append(float(np.median([run.params for run in done])))
        lifts.append(float(lift))
        value = float(fit.predict(np.array(params[-1])))
        met.append(min(limit.low for limit in limits) <= value <= max(limit.high for limit in limits))
    if len(lifts) < 2 or not met[-1] or sum(met) <= len(met) / 2:
        return np.array([]), np.array([])
    order = np.argsort(params)
    return np.array(params)[order], np.array(lifts)[order]


def law_points(runs: StudyRuns, law: Law | None) -> list[dict[str, float]]:
    """Points of a law where it may be drawn, for a page: ``params``, ``lift`` and ``loss``."""
    params, lifts = (np.array([]), np.array([])) if law is None else law_span(runs, law)
    if law is None or not params.size:
        return []
    grid = np.geomspace(params[0], params[-1], 60)
    degrees = np.exp(np.interp(np.log(grid), np.log(params), np.log(lifts)))
    return [
        {"params": float(f"{p:.4g}"), "lift": float(f"{n:.4g}"), "loss": float(f"{loss:.4g}")}
        for p, n, loss in zip(grid, degrees, law.predict(grid), strict=True)
    ]


def _draw_fit(axes: "canvas.Axes", runs: StudyRuns, fit: Law, by_lift: bool) -> None:
    params, lifts = law_span(runs, fit)
    if not params.size:
        return
    grid = np.geomspace(params[0], params[-1], 200)
    place = np.exp(np.interp(np.log(grid), np.log(params), np.log(lifts))) if by_lift else grid
    low, high = fit.exponent_ci
    law = f"{'floor + ' if fit.floor is not None else ''}a P$^{{-b}}$"
    label = f"fit: {law},\nb = {fit.exponent:.2f} [{low:.2f}, {high:.2f}]"
    axes.plot(place, fit.predict(grid), color="black", linestyle=":", linewidth=1.8, label=label, zorder=4)
    if fit.floor is not None:
        label = f"fitted floor, {figure_of(fit.floor, tex=True)}"
        axes.axhline(fit.floor, color=GREY, linestyle="-.", linewidth=1.2, label=label)


def _shade_lifts(axes: "canvas.Axes", runs: StudyRuns) -> None:
    crowded = runs.overparametrised_lifts
    canvas.shade_dense(axes, runs.sparse_from)
    if not crowded:
        return
    left, right = axes.get_xlim()
    before = [lift for lift in runs.lifts if lift < crowded[0]]
    start = math.sqrt(before[-1] * crowded[0]) if before else left
    axes.axvspan(start, right, color=GREY, alpha=0.12, linewidth=0, label="overparametrised, P ≥ N k")
    axes.set_xlim(left, right)


def success(figure: "canvas.Figure", title: str, runs: StudyRuns, delta: float) -> None:
    """Draw the shares of seeds that reach a target, beside the share 1 - delta."""
    axes = figure.add_subplot()
    axes.set_title(title)
    canvas.lift_axis(axes, runs.lifts)
    axes.set_ylim(-0.04, 1.04)
    axes.set_ylabel(f"share of seeds with {LOSS_NAMES[runs.headline]} loss ≤ ε (95 % exact interval)")
    table = success_by_epsilon(runs)
    if not table:
        canvas.note(axes, "no run has a finite loss")
        return
    chosen = _telling(list(table), [sum(share.successes for share in row.values()) for row in table.values()])
    axes.axhline(1 - delta, color=GREY, linestyle=":", linewidth=1.2, label=f"1 − δ = {1 - delta:g}")
    gap = float(np.diff(np.log2(runs.lifts)).min()) if len(runs.lifts) > 1 else 1.0
    for i, key in enumerate(chosen):
        (colour, marker), row = SERIES[i], table[key]
        shift = 2 ** (0.04 * gap * (i - (len(chosen) - 1) / 2))
        lifts = np.array(sorted(row))
        share = np.array([row[lift].successes / row[lift].runs for lift in lifts])
        below = share - np.array([row[lift].low for lift in lifts])
        above = np.array([row[lift].high for lift in lifts]) - share
        drawn = axes.errorbar(
            *(lifts * shift, share),
            yerr=np.clip([below, above], 0, 1),
            color=colour,
            marker=marker,
            linestyle=DASHES[i],
            linewidth=1.3,
            elinewidth=0.8,
            capsize=2,
            label=f"ε = {figure_of(float(key), tex=True)}",
        )
        for part in (*drawn.lines[1], *drawn.lines[2]):
            part.set_alpha(0.5)
    canvas.legend(figure, axes)


def _telling(keys: list[str], successes: list[int]) -> list[str]:
    """Up to six targets, evenly over those that some seeds reach and others miss; equal curves are shown once."""
    best = max(successes)
    distinct = [i for i, count in enumerate(successes) if count > 0 and (i == 0 or count != successes[i - 1])]
    partial = [i for i in distinct if successes[i] < best] or distinct[:1] or [len(keys) - 1]
    count = min(len(SERIES), len(partial))
    return [keys[partial[i]] for i in np.unique(np.linspace(0, len(partial) - 1, count).round().astype(int))]


def learning_number(figure: "canvas.Figure", title: str, runs: StudyRuns, delta: float) -> None:
    """Draw the lifts from which on a target is reached, by some seed and by a share of 1 - delta."""
    axes = figure.add_subplot()
    axes.set_title(title)
    numbers = learning_numbers(runs, delta)
    witness = runs.witness_degree
    canvas.log_axis(axes, numbers, f"target {LOSS_NAMES[runs.headline]} loss ε ({canvas.plain(runs.loss_unit)})")
    canvas.lift_axis(axes, [*runs.lifts, *([] if witness is None else [witness])], vertical=True)
    if not numbers:
        canvas.note(axes, "no run has a finite loss")
        return
    targets = np.array(list(numbers))
    some = np.array([_degree(number) for number, _ in numbers.values()])
    point, low, high = (
        np.array([_degree(getattr(learnt, name)) for _, learnt in numbers.values()])
        for name in ("point", "low", "high")
    )
    # Unknown upper ends lie beyond the sweep; the band runs off the plot there.
    reach = np.where(np.isnan(high), axes.get_ylim()[1], high)
    where = np.isfinite(low).tolist()
    label = "interval of the learning number\n(open at the top: beyond the sweep)"
    axes.fill_between(targets, low, reach, where=where, color=BLUE, alpha=0.15, linewidth=0, label=label)
    axes.plot(targets, point, color=BLUE, marker="o", label=f"learning number, δ = {delta:g}")
    label = "approximation number\n(upper bound: some seed reached it)"
    axes.plot(targets, some, color=VERMILLION, marker="s", markersize=8, mfc="none", linestyle="--", label=label)
    if witness is not None:
        axes.axhline(witness, color=GREEN, linestyle="-.", label=f"planted witness, n = {witness}")
    if not np.isfinite(some).any():
        canvas.note(axes, "no target was reached")
    canvas.legend(figure, axes)


def _degree(value: int | None) -> float:
    return math.nan if value is None else float(value)


def _dodge(axes: "canvas.Axes", runs: StudyRuns, view: Which) -> float:
    """The factor by which a loss's marks stand aside on a logarithmic axis; 1 where there is but one loss."""
    low, high = axes.get_xlim()
    return (high / low) ** _DODGE[view] if runs.headline == "test" else 1.0


def _place(run: Run, by_lift: bool) -> float:
    return float(run.key.lift) if by_lift else run.params
