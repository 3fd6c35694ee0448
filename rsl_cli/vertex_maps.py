"""Vertex maps sigma_v: what a vertex makes of the arguments its edges feed.

A vertex combines its slots, adds its bias, normalises, applies its activation and pools, in this order. Each part is a
table of small classes; tensors are (copies, *space, samples), and every copy and sample is computed by itself.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from rsl_cli.errors import GraphError
from rsl_cli.keys import choice, flag, real, whole
from rsl_cli.parts import TOLD, Part, Space, make, setting
from rsl_cli.registry import Origin, Registry

P = TypeVar("P")


def vertex_part(key: str, config: object, parts: Registry[Callable[..., P]], kind: type[P]) -> tuple[P, Origin | None]:
    """Make a part of a vertex map from its name, or a mapping of ``kind`` and the part's own keys.

    Args:
        key: what to call it in an error: combine, norm or pool.
        config: a name, or ``{"kind": name, ...}``.
        parts: one of `COMBINES`, `NORMS` and `POOLS`.
        kind: what its members make.

    Returns:
        The part, and where it comes from if it is a user's.

    Raises:
        GraphError: the name or a key is not known, or a value not accepted.
    """
    options = dict(config) if isinstance(config, Mapping) else {"kind": config}
    return make(key, parts, kind, options.pop("kind", None), options)


class Combine(Part, ABC):
    """How a vertex makes one sum z of what its slots hold."""

    called = "combine"
    name: ClassVar[str] = "of your own"
    """What it is called in a configuration and in the exported code."""
    slots: ClassVar[tuple[str, ...] | None] = None
    """The names it needs; None: any, all of one space."""
    least: ClassVar[int] = 1
    """How many slots there must be."""
    circuit: ClassVar[Literal["sum", "product", "attention"] | None] = None
    """How circuits write it out, or not at all; a user's own never is."""

    @abstractmethod
    def __call__(self, slots: Mapping[str, Tensor]) -> Tensor:
        """Combine tensors (n_v, *space, N), one for each slot."""

    def space(self, spaces: Mapping[str, Space]) -> Space:
        """Z_v, given what each slot holds; raises GraphError if they do not meet."""
        return next(iter(spaces.values()))

    def flops(self, spaces: Mapping[str, Space]) -> float:
        """Floating-point operations of one copy for one sample that are worth counting."""
        return 0.0

    def identity(self) -> Any:
        """What determines it, in a run's identity; defaults are left unsaid."""
        return {"name": self.name, **options} if (options := self.options()) else self.name

    def portable(self) -> dict[str, Any]:
        """The exported code's name for it, and its keys there."""
        return {"name": self.name, **self.keys()}


class Stage(Part, ABC):
    """A norm or a pool: from one tensor to another, copy by copy and sample by sample."""

    @property
    def name(self) -> str:
        """What it is called in a configuration and in the exported code."""
        return type(self).__name__

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """From (n_v, *space, N) to the space that `space` names."""

    def space(self, space: Space) -> Space:
        """The space it makes of another; raises GraphError if it cannot act on it."""
        return space

    def groups(self, space: Space) -> np.ndarray | None:
        """If all it does is to average groups of equal size: of each number of a copy's space, its group; else None."""
        return None

    def identity(self) -> Any:
        """What determines it, in a run's identity."""
        return {"name": type(self).__name__, **self.keys()}

    def portable(self) -> dict[str, Any]:
        """The exported code's name for it, and its keys there."""
        return {"name": self.name, **self.keys()}


COMBINES: Registry[Callable[..., Combine]] = Registry("combine", GraphError)
"""Every way to combine slots, by name."""
NORMS: Registry[Callable[..., Stage]] = Registry("norm", GraphError)
"""Every normalisation by name; both take ``over`` and ``eps``."""
POOLS: Registry[Callable[..., Stage]] = Registry("pool", GraphError)
"""Every pooling by name; max and avg take ``size``."""


@COMBINES.add("sum")
@dataclass(frozen=True)
class Sum(Combine):
    """The pre-activations of all slots are added."""

    name = "sum"
    circuit = "sum"

    def __call__(self, slots: Mapping[str, Tensor]) -> Tensor:
        """Combine pre-activations of equal shape."""
        first, *others = slots.values()
        for other in others:
            first = first + other
        return first


