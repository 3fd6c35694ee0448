"""What a dataset is declared as, and the keys that only datasets have. It knows no particular dataset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from os import PathLike, fspath
from typing import Any

import numpy as np

from rsl_cli.data.dataset import Dataset
from rsl_cli.keys import Key, Keys, choice, whole

DatasetSettings = dict[str, Any]
"""All keys of one dataset, each checked and present."""

Teacher = Callable[[Mapping[str, Any]], Callable[[np.ndarray], np.ndarray]]
"""From the settings of dataset ``teacher`` to its function: (N, inputs) -> (N, outputs)."""

MOST_SAMPLES = 10**9
"""Counts above it are slips of the keyboard, not studies."""


@dataclass(frozen=True)
class DatasetBuilder:
    """One dataset: its keys beside ``name``, how to build it, and what its keys must satisfy together."""

    keys: Keys
    build: Callable[[DatasetSettings, Teacher | None], Dataset]
    check: Callable[[DatasetSettings], None] = lambda settings: None
    content: Callable[[DatasetSettings], DatasetSettings] = lambda settings: settings
    """From settings to those that name what is read by its content, whatever its place."""
    as_read: Callable[[DatasetSettings, Dataset], DatasetSettings] | None = None
    """Settings to those that say how a file's numbers were read, where the file itself tells; None: none does."""
    by_arrays: bool = False
    """Whether the numbers themselves belong to the identity, what makes them being unknown."""
    own_shape: str | None = None
    """What ``shape`` is called where inputs are not flattened, e.g. ``image``; None for a dataset without that key."""
    planted: bool = False
    """Whether a network that is a lift of the study's own base graph makes the targets."""
    label: Callable[[DatasetSettings], str] = lambda settings: settings["name"]
    """What studies of it are told apart by."""
    inputs: Callable[[DatasetSettings], int] | None = None
    """Numbers of a sample's input, where ``samples`` and ``test_samples`` are drawn; None: they are read."""


def shaped(own_shape: str) -> dict[str, Key]:
    """The key of a dataset whose inputs have more than one axis; ``auto`` leaves the choice to what reads them."""
    meaning = f"flat: one vector; {own_shape}: as it is; auto: flat if the base graph reads vectors only"
    return {"shape": choice("auto", "auto", "flat", own_shape).about(meaning)}


def told(keys: Keys, **meanings: str) -> dict[str, Key]:
    """The same keys, some of them meaning something narrower."""
    return {key: spec.about(meanings.get(key, spec.help)) for key, spec in keys.items()}


def count(default: int, low: int = 1) -> Key:
    """How many of something there are to draw."""
    return whole(default, low, MOST_SAMPLES)


def seed() -> Key:
    """The seed of the data; 0 is a seed like any other."""
    return whole(0, 0, 2**128).about("of the data alone; runs have their own seeds")


def path(example: str, what: str = "a file") -> Key:
    """A file, or what else lies on disk, that the user must name; it may start with ``~``."""

    def read(value: Any) -> str:
        if not isinstance(value, (str, PathLike)) or not fspath(value):
            raise ValueError("")
        return str(fspath(value))

    return Key(None, f"the path of {what}", example, read, text="text")


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
