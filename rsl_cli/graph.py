"""Base graphs: typed directed acyclic graphs, validated once, then immutable.

A base graph (the perceptron module B of Robin, Scaman and Lelarge, ICLR 2024) says which vertices there are, what each
computes, and through which edge maps they read each other. How often a vertex is copied is the lift's business.
"""

import graphlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rsl_cli.errors import GraphError, nearest, one_of
from rsl_cli.graph_config import expand
from rsl_cli.maps import ACTIVATIONS, COMBINES, Block, EdgeMap, Space, edge_map

KINDS = ("input", "hidden", "output")
LIFTINGS = ("random", "regular", "dense", "matching")
INITS = ("normal", "uniform", "zeros")
_VERTEX_KEYS = ("kind", "activation", "combine", "bias", "width", "growth", "bias_init")
_EDGE_KEYS = ("source", "target", "map", "slot", "lifting", "init")


@dataclass(frozen=True)
class Init:
    """Law of the weights of one edge or of the biases of one vertex.

    Args:
        kind: ``normal``, ``uniform`` (of the same variance) or ``zeros``.
        gain: standard deviation of a bias; for weights it is divided by the square root of the fan-in.
    """

    kind: str = "normal"
    gain: float = 1.0


@dataclass(frozen=True)
class EdgeLifting:
    """How the copies of an edge's two ends are joined.

    Args:
        kind: ``random`` (Bernoulli, mean in-degree ``in_degree``), ``regular`` (exactly ``in_degree`` distinct sources,
            or all), ``dense`` or ``matching`` (a permutation).
        in_degree: lambda; None where the kind has none.
    """

    kind: str = "random"
    in_degree: float | None = 8.0


@dataclass(frozen=True)
class Vertex:
    """One vertex v of a base graph.

    Args:
        name: its name.
        kind: ``input``, ``hidden`` or ``output``.
        activation: name of the activation applied after combining the slots.
        combine: ``sum`` or ``product`` over slots.
        bias: whether each copy adds a trained bias of the vertex's space before its activation.
        width: the fibre has ``round(width * degree ** growth)`` copies, at least one.
        growth: see ``width``.
        bias_init: law of the biases.
    """

    name: str
    kind: str
    activation: str = "identity"
    combine: str = "sum"
    bias: bool = False
    width: float = 1.0
    growth: float = 1.0
    bias_init: Init = field(default_factory=Init)


@dataclass(frozen=True)
class Edge:
    """One edge e = (source, target) of a base graph, feeding one slot of its target."""

    source: str
    target: str
    map_name: str
    map: EdgeMap
    slot: str | None = None
    lifting: EdgeLifting | None = None
    init: Init = field(default_factory=Init)

    @property
    def name(self) -> str:
        """``source->target``, with the slot in brackets if it has one."""
        return f"{self.source}->{self.target}" + (f"[{self.slot}]" if self.slot else "")


