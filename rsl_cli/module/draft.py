"""Vertices on their way from a torch module to a base graph: what each will compute, and where its numbers lie.

A tensor of the module, (N, ...), is the copies of a draft and the axes of their space in some order, perhaps merged by
a reshape: ``axes`` says how. Channels, heads and the features of a vector are copies; tokens are axes of one copy.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from rsl_cli.errors import GraphError
from rsl_cli.parts import Space

Read = Callable[[Mapping[str, Tensor]], Tensor]
"""From a module's parameters by name to the numbers of an edge or a bias."""

COPIES = -1
"""Among the axes of a copy's space, which count from 0: the axis of the copies."""

Axes = tuple[tuple[int, ...], ...]
"""For each axis of a tensor after the first, which axes it merges, the outermost first."""

FLAT: Axes = ((COPIES,),)
TOKENS: Axes = ((0,), (1,))
MAPS: Axes = ((COPIES,), (0,), (1,))


@dataclass(frozen=True)
class Term:
    """An edge to be.

    Args:
        source: where it starts.
        options: its map and the map's keys.
        weight: reads (rows, copies of the source, *the rest of W_e); rows are copies, or copies * out where the map has
            ``out``. None for an identity.
        slot: its slot, if it needs one.
    """

    source: "DraftVertex"
    options: Mapping[str, Any]
    weight: Read | None = None
    slot: str | None = None

    def matrix(self, copies: int, state: Mapping[str, Tensor]) -> Tensor:
        """Weights (copies, copies of the source, *W_e)."""
        assert self.weight is not None
        rows = self.weight(state)
        if "out" not in self.options:
            return rows
        return rows.reshape(copies, -1, *rows.shape[1:]).transpose(1, 2)


@dataclass(frozen=True)
class Bias:
    """A bias to be: its kind in a configuration, and what reads (copies, *space), axes that share it of size 1."""

    kind: bool | str
    read: Read


@dataclass(eq=False)
class DraftVertex:
    """A vertex to be; ``terms`` is empty for the input.

    Args:
        name: its name.
        where: the layer that makes it, for errors.
        copies: size of its fibre at degree 1.
        space: Y_v.
    """

    name: str
    where: str
    copies: int
    space: Space
    terms: list[Term] = field(default_factory=list)
    biases: list[Bias] = field(default_factory=list)
    combine: str | Mapping[str, Any] = "sum"
    norm: Mapping[str, Any] | None = None
    activation: str | None = None
    pool: str | Mapping[str, Any] | None = None

    @property
    def stage(self) -> int:
        """How far it is: 0 combined, 1 normalised, 2 activated, 3 pooled."""
        return 3 if self.pool else 2 if self.activation else 1 if self.norm else 0

    @property
    def is_sum(self) -> bool:
        """Whether it is a sum of its in-edges and biases and nothing more."""
        return bool(self.terms) and self.combine == "sum" and self.stage == 0

    @property
    def has_rows(self) -> bool:
        """Whether it is a sum of layers, each row of whose weights makes one number (or map) of its own."""
        by_rows = all(term.weight and term.options.get("over") != "tokens" for term in self.terms)
        return self.is_sum and by_rows and all(bias.kind is not True or not self.space for bias in self.biases)

    def rows(self, name: str, start: int, copies: int, out: int | None) -> "DraftVertex":
        """Some rows of its layers as a draft of its own: ``copies`` copies, of ``out`` features each unless None."""
        chosen = slice(start, start + copies * (out or 1))
        space = self.space if out is None else (*self.space[:-1], out)
        shape = (copies, *(1 for _ in space)) if out is None else (copies, *(1 for _ in space[:-1]), out)
        options = {} if out is None else {"out": out}
        terms = [
            replace(term, options={**term.options, **options}, weight=_chosen(term.weight, chosen))
            for term in self.terms
            if term.weight
        ]
        biases = [
            Bias(bias.kind, lambda state, read=bias.read: read(state).reshape(-1)[chosen].reshape(shape))
            for bias in self.biases
        ]
        return DraftVertex(name, self.where, copies, space, terms, biases)

    def config(self) -> dict[str, Any]:
        """The vertex as in a base graph's configuration."""
        config: dict[str, Any] = {"kind": "hidden", "width": self.copies}
        for key in ("combine", "norm", "activation", "pool"):
            value = getattr(self, key)
            if value is not None and value != "sum":
                config[key] = value
        if self.biases:
            config["bias"] = self.bias_kind
        return config

    @property
    def bias_kind(self) -> bool | str:
        """The smallest bias that holds the sum of all."""
        kinds = {bias.kind for bias in self.biases}
        return kinds.pop() if len(kinds) == 1 else True


