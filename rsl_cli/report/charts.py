"""Charts of losses for the page, over the tables of `page_data`: hover, follow a lift or a seed, switch."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

from rsl_cli.report.chart_parts import (
    ACCENT,
    ALARM,
    FAINT,
    HEIGHT,
    INK,
    LIMIT,
    OTHERS,
    LossAxis,
    alt,
    by_lift,
    dodged,
    evenly,
    fading,
    layered,
    lift_axis,
    log_axis,
    named,
    over,
    share_axis,
    tips,
)
from rsl_cli.report.page_data import Data, column, ranges
from rsl_cli.report.runs import LOSS_NAMES, StudyRuns

ISOCHRONES = LossAxis("isochrones", ("", "_q1", "_q3"), (("lifts", "low"), ("lifts", "high")))
POINTS = LossAxis("points", limits=(("points", "low"),))
CURVES = LossAxis("curves")


def size_axes(runs: StudyRuns, data: Data) -> dict[str, dict[str, Any]]:
    """Return the horizontal encodings by number of parameters and by lift, between which a page switches."""
    params, title = ranges(data, ("points", "params")), "parameters P"
    if runs.limit and _near(runs, data):
        params.append(runs.limit)
    elif runs.limit and params:
        title += f" ({'all below' if runs.limit > max(params) else 'none below'} N k = {runs.limit:,.0f})"
    axes = {
        "params": alt.X("params:Q", **log_axis(params, title)).to_dict(),
        "lift": alt.X("lift:Q", **lift_axis(runs.lifts)).to_dict(),
    }
    return cast(dict[str, dict[str, Any]], axes)


def isochrones_chart(runs: StudyRuns, data: Data) -> "alt.LayerChart":
    """Medians by size at the slider's time, above where the limits lie."""
    size, scale = alt.X("@size:Q"), ISOCHRONES.both(data)
    loss = alt.Y("@loss:Q", **scale)
    base = over("isochrones")
    ages = base.transform_filter("datum.whole").mark_line(strokeWidth=1, color=FAINT).encode(size, loss, detail="k:N")
    known = (
        over("lifts")
        .transform_filter("isValid(datum.low) && headline")
        .mark_rule(color=LIMIT, strokeWidth=7, opacity=0.45, clip=True)
    )
    open_ = over("lifts").transform_filter("datum.open && headline")
    limits = [
        known.encode(
            size, alt.Y("low:Q"), alt.Y2("high:Q"), tooltip=tips("lift:N", "low:Q=limit at least", "high:Q=at most")
        ),
        open_.mark_point(shape="triangle-down", color=LIMIT, filled=True, size=70, yOffset=14, opacity=0.75).encode(
            size, alt.Y("high:Q"), tooltip=tips("lift:N", "high:Q=limit open below")
        ),
    ]
    now = base.transform_filter("datum.k == at")
    shown = tips(
        "lift:N", "params:Q=P", "t:Q=time", "@loss:Q=median", "@loss_q1:Q=lower quartile", "@loss_q3:Q=upper quartile"
    )
    line = now.mark_line(strokeWidth=2.5, color=ACCENT).encode(size, loss)
    bars = now.mark_rule(strokeWidth=2, color=ACCENT, opacity=0.5).encode(
        size, alt.Y("@loss_q1:Q"), alt.Y2("@loss_q3:Q")
    )
    dots = now.mark_point(filled=True, size=75, color=ACCENT, opacity=1).encode(
        size, loss, tooltip=[*shown, *tips("seeds:Q")], opacity=fading(1)
    )
    largest, marked, gap = _apart(data["isochrones"], math.log(scale["scale"].domain[1] / scale["scale"].domain[0]))
    ends = (
        base.transform_filter(f"datum.lift == {largest} && (datum.k == at || (indexof({marked}, datum.k) >= 0))")
        .transform_calculate(own="datum.k == at ? datum['@loss'] : null")
        .transform_joinaggregate(chosen="max(own)")
        .transform_filter(f"datum.k == at || (!linear && abs(log(datum['@loss'] / datum.chosen)) >= {gap:.3g})")
    )
    names = ends.mark_text(align="left", dx=9, fontSize=11, color=INK).encode(
        size, loss, text="label:N", opacity=alt.when("datum.k == at").then(alt.value(1)).otherwise(alt.value(0.5))
    )
    state = (alt.param(name="linear", value=False), alt.param(name="headline", value=True))
    edges = [*_crowding(runs, data), *_density(runs, data)]
    return layered(*edges, ages, *limits, bars, line, names, dots).add_params(*state)


