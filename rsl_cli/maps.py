"""Edge maps M_e and vertex maps sigma_v: what a base graph is made of.

An edge map knows its spaces and how one kept edge acts, as a block of a sparse matrix; it holds no weights and no
graph. To add one, write a frozen dataclass with the four members of `EdgeMap` and name it in `EDGE_MAPS`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from rsl_cli.errors import GraphError, one_of

Space = tuple[int, ...]
"""Shape of the activations of one copy of a vertex; ``()`` is a scalar."""


@dataclass(frozen=True)
class Block:
    """How one kept edge acts: a ``rows x columns`` matrix applied along the ``width`` entries of each row.

    A copy's activation of ``columns * width`` numbers is read as ``columns`` rows of ``width`` numbers each.
    """

    rows: int
    columns: int
    width: int


class EdgeMap(Protocol):
    """One map M_e: W_e x Y_u -> Z_e, linear in both arguments."""

    def output_space(self, space: Space) -> Space:
        """Z_e for a given Y_u; raises GraphError if the map cannot act on it."""
        ...

    def weight_shape(self, space: Space) -> Space | None:
        """W_e for a given Y_u; None if the map has no weight."""
        ...

    def block(self, space: Space) -> Block:
        """The matrix by which one kept edge acts."""
        ...

    def fan_in(self, space: Space) -> int:
        """How many numbers of Y_u each number of Z_e reads, the factor in a weight's variance."""
        ...


@dataclass(frozen=True)
class Scale:
    """W_e = R: a scalar times an activation of any space."""

    def output_space(self, space: Space) -> Space:
        """The same space."""
        return space

    def weight_shape(self, space: Space) -> Space | None:
        """A scalar."""
        return ()

    def block(self, space: Space) -> Block:
        """A 1 x 1 block along the whole activation."""
        return Block(1, 1, math.prod(space))

    def fan_in(self, space: Space) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class Identity:
    """No weight: an activation is passed on as it is (skip edges)."""

    def output_space(self, space: Space) -> Space:
        """The same space."""
        return space

    def weight_shape(self, space: Space) -> Space | None:
        """None: there is nothing to train."""
        return None

    def block(self, space: Space) -> Block:
        """A 1 x 1 block along the whole activation."""
        return Block(1, 1, math.prod(space))

    def fan_in(self, space: Space) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class Linear:
    """W_e a matrix between flat spaces, ``out x d_in``; ``out=None`` is a scalar output, W_e = R^d_in.

    Args:
        out: d_out, or None for the scalar space ``()``.
    """

    out: int | None = None

    def __post_init__(self) -> None:
        if self.out is not None and (isinstance(self.out, bool) or not isinstance(self.out, int) or self.out < 1):
            raise GraphError(
                f"map 'linear': out={self.out!r}; accepted: a whole number from 1, or nothing for a scalar"
            )

    def output_space(self, space: Space) -> Space:
        """``()`` or ``(out,)``."""
        if len(space) > 1:
            raise GraphError(f"map 'linear' needs a flat space, got {space}; flatten the input or use another map")
        return () if self.out is None else (self.out,)

    def weight_shape(self, space: Space) -> Space | None:
        """``(d_in,)`` for a scalar output, else ``(out, d_in)``; a scalar input drops its axis."""
        return self.output_space(space) + space

    def block(self, space: Space) -> Block:
        """The whole matrix, one number wide."""
        return Block(self.out or 1, math.prod(space), 1)

    def fan_in(self, space: Space) -> int:
        """d_in."""
        return math.prod(space)


EDGE_MAPS: Mapping[str, Callable[..., EdgeMap]] = {"linear": Linear, "scale": Scale, "identity": Identity}
"""Every edge map by the name it has in a configuration; keyword arguments are the map's keys there."""


def edge_map(name: object, options: Mapping[str, Any]) -> EdgeMap:
    """Make an edge map from its name and keys.

    Raises:
        GraphError: the name or a key is not known.
    """
    if not isinstance(name, str) or name not in EDGE_MAPS:
        raise GraphError(one_of("map", name, EDGE_MAPS))
    factory = EDGE_MAPS[name]
    accepted = list(getattr(factory, "__dataclass_fields__", {}))
    for key in options:
        if key not in accepted:
            raise GraphError(
                f"{one_of(f'key of map {name!r}', key, accepted)}" if accepted else f"map {name!r} has no key {key!r}"
            )
    return factory(**options)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "sin": torch.sin,
    "identity": lambda z: z,
}
"""Every activation by name; leaky_relu has slope 0.01 below zero, gelu is the exact one (erf)."""


@dataclass(frozen=True)
class Sum:
    """The pre-activations of all slots are added."""

    slots: tuple[str, ...] | None = None
    least: int = 1

    def __call__(self, slots: Mapping[str, Tensor]) -> Tensor:
        """Combine pre-activations of equal shape."""
        first, *others = slots.values()
        for other in others:
            first = first + other
        return first


@dataclass(frozen=True)
class Product:
    """The pre-activations of two or more named slots are multiplied (gating)."""

    slots: tuple[str, ...] | None = None
    least: int = 2

    def __call__(self, slots: Mapping[str, Tensor]) -> Tensor:
        """Combine pre-activations of equal shape."""
        first, *others = slots.values()
        for other in others:
            first = first * other
        return first


COMBINES: Mapping[str, Sum | Product] = {"sum": Sum(), "product": Product()}
"""Every way to combine slots; ``slots`` are the names it needs (None: any), ``least`` how many."""
