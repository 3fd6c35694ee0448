"""A base graph and its lifts on a terminal or a drawing, before anything is trained."""

import math
from pathlib import Path

from rsl_cli.errors import ConfigError
from rsl_cli.graph import BaseGraph
from rsl_cli.lift import Lift, expected_parameters, fibre_sizes, lifting_of, mean_in_degree, sample_lift
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import write_atomic
from rsl_cli.train.first_order import FirstOrder

_MOST_DRAWN = 64
"""Copies of a vertex a drawing shows: beyond it edges are a grey smear."""


def describe(spec: StudySpec) -> str:
    """The base graph, and per degree fibres, edges, parameters and memory; in-degrees of the largest lift drawn."""
    base, data = spec.base, spec.data
    lines = [f"base graph {base.name}: {len(base.vertices)} vertices, {len(base.edges)} edges"]
    for vertex in base.vertices:
        parts = [vertex.kind, f"space {_space(base.space(vertex.name))}"]
        if vertex.kind == "hidden":
            parts += [vertex.activation, *(["bias"] if vertex.bias else [])]
            parts += [f"combine {vertex.combine.name}"] if vertex.combine.name != "sum" else []
            parts += [f"fibre {vertex.width:g} n^{vertex.growth:g}"] if (vertex.width, vertex.growth) != (1, 1) else []
        lines.append(f"  {vertex.name:<8} {', '.join(parts)}")
    for edge in base.edges:
        lifting = lifting_of(edge, base, spec.lifting)
        degree = f", in-degree {lifting.in_degree:g}" if lifting.in_degree is not None else ""
        weight = base.weight_shape(edge)
        shape = "no weight" if weight is None else f"W_e {_space(weight)}"
        lines.append(f"  {edge.name:<12} {edge.map_name}, {shape}, {lifting.kind}{degree}, init {edge.init.kind}")
    lines += [
        "",
        f"data {data.name}: {data.samples} training samples, {len(data.x_test)} held out, "
        f"input {_space(data.input_shape)}, {data.outputs} outputs; loss {spec.loss}",
        "",
        f"{'lift':>8} {'copies':>10} {'edges':>12} {'P (mean)':>12} {'P/(N outputs)':>14} {'memory/seed':>12}",
    ]
    for degree in spec.lifts:
        fibres = fibre_sizes(base, degree)
        copies = sum(fibres.values())
        edges = sum(
            fibres[e.target] * mean_in_degree(e, base, lifting_of(e, base, spec.lifting), fibres[e.source])
            for e in base.edges
        )
        parameters = expected_parameters(base, degree, spec.lifting)
        share = parameters / (data.samples * data.outputs)
        mark = "  overparametrised" if share >= 1 else ""
        memory = _size(_memory(spec, degree, round(edges), parameters))
        lines.append(f"{degree:>8} {copies:>10} {round(edges):>12} {parameters:>12} {share:>14.3f} {memory:>12}{mark}")
    lines += ["", *_statistics(spec)]
    return "\n".join(lines)


def draw(spec: StudySpec, path: Path) -> None:
    """Draw the base graph and its smallest lift, fibres as columns.

    Args:
        spec: the study.
        path: ``.png``, ``.pdf`` or ``.svg``.

    Raises:
        ConfigError: another ending.
        StoreError: the file cannot be written.
    """
    import io

    from matplotlib.figure import Figure

    form = path.suffix.lstrip(".").lower()
    if form not in ("png", "pdf", "svg"):
        raise ConfigError(f"--save {path}: the ending says the format; accepted: .png, .pdf, .svg")
    lift = sample_lift(spec.base, spec.lifts[0], spec.seeds[0], spec.lifting)
    columns = _columns(spec.base)
    width = 2.2 * (1 + max(columns.values()))
    figure = Figure(figsize=(max(6.5, width), 6.5), layout="constrained")
    small, large = figure.subplots(2, 1, gridspec_kw={"height_ratios": [1, 2.2]})
    _draw_fibres(small, spec.base, columns, None)
    small.set_title(f"base graph {spec.base.name}")
    _draw_fibres(large, spec.base, columns, lift)
    large.set_title(f"its lift of degree {lift.degree}, {lift.parameter_count} parameters")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=160)
    write_atomic(path, buffer.getvalue())


