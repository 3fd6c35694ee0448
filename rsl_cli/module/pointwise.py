"""What acts on each copy by itself: activations, norms, pooling."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from rsl_cli.module.call import INPUT_MAPS, Call
from rsl_cli.module.draft import COPIES, FLAT, MAPS, TOKENS, Part, Value


def activation(name: str) -> Callable[..., Value]:
    """The rule of an activation without keys of its own."""

    def rule(call: Call, value: Value, inplace: bool = False) -> Value:
        return _activated(call, value, name)

    return rule


def _activated(call: Call, value: Value, name: str) -> Value:
    parts = []
    for part in call.each(value):
        draft = call.extended(part, 2)
        draft.activation = name
        parts.append(replace(part, draft=draft, open=True))
    return Value(_renamed(call, parts), value.axis)


def _renamed(call: Call, parts: Sequence[Part]) -> tuple[Part, ...]:
    """Parts of a concatenation, whose new vertices a single call made, with names of their own."""
    if len(parts) > 1:
        for i, part in enumerate(parts):
            if part.draft.name == call.name:
                part.draft.name = f"{call.name}.{i}"
    return tuple(parts)


def leaky_relu(call: Call, value: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    """Slope 0.01 alone."""
    if negative_slope != 0.01:
        call.refuse(f"negative_slope={negative_slope}; accepted: 0.01")
    return _activated(call, value, "leaky_relu")


def gelu(call: Call, value: Value, approximate: str = "none") -> Value:
    """The exact one alone."""
    if approximate != "none":
        call.refuse(f"approximate='{approximate}'; accepted: 'none'")
    return _activated(call, value, "gelu")


def softplus(call: Call, value: Value, beta: float = 1, threshold: float = 20) -> Value:
    """Beta 1 alone."""
    if (beta, threshold) != (1, 20):
        call.refuse(f"beta={beta}, threshold={threshold}; accepted: 1 and 20")
    return _activated(call, value, "softplus")


def identity(call: Call, value: Value, *_: Any, **__: Any) -> Value:
    """Nothing to do."""
    return value


def dropout(call: Call, value: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    """Nothing to do where p is 0; else refused, since a lift would be trained without it."""
    if p:
        call.refuse(f"p={p}; accepted: 0, since lifts are trained without dropout")
    return value


def layer_norm(
    call: Call,
    value: Value,
    normalized_shape: Sequence[int],
    weight: object = None,
    bias: object = None,
    eps: float = 1e-5,
) -> Value:
    """A LayerNorm without gains, within copies."""
    return _norm(call, "layer", value, tuple(normalized_shape), weight is not None or bias is not None, eps)


def rms_norm(
    call: Call, value: Value, normalized_shape: Sequence[int], weight: object = None, eps: float | None = None
) -> Value:
    """An RMSNorm without gains, within copies."""
    return _norm(call, "rms", value, tuple(normalized_shape), weight is not None, eps)


def _norm(call: Call, kind: str, value: Value, shape: tuple[int, ...], affine: bool, eps: float | None) -> Value:
    if affine:
        call.refuse("has gains; accepted: elementwise_affine=False (the next layer has weights)")
    if eps is None:
        call.refuse("eps=None depends on the dtype; accepted: a number, e.g. eps=1e-5")
    part = call.one(value)
    rank = len(part.draft.space)
    over = {(rank - 1,): "last", tuple(range(rank)): "all"}.get(sum(part.axes[-len(shape) :], ())) if rank else None
    if over is None:
        call.refuse(
            "normalises over copies (channels, heads, or the features of a vector), which a lift multiplies; "
            "accepted: the features of tokens (N, T, d), or whole maps (H, W)"
        )
    draft = call.extended(part, 1)
    draft.norm = {"kind": kind} | ({"over": "all"} if over == "all" and rank > 1 else {})
    draft.norm |= {"eps": eps} if eps != 1e-5 else {}
    return Value((replace(part, draft=draft, open=True),))


# Pooling


def max_pool(
    call: Call,
    value: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """The largest number of each square; ceil_mode has no say where squares fit."""
    if _both(call, dilation) != 1 or return_indices:
        call.refuse(f"dilation={dilation}, return_indices={return_indices}; accepted: 1 and False")
    return _squares(call, value, "max", kernel_size, stride, padding)


def avg_pool(
    call: Call,
    value: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """The mean of each square."""
    if divisor_override is not None:
        call.refuse(f"divisor_override={divisor_override}; accepted: None")
    return _squares(call, value, "avg", kernel_size, stride, padding)


def _squares(call: Call, value: Value, kind: str, kernel_size: Any, stride: Any, padding: Any) -> Value:
    size = _both(call, kernel_size)
    if (stride is not None and _both(call, stride) != size) or _both(call, padding) != 0:
        call.refuse(
            f"kernel_size={kernel_size}, stride={stride}, padding={padding}; accepted: stride = kernel_size, no padding"
        )
    config = {"kind": kind, "size": size}
    parts = []
    for part in call.each(value):
        if part.axes != MAPS:
            call.refuse("pools something else than maps (N, C, H, W) of a hidden layer")
        if any(side % size for side in part.draft.space):
            call.refuse(f"size {size} on maps of {part.draft.space}; accepted: a size that divides both sides")
        draft = call.extended(part, 3)
        draft.pool, draft.space = config, (draft.space[0] // size, draft.space[1] // size)
        parts.append(replace(part, draft=draft, open=True))
    return Value(_renamed(call, parts), value.axis)


def _both(call: Call, size: Any) -> int:
    sides = set(size) if isinstance(size, Iterable) else {size}
    if len(sides) != 1:
        call.refuse(f"sizes {tuple(sides)}; accepted: the same both ways")
    return sides.pop()


def adaptive_pool(call: Call, value: Value, output_size: Any) -> Value:
    """AdaptiveAvgPool2d(1): the mean of each map."""
    if _both(call, output_size) != 1:
        call.refuse(f"output_size={output_size}; accepted: 1, or AvgPool2d")
    return _averaged(call, value, keep=True)


def mean(call: Call, value: Value, dim: Any = None, keepdim: bool = False) -> Value:
    """The mean of each map, or of the tokens."""
    axes = next(iter(call.each(value))).axes
    rank = len(axes)
    over = [] if dim is None else [call.axis(d, rank) for d in (dim if isinstance(dim, Iterable) else [dim])]
    if sorted(over) == [1, 2] and axes == MAPS:
        return _averaged(call, value, keep=keepdim)
    part = call.one(value)
    if over != [0] or axes != TOKENS or keepdim:
        call.refuse(f"dim={dim}; accepted: (2, 3) of maps (N, C, H, W), 1 of tokens (N, T, d)")
    draft = call.extended(part, 3)
    draft.pool, draft.space = "token_avg", draft.space[1:]
    return Value((replace(part, draft=draft, axes=((0,),), open=True),))


def _averaged(call: Call, value: Value, keep: bool) -> Value:
    parts = []
    for part in call.each(value):
        if part.axes != MAPS:
            call.refuse("averages something else than maps (N, C, H, W) of a hidden layer")
        draft = call.extended(part, 3)
        draft.pool, draft.space = "global_avg", ()
        parts.append(replace(part, draft=draft, axes=((COPIES,), (), ()) if keep else FLAT, open=True))
    return Value(_renamed(call, parts), value.axis)


def upsample(
    call: Call, value: Value, size: object = None, scale_factor: Any = None, mode: str = "nearest", *_: Any, **__: Any
) -> Value:
    """Repeat pixels, which the next convolution does."""
    if size is not None or mode != "nearest" or scale_factor is None or float(_both(call, scale_factor)) % 1:
        call.refuse(f"size={size}, scale_factor={scale_factor}, mode='{mode}'; accepted: a whole scale_factor, nearest")
    parts = call.each(value)
    if any(part.axes not in (MAPS, *INPUT_MAPS) for part in parts):
        call.refuse("repeats pixels of something else than maps (N, C, H, W)")
    return replace(value, parts=tuple(replace(part, upsample=int(_both(call, scale_factor))) for part in parts))
