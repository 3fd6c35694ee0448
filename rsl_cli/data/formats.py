"""From the bytes of a file to named columns or arrays, of four kinds only: booleans, integers, floats and text.

What cells of text mean is in ``cells``. What is to be done about missing ones is not known here. Only a column that is
asked for is looked at. It knows no task and no split. Nothing is ever unpickled.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rsl_cli.data.cells import GROUPS, MARKS, Cells, Dialect, find_dialect, is_missing, named, read_cells, spread
from rsl_cli.errors import DataError, one_of
from rsl_cli.keys import shorten

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
_GZIP = b"\x1f\x8b"
_SEPARATOR_LINE = re.compile(r"(?i)sep=(.)\r?\n")
"""What a spreadsheet may write before the header."""
_FIRST_COMMA = re.compile(r"(?![+-]?[1-9]\d{0,2},\d{3}$)[+-]?(\d*|\d{1,3}(\.\d{3})+),\d+([eE][+-]?\d+)?")
"""A number with a decimal comma, by the rules of the first version."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""What stands in no text, and so tells other files from it."""


@dataclass(frozen=True)
class RawTable:
    """Columns by name."""

    names: tuple[str, ...]
    rows: int
    column: Callable[[str], Cells]
    index: frozenset[str] = frozenset()
    """Columns that number or label the rows, hence are no features unless asked for."""
    nameless: int = 0
    """Place, from 1, of a column that has no name and cannot be told to be an index; 0: none."""
    notes: tuple[str, ...] = ()
    """How the file was understood, where it could have been otherwise."""
    dialect: Dialect | None = None
    """How its numbers are written, where it is text."""
    said: Mapping[str, str] = field(default_factory=dict)
    """See `rsl_cli.data.dataset.Reading`."""


def read_csv(content: bytes, source: str, settings: Mapping[str, Any]) -> RawTable:
    """Read separated text whose first line names the columns; blank lines count for nothing.

    A column is boolean, integer or float if every cell reads as one, else text. This is the standard library's
    reader with exact conversion: the result depends on no version of a data-frame package, which would fill up a row
    that is too short and take a longer one's first cell for an index, where here it is an error.

    It is read as UTF-8, as UTF-16 where it says so, or as Windows-1252, in which spreadsheets write, if that is text.
    With ``separator: auto`` it is the first of :data:`SEPARATORS` that parts every line into as many cells, two or
    more. How numbers are written is found by :func:`rsl_cli.data.cells.find_dialect`.

    Args:
        content: the file's bytes.
        source: names the file in an error.
        settings: ``separator``, ``decimal``, ``thousands`` and ``na``; and ``target``, ``features`` and ``drop``.

    Returns:
        The table, its columns in the order of the first line.

    Raises:
        DataError: no text, not CSV, no rows, names given twice, a row of another length than the header, or numbers
            whose marks contradict each other or may be read in two ways.
    """
    text, encoding = _decoded(content, source)
    if "\0" in text:
        raise DataError(f"{source} holds zero bytes, as UTF-16 does that says not so at its start; save it as UTF-8")
    marks = {mark: key for key, mark in SEPARATORS.items()}
    wanted, line = str(settings["separator"]), _SEPARATOR_LINE.match(text)
    if line is not None:
        text = text[line.end() :]
        wanted = marks.get(line[1], wanted) if wanted == "auto" else wanted
    separator, header, rows = _separated(text, wanted, source)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    _check_names(header, source)
    if len(header) < 2:
        raise DataError(
            f"{source}: the first line, {shorten(first)}, names fewer than two columns; a target and a feature are "
            f"needed, in cells separated by commas, or by what dataset.separator names: {', '.join(SEPARATORS)}"
        )
    if not rows:
        raise DataError(f"{source} holds no data rows; give a file with a header and rows below it")
    for row, cells in enumerate(rows, start=1):
        if len(cells) != len(header):
            raise DataError(
                f"{source}, row {row} has {len(cells)} cells, the header has {len(header)}; "
                "mend the row (data rows count from 1, without the header)"
            )
    left_out = set(settings["drop"] or ()) if settings["features"] is None else {*header} - {*settings["features"]}
    learnt = {
        name: [row[place].strip() for row in rows]
        for place, name in enumerate(header)
        if name and (name not in left_out or name == settings["target"])
    }
    dialect = find_dialect(learnt, settings, source)
    said = [f"cells separated by {marks[separator]}"] if separator != "," else []
    said += [str(dialect)] if str(dialect) else []
    said += [f"read as {encoding}"] if encoding != "UTF-8" else []
    notes = [f"{source}: {', '.join(said)}"] if said else []
    unsaid = settings["thousands"] == "auto" and separator != "," and not dialect.group
    if unsaid and (cell := _maybe_parted(learnt, dialect)):
        notes.append(
            f"{source}: numbers such as {cell} are read with a decimal {named(MARKS, dialect.point)}; if it parts "
            f"thousands, set dataset.thousands={named(MARKS, dialect.point)}"
        )
    nameless = [place for place, name in enumerate(header) if not name]
    index = [place for place in nameless if _numbers_rows([row[place] for row in rows])]
    notes += [f"{source}: column {place + 1} has no name and numbers the rows or is empty, left out" for place in index]
    return RawTable(
        tuple(header),
        len(rows),
        lambda name: read_cells(learnt[name], dialect),
        nameless=next((place + 1 for place in nameless if place not in index), 0),
        notes=tuple(notes),
        dialect=dialect,
        said=_said_at_first(dialect, separator, rows, str(settings["decimal"])),
    )


