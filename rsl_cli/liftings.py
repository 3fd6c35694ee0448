"""Liftings: how the copies of an edge's two ends are joined, at which cost, and what that makes of in-degrees.

To add one, write a class with the members that `Lifting` leaves open, and add it to `LIFTINGS` under a name, or name it
as ``lifting=target lifting.target=mine.Own``. Sampling costs time and memory proportional to the edges kept.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from rsl_cli.errors import GraphError, LiftError
from rsl_cli.keys import Key, Keys, kept, real
from rsl_cli.parts import Part, make, setting
from rsl_cli.registry import Origin, Registry, plain_arguments

EdgeList = tuple[np.ndarray, np.ndarray]
"""(sources, targets), int64 (E,) each, sorted by target, then source."""

Line = Literal["solid", "dashed"]

_LEAST_IN_DEGREE, _MOST_IN_DEGREE = 1e-6, 2.0**31
"""Below it no lift there can be keeps an edge; beyond it none has so many copies."""


class Lifting(Part, ABC):
    """How the copies of one base edge are drawn, and what can be said of them before that."""

    called = "lifting"
    name: ClassVar[str] = "of your own"
    """What it is called in a configuration."""
    complete: ClassVar[bool] = False
    """Whether it joins every pair."""
    style: ClassVar[tuple[str, Line]] = ("#CC79A7", "solid")
    """Colour and line of its edges in a drawing: the colours of Okabe and Ito (2008), told apart by the colour-blind,
    and dashes for print."""

    @abstractmethod
    def sample(self, draw: np.random.Generator, n_u: int, n_v: int) -> EdgeList:
        """Draw the kept edges between fibres of ``n_u`` sources and ``n_v`` targets."""

    @abstractmethod
    def mean_in_degree(self, n_u: int, n_v: int) -> float:
        """The expected in-degree of a copy."""

    @property
    def bounded(self) -> float | None:
        """lambda, by which weights are scaled, where in-degrees stay bounded; None where they follow from fibres."""
        return None

    def every(self, n_u: int, n_v: int) -> int | None:
        """The in-degree that every copy has; None: it depends on the draw."""
        return None

    def check(self, sources: np.ndarray, targets: np.ndarray, n_u: int, n_v: int) -> None:
        """Refuse edges that it cannot have drawn, beyond what every lift and `every` say.

        Raises:
            LiftError: what is wrong with them.
        """

    def check_fibres(self, n_u: int, n_v: int) -> None:
        """Refuse fibres that cannot be joined so.

        Raises:
            LiftError: why not.
        """


LIFTINGS: Registry[Callable[..., Lifting]] = Registry("lifting kind", GraphError)
"""Every lifting by name."""


def _in_degree(help: str, *, whole: bool = False) -> Key:
    """A mean number of sources; a whole one stays of one type, as every in-degree has."""
    number = real(8.0, _LEAST_IN_DEGREE, _MOST_IN_DEGREE)

    def read(value: Any) -> float:
        made = number.read(value)
        if whole and made != int(made):
            raise ValueError
        return made

    accepted = f"{'a whole number from 1' if whole else f'{_LEAST_IN_DEGREE:g}'} to {_MOST_IN_DEGREE:.0f}"
    return replace(number, default=8, accepted=accepted, read=read, help=help)


@LIFTINGS.add("random")
@dataclass(frozen=True)
class Random(Lifting):
    """Each pair of copies is joined independently: in-degrees are binomial, the law of the theory."""

    in_degree: float = setting(
        _in_degree("mean number of sources each copy reads over an edge, whatever the lift degree")
    )
    name = "random"
    style = ("#0072B2", "solid")

    @property
    def bounded(self) -> float:
        """That number."""
        return self.in_degree

    def sample(self, draw: np.random.Generator, n_u: int, n_v: int) -> EdgeList:
        """Bernoulli(p) for every pair, by the geometric gaps between successes (Batagelj and Brandes, 2005)."""
        probability = min(1.0, self.in_degree / n_u)
        if probability == 1.0:
            return Dense().sample(draw, n_u, n_v)
        pairs = n_u * n_v
        parts, last = [], -1
        while last < pairs:
            mean = (pairs - 1 - last) * probability
            gaps = np.minimum(draw.geometric(probability, size=int(mean + 4 * mean**0.5 + 16)), pairs + 1)
            parts.append(last + np.cumsum(gaps))
            last = int(parts[-1][-1])
        kept = np.concatenate(parts)
        kept = kept[kept < pairs]
        return kept % n_u, kept // n_u

    def mean_in_degree(self, n_u: int, n_v: int) -> float:
        """lambda, or all there are."""
        return min(self.in_degree, float(n_u))


@LIFTINGS.add("regular")
@dataclass(frozen=True)
class Regular(Lifting):
    """Each copy reads the same number of distinct sources, drawn at random: no copy is left without."""

    in_degree: float = setting(
        _in_degree("sources each copy reads over an edge; all of them while there are fewer", whole=True)
    )
    name = "regular"
    style = ("#009E73", "solid")

    @property
    def bounded(self) -> float:
        """That number."""
        return self.in_degree

    def sample(self, draw: np.random.Generator, n_u: int, n_v: int) -> EdgeList:
        """By redraws of what repeats where few are drawn, by permutations where many are."""
        degree = self.every(n_u, n_v)
        if 2 * degree > n_u:
            sources = draw.permuted(np.tile(np.arange(n_u), (n_v, 1)), axis=1)[:, :degree]
            return np.sort(sources, axis=1).ravel(), np.repeat(np.arange(n_v), degree)
        sources = np.sort(draw.integers(n_u, size=(n_v, degree)), axis=1)
        pending = np.arange(n_v)
        while len(pending):
            # Only what repeats is drawn again, so that each row is what drawing one by one would have given.
            rows = sources[pending]
            repeated = np.zeros(rows.shape, dtype=bool)
            repeated[:, 1:] = rows[:, 1:] == rows[:, :-1]
            rows[repeated] = draw.integers(n_u, size=int(repeated.sum()))
            sources[pending] = np.sort(rows, axis=1)
            pending = pending[repeated.any(axis=1)]
        return sources.ravel(), np.repeat(np.arange(n_v), degree)

    def mean_in_degree(self, n_u: int, n_v: int) -> float:
        """As every copy's."""
        return float(self.every(n_u, n_v))

    def every(self, n_u: int, n_v: int) -> int:
        """So many, or all there are."""
        return min(int(self.in_degree), n_u)


