"""Lifted networks as circuits: every number they compute as one row of a triangular sparse matrix.

Possible where vertices add, multiply or attend, apply a function number by number and take means: in perceptrons of
every kind, in convolutions of small images and in attention over a few tokens. Norms and other pooling keep to products
edge by edge.
"""

import math
from collections.abc import Mapping

import numpy as np

from rsl_cli.graph import BaseGraph, Vertex, slot_key
from rsl_cli.kernels.circuit import ACTIVATION_CODES, FUNCTIONS, Circuit
from rsl_cli.kernels.heads import FIELDS
from rsl_cli.kernels.stencil import Stencil
from rsl_cli.lift import Lift
from rsl_cli.parametrization import is_multiplied, weight_multiplier
from rsl_cli.parts import Space
from rsl_cli.vertex_maps import Attention

_MOST_SHARING = 64
"""Uses of each weight by one kept edge, above which a stencil's long runs are faster than one entry for each use."""

_WIDEST = 512
"""Numbers of a copy, read by a matrix, above which torch's dense product is faster than one entry for each weight."""

_PLANE, _PERIOD = 16, 4
"""Copies of so many rows or more, a multiple of the other, are kept apart: strips are 256 bytes, and what is read from
addresses a multiple of 4096 bytes apart contends for the same few lines of a core's first cache."""


def has_circuits(base: BaseGraph, parametrization: str) -> bool:
    """Whether lifts of a base graph are written out as circuits, in a network of some parametrization."""
    # What has no weight has no place where a readout's multiplier, or a mean's divisor, could stand.
    bare = [edge for edge in base.edges if base.weight_shape(edge) is None]
    if any(is_multiplied(edge, base, parametrization) or base.vertex(edge.source).pool for edge in bare):
        return False
    weighted = [base.stencil(edge) for edge in base.edges if base.weight_shape(edge) is not None]
    return all(_is_plain(base, vertex) for vertex in base.vertices) and all(
        _uses(stencil) <= _MOST_SHARING and stencil.columns <= _WIDEST for stencil in weighted
    )


def _is_plain(base: BaseGraph, vertex: Vertex) -> bool:
    if vertex.kind == "input":
        return True
    pooled = vertex.pool is None or vertex.pool.groups(base.sum_space(vertex.name)) is not None
    plain = vertex.combine.circuit is not None and vertex.norm is None and pooled
    return plain and vertex.activation in ACTIVATION_CODES and not vertex.origins


def _uses(stencil: Stencil) -> float:
    return len(stencil.tap) * stencil.width / stencil.taps


def circuit_of(lift: Lift, parametrization: str) -> tuple[Circuit, np.ndarray] | None:
    """Write out the network over a lift row by row.

    Args:
        lift: one lift.
        parametrization: of the network, which multiplies the readout.

    Returns:
        The circuit, and the factor by which each parameter is multiplied, float64 (P,), in the order of
        `torch.nn.utils.parameters_to_vector`; None if the base graph has no circuits.
    """
    return _CircuitBuilder(lift, parametrization).finished() if has_circuits(lift.base, parametrization) else None


