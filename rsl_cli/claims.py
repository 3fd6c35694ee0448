"""What a part says of itself, held against what its base declares: attributes, properties and answers of methods.

One place for parts of every kind, so that a wrong type is refused by name, wherever it would have failed or told.
"""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from rsl_cli.errors import RAISED, ConfigError, RslError, first_line
from rsl_cli.keys import shorten


def check_claims(part: object, base: type, what: str, error: type[RslError] = ConfigError) -> None:
    """Hold all that a base declares against what a part has there.

    Args:
        part: of a class below the base, or such a class itself, whose properties are not asked then.
        base: whose annotations, properties and methods say what is accepted.
        what: what to call the part in an error.
        error: what is raised.

    Raises:
        RslError: of that class: an attribute of another type, one that cannot be had, or a method that is none.
    """
    attributes, properties, methods = _declared(base)
    is_class = isinstance(part, type)
    for name, hint in (attributes if is_class else attributes | properties).items():
        check_answer(name, _asked(part, name, what, error), hint, what, error)
    for name in methods:
        method = _asked(part, name, what, error)
        if not callable(method):
            raise error(f"{what}: {name}={shorten(method)}; accepted: a method")
    for name, hint in methods.items():
        if hint is not None and not is_class:
            check_answer(name, _asked(part, name, what, error, ()), hint, what, error)


def check_method(part: object, base: type, name: str, *arguments: object, what: str) -> None:
    """Call a method, and hold its answer against what a base declares.

    Args:
        part: of a class below the base.
        base: whose method says what is accepted.
        name: of the method.
        arguments: what it is called with.
        what: what to call the part in an error.

    Raises:
        ConfigError: it fails, or gives something else.
    """
    check_answer(name, _asked(part, name, what, ConfigError, arguments), getattr(base, name), what)


def _asked(
    part: object, name: str, what: str, error: type[RslError], arguments: tuple[object, ...] | None = None
) -> Any:
    """An attribute, or the answer of a method."""
    try:
        found = getattr(part, name)
        return found if arguments is None else found(*arguments)
    except RslError:
        raise
    except RAISED as failed:
        raise error(f"{what}: {name} fails with {type(failed).__name__}: {first_line(failed)}") from failed


def check_answer(name: str, value: object, hint: Any, what: str, error: type[RslError] = ConfigError) -> None:
    """Hold a value against its declared type.

    Args:
        name: of the attribute or the method.
        value: what it is, or gives.
        hint: the declared type; of a method itself, that of its answer.
        what: what to call the part in an error.
        error: what is raised.

    Raises:
        RslError: of that class: the value is of another type.
    """
    hint = _answer(hint) if inspect.isroutine(hint) else hint
    if not _fits(value, hint):
        raise error(f"{what}: {name}={shorten(value)}; accepted: {_shown(hint)}")


@cache
def _declared(base: type) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a base and those above it declare.

    Returns:
        Attributes and properties by name, with their types; and methods, with that of the answer of one that takes
        nothing, and None for all others.
    """
    hints = {
        name: get_args(hint)[0] if get_origin(hint) is ClassVar else hint for name, hint in get_type_hints(base).items()
    }
    properties, methods = {}, {}
    for cls in reversed(base.__mro__[:-1]):
        for name, value in vars(cls).items():
            function = getattr(value, "__func__", getattr(value, "fget", None) or getattr(value, "func", value))
            if not inspect.isfunction(function) or (name.startswith("_") and name != "__call__"):
                continue
            if function is value or function is getattr(value, "__func__", None):
                alone = len(inspect.signature(function).parameters) == 1
                methods[name] = _answer(function) if alone else None
            else:
                properties[name] = _answer(function)
    public = {name: hint for name, hint in hints.items() if not name.startswith("_") and name not in properties}
    return public, properties, methods


def _answer(function: Callable[..., Any]) -> Any:
    answer = get_type_hints(function)["return"]
    return None if answer is type(None) else answer


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return False
        each = [inner[0]] * len(value) if inner[1:] == (...,) else list(inner)
        return len(each) == len(value) and all(map(_fits, value, each))
    if origin is Callable:
        return callable(value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint is bool:
        return isinstance(value, bool | np.bool_)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _shown(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(map(_shown, get_args(hint)))
    if get_origin(hint) is Literal:
        return " | ".join(map(repr, get_args(hint)))
    return "None" if hint is type(None) else inspect.formatannotation(hint).replace("typing.", "")