@LIFTINGS.add("dense")
@dataclass(frozen=True)
class Dense(Lifting):
    """Every pair of copies is joined: the ordinary wide network, for comparison."""

    name = "dense"
    style = ("#999999", "solid")
    complete = True

    def sample(self, draw: np.random.Generator, n_u: int, n_v: int) -> EdgeList:
        """All pairs."""
        return np.tile(np.arange(n_u), n_v), np.repeat(np.arange(n_v), n_u)

    def mean_in_degree(self, n_u: int, n_v: int) -> float:
        """All sources."""
        return float(n_u)

    def every(self, n_u: int, n_v: int) -> int:
        """All sources."""
        return n_u


@LIFTINGS.add("matching")
@dataclass(frozen=True)
class Matching(Lifting):
    """Each copy reads one source and no two read the same, a random permutation. Fibres of equal size only."""

    name = "matching"
    style = ("#D55E00", "dashed")

    def sample(self, draw: np.random.Generator, n_u: int, n_v: int) -> EdgeList:
        """A permutation."""
        return draw.permutation(n_u), np.arange(n_v)

    def mean_in_degree(self, n_u: int, n_v: int) -> float:
        """One."""
        return 1.0

    def every(self, n_u: int, n_v: int) -> int:
        """One."""
        return 1

    def check(self, sources: np.ndarray, targets: np.ndarray, n_u: int, n_v: int) -> None:
        """No source twice."""
        if not (np.bincount(sources, minlength=n_u) == 1).all():
            raise LiftError("lifting 'matching' gives every copy out-degree 1; some differ")

    def check_fibres(self, n_u: int, n_v: int) -> None:
        """Of one size."""
        if n_u != n_v:
            raise LiftError(
                f"lifting 'matching' needs fibres of equal size, got {n_u} and {n_v}; use 'random' or 'regular' with "
                "in_degree: 1, or equal width and growth"
            )


OWN: Keys = {
    "target": kept(None, "package.Class", "mine.Own").about("needed: package.Class, a subclass of rsl_cli.Lifting"),
    "arguments": kept(None, "null or a mapping", "{shift: 1}").about("of its constructor; null: none"),
}


@LIFTINGS.add("target")
def own_lifting(target: str, arguments: Mapping[str, Any] | None = None) -> Lifting:
    """A lifting of the user's own, a subclass of `Lifting`."""
    return make("lifting.target", LIFTINGS, Lifting, target, plain_arguments("lifting", arguments or {}))[0]


@dataclass(frozen=True)
class EdgeLifting:
    """The lifting of an edge, as a configuration names it; make one with `edge_lifting`.

    Args:
        kind: its name.
        law: how it joins copies.
        origin: where that comes from, if it is a user's.
    """

    kind: str = "random"
    law: Lifting = Random()
    origin: Origin | None = None

    @property
    def in_degree(self) -> float | None:
        """lambda, where in-degrees stay bounded."""
        return self.law.bounded

    def identity(self) -> dict[str, Any]:
        """What determines it; keys that came later are left unsaid at their defaults."""
        if self.origin is not None:
            return {"kind": "target", **self.origin.identity()}
        return {"kind": self.kind, **self.law.options(), "in_degree": self.in_degree}


def edge_lifting(config: Any, where: str = "lifting") -> EdgeLifting:
    """Read a lifting ``{kind, ...}``.

    Args:
        config: a mapping, or an `EdgeLifting` that is returned as it is.
        where: what to name in an error.

    Returns:
        The lifting, with where it comes from if it is a user's.

    Raises:
        GraphError: an unknown kind or key, or a value that is missing or not accepted.
    """
    if isinstance(config, EdgeLifting):
        return config
    if not isinstance(config, Mapping) or "kind" not in config:
        raise GraphError(f"{where}: lifting {config!r}; write a mapping such as {{kind: random, in_degree: 8}}")
    # Nothing may be said of a key as well as left out.
    given = {key: value for key, value in config.items() if key != "kind" and value is not None}
    kind = config["kind"]
    try:
        law, origin = make("lifting", LIFTINGS, Lifting, kind, given)
        if kind == "target":
            origin = LIFTINGS.origin(given["target"], given.get("arguments") or {})
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error
    return EdgeLifting(kind, law, origin)
