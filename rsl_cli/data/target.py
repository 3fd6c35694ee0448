"""Datasets that a function of the user's own returns."""

import hashlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from rsl_cli.claims import check_claims
from rsl_cli.data.dataset import Column, Dataset, Reading
from rsl_cli.data.files import LEAST_ROWS, check_kind, encode_target, to_numbers
from rsl_cli.data.keys import DatasetBuilder, DatasetSettings, Teacher, shaped
from rsl_cli.errors import RAISED, DataError, RslError, first_line
from rsl_cli.keys import Key, choice
from rsl_cli.registry import Registry, plain_arguments

DATASETS: Registry[Any] = Registry("dataset.name")
"""Every dataset by name: a `DatasetBuilder`, or a user's function."""

_ACCEPTED = "x_train, y_train, x_test, y_test or a rsl_cli.Dataset"


def check_dataset(function: Callable[..., Any], **arguments: Any) -> Dataset:
    """The contract of a function that returns a dataset: arrays that fit each other, the same at every call.

    Args:
        function: the function.
        arguments: what it is called with.

    Returns:
        The dataset.

    Raises:
        DataError: what it breaks, in one line.
    """
    return _checked(function, getattr(function, "__qualname__", type(function).__name__), arguments, "auto")


def arrays_digest(dataset: Dataset) -> str:
    """SHA-256 of the arrays of a dataset, in hexadecimal."""
    digest = hashlib.sha256(dataset.task.encode())
    for array in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _checked(function: Callable[..., Any], name: str, arguments: DatasetSettings, task: str) -> Dataset:
    first, second = (_called(function, name, arguments, task) for _ in range(2))
    if arrays_digest(first) != arrays_digest(second):
        raise DataError(f"dataset {name}: gives other numbers when called again; draw from a generator with a seed")
    try:
        pickle.dumps(first.first(1))  # As worker processes are sent it.
    except RAISED as error:
        raise DataError(
            f"dataset {name}: no worker process can be sent it, {type(error).__name__}: {first_line(error)}; accepted: "
            f"{_ACCEPTED} of plain values"
        ) from error
    return first


def _called(function: Callable[..., Any], name: str, arguments: DatasetSettings, task: str) -> Dataset:
    where = f"dataset {name}"
    try:
        made = function(**arguments)
        parts = [] if isinstance(made, Dataset) else [_arrays(part) for part in made]
    except RslError:
        raise
    except RAISED as error:
        raise DataError(f"{where}: fails with {type(error).__name__}: {first_line(error)}") from error
    if isinstance(made, Dataset):
        check_claims(made, Dataset, where, DataError)
        if made.witness_degree is not None and made.witness_degree < 1:
            raise DataError(f"{where}: witness_degree={made.witness_degree}; accepted: None or a lift degree from 1")
        return made
    if len(parts) != 4 or any(part.ndim == 0 for part, _ in parts):
        shown = ", ".join(f"{part.dtype} {part.shape}" for part, _ in parts[:5])
        raise DataError(f"{where}: gives {len(parts)} parts ({shown}); accepted: {_ACCEPTED}")
    (x_train, columns), (y_train, targets), (x_test, others), (y_test, _) = parts
    for part, x, y in (("training", x_train, y_train), ("held-out", x_test, y_test)):
        if len(x) != len(y) or len(x) < LEAST_ROWS:
            raise DataError(
                f"{where}: {len(x)} {part} inputs and {len(y)} targets; as many of each, at least {LEAST_ROWS}"
            )
        check_kind(x, f"{where}: inputs")
        check_kind(y, f"{where}: targets")
    if columns != others:
        raise DataError(f"{where}: training columns {list(columns)} and held-out ones {list(others)} do not match")
    if y_train.shape[1:] != y_test.shape[1:]:
        raise DataError(f"{where}: training targets {y_train.shape} and held-out ones {y_test.shape} do not match")
    # Together, so that classes have the same numbers in both.
    values = np.concatenate([y_train, y_test])
    kind, y, outputs, classes = encode_target(values, task, f"{where}: targets")
    inputs = (to_numbers(x, f"{where}: inputs", "give numbers") for x in (x_train, x_test))
    x_train, x_test = (x[:, None] if x.ndim == 1 else x for x in inputs)
    reading = Reading(
        columns=tuple(map(Column, columns)),
        shape=x_train.shape[1:],
        target=targets,
        classes=tuple(np.unique(values).tolist()) if classes else (),
    )
    train = len(x_train)
    return Dataset(name, kind, x_train, y[:train], x_test, y[train:], outputs, reading=reading)


def _arrays(part: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """An array, text as objects, and the names of its columns where it is a data frame."""
    array = np.asarray(part)
    if array.dtype == object and not any(isinstance(cell, str) for cell in array.ravel()):
        array = np.array(array.tolist())  # Columns of numbers and of booleans.
    names = tuple(map(str, getattr(part, "columns", ()))) if array.ndim == 2 else ()
    return array.astype(object) if array.dtype.kind == "U" else array, names


def _build(settings: DatasetSettings, teacher: Teacher | None) -> Dataset:
    function = DATASETS.find(settings["target"], "dataset.target")
    if not callable(function):
        raise DataError(f"dataset.target={settings['target']}: is no function; accepted: one that returns {_ACCEPTED}")
    return _checked(function, settings["target"], settings["arguments"] or {}, settings["task"])


def _content(settings: DatasetSettings) -> DatasetSettings:
    origin = DATASETS.origin(settings["target"], settings["arguments"] or {})
    return {**settings, **({} if origin is None else origin.identity())}


def _read_target(value: Any) -> str:
    if not isinstance(value, str) or ("." not in value.strip(".") and value not in DATASETS):
        raise ValueError
    return value


def _read_arguments(value: Any) -> DatasetSettings | None:
    return None if value is None else plain_arguments("dataset.arguments", value)


BUILDERS: dict[str, DatasetBuilder] = {
    "target": DatasetBuilder(
        {
            "target": Key(None, f"package.function that returns {_ACCEPTED}", "mine.load", _read_target).about(
                "needed: package.function, imported from the current folder or from where Python looks"
            ),
            "arguments": Key(None, "null or a mapping", "{n: 100}", _read_arguments).about(
                "by keyword, e.g. {n: 1000}; null: none"
            ),
            "task": choice("auto", "auto", "regression", "classification").about(
                "auto, regression or classification; auto: text, booleans and integers of few values are classes"
            ),
            **shaped("own"),
        },
        _build,
        content=_content,
        own_shape="own",
        by_arrays=True,
        label=lambda settings: settings["target"],
    )
}
