"""The keys that a dataset accepts, as data, and the one reader of them all.

A dataset declares its keys with their defaults and ranges; nothing else in the package checks a dataset's
configuration. It knows no particular dataset.
"""

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any, Literal

import numpy as np

from rsl_cli.data.dataset import Dataset
from rsl_cli.errors import ConfigError, nearest

Settings = dict[str, Any]
"""All keys of one dataset, each checked and present."""

Teacher = Callable[[Mapping[str, Any]], Callable[[np.ndarray], np.ndarray]]
"""From the settings of dataset ``teacher`` to its function: (N, inputs) -> (N, outputs)."""

MOST_SAMPLES = 10**9
"""Counts above it are slips of the keyboard, not studies."""


@dataclass(frozen=True)
class Key:
    """One key: its default, what it accepts in words, an example value, and the reader.

    The reader returns the value in its one canonical type, so that equal settings have equal identities, and raises
    ``ValueError`` for anything else; its text is a hint to add, or empty.

    ``text`` says that a command line means its value to the letter: ``text``, or ``list`` for several. A key that is
    not ``said`` is left out of a dataset's identity at its default: it came when there were studies without it.
    """

    default: Any
    accepted: str
    example: str
    read: Callable[[Any], Any]
    text: Literal["text", "list"] | None = None
    said: bool = True


@dataclass(frozen=True)
class Leaf:
    """One dataset: its keys beside ``name``, how to build it, and what its keys must satisfy together."""

    keys: Mapping[str, Key]
    build: Callable[[Settings, Teacher | None], Dataset]
    check: Callable[[Settings], None] = lambda settings: None
    content: Callable[[Settings], Settings] = lambda settings: settings
    """From settings to those that name what is read by its content, whatever its place."""
    by_arrays: bool = False
    """Whether the numbers themselves belong to the identity, what makes them being unknown."""
    own_shape: str | None = None
    """What ``shape`` is called where inputs are not flattened, e.g. ``image``; None for a dataset without that key."""


def shaped(own_shape: str) -> dict[str, Key]:
    """The key of a dataset whose inputs have more than one axis; ``auto`` leaves the choice to what reads them."""
    return {"shape": choice("auto", "auto", "flat", own_shape)}


def resolve(name: str, leaf: Leaf, config: Mapping[str, Any], *, flat: bool = False) -> Settings:
    """Check a dataset's configuration and fill in its defaults.

    Args:
        name: the dataset.
        leaf: its declaration.
        config: keys and values; ``name`` may be among them.
        flat: whether ``shape: auto`` is flat.

    Returns:
        ``name`` and every key of the dataset, in the order of the declaration.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, or keys that contradict each other.
    """
    for key in config:
        if key != "name" and key not in leaf.keys:
            accepted = ", ".join(["name", *leaf.keys])
            raise ConfigError(
                f"dataset.{key} is not a key of dataset '{name}'; accepted: {accepted}{nearest(str(key), leaf.keys)}"
            )
    settings: Settings = {"name": name}
    for key, spec in leaf.keys.items():
        value = config.get(key, spec.default)
        try:
            settings[key] = spec.read(value)
        except ValueError as hint:
            got = "not set" if value is None else f"{shorten(value)} ({type(value).__name__})"
            raise ConfigError(
                f"dataset.{key} is {got}; accepted: {spec.accepted}; e.g. dataset.{key}={spec.example}{hint}"
            ) from None
    if settings.get("shape") == "auto":
        settings["shape"] = "flat" if flat else leaf.own_shape
    leaf.check(settings)
    return settings


def shorten(value: object) -> str:
    """Return a value's text on one line, cut in the middle where it is long."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 120
    return " ".join(shown.repr(value).split())


def integer(default: int, low: int, high: int | None = None) -> Key:
    """An integer of any integral type, ``low`` to ``high`` included."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError("")
        number = int(value)
        if number < low or (high is not None and number > high):
            raise ValueError("")
        return number

    accepted = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    return Key(default, accepted, str(default), read)


def count(default: int, low: int = 1) -> Key:
    """How many of something there are to draw."""
    return integer(default, low, MOST_SAMPLES)


def seed() -> Key:
    """The seed of the data; 0 is a seed like any other."""
    return integer(0, 0)


def real(default: float, low: float, high: float = math.inf, *, inside: bool = False) -> Key:
    """A finite number from ``low`` to ``high``, both excluded where ``inside``."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError("")
        try:
            number = float(value)
        except OverflowError:
            raise ValueError("") from None
        if not math.isfinite(number) or not (low < number < high if inside else low <= number <= high):
            raise ValueError("")
        return number

    if inside:
        accepted = f"a number above {low}" + ("" if high == math.inf else f" and below {high}")
    else:
        accepted = f"a number >= {low}" if high == math.inf else f"a number from {low} to {high}"
    return Key(default, accepted, str(default), read)


def flag(default: bool) -> Key:
    """True or false, not a word or a number that stands for it."""

    def read(value: Any) -> bool:
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError("")
        return bool(value)

    return Key(default, "true or false", str(default).lower(), read)


def choice(default: str, *options: str) -> Key:
    """One word of a closed set."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in options:
            raise ValueError(nearest(value, options) if isinstance(value, str) else "")
        return value

    return Key(default, ", ".join(options[:-1]) + f" or {options[-1]}", default, read)


def path(example: str, what: str = "a file") -> Key:
    """A file, or what else lies on disk, that the user must name; it may start with ``~``."""

    def read(value: Any) -> str:
        if not isinstance(value, (str, PathLike)) or not fspath(value):
            raise ValueError("")
        return str(fspath(value))

    return Key(None, f"the path of {what}", example, read, text="text")


def optional(key: Key, meaning: str) -> Key:
    """The same key, null by default."""
    return replace(
        key,
        default=None,
        accepted=f"null for {meaning}, or {key.accepted}",
        read=lambda value: None if value is None else key.read(value),
    )


def added(key: Key) -> Key:
    """The same key, unsaid at its default: of a dataset that had identities before it."""
    return replace(key, said=False)


def name(default: str | None, what: str, example: str) -> Key:
    """A name inside a file; a number is taken as its digits, since ``target=3`` cannot be told from a column '3'."""
    return Key(default, what, example, _read_name, text="text")


def names(what: str, example: str) -> Key:
    """Some names inside a file, or null for all that are left."""

    def read(value: Any) -> list[str] | None:
        if value is None:
            return None
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise ValueError("")
        return [_read_name(item) for item in value]

    return Key(None, f"null for {what}, or a list that is not empty", example, read, text="list")


def _read_name(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, Integral)) or value == "":
        raise ValueError("")
    return str(value)
