"""A user's table: which columns are learnt from, and what is done about missing cells, text and columns that are none.

How the bytes become columns is in ``formats``. Nothing is repaired that the configuration does not ask for, and what is
done is said in a note.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsl_cli.data.cells import GROUPS, MARKS, Cells, mostly
from rsl_cli.data.dataset import Column, Dataset, Reading
from rsl_cli.data.files import (
    MOST_CLASSES,
    REMEDIES,
    TASK,
    by_content,
    check_rows,
    class_sizes,
    encode_target,
    listed,
    read_bytes,
    shown_path,
    to_numbers,
)
from rsl_cli.data.formats import SEPARATORS, RawTable, read_csv, read_parquet
from rsl_cli.data.holdout import KEYS, hold_out
from rsl_cli.data.keys import DatasetBuilder, DatasetSettings, Teacher, name, names, path
from rsl_cli.errors import ConfigError, DataError, nearest
from rsl_cli.keys import Key, choice

MOST_CATEGORIES = 1000
"""More inputs than that from one column of text are a slip, not an encoding."""
_LEAST_IDS = 20
"""Fewer distinct integers say nothing about what they are."""

_HANDLING: dict[str, Key] = {
    "drop": names("none", "[id]").of("changed").about("columns to leave out, e.g. [id]"),
    "missing": choice("error", "error", "drop", "mean", "median")
    .of("changed")
    .about("error, drop (the rows), mean or median (of the column over training rows; rows without target go)"),
    "categorical": choice("error", "error", "onehot", "ordinal")
    .of("changed")
    .about("of columns of text: error, onehot (an input for each) or ordinal (its number in sorted order)"),
}
_DIALECT: dict[str, Key] = {
    "separator": choice("auto", "auto", *SEPARATORS).of("changed").about("auto, comma, semicolon, tab or pipe"),
    "decimal": choice("auto", "auto", *MARKS).of("changed").about("auto, point or comma"),
    "thousands": choice("auto", "auto", *GROUPS)
    .of("changed")
    .about("what parts them in 12,000: auto, none, comma, point, space or apostrophe"),
    "na": names("none", "[-999]").of("changed").about("more that stands for a missing cell, e.g. [-999]"),
}


@dataclass(frozen=True)
class _Source:
    """A table and how to speak of it.

    Args:
        table: its columns.
        shown: names the file in messages.
        settings: the dataset's.
    """

    table: RawTable
    shown: str
    settings: DatasetSettings

    def place(self, column: str) -> str:
        """Names a column in messages."""
        return f"{self.shown}: column {column!r}"

    def known(self, column: str, key: str) -> None:
        """Refuse a column that is not there."""
        found = self.table.names
        if column not in found:
            shown = [repr(name) for name in found[:10]] + (["..."] if len(found) > 10 else [])
            raise DataError(
                f"{key} {column!r} is not a column of {self.shown}; it has: {', '.join(shown)}{nearest(column, found)}"
            )


def _from_table(
    read: Callable[[bytes, str, DatasetSettings], RawTable],
) -> Callable[[DatasetSettings, Teacher | None], Dataset]:
    def build(settings: DatasetSettings, teacher: Teacher | None) -> Dataset:
        shown, target = shown_path(settings["path"]), settings["target"]
        source = _Source(read(read_bytes(settings["path"]), shown, settings), shown, settings)
        source.known(target, "dataset.target")
        features = _features(source)
        check_rows(source.table.rows, shown)
        cells = {column: source.table.column(column) for column in (target, *features)}
        kept, notes = _kept(source, cells)
        rows = np.flatnonzero(kept)
        where = source.place(target)
        task, y, outputs, classes = encode_target(cells[target].values[kept], settings["task"], where, rows)
        columns, inputs = [], []
        for feature in features:
            column, numbers = _encoded(source, feature, cells[feature], kept)
            columns.append(column)
            inputs.append(numbers)
        origin = [column.name for column in columns for _ in range(column.width)]
        notes += _remarks(source, cells, columns)
        labels: Sequence[Any] = np.unique(cells[target].values[kept]).tolist() if classes else ()
        if classes:
            notes.append(class_sizes(target, classes, y))
        elif settings["task"] == "auto" and cells[target].missing.any() and _few_whole(cells[target].values[kept]):
            notes.append(
                f"the target {target!r} holds few whole numbers, but with missing cells: it is learned as a number; "
                "dataset.task=classification makes classes of them"
            )
        return hold_out(
            np.column_stack(inputs),
            y,
            task=task,
            outputs=outputs,
            settings=settings,
            feature=lambda j: source.place(origin[j]),
            label=lambda j: where + (f", class {classes[j]!r}" if classes else ""),
            reading=Reading(
                columns=tuple(columns),
                target=(target,),
                classes=tuple(labels),
                cells=source.table.dialect.plain() if source.table.dialect else None,
                said=source.table.said,
            ),
            notes=(*source.table.notes, *notes),
        )

    return build


def _features(source: _Source) -> list[str]:
    """The columns to learn from, in order."""
    table, settings = source.table, source.settings
    dropped = set(settings["drop"] or ())
    for column in settings["drop"] or ():
        source.known(column, "dataset.drop")
    features = settings["features"]
    if features is None:
        if table.nameless:
            raise DataError(
                f"{source.shown}: column {table.nameless} has no name, as a saved row index has none, but does not "
                "number the rows; name it in the first line, or list the columns to use: dataset.features=[...]"
            )
        left = {settings["target"], "", *table.index} | dropped
        features = [column for column in table.names if column not in left]
        if not features:
            raise DataError(
                f"{source.shown} has no column beside the target {settings['target']!r}; give a file with features"
            )
    there = set(table.names)
    for feature in features:
        if feature not in there:
            source.known(feature, "dataset.features")
    return features


def _kept(source: _Source, cells: Mapping[str, Cells]) -> tuple[np.ndarray, list[str]]:
    """Which rows are learnt from, (N,), as ``dataset.missing`` has it, and what was done."""
    policy, target = source.settings["missing"], source.settings["target"]
    gone = {name: column.missing for name, column in cells.items()}
    if policy != "error":
        gone = {name: one | _not_a_number(cells[name].values) for name, one in gone.items()}
    counts = {name: int(one.sum()) for name, one in gone.items() if one.any()}
    kept = np.ones(source.table.rows, dtype=bool)
    if not counts:
        return kept, []
    counted = listed([f"{name!r} {count}" for name, count in counts.items()])
    if policy == "error":
        first = next(iter(counts))
        raise DataError(
            f"{source.place(first)}, row {int(gone[first].argmax()) + 1}: missing value ({cells[first].shown}); "
            f"missing cells by column: {counted}; set dataset.missing=drop, mean or median, fill them in or leave "
            "columns out by dataset.drop=[...] (data rows count from 1, without the header)"
        )
    for column in counts if policy == "drop" else [target] if target in counts else []:
        kept &= ~gone[column]
    left = int(kept.sum())
    for column in counts if policy != "drop" else ():
        if column != target and cells[column].values.dtype == object:
            raise DataError(
                f"{source.place(column)}, row {int(gone[column].argmax()) + 1}: missing value, and text has no "
                f"{policy}; set dataset.missing=drop, or leave the column out with dataset.drop=[{column}]"
            )
    check_rows(left, f"{source.shown}, without rows that lack a value,")
    done = f"{source.table.rows - left} of {source.table.rows} rows left out" if left < source.table.rows else ""
    if policy != "drop" and set(counts) - {target}:
        done += (", " if done else "") + f"the others filled with the column's {policy} over training rows"
    return kept, [f"missing cells by column: {counted}; {done}"]


def _not_a_number(values: np.ndarray) -> np.ndarray:
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)


def _encoded(source: _Source, feature: str, cells: Cells, kept: np.ndarray) -> tuple[Column, np.ndarray]:
    """A feature's part of the inputs, (N,) or (N, categories)."""
    values, policy, rows = cells.values[kept], source.settings["categorical"], np.flatnonzero(kept)
    if values.dtype != object or not len(values):
        present = ~_not_a_number(values) if source.settings["missing"] != "error" else np.ones(len(values), dtype=bool)
        numbers = np.full(len(values), np.nan)
        numbers[present] = to_numbers(values[present], source.place(feature), "", rows[present])
        return Column(feature), numbers
    kind = mostly(values.tolist())
    categories, codes = np.unique(values.astype(str), return_inverse=True)
    if (kind is None or policy != "error") and (len(categories) == len(values) or len(categories) > MOST_CATEGORIES):
        raise DataError(
            f"{source.place(feature)} holds {len(categories)} different texts in {len(values)} rows, as names and IDs "
            f"do; leave it out with dataset.drop=[{feature}]"
        )
    if policy == "error" or kind == "number":
        encode = REMEDIES.get(kind or "", "encode it by dataset.categorical=onehot or ordinal")
        remedy = f"{encode}, or leave the column out with dataset.drop=[{feature}] or dataset.features=[...]"
        to_numbers(values, source.place(feature), remedy, rows)
    column = Column(feature, tuple(categories.tolist()), policy == "onehot")
    return column, np.eye(len(categories))[codes] if column.onehot else codes.astype(np.float64)


