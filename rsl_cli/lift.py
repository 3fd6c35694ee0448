"""Random sparse lifts: sampling, the homomorphism, statistics, disjoint unions.

A lift multiplies the vertices of a base graph and joins the copies at random (Robin, Scaman and Lelarge, ICLR 2024).
Sampling costs time and memory proportional to the edges kept.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rsl_cli.contracts import check_lifting, failing
from rsl_cli.errors import LiftError
from rsl_cli.graph import BaseGraph, Edge, EdgeLifting, Vertex, edge_lifting
from rsl_cli.liftings import Dense, EdgeList
from rsl_cli.rng import generator

if TYPE_CHECKING:
    import networkx

_MOST = 1 << 30
"""Copies of one vertex: kernels number them in 32 bits."""


class _Lifted(Protocol):
    """What the queries below read."""

    @property
    def base(self) -> BaseGraph: ...
    @property
    def replicas(self) -> tuple["Lift", ...]: ...
    @property
    def edge_lists(self) -> tuple[EdgeList, ...]: ...

    def fibre(self, vertex: str) -> int: ...
    def edges(self, source: str, target: str, slot: str | None = None) -> EdgeList: ...


class _Queries:
    """What a lift and a union of lifts can be asked alike."""

    def fibre(self: _Lifted, vertex: str) -> int:
        """Number of copies of a base vertex."""
        self.base.vertex(vertex)
        return sum(replica.fibres[vertex] for replica in self.replicas)

    def edges(self: _Lifted, source: str, target: str, slot: str | None = None) -> EdgeList:
        """The kept edges over one base edge.

        Args:
            source: the base edge's source.
            target: its target.
            slot: its slot, needed only between parallel edges.

        Returns:
            (sources, targets), int64 (E,) each: numbers of copies, sorted by target, then source.
        """
        return self.edge_lists[self.base.edge_index(source, target, slot)]

    def check(self: _Lifted) -> None:
        """Prove that this is a lift: every kept edge lies over its base edge, none twice, fibres of the right size.

        Raises:
            LiftError: the first thing found wrong, with the edge or vertex.
        """
        for replica in self.replicas:
            replica._check_one()

    def in_degrees(self: _Lifted, source: str, target: str, slot: str | None = None) -> np.ndarray:
        """In-degree over one base edge of each copy of its target, int64 (n_v,)."""
        return np.bincount(self.edges(source, target, slot)[1], minlength=self.fibre(target))

    def unreached(self: _Lifted) -> dict[str, np.ndarray]:
        """Copies of each vertex that no input reaches, by number: they compute constants."""
        return _unmarked(self, self.base.vertices, forward=True)

    def unread(self: _Lifted) -> dict[str, np.ndarray]:
        """Copies of each vertex from which no output is reached: training never moves them."""
        return _unmarked(self, self.base.vertices[::-1], forward=False)

    def to_networkx(self: _Lifted) -> "networkx.MultiDiGraph":
        """The lift as a directed graph, for others' tools.

        Returns:
            Nodes ``(vertex, copy)`` with the attribute ``base``, the vertex; edges keyed by the base edge's name, since
            parallel base edges give parallel edges, with the attribute ``slot``.
        """
        import networkx

        graph = networkx.MultiDiGraph()
        for vertex in self.base.vertices:
            graph.add_nodes_from(((vertex.name, copy) for copy in range(self.fibre(vertex.name))), base=vertex.name)
        for edge, (sources, targets) in zip(self.base.edges, self.edge_lists, strict=True):
            for a, b in zip(sources.tolist(), targets.tolist(), strict=True):
                graph.add_edge((edge.source, a), (edge.target, b), key=edge.name, slot=edge.slot)
        return graph

    @property
    def parameter_count(self: _Lifted) -> int:
        """P: weights of all kept edges and biases of all copies."""
        total = 0
        for edge, (sources, _) in zip(self.base.edges, self.edge_lists, strict=True):
            shape = self.base.weight_shape(edge)
            total += 0 if shape is None else len(sources) * math.prod(shape)
        return total + bias_count(self.base, {v.name: self.fibre(v.name) for v in self.base.vertices})


def _unmarked(lift: _Lifted, order: Sequence[Vertex], *, forward: bool) -> dict[str, np.ndarray]:
    start = "input" if forward else "output"
    reached = {vertex.name: np.full(lift.fibre(vertex.name), vertex.kind == start) for vertex in order}
    for vertex in order:
        for edge, (sources, targets) in zip(lift.base.edges, lift.edge_lists, strict=True):
            if forward and edge.target == vertex.name:
                reached[edge.target][targets[reached[edge.source][sources]]] = True
            elif not forward and edge.source == vertex.name:
                reached[edge.source][sources[reached[edge.target][targets]]] = True
    return {name: np.flatnonzero(~mask) for name, mask in reached.items()}


@dataclass(frozen=True, eq=False)
class Lift(_Queries):
    """One lift of a base graph; make one with `sample_lift`.

    Args:
        base: the base graph.
        degree: the lift degree n.
        seed: what the random edges were drawn from.
        lifting: the default lifting, where an edge names none.
        fibres: n_v by vertex.
        lists: the kept edges over each base edge, in the order of ``base.edges``.
    """

    base: BaseGraph
    degree: int
    seed: int
    lifting: EdgeLifting
    fibres: Mapping[str, int]
    lists: tuple[EdgeList, ...]

    @property
    def replicas(self) -> tuple["Lift", ...]:
        """A lift by itself is its only replica."""
        return (self,)

    @property
    def edge_lists(self) -> tuple[EdgeList, ...]:
        """The kept edges over each base edge, in the order of ``base.edges``."""
        return self.lists

    def _check_one(self) -> None:
        expected = fibre_sizes(self.base, self.degree)
        for name, size in expected.items():
            if self.fibres.get(name) != size:
                raise LiftError(
                    f"vertex {name}: the fibre has {self.fibres.get(name)} copies, degree {self.degree} needs {size}"
                )
        if len(self.lists) != len(self.base.edges):
            raise LiftError(f"{len(self.lists)} edge lists for {len(self.base.edges)} base edges; one each is needed")
        for edge, (sources, targets) in zip(self.base.edges, self.lists, strict=True):
            n_u, n_v = expected[edge.source], expected[edge.target]
            if sources.shape != targets.shape or sources.ndim != 1:
                raise LiftError(f"edge {edge.name}: {sources.shape} sources for {targets.shape} targets")
            for end, copies, size in ((edge.source, sources, n_u), (edge.target, targets, n_v)):
                if len(copies) and not (copies.min() >= 0 and copies.max() < size):
                    raise LiftError(f"edge {edge.name}: a copy outside the fibre of {end}, which has {size}")
            key = targets * n_u + sources
            if not (np.diff(key) > 0).all():
                raise LiftError(f"edge {edge.name}: a pair of copies is joined twice, or the pairs are not sorted")
            self._check_degrees(edge, sources, targets, n_u, n_v)

    def _check_degrees(self, edge: Edge, sources: np.ndarray, targets: np.ndarray, n_u: int, n_v: int) -> None:
        lifting = lifting_of(edge, self.base, self.lifting)
        every = lifting.law.every(n_u, n_v)
        if every is not None and not (np.bincount(targets, minlength=n_v) == every).all():
            raise LiftError(
                f"edge {edge.name}: lifting '{lifting.kind}' gives every copy in-degree {every}; some differ"
            )
        with _naming(edge):
            lifting.law.check(sources, targets, n_u, n_v)


@dataclass(frozen=True, eq=False)
class LiftUnion(_Queries):
    """The disjoint union of lifts of one base graph: itself a lift, whose networks train independently."""

    replicas: tuple[Lift, ...]

    @property
    def base(self) -> BaseGraph:
        """The base graph of every replica."""
        return self.replicas[0].base

    @property
    def degree(self) -> tuple[int, ...]:
        """The lift degree of each replica."""
        return tuple(replica.degree for replica in self.replicas)

    @property
    def seed(self) -> tuple[int, ...]:
        """The seed of each replica."""
        return tuple(replica.seed for replica in self.replicas)

    @property
    def edge_lists(self) -> tuple[EdgeList, ...]:
        """The kept edges over each base edge, one replica after the other."""
        return self._joined

    @cached_property
    def _joined(self) -> tuple[EdgeList, ...]:
        joined = []
        for index, edge in enumerate(self.base.edges):
            lists = [replica.lists[index] for replica in self.replicas]
            ends = []
            for side, vertex in enumerate((edge.source, edge.target)):
                sizes = [replica.fibres[vertex] for replica in self.replicas]
                offsets = np.cumsum([0, *sizes[:-1]])
                ends.append(np.concatenate([pair[side] + offset for pair, offset in zip(lists, offsets, strict=True)]))
            joined.append((ends[0], ends[1]))
        return tuple(joined)


def sample_lift(
    base: BaseGraph,
    degree: int,
    seed: int = 0,
    lifting: Mapping[str, Any] | EdgeLifting | None = None,
) -> Lift:
    """Draw a random sparse lift.

    Args:
        base: the base graph.
        degree: the lift degree n >= 1; vertex v gets ``round(width_v * n ** growth_v)`` copies.
        seed: every edge draws from a stream of its own under this seed.
        lifting: ``{"kind", "in_degree"}`` for edges that name none themselves; by default random with in-degree 8.
            Edges from the input and into the output are dense unless they say otherwise.

    Returns:
        A lift; `Lift.check` holds for it.

    Raises:
        LiftError: degree below 1, or a matching between fibres of different size.
    """
    if isinstance(degree, bool) or not isinstance(degree, int | np.integer) or degree < 1:
        raise LiftError(f"lift degree {degree!r}; accepted: a whole number from 1")
    default = EdgeLifting() if lifting is None else edge_lifting(lifting)
    fibres = fibre_sizes(base, int(degree))
    lists = []
    for edge in base.edges:
        own = lifting_of(edge, base, default)
        draw = generator(seed, f"lift/{edge.name}")
        n_u, n_v = fibres[edge.source], fibres[edge.target]
        with _naming(edge):
            own.law.check_fibres(n_u, n_v)
        lists.append(own.law.sample(draw, n_u, n_v))
    return Lift(base, int(degree), int(seed), default, fibres, tuple(lists))


def disjoint_union(lifts: Sequence[Lift | LiftUnion]) -> LiftUnion:
    """Put lifts of one base graph side by side, to train them as one sparse graph.

    Args:
        lifts: one or more lifts or unions, of any degrees and seeds.

    Returns:
        The union, its replicas in the order given.

    Raises:
        LiftError: no lifts, or lifts of different base graphs.
    """
    replicas = tuple(replica for lift in lifts for replica in lift.replicas)
    if not replicas:
        raise LiftError("disjoint union of no lifts; pass at least one")
    for replica in replicas[1:]:
        if replica.base != replicas[0].base:
            raise LiftError(f"disjoint union: base graph '{replica.base.name}' differs from '{replicas[0].base.name}'")
    return LiftUnion(replicas)


def fibre_sizes(base: BaseGraph, degree: int) -> dict[str, int]:
    """n_v of every vertex: 1 for the input, one per output, ``round(width * degree ** growth)`` otherwise.

    Returns:
        Numbers of copies, from 1, by vertex.

    Raises:
        LiftError: a fibre too large to be numbered.
    """
    sizes = {"input": 1, "output": base.output_size}
    fibres = {}
    for vertex in base.vertices:
        # In logarithms, since a power may be too large for a float.
        if vertex.kind == "hidden" and math.log(vertex.width) + vertex.growth * math.log(degree) > math.log(_MOST):
            raise LiftError(
                f"vertex {vertex.name}: degree {degree} with width {vertex.width:g} and growth {vertex.growth:g} gives "
                f"more than {_MOST} copies; lower one of them"
            )
        fibres[vertex.name] = sizes.get(vertex.kind) or max(1, round(vertex.width * degree**vertex.growth))
    return fibres


def lifting_of(edge: Edge, base: BaseGraph, default: EdgeLifting) -> EdgeLifting:
    """The lifting of one edge: its own, else dense from the input and into the output, else the default."""
    if edge.lifting is not None:
        return edge.lifting
    ends = (base.vertex(edge.source).kind, base.vertex(edge.target).kind)
    return default if ends == ("hidden", "hidden") else _DENSE


def mean_in_degree(edge: Edge, base: BaseGraph, default: EdgeLifting, fibres: Mapping[str, int]) -> float:
    """Expected in-degree over one edge between given fibres."""
    return lifting_of(edge, base, default).law.mean_in_degree(fibres[edge.source], fibres[edge.target])


def is_dense(base: BaseGraph, degree: int, default: EdgeLifting) -> bool:
    """Whether an in-degree reaches the fibre that it reads, where edges should be sparse."""
    fibres = fibre_sizes(base, degree)
    return any(
        not lifting_of(edge, base, default).law.complete
        and mean_in_degree(edge, base, default, fibres) >= fibres[edge.source]
        for edge in base.edges
    )


_DENSE = EdgeLifting("dense", Dense())


@contextlib.contextmanager
def _naming(edge: Edge) -> Iterator[None]:
    try:
        yield
    except LiftError as error:
        raise LiftError(f"edge {edge.name}: {error}") from error


def check_fibres(base: BaseGraph, degree: int, default: EdgeLifting) -> None:
    """Find out before anything is drawn whether every edge's fibres can be joined as it asks; a user's is held to it.

    Raises:
        RslError: they cannot, or a user's lifting breaks its contract.
    """
    fibres = fibre_sizes(base, degree)
    for edge in base.edges:
        lifting, sizes = lifting_of(edge, base, default), (fibres[edge.source], fibres[edge.target])
        own = lifting.origin is not None
        with _naming(edge), failing(f"lifting {lifting.kind}") if own else contextlib.nullcontext():
            lifting.law.check_fibres(*sizes)
        if own:
            check_lifting(lifting.law, *(min(size, _CHECKED) for size in sizes))


_CHECKED = 64
"""Copies between which a user's lifting is tried out."""


def expected_parameters(base: BaseGraph, degree: int, default: EdgeLifting) -> int:
    """Mean P over the draw of the graph, rounded; nothing is sampled."""
    fibres = fibre_sizes(base, degree)
    total = 0.0
    for edge in base.edges:
        shape = base.weight_shape(edge)
        if shape is not None:
            kept = fibres[edge.target] * mean_in_degree(edge, base, default, fibres)
            total += kept * math.prod(shape)
    return round(total) + bias_count(base, fibres)


def bias_count(base: BaseGraph, fibres: Mapping[str, int]) -> int:
    """Number of bias parameters for given fibres."""
    return sum(fibres[v.name] * math.prod(base.bias_shape(v) or ()) for v in base.vertices if v.bias)
