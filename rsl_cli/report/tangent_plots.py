"""Figures of the tangent approximation: kappa, what it promises of the flow, and the ball around the start."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rsl_cli.report import canvas
from rsl_cli.report.canvas import BLUE, DASHES, GREY, SERIES, VERMILLION, WIDE
from rsl_cli.report.chart_parts import evenly
from rsl_cli.report.diagnostics import Rows
from rsl_cli.report.runs import StudyRuns
from rsl_cli.report.tangent import (
    ROUNDING,
    Curve,
    inside_shares,
    kappa_at_start,
    telling_epsilon,
)
from rsl_cli.report.words import figure_of
from rsl_cli.stats import quantile

Array = NDArray[np.float64]

_MOST_PANELS = 6


def bound(figure: "canvas.Figure", title: str, curves: Sequence[Curve]) -> None:
    """Draw the training losses of some lifts beside their bounds."""
    lifts = evenly(sorted({curve.lift for curve in curves}), _MOST_PANELS)
    figure.set_size_inches(WIDE[0], WIDE[1] if len(lifts) <= _MOST_PANELS // 2 else 6.8)
    columns = len(lifts) if len(lifts) <= _MOST_PANELS // 2 else -(-len(lifts) // 2)
    panels = figure.subplots(-(-len(lifts) // columns), columns, sharex=True, sharey=True, squeeze=False)
    figure.suptitle(title, x=0.01, ha="left")
    shown = [curve for curve in curves if curve.lift in lifts]
    times = np.concatenate([curve.time for curve in shown])
    losses = np.concatenate([part for curve in shown for part in (curve.loss, curve.loss_bound)])
    for i, panel in enumerate(panels.flat):
        if i >= len(lifts):
            panel.set_visible(False)
            continue
        own = [curve for curve in curves if curve.lift == lifts[i]]
        canvas.log_axis(panel, times, "flow time t")
        canvas.loss_axis(panel, losses, "L(t)")
        panel.label_outer()
        # A panel above a hidden one has no neighbour below to carry its labels.
        if i + columns >= len(lifts):
            panel.xaxis.set_tick_params(labelbottom=True)
            panel.set_xlabel("flow time t")
        panel.set_title(f"n = {lifts[i]}", fontweight="normal", fontsize=10)
        for k, curve in enumerate(own):
            label = "training loss L(t), each seed" if k == 0 else None
            panel.plot(curve.time, curve.loss, color=BLUE, linewidth=1.2, alpha=0.8, label=label)
            label = "its bound: at each t the least over ε, with the largest κ measured along its path"
            panel.plot(
                *(curve.time, curve.loss_bound),
                color=VERMILLION,
                linestyle="--",
                linewidth=1.2,
                alpha=0.8,
                label=label if k == 0 else None,
            )
        above = sum(int((curve.loss > curve.loss_bound * (1 + ROUNDING)).sum()) for curve in own)
        text = f"{above} of {sum(curve.time.size for curve in own)} samples\nabove their bound"
        panel.text(0.04, 0.05, text, transform=panel.transAxes, fontsize=8.5, color="#333333")
    canvas.legend(figure, panels[0, 0], below=True)


def bounded(curves: Sequence[Curve]) -> bool:
    """Whether the length of any path is bounded."""
    return any(np.isfinite(curve.length_bound).any() for curve in curves)


def length(figure: "canvas.Figure", title: str, runs: StudyRuns, curves: Sequence[Curve]) -> None:
    """Draw distances from the start against the bounds on the paths' lengths."""
    axes = figure.add_subplot()
    axes.set_title(title)
    pairs = [(curve, np.isfinite(curve.length_bound) & (curve.length_bound > 0)) for curve in curves]
    pairs = [(curve, kept & (curve.distance > 0)) for curve, kept in pairs]
    bounds = np.concatenate([curve.length_bound[kept] for curve, kept in pairs])
    distances = np.concatenate([curve.distance[kept] for curve, kept in pairs])
    label = r"length bound, least over ε of $\sqrt{\kappa}\,\ln((s_0 - s_\epsilon)/(s - s_\epsilon))$"
    canvas.log_axis(axes, bounds, label)
    canvas.loss_axis(axes, [*distances], r"distance $|\theta_t - \theta_0|$")
    colours = canvas.lift_colours(runs.lifts)
    for curve, kept in pairs:
        axes.plot(
            *(curve.length_bound[kept], curve.distance[kept]),
            color=colours[curve.lift],
            marker=".",
            markersize=4,
            linewidth=0.7,
            alpha=0.8,
        )
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    ends = np.array([min(left, low), max(right, high)])
    axes.plot(ends, ends, color="black", linestyle="--", linewidth=1.2, label="distance = bound")
    above = int((distances > bounds * (1 + ROUNDING)).sum())
    label = f"excluded by the bound ({above} of {bounds.size} samples)"
    axes.fill_between(ends, ends, max(right, high), color=GREY, alpha=0.12, linewidth=0, label=label)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    canvas.lift_bar(figure, axes, runs.lifts)
    canvas.legend(figure, axes, below=True, columns=2)