def _apart(table: Mapping[str, list[Any]], height: float) -> tuple[int, list[int], float]:
    """Find times whose labels at the largest lift collide for neither loss.

    Args:
        table: losses at times.
        height: logarithm of the ratio of the losses that the axis goes from and to.

    Returns:
        The largest lift; the numbers of the times, the last one first; the least distance of labels, a logarithm.
    """
    k, lift, whole = (table["columns"].index(name) for name in ("k", "lift", "whole"))
    losses = [table["columns"].index(name) for name in LOSS_NAMES if name in table["columns"]]
    largest = max((row[lift] for row in table["rows"]), default=0)
    gap = 15 / HEIGHT * height
    kept: list[tuple[int, list[float]]] = []
    for row in reversed([row for row in table["rows"] if row[lift] == largest and row[whole]]):
        heights = [math.log(row[loss]) if row[loss] else -math.inf for loss in losses]
        if all(abs(mine - its) >= gap for _, other in kept for mine, its in zip(heights, other, strict=True)):
            kept.append((row[k], heights))
    return largest, [at for at, _ in kept], gap


def losses_chart(runs: StudyRuns, data: Data, law: Sequence[Mapping[str, float]]) -> "alt.LayerChart":
    """Final losses by size; of the law its points ``params``, ``lift`` and ``loss``, none where no law is quoted."""
    size, loss = alt.X("@size:Q"), alt.Y("@loss:Q", **POINTS.both(data))
    layers = [*_crowding(runs, data), *_density(runs, data)]
    band = over("lifts").mark_area(color=ACCENT, opacity=0.13).encode(size, alt.Y("@loss_q1:Q"), alt.Y2("@loss_q3:Q"))
    middle = over("lifts").mark_line(color=ACCENT, strokeWidth=2).encode(size, loss)
    layers += [band, middle]
    points = over("points").transform_filter("isValid(datum['@loss'])")
    reach = points.transform_filter("isValid(datum.low) && headline")
    layers.append(
        reach.mark_rule(strokeWidth=1.5).encode(
            size, alt.Y("low:Q"), alt.Y2("@loss:Q"), color=by_lift(), opacity=fading(0.6)
        )
    )
    falling = points.transform_filter("datum.end == 'still falling'")
    layers.append(
        falling.mark_point(shape="arrow", angle=180, size=90, yOffset=9, filled=True).encode(
            size, loss, color=by_lift(), opacity=fading(0.7)
        )
    )
    shown = tips(
        "run:N",
        "lift:Q",
        "seed:Q",
        "params:Q=P",
        "train:Q=training loss",
        "test:Q=held-out loss",
        "low:Q=limit at least",
        "end:N=ended",
    )
    layers.append(
        points.mark_point(filled=True, size=55, strokeWidth=1).encode(
            size, loss, color=by_lift(), opacity=fading(0.85), tooltip=shown
        )
    )
    lost = over("points").transform_filter("datum.end == 'diverged'")
    layers.append(
        lost.mark_point(shape="cross", angle=45, size=70, filled=True, color=ALARM, y=8).encode(
            size, tooltip=tips("run:N", "end:N")
        )
    )
    if law:
        fitted = alt.Chart(alt.InlineData([dict(row) for row in law]))
        layers.append(fitted.mark_line(color=INK, strokeDash=[2, 3], strokeWidth=1.8).encode(size, alt.Y("loss:Q")))
    return layered(*layers).add_params(alt.param(name="headline", value=True))


