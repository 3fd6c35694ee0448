"""Datasets in the user's own files: which arrays, of what kind, and what makes them unfit to learn from.

How the bytes of each format become arrays is in ``formats``; this module refuses by name and row whatever a loss
could not be computed on, because a silent repair would change the study without a word.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsl_cli.data.cells import is_missing, is_number, mostly
from rsl_cli.data.dataset import Dataset, Reading, Task
from rsl_cli.data.formats import read_npz
from rsl_cli.data.holdout import KEYS, STANDARD, hold_out
from rsl_cli.data.keys import DatasetBuilder, DatasetSettings, Teacher, name, path, told
from rsl_cli.errors import DataError, nearest
from rsl_cli.keys import choice, shorten

MOST_CLASSES = 20
"""With ``task: auto``, integers of at most so many distinct values are classes."""

LEAST_ROWS = 8
"""Fewer rows hold nothing out that could tell one network from another."""

_MOST_LISTED = 8

REMEDIES = {
    "number": "encode it as a number",
    "marked": "encode it as a number",
    "amount": "it has a unit: write the number alone",
    "date": "it is a date: put a number of yours in its place, such as days since a first one",
}
"""What is to be done about a column of text that is mostly of a kind."""

TASK = choice("auto", "auto", "regression", "classification").about("auto, regression or classification")


def read_bytes(path: str) -> bytes:
    """Return the bytes of a dataset's file.

    Args:
        path: of a regular file; ``~`` is the user's home.

    Raises:
        DataError: it is not there, is not a file, is empty or cannot be read.
    """
    try:
        file = Path(path).expanduser()
        if not file.exists():
            siblings = [other.name for other in file.parent.iterdir()] if file.parent.is_dir() else []
            raise DataError(
                f"dataset.path {path!r} is not there (looked at {str(file.absolute())!r})"
                f"{nearest(file.name, siblings) or '; give the path of an existing file'}"
            )
        if not file.is_file():
            kind = "a directory" if file.is_dir() else "not a regular file"
            raise DataError(f"dataset.path {path!r} is {kind}; give the path of the file itself")
        content = file.read_bytes()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"dataset.path {path!r} cannot be read: {error}; give the path of a readable file") from None
    if not content:
        raise DataError(f"dataset.path {path!r} is an empty file; give one that holds data")
    return content


def by_content(settings: DatasetSettings) -> DatasetSettings:
    """Put the SHA-256 of a file's bytes, in hexadecimal, in the place of its path."""
    return {**settings, "path": hashlib.sha256(read_bytes(settings["path"])).hexdigest()}


