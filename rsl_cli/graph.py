"""Base graphs: typed directed acyclic graphs, validated once, then immutable.

A base graph (the perceptron module B of Robin, Scaman and Lelarge, ICLR 2024) says which vertices there are, what each
computes, and through which edge maps they read each other. How often a vertex is copied is the lift's business.
"""

import contextlib
import graphlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rsl_cli.contracts import check_bias, check_combine, check_edge_map, check_stage
from rsl_cli.errors import RAISED, GraphError, first_line, one_of
from rsl_cli.graph_config import read_graph
from rsl_cli.kernels.stencil import Stencil
from rsl_cli.liftings import EdgeLifting, edge_lifting
from rsl_cli.parts import Space
from rsl_cli.vertex_maps import bias_of
from rsl_cli.vertices import Edge, Init, Vertex

__all__ = ["BaseGraph", "Edge", "EdgeLifting", "Init", "Vertex", "edge_lifting"]


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

        Returns:
            The graph, its vertices in an order in which every edge leads onwards.

        Raises:
            GraphError: anything that is not a base graph; the text names the vertex or the edge.
        """
        name, vertices, edges = read_graph(mapping)
        _check_ends(vertices, edges)
        order = _topological_order(vertices, edges)
        _check_reachable(vertices, edges)
        shape, outputs = _sizes(input_shape, output_size)
        graph = cls(name, tuple(vertices[key] for key in order), edges, shape, outputs)
        _check_slots(graph)
        for vertex in graph.vertices:
            graph.space(vertex.name)
        _check_parts(graph)
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

        Returns:
            It, with all its fields settled.

        Raises:
            GraphError: there is none.
        """
        for vertex in self.vertices:
            if vertex.name == name:
                return vertex
        raise GraphError(one_of("vertex", name, [vertex.name for vertex in self.vertices]))

    def edge_index(self, source: str, target: str, slot: str | None = None) -> int:
        """Position in `edges` of the edge from ``source`` to ``target``; ``slot`` tells parallel edges apart.

        Returns:
            A number from 0.

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
        return self._spaces[self.vertex(vertex).name][1]

    def weight_shape(self, edge: Edge) -> Space | None:
        """W_e, the shape of one kept edge's weight; None if the map has none."""
        return edge.map.weight_shape(self.space(edge.source))

    def stencil(self, edge: Edge) -> Stencil:
        """How one kept edge acts."""
        return edge.map.stencil(self.space(edge.source))

    def sum_space(self, vertex: str) -> Space:
        """Z_v, the shape of one copy's combined slots: Y_v unless the vertex pools."""
        return self._spaces[self.vertex(vertex).name][0]

    def bias_shape(self, vertex: Vertex) -> Space | None:
        """Shape of one copy's bias, to be broadcast to Z_v; None if there is none."""
        return bias_of(vertex.bias)(self.sum_space(vertex.name)) if vertex.bias else None

    @cached_property
    def _spaces(self) -> dict[str, tuple[Space, Space]]:
        """Z_v and Y_v of every vertex."""
        spaces: dict[str, tuple[Space, Space]] = {}
        for vertex in self.vertices:
            space = self.input_shape if vertex.kind == "input" else self._combined(vertex, spaces)
            made = space
            for key, part in (("norm", vertex.norm), ("pool", vertex.pool)):
                with _naming(f"vertex {vertex.name}", key in vertex.origins):
                    made = _made(f"space of {key} {part.name}", part.space(made)) if part else made
            spaces[vertex.name] = space, made
        return spaces

    def _combined(self, vertex: Vertex, spaces: Mapping[str, tuple[Space, Space]]) -> Space:
        slots: dict[str, Space] = {}
        first: Edge | None = None
        for edge in self.in_edges(vertex.name):
            with _naming(f"edge {edge.name}", edge.origin is not None):
                space = edge.map.output_space(spaces[edge.source][1])
                space = _made(f"output_space of map '{edge.map_name}'", space)
            expected = () if vertex.kind == "output" else (space if first is None else slots[slot_key(first)])
            if space != expected and vertex.combine.slots is None:
                because = f"edge {first.name} gives that to {vertex.name}" if first else "an output is a scalar"
                raise GraphError(
                    f"edge {edge.name}: map '{edge.map_name}' needs equal spaces, got {space} and {expected} "
                    f"({because}); use map 'linear' with the right out"
                )
            slots[slot_key(edge)] = space
            first = first or edge
        with _naming(f"vertex {vertex.name}", "combine" in vertex.origins):
            return _made("space of combine", vertex.combine.space(slots))