@COMBINES.add("product")
@dataclass(frozen=True)
class Product(Combine):
    """The pre-activations of two or more named slots are multiplied (gating)."""

    name = "product"
    least = 2
    circuit = "product"

    def __call__(self, slots: Mapping[str, Tensor]) -> Tensor:
        """Combine pre-activations of equal shape."""
        first, *others = slots.values()
        for other in others:
            first = first * other
        return first


@COMBINES.add("attention")
@dataclass(frozen=True)
class Attention(Combine):
    """softmax(q k^T / sqrt(d)) v: each copy is one head (Vaswani et al., 2017, section 3.2.1)."""

    causal: bool = setting(flag(False).about("token t attends to tokens 1..t only"))
    name = "attention"
    slots = ("q", "k", "v")
    least = 3
    circuit = "attention"

    def space(self, spaces: Mapping[str, Space]) -> Space:
        """(T, d_v), from q (T, d), k (S, d) and v (S, d_v)."""
        q, k, v = (spaces[slot] for slot in "qkv")
        if not (
            len(q) == len(k) == len(v) == 2 and q[1] == k[1] and k[0] == v[0] and (q[0] == k[0] or not self.causal)
        ):
            raise GraphError(
                f"combine 'attention' needs q of a space (T, d), k of (S, d) and v of (S, d_v), T = S if causal; "
                f"got {q}, {k} and {v}"
            )
        return q[0], v[1]

    def flops(self, spaces: Mapping[str, Space]) -> float:
        """Two for each multiply-add of its products."""
        q, k, v = (spaces[slot] for slot in "qkv")
        return 2.0 * q[0] * k[0] * (q[1] + v[1])

    def __call__(self, slots: Mapping[str, Tensor]) -> Tensor:
        """Combine (n_v, T, d, N), (n_v, S, d, N) and (n_v, S, d_v, N)."""
        q, k, v = (slots[slot] for slot in "qkv")
        scores = _pairs(q / q.shape[2] ** 0.5, k)
        if self.causal:
            later = torch.ones(scores.shape[1:3], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later[:, :, None], -math.inf)
        return _mixed(_softmax(scores), v)


_NARROW = 32
"""Numbers of a head's keys up to which products along the samples are faster than many small matrix products."""


def _softmax(scores: Tensor) -> Tensor:
    """Along the keys of (n, T, S, N)."""
    shares = torch.exp(scores - scores.amax(2, keepdim=True).detach())
    return shares / shares.sum(2, keepdim=True)


def _pairs(q: Tensor, k: Tensor) -> Tensor:
    """<q_t, k_s>: from (n, T, d, N) and (n, S, d, N) to (n, T, S, N)."""
    if k.shape[1] * k.shape[2] > _NARROW:
        return torch.einsum("ntdm,nsdm->ntsm", q, k)
    terms = (q[:, :, None, i] * k[:, None, :, i] for i in range(q.shape[2]))
    return functools.reduce(torch.add, terms)


def _mixed(shares: Tensor, v: Tensor) -> Tensor:
    """Sums of v_s by the shares of each t: from (n, T, S, N) and (n, S, d, N) to (n, T, d, N)."""
    if v.shape[1] * v.shape[2] > _NARROW:
        return torch.einsum("ntsm,nsdm->ntdm", shares, v)
    return torch.stack([(shares * v[:, None, :, i]).sum(2) for i in range(v.shape[2])], 2)