def _chosen(read: Read, rows: slice) -> Read:
    return lambda state: read(state)[rows]


@dataclass(frozen=True)
class Part:
    """A tensor: a draft and how its copies are laid out.

    Args:
        draft: whose activations.
        axes: see `Axes`.
        open: whether nobody else reads the draft, so that it may still be changed.
        upsample: each pixel is to be repeated that often both ways.
        token: only that token is meant, counted from 1; axis 0 of the space is then gone.
    """

    draft: DraftVertex
    axes: Axes
    open: bool = True
    upsample: int = 1
    token: int | None = None

    def size(self, axis: int) -> int:
        """Of the copies, or of an axis of the space."""
        return self.draft.copies if axis == COPIES else self.draft.space[axis]


@dataclass(frozen=True)
class Value:
    """What a node of the trace holds: one part, or several concatenated along ``axis`` (0 is the one after N)."""

    parts: tuple[Part, ...]
    axis: int = 0

    @property
    def first(self) -> Part:
        """The first part."""
        return next(iter(self.parts))


def in_order(last: DraftVertex) -> list[DraftVertex]:
    """The drafts that the last one needs and itself, sources first."""
    done: dict[int, DraftVertex] = {}

    def visit(draft: DraftVertex) -> Iterator[DraftVertex]:
        for term in draft.terms:
            if id(term.source) not in done:
                yield from visit(term.source)
        done[id(draft)] = draft
        yield draft

    return list(visit(last))


def named_terms(draft: DraftVertex) -> list[Term]:
    """Its edges to be, with slots where several start at one source."""
    sources = [term.source for term in draft.terms]
    slots = [str(1 + sources[:i].count(source)) for i, source in enumerate(sources)]
    return [
        replace(term, slot=slot) if term.slot is None and sources.count(term.source) > 1 else term
        for term, slot in zip(draft.terms, slots, strict=True)
    ]


def to_config(name: str, last: DraftVertex) -> dict[str, Any]:
    """The base graph whose output is the last draft, as a configuration that `BaseGraph.from_config` reads.

    Returns:
        Plain mappings and lists, as a YAML file of ``conf/base`` has them.

    Raises:
        GraphError: copies joined to themselves by two matchings, which a lift draws independently.
    """
    drafts = in_order(last)
    vertices: dict[str, Any] = {}
    edges: list[dict[str, Any]] = []
    joined = {id(draft): id(draft) for draft in drafts}

    def group(draft: DraftVertex) -> int:
        key = id(draft)
        while joined[key] != key:
            key = joined[key]
        return key

    for draft in drafts:
        if not draft.terms:
            vertices[draft.name] = {"kind": "input"}
        elif draft is last:
            vertices[draft.name] = {"kind": "output"} | ({"bias": True} if draft.biases else {})
        else:
            vertices[draft.name] = draft.config()
        for term in named_terms(draft):
            edge = {"source": term.source.name, "target": draft.name, **term.options}
            if term.slot is not None:
                edge["slot"] = term.slot
            if draft is last:
                edge["init"] = {"kind": "zeros"}
            if term.weight is None and term.source.terms:
                edge["lifting"] = {"kind": "matching"}
                if draft.copies > 1 and group(term.source) == group(draft):
                    raise GraphError(
                        f"{draft.where}: '{term.source.name}' is read twice with no weights between, and a lift would "
                        "match its copies twice, independently; put a Linear or Conv2d into one of the two ways"
                    )
                joined[group(term.source)] = group(draft)
            edges.append(edge)
    return {"name": name, "vertices": vertices, "edges": edges}