def kappa(figure: "canvas.Figure", title: str, runs: StudyRuns, tangent: Rows) -> None:
    """Draw kappa at the start by lift."""
    start = kappa_at_start(tangent)
    # Targets that no seed of any lift can reach have no point to draw.
    reached = [eps for eps, row in start.items() if any(np.isfinite(kappas).any() for kappas in row.values())]
    shown = evenly(reached or list(start), len(SERIES))
    beyond = [eps for eps in shown if any(np.isinf(kappas).any() for kappas in start[eps].values())]
    strip = 0.16 + 0.2 * len(beyond)
    panels = (
        figure.subplots(2, 1, sharex=True, height_ratios=[strip, 3.6 - strip], squeeze=False)[:, 0]
        if beyond
        else [None, figure.add_subplot()]
    )
    axes = panels[1]
    values = np.concatenate([kappas for eps in shown for kappas in start[eps].values()])
    bottom, _ = canvas.loss_axis(axes, values, r"$\kappa(\theta_0, \epsilon)$")
    for i, eps in enumerate(shown):
        _kappa_series(axes, start[eps], figure_of(eps, tex=True), i, len(shown), bottom)
    if beyond:
        _out_of_reach(panels[0], start, shown, beyond)
    canvas.lift_axis(axes, runs.lifts)
    _not_measured(axes, [lift for lift in runs.lifts if not any(lift in row for row in start.values())])
    (panels[0] or axes).set_title(title)
    canvas.legend(figure, axes)


def _not_measured(axes: "canvas.Axes", lifts: Sequence[int]) -> None:
    """Say at the lifts whose kappa nobody took that it was left out: an empty place would look like an infinite one."""
    for lift in lifts:
        axes.text(
            *(lift, 0.03, "not measured"),
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=8.5,
            color=GREY,
        )


def _kappa_series(axes: "canvas.Axes", row: Mapping[int, Array], name: str, i: int, count: int, bottom: float) -> None:
    (colour, marker), shift = SERIES[i], 2 ** (0.03 * (i - (count - 1) / 2))
    lifts = sorted(row)
    middle, low, high = (
        np.array([canvas.drawable(quantile(row[lift], q)) for lift in lifts]) for q in (0.5, 0.25, 0.75)
    )
    places = np.array(lifts) * shift
    axes.plot(places, middle, color=colour, marker=marker, linestyle=DASHES[i], label=f"ε = {name}")
    axes.vlines(places, low, high, color=colour, linewidth=2.2, alpha=0.45)
    reached = [place for place, lift in zip(places, lifts, strict=True) if (row[lift] == 0).any()]
    if reached:
        counts = sum(int((kappas == 0).sum()) for kappas in row.values())
        label = f"κ = 0: loss ≤ ε at the start ({counts})"
        axes.scatter(reached, [bottom] * len(reached), marker="v", s=34, color=colour, label=label, zorder=4)


def _out_of_reach(
    axes: "canvas.Axes", start: Mapping[float, Mapping[int, Array]], shown: Sequence[float], beyond: Sequence[float]
) -> None:
    axes.set_ylim(len(beyond) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_ylabel(r"$\kappa = \infty$", rotation=0, ha="right", va="center")
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_facecolor("#f4f4f4")
    for line, eps in enumerate(beyond):
        colour, marker = SERIES[shown.index(eps)]
        for lift, kappas in start[eps].items():
            lost = int(np.isinf(kappas).sum())
            if lost:
                axes.scatter([lift / 1.06], [line], marker=marker, s=22, color=colour)
                axes.annotate(
                    f"{lost}/{kappas.size}",
                    (lift / 1.06, line),
                    (5, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7.5,
                    color="#333333",
                )


def inside(figure: "canvas.Figure", title: str, runs: StudyRuns, tangent: Rows) -> None:
    """Draw the shares of seeds whose probes all lie in A(kappa, eps)."""
    found, axes = inside_shares(tangent), figure.add_subplot()
    epsilon = telling_epsilon(found)
    shares, radii = found[epsilon], tangent["distance"][tangent["place"] == "ball"]
    low, high = float(np.nanmin(radii)), float(np.nanmax(radii))
    radius = f"{low:.3g}" if high <= low * 1.001 else f"{low:.3g} to {high:.3g}"
    axes.set_title(
        f"{title}\nSeeds whose probes at distance R = {radius} all lie in A(κ, ε = {figure_of(epsilon, tex=True)})"
    )
    canvas.lift_axis(axes, runs.lifts)
    axes.set_ylim(-0.04, 1.04)
    axes.set_ylabel("share of seeds (95 % exact interval)")
    gap = float(np.diff(np.log2(runs.lifts)).min()) if len(runs.lifts) > 1 else 1.0
    for i, (kappa, row) in enumerate(shares.items()):
        (colour, marker), lifts = SERIES[i], np.array(sorted(row))
        places = lifts * 2 ** (0.04 * gap * (i - (len(shares) - 1) / 2))
        seeds = [row[lift].seeds for lift in lifts]
        share = np.array([one.successes / one.runs for one in seeds])
        errors = [share - [one.low for one in seeds], [one.high for one in seeds] - share]
        name = "any finite κ" if math.isinf(kappa) else f"κ = {figure_of(kappa, tex=True)}"
        axes.plot(places, share, color=colour, marker=marker, label=name)
        axes.errorbar(
            *(places, share),
            yerr=np.clip(errors, 0, 1),
            fmt="none",
            ecolor=colour,
            elinewidth=0.8,
            capsize=2,
            alpha=0.5,
        )
        axes.plot(places, [row[lift].probes for lift in lifts], color=colour, linewidth=0.9, linestyle=":")
    axes.plot([], [], color=GREY, linewidth=0.9, linestyle=":", label="dotted: share of all probes,\nnot independent")
    canvas.legend(figure, axes)