def _made(what: str, space: Any) -> Space:
    """A space that a part says it makes, if it is one."""
    if not isinstance(space, tuple) or not all(isinstance(size, int) and size > 0 for size in space):
        raise GraphError(f"{what} is {space!r}; accepted: a tuple of whole numbers from 1")
    return space


@contextlib.contextmanager
def _naming(where: str, own: bool = False) -> Iterator[None]:
    """Say where an error is; of a user's own part any exception is one."""
    try:
        yield
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error
    except RAISED as error:
        if not own:
            raise
        raise GraphError(f"{where}: fails with {type(error).__name__}: {first_line(error)}") from error


def _sizes(input_shape: Sequence[int], output_size: int) -> tuple[Space, int]:
    sizes: tuple[Any, ...] = (*input_shape, output_size) if isinstance(input_shape, Sequence) else (None,)
    # operator.index takes NumPy's integers as well, and neither floats nor text.
    if any(isinstance(size, bool) or not hasattr(size, "__index__") or operator.index(size) < 1 for size in sizes):
        raise GraphError(
            f"base graph: input_shape={input_shape!r}, output_size={output_size!r}; accepted: whole numbers from 1, "
            "e.g. input_shape=(2,), output_size=1"
        )
    return tuple(operator.index(size) for size in input_shape), operator.index(output_size)


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
    after: dict[str, list[str]] = {}
    for tail, head in arrows:
        after.setdefault(tail, []).append(head)
    reached, frontier = {start}, [start]
    while frontier:
        for head in after.get(frontier.pop(), ()):
            if head not in reached:
                reached.add(head)
                frontier.append(head)
    return reached


def _check_slots(graph: BaseGraph) -> None:
    for vertex in graph.vertices:
        if vertex.kind == "input":
            continue
        combine, edges = vertex.combine, graph.in_edges(vertex.name)
        needs_names = combine.least > 1
        seen: dict[str, Edge] = {}
        for edge in edges:
            if edge.slot is None and needs_names:
                raise GraphError(
                    f"edge {edge.name}: missing slot; combine '{combine.name}' of {vertex.name} needs one each"
                )
            key = slot_key(edge)
            if key in seen:
                raise GraphError(
                    f"edge {edge.name}: doubled slot '{key}' of {vertex.name}; give each in-edge its own slot"
                )
            seen[key] = edge
            if combine.slots is not None and key not in combine.slots:
                raise GraphError(f"edge {edge.name}: {one_of('slot', key, combine.slots)}")
        if len(edges) < combine.least:
            raise GraphError(
                f"vertex {vertex.name}: missing slot; combine '{combine.name}' needs at least {combine.least} "
                f"in-edges, got {len(edges)}"
            )


def _check_parts(graph: BaseGraph) -> None:
    """Hold a user's parts to their contracts, on the spaces they are used on."""
    for edge in graph.edges:
        if edge.origin is not None:
            with _naming(f"edge {edge.name}"):
                check_edge_map(edge.map, graph.space(edge.source))
    for vertex in graph.vertices:
        with _naming(f"vertex {vertex.name}"):
            if "combine" in vertex.origins:
                slots = {slot_key(e): e.map.output_space(graph.space(e.source)) for e in graph.in_edges(vertex.name)}
                check_combine(vertex.combine, slots)
            space = graph.sum_space(vertex.name)
            if "bias" in vertex.origins:
                check_bias(bias_of(vertex.bias), space, str(vertex.bias))
            for key, stage in (("norm", vertex.norm), ("pool", vertex.pool)):
                if stage is not None:
                    if key in vertex.origins:
                        check_stage(stage, space)
                    space = stage.space(space)


def slot_key(edge: Edge) -> str:
    """Which argument of its target an edge feeds: the slot it names, else its source."""
    return edge.slot or edge.source
