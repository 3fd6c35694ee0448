"""Which torch layers and functions have a map, and which vertex each makes.

A rule takes what the call takes, with a `Value` for every tensor that depends on the input, and returns the `Value` of
its result. To accept another layer, write a rule and name it in `FUNCTIONS` or `MODULES`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from rsl_cli.module.attention import attention_function, multihead
from rsl_cli.module.axes import chunk, getitem, permute, reshape, split, transpose
from rsl_cli.module.joins import add, cat, mul
from rsl_cli.module.pointwise import (
    activation,
    adaptive_pool,
    avg_pool,
    dropout,
    gelu,
    identity,
    layer_norm,
    leaky_relu,
    max_pool,
    mean,
    rms_norm,
    softplus,
    upsample,
)
from rsl_cli.module.weighted import conv, linear

_ACTIVATIONS: dict[str, Callable[..., Any]] = {
    **{name: activation(name) for name in ("tanh", "relu", "silu", "sin")},
    "leaky_relu": leaky_relu,
    "gelu": gelu,
    "softplus": softplus,
}
_RESHAPES = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **_ACTIVATIONS,
    **dict.fromkeys(_RESHAPES, reshape),
    **dict.fromkeys(("contiguous", "clone"), identity),
    **dict.fromkeys(("add", "iadd"), add),
    **dict.fromkeys(("mul", "imul", "multiply"), mul),
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "scaled_dot_product_attention": attention_function,
    "dropout": dropout,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "max_pool2d": max_pool,
    "avg_pool2d": avg_pool,
    "adaptive_avg_pool2d": adaptive_pool,
    "mean": mean,
    "interpolate": upsample,
    **dict.fromkeys(("transpose", "swapaxes"), transpose),
    "permute": permute,
    "chunk": chunk,
    "split": split,
    "getitem": getitem,
}
"""Rules by the name of a function or method."""


def _with(rule: Callable[..., Any], *keys: str) -> Callable[..., Any]:
    """A rule of a function as that of a layer, which holds these arguments."""
    return lambda call, layer, value: rule(call, value, **{key: getattr(layer, key) for key in keys})


MODULES: Mapping[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: linear,
    nn.Conv2d: conv,
    nn.MultiheadAttention: multihead,
    nn.Tanh: _with(activation("tanh")),
    nn.ReLU: _with(activation("relu")),
    nn.SiLU: _with(activation("silu")),
    nn.LeakyReLU: _with(leaky_relu, "negative_slope"),
    nn.GELU: _with(gelu, "approximate"),
    nn.Softplus: _with(softplus, "beta", "threshold"),
    nn.Identity: _with(identity),
    nn.Dropout: _with(dropout, "p"),
    nn.LayerNorm: _with(layer_norm, "normalized_shape", "weight", "bias", "eps"),
    nn.RMSNorm: _with(rms_norm, "normalized_shape", "weight", "eps"),
    nn.MaxPool2d: _with(max_pool, "kernel_size", "stride", "padding", "dilation", "return_indices"),
    nn.AvgPool2d: _with(avg_pool, "kernel_size", "stride", "padding", "divisor_override"),
    nn.AdaptiveAvgPool2d: _with(adaptive_pool, "output_size"),
    nn.Upsample: _with(upsample, "size", "scale_factor", "mode"),
    nn.Flatten: _with(reshape),
    nn.Unflatten: _with(reshape),
}
"""Rules by the exact type of a layer."""
