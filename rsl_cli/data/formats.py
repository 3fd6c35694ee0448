"""From the bytes of a file to named columns or arrays, of four kinds only: booleans, integers, floats and text.

What a missing cell looks like is known here; what is to be done about it is not. Only a column that is asked for is
looked at. It knows no task and no split. Nothing is ever unpickled.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from rsl_cli.errors import DataError, one_of

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
_TRUTH = {"true": True, "false": False}
_SPREADSHEETS = ("?", "#div/0!", "#name?", "#null!", "#num!", "#ref!", "#value!")
"""Missing by custom: in collections of data sets, and where a spreadsheet found no value."""
_DECIMAL_COMMA = re.compile(r"[+-]?(\d*|\d{1,3}(\.\d{3})+),\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""What stands in no text, and so tells other files from it."""
_MOST_EXACT = 2**53


@dataclass(frozen=True)
class Cells:
    """One column.

    Args:
        values: (N,) booleans, integers, floats or, as objects, text; floats are nan and text is empty where missing.
        missing: (N,), whether a cell is.
        shown: what stands in the first missing cell.
    """

    values: np.ndarray
    missing: np.ndarray
    shown: str = ""

    @property
    def rounded(self) -> bool:
        """Whether there are integers that float64 cannot hold."""
        if self.values.dtype.kind not in "iu":
            return False
        large = self.values[np.abs(self.values.astype(np.float64)) >= _MOST_EXACT]
        return any(int(float(number)) != number for number in large.tolist())


@dataclass(frozen=True)
class RawTable:
    """Columns by name."""

    names: tuple[str, ...]
    rows: int
    column: Callable[[str], Cells]
    index: frozenset[str] = frozenset()
    """Columns that number or label the rows, hence are no features unless asked for."""
    notes: tuple[str, ...] = ()
    """How the file was understood, where it could have been otherwise."""


@cache
def missing_markers() -> frozenset[str]:
    """What cells hold where there is no value, in lower case: what pandas takes for it, and a few customs."""
    from pandas._libs.parsers import STR_NA_VALUES

    return frozenset(marker.lower() for marker in (*STR_NA_VALUES, *_SPREADSHEETS))


def is_missing(cell: str) -> bool:
    """Whether a cell of text stands for no value."""
    return cell.strip().lower() in missing_markers()


def read_csv(content: bytes, source: str, settings: Mapping[str, Any]) -> RawTable:
    """Read separated text whose first line names the columns; blank lines count for nothing.

    A column is boolean, integer or float if every cell reads as one, else text. This is the standard library's
    reader with exact conversion: the result depends on no version of a data-frame package, and a row of a wrong
    length is an error instead of a guess.

    It is read as UTF-8, as UTF-16 where it says so, or as Windows-1252, in which spreadsheets write, if that is text.
    With ``separator: auto`` it is the first of :data:`SEPARATORS` that parts every line into as many cells, two or
    more; with ``decimal: auto`` it is the comma where cells of a file that is not separated by commas say so.

    Args:
        content: the file's bytes.
        source: names the file in an error.
        settings: ``separator`` and ``decimal``.

    Returns:
        The table, its columns in the order of the first line.

    Raises:
        DataError: no text, not CSV, no rows, names given twice, a row of another length than the header, or commas
            that may be decimal or part thousands.
    """
    text, encoding = _decoded(content, source)
    separator, header, rows = _separated(text, str(settings["separator"]), source)
    _check_names(header, source)
    if len(header) < 2:
        raise DataError(
            f"{source} has fewer than two columns; a target and a feature are needed, in cells separated by commas, or "
            "by what dataset.separator names"
        )
    if not rows:
        raise DataError(f"{source} holds no data rows; give a file with a header and rows below it")
    for row, cells in enumerate(rows, start=1):
        if len(cells) != len(header):
            raise DataError(
                f"{source}, row {row} has {len(cells)} cells, the header has {len(header)}; "
                "mend the row (data rows count from 1, without the header)"
            )
    comma = _decimal_comma(rows, separator, str(settings["decimal"]), source)
    places = {name: place for place, name in enumerate(header)}

    def column(name: str) -> Cells:
        cells = [row[places[name]].strip() for row in rows]
        missing = np.array([is_missing(cell) for cell in cells], dtype=bool)
        present = [cell for cell, gone in zip(cells, missing, strict=True) if not gone] if missing.any() else cells
        values = _typed([_pointed(cell) for cell in present] if comma else present)
        shown = f"the cell is {cells[int(missing.argmax())]!r}" if missing.any() else ""
        return Cells(_spread(values, missing), missing, shown)

    named = {value: key for key, value in SEPARATORS.items()}[separator]
    notes = [f"cells separated by {named}"] if separator != "," else []
    notes += ["numbers written with a decimal comma"] if comma else []
    notes += [f"read as {encoding}"] if encoding != "UTF-8" else []
    return RawTable(tuple(header), len(rows), column, notes=(f"{source}: {', '.join(notes)}",) if notes else ())


