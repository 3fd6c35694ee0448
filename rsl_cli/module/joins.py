"""What joins several results: sums, products, concatenations."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from rsl_cli.module.call import IDENTITY, Call
from rsl_cli.module.draft import COPIES, Bias, DraftVertex, Part, Term, Value


def add(call: Call, first: object, second: object, alpha: float = 1) -> Value:
    """A sum of two results, or of one and a Parameter (a bias)."""
    if alpha != 1:
        call.refuse(f"alpha={alpha}; accepted: 1")
    if isinstance(first, nn.Parameter) or isinstance(second, nn.Parameter):
        parameter, value = (first, second) if isinstance(first, nn.Parameter) else (second, first)
        assert isinstance(parameter, nn.Parameter)
        return _add_parameter(call, call.one(value), parameter)
    parts = _alike(call, first, second)
    folded = [part.draft for part in parts if part.open and part.draft.is_sum]
    draft = DraftVertex(
        folded[-1].name if folded else call.name, call.where, parts[0].draft.copies, parts[0].draft.space
    )
    for part in parts:
        draft.terms += part.draft.terms if part.draft in folded else [Term(part.draft, IDENTITY)]
        draft.biases += part.draft.biases if part.draft in folded else []
    return Value((Part(draft, parts[0].axes),))


def mul(call: Call, first: object, second: object) -> Value:
    """A product of two results."""
    parts = _alike(call, first, second)
    terms = [Term(part.draft, IDENTITY, None, slot) for part, slot in zip(parts, "ab", strict=True)]
    draft = DraftVertex(call.name, call.where, parts[0].draft.copies, parts[0].draft.space, terms, combine="product")
    return Value((Part(draft, parts[0].axes),))


def _alike(call: Call, first: object, second: object) -> tuple[Part, Part]:
    one, other = call.one(first, "its first argument"), call.one(second, "its second argument")
    layouts = [(part.axes, part.draft.copies, part.draft.space) for part in (one, other)]
    if layouts[0] != layouts[1]:
        call.refuse(
            f"joins {one.draft.name} and {other.draft.name} of different layout, broadcast or reshaped; "
            "accepted: results of layers with the same channels and sizes"
        )
    return one, other


def _add_parameter(call: Call, part: Part, parameter: nn.Parameter) -> Value:
    """A Parameter of a sum is a bias: one number each, per copy, or per feature."""
    natural = tuple((axis,) for axis in ((COPIES,) if COPIES in sum(part.axes, ()) else ()))
    natural += tuple((axis,) for axis in range(len(part.draft.space)))
    sizes = tuple(parameter.shape)
    sizes = sizes[1:] if len(sizes) > len(part.axes) and sizes[0] == 1 else sizes
    sizes = (1,) * (len(part.axes) - len(sizes)) + sizes
    space = part.draft.space
    copies = part.draft.copies if (COPIES,) in natural else 1
    full = ((copies,) if (COPIES,) in natural else ()) + space
    kinds: dict[tuple[int, ...], bool | str] = {full: True}
    if len(space) == 2:
        kinds |= {(copies, 1, 1): "copy"} if (COPIES,) in natural else {(1, space[1]): "feature"}
    if part.axes != natural or sizes not in kinds:
        call.refuse(
            f"adds a Parameter of shape {tuple(parameter.shape)}; accepted: shapes {', '.join(map(str, kinds))}"
        )
    name, shape = call.name_of(parameter), (copies, *sizes[len(full) - len(space) :])
    draft = part.draft if part.open and part.draft.is_sum else None
    draft = draft or DraftVertex(call.name, call.where, part.draft.copies, space, [Term(part.draft, IDENTITY)])
    draft.biases.append(Bias(kinds[sizes], lambda state: state[name].reshape(shape)))
    return Value((replace(part, draft=draft, open=True),))


def cat(call: Call, tensors: Sequence[object], dim: int = 0) -> Value:
    """A concatenation of channels or features, which the next layer reads part by part."""
    axis = call.axis(dim, len(call.shape))
    parts: list[Part] = []
    for value in tensors:
        found = call.each(value)
        if len(found) > 1 and isinstance(value, Value) and value.axis != axis:
            call.refuse("concatenates along two axes; accepted: one")
        parts += found
    layouts = {part.axes for part in parts}
    if len(layouts) > 1 and not all(len(part.axes) == 1 for part in parts):
        call.refuse("joins results of different layouts; accepted: channels with channels, features with features")
    return Value(tuple(parts), axis)
