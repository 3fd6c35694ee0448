"""Sparse products that torch can differentiate, to any order and in both modes.

The three products are the partial derivatives of one trilinear form T(w, x, g), see `rsl_cli.kernels.reference`.
Being linear in each argument, every derivative of a product is again one of the three, so a single
`torch.autograd.Function` holds all of them: the rule is "put the incoming (co)tangent where its argument stands".
"""

import enum
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from rsl_cli.kernels import reference
from rsl_cli.kernels.pattern import Pattern


class Implementation(enum.Enum):
    """Who computes the products; all give the same numbers to rounding."""

    AUTO = "auto"
    REFERENCE = "reference"
    NUMBA = "numba"
    TRITON = "triton"


class _Argument(enum.Enum):
    WEIGHT = 0
    X = 1
    G = 2


_OTHERS = {argument: tuple(other for other in _Argument if other is not argument) for argument in _Argument}


def sparse_product(
    weight: Float[Tensor, " edges"],
    x: Float[Tensor, "columns samples"],
    pattern: Pattern,
    implementation: Implementation = Implementation.AUTO,
) -> Float[Tensor, "rows samples"]:
    """Multiply the sparse matrix of a pattern by x.

    Args:
        weight: (E,), the matrix's entries in the pattern's order.
        x: (columns, M), feature-major: one row per copy, samples contiguous.
        pattern: where the entries are.
        implementation: AUTO takes, for float32 and float64, Numba on the CPU and Triton (where it can be imported) on
            CUDA devices; plain torch elsewhere.

    Returns:
        (rows, M); differentiable in ``weight`` and ``x`` by backward, jvp, `torch.func` and vmap.
    """
    function = _Partial if _is_transformed() else _Recorded
    return function.apply(_Argument.G, weight, x, pattern, implementation)  # pyright: ignore[reportReturnType]


class _Partial(torch.autograd.Function):
    """dT / d(argument), a function of the two other arguments (a, b) in the order weight, x, g."""

    @staticmethod
    def forward(argument: _Argument, a: Tensor, b: Tensor, pattern: Pattern, implementation: Implementation) -> Tensor:
        kernels = kernels_for(a, b, implementation)
        a, b = a.detach().contiguous(), b.detach().contiguous()
        if argument is _Argument.G:
            return kernels.product(a, b, pattern)
        if argument is _Argument.X:
            return kernels.transposed_product(a, b, pattern)
        return kernels.sampled_product(a, b, pattern)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.argument, a, b, ctx.pattern, ctx.implementation = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, b)
        ctx.save_for_forward(a, b)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if cotangent is None:
            return None, None, None, None, None
        of_a, of_b = _OTHERS[ctx.argument]
        a, b = ctx.saved_tensors
        return (
            None,
            _derivative(ctx, of_a, of_b, b, cotangent) if ctx.needs_input_grad[1] else None,
            _derivative(ctx, of_b, of_a, a, cotangent) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        _, da, db, _, _ = tangents
        a, b = ctx.saved_tensors
        rest = (ctx.pattern, ctx.implementation)
        terms = []
        if da is not None:
            terms.append(_Partial.apply(ctx.argument, da, b, *rest))
        if db is not None:
            terms.append(_Partial.apply(ctx.argument, a, db, *rest))
        return sum(terms[1:], start=terms[0]) if terms else None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        argument, a, b, *rest = args
        _, a_dim, b_dim, *_ = in_dims
        if argument is not _Argument.WEIGHT and a_dim is None:
            # A batch of right-hand sides is one wider right-hand side.
            batched = b.movedim(b_dim, 1)
            wide = _Partial.apply(argument, a, batched.reshape(batched.shape[0], -1), *rest)
            return wide.reshape(-1, *batched.shape[1:]), 1
        parts = [
            _Partial.apply(
                argument,
                a if a_dim is None else a.select(a_dim, i),
                b if b_dim is None else b.select(b_dim, i),
                *rest,
            )
            for i in range(info.batch_size)
        ]
        return torch.stack(parts), 0


def _derivative(ctx: Any, of: _Argument, other: _Argument, value: Tensor, cotangent: Tensor) -> Any:
    """That by one operand, of the value of the other and of the cotangent."""
    in_order = (value, cotangent) if other.value < ctx.argument.value else (cotangent, value)
    # Being recorded costs more than a small product, so not where nobody could ask for a further derivative.
    compute = _Partial.apply if _is_recorded() else _Partial.forward
    return compute(of, *in_order, ctx.pattern, ctx.implementation)


class _Recorded(torch.autograd.Function):
    """The same outside of `torch.func` and forward mode, where torch binds no arguments by name at every call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = _Partial.forward(*inputs)
        _Partial.setup_context(ctx, inputs, output)
        return output

    backward = _Partial.backward  # pyright: ignore[reportAssignmentType]


def _is_transformed() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _is_recorded() -> bool:
    return torch.is_grad_enabled() or _is_transformed()


def kernels_for(a: Tensor, b: Tensor, implementation: Implementation = Implementation.AUTO) -> ModuleType:
    """The module whose functions are those of `rsl_cli.kernels.reference`, for two operands."""
    if implementation is Implementation.AUTO:
        implementation = _fastest(a, b)
    if implementation is Implementation.REFERENCE:
        return reference
    if implementation is Implementation.NUMBA:
        from rsl_cli.kernels import cpu

        return cpu
    from rsl_cli.kernels import cuda

    return cuda


def _fastest(a: Tensor, b: Tensor) -> Implementation:
    if a.device == b.device and a.dtype == b.dtype and a.dtype in (torch.float32, torch.float64):
        if a.device.type == "cpu":
            return Implementation.NUMBA
        if a.device.type == "cuda" and _has_triton():
            return Implementation.TRITON
    return Implementation.REFERENCE


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