def curves_chart(runs: StudyRuns, data: Data) -> "alt.LayerChart":
    """Losses of every run along its way."""
    loss, clock = alt.Y("@loss:Q", **CURVES.both(data)), "flow time t" if _is_flow(runs) else "training step"
    time = alt.X("t:Q", **log_axis(ranges(data, ("curves", "t")), clock))
    return layered(_lines(time, loss, "@loss:Q", "@name loss"), _cursor(data))


def decay_chart(runs: StudyRuns, data: Data) -> "alt.LayerChart | None":
    """4 t L(t) of every flow."""
    if not _is_flow(runs):
        return None
    points = zip(column(data, "curves", "t"), column(data, "curves", "train"), strict=True)
    values = [4 * t * train for t, train in points if train]
    loss = alt.Y("ruled:Q", **log_axis([value for value in values if value > 0], "4 t L(t)"))
    time = alt.X("t:Q", **log_axis(ranges(data, ("curves", "t")), "flow time t"))
    return layered(
        _lines(time, loss, "ruled:Q", "4 t L").transform_calculate(ruled="4 * datum.t * datum.train"), _cursor(data)
    )


def _is_flow(runs: StudyRuns) -> bool:
    return any(run.flow_time > 0 for run in runs.done)


def _lines(x: "alt.X", y: "alt.Y", field: str, title: str) -> "alt.LayerChart":
    name = field.partition(":")[0]
    base = over("curves").transform_filter(f"isValid(datum['{name}'])") if name.startswith("@") else over("curves")
    lines = base.mark_line(strokeWidth=1.3).encode(x, y, detail="run:N", color=by_lift(), opacity=fading(0.75))
    # A line has one tooltip for all of itself; its points have one each.
    dots = base.mark_point(size=28, filled=True).encode(
        x, y, color=by_lift(), opacity=alt.when(OTHERS).then(alt.value(0)).otherwise(alt.value(0.01)),
        tooltip=tips("run:N", "lift:Q", "seed:Q", "t:Q", f"{field}={title}"),
    )  # fmt: skip
    return layered(lines, dots)


def _cursor(data: Data) -> "alt.Chart":
    """A line at the time of the slider."""
    times = dict(zip(column(data, "isochrones", "k"), column(data, "isochrones", "t"), strict=True))
    rows = alt.InlineData([{"k": k, "t": t} for k, t in times.items()])
    return (
        alt.Chart(rows)
        .transform_filter("datum.k == at")
        .mark_rule(color=ACCENT, strokeDash=[3, 3])
        .encode(alt.X("t:Q"))
    )


def success_chart(runs: StudyRuns, data: Data) -> "alt.LayerChart":
    """Shares of seeds that reach a target."""
    names = _telling(data["success"]["rows"])
    base = over("success").transform_filter(alt.FieldOneOfPredicate(field="target", oneOf=names))
    base = dodged(base, "target", names)
    x, colour = alt.X("place:Q", **lift_axis(runs.lifts)), named("target", names, "target ε")
    y = alt.Y("share:Q", title="share of seeds with loss ≤ ε", **share_axis())
    shown = tips("target:N=ε", "lift:Q", "successes:Q", "seeds:Q=of seeds", "low:Q=at least", "high:Q=at most")
    bars = base.mark_rule(strokeWidth=1.2, opacity=0.45).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), color=colour)
    lines = base.mark_line(strokeWidth=2).encode(x, y, color=colour)
    return layered(
        bars,
        lines,
        base.mark_point(filled=True, size=60, opacity=1).encode(x, y, color=colour, tooltip=shown, opacity=fading(1)),
    )


