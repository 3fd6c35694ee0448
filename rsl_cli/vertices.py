"""Vertices and edges of a base graph: what each computes, before anything is known of the others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rsl_cli.laws import Law, Normal
from rsl_cli.liftings import EdgeLifting
from rsl_cli.maps import EdgeMap
from rsl_cli.registry import Origin
from rsl_cli.vertex_maps import Combine, Stage, Sum

KINDS = ("input", "hidden", "output")


@dataclass(frozen=True)
class Init:
    """Law of the weights of one edge or of the biases of one vertex.

    Args:
        kind: what the configuration calls it.
        gain: standard deviation of a bias; for weights it is divided by the square root of the fan-in.
        law: what is drawn from, before it is scaled.
        origin: where that comes from, if it is a user's.
    """

    kind: str = "normal"
    gain: float = 1.0
    law: Law = field(default_factory=Normal)
    origin: Origin | None = field(default=None, compare=False)

    def identity(self) -> dict[str, Any]:
        """What determines it; keys that came later are left unsaid at their defaults."""
        if self.origin is not None:
            return {"kind": "target", "gain": self.gain, **self.origin.identity()}
        return {"kind": self.kind, "gain": self.gain, **self.law.options()}


@dataclass(frozen=True)
class Vertex:
    """One vertex v of a base graph.

    Args:
        name: its name.
        kind: ``input``, ``hidden`` or ``output``.
        activation: name of the activation, applied after combining the slots, the bias and the norm.
        combine: what makes one sum of the slots.
        bias: whether each copy adds a trained bias, and of which shape: True, False, or a name in `BIASES`.
        width: the fibre has ``round(width * degree ** growth)`` copies, at least one.
        growth: see ``width``.
        bias_init: law of the biases.
        norm: applied before the activation, if any.
        pool: applied after it, if any.
        origins: of those parts that are a user's, by key.
    """

    name: str
    kind: str
    activation: str = "identity"
    combine: Combine = field(default_factory=Sum)
    bias: bool | str = False
    width: float = 1.0
    growth: float = 1.0
    bias_init: Init = field(default_factory=Init)
    norm: Stage | None = None
    pool: Stage | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Edge:
    """One edge e = (source, target) of a base graph, feeding one slot of its target.

    Args:
        source: a vertex.
        target: another.
        map_name: what the configuration calls the map.
        map: M_e.
        slot: of the target, if it has names.
        lifting: its own, if any.
        init: law of its weights.
        origin: where the map comes from, if it is a user's.
    """

    source: str
    target: str
    map_name: str
    map: EdgeMap
    slot: str | None = None
    lifting: EdgeLifting | None = None
    init: Init = field(default_factory=Init)
    origin: Origin | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """``source->target``, with the slot in brackets if it has one."""
        return f"{self.source}->{self.target}" + (f"[{self.slot}]" if self.slot else "")