def _said_at_first(dialect: Dialect, separator: str, rows: Sequence[Sequence[str]], decimal: str) -> dict[str, str]:
    """The settings by which the first version read what is read now: it took one decimal comma for those of all."""
    comma = separator != "," and any(
        "," in cell and _FIRST_COMMA.fullmatch(cell.strip()) for row in rows for cell in row
    )
    if decimal == "auto" and comma != (dialect.point == ","):
        decimal = named(MARKS, dialect.point)
    known = (dialect.point, dialect.group) in ((".", ""), (",", ""), (",", "."))
    return {"decimal": decimal, "thousands": "auto" if known else named(GROUPS, dialect.group)}


def _maybe_parted(columns: Mapping[str, Sequence[str]], dialect: Dialect) -> str | None:
    """A number with a decimal mark, where each one of the table could part thousands."""
    point, first = re.escape(dialect.point), None
    parted = re.compile(rf"[+-]?[1-9]\d{{0,2}}{point}\d{{3}}").fullmatch
    for cells in columns.values():
        for cell in cells:
            if dialect.point in cell and dialect.reads(cell):
                if not parted(cell):
                    return None
                first = first or cell
    return first


def _numbers_rows(cells: Sequence[str]) -> bool:
    """Whether cells are 0, 1, ..., or 1, 2, ..., as a saved row index, or all empty, as after a comma at the end."""
    text = [cell.strip() for cell in cells]
    return not any(text) or any(text == [str(start + row) for row in range(len(text))] for start in (0, 1))


def _decoded(content: bytes, source: str) -> tuple[str, str]:
    """The text of a file, and what it is written in; raises DataError if it is none."""
    if content.startswith(_GZIP):
        raise DataError(f"{source} is compressed; unpack it first, e.g. with gunzip")
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return (content.decode("utf-16"), "UTF-16") if marked else (content.decode("utf-8-sig"), "UTF-8")
    except UnicodeDecodeError as error:
        with suppress(UnicodeDecodeError):
            text = content.decode("cp1252")
            if not marked and not _CONTROL.search(text):
                return text, "Windows-1252"
        raise _unreadable(source, "comma-separated text in UTF-8", error) from None


def _separated(text: str, wanted: str, source: str) -> tuple[str, list[str], list[list[str]]]:
    """The separator, the header and the rows."""
    found, failure = {}, None
    for separator in SEPARATORS.values() if wanted == "auto" else [SEPARATORS[wanted]]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
        try:
            filled = [line for line in reader if len(line) > 1 or (line and line[0].strip())]
        except csv.Error as error:
            failure = failure or error
            continue
        header, rows = [name.strip() for name in next(iter(filled), [])], filled[1:]
        if len(header) > 1 and all(len(row) == len(header) for row in rows):
            return separator, header, rows
        found[separator] = header, rows
    if failure is not None and all(len(header) < 2 for header, _ in found.values()):
        raise _unreadable(source, "comma-separated text in UTF-8", failure)
    separator = next((key for key, (header, _) in found.items() if len(header) > 1), next(iter(found)))
    return separator, *found[separator]


