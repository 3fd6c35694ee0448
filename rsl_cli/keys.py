"""Keys of a configuration as data: the one declaration of whatever can be set, and the readers of values.

Trainers, datasets, liftings, executors, probes, vertices, edges and studies declare theirs: type, range, default, what
it means, and whether it belongs to what a run is. Checks, identities and the reference are derived from that; the files
of ``conf/`` say the same, which a test holds.
"""

import math
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from rsl_cli.errors import ConfigError, RslError, nearest, one_of

Written = Literal["text", "list", "sweep"]
Identity = Literal["always", "changed", "horizon", "never"]
"""Whether a key is part of what a run is: always; only away from its default, being younger than studies that are to
keep their results; not, saying how far a run is carried; or never, since no number depends on it."""


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Args:
        default: its value where it is left out, as a file has it.
        accepted: what it takes, in words.
        example: a value that it takes, as it is written; empty where ``accepted`` shows it.
        read: from a value to its one canonical form, so that equal settings have equal identities; raises ValueError
            for anything else, whose text is a hint to add, or empty.
        help: a line on what it means.
        identity: whether it belongs to a run's identity.
        text: whether a command line means its value to the letter: ``text``, or ``list`` for several; ``sweep`` if it
            has a grammar of its own.
    """

    default: Any
    accepted: str
    example: str
    read: Callable[[Any], Any]
    help: str = ""
    identity: Identity = "always"
    text: Written | None = None

    def about(self, text: str) -> "Key":
        """The same key, with a line on what it means."""
        return replace(self, help=text)

    def of(self, identity: Identity) -> "Key":
        """The same key, of another part in a run's identity."""
        return replace(self, identity=identity)

    def written(self, text: Written) -> "Key":
        """The same key, read by a command line as said."""
        return replace(self, text=text)


Keys = Mapping[str, Key]
"""Declared keys by name, in the order in which they are shown."""


def read_keys(
    where: str,
    keys: Keys,
    config: Mapping[str, Any],
    also: Iterable[str] = ("name",),
    error: type[RslError] = ConfigError,
) -> dict[str, Any]:
    """Check a configuration and fill in its defaults.

    Args:
        where: what it configures, before every key: ``trainer.``, ``vertex h: ``; empty for a study's own.
        keys: the declaration.
        config: keys and values.
        also: keys that it may have beside them, which are left out.
        error: what is raised.

    Returns:
        Every declared key, in the order of the declaration, each value in its one canonical form.

    Raises:
        RslError: of that class: an unknown key, or a value out of range, as ``where`` and the key.
    """
    for key in config:
        if key not in keys and key not in also:
            raise error(one_of(f"{where.removesuffix('.') + ' ' * where.endswith('.')}key", key, [*also, *keys]))
    settings = {}
    for key, spec in keys.items():
        value = config.get(key, spec.default)
        try:
            settings[key] = spec.read(value)
        except ValueError as hint:
            got = " is not set" if value is None else f"={shorten(value)}"
            example = f"; e.g. {where}{key}={spec.example}" if spec.example else ""
            raise error(f"{where}{key}{got}; accepted: {spec.accepted}{example}{hint}") from None
    return settings


def identity_of(keys: Keys, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of settings belongs to a run's identity: a key that came later is left unsaid at its default.

    Args:
        keys: the declaration.
        settings: values by key, as read; keys that are not declared are left out.

    Returns:
        Values by key, in the order of the declaration.
    """
    return {
        key: settings[key]
        for key, spec in keys.items()
        if key in settings
        and (spec.identity == "always" or (spec.identity == "changed" and settings[key] != spec.read(spec.default)))
    }


def horizon_of(keys: Keys) -> tuple[str, ...]:
    """The keys that say how far a run is carried."""
    return tuple(key for key, spec in keys.items() if spec.identity == "horizon")


def shorten(value: object) -> str:
    """Return a value's text on one line, cut in the middle where it is long."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 120
    return " ".join(shown.repr(value).split())


def whole(default: int | None, least: int, most: int = sys.maxsize) -> Key:
    """A whole number from ``least`` to ``most``; 2.0 is one."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral | float):
            raise ValueError
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
        number = int(value)
        if number != value or not least <= number <= most:
            raise ValueError
        return number

    accepted = f"a whole number from {least}" + (f" to {most}" if most < sys.maxsize else "")
    return Key(default, accepted, "", read)


def real(
    default: float | None,
    least: float,
    most: float = sys.float_info.max,
    *,
    above: bool = False,
    below: bool = False,
) -> Key:
    """A number from ``least``, or ``above`` it, to ``most``, or ``below`` it."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError
        try:
            number = float(value) + 0.0  # Adding makes -0.0 a zero like any other.
        except OverflowError:
            raise ValueError from None
        if not least <= number <= most or (above and number == least) or (below and number == most):
            raise ValueError
        return number

    accepted = f"a number above {least:g}" if above else f"a number from {least:g}"
    if most < sys.float_info.max:
        accepted += ("," if above and not below else "") + f" {'to below' if below else 'to'} {most:g}"
    return Key(default, accepted, "", read)


def flag(default: bool) -> Key:
    """True or false, not a word or a number that stands for it."""

    def read(value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise ValueError
        return bool(value)

    return Key(default, "true or false", "", read)


def choice(default: str, *options: str) -> Key:
    """One word of a closed set."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in options:
            raise ValueError(nearest(value, options) if isinstance(value, str) else "")
        return value

    return Key(default, ", ".join(options[:-1]) + f" or {options[-1]}", "", read)


def nullable(key: Key, means: str = "", *, default: Any = None) -> Key:
    """The same key, which may be null, and is by default."""
    return replace(
        key,
        default=default,
        accepted=f"null{f' for {means},' if means else ''} or {key.accepted}",
        read=lambda value: None if value is None else key.read(value),
    )


def kept(default: Any, accepted: str, example: str, check: Callable[[Any], object] = lambda value: None) -> Key:
    """A value that stays as it was written, once checked by what knows it, in words of its own."""

    def read(value: Any) -> Any:
        check(value)
        return value

    return Key(default, accepted, example, read)