def encode_target(
    values: np.ndarray, task: str, where: str, rows: np.ndarray | None = None
) -> tuple[Task, np.ndarray, int, list[str]]:
    """Turn the values of a target into what its task learns from.

    ``auto`` takes text and booleans as classes, integers as classes if they have at most :data:`MOST_CLASSES`
    distinct values, and all else as numbers to regress on; a target of several columns is always regression.

    Args:
        values: (N,) or (N, k), of booleans, integers, floats or, as objects, text.
        task: ``"auto"``, ``"regression"`` or ``"classification"``.
        where: names the values in an error.
        rows: (N,), which rows of the user's these are, from 0; None: all of them.

    Returns:
        The task; float64 (N, outputs) or int64 (N,), the index of each value among the sorted distinct ones; the
        outputs or number of classes; the names of the classes.

    Raises:
        DataError: values missing, infinite or of the wrong kind for the task, or classes too few or too rare.
    """
    check_kind(values, where)
    kind = mostly(values.ravel().tolist()) if task != "classification" and values.dtype == object else None
    if kind in ("amount", "date") or (kind and task == "auto" and len(np.unique(values)) > MOST_CLASSES):
        remedy = f"{REMEDIES[kind]}, or choose dataset.task=classification to take each for a class, or another target"
        to_numbers(values, where, remedy, rows)
    if task == "auto":
        task = "classification" if _looks_like_classes(values) else "regression"
    if task == "regression":
        y = to_numbers(values, where, "choose dataset.task=classification, or another target", rows)
        if (y == y[0]).all():
            raise DataError(f"{where} has the same value in every row, so there is nothing to learn; choose another")
        y = y.reshape(len(y), -1)
        return "regression", y, y.shape[1], []
    if values.ndim > 1:
        raise DataError(f"{where} has shape {values.shape}; classification needs one class per row: shape (N,)")
    if values.dtype.kind == "f":
        check_finite(values, where, rows)
        broken = np.flatnonzero(values != np.floor(values))
        if len(broken):
            raise DataError(
                f"{where}, row {_row(broken[0], rows)}: {values[broken[0]]} is not a class; "
                "use integers, booleans or text, or dataset.task=regression"
            )
    classes, y, sizes = np.unique(values, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise DataError(f"{where} holds the single class {classes[0]!s}; classification needs two or more")
    if sizes.min() < 2:
        rare = int(sizes.argmin())
        raise DataError(
            f"{where}, row {_row(int(np.argmax(y == rare)), rows)}: class {str(classes[rare])!r} is in this row only; "
            "each class needs two or more; leave it out, or choose another target or dataset.task=regression"
        )
    return "classification", y.astype(np.int64), len(classes), [str(label) for label in classes]


def class_sizes(target: str, classes: Sequence[str], y: np.ndarray) -> str:
    """A note on the classes (labels and how many rows each has)."""
    sizes = np.bincount(y, minlength=len(classes)).tolist()
    return f"classes of {target!r}: {listed([f'{label} {size}' for label, size in zip(classes, sizes, strict=True)])}"


def listed(words: Sequence[str]) -> str:
    """The first words, and how many more there are."""
    more = f" and {len(words) - _MOST_LISTED} more" if len(words) > _MOST_LISTED else ""
    return ", ".join(words[:_MOST_LISTED]) + more


def to_numbers(values: np.ndarray, where: str, remedy: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Return values as finite float64 in C order, booleans as 0 and 1.

    Args:
        values: booleans, integers, floats or, as objects, text; rows first.
        where: names the values in an error.
        remedy: what to do about text.
        rows: as for :func:`encode_target`.

    Raises:
        DataError: text, a missing value, an infinity, or values of another kind, such as complex numbers, whose
            imaginary part would be lost; the error names the first row, from 1.
    """
    check_kind(values, where)
    if values.dtype == object:
        cells = values.reshape(len(values), -1)
        row, text = next(
            ((row, text) for row, texts in enumerate(cells) for text in texts if not is_number(text)), (0, cells[0, 0])
        )
        raise DataError(f"{where}, row {_row(row, rows)}: {shorten(text)} is text, not a number; {remedy}")
    with np.errstate(over="ignore"):
        numbers = np.array(values, dtype=np.float64, order="C")
    check_finite(numbers, where, rows)
    return numbers


def check_kind(values: np.ndarray, where: str) -> None:
    """Refuse what is neither a number, nor a boolean, nor text as objects.

    Raises:
        DataError: values of another kind, such as complex numbers or dates.
    """
    odd = [cell for cell in values.ravel() if not isinstance(cell, str)] if values.dtype == object else []
    if odd or values.dtype.kind not in "biufO":
        kind = type(odd[0]).__name__ if odd else values.dtype
        raise DataError(f"{where}: values of type {kind}; accepted: integers, floats, booleans or text")


def check_finite(values: np.ndarray, where: str, rows: np.ndarray | None = None) -> None:
    """Refuse missing and infinite values.

    Args:
        values: floats; rows first.
        where: names the values in the error.
        rows: as for :func:`encode_target`.

    Raises:
        DataError: it names the first row that is concerned, from 1.
    """
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    row, *entry = (int(i) for i in np.argwhere(bad)[0])
    value = values[(row, *entry)]
    place = f"{where}, row {_row(row, rows)}" + (f", entry {entry}" if entry else "")
    problem = "missing (nan)" if np.isnan(value) else f"infinite ({value})"
    raise DataError(f"{place} is {problem}; mend or drop the row (data rows count from 1)")


def _row(row: int, rows: np.ndarray | None) -> int:
    """A row's number for people, from 1."""
    return 1 + int(row if rows is None else rows[row])


def _looks_like_classes(values: np.ndarray) -> bool:
    if values.ndim > 1 or values.dtype.kind == "f":
        return False
    return values.dtype.kind in "Ob" or len(np.unique(values)) <= MOST_CLASSES


def shown_path(path: str) -> str:
    """A path on one line."""
    return path if path.isprintable() else repr(path)


def check_rows(rows: int, source: str) -> None:
    """Refuse too few rows.

    Raises:
        DataError: fewer than :data:`LEAST_ROWS`.
    """
    if rows < LEAST_ROWS:
        raise DataError(f"{source} holds {rows} data rows; at least {LEAST_ROWS} are needed; give a longer file")


def _from_npz(settings: DatasetSettings, teacher: Teacher | None) -> Dataset:
    source = shown_path(settings["path"])
    content = read_bytes(settings["path"])
    keys = ("inputs", "target")
    x, y = read_npz(content, source, {f"dataset.{key}": settings[key] for key in keys})
    place_x, place_y = (f"{source}: array {settings[key]!r}" for key in keys)
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise DataError(f"{place_x} has shape {x.shape}; expected (N, features) or (N, channels, height, width)")
    if y.ndim not in (1, 2) or 0 in y.shape[1:]:
        raise DataError(f"{place_y} has shape {y.shape}; expected (N,) or (N, outputs)")
    if len(x) != len(y):
        raise DataError(f"{place_x} has {len(x)} rows and {place_y} has {len(y)}; they must be as long as each other")
    check_rows(len(x), source)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    values = y
    marked = [row for row, cell in enumerate(y, start=1) if y.dtype == object and y.ndim == 1 and is_missing(cell)]
    if marked:
        raise DataError(
            f"{place_y}, row {marked[0]}: {y[marked[0] - 1]!r} stands for a missing value, in {len(marked)} rows; "
            "leave them out"
        )
    task, y, outputs, classes = encode_target(values, settings["task"], place_y)
    labels = np.unique(values).tolist() if classes else ()
    return hold_out(
        to_numbers(x, place_x, "encode it as numbers"),
        y,
        task=task,
        outputs=outputs,
        settings=settings,
        feature=lambda j: f"{place_x}, entry {[int(i) for i in np.unravel_index(j, x.shape[1:])]}",
        label=lambda j: f"{place_y}, " + (f"class {classes[j]!r}" if classes else f"output {j}"),
        reading=Reading(target=(settings["target"],), classes=tuple(labels)),
        notes=(class_sizes(settings["target"], classes, y),) if classes else (),
    )


BUILDERS: dict[str, DatasetBuilder] = {
    "npz": DatasetBuilder(
        {
            "path": path("data/images.npz").about("needed, e.g. dataset.path=data/images.npz"),
            "inputs": name("x", "the name of an array", "x").about("name of the array of inputs"),
            "target": name("y", "the name of an array", "y").about("name of the array of targets"),
            "task": TASK,
            **told(KEYS, standardize=f"each number of an input, and real targets, {STANDARD}"),
        },
        _from_npz,
        content=by_content,
    ),
}