@dataclass(frozen=True)
class BaseGraph:
    """A validated base graph; make one with `BaseGraph.from_config`.

    Args:
        name: a label, without effect on any number.
        vertices: in topological order.
        edges: in the order of the configuration.
        input_shape: shape of one sample.
        output_size: number of scalar outputs.
    """

    name: str
    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]
    input_shape: Space
    output_size: int

    @classmethod
    def from_config(cls, mapping: Mapping[str, Any], *, input_shape: Sequence[int], output_size: int) -> "BaseGraph":
        """Read and validate a base graph.

        Args:
            mapping: ``{"name", "vertices": {name: {...}}, "edges": [{...}]}`` as in the YAML files of ``conf/base``.
            input_shape: shape of one sample, ``(d,)`` for flat data.
            output_size: number of scalar outputs.

        Raises:
            GraphError: anything that is not a base graph; the text names the vertex or the edge.
        """
        name, vertex_config, edge_config = expand(mapping)
        vertices = {key: _vertex(key, value) for key, value in vertex_config.items()}
        edges = tuple(_edge(value, vertices) for value in edge_config)
        _check_ends(vertices, edges)
        order = _topological_order(vertices, edges)
        _check_reachable(vertices, edges)
        shape = tuple(int(size) for size in input_shape)
        graph = cls(name, tuple(vertices[key] for key in order), edges, shape, int(output_size))
        _check_slots(graph)
        for vertex in graph.vertices:
            graph.space(vertex.name)
        return graph

    @cached_property
    def input(self) -> Vertex:
        """The input vertex."""
        return next(vertex for vertex in self.vertices if vertex.kind == "input")

    @cached_property
    def output(self) -> Vertex:
        """The output vertex."""
        return next(vertex for vertex in self.vertices if vertex.kind == "output")

    def vertex(self, name: str) -> Vertex:
        """The vertex of that name.

        Raises:
            GraphError: there is none.
        """
        for vertex in self.vertices:
            if vertex.name == name:
                return vertex
        raise GraphError(one_of("vertex", name, [vertex.name for vertex in self.vertices]))

    def edge_index(self, source: str, target: str, slot: str | None = None) -> int:
        """Position in `edges` of the edge from ``source`` to ``target``; ``slot`` tells parallel edges apart.

        Raises:
            GraphError: there is none, or more than one.
        """
        between = [i for i, edge in enumerate(self.edges) if (edge.source, edge.target) == (source, target)]
        found = between if slot is None else [i for i in between if self.edges[i].slot == slot]
        if len(found) == 1:
            return found[0]
        if found:
            slots = ", ".join(str(self.edges[i].slot) for i in found)
            raise GraphError(f"edge {source}->{target}: there are {len(found)}; name its slot, one of: {slots}")
        wanted = f"{source}->{target}" + (f"[{slot}]" if slot else "")
        raise GraphError(one_of("edge", wanted, [edge.name for edge in self.edges]))

    def in_edges(self, vertex: str) -> list[Edge]:
        """The edges into a vertex, in the order of the configuration."""
        return [edge for edge in self.edges if edge.target == vertex]

    def space(self, vertex: str) -> Space:
        """Y_v, the shape of one copy's activation."""
        return self._spaces[vertex]

    def weight_shape(self, edge: Edge) -> Space | None:
        """W_e, the shape of one kept edge's weight; None if the map has none."""
        return edge.map.weight_shape(self.space(edge.source))

    def block(self, edge: Edge) -> Block:
        """The matrix by which one kept edge acts."""
        return edge.map.block(self.space(edge.source))

    @cached_property
    def _spaces(self) -> dict[str, Space]:
        spaces: dict[str, Space] = {}
        for vertex in self.vertices:
            spaces[vertex.name] = self.input_shape if vertex.kind == "input" else self._combined(vertex, spaces)
        return spaces

    def _combined(self, vertex: Vertex, spaces: Mapping[str, Space]) -> Space:
        first: tuple[Edge, Space] | None = None
        for edge in self.in_edges(vertex.name):
            try:
                space = edge.map.output_space(spaces[edge.source])
            except GraphError as error:
                raise GraphError(f"edge {edge.name}: {error}") from error
            expected = () if vertex.kind == "output" else (space if first is None else first[1])
            if space != expected:
                because = (
                    "an output is a scalar"
                    if vertex.kind == "output"
                    else f"as edge {first[0].name} gives"
                    if first
                    else ""
                )
                raise GraphError(
                    f"edge {edge.name}: map '{edge.map_name}' needs equal spaces, got {space} where {vertex.name} "
                    f"has {expected} ({because}); use map 'linear' with the right out"
                )
            first = first or (edge, space)
        assert first is not None
        return first[1]


