"""What a part of a base graph must keep to, whosever it is: checked on a user's parts before anything is trained."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from rsl_cli.activations import Activation
from rsl_cli.claims import check_answer, check_claims
from rsl_cli.errors import RAISED, GraphError, RslError, first_line
from rsl_cli.kernels.stencil import Stencil
from rsl_cli.laws import Law
from rsl_cli.liftings import Lifting
from rsl_cli.maps import EdgeMap
from rsl_cli.own_code import code_of, compiled
from rsl_cli.parts import Space
from rsl_cli.vertex_maps import Bias, Combine, Stage

_COPIES, _SAMPLES = 3, 4


def check_edge_map(one: EdgeMap, space: Space) -> None:
    """The contract of an edge map on a space: shapes that agree, entries inside them, one answer, the reference's.

    Args:
        one: the map.
        space: Y_u.

    Raises:
        GraphError: what it breaks, in one line.
    """
    _check_made("map", one, EdgeMap)
    what = f"map {type(one).__name__} on space {space}"
    check_claims(one, EdgeMap, what, GraphError)
    with failing(what):
        stencil, again = one.stencil(space), one.stencil(space)
    if not isinstance(stencil, Stencil):
        raise GraphError(f"{what}: stencil is a {type(stencil).__name__}; accepted: a rsl_cli.Stencil")
    with failing(what):
        out, weight, flops = one.output_space(space), one.weight_shape(space), one.flops(space)
    check_answer("weight_shape", weight, EdgeMap.weight_shape, what, GraphError)
    check_answer("flops", flops, EdgeMap.flops, what, GraphError)
    if not isinstance(out, tuple) or not all(isinstance(size, int) and size > 0 for size in out):
        raise GraphError(f"{what}: output_space is {out!r}; accepted: a tuple of whole numbers from 1")
    for key, sizes, wanted in (
        ("columns x width", stencil.columns * stencil.width, math.prod(space)),
        ("rows x width", stencil.rows * stencil.width, math.prod(out)),
        ("taps", stencil.taps, math.prod(weight or ())),
    ):
        if sizes != wanted:
            raise GraphError(f"{what}: its stencil has {key} {sizes}, its spaces and weight {weight} want {wanted}")
    for key, bound in (("row", stencil.rows), ("column", stencil.columns), ("tap", stencil.taps)):
        entries, same = getattr(stencil, key), getattr(again, key)
        if not isinstance(entries, np.ndarray):
            raise GraphError(f"{what}: {key} is a {type(entries).__name__}; accepted: int64 (L,), an array of NumPy")
        if entries.dtype != np.int64 or entries.shape != stencil.row.shape or not len(entries):
            raise GraphError(f"{what}: {key} is {entries.dtype} {entries.shape}; accepted: int64 (L,), L from 1")
        if entries.min() < 0 or entries.max() >= bound:
            raise GraphError(f"{what}: {key} holds {entries.min()}..{entries.max()}; accepted: 0..{bound - 1}")
        if not np.array_equal(entries, same):
            raise GraphError(f"{what}: stencil gives other entries when asked again; it must not depend on chance")
    with failing(what):
        fan_in = one.fan_in(space)
    if not (isinstance(fan_in, int) and fan_in > 0):
        raise GraphError(f"{what}: fan_in is {fan_in!r}; accepted: a whole number from 1")
    _check_reference(what, one, space, stencil, weight)


def _check_reference(what: str, one: EdgeMap, space: Space, stencil: Stencil, weight: Space | None) -> None:
    draw = np.random.default_rng(0)
    y = draw.standard_normal(space)
    values = None if weight is None else draw.standard_normal(weight)
    with failing(what):
        expected = one.reference(values, y.copy())
    if expected is None:
        return
    made = stencil.apply(np.ones(1) if values is None else values, y).reshape(one.output_space(space))
    if np.shape(expected) != made.shape or not np.allclose(expected, made, rtol=1e-9, atol=1e-12):
        raise GraphError(f"{what}: its stencil does not compute what its reference computes")


def check_activation(function: Activation, name: str = "") -> None:
    """The contract of an activation: number by number, finite, one answer, true derivatives both ways.

    Args:
        function: from a tensor to one of its shape and type.
        name: what to call it in an error; its own, if left out.

    Raises:
        GraphError: what it breaks, in one line.
    """
    what = f"activation {name or getattr(function, '__name__', type(function).__name__)}"
    z = drawn((5,))
    _check_tensors(what, function, [z], tuple(z.shape))
    with failing(what):
        alone = torch.cat([function(one.view(1, 1, 1)) for one in z.flatten()]).view(z.shape)
    if not torch.allclose(alone, function(z), rtol=1e-9, atol=1e-12):
        raise GraphError(f"{what}: gives a number another value beside other numbers; each must be for itself")
    _check_code(what, function, lambda code: code(z), function(z))


def check_combine(combine: Combine, spaces: Mapping[str, Space]) -> None:
    """The contract of a combine: the space it says, copies and samples by themselves, true derivatives both ways.

    Args:
        combine: the part.
        spaces: of each slot.

    Raises:
        GraphError: what it breaks, in one line.
    """
    _check_made("combine", combine, Combine)
    what = f"combine {type(combine).__name__} of spaces {', '.join(map(str, spaces.values()))}"
    check_claims(combine, Combine, what, GraphError)
    with failing(what):
        space = combine.space(spaces)
        flops = combine.flops(spaces)
    check_answer("flops", flops, Combine.flops, what, GraphError)

    def compute(*slots: Tensor) -> Tensor:
        return combine(dict(zip(spaces, slots, strict=True)))

    drawn_slots = {slot: drawn(one) for slot, one in spaces.items()}
    _check_tensors(what, compute, list(drawn_slots.values()), (_COPIES, *space, _SAMPLES))
    led = {slot: value.movedim(-1, 0) for slot, value in drawn_slots.items()}
    _check_code(what, combine, lambda code: code(plain_keys(combine), led), combine(drawn_slots).movedim(-1, 0))


def check_stage(stage: Stage, space: Space) -> None:
    """The contract of a norm or a pool, as `check_combine` has it.

    Args:
        stage: the part.
        space: of its input.

    Raises:
        GraphError: what it breaks, in one line.
    """
    _check_made("norm or pool", stage, Stage)
    what = f"{type(stage).__name__} on space {space}"
    check_claims(stage, Stage, what, GraphError)
    with failing(what):
        made, groups = stage.space(space), stage.groups(space)
    check_answer("groups", groups, Stage.groups, what, GraphError)
    z = drawn(space)
    _check_tensors(what, stage, [z], (_COPIES, *made, _SAMPLES))
    _check_code(what, stage, lambda code: code(plain_keys(stage), z.movedim(-1, 0)), stage(z).movedim(-1, 0))


def check_bias(bias: Bias, space: Space, name: str = "") -> None:
    """The contract of a shape of biases: one that broadcasts to the space, the same at every call.

    Args:
        bias: from the space to the shape.
        space: of the sums it is added to.
        name: what to call it in an error; its own, if left out.

    Raises:
        GraphError: what it breaks, in one line.
    """
    what = f"bias {name or getattr(bias, '__name__', type(bias).__name__)} on space {space}"
    with failing(what):
        shape, again = bias(space), bias(space)
    fits = isinstance(shape, tuple) and len(shape) == len(space)
    if not fits or any(size not in (1, whole) for size, whole in zip(shape, space, strict=True)):
        raise GraphError(f"{what}: gives {shape!r}; accepted: a tuple of 1 or the space's own size for each axis")
    if shape != again:
        raise GraphError(f"{what}: gives another shape when asked again; it must not depend on chance")


def check_law(law: Law) -> None:
    """The contract of a law at the start: mean 0, the variance and support it says, its cdf, and one answer.

    Args:
        law: the law.

    Raises:
        GraphError: what it breaks, in one line.
    """
    _check_made("law", law, Law)
    what, count = f"law {type(law).__name__}", 4000
    check_claims(law, Law, what, GraphError)
    with failing(what):
        drawn, again = (law.sample(np.random.default_rng(0), (count // 4, 4)) for _ in range(2))
        variance, support = law.variance, law.support
    if not isinstance(drawn, np.ndarray) or drawn.dtype != np.float64 or drawn.shape != (count // 4, 4):
        shown = f"{drawn.dtype} {drawn.shape}" if isinstance(drawn, np.ndarray) else f"a {type(drawn).__name__}"
        raise GraphError(f"{what}: sample gives {shown}; accepted: float64 of the shape asked for")
    if not np.array_equal(drawn, again):
        raise GraphError(f"{what}: gives other numbers from the same generator; draw from that alone")
    if not np.isfinite(drawn).all() or np.abs(drawn).max() > support:
        raise GraphError(f"{what}: draws numbers beyond its support, {support:g}")
    if variance not in (0.0, 1.0):
        raise GraphError(f"{what}: variance is {variance!r}; accepted: 1, since gains scale it, or 0 for zeros")
    # Fourth moments are not known: six standard errors as they are measured, and what rounding leaves.
    for moment, measured, said in (("mean", drawn, 0.0), ("variance", drawn**2, variance)):
        if abs(measured.mean() - said) > 6 * measured.std() / count**0.5 + 1e-12:
            raise GraphError(f"{what}: its {moment} is about {measured.mean():.3g}; wanted {said:g}")
    with failing(what):
        below = law.cdf(np.sort(drawn.ravel()))
    if below is not None and np.shape(below) != (count,):
        raise GraphError(f"{what}: its cdf gives {np.shape(below)} from {(count,)}; accepted: a number each, or None")
    if below is not None and np.abs(below - (np.arange(count) + 0.5) / count).max() > 3 / count**0.5 + 1 / count:
        raise GraphError(f"{what}: its cdf is not that of what it draws")


def check_lifting(lifting: Lifting, n_u: int = 7, n_v: int = 7) -> None:
    """The contract of a lifting between fibres: pairs inside them, sorted, none twice, and the in-degrees it says.

    Args:
        lifting: the lifting.
        n_u: copies of the source.
        n_v: copies of the target.

    Raises:
        GraphError: what it breaks, in one line.
    """
    _check_made("lifting", lifting, Lifting)
    what, draws = f"lifting {type(lifting).__name__} from {n_u} to {n_v} copies", 40
    check_claims(lifting, Lifting, what, GraphError)
    with failing(what):
        lifting.check_fibres(n_u, n_v)
        lists = [lifting.sample(np.random.default_rng(seed), n_u, n_v) for seed in range(draws)]
        again = lifting.sample(np.random.default_rng(0), n_u, n_v)
        mean, every, bounded = lifting.mean_in_degree(n_u, n_v), lifting.every(n_u, n_v), lifting.bounded
    check_answer("every", every, Lifting.every, what, GraphError)
    if not isinstance(mean, int | float) or not math.isfinite(mean):
        raise GraphError(f"{what}: mean_in_degree is {mean!r}; accepted: a finite number")
    for pair in lists:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(ends, np.ndarray) for ends in pair)):
            raise GraphError(f"{what}: sample gives a {type(pair).__name__}; accepted: (sources, targets), two arrays")
        sources, targets = pair
        if {(ends.dtype, ends.shape) for ends in pair} != {(np.dtype(np.int64), (sources.size,))}:
            shown = ", ".join(f"{ends.dtype} {ends.shape}" for ends in pair)
            raise GraphError(f"{what}: sample gives {shown}; accepted: int64 (E,) twice")
        for end, copies, size in (("source", sources, n_u), ("target", targets, n_v)):
            if len(copies) and not (copies.min() >= 0 and copies.max() < size):
                raise GraphError(f"{what}: a {end} is {copies.min()}..{copies.max()}; accepted: 0..{size - 1}")
        if not (np.diff(targets * n_u + sources) > 0).all():
            raise GraphError(f"{what}: joins a pair twice, or its pairs are not sorted by target, then source")
    if not all(np.array_equal(one, other) for one, other in zip(lists[0], again, strict=True)):
        raise GraphError(f"{what}: gives other pairs from the same generator; draw from that alone")
    degrees = np.array([np.bincount(targets, minlength=n_v) for _, targets in lists])
    if every is not None and not (degrees == every).all():
        raise GraphError(f"{what}: says that every in-degree is {every}, draws {degrees.min()} to {degrees.max()}")
    if lifting.complete and not (degrees == n_u).all():
        raise GraphError(f"{what}: says that it joins every pair, draws in-degrees from {degrees.min()}")
    means = degrees.mean(1)
    if abs(means.mean() - mean) > 6 * means.std() / draws**0.5 + 1e-9:
        raise GraphError(f"{what}: its mean in-degree is about {means.mean():.3g}; mean_in_degree says {mean:g}")
    if bounded is not None and not 0 < bounded < math.inf:
        raise GraphError(f"{what}: bounded is {bounded!r}; accepted: None, or a number above 0")
    with failing(what):
        lifting.check(*lists[0], n_u, n_v)


def _check_made(kind: str, one: object, parent: type) -> None:
    """Tell a class from what it makes.

    Raises:
        GraphError: it is no such part; a class is told to be called.
    """
    if isinstance(one, type) and issubclass(one, parent):
        raise GraphError(f"{kind} {one.__name__} is a class; accepted: what it makes, e.g. {one.__name__}()")
    if not isinstance(one, parent):
        raise GraphError(f"{kind}: got a {type(one).__name__}; accepted: a rsl_cli.{parent.__name__}")


def drawn(space: Space) -> Tensor:
    """Numbers whose parts are all of different size: no ties for a maximum."""
    draw = np.random.default_rng(0)
    return torch.as_tensor(draw.standard_normal((_COPIES, *space, _SAMPLES)))


def _check_tensors(what: str, compute: Callable[..., Tensor], inputs: Sequence[Tensor], shape: Sequence[int]) -> None:
    with failing(what):
        out = compute(*(one.clone() for one in inputs))
        again = compute(*(one.clone() for one in inputs))
        single = compute(*(one.float() for one in inputs))
        # The first copy and sample alone; of another copy nothing is asked.
        part = compute(*(one[:1, ..., :1].clone() for one in inputs))
    if not isinstance(out, Tensor) or tuple(out.shape) != tuple(shape):
        raise GraphError(f"{what}: gives {_shown(out)} from {[tuple(one.shape) for one in inputs]}; wanted {shape}")
    for dtype, made in ((torch.float64, out), (torch.float32, single)):
        if made.dtype != dtype:
            raise GraphError(f"{what}: gives {made.dtype} from {dtype}; it must keep the type")
    if not bool(torch.isfinite(out).all()):
        raise GraphError(f"{what}: gives numbers that are not finite from ordinary ones")
    if not torch.equal(out, again):
        raise GraphError(f"{what}: gives other numbers when asked again; it must not depend on chance or keep state")
    if part.shape != out[:1, ..., :1].shape or not torch.allclose(part, out[:1, ..., :1], rtol=1e-9, atol=1e-12):
        raise GraphError(f"{what}: gives a copy other numbers beside others; copies and samples must be by themselves")
    check_derivatives(what, compute, inputs)


def plain_keys(part: Combine | Stage) -> dict[str, Any]:
    """What the exported code is told of a part, as a file gives it back.

    Returns:
        Its name there, and its keys.

    Raises:
        ValueError: no file can hold it.
    """
    try:
        return json.loads(json.dumps(part.portable(), allow_nan=False))
    except TypeError as error:
        raise ValueError(f"its keys are {part.portable()!r}; accepted: numbers and text") from error


def _check_code(what: str, part: object, ask: Callable[[Callable[..., Any]], Tensor], expected: Tensor) -> None:
    """Hold the code that an export carries for a part, where there is some, against what the part computes."""
    try:
        _held_code(part, ask, expected)
    except ValueError as error:
        if hasattr(part, "exported"):  # A plain function was never said to go anywhere.
            raise GraphError(f"{what}: its exported code: {error}") from error


def _held_code(part: object, ask: Callable[[Callable[..., Any]], Tensor], expected: Tensor) -> str:
    """The code that an export carries for a part; raises ValueError where there is none that computes the same."""
    text = code_of(part)
    try:
        made = ask(compiled(text))
    except RAISED as error:
        raise ValueError(f"fails with {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(made, Tensor) or made.shape != expected.shape or not torch.allclose(made, expected, rtol=1e-9):
        raise ValueError(f"gives {_shown(made)}, and other numbers than it does")
    return text


def activation_code(function: Callable[..., Any]) -> str:
    """The code that an export carries for an activation; raises ValueError where none computes the same."""
    z = drawn((5,))
    return _held_code(function, lambda code: code(z), function(z))


def check_derivatives(
    what: str, compute: Callable[..., Tensor], inputs: Sequence[Tensor], *, forward: bool = True
) -> None:
    """Hold derivatives, by reverse mode and by ``forward`` too, against finite differences.

    Raises:
        GraphError: they disagree, or there are none.
    """  # noqa: DOC501
    variables = [one.clone().requires_grad_() for one in inputs]
    try:
        if not compute(*variables).requires_grad:
            raise TypeError("it does not depend on its inputs for autograd")
        torch.autograd.gradcheck(compute, variables, check_forward_ad=forward)
    except GradcheckError as error:
        raise GraphError(f"{what}: its derivative is not what finite differences give; mend its backward") from error
    except RAISED as error:
        raise GraphError(f"{what}: has no derivative: {type(error).__name__}: {first_line(error)}") from error


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """Turn an exception of a user's code into one line.

    Raises:
        GraphError: in its place.
        RslError: as it is raised inside.
    """
    try:
        yield
    except RslError:
        raise
    except RAISED as error:
        raise GraphError(f"{what}: fails with {type(error).__name__}: {first_line(error)}") from error


def _shown(out: Any) -> str:
    return f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
