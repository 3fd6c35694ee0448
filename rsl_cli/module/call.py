"""One call in a trace, and what it can refuse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor

from rsl_cli.errors import GraphError
from rsl_cli.module.draft import Axes, DraftVertex, Part, Term, Value

IDENTITY: Mapping[str, Any] = {"map": "identity"}
INPUT_MAPS: Sequence[Axes] = (((0,), (1,), (2,)), ((), (0,), (1,)))
"""How maps of an input may lie: its channels are an axis of its space, or it has one that its space does not show."""


@dataclass(frozen=True)
class Call:
    """One call in a trace.

    Args:
        name: of the layer, or of the trace's node; no two vertices share it.
        where: the same with type and line, for errors.
        shape: of the call's result, without N.
        parameters: names of the module's parameters by identity.
        readers: which call reads which parameter; shared by all calls.
    """

    name: str
    where: str
    shape: tuple[int, ...]
    parameters: Mapping[int, str]
    readers: dict[str, tuple[str, str]]

    def refuse(self, text: str) -> NoReturn:
        """Refuse what the call does: what was got, what is accepted."""
        raise GraphError(f"{self.where}: {text}")

    def one(self, value: object, what: str = "its argument") -> Part:
        """The one part of a value; refuses what only some layers read."""
        first, *others = self.each(value, what)
        if others:
            self.refuse("reads a concatenation; accepted: Linear, Conv2d, activations, pooling, flatten")
        return first

    def each(self, value: object, what: str = "its argument") -> tuple[Part, ...]:
        """The parts of a value; refuses constants and parts that only some layers read."""
        if not isinstance(value, Value):
            return self.refuse(
                f"{what} does not depend on the input; accepted: results of layers, and Parameters in a sum"
            )
        for part in value.parts:
            if part.upsample > 1:
                self.refuse("reads an upsampled map; accepted: Conv2d right after it")
            if part.token is not None:
                self.refuse("reads one token of a space; accepted: Linear right after it")
        return value.parts

    def extended(self, part: Part, stage: int) -> DraftVertex:
        """The draft of a part where it may still take on that stage, else a new one that reads it copy by copy."""
        draft = part.draft
        if part.open and draft.terms and draft.stage < stage:
            return draft
        return DraftVertex(self.name, self.where, draft.copies, draft.space, [Term(draft, IDENTITY)])

    def name_of(self, parameter: Tensor) -> str:
        """The name under which the module knows a parameter; refuses one that another call reads too."""
        name = self.parameters.get(id(parameter))
        if name is None:
            self.refuse(
                "reads a tensor that is no Parameter of the module; accepted: nn.Parameter, a layer's own weights"
            )
        reader, where = self.readers.setdefault(name, (self.name, self.where))
        if reader != self.name:
            self.refuse(f"'{name}' has been read by {where}; accepted: weights of its own for each call")
        return name

    def axis(self, dim: int, rank: int) -> int:
        """An axis of a tensor of rank + 1 axes, counted without the first."""
        axis = dim + rank + 1 if dim < 0 else dim
        if axis == 0:
            self.refuse("acts along the axis of samples; accepted: the others")
        return axis - 1
