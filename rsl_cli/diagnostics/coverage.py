"""How many copies of each vertex of a lift are near-copies of a witness: the share that the counting argument needs.

A copy covers a witness's copy of the same vertex within eta when their in-edges over each base edge are in bijection,
matched weights and the biases differ by at most eta, and matched sources cover one another, down to the input. What
the networks compute, how they were trained and where the witness comes from is not known here.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from rsl_cli.errors import ConfigError
from rsl_cli.graph import BaseGraph, Vertex
from rsl_cli.network import LiftedNetwork

if TYPE_CHECKING:
    import pandas

_BLOCK = 1 << 22
"""Numbers compared at once, which bounds the memory used beside the networks."""

Mask = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class VertexCoverage:
    """What of one vertex of a witness is covered.

    Args:
        vertex: its name.
        copies: n_v, in the network that is searched.
        covering: how many of them cover at least one copy of the witness.
        by_witness: int64 (n0_v,), for each copy of the witness how many cover it.
    """

    vertex: str
    copies: int
    covering: int
    by_witness: NDArray[np.int64]

    @property
    def share(self) -> float:
        """Of the copies, those that cover at least one copy of the witness."""
        return self.covering / self.copies

    @property
    def least(self) -> int:
        """How many copies cover the copy of the witness that is covered least."""
        return int(self.by_witness.min())


def coverage(network: LiftedNetwork, witness: LiftedNetwork, eta: float) -> tuple[VertexCoverage, ...]:
    """Count the copies of each hidden vertex that cover a witness.

    Time is proportional to the edges of the network times those of the witness; outputs are not asked for.

    Args:
        network: the network searched, over one lift; its weights are compared as they stand.
        witness: a network over one lift of a base graph that computes the same; liftings, widths and initial laws may
            differ.
        eta: greatest difference, in units of the weights, between any two matched numbers; 0 asks for equal ones.

    Returns:
        One per hidden vertex, in the order of the base graph.

    Raises:
        ConfigError: eta is negative or not finite, a union of several lifts, or base graphs that differ.
    """
    if not (math.isfinite(eta) and eta >= 0):
        raise ConfigError(f"eta={eta}; accepted: a finite number from 0, in units of the weights, e.g. eta=0.5")
    for name, given in (("network", network), ("witness", witness)):
        if given.replica_count != 1:
            raise ConfigError(f"{name}: a union of {given.replica_count} lifts; accepted: one lift, pass them singly")
    base = network.lift.base
    _check_alike(base, witness.lift.base)
    covers: dict[str, Mask] = {base.input.name: np.ones((1, 1), dtype=np.bool_)}
    found = []
    for vertex in base.vertices:
        if vertex.kind == "hidden":
            covers[vertex.name] = mask = _covers(_fibre(network, vertex), _fibre(witness, vertex), covers, eta)
            counts = mask.sum(axis=0, dtype=np.int64)
            found.append(VertexCoverage(vertex.name, len(mask), int(mask.any(axis=1).sum()), counts))
    return tuple(found)


def coverage_table(network: LiftedNetwork, witness: LiftedNetwork, etas: Iterable[float]) -> "pandas.DataFrame":
    """Tabulate `coverage` for several eta.

    Args:
        network: the network searched, over one lift.
        witness: a network over one lift.
        etas: any number of them.

    Returns:
        A row for each hidden vertex and each eta, with the columns vertex, eta, copies, covering, share, least and
        witness_copies.

    Raises:
        ConfigError: as for `coverage`.
    """
    import pandas

    columns = ("vertex", "eta", "copies", "covering", "share", "least", "witness_copies")
    rows = [
        (found.vertex, float(eta), found.copies, found.covering, found.share, found.least, len(found.by_witness))
        for eta in etas
        for found in coverage(network, witness, eta)
    ]
    return pandas.DataFrame(rows, columns=pandas.Index(columns))


@dataclass(frozen=True)
class _InEdges:
    """Kept edges over one base edge: those into copy b are at the places ``starts[b]`` to ``starts[b + 1]``."""

    source: str
    sources: NDArray[np.int64]
    weights: Floats
    starts: NDArray[np.int64]

    @property
    def degrees(self) -> NDArray[np.int64]:
        return np.diff(self.starts)


@dataclass(frozen=True)
class _Fibre:
    """All copies of one vertex. Without a bias, or over an edge without weights, there are 0 numbers for each."""

    biases: Floats
    edges: Mapping[str, _InEdges]


def _fibre(network: LiftedNetwork, vertex: Vertex) -> _Fibre:
    base, copies = network.lift.base, network.lift.fibre(vertex.name)
    edges = {}
    for edge, (sources, targets) in zip(base.edges, network.lift.edge_lists, strict=True):
        if edge.target == vertex.name:
            weights = np.zeros((len(sources), 0))
            if base.weight_shape(edge) is not None:
                weights = _flat(network.weight(edge.source, edge.target, edge.slot), len(sources))
            starts = np.searchsorted(targets, np.arange(copies + 1))
            edges[edge.name] = _InEdges(edge.source, sources, weights, starts)
    return _Fibre(_flat(network.bias(vertex.name), copies) if vertex.bias else np.zeros((copies, 0)), edges)


def _flat(parameter: Any, rows: int) -> Floats:
    # The number of columns is spelt out, since of no rows it could not be inferred.
    return parameter.detach().cpu().numpy().reshape(rows, math.prod(parameter.shape[1:]))


def _covers(mine: _Fibre, theirs: _Fibre, covers: Mapping[str, Mask], eta: float) -> Mask:
    """Which copies of a vertex cover which of the witness's, (n_v, n0_v), given the same for the sources."""
    found = np.zeros((len(mine.biases), len(theirs.biases)), dtype=np.bool_)
    for copy, bias in enumerate(theirs.biases):
        fits = _near(mine.biases, bias, eta)
        for name, edges in mine.edges.items():
            fits &= edges.degrees == theirs.edges[name].degrees[copy]
        for name, edges in mine.edges.items():
            wanted = theirs.edges[name]
            places = np.arange(wanted.starts[copy], wanted.starts[copy + 1])
            candidates = np.flatnonzero(fits)
            numbers = candidates.size * len(places) * (edges.weights.shape[1] + len(places))
            for part in np.array_split(candidates, numbers // _BLOCK + 1):
                fits[part] = _in_bijection(edges, part, wanted, places, covers[edges.source], eta)
        found[:, copy] = fits
    return found


def _in_bijection(
    edges: _InEdges, copies: np.ndarray, wanted: _InEdges, places: np.ndarray, covers: Mask, eta: float
) -> Mask:
    """Whether each copy's in-edges, all of them as many as ``places``, can be matched with the witness's there."""
    own = edges.starts[copies][:, None] + np.arange(len(places))
    compatible = covers[edges.sources[own][:, :, None], wanted.sources[places]]
    weights = edges.weights[own]
    for column, place in enumerate(places):
        compatible[:, :, column] &= _near(weights, wanted.weights[place], eta)
    return _perfect(compatible)


def _near(values: Floats, wanted: Floats, eta: float) -> Mask:
    # In double precision whatever the networks are in, so that eta is not rounded either.
    return np.all(np.abs(values - wanted.astype(np.float64)) <= eta, axis=-1)


def _perfect(compatible: Mask) -> Mask:
    """Whether each of m bipartite graphs, (m, k, k), has a perfect matching."""
    found = np.all(np.any(compatible, axis=1), axis=1) & np.all(np.any(compatible, axis=2), axis=1)
    degree = compatible.shape[1]
    # Up to two a side, it is enough that nobody is alone.
    if degree <= 2 or not found.any():
        return found
    # One graph of many components is matched in one call; a greatest matching is one in each component.
    graph, row, column = np.nonzero(compatible[found])
    size = int(found.sum()) * degree
    pairs = csr_array((np.ones(len(graph), np.int8), (graph * degree + row, graph * degree + column)), (size, size))
    found[found] = np.all((maximum_bipartite_matching(pairs) >= 0).reshape(-1, degree), axis=1)
    return found


def _check_alike(base: BaseGraph, witness: BaseGraph) -> None:
    here, there = _computes(base), _computes(witness)
    for fact in {**here, **there}:
        if here.get(fact) != there.get(fact):
            raise ConfigError(
                f"{fact}: {there.get(fact, 'absent')} in the witness, {here.get(fact, 'absent')} in the network; "
                "accepted: equal vertices and edges, make the witness from the network's base graph"
            )


def _computes(base: BaseGraph) -> dict[str, Any]:
    """What of a base graph says what its lifts compute: not how they are drawn, nor how large they are."""
    facts: dict[str, Any] = {}
    for vertex in base.vertices:
        for what in ("kind", "activation", "combine", "bias", "norm", "pool"):
            facts[f"{what} of vertex {vertex.name}"] = getattr(vertex, what)
        facts[f"space of vertex {vertex.name}"] = base.space(vertex.name)
    return facts | {f"map of edge {edge.name}": edge.map for edge in base.edges}
