"""Charts of what the theory speaks of: bounds, kappa, balls, copies of a witness, weights' laws, steps, kernels."""

from rsl_cli.report.chart_parts import (
    HEIGHT,
    INK,
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
from rsl_cli.report.runs import StudyRuns


def bound_chart(data: Data) -> "alt.LayerChart":
    """One lift at a time, the largest one unless another is followed."""
    largest = max(column(data, "flow", "lift"))
    base = over("flow").transform_filter(f"datum.lift == (lift >= 0 ? lift : {largest})")
    x = alt.X("t:Q", **log_axis(ranges(data, ("flow", "t")), "flow time t"))
    y = alt.Y("loss:Q", **log_axis(ranges(data, ("flow", "loss"), ("flow", "bound")), "L(t)"))
    shown = tips("run:N", "t:Q", "loss:Q=L(t)", "bound:Q")
    names = ("training loss of each seed", "its bound")
    loss, bound = (base.transform_calculate(series=f"'{name}'") for name in names)
    colour = named("series", names, "", 1)
    return layered(
        loss.mark_line(strokeWidth=1.8).encode(x, y, detail="run:N", color=colour, opacity=fading(0.9)),
        bound.mark_line(strokeDash=[5, 3], strokeWidth=1.5).encode(
            x, alt.Y("bound:Q"), detail="run:N", color=colour, opacity=fading(0.8)
        ),
        loss.mark_point(filled=True, size=26).encode(x, y, color=colour, tooltip=shown, opacity=fading(0.8)),
    )


def length_chart(data: Data) -> "alt.LayerChart":
    """Distance from the start against the bound on the path's length."""
    base = over("flow").transform_filter("isValid(datum.length) && isValid(datum.distance)")
    lengths, distances = ranges(data, ("flow", "length")), ranges(data, ("flow", "distance"))
    x = alt.X("length:Q", **log_axis(lengths, "bound on the length of the path"))
    y = alt.Y("distance:Q", **log_axis(distances, "distance |θ(t) − θ(0)|"))
    ends = [
        max(min(lengths, default=1), min(distances, default=1)),
        min(max(lengths, default=1), max(distances, default=1)),
    ]
    diagonal = alt.Chart(alt.InlineData([{"length": end, "distance": end} for end in ends]))
    points = base.mark_point(filled=True, size=24).encode(
        x, y, color=by_lift(), opacity=fading(0.7), tooltip=tips("run:N", "t:Q", "distance:Q", "length:Q=bound")
    )
    return layered(diagonal.mark_line(color=INK, strokeDash=[5, 3]).encode(x, y), points)


def kappa_chart(runs: StudyRuns, data: Data) -> "alt.LayerChart":
    """Kappa at the start; lifts without any finite value say why."""
    rows = [*zip(*(column(data, "kappa", name) for name in ("target", "lift", "kappa")), strict=True)]
    # Targets that no seed of any lift can reach have no point to draw; the most telling of the others are kept.
    names = list(dict.fromkeys(target for target, _, kappa in rows if kappa is not None))
    names = evenly(names)
    base = over("kappa").transform_filter(alt.FieldOneOfPredicate(field="target", oneOf=names))
    base = dodged(base, "target", names)
    x, colour = alt.X("place:Q", **lift_axis(runs.lifts)), named("target", names, "target ε")
    y = alt.Y("kappa:Q", **log_axis(ranges(data, ("kappa", "kappa"), ("kappa", "q1"), ("kappa", "q3")), "κ(θ₀, ε)"))
    found = base.transform_filter("isValid(datum.kappa)")
    shown = tips(
        "target:N=ε",
        "lift:Q",
        "kappa:Q=κ, median",
        "q1:Q=lower quartile",
        "q3:Q=upper quartile",
        "infinite:Q=seeds with κ = ∞",
        "seeds:Q=of seeds",
    )
    layers = [
        found.mark_rule(strokeWidth=2, opacity=0.4).encode(x, alt.Y("q1:Q"), alt.Y2("q3:Q"), color=colour),
        found.mark_line(strokeWidth=2).encode(x, y, color=colour),
        found.mark_point(filled=True, size=60).encode(x, y, color=colour, tooltip=shown, opacity=fading(1)),
    ]
    measured = {lift for _, lift, _ in rows}
    reached = {lift for target, lift, kappa in rows if target in names and kappa is not None}
    words = {lift: "κ = ∞" if lift in measured else "not measured" for lift in runs.lifts if lift not in reached}
    if words:
        note = alt.Chart(alt.InlineData([{"lift": lift, "is": word} for lift, word in words.items()]))
        layers.append(
            note.mark_text(angle=270, align="left", y=HEIGHT - 8, color=INK, fontSize=11.5).encode(
                alt.X("lift:Q"), text="is:N"
            )
        )
    return layered(*layers)


def inside_chart(runs: StudyRuns, data: Data) -> "alt.LayerChart":
    """Shares of seeds whose probes all lie in A(kappa, eps)."""
    names = list(dict.fromkeys(column(data, "inside", "level")))
    base = dodged(over("inside"), "level", names)
    x, colour = alt.X("place:Q", **lift_axis(runs.lifts)), named("level", names, "")
    y = alt.Y("share:Q", title="share of seeds", **share_axis())
    shown = tips("level:N", "lift:Q", "share:Q", "low:Q=at least", "high:Q=at most", "probes:Q=share of probes")
    return layered(
        base.mark_rule(opacity=0.45).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), color=colour),
        base.mark_line(strokeWidth=2).encode(x, y, color=colour),
        base.mark_point(filled=True, size=60).encode(x, y, color=colour, tooltip=shown, opacity=fading(1)),
    )