def _remarks(source: _Source, cells: Mapping[str, Cells], columns: Sequence[Column]) -> list[str]:
    """What looks as if it was not meant."""
    notes = []
    encoded = [f"{column.name!r} {len(column.categories)}" for column in columns if column.categories]
    for column in columns:
        kind = mostly(cells[column.name].values.tolist()) if column.categories else None
        if kind in REMEDIES:
            notes.append(f"column {column.name!r} is taken for categories, but {REMEDIES[kind]}, if that is meant")
    if encoded:
        notes.append(f"categories by column, {source.settings['categorical']}: {listed(encoded)}")
    for column in columns:
        values = cells[column.name].values
        if cells[column.name].rounded:
            notes.append(f"column {column.name!r} holds integers beyond 2^53, whose last digits are lost")
        elif len(values) >= _LEAST_IDS and _all_whole(values) and len(np.unique(values)) == len(values):
            notes.append(
                f"column {column.name!r} holds another whole number in every row, as an ID does; if it is one, leave "
                f"it out: dataset.drop=[{column.name}]"
            )
    return notes


def _few_whole(values: np.ndarray) -> bool:
    return _all_whole(values) and len(np.unique(values)) <= MOST_CLASSES


def _all_whole(values: np.ndarray) -> bool:
    return values.dtype.kind in "iu" or (values.dtype.kind == "f" and bool((values == np.floor(values)).all()))


