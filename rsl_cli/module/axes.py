"""What moves, merges or cuts axes and computes nothing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from rsl_cli.module.call import Call
from rsl_cli.module.draft import COPIES, Part, Value


def reshape(call: Call, value: Value, *_: Any, **__: Any) -> Value:
    """Any change of shape that keeps N: axes are merged; the features of a Linear layer are cut into heads."""
    parts = call.each(value)
    if len(parts) == 1:
        return Value((_regrouped(call, parts[0], call.shape),))
    if value.axis != 0 or len(call.shape) != 1:
        call.refuse("reshapes a concatenation; accepted: flatten(1) of concatenated channels")
    return Value(tuple(_regrouped(call, part, (_numbers(part),)) for part in parts))


def _numbers(part: Part) -> int:
    return math.prod(part.size(axis) for merged in part.axes for axis in merged)


def _regrouped(call: Call, part: Part, shape: Sequence[int]) -> Part:
    left = [axis for merged in part.axes for axis in merged]
    axes: list[tuple[int, ...]] = []
    for want in shape:
        merged: list[int] = []
        have = 1
        while have < want or (have == want == 1 and not merged and left and part.size(left[0]) == 1):
            axis = left.pop(0)
            if have == 1 and want < part.size(axis):
                part, axis = _heads(call, part, axis, want), COPIES
                left.insert(0, 1)
            merged.append(axis)
            have *= part.size(axis)
        if have != want:
            call.refuse(f"cuts an axis of {part.draft.name}; accepted: merging axes, and heads of a Linear layer")
        axes.append(tuple(merged))
    if axes:
        axes[-1] += tuple(left)
    return replace(part, axes=tuple(axes))


def _heads(call: Call, part: Part, axis: int, heads: int) -> Part:
    draft = part.draft
    if not (part.open and draft.has_rows and draft.copies == 1 and axis == 1 and draft.space[1] % heads == 0):
        call.refuse(
            f"cuts an axis of {draft.name} into {heads} and more; accepted: the features of a Linear layer on tokens, "
            "into heads"
        )
    return replace(part, draft=draft.rows(draft.name, 0, heads, draft.space[1] // heads))


def transpose(call: Call, value: Value, dim0: int, dim1: int) -> Value:
    """Swap two axes other than the first."""
    order = list(range(len(call.shape)))
    i, j = (call.axis(dim, len(order)) for dim in (dim0, dim1))
    order[i], order[j] = order[j], order[i]
    return _permuted(call, value, order)


def permute(call: Call, value: Value, *dims: Any) -> Value:
    """Reorder the axes, the first staying."""
    flat = list(dims[0] if len(dims) == 1 and isinstance(dims[0], Iterable) else dims)
    if flat[0] != 0:
        call.refuse("moves the axis of samples; accepted: 0 first")
    return _permuted(call, value, [call.axis(dim, len(call.shape)) for dim in flat[1:]])


def _permuted(call: Call, value: Value, order: Sequence[int]) -> Value:
    part = call.one(value)
    return Value((replace(part, axes=tuple(part.axes[i] for i in order)),))


def chunk(call: Call, value: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    """The rows of one layer as layers of their own."""
    part, axis = call.one(value), call.axis(dim, len(value.first.axes))
    size = math.prod(part.size(merged) for merged in part.axes[axis])
    return split(call, value, -(-size // chunks), dim)


def split(call: Call, value: Value, split_size: Any, dim: int = 0) -> tuple[Value, ...]:
    """As `chunk`, by sizes."""
    part, axis = call.one(value), call.axis(dim, len(value.first.axes))
    draft, merged = part.draft, part.axes[axis]
    features = merged == (1,) and draft.copies == 1 and len(draft.space) == 2
    channels = merged == (COPIES,) and not any("out" in term.options for term in draft.terms)
    if not (part.open and draft.has_rows and (features or channels)):
        call.refuse(f"cuts {draft.name}; accepted: the features or channels of a layer right before it")
    size = part.size(merged[0])
    sizes = (
        list(split_size)
        if isinstance(split_size, Iterable)
        else [min(split_size, size - start) for start in range(0, size, split_size)]
    )
    made = []
    for i, rows in enumerate(sizes):
        cut = draft.rows(f"{draft.name}.{i}", sum(sizes[:i]), *((1, rows) if features else (rows, None)))
        made.append(Value((replace(part, draft=cut),)))
    return tuple(made)


def getitem(call: Call, value: object, index: Any) -> Any:
    """One of several results, or one token."""
    if isinstance(value, tuple):
        return value[index]
    part = call.one(value)
    where = index if isinstance(index, tuple) else (index,)
    rest = all(part_ == slice(None) for part_ in (*where[:1], *where[2:]))
    if len(where) < 2 or not rest or not isinstance(where[1], int) or part.axes[0] != (0,) or len(part.axes) != 2:
        call.refuse(f"takes [{index}]; accepted: one token, as in x[:, 0]")
    token = where[1] % part.draft.space[0] + 1
    return Value((replace(part, axes=part.axes[1:], token=token),))
