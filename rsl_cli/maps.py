"""Edge maps M_e: how one copy of a vertex acts on another.

An edge map knows its spaces and how one kept edge acts, as a stencil; it holds no weights and no graph. To add one,
write a class with the two members that `EdgeMap` leaves open, and add it to `EDGE_MAPS` under a name.

Spaces carry no names: (d,) is flat, (T, d) are tokens, (H, W) is a map of one channel and (C, H, W), an input's, of C.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from rsl_cli.errors import GraphError
from rsl_cli.kernels.stencil import Stencil
from rsl_cli.keys import Key, choice, flag, nullable, whole
from rsl_cli.parts import Part, Space, make, setting
from rsl_cli.registry import Origin, Registry


class EdgeMap(Part, ABC):
    """One map M_e: W_e x Y_u -> Z_e, linear in both arguments, with all that the rest of rsl asks of it."""

    called = "map"
    name: ClassVar[str] = ""
    """What the exported code calls it."""

    @abstractmethod
    def output_space(self, space: Space) -> Space:
        """Z_e for a given Y_u; raises GraphError if the map cannot act on it."""

    @abstractmethod
    def stencil(self, space: Space) -> Stencil:
        """How one kept edge acts; its taps are the weight's numbers in row-major order (one, equal to 1, if none)."""

    def weight_shape(self, space: Space) -> Space | None:
        """W_e for a given Y_u; None if the map has no weight."""
        return (self.stencil(space).taps,)

    def fan_in(self, space: Space) -> int:
        """How many numbers of Y_u a number of Z_e reads, at most: the factor in a weight's variance."""
        return int(np.bincount(self.stencil(space).row).max())

    def reference(self, weight: np.ndarray | None, y: np.ndarray) -> np.ndarray | None:
        """What the stencil is tested against: Z_e of one kept edge, from its weight and one activation; None: nothing.

        Args:
            weight: float64 (*W_e); None if the map has none.
            y: float64 (*Y_u).

        Returns:
            Z_e, float64 (*Z); None if there is nothing to test against.
        """
        return None

    @property
    def needs_flat(self) -> bool:
        """Whether it reads flat spaces only, so that images and sequences come as vectors."""
        return False

    def identity(self) -> dict[str, Any]:
        """What determines the map, in a run's identity; defaults are left unsaid, so that new keys change none."""
        return self.options()

    def flops(self, space: Space) -> float:
        """Floating-point operations of one kept edge for one sample: two for each multiply-add."""
        stencil = self.stencil(space)
        return 2.0 * len(stencil.tap) * stencil.width if self.weight_shape(space) is not None else 0.0

    def portable(self) -> dict[str, Any]:
        """The exported code's name for it, and its keys there."""
        return {"name": self.name, **self.keys()}


EDGE_MAPS: Registry[Callable[..., EdgeMap]] = Registry("map", GraphError)
"""Every edge map by the name it has in a configuration; keyword arguments are the map's keys there."""


def _odd() -> Key:
    """The side of a kernel."""
    side = whole(3, 1)

    def read(value: Any) -> int:
        made = side.read(value)
        if made % 2 == 0:
            raise ValueError
        return made

    return replace(side, accepted="an odd number, so that padding is the same", read=read)


