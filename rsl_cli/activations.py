"""Activations: functions of every number by itself, by name."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rsl_cli.errors import GraphError
from rsl_cli.registry import Registry

Activation = Callable[[Tensor], Tensor]
"""A function of every number by itself."""


class _Tanh(torch.autograd.Function):
    """tanh in double precision by NumPy, whose loops are three times as fast as torch's."""

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return torch.from_numpy(np.tanh(z.detach().numpy()))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(cotangent, y)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return tangent * (1 - y * y)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _Tanh.apply(args[0]), in_dims[0]


def _tanh(z: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    by_numpy = z.dtype == torch.float64 and z.device.type == "cpu"
    return cast(Tensor, _Tanh.apply(z)) if by_numpy else torch.tanh(z)


def _gelu(z: Tensor) -> Tensor:
    """Z Phi(z), exact (Hendrycks and Gimpel, 2016)."""
    return 0.5 * z * (1 + torch.erf(z * 0.5**0.5))


def _silu(z: Tensor) -> Tensor:
    """Z / (1 + e^-z)."""
    return 0.5 * z * (1 + _tanh(0.5 * z))


def _softplus(z: Tensor) -> Tensor:
    """log(1 + e^z)."""
    # Beyond 40, e^-z is nothing beside z.
    small = z.clamp(max=40)
    return torch.log1p(torch.exp(small)) + (z - small)


ACTIVATIONS: Registry[Activation] = Registry("activation", GraphError)
"""Every activation by name; leaky_relu has slope 0.01 below zero, gelu is the exact one (erf).

Each rounds a number alike wherever it stands. torch's own gelu, silu, softplus and softmax do not: the last numbers of
a thread's share go through other code.
"""

for _name, _function in {
    "tanh": _tanh,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "gelu": _gelu,
    "silu": _silu,
    "softplus": _softplus,
    "sin": torch.sin,
    "identity": lambda z: z,
}.items():
    ACTIVATIONS.add(_name)(_function)