def coverage_chart(runs: StudyRuns, data: Data) -> "alt.LayerChart":
    """Copies that cover each vertex of a witness."""
    names = list(dict.fromkeys(column(data, "coverage", "vertex")))
    base = over("coverage").transform_filter("isValid(datum.covering)")
    x, colour = alt.X("lift:Q", **lift_axis(runs.lifts)), named("vertex", names, "vertex")
    y = alt.Y("covering:Q", **log_axis(ranges(data, ("coverage", "covering")), "covering copies, median"))
    shown = tips("vertex:N", "eta:N=η", "lift:Q", "covering:Q=copies", "share:Q")
    dash = alt.StrokeDash("eta:N", title="η", legend=alt.Legend(orient="top", direction="horizontal"))
    return layered(
        base.mark_line(strokeWidth=2).encode(x, y, color=colour, strokeDash=dash, detail=["vertex:N", "eta:N"]),
        base.mark_point(filled=True, size=60).encode(x, y, color=colour, tooltip=shown, opacity=fading(1)),
    )


def drift_chart(data: Data) -> "alt.LayerChart":
    """A row for each group of weights, however many there are; a dot for each lift."""
    base = over("drift")
    y = alt.Y("group:N", sort=None, title=None, axis=alt.Axis(grid=True, labelLimit=150))
    x = alt.X(
        "median:Q",
        **log_axis(
            ranges(data, *(("drift", name) for name in ("low", "median", "high"))), "distance between start and end"
        ),
    )
    shown = tips("group:N", "measure:N", "lift:Q", "median:Q", "low:Q=lower quartile", "high:Q=upper quartile")
    return layered(
        base.mark_rule(strokeWidth=2, clip=True).encode(
            y, alt.X("low:Q"), alt.X2("high:Q"), color=by_lift(), opacity=fading(0.4)
        ),
        base.mark_point(size=70, opacity=1, clip=True).encode(
            y,
            x,
            color=by_lift(),
            opacity=fading(0.95),
            tooltip=shown,
            shape=alt.Shape("measure:N", title=None, legend=alt.Legend(orient="top", columns=1, labelLimit=300)),
        ),
    )


def coordinates_chart(runs: StudyRuns, data: Data) -> "alt.LayerChart":
    """Sizes of the sums at each vertex, and of their change by the first steps."""
    names = list(dict.fromkeys(column(data, "coordinates", "vertex")))
    base = over("coordinates").transform_filter("isValid(datum.median)")
    x, colour = alt.X("lift:Q", **lift_axis(runs.lifts)), named("vertex", names, "vertex")
    y = alt.Y("median:Q", **log_axis(ranges(data, ("coordinates", "median")), "root mean square"))
    dash = alt.StrokeDash("measure:N", title=None, legend=alt.Legend(orient="top", direction="horizontal"))
    shown = tips("vertex:N", "measure:N", "lift:Q", "median:Q", "slope:N=goes like")
    return layered(
        base.mark_line(strokeWidth=2).encode(x, y, color=colour, strokeDash=dash, detail=["vertex:N", "measure:N"]),
        base.mark_point(filled=True, size=60).encode(x, y, color=colour, tooltip=shown, opacity=fading(1)),
    )


def ntk_chart(data: Data) -> "alt.LayerChart":
    """Spectra of the tangent kernel at both ends of training, a line for each lift."""
    base = over("ntk").transform_filter("isValid(datum.eigenvalue)")
    x = alt.X("rank:Q", **log_axis(ranges(data, ("ntk", "rank")), "rank"))
    y = alt.Y("eigenvalue:Q", **log_axis(ranges(data, ("ntk", "eigenvalue")), "eigenvalue of the tangent kernel"))
    dash = alt.StrokeDash(
        "end:N", title=None, sort="descending", legend=alt.Legend(orient="top", direction="horizontal")
    )
    shown = tips("lift:Q", "end:N", "rank:Q", "eigenvalue:Q", "target:Q=share of the targets up to here")
    return layered(
        base.mark_line(strokeWidth=1.8).encode(x, y, color=by_lift(), strokeDash=dash, opacity=fading(0.9)),
        base.mark_point(filled=True, size=30).encode(x, y, color=by_lift(), tooltip=shown, opacity=fading(0.9)),
    )