@EDGE_MAPS.add("linear")
@dataclass(frozen=True)
class Linear(EdgeMap):
    """W_e a matrix between flat spaces, ``out x d_in``; ``out=None`` is a scalar output, W_e = R^d_in."""

    out: int | None = setting(nullable(whole(None, 1), "a scalar").about("d_out; null: the scalar space ()"))
    flatten: bool = setting(flag(False).about("read a space of any shape as a flat one, row-major; no token beside it"))
    token: int | None = setting(
        nullable(whole(None, 1), "the whole space").about("of a space (T, d) read this token only, counted from 1")
    )
    name = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flatten and self.token is not None:
            raise GraphError(f"map 'linear': flatten=True beside token={self.token}; leave one of them out")

    def output_space(self, space: Space) -> Space:
        """``()`` or ``(out,)``."""
        if self.token is not None and (len(space) != 2 or self.token > space[0]):
            raise GraphError(
                f"map 'linear' with token={self.token} needs a space (T, d), T >= {self.token}, got {space}"
            )
        if len(space) > 1 and not self.flatten and self.token is None:
            raise GraphError(f"map 'linear' needs a flat space, got {space}; set flatten: true or use another map")
        return () if self.out is None else (self.out,)

    @property
    def needs_flat(self) -> bool:
        """Unless it flattens, or picks a token."""
        return not (self.flatten or self.token)

    def identity(self) -> dict[str, Any]:
        """``out`` is always said."""
        return {"out": self.out} | self.options()

    def _read(self, space: Space) -> Space:
        return space[1:] if self.token is not None else space

    def weight_shape(self, space: Space) -> Space | None:
        """``(d_in,)`` for a scalar output, else ``(out, d_in)``; a scalar input drops its axis."""
        read = self._read(space)
        return self.output_space(space) + ((math.prod(read),) if read else ())

    def stencil(self, space: Space) -> Stencil:
        """The whole matrix, or one beside columns of other tokens."""
        full = _matrix(self.out or 1, math.prod(self._read(space)))
        return full if self.token is None else _beside(full, self.token - 1, space[0])

    def fan_in(self, space: Space) -> int:
        """d_in."""
        return math.prod(self._read(space))


@EDGE_MAPS.add("scale")
@dataclass(frozen=True)
class Scale(EdgeMap):
    """W_e = R: a scalar times an activation of any space."""

    name = "scale"

    def output_space(self, space: Space) -> Space:
        """The same space."""
        return space

    def weight_shape(self, space: Space) -> Space | None:
        """A scalar."""
        return ()

    def stencil(self, space: Space) -> Stencil:
        """One entry along the whole activation."""
        return _matrix(1, 1, math.prod(space))

    def fan_in(self, space: Space) -> int:
        """One."""
        return 1