def _statistics(spec: StudySpec) -> list[str]:
    degree = max((n for n in spec.lifts if n <= 4096), default=None)
    if degree is None:
        return []
    lift = sample_lift(spec.base, degree, spec.seeds[0], spec.lifting)
    lines = [f"the lift of degree {degree}, seed {lift.seed}, as drawn:"]
    for edge in spec.base.edges:
        counts = lift.in_degrees(edge.source, edge.target, edge.slot)
        lines.append(f"  {edge.name:<12} in-degree {counts.min()} to {counts.max()}, mean {counts.mean():.2f}")
    unreached = sum(len(copies) for copies in lift.unreached().values())
    unread = sum(len(copies) for copies in lift.unread().values())
    lines.append(f"  {unreached} copies that no input reaches, {unread} that reach no output")
    return lines


def _memory(spec: StudySpec, degree: int, edges: int, parameters: int) -> float:
    """Bytes of weights with gradient and optimiser state, index arrays, a batch's activations, implicit solves."""
    item = 8 if spec.trainer.dtype == "float64" else 4
    batch_size = spec.trainer.batch_size if isinstance(spec.trainer, FirstOrder) else None
    batch = min(batch_size or 4096, spec.data.samples)
    # The Gauss-Newton matrix and its factor, in the smaller of parameter space and sample space.
    implicit = not isinstance(spec.trainer, FirstOrder)
    side = min(parameters, spec.data.samples * spec.data.outputs) if implicit else 0
    fibres = fibre_sizes(spec.base, degree)
    numbers = sum(n * math.prod(spec.base.space(v)) for v, n in fibres.items())
    return 4 * parameters * item + edges * (16 + 12) + 3 * numbers * batch * item + 2 * side**2 * item


def _columns(base: BaseGraph) -> dict[str, int]:
    columns: dict[str, int] = {}
    for vertex in base.vertices:
        columns[vertex.name] = max((columns[edge.source] + 1 for edge in base.in_edges(vertex.name)), default=0)
    return columns


def _draw_fibres(axes: object, base: BaseGraph, columns: dict[str, int], lift: Lift | None) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    shared = {column: [name for name, c in columns.items() if c == column] for column in columns.values()}
    places: dict[str, list[tuple[float, float]]] = {}
    for name, column in columns.items():
        count = min(_MOST_DRAWN, lift.fibre(name) if lift else 1)
        share = shared[column]
        low, high = share.index(name) / len(share), (share.index(name) + 1) / len(share)
        places[name] = [(float(column), high - (high - low) * (i + 0.5) / count) for i in range(count)]
    for index, edge in enumerate(base.edges):
        pairs = [(0, 0)] if lift is None else list(zip(*(side.tolist() for side in lift.lists[index]), strict=True))
        ends = [(places[edge.source][a], places[edge.target][b]) for a, b in pairs if max(a, b) < _MOST_DRAWN]
        # Longer skips bow, so that they do not hide behind what they skip.
        bow = 0.25 if columns[edge.target] - columns[edge.source] > 1 else 0.0
        for start, end in ends:
            axes.annotate(
                "",
                end,
                start,
                arrowprops={
                    "arrowstyle": "->" if lift is None else "-",
                    "color": "#0072B2",
                    "alpha": 1.0 if lift is None else max(0.12, min(0.8, 60 / len(ends))),
                    "connectionstyle": f"arc3,rad={bow}",
                    "shrinkA": 10 if lift is None else 2,
                    "shrinkB": 10 if lift is None else 2,
                },
            )
    for name, points in places.items():
        xs, ys = zip(*points, strict=True)
        axes.scatter(xs, ys, s=360 if lift is None else 26, color="white", edgecolor="#222222", zorder=3)
        if lift is None:
            axes.annotate(name, points[0], ha="center", va="center", zorder=4)
        else:
            axes.annotate(
                f"{name}: {lift.fibre(name)}", (xs[0], max(ys)), (0, 9), textcoords="offset points", ha="center"
            )
    axes.set_xlim(-0.5, max(columns.values()) + 0.5)
    axes.set_ylim(-0.05, 1.12)
    axes.axis("off")


def _space(space: tuple[int, ...]) -> str:
    return "scalar" if not space else " x ".join(map(str, space))


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