def _vertex(name: str, config: Any) -> Vertex:
    where = f"vertex {name}"
    if not isinstance(config, Mapping):
        raise GraphError(f"{where}: got {config!r}; write a mapping such as {{kind: hidden, activation: tanh}}")
    _known(where, config, _VERTEX_KEYS)
    kind = config.get("kind", "hidden")
    _member(where, "kind", kind, KINDS)
    activation = config.get("activation", "identity")
    _member(where, "activation", activation, ACTIVATIONS)
    combine = config.get("combine", "sum")
    _member(where, "combine", combine, COMBINES)
    bias = config.get("bias", False)
    if not isinstance(bias, bool):
        raise GraphError(f"{where}: bias={bias!r}; accepted: true or false")
    width = _positive(where, "width", config.get("width", 1))
    growth = _number(where, "growth", config.get("growth", 1))
    if growth < 0:
        raise GraphError(f"{where}: growth={growth}; accepted: a number from 0 (a fixed fibre) upwards")
    if kind == "output" and activation != "identity":
        raise GraphError(
            f"{where}: activation '{activation}' on an output; the readout is linear, leave activation out"
        )
    if kind == "input" and len(config) > ("kind" in config):
        raise GraphError(f"{where}: an input vertex has only the key kind, got {', '.join(config)}")
    if kind != "hidden" and ("width" in config or "growth" in config):
        raise GraphError(f"{where}: width and growth belong to hidden vertices; an {kind} is not multiplied")
    return Vertex(
        name, kind, activation, combine, bias, width, growth, _init(where, "bias_init", config.get("bias_init"))
    )


def _edge(config: Any, vertices: Mapping[str, Vertex]) -> Edge:
    if not isinstance(config, Mapping) or "source" not in config or "target" not in config:
        raise GraphError(f"edge {config!r}: write a mapping with source, target and map")
    source, target = str(config["source"]), str(config["target"])
    where = f"edge {source}->{target}"
    for end in (source, target):
        if end not in vertices:
            raise GraphError(
                f"{where}: unknown vertex '{end}'; there are {', '.join(vertices)}{nearest(end, vertices)}"
            )
    slot = config.get("slot")
    if slot is not None and not isinstance(slot, str):
        raise GraphError(f"{where}: slot={slot!r}; accepted: a name")
    if "map" not in config:
        raise GraphError(f"{where}: no map; add one, e.g. map: scale")
    options = {key: value for key, value in config.items() if key not in _EDGE_KEYS}
    try:
        made = edge_map(config["map"], options)
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error
    lifting = config.get("lifting")
    return Edge(
        source,
        target,
        config["map"],
        made,
        slot,
        None if lifting is None else edge_lifting(lifting, where),
        _init(where, "init", config.get("init")),
    )


def edge_lifting(config: Any, where: str = "lifting") -> EdgeLifting:
    """Read a lifting ``{kind, in_degree}``.

    Args:
        config: a mapping, or an `EdgeLifting` that is returned as it is.
        where: what to name in an error.

    Raises:
        GraphError: unknown kind, or an in-degree that is missing, too many or not positive.
    """
    if isinstance(config, EdgeLifting):
        return config
    if not isinstance(config, Mapping) or "kind" not in config:
        raise GraphError(f"{where}: lifting {config!r}; write a mapping such as {{kind: random, in_degree: 8}}")
    _known(f"{where}: lifting", config, ("kind", "in_degree"))
    kind = config["kind"]
    _member(where, "lifting kind", kind, LIFTINGS)
    if kind in ("dense", "matching"):
        if config.get("in_degree") is not None:
            raise GraphError(f"{where}: lifting '{kind}' has no in_degree; leave it out")
        return EdgeLifting(kind, None)
    if config.get("in_degree") is None:
        raise GraphError(f"{where}: lifting '{kind}' needs an in_degree, e.g. in_degree: 8")
    in_degree = _positive(where, "in_degree", config["in_degree"])
    if kind == "regular" and in_degree != int(in_degree):
        raise GraphError(f"{where}: in_degree={in_degree}; lifting 'regular' needs a whole number")
    return EdgeLifting(kind, in_degree)


def _init(where: str, key: str, config: Any) -> Init:
    if config is None:
        return Init()
    if not isinstance(config, Mapping):
        raise GraphError(f"{where}: {key}={config!r}; write a mapping such as {{kind: normal, gain: 1.0}}")
    _known(f"{where}: {key}", config, ("kind", "gain"))
    kind = config.get("kind", "normal")
    _member(where, f"{key} kind", kind, INITS)
    return Init(kind, _positive(where, f"{key} gain", config.get("gain", 1.0)))