def _decoded(content: bytes, source: str) -> tuple[str, str]:
    """The text of a file, and what it is written in; raises DataError if it is none."""
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
    if failure is not None:
        raise _unreadable(source, "comma-separated text in UTF-8", failure)
    separator = next((key for key, (header, _) in found.items() if len(header) > 1), next(iter(found)))
    return separator, *found[separator]


def _decimal_comma(rows: Sequence[Sequence[str]], separator: str, wanted: str, source: str) -> bool:
    """Whether numbers are written with a decimal comma."""
    if wanted != "auto" or separator == ",":
        return wanted == "comma"
    found = False
    for row, cells in enumerate(rows, start=1):
        for cell in cells:
            if "," in cell and _DECIMAL_COMMA.fullmatch(cell.strip()):
                if not _THOUSANDS.fullmatch(cell.strip()):
                    return True
                found = found or (row, cell.strip())
    if found:
        raise DataError(
            f"{source}, row {found[0]}: {found[1]} may be a decimal comma or part thousands; "
            "set dataset.decimal=comma or dataset.decimal=point"
        )
    return False


def _pointed(cell: str) -> str:
    """A number with a decimal comma as one with a point; anything else as it is."""
    if _DECIMAL_COMMA.fullmatch(cell) or _GROUPED.fullmatch(cell):
        return cell.replace(".", "").replace(",", ".")
    return cell


def _spread(present: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Values of all rows from those that are there."""
    if not missing.any():
        return present
    text = present.dtype == object
    values = np.full(len(missing), "" if text else np.nan, dtype=object if text else np.float64)
    values[~missing] = present
    return values


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
        return Cells(_spread(present, missing), missing, "null")

    return RawTable(tuple(names), table.num_rows, column, index)


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


def is_number(text: str) -> bool:
    """Whether text reads as a number; Python would take 1_000 for one, in a file it is a name or a slip."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _check_names(names: Sequence[str], source: str) -> None:
    first: dict[str, int] = {}
    for place, name in enumerate(names, start=1):
        if name and name in first:
            raise DataError(
                f"{source}: column name {name!r} is given twice (columns {first[name]} and {place}); rename one"
            )
        first[name] = place


def _typed(cells: list[str]) -> np.ndarray:
    if all(cell.lower() in _TRUTH for cell in cells):
        return np.array([_TRUTH[cell.lower()] for cell in cells], dtype=bool)
    # As in is_number, whose answer cell by cell would cost a long column twice the time.
    if not any("_" in cell for cell in cells):
        for read, dtype in ((int, np.int64), (float, np.float64)):
            try:
                return np.array([read(cell) for cell in cells], dtype=dtype)
            except (ValueError, OverflowError):
                continue
    return np.array(cells, dtype=object)


def _unreadable(source: str, wanted: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"{source} is not {wanted}, or is damaged: {reason}; check dataset.path and dataset.name")
