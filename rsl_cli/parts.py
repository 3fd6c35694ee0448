"""What all parts of a base graph share, and how one is made from a configuration, whosever it is."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any, ClassVar, TypeVar, get_args

from rsl_cli.claims import check_claims
from rsl_cli.errors import RAISED, GraphError, RslError, first_line, one_of
from rsl_cli.keys import Key, Keys, read_keys
from rsl_cli.registry import Origin, Registry, is_ours

Space = tuple[int, ...]
"""Shape of the activations of one copy of a vertex; ``()`` is a scalar."""

P = TypeVar("P")

TOLD = {"told": True}
"""Metadata of a field that the part's name tells."""


def setting(key: Key, *, needed: bool = False) -> Any:
    """A field of a part whose key is declared: default, range and meaning; or without a default, if it is needed."""
    return field(default=MISSING if needed else key.default, metadata={"key": key})


def settings_of(part: Any) -> Keys:
    """The declared keys of a part, its class, or a factory that has some of its arguments already."""
    made = getattr(part, "func", part)
    known = fields(made) if is_dataclass(made) else ()
    return {one.name: one.metadata["key"] for one in known if "key" in one.metadata}


class Part:
    """What every part of a base graph has."""

    called: ClassVar[str] = "part"
    """What one of its kind is called in an error."""

    def __post_init__(self) -> None:
        """Read what is declared; checks that concern several keys come after it."""
        keys = settings_of(self)
        where = f"{self.called} {getattr(self, 'name', type(self).__name__)!r}: "
        given = {key: getattr(self, key) for key in keys}
        for key, value in read_keys(where, keys, given, also=(), error=GraphError).items():
            object.__setattr__(self, key, value)

    def options(self) -> dict[str, Any]:
        """Its keys that are not at their defaults, nor told by its name."""
        if not is_dataclass(self):
            return {}
        keys = self.keys()
        return {
            one.name: keys[one.name]
            for one in fields(self)
            if "told" not in one.metadata and keys[one.name] != one.default
        }

    def keys(self) -> dict[str, Any]:
        """All its keys, numbers in one canonical form."""
        known = fields(self) if is_dataclass(self) else ()
        return {one.name: declared(getattr(self, one.name), one.type) for one in known}


def declared(value: Any, kind: Any) -> Any:
    """A number as its field's type has it, so that 1, 1.0 and 1e0 are one value; whatever else, as it is."""
    kinds = get_args(kind) or (kind,)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return value
    if float in kinds:
        return float(value) + 0.0  # Adding makes -0.0 a zero like any other.
    return int(value) if int in kinds and value == int(value) else value


def make(
    key: str, parts: Registry[Callable[..., P]], kind: type[P], name: object, options: Mapping[str, Any]
) -> tuple[P, Origin | None]:
    """Make a part from its name and the keys of a configuration.

    Args:
        key: what to call it in an error.
        parts: the registry of its kind.
        kind: what its factory must make.
        name: of the part.
        options: its own keys.

    Returns:
        The part, and where it comes from if it is a user's.

    Raises:
        GraphError: an unknown name or key, a missing key, a factory that fails or makes something else.
        RslError: as the factory raises it.
    """
    factory, what = parts.find(name, key), f"{key} {name!r}"
    try:
        accepted = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise GraphError(f"{what}: {first_line(error)}; name a class or a function that makes one") from error
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    for option in options:
        if option not in accepted and not free:
            raise GraphError(
                one_of(f"key of {what}", option, accepted) if accepted else f"{what} has no key {option!r}"
            )
    for option, parameter in accepted.items():
        if parameter.default is parameter.empty and parameter.kind <= 1 and option not in options:
            made_by = "" if isinstance(factory, type) or is_ours(factory) else f", or name a rsl_cli.{kind.__name__}"
            raise GraphError(f"{what}: {option} is missing; add it, e.g. {option}: 8{made_by}")
    try:
        made = factory(**options)
    except RslError:
        raise
    except RAISED as error:
        raise GraphError(f"{what}: fails with {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(made, kind):
        raise GraphError(f"{what}: makes a {type(made).__name__}; accepted: a subclass of rsl_cli.{kind.__name__}")
    origin = parts.origin(str(name), options)
    if origin is not None:
        check_claims(made, kind, what, GraphError)
    return made, origin