@dataclass(frozen=True)
class Norm(Stage):
    """Divide by a size, so that the mean square is one; without trained gains (a vertex's edges have weights).

    Args:
        centred: subtract the mean first (Ba et al., 2016), or not (Zhang and Sennrich, 2019).
    """

    centred: bool = field(metadata=TOLD)
    over: str = setting(
        choice("last", "last", "all").about(
            "last: along the last axis of the space (the features of a token); all: over the whole copy"
        )
    )
    eps: float = setting(real(1e-5, 0, above=True).about("added to the mean square"))
    called = "norm"

    @property
    def name(self) -> str:
        """What it is called in a configuration."""
        return "layer" if self.centred else "rms"

    def space(self, space: Space) -> Space:
        """The same space."""
        if not space:
            raise GraphError("norm of a scalar is its sign; normalise a vertex whose space has an axis")
        return space

    def __call__(self, z: Tensor) -> Tensor:
        """Normalise (n_v, *space, N)."""
        axes = (z.dim() - 2,) if self.over == "last" else tuple(range(1, z.dim() - 1))
        if self.centred:
            z = z - z.mean(axes, keepdim=True)
        return z * (z.square().mean(axes, keepdim=True) + self.eps).rsqrt()


NORMS.add("rms")(functools.partial(Norm, False))
NORMS.add("layer")(functools.partial(Norm, True))


@dataclass(frozen=True)
class Pool(Stage):
    """Replace squares of a map (H, W) by their largest number or their mean.

    Args:
        largest: or the mean.
    """

    largest: bool = field(metadata=TOLD)
    size: int = setting(whole(2, 1).about("side of a square; must divide H and W"))
    called = "pool"

    @property
    def name(self) -> str:
        """What it is called in a configuration."""
        return "max" if self.largest else "avg"

    def space(self, space: Space) -> Space:
        """(H / size, W / size)."""
        if len(space) != 2 or any(side % self.size for side in space):
            raise GraphError(f"pool of size {self.size} needs a space (H, W) of sizes it divides, got {space}")
        return tuple(side // self.size for side in space)

    def groups(self, space: Space) -> np.ndarray | None:
        """The squares."""
        rows, columns = (np.arange(side) // self.size for side in space)
        return None if self.largest else (rows[:, None] * (space[1] // self.size) + columns).reshape(-1)

    def __call__(self, y: Tensor) -> Tensor:
        """Pool (n_v, H, W, N)."""
        copies, height, width, samples = y.shape
        squares = y.reshape(copies, height // self.size, self.size, width // self.size, self.size, samples)
        return squares.amax((2, 4)) if self.largest else squares.mean((2, 4))


@dataclass(frozen=True)
class Mean(Stage):
    """The mean over all of a map (H, W), or over the tokens of a space (T, d).

    Args:
        tokens: only over T.
    """

    tokens: bool = field(metadata=TOLD)

    @property
    def name(self) -> str:
        """What it is called in a configuration."""
        return "token_avg" if self.tokens else "global_avg"

    def space(self, space: Space) -> Space:
        """``()`` or (d,)."""
        if len(space) != 2:
            raise GraphError(f"pool needs a space {'(T, d)' if self.tokens else '(H, W)'}, got {space}")
        return space[1:] if self.tokens else ()

    def groups(self, space: Space) -> np.ndarray | None:
        """One, or one for each feature."""
        return np.arange(math.prod(space)) % math.prod(self.space(space))

    def __call__(self, y: Tensor) -> Tensor:
        """Pool (n_v, *space, N)."""
        return y.mean(1) if self.tokens else y.mean((1, 2))


POOLS.add("max")(functools.partial(Pool, True))
POOLS.add("avg")(functools.partial(Pool, False))
POOLS.add("global_avg")(functools.partial(Mean, False))
POOLS.add("token_avg")(functools.partial(Mean, True))

Bias = Callable[[Space], Space]
"""From the space of a copy's sums to the shape of its bias; axes of size 1 are broadcast."""

BIASES: Registry[Bias] = Registry("bias", GraphError)
"""Every shape of biases by name; ``bias: true`` is ``number``."""


@BIASES.add("number")
def _each(space: Space) -> Space:
    """A number for each of a copy's space."""
    return space


@BIASES.add("copy")
def _one(space: Space) -> Space:
    """One number for all of a copy's space: a channel's."""
    return (1,) * len(space)


@BIASES.add("feature")
def _last(space: Space) -> Space:
    """A number for each place of the last axis: the same at every token."""
    return (1,) * len(space[:-1]) + space[-1:]


def bias_of(vertex_bias: bool | str) -> Bias:
    """The shape of the biases that a vertex has."""
    return BIASES.find("number" if vertex_bias is True else vertex_bias)
