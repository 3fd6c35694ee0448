"""Layers with weights: which numbers of a matrix or a kernel act between which copies."""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from rsl_cli.module.call import INPUT_MAPS, Call
from rsl_cli.module.draft import COPIES, FLAT, MAPS, TOKENS, Bias, DraftVertex, Part, Read, Term, Value


def linear(call: Call, layer: nn.Linear, value: Value) -> Value:
    """A Linear layer on vectors, tokens, or heads side by side."""
    weight = parameter_named(call.name_of(layer.weight))
    bias = None if layer.bias is None else parameter_named(call.name_of(layer.bias))
    return matrix(call, call.name, value, weight, bias, layer.out_features)


def matrix(call: Call, name: str, value: object, weight: Read, bias: Read | None, rows: int) -> Value:
    """A matrix given by what reads (rows, columns) and (rows,)."""
    if not isinstance(value, Value):
        call.refuse("does not read the input; accepted: layers that depend on it")
    rank = len(value.first.axes)
    if len(value.parts) > 1 and value.axis != rank - 1:
        call.refuse("reads a concatenation along another axis than the last; accepted: the last (features, channels)")
    first = value.first.draft.space
    terms, start, over = [], 0, {}
    for part in value.parts:
        if part.upsample > 1:
            call.refuse("reads an upsampled map; accepted: Conv2d right after it")
        space, last = part.draft.space, part.axes[-1]
        if rank == 1:
            options = {"map": "linear"} | ({"flatten": True} if len(space) > 1 else {}) if space else {"map": "scale"}
            options = options if part.token is None else {"map": "linear", "token": part.token}
        elif part.axes == ((1,), (0,)) and bias is None:
            over = {"over": "tokens"}
            options = {"map": "token_linear", "out": rows, **over}
        elif rank == 2 and part.axes[0] == (0,) and set(last) in ({1}, {1, COPIES}) and len(space) == 2:
            options = {"map": "token_linear", "out": rows}
        else:
            call.refuse(
                "reads neither vectors (N, d), nor tokens (N, T, d), nor, without bias, (N, d, T); "
                "flatten what comes before it, or transpose heads behind the tokens"
            )
        width = math.prod(part.size(axis) for axis in last)
        terms.append(Term(part.draft, options, _columns(weight, slice(start, start + width), part)))
        start += width
    kind, draft = "feature", DraftVertex(name, call.where, 1, (first[0], rows) if rank == 2 else (), terms)
    axes = TOKENS
    if rank == 1:
        kind, axes, draft.copies = True, FLAT, rows
    elif over:
        axes, draft.space = ((1,), (0,)), (rows, first[1])
    if bias is not None:
        shape = (rows,) if rank == 1 else (1, 1, rows)
        draft.biases.append(Bias(kind, lambda state: bias(state).reshape(shape)))
    return Value((Part(draft, axes),))


def _columns(weight: Read, columns: slice, part: Part) -> Read:
    """Reads (rows, copies, numbers of a copy) from columns laid out as a part's last axis; () has no last one."""
    last = part.axes[-1]
    sizes = [part.size(axis) for axis in last]
    order = sorted(range(len(last)), key=lambda i: last[i])
    copies = part.draft.copies if COPIES in last else 1
    rest = () if not part.draft.space else (-1,)

    def read(state: Mapping[str, Tensor]) -> Tensor:
        matrix = weight(state)[:, columns]
        ordered = matrix.reshape(len(matrix), *sizes).permute(0, *(1 + i for i in order))
        return ordered.reshape(len(matrix), copies, *rest)

    return read


def conv(call: Call, layer: nn.Conv2d, value: Value) -> Value:
    """A convolution between maps of one channel each, or from an input of several."""
    if layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        call.refuse(
            f"groups={layer.groups}, dilation={layer.dilation}, padding_mode='{layer.padding_mode}'; "
            "accepted: 1, 1 and 'zeros'"
        )
    (kernel, other), (stride, across) = layer.kernel_size, layer.stride
    padding = (kernel // 2, kernel // 2) if layer.padding == "same" else layer.padding
    if kernel != other or stride != across or kernel % 2 == 0 or padding != (kernel // 2, kernel // 2):
        call.refuse(
            f"kernel_size={layer.kernel_size}, stride={layer.stride}, padding={layer.padding}; accepted: one odd "
            "kernel size k and one stride for both ways, padding k // 2 or 'same'"
        )
    if not isinstance(value, Value) or (len(value.parts) > 1 and value.axis != 0):
        call.refuse("reads neither the input nor channels made from it; accepted: maps (N, C, H, W)")
    terms, start, weight = [], 0, parameter_named(call.name_of(layer.weight))
    for part in value.parts:
        if part.axes not in (MAPS, *INPUT_MAPS) or part.token is not None:
            call.refuse("reads something else than maps (N, C, H, W); reshape nothing before it")
        if any(size * part.upsample % stride for size in part.draft.space[-2:]):
            call.refuse(
                f"stride={stride} on maps of {part.draft.space[-2:]}; accepted: a stride that divides both sides"
            )
        options = {"map": "conv", "kernel": kernel} | ({"stride": stride} if stride > 1 else {})
        options |= {"upsample": part.upsample} if part.upsample > 1 else {}
        width = math.prod(part.size(axis) for axis in part.axes[0])
        terms.append(
            Term(part.draft, options, _kernels(weight, slice(start, start + width), part.axes != INPUT_MAPS[0]))
        )
        start += width
    draft = DraftVertex(call.name, call.where, layer.out_channels, call.shape[1:], terms)
    if layer.bias is not None:
        bias = parameter_named(call.name_of(layer.bias))
        draft.biases.append(Bias("copy", lambda state: bias(state)[:, None, None]))
    return Value((Part(draft, MAPS),))


def _kernels(weight: Read, channels: slice, split: bool) -> Read:
    def read(state: Mapping[str, Tensor]) -> Tensor:
        chosen = weight(state)[:, channels]
        return chosen if split else chosen.unsqueeze(1)

    return read


def parameter_named(name: str) -> Read:
    """What reads a whole parameter."""
    return lambda state: state[name]
