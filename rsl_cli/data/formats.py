"""From the bytes of a file to named columns or arrays, of four kinds only: booleans, integers, floats and text.

Missing cells are refused here, where the format says what missing means; only a column that is asked for is looked
at. It knows no task and no split. Nothing is ever unpickled.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsl_cli.errors import DataError, one_of

_MISSING = frozenset(["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"])
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class Table:
    """Columns by name; text comes as an array of objects, all of them str."""

    names: tuple[str, ...]
    rows: int
    column: Callable[[str], np.ndarray]
    index: frozenset[str] = frozenset()
    """Columns that number or label the rows, hence are no features unless asked for."""


def read_csv(content: bytes, source: str) -> Table:
    """Read comma-separated text in UTF-8 whose first line names the columns; blank lines count for nothing.

    A column is boolean, integer or float if every cell reads as one, else text. This is the standard library's
    reader with exact conversion: the result depends on no version of a data-frame package, and a row of a wrong
    length is an error instead of a guess.

    Args:
        content: the file's bytes.
        source: names the file in an error.

    Raises:
        DataError: not UTF-8, not CSV, no rows, names given twice, or a row of another length than the header.
    """
    try:
        text = content.decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(source, "comma-separated text in UTF-8", error) from None
    filled = (line for line in lines if len(line) > 1 or (line and line[0].strip()))
    header = [name.strip() for name in next(filled, [])]
    rows = list(filled)
    _check_names(header, source)
    if len(header) < 2:
        raise DataError(
            f"{source} has fewer than two columns; a target and a feature are needed, in cells separated by commas"
        )
    if not rows:
        raise DataError(f"{source} holds no data rows; give a file with a header and rows below it")
    for row, cells in enumerate(rows, start=1):
        if len(cells) != len(header):
            raise DataError(
                f"{source}, row {row} has {len(cells)} cells, the header has {len(header)}; "
                "mend the row (data rows count from 1, without the header)"
            )

    def column(name: str) -> np.ndarray:
        place = header.index(name)
        cells = [row[place].strip() for row in rows]
        if not _MISSING.isdisjoint(cells):
            row, cell = next((row, cell) for row, cell in enumerate(cells, start=1) if cell in _MISSING)
            raise _missing(source, name, row, f"the cell is {cell!r}")
        return _typed(cells)

    return Table(tuple(header), len(rows), column)


def read_parquet(content: bytes, source: str) -> Table:
    """Read a Parquet file; the index of a data frame saved in it is no feature.

    Args:
        content: the file's bytes.
        source: names the file in an error.

    Raises:
        DataError: not Parquet, no rows, or names given twice.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        names = [str(name) for name in file.schema_arrow.names]
        _check_names(names, source)
        table = file.read()
        metadata = table.schema.pandas_metadata or {}
        index = frozenset(name for name in metadata.get("index_columns", ()) if isinstance(name, str))
    except DataError:
        raise
    except Exception as error:
        # A damaged file can fail in any way inside the parser.
        raise _unreadable(source, "a Parquet file", error) from None
    if not table.num_rows:
        raise DataError(f"{source} holds no data rows; give a file with rows")

    def column(name: str) -> np.ndarray:
        values: Any = table.column(names.index(name))
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if values.null_count:
            raise _missing(source, name, 1 + values.is_null().to_pylist().index(True), "null")
        kind = values.type
        if pa.types.is_decimal(kind):
            values, kind = values.cast(pa.float64()), pa.float64()
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return np.asarray(values.to_numpy())
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return np.array(values.to_pylist(), dtype=object)
        raise DataError(
            f"{source}: column {name!r}, row 1: values of type {kind} are neither numbers, booleans nor text; "
            "convert the column, or leave it out with dataset.features=[...]"
        )

    return Table(tuple(names), table.num_rows, column, index)


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
    """
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


def _missing(source: str, name: str, row: int, what: str) -> DataError:
    return DataError(
        f"{source}: column {name!r}, row {row}: missing value ({what}); fill it in or drop the row "
        "(data rows count from 1, without the header)"
    )


def _unreadable(source: str, wanted: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"{source} is not {wanted}, or is damaged: {reason}; check dataset.path and dataset.name")
