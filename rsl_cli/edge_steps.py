"""Each base edge of a network as one matrix product over all its copies, and where its weight acted in it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rsl_cli.kernels.autograd import Implementation, sparse_product
from rsl_cli.kernels.pattern import Pattern
from rsl_cli.lift import Lift, LiftUnion, lifting_of
from rsl_cli.parametrization import is_multiplied, weight_multiplier


@dataclass(frozen=True)
class _Geometry:
    """Rows and columns of one base edge's matrix, over all copies of one replica."""

    rows: int
    columns: int
    complete: bool


@dataclass(frozen=True)
class WeightUse:
    """Where an edge's weight acts: its step, what the step reads and what it makes, both (copies * numbers, N)."""

    step: "EdgeStep"
    x: Tensor
    z: Tensor


Tape = dict[str, WeightUse | Tensor]
"""By parameter name: where a weight acts, or the sums (n_v, *Y_v, N) to which a bias was added."""


_NARROW = 4
"""Side of a complete matrix up to which the sparse kernels multiply by it."""


class EdgeStep:
    """One base edge as a matrix product: complete edges on a GPU by torch's, others by the sparse kernels."""

    def __init__(self, lift: Lift | LiftUnion, index: int, parametrization: str) -> None:
        edge, base = lift.base.edges[index], lift.base
        self.stencil = base.stencil(edge)
        self.from_input = base.vertex(edge.source).kind == "input"
        self.multipliers = None
        self._kept_factors: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        if is_multiplied(edge, base, parametrization):
            self.multipliers = [weight_multiplier(edge, replica, parametrization) for replica in lift.replicas]
        self.geometry: list[_Geometry] = []
        for replica in lift.replicas:
            n_u, n_v = replica.fibres[edge.source], replica.fibres[edge.target]
            self.geometry.append(_Geometry(n_v, n_u, len(replica.lists[index][0]) == n_u * n_v))
        self._index, self._lift = index, lift
        self._height = sum(geometry.rows for geometry in self.geometry) * self.stencil.rows * self.stencil.width
        self.counts = [len(replica.lists[index][0]) for replica in lift.replicas]
        # Weightless edges copy; a matrix product with ones would cost more than it says.
        has_weight = base.weight_shape(edge) is not None
        # By kind: were it by the edges drawn, a small replica would round otherwise alone than beside a large one.
        laws = [lifting_of(edge, base, replica.lifting).law for replica in lift.replicas]
        always = all(law.complete or (self.from_input and (law.bounded or 0) >= 1) for law in laws)
        complete = always and all(geometry.complete for geometry in self.geometry)
        # A narrow matrix is no work for GEMM, and sparse products take all replicas in one call.
        sides = [self.stencil.columns] if self.from_input else []
        sides += [self.stencil.rows * base.output_size] if base.vertex(edge.target).kind == "output" else []
        narrow = min(sides, default=_NARROW + 1) <= _NARROW
        self.dense = has_weight and complete and self.stencil.is_matrix and not narrow

    def __call__(self, weight: Tensor | None, x: Tensor, implementation: Implementation) -> Tensor:
        """Multiply: x is (1 or R, d, N) from the input, else (copies * numbers, N); returns (copies * numbers, N)."""
        samples = x.shape[-1]
        stencil = self.stencil
        if self.dense and x.device.type != "cpu":
            assert weight is not None
            return self._dense(weight, x, samples)
        if self.from_input:
            x = x.expand(len(self.geometry), -1, -1).flatten(0, 1)
        values = x.new_ones(self.pattern.size) if weight is None else weight.reshape(-1)
        if self.multipliers is not None:
            values = values * self._factors(x)
        wide = x.reshape(self.pattern.columns * stencil.columns, stencil.width * samples)
        return sparse_product(values, wide, self.pattern, implementation).view(self._height, samples)

    def _factors(self, like: Tensor) -> Tensor:
        """The multiplier of every weight, (E * T,), of another tensor's type and device; kept for the next call."""
        key = (like.device, like.dtype)
        if key not in self._kept_factors:
            assert self.multipliers is not None
            spread = np.repeat(self.multipliers, [count * self.stencil.taps for count in self.counts])
            # What is made in inference mode could not be differentiated through by a later call.
            with torch.inference_mode(False):
                self._kept_factors[key] = torch.as_tensor(spread, dtype=like.dtype, device=like.device)
        return self._kept_factors[key]

    @cached_property
    def pattern(self) -> Pattern:
        """Where the kept edges are, and how each acts."""
        base = self._lift.base
        edge = base.edges[self._index]
        sources, targets = self._lift.edge_lists[self._index]
        shape = (self._lift.fibre(edge.target), self._lift.fibre(edge.source))
        equal = len({(geometry.rows, geometry.columns) for geometry in self.geometry}) == 1
        blocks = len(self.geometry) if equal else 1
        return Pattern.from_edges(targets, sources, *shape, blocks, self.stencil)

    def _dense(self, weight: Tensor, x: Tensor, samples: int) -> Tensor:
        stencil, outs, row, edge = self.stencil, [], 0, 0
        # Only then do the gradients of later replicas start at odd places.
        unaligned = len(self.counts) > 1 and stencil.width * samples * x.element_size() % _ALIGNMENT > 0
        for index, (geometry, count) in enumerate(zip(self.geometry, self.counts, strict=True)):
            columns = geometry.columns * stencil.columns
            part = weight[edge : edge + count].reshape(geometry.rows, geometry.columns, stencil.rows, stencil.columns)
            matrix = part.transpose(1, 2).reshape(geometry.rows * stencil.rows, columns)
            height = columns * stencil.width
            flat = x.flatten(0, -2)
            shared = self.from_input and x.shape[0] == 1
            operand = flat if shared else flat[row : row + height]
            out = _aligned(matrix) @ _aligned(operand).reshape(columns, stencil.width * samples)
            out = out if self.multipliers is None else out * self.multipliers[index]
            outs.append(contiguous_backward(out) if unaligned else out)
            row += height
            edge += count
        joined = outs[0] if len(outs) == 1 else torch.cat(outs)
        return joined.view(self._height, samples)


_ALIGNMENT = 64
"""Bytes. A dense product may round differently where an operand starts elsewhere than at a multiple of them."""


def _aligned(part: Tensor) -> Tensor:
    offset = part.storage_offset() * part.element_size()
    return part.clone() if offset % _ALIGNMENT else part


class _Contiguous(torch.autograd.Function):
    """The identity, whose gradient is contiguous and aligned."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return cotangent.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tangent.clone()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _Contiguous.apply(args[0]), in_dims[0]


def contiguous_backward(x: Tensor) -> Tensor:
    """The same tensor, to which a gradient comes back contiguous and aligned."""
    return cast(Tensor, _Contiguous.apply(x))
