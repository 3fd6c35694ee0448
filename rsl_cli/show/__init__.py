"""A base graph and its lifts on a terminal or a drawing, before anything is trained."""

from rsl_cli.graph import BaseGraph, Edge, Vertex
from rsl_cli.lift import expected_parameters, fibre_sizes, is_dense, lifting_of, mean_in_degree, sample_lift
from rsl_cli.parts import Part
from rsl_cli.show.drawing import draw
from rsl_cli.study.costs import flops, memory
from rsl_cli.study.spec import StudySpec

__all__ = ["describe", "draw"]


def describe(spec: StudySpec) -> str:
    """The base graph, and per degree fibres, edges, parameters and memory; in-degrees of the largest lift drawn."""
    base, data = spec.base, spec.data
    lines = [f"base graph {base.name}: {len(base.vertices)} vertices, {len(base.edges)} edges"]
    lines += [f"  {vertex.name:<8} {_vertex(base, vertex)}" for vertex in base.vertices]
    lines += [f"  {edge.name:<12} {_edge(spec, edge)}" for edge in base.edges]
    lines += [
        "",
        f"data {data.name}: {data.samples} training samples, {len(data.x_test)} held out, "
        f"input {_space(data.input_shape)}, {data.outputs} outputs; loss {spec.loss.name}",
        *(f"  {note}" for note in data.notes),
        "",
        f"{'lift':>8} {'copies':>10} {'edges':>11} {'P (mean)':>11} {'P/(N outputs)':>14} {'memory/seed':>12} "
        f"{'FLOP/sample':>12}",
    ]
    for degree in spec.lifts:
        fibres = fibre_sizes(base, degree)
        edges = sum(fibres[e.target] * mean_in_degree(e, base, spec.lifting, fibres) for e in base.edges)
        parameters = expected_parameters(base, degree, spec.lifting)
        share = parameters / (data.samples * data.outputs)
        marks = ["overparametrised"] * (share >= 1) + ["dense, not sparse"] * is_dense(base, degree, spec.lifting)
        operations = _count(3 * flops(base, degree, spec.lifting))
        line = f"{degree:>8} {sum(fibres.values()):>10} {round(edges):>11} {parameters:>11} {share:>14.3f}"
        lines.append(f"{line} {_size(memory(spec, degree)):>12} {operations:>12}  {', '.join(marks)}".rstrip())
    lines.append(
        "FLOP/sample: of a training step, three times the forward pass's products; activations are not counted"
    )
    lines += ["", *_statistics(spec)]
    return "\n".join(lines)


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


def _space(space: tuple[int, ...]) -> str:
    return "scalar" if not space else " x ".join(map(str, space))


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _count(number: float) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g} {unit}".strip()
        number /= 1000
    return f"{number:.3g} T"


def _vertex(base: BaseGraph, vertex: Vertex) -> str:
    space, before = base.space(vertex.name), base.sum_space(vertex.name)
    parts = [vertex.kind, f"space {_space(space)}" + (f" pooled from {_space(before)}" if space != before else "")]
    if vertex.kind == "hidden":
        parts += [_with_keys(f"combine {vertex.combine.name}", vertex.combine)] if vertex.combine.name != "sum" else []
    if vertex.bias:
        parts.append("bias" if vertex.bias is True else f"bias per {vertex.bias}")
    if vertex.kind == "hidden":
        parts += [_with_keys(f"norm {vertex.norm.name}", vertex.norm)] if vertex.norm else []
        parts.append(vertex.activation)
        parts += [_with_keys(f"pool {vertex.pool.name}", vertex.pool)] if vertex.pool else []
        parts += [f"fibre {vertex.width:g} n^{vertex.growth:g}"] if (vertex.width, vertex.growth) != (1, 1) else []
    return ", ".join(parts)


def _edge(spec: StudySpec, edge: Edge) -> str:
    lifting, weight = lifting_of(edge, spec.base, spec.lifting), spec.base.weight_shape(edge)
    parts = [_with_keys(edge.map_name, edge.map), "no weight" if weight is None else f"W_e {_space(weight)}"]
    parts.append(lifting.kind + (f", in-degree {lifting.in_degree:g}" if lifting.in_degree is not None else ""))
    parts += [f"init {edge.init.kind}"] if weight is not None else []
    return ", ".join(parts)


def _with_keys(name: str, part: Part) -> str:
    """A part of a base graph with the keys that are not at their defaults, nor told by its name."""
    return " ".join([name, *(f"{key} {value}" for key, value in part.options().items())])