@EDGE_MAPS.add("conv")
@dataclass(frozen=True)
class Conv(EdgeMap):
    """A convolution (in the sense of deep learning: no flip), W_e = kernel x kernel, or C x kernel x kernel.

    Between maps of one channel (H, W); from an input (C, H, W) too. Padded with zeros by ``kernel // 2`` on every side,
    so stride 1 keeps the size.
    """

    kernel: int = setting(_odd().about("side of the kernel"))
    stride: int = setting(whole(1, 1).about("rows and columns to move by; must divide H and W"))
    upsample: int = setting(whole(1, 1).about("repeat each pixel that many times both ways first (nearest neighbour)"))
    name = "conv"

    def output_space(self, space: Space) -> Space:
        """(H * upsample / stride, W * upsample / stride)."""
        if len(space) not in (2, 3):
            raise GraphError(f"map 'conv' needs a space (H, W) or (C, H, W), got {space}")
        sizes = tuple(size * self.upsample for size in space[-2:])
        if any(size % self.stride for size in sizes):
            raise GraphError(
                f"map 'conv' with stride={self.stride} needs sizes it divides, got {sizes}; use stride 1 or other sizes"
            )
        return tuple(size // self.stride for size in sizes)

    def weight_shape(self, space: Space) -> Space | None:
        """(kernel, kernel), after C for a space (C, H, W)."""
        return (*space[:-2], self.kernel, self.kernel)

    def stencil(self, space: Space) -> Stencil:
        """Every tap is a shifted copy of the map."""
        return _conv(self, space)

    def fan_in(self, space: Space) -> int:
        """C * kernel^2."""
        return math.prod(space[:-2]) * self.kernel**2


@EDGE_MAPS.add("token_linear")
@dataclass(frozen=True)
class TokenLinear(EdgeMap):
    """The same matrix at each token: (T, d_in) -> (T, out)."""

    out: int = setting(whole(None, 1).about("needed: d_out"), needed=True)
    over: str = setting(
        choice("features", "features", "tokens").about(
            "features; or tokens, the same matrix at each feature: (T, d) -> (out, d)"
        )
    )
    patch: int | None = setting(
        nullable(whole(None, 1), "an input that has tokens").about(
            "cut an image (H, W) or (C, H, W) into squares of that side, row by row; each is a token of "
            "d_in = C * patch^2 numbers, channel after channel"
        )
    )
    name = "token_linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over == "tokens" and self.patch is not None:
            raise GraphError("map 'token_linear': patch makes tokens, which over: tokens then mixes; use two edges")

    def _tokens(self, space: Space) -> Space:
        if self.patch is None:
            if len(space) != 2:
                raise GraphError(f"map 'token_linear' needs a space (T, d), got {space}; an image needs patch")
            return space
        if len(space) not in (2, 3) or any(size % self.patch for size in space[-2:]):
            raise GraphError(
                f"map 'token_linear' with patch={self.patch} needs an image (H, W) or (C, H, W) of sizes it divides, "
                f"got {space}"
            )
        area = self.patch**2
        return math.prod(space[-2:]) // area, math.prod(space[:-2]) * area

    def output_space(self, space: Space) -> Space:
        """(T, out), or (out, d) over tokens."""
        tokens, features = self._tokens(space)
        return (tokens, self.out) if self.over == "features" else (self.out, features)

    def weight_shape(self, space: Space) -> Space | None:
        """(out, d_in)."""
        return (self.out, self.fan_in(space))

    def stencil(self, space: Space) -> Stencil:
        """One matrix, repeated along the diagonal or along the features."""
        return _token_linear(self, space)

    def fan_in(self, space: Space) -> int:
        """d_in."""
        tokens, features = self._tokens(space)
        return features if self.over == "features" else tokens


@EDGE_MAPS.add("identity")
@dataclass(frozen=True)
class Identity(Scale):
    """No weight: an activation is passed on as it is (skip edges)."""

    name = "identity"

    def weight_shape(self, space: Space) -> Space | None:
        """None: there is nothing to train."""
        return None


@lru_cache
def _matrix(rows: int, columns: int, width: int = 1) -> Stencil:
    return Stencil.matrix(rows, columns, width)


@lru_cache
def _beside(stencil: Stencil, place: int, count: int) -> Stencil:
    """A stencil that reads one part of ``count`` equal parts of a copy."""
    column = stencil.column + place * stencil.columns
    return Stencil(stencil.rows, count * stencil.columns, stencil.taps, stencil.row, column, stencil.tap)


@lru_cache
def _conv(conv: Conv, space: Space) -> Stencil:
    height, width = space[-2:]
    rows, columns = conv.output_space(space)
    sides = [np.arange(size) for size in (math.prod(space[:-2]), conv.kernel, conv.kernel, rows, columns)]
    c, a, b, i, j = (index.ravel() for index in np.meshgrid(*sides, indexing="ij"))
    y, x = i * conv.stride + a - conv.kernel // 2, j * conv.stride + b - conv.kernel // 2
    y, x = y // conv.upsample, x // conv.upsample
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    row, column, tap = i * columns + j, (c * height + y) * width + x, (c * conv.kernel + a) * conv.kernel + b
    taps = len(sides[0]) * conv.kernel**2
    return Stencil(rows * columns, math.prod(space), taps, row[inside], column[inside], tap[inside])


@lru_cache
def _token_linear(layer: TokenLinear, space: Space) -> Stencil:
    tokens, features = layer._tokens(space)
    if layer.over == "tokens":
        return _matrix(layer.out, tokens, features)
    numbers = np.arange(math.prod(space))
    if layer.patch is None:
        where = numbers.reshape(tokens, features)
    else:
        side, (height, width) = layer.patch, space[-2:]
        cut = numbers.reshape(-1, height // side, side, width // side, side)
        where = cut.transpose(1, 3, 0, 2, 4).reshape(tokens, features)
    t, o, i = (index.ravel() for index in np.indices((tokens, layer.out, features)))
    return Stencil(
        tokens * layer.out, len(numbers), layer.out * features, t * layer.out + o, where[t, i], o * features + i
    )


def edge_map(name: object, options: Mapping[str, Any]) -> tuple[EdgeMap, Origin | None]:
    """Make an edge map from its name and keys.

    Returns:
        The map, and where it comes from if it is a user's.

    Raises:
        GraphError: the name or a key is not known, or a key the map cannot do without is missing.
    """
    return make("map", EDGE_MAPS, EdgeMap, name, options)