def _telling(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Some targets, evenly over those that a part of the seeds reaches; equal curves are shown once."""
    curves: dict[str, list[tuple[int, int]]] = {}
    for _, name, _, successes, seeds, *_ in rows:
        curves.setdefault(name, []).append((successes, seeds))
    distinct = list({tuple(curve): name for name, curve in curves.items()}.values())
    partial = [name for name in distinct if 0 < sum(s for s, _ in curves[name]) < sum(m for _, m in curves[name])]
    return evenly(partial or distinct)


def learning_chart(runs: StudyRuns, data: Data) -> "alt.LayerChart":
    """Lifts from which on a target is reached."""
    x = alt.X("eps:Q", **log_axis(ranges(data, ("learning", "eps")), "target loss ε"))
    axis = lift_axis(runs.lifts)
    base, top = over("learning"), max(runs.lifts, default=2) * 1.15
    band = (
        base.transform_filter("isValid(datum.low)")
        .transform_calculate(reach=f"isValid(datum.high) ? datum.high : {top}")
        .mark_area(color=ACCENT, opacity=0.14)
        .encode(x, alt.Y("low:Q", **axis), alt.Y2("reach:Q"))
    )
    shown = tips("eps:Q=ε", "some:Q=some seed from lift", "point:Q=learning number", "low:Q=at best", "high:Q=at worst")
    names = {"point": "learning number, with its interval", "some": "some seed reaches it"}
    layers, colour = [band], named("series", list(names.values()), "", 1)
    for field, name in names.items():
        kept = base.transform_filter(f"isValid(datum.{field})").transform_calculate(series=f"'{name}'")
        dash = [5, 3] if field == "some" else [1, 0]
        layers.append(kept.mark_line(strokeWidth=2, strokeDash=dash).encode(x, alt.Y(f"{field}:Q"), color=colour))
        mark = kept.mark_point(filled=field == "point", size=60, opacity=1)
        layers.append(mark.encode(x, alt.Y(f"{field}:Q"), color=colour, tooltip=shown))
    return layered(*layers)


def _crowding(runs: StudyRuns, data: Data) -> "list[alt.Chart]":
    """A line where there are as many parameters as numbers to learn, if the sizes come near it."""
    if not _near(runs, data) or not runs.limit:
        return []
    size = alt.X("@size:Q")
    limit = alt.Chart(alt.InlineData([{"params": runs.limit, "lift": _lift_at(data, runs.limit), "is": "P = N k"}]))
    return [
        limit.mark_rule(color=INK, strokeDash=[6, 4]).encode(size, tooltip=tips("params:Q=P = N k")),
        limit.mark_text(align="right", dx=-5, y=8, color=INK, fontSize=11).encode(size, text="is:N"),
    ]


def _density(runs: StudyRuns, data: Data) -> "list[alt.Chart]":
    """A line to the left of which lifts are dense, not sparse, if any are; none where all are."""
    params = _params_at(data, runs.sparse_from)
    if params is None:
        return []
    size = alt.X("@size:Q")
    edge = alt.Chart(alt.InlineData([{"params": params, "lift": runs.sparse_from, "is": "dense"}]))
    return [
        edge.mark_rule(color=FAINT, strokeDash=[2, 3]).encode(size, tooltip=tips("lift:Q=dense below")),
        edge.mark_text(align="right", dx=-5, y=22, color=FAINT, fontSize=11).encode(size, text="is:N"),
    ]


def _near(runs: StudyRuns, data: Data) -> bool:
    params = ranges(data, ("points", "params"))
    return runs.limit is not None and bool(params) and min(params) / 3 <= runs.limit <= max(params) * 3


def _sizes(data: Data) -> list[tuple[float, float]]:
    """Lifts, ascending, each with its number of parameters."""
    sizes = zip(column(data, "lifts", "lift"), column(data, "lifts", "params"), strict=True)
    return sorted((lift, params) for lift, params in sizes if params)


def _params_at(data: Data, lift: float) -> float | None:
    """How many parameters a lift of some degree would have, between those there are; None beyond them."""
    for (first, low), (second, high) in pairwise(_sizes(data)):
        if first < lift < second:
            share = math.log(lift / first) / math.log(second / first)
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return None


def _lift_at(data: Data, params: float) -> float | None:
    """The lift of so many parameters, between those there are; None beyond them."""
    for (first, low), (second, high) in pairwise(sorted(_sizes(data), key=lambda size: size[::-1])):
        if low <= params <= high and high > low:
            share = (math.log(params) - math.log(low)) / (math.log(high) - math.log(low))
            return math.exp(math.log(first) + share * (math.log(second) - math.log(first)))
    return None
