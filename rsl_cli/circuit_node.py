"""A network's forward and backward pass by its circuits, as one node of autograd's graph.

Products edge by edge stay what derivatives of derivatives, forward mode and `torch.func` are made of; the node falls
back on them where its own backward pass is to be recorded.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from rsl_cli.circuits import circuit_of
from rsl_cli.kernels.circuit import group_bounds
from rsl_cli.kernels.circuit_pass import backward, forward, needs_slopes
from rsl_cli.kernels.strip import BYTES
from rsl_cli.kernels.threads import in_threads, worth_threads
from rsl_cli.lift import Lift

Edgewise = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""Outputs (R, N, outputs) from inputs (1 or R, N, inputs) and parameters by name, differentiable to any order."""


class CircuitNode:
    """The circuits of a network's replicas.

    Args:
        replicas: one lift each.
        parametrization: of the network.
        segments: by parameter name, in the order of the network's parameters, leading entries of each replica.
    """

    def __init__(self, replicas: Sequence[Lift], parametrization: str, segments: Mapping[str, Sequence[int]]) -> None:
        found = [circuit_of(lift, parametrization) for lift in replicas]
        assert all(one is not None for one in found)
        self.circuits, factors = zip(*(one for one in found if one is not None), strict=True)
        multiplied = [np.flatnonzero(factor != 1) for factor in factors]
        self.factors = [(places, factor[places]) for places, factor in zip(multiplied, factors, strict=True)]
        """By replica, the numbers of the parameters that are multiplied to give their weights, and by what."""
        self.slopes = [needs_slopes(circuit) for circuit in self.circuits]
        self._longest = max(len(circuit.function) for circuit in self.circuits)
        self._free: dict[torch.dtype, list[np.ndarray]] = {torch.float32: [], torch.float64: []}
        self._spent: list[list[Any]] = []
        """What the last backward pass overwrote: memory for the next forward pass, new memory being slow."""
        self.names = list(segments)
        self.ends = [np.cumsum([0, *segments[name]]).tolist() for name in segments]

    def __getstate__(self) -> dict[str, Any]:
        """All but memory: no copy or file of a network holds any."""
        return self.__dict__ | {"_free": {dtype: [] for dtype in self._free}, "_spent": []}

    @staticmethod
    def serves(x: Tensor, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a node can compute these: plain float32 or float64 tensors on the CPU, under no transform."""
        return (
            len(tensors) > 0
            and not torch._C._are_functorch_transforms_active()
            and forward_ad._current_level < 0
            and x.dtype in (torch.float32, torch.float64)
            and all(
                type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu" and tensor.dtype == x.dtype
                for tensor in (x, *tensors.values())
            )
        )

    def __call__(self, x: Tensor, tensors: Mapping[str, Tensor], edgewise: Edgewise) -> Tensor:
        """Outputs (R, N, outputs) of inputs (1 or R, N, inputs)."""
        given = [tensors[name] for name in self.names]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *given)):
            return _Node.apply(self, edgewise, x, *given)
        return self.outputs(x, given, keep=False)[0]

    def outputs(self, x: Tensor, tensors: Sequence[Tensor], *, keep: bool) -> tuple[Tensor, list[Any]]:
        """The outputs, and what the backward pass reads of each replica if it is to be kept."""
        samples, strip = x.shape[1], BYTES // x.element_size()
        inputs = x.detach().contiguous().numpy()
        out = torch.empty(len(self.circuits), samples, self.circuits[0].outputs, dtype=x.dtype)
        into, kept = out.numpy(), []
        spent = _taken(self._spent) or []
        for replica, circuit in enumerate(self.circuits):
            weight = self._weight(tensors, replica)
            length = len(circuit.function) * strip
            strips = -(-samples // strip) if keep else 0
            if spent and spent[replica][1].shape == (strips, length) and spent[replica][0].dtype == inputs.dtype:
                _, y, d = spent[replica]
            else:
                # torch's memory starts where a strip's registers are read from one line of cache each; NumPy's may not.
                y = torch.empty(strips, length, dtype=x.dtype).numpy()
                d = torch.empty(strips if self.slopes[replica] else 0, length, dtype=x.dtype).numpy()
            own, to = inputs[replica % len(inputs)], into[replica]

            def run(first: int, stop: int, circuit=circuit, weight=weight, y=y, d=d, own=own, to=to) -> None:
                with self._strips(x.dtype) as work:
                    values, slopes = y if len(y) else work[:1], d if len(d) else work[1:]
                    forward(circuit, weight, own, first, stop, values, slopes, to)

            self._shared(circuit, weight, samples, run)
            kept.append((weight, y, d))
        return out, kept

    def derivatives(
        self, kept: Sequence[Any], x_shape: torch.Size, cotangent: Tensor, of_x: bool
    ) -> tuple[np.ndarray | None, list[np.ndarray]]:
        """By inputs, of x's shape, and by each replica's parameters (P,), of <cotangent, outputs>; spends ``kept``."""
        incoming = cotangent.detach().contiguous().numpy()
        total = np.zeros(x_shape, incoming.dtype) if of_x else None
        gradients = []
        for replica, (circuit, (weight, y, d)) in enumerate(zip(self.circuits, kept, strict=True)):
            samples = incoming.shape[1]
            by_x = np.empty((samples if of_x else 0, circuit.inputs), weight.dtype)
            parts: dict[int, np.ndarray] = {}

            def run(first: int, stop: int, circuit=circuit, weight=weight, y=y, d=d, by_x=by_x, parts=parts, r=replica):
                parts[first] = np.zeros_like(weight)
                with self._strips(cotangent.dtype) as work:
                    slopes = d if len(d) else work[1:]
                    backward(circuit, weight, first, stop, y, slopes, incoming[r], parts[first], by_x)

            self._shared(circuit, weight, samples, run)
            gradient, *others = (parts[first] for first in sorted(parts))
            for other in others:
                gradient += other
            gradients.append(self._multiplied(gradient, replica)[:-1])
            if total is not None:
                total[replica % len(total)] += by_x
        self._spent[:] = [list(kept)]
        return total, gradients

    def spread(self, gradients: Sequence[np.ndarray], like: Sequence[Tensor]) -> list[Tensor]:
        """Each replica's (P,) as tensors like the parameters."""
        replicas = []
        for replica, gradient in enumerate(gradients):
            counts = [ends[replica + 1] - ends[replica] for ends in self.ends]
            sizes = [count * math.prod(tensor.shape[1:]) for count, tensor in zip(counts, like, strict=True)]
            replicas.append(torch.from_numpy(gradient).split(sizes))
        merged = replicas[0] if len(replicas) == 1 else [torch.cat(parts) for parts in zip(*replicas, strict=True)]
        return [part.view(tensor.shape) for part, tensor in zip(merged, like, strict=True)]

    def _weight(self, tensors: Sequence[Tensor], replica: int) -> np.ndarray:
        """(P + 1,), the last being 1."""
        parts = tensors
        if len(self.circuits) > 1:
            parts = [tensor[ends[replica] : ends[replica + 1]] for tensor, ends in zip(tensors, self.ends, strict=True)]
        with torch.no_grad():
            weight = torch.cat([*(part.reshape(-1) for part in parts), parts[0].new_ones(1)]).numpy()
        return self._multiplied(weight, replica)

    def _multiplied(self, numbers: np.ndarray, replica: int) -> np.ndarray:
        """Numbers of a replica's parameters times its factors, in place."""
        places, factors = self.factors[replica]
        numbers[places] *= factors.astype(numbers.dtype)
        return numbers

    @contextmanager
    def _strips(self, dtype: torch.dtype) -> Iterator[np.ndarray]:
        """Two strips of the longest circuit, kept from call to call, since new memory costs as much as a pass.

        Those of slopes start as ones and stay so where they need not be kept: see `needs_slopes`.

        Yields:
            (2, rows * lanes), nobody else's meanwhile.
        """
        free = self._free[dtype]
        try:
            work = free.pop()
        except IndexError:
            work = torch.ones(2, self._longest * BYTES // dtype.itemsize, dtype=dtype).numpy()
        yield work
        free.append(work)

    @staticmethod
    def _shared(circuit: Any, weight: np.ndarray, samples: int, run: Callable[[int, int], None]) -> None:
        """Run over groups of samples, whose bounds depend on their number alone."""
        bounds = _bounds(samples, weight.dtype)
        if worth_threads(len(circuit.columns) * samples):
            list(in_threads(lambda ends: run(*ends), bounds))
        else:
            for ends in bounds:
                run(*ends)


def _taken(items: list[list[Any]]) -> list[Any] | None:
    """The last of them, which no other thread gets then."""
    try:
        return items.pop()
    except IndexError:
        return None


@lru_cache(maxsize=64)
def _bounds(samples: int, dtype: np.dtype) -> list[tuple[int, int]]:
    """First and last + 1 sample of each group."""
    like = np.empty(0, dtype)
    return [group_bounds(samples, like, group)[:2] for group in range(group_bounds(samples, like, 0)[2])]


class _Node(torch.autograd.Function):
    """`CircuitNode.outputs`, and its derivatives."""

    @staticmethod
    def forward(ctx: Any, node: CircuitNode, edgewise: Edgewise, x: Tensor, *tensors: Tensor) -> Tensor:
        out, kept = node.outputs(x, tensors, keep=True)
        ctx.kept = [kept]
        ctx.node, ctx.edgewise = node, edgewise
        ctx.save_for_backward(x, *tensors)
        return out

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            out = ctx.edgewise(x, dict(zip(ctx.node.names, tensors, strict=True)))
            needed = [tensor for tensor, want in zip((x, *tensors), wanted, strict=True) if want]
            found = iter(torch.autograd.grad(out, needed, cotangent, create_graph=True, allow_unused=True))
            return None, None, *(next(found) if want else None for want in wanted)
        # Overwritten below: who goes back a second time computes forward again.
        kept = _taken(ctx.kept) or ctx.node.outputs(x, tensors, keep=True)[1]
        of_x, gradients = ctx.node.derivatives(kept, x.shape, cotangent, wanted[0])
        parts = ctx.node.spread(gradients, tensors)
        return (
            None,
            None,
            None if of_x is None else torch.from_numpy(of_x),
            *(part if want else None for part, want in zip(parts, wanted[1:], strict=True)),
        )