def _check_ends(vertices: Mapping[str, Vertex], edges: Sequence[Edge]) -> None:
    for kind in ("input", "output"):
        of_kind = [vertex.name for vertex in vertices.values() if vertex.kind == kind]
        if len(of_kind) != 1:
            got = ", ".join(of_kind) or "none"
            raise GraphError(f"a base graph has exactly one {kind} vertex, got {got}; mend the kind of the vertices")
    for edge in edges:
        if vertices[edge.target].kind == "input":
            raise GraphError(f"edge {edge.name}: nothing may feed the input vertex {edge.target}; turn the edge round")
        if vertices[edge.source].kind == "output":
            raise GraphError(f"edge {edge.name}: nothing may read the output vertex {edge.source}; turn the edge round")


def _topological_order(vertices: Mapping[str, Vertex], edges: Sequence[Edge]) -> list[str]:
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter({name: [] for name in vertices})
    for edge in edges:
        sorter.add(edge.target, edge.source)
    try:
        return list(sorter.static_order())
    except graphlib.CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise GraphError(f"cycle {cycle}; a base graph is acyclic, remove one of these edges") from error


def _check_reachable(vertices: Mapping[str, Vertex], edges: Sequence[Edge]) -> None:
    source = next(vertex.name for vertex in vertices.values() if vertex.kind == "input")
    sink = next(vertex.name for vertex in vertices.values() if vertex.kind == "output")
    forward = _closure(source, [(edge.source, edge.target) for edge in edges])
    backward = _closure(sink, [(edge.target, edge.source) for edge in edges])
    if sink not in forward:
        raise GraphError(f"vertex {sink}: the output cannot be reached from {source}; add the missing edges")
    for name in vertices:
        if name not in forward:
            raise GraphError(f"vertex {name}: no path from {source} leads to it; add an edge into it or remove it")
        if name not in backward:
            raise GraphError(f"vertex {name}: no path leads from it to {sink}; add an edge from it or remove it")


def _closure(start: str, arrows: Sequence[tuple[str, str]]) -> set[str]:
    reached, frontier = {start}, [start]
    while frontier:
        here = frontier.pop()
        for tail, head in arrows:
            if tail == here and head not in reached:
                reached.add(head)
                frontier.append(head)
    return reached


def _check_slots(graph: BaseGraph) -> None:
    for vertex in graph.vertices:
        if vertex.kind == "input":
            continue
        combine, edges = COMBINES[vertex.combine], graph.in_edges(vertex.name)
        needs_names = combine.least > 1 or combine.slots is not None
        seen: dict[str, Edge] = {}
        for edge in edges:
            if edge.slot is None and needs_names:
                raise GraphError(
                    f"edge {edge.name}: missing slot; combine '{vertex.combine}' of {vertex.name} needs one each"
                )
            key = edge.slot or edge.source
            if key in seen:
                raise GraphError(
                    f"edge {edge.name}: doubled slot '{key}' of {vertex.name}; give each in-edge its own slot"
                )
            seen[key] = edge
        if len(edges) < combine.least:
            raise GraphError(
                f"vertex {vertex.name}: missing slot; combine '{vertex.combine}' needs at least {combine.least} "
                f"in-edges, got {len(edges)}"
            )


def _known(where: str, config: Mapping[str, Any], accepted: Sequence[str]) -> None:
    for key in config:
        if key not in accepted:
            raise GraphError(f"{where}: {one_of('key', key, accepted)}")


def _member(where: str, key: str, value: object, accepted: Any) -> None:
    if not isinstance(value, str) or value not in accepted:
        raise GraphError(f"{where}: {one_of(key, value, accepted)}")


def _number(where: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise GraphError(f"{where}: {key}={value!r}; accepted: a finite number")
    return float(value)


def _positive(where: str, key: str, value: Any) -> float:
    number = _number(where, key, value)
    if number <= 0:
        raise GraphError(f"{where}: {key}={value!r}; accepted: a number above 0")
    return number