def read_parquet(content: bytes, source: str, settings: Mapping[str, Any]) -> RawTable:
    """Read a Parquet file; the index of a data frame saved in it is no feature.

    Args:
        content: the file's bytes.
        source: names the file in an error.
        settings: none is asked for.

    Returns:
        The table, its columns in the file's order.

    Raises:
        DataError: not Parquet, no rows, or names given twice.
    """  # noqa: DOC501
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        names = [str(name) for name in file.schema_arrow.names]
        _check_names(names, source)
        # Arrow's threads may hold the content for longer, which aborts a process that ends meanwhile.
        table = file.read(use_threads=False)
        metadata = table.schema.pandas_metadata or {}
        index = frozenset(name for name in metadata.get("index_columns", ()) if isinstance(name, str))
    except DataError:
        raise
    except Exception as error:
        # A damaged file can fail in any way inside the parser.
        raise _unreadable(source, "a Parquet file", error) from None
    if not table.num_rows:
        raise DataError(f"{source} holds no data rows; give a file with rows")

    places = {name: place for place, name in enumerate(names)}

    def column(name: str) -> Cells:
        values: Any = table.column(places[name])
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        kind = values.type
        if pa.types.is_decimal(kind):
            values, kind = values.cast(pa.float64()), pa.float64()
        missing = np.asarray(values.is_null().to_numpy(), dtype=bool)
        numbers = pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if numbers or pa.types.is_null(kind):
            present = np.asarray(values.drop_null().to_numpy())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            cells = [cell or "" for cell in values.to_pylist()]
            marked = np.array([is_missing(cell) for cell in cells], dtype=bool)
            shown = "null" if missing[marked.argmax()] or not marked.any() else repr(cells[int(marked.argmax())])
            missing |= marked
            return Cells(
                np.array(["" if gone else c for c, gone in zip(cells, missing, strict=True)], object), missing, shown
            )
        else:
            raise DataError(
                f"{source}: column {name!r}, row 1: values of type {kind} are neither numbers, booleans nor text; "
                "convert the column, or leave it out with dataset.features=[...]"
            )
        return Cells(spread(present, missing), missing, "null")

    nameless = names.index("") + 1 if "" in names else 0
    return RawTable(tuple(names), table.num_rows, column, index, nameless)


def read_npz(content: bytes, source: str, wanted: Mapping[str, str]) -> list[np.ndarray]:
    """Read named arrays of an npz archive.

    Args:
        content: the file's bytes.
        source: names the file in an error.
        wanted: for each configuration key, the name of the array that it asks for.

    Returns:
        The arrays, in the order of ``wanted``; text as objects.

    Raises:
        DataError: not an npz archive, an array that is not in it, or one that is not of numbers, booleans or text.
    """  # noqa: DOC501
    try:
        archive = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:
        # A damaged archive can fail in any way inside the parser.
        raise _unreadable(source, "an npz archive (numpy.savez)", error) from None
    if isinstance(archive, np.ndarray):
        raise DataError(f"{source} is a single array (npy); save inputs and target together with numpy.savez")
    with archive:
        return [_member(archive, source, key, name) for key, name in wanted.items()]


def _member(archive: Any, source: str, key: str, name: str) -> np.ndarray:
    if name not in archive.files:
        raise DataError(f"{source}: {one_of(f'{key}: array', name, archive.files)}")
    place = f"{source}: array {name!r}"
    try:
        values = archive[name]
    except Exception as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{place} holds Python objects, which rsl never unpickles; save it as numbers, booleans or text"
            ) from None
        raise _unreadable(place, "an array", error) from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biufU":
        kind = values.dtype if isinstance(values, np.ndarray) else "raw bytes"
        raise DataError(f"{place} holds {kind}; accepted: integers, floats, booleans or text")
    return values.astype(object) if values.dtype.kind == "U" else values


def _check_names(names: Sequence[str], source: str) -> None:
    first: dict[str, int] = {}
    for place, name in enumerate(names, start=1):
        if name and name in first:
            raise DataError(
                f"{source}: column name {name!r} is given twice (columns {first[name]} and {place}); rename one"
            )
        first[name] = place


def _unreadable(source: str, wanted: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"{source} is not {wanted}, or is damaged: {reason}; check dataset.path and dataset.name")