def _check(settings: DatasetSettings) -> None:
    features, dropped = settings["features"], settings["drop"] or ()
    if settings["target"] in dropped:
        raise ConfigError(f"dataset.drop holds the target {settings['target']!r}; leave it out")
    if features is None:
        return
    if settings["target"] in features:
        raise ConfigError(
            f"dataset.features holds the target {settings['target']!r}, which would be learnt from itself; leave it out"
        )
    twice = [feature for feature, times in Counter(features).items() if times > 1]
    if twice:
        raise ConfigError(f"dataset.features names {twice[0]!r} twice; name each column once")
    both = [feature for feature in features if feature in dropped]
    if both:
        raise ConfigError(f"dataset.features and dataset.drop both name {both[0]!r}; leave it out of one")


def _keys(example: str) -> dict[str, Key]:
    return {
        "path": path(example).about(f"needed, e.g. dataset.path={example}"),
        "target": name(None, "the name of a column", "price").about(
            "needed: the column to predict, e.g. dataset.target=price"
        ),
        "features": names("all columns but the target", "[rooms,age]").about(
            "columns to predict it from, e.g. [rooms,age]; null: all others"
        ),
        "task": TASK,
        **KEYS,
        **_HANDLING,
    }


BUILDERS: dict[str, DatasetBuilder] = {
    "csv": DatasetBuilder(
        {**_keys("data/houses.csv"), **_DIALECT},
        _from_table(read_csv),
        _check,
        by_content,
        as_read=lambda settings, data: {**settings, **(data.reading.said if data.reading else {})},
    ),
    "parquet": DatasetBuilder(_keys("data/houses.parquet"), _from_table(read_parquet), _check, by_content),
}