class _CircuitBuilder:
    """Rows and entries so far."""

    def __init__(self, lift: Lift, parametrization: str) -> None:
        self.lift, self.parametrization = lift, parametrization
        inputs = math.prod(lift.base.input_shape)
        self.rows = 1 + inputs
        self.functions = [np.zeros(self.rows, np.uint8)]
        self.entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.heads = [np.empty((0, len(FIELDS)), np.int64)]
        self.copies: list[tuple[int, int, int]] = []
        self.values = {lift.base.input.name: 1}
        self.places, self.factor = self._parameters()

    def _parameters(self) -> tuple[Mapping[str, int], np.ndarray]:
        """Where each parameter starts, by name, and all parameters' factors."""
        base, places, factors, start = self.lift.base, {}, [], 0
        for index, edge in enumerate(base.edges):
            shape = base.weight_shape(edge)
            if shape is not None:
                count = len(self.lift.lists[index][0]) * math.prod(shape)
                factor = weight_multiplier(edge, self.lift, self.parametrization) / self._divisor(edge.source)
                factors.append(np.full(count, factor))
                places[f"weight {edge.name}"] = start
                start += count
        for vertex in base.vertices:
            shape = base.bias_shape(vertex)
            if shape is not None:
                count = self.lift.fibres[vertex.name] * math.prod(shape)
                factors.append(np.ones(count))
                places[f"bias {vertex.name}"] = start
                start += count
        return places, np.concatenate(factors) if factors else np.empty(0)

    def _divisor(self, vertex: str) -> float:
        """Of the sums that stand for the means of a vertex's pool."""
        base = self.lift.base
        pooled = base.vertex(vertex).pool is not None
        return math.prod(base.sum_space(vertex)) / math.prod(base.space(vertex)) if pooled else 1.0

    def finished(self) -> tuple[Circuit, np.ndarray]:
        hidden = [vertex for vertex in self.lift.base.vertices if vertex.kind == "hidden"]
        for vertex in (*hidden, self.lift.base.output):
            self._vertex(vertex)
        inputs = math.prod(self.lift.base.input_shape)
        rows, columns, places = (np.concatenate(parts) for parts in zip(*self.entries, strict=True))
        numbers = self._apart()
        rows, columns = numbers[rows], numbers[columns]
        functions = np.zeros(numbers[-1] + 1, np.uint8)
        functions[numbers] = np.concatenate(self.functions)
        heads = np.concatenate(self.heads)
        heads[:, :4] = numbers[heads[:, :4]]
        by_row, by_column = np.argsort(rows, kind="stable"), np.argsort(columns, kind="stable")
        computed = np.bincount(rows - 1 - inputs, minlength=len(functions) - 1 - inputs)
        circuit = Circuit(
            inputs,
            self.lift.base.output_size,
            functions,
            np.concatenate([[0], np.cumsum(computed)]),
            columns[by_row].astype(np.int32),
            places[by_row].astype(np.int32),
            np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=len(functions)))]),
            rows[by_column].astype(np.int32),
            places[by_column].astype(np.int32),
            heads,
        )
        return circuit, self.factor

    def _apart(self) -> np.ndarray:
        """Final numbers of the rows, with an empty row between copies that would contend for lines of cache."""
        gaps = np.zeros(self.rows, np.int64)
        for first, copies, size in self.copies:
            if size >= _PLANE and size % _PERIOD == 0:
                gaps[first + size * np.arange(1, copies)] = 1
        return np.arange(self.rows) + np.cumsum(gaps)

    def _vertex(self, vertex: Vertex) -> None:
        base, fibre = self.lift.base, self.lift.fibres[vertex.name]
        space = base.sum_space(vertex.name)
        size = fibre * math.prod(space)
        edges = [index for index, edge in enumerate(base.edges) if edge.target == vertex.name]
        constant = len(self.factor)
        if vertex.combine.circuit in ("product", "attention"):
            slots: dict[str, list[int]] = {}
            for index in edges:
                slots.setdefault(slot_key(base.edges[index]), []).append(index)
            firsts, spaces = {}, {}
            for slot, members in slots.items():
                edge = base.edges[members[0]]
                spaces[slot] = edge.map.output_space(base.space(edge.source))
                function = "identity" if vertex.combine.circuit == "product" else "argument"
                firsts[slot] = self._add_rows(function, fibre, math.prod(spaces[slot]))
                for index in members:
                    self._edge(index, firsts[slot])
            own = np.arange(size)
            row = self._add_rows(vertex.combine.circuit, fibre, math.prod(space))
            if isinstance(vertex.combine, Attention):
                self._heads(fibre, vertex.combine.causal, row, firsts, spaces)
            else:
                for first in firsts.values():
                    self.entries.append((row + own, first + own, np.full(size, constant)))
            if base.bias_shape(vertex) is not None or vertex.activation != "identity":
                product, row = row, self._add_rows(vertex.activation, fibre, math.prod(space))
                self.entries.append((row + own, product + own, np.full(size, constant)))
        elif vertex.combine.circuit == "sum":
            row = self._add_rows(vertex.activation, fibre, math.prod(space))
            for index in edges:
                self._edge(index, row)
        else:
            raise AssertionError(f"circuits have no {vertex.combine.circuit!r}, which {vertex.name} combines by")
        shape = base.bias_shape(vertex)
        if shape is not None:
            numbers = np.arange(fibre * math.prod(shape)).reshape(fibre, *shape)
            shared = np.broadcast_to(numbers, (fibre, *space)).reshape(-1)
            place = self.places[f"bias {vertex.name}"] + shared
            self.entries.append((row + np.arange(size), np.zeros(size, np.int64), place))
        if vertex.pool is not None:
            groups, pooled = vertex.pool.groups(space), math.prod(base.space(vertex.name))
            assert groups is not None
            unpooled, row = row, self._add_rows("identity", fibre, pooled)
            sums = np.arange(fibre)[:, None] * pooled + groups
            self.entries.append((row + sums.reshape(-1), unpooled + np.arange(size), np.full(size, constant)))
        self.values[vertex.name] = row

    def _heads(
        self, fibre: int, causal: bool, row: int, firsts: Mapping[str, int], spaces: Mapping[str, Space]
    ) -> None:
        """One head for each copy, whose results start at a row."""
        (tokens, width), (keys, values) = spaces["q"], spaces["v"]
        heads = np.empty((fibre, len(FIELDS)), np.int64)
        for place, (first, size) in enumerate(
            [(row, tokens * values), *((firsts[slot], math.prod(spaces[slot])) for slot in "qkv")]
        ):
            heads[:, place] = first + size * np.arange(fibre)
        heads[:, 4:] = tokens, keys, width, values, causal
        self.heads.append(heads)

    def _add_rows(self, function: str, copies: int, size: int) -> int:
        first, self.rows = self.rows, self.rows + copies * size
        self.functions.append(np.full(copies * size, FUNCTIONS[function], np.uint8))
        self.copies.append((first, copies, size))
        return first

    def _edge(self, index: int, row: int) -> None:
        edge = self.lift.base.edges[index]
        stencil = self.lift.base.stencil(edge)
        sources, targets = self.lift.lists[index]
        along = np.arange(stencil.width)
        # (kept edges, entries of a stencil, numbers along)
        rows = ((targets[:, None] * stencil.rows + stencil.row) * stencil.width)[:, :, None] + along
        columns = ((sources[:, None] * stencil.columns + stencil.column) * stencil.width)[:, :, None] + along
        if self.lift.base.weight_shape(edge) is None:
            places = np.full(rows.shape, len(self.factor))
        else:
            taps = np.arange(len(sources))[:, None] * stencil.taps + stencil.tap
            places = np.broadcast_to((self.places[f"weight {edge.name}"] + taps)[:, :, None], rows.shape)
        first = self.values[edge.source]
        self.entries.append((row + rows.reshape(-1), first + columns.reshape(-1), places.reshape(-1)))
