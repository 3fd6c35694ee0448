"""What cells of text mean: missing values, numbers as people write them, amounts with a unit, dates. It knows no file.

Which mark is the decimal one and what parts thousands is read off all cells together, and never guessed: where two
ways to read them give different numbers, or no way reads them all, it is asked for by name. Data-frame packages take
the marks they are told and drop the others ("5,7" becomes 57), which would be a silent error.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import chain, filterfalse
from typing import Any

import numpy as np

from rsl_cli.errors import DataError

MARKS = {"point": ".", "comma": ","}
GROUPS = {"none": "", "comma": ",", "point": ".", "space": " \u00a0\u202f", "apostrophe": "'\u2019"}
"""What parts thousands: any of these characters."""
DASHES = frozenset(("-", "--", "---", ".", "..", "\u2013", "\u2014"))
"""Missing by custom in a column of numbers; in one of text they may be a name like any other."""
_SPREADSHEETS = ("?", "#div/0!", "#name?", "#null!", "#num!", "#ref!", "#value!")
"""Missing by custom: in collections of data sets, and where a spreadsheet found no value."""
_MOST_EXACT = 2**53
_TRUTH = {"true": True, "false": False}
_NOT_PLAIN = re.compile(r"\d[, \u00a0\u202f'\u2019]\d|\.\d{3}\.\d|^[+-]?,\d", re.MULTILINE)
"""What a column that holds more than numbers with a decimal point has somewhere."""
_UNIT = r"(?:[A-Z]{0,2}[$€£¥₹₽₩₺₴₪₫฿]|USD|EUR|GBP|CHF|JPY|CNY|INR|%)"
_AMOUNT = re.compile(rf"[+-]?{_UNIT}\s?[+-]?\d[\d.,'\s]*|[+-]?\d[\d.,'\s]*{_UNIT}")
_DATE = re.compile(r"(?:\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2(?:\d{4}|\d{2}))(?:[T ]\d.*)?")


@cache
def missing_markers() -> frozenset[str]:
    """What cells hold where there is no value, in lower case: what pandas takes for it, and a few customs."""
    from pandas._libs.parsers import STR_NA_VALUES

    return frozenset(marker.lower() for marker in (*STR_NA_VALUES, *_SPREADSHEETS))


def is_missing(cell: str) -> bool:
    """Whether a cell of text stands for no value."""
    return cell.strip().lower() in missing_markers()


@dataclass(frozen=True)
class Dialect:
    """How numbers are written in a file, and what stands where there is none.

    Args:
        point: the decimal mark.
        group: characters of which any parts thousands; empty for nothing.
        missing: markers, in lower case.
    """

    point: str = "."
    group: str = ""
    missing: frozenset[str] = field(default_factory=missing_markers)

    @cached_property
    def pattern(self) -> str:
        """What a number is, as a regular expression."""
        point, parted = re.escape(self.point), rf"[1-9]\d{{0,2}}(?:[{self.group}]\d{{3}})+|" if self.group else ""
        return rf"[+-]?(?:(?:{parted}\d+)(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?|[+-]?(?i:inf(?:inity)?)"

    @cached_property
    def absent(self) -> tuple[float, ...]:
        """The markers that are numbers, which stand for no value however they are written."""
        found = [float(self.pointed(marker) or "nan") for marker in self.missing]
        return tuple(sorted(number for number in found if number == number))

    @cached_property
    def reads(self) -> Callable[[str], object]:
        """Whether a cell is a number."""
        return re.compile(self.pattern).fullmatch

    def pointed(self, cell: str) -> str | None:
        """A number as Python writes it; None for what is no number here."""
        if not self.reads(cell):
            return None
        for mark in self.group:
            cell = cell.replace(mark, "")
        return cell if self.point == "." else cell.replace(self.point, ".")

    def shows_group(self, cell: str) -> bool:
        """Whether a number cannot be read without parted thousands: two groups, or a group and a decimal mark."""
        groups = sum(map(cell.count, self.group))
        return bool(groups > 1 or (groups and self.point in cell) or (groups and self.group not in (".", ",")))

    def plain(self) -> dict[str, Any]:
        """The same as JSON holds it, for what reads further cells."""
        known = {"number": self.pattern, "point": self.point, "group": self.group}
        return {**known, "missing": sorted(self.missing | DASHES), "absent": list(self.absent)}

    def __str__(self) -> str:
        parts = [f"numbers written with a decimal {named(MARKS, self.point)}"] if self.point != "." else []
        return ", ".join([*parts, *([f"thousands parted by {named(GROUPS, self.group)}"] if self.group else [])])


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


def read_cells(cells: Sequence[str], dialect: Dialect) -> Cells:
    """A column of text as booleans, integers or floats if every cell reads as one, else as text.

    Args:
        cells: (N,), without blanks around.
        dialect: how numbers are written.

    Returns:
        The column.
    """
    missing = np.array([cell.lower() in dialect.missing for cell in cells], dtype=bool)
    values = _present(cells, missing, dialect)
    if values.dtype == object:
        dashed = missing | np.array([cell in DASHES for cell in cells], dtype=bool)
        others = _present(cells, dashed, dialect)
        if len(others) and others.dtype != object:
            missing, values = dashed, others
    if values.dtype.kind in "if" and dialect.absent:
        gone = np.isin(values, dialect.absent)
        missing[np.flatnonzero(~missing)[gone]], values = True, values[~gone]
    shown = f"the cell is {cells[int(missing.argmax())]!r}" if missing.any() else ""
    return Cells(spread(values, missing), missing, shown)


def _present(cells: Sequence[str], missing: np.ndarray, dialect: Dialect) -> np.ndarray:
    present = [cell for cell, gone in zip(cells, missing, strict=True) if not gone] if missing.any() else cells
    return _typed(present, dialect)


def spread(present: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Values of all rows, (N,), from those that are there, given whether each of the N is missing."""
    if not missing.any():
        return present
    text = present.dtype == object
    values = np.full(len(missing), "" if text else np.nan, dtype=object if text else np.float64)
    values[~missing] = present
    return values


def is_number(text: str) -> bool:
    """Whether text reads as a number; Python would take 1_000 for one, in a file it is a name or a slip."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def mostly(cells: Sequence[str]) -> str | None:
    """What most cells of a column of text are.

    Returns:
        ``number``, ``marked`` (a number in some dialect only), ``amount`` (with a unit), ``date``, or None.
    """
    tests = {
        "number": is_number,
        "marked": _any_number().fullmatch,
        "amount": _AMOUNT.fullmatch,
        "date": _DATE.fullmatch,
    }
    return next((kind for kind, test in tests.items() if 2 * sum(1 for c in cells if test(c)) > len(cells)), None)


def find_dialect(columns: Mapping[str, Sequence[str]], settings: Mapping[str, Any], source: str) -> Dialect:
    """How numbers are written, read off all columns that are mostly numbers.

    Args:
        columns: cells by name, without blanks around.
        settings: ``decimal`` and ``thousands``, each a name or ``auto``, and ``na``, further markers of missing cells.
        source: names the file in an error.

    Returns:
        The dialect.

    Raises:
        DataError: two cells are not numbers of one dialect, or a mark may be a decimal one or part thousands.
    """
    missing = missing_markers() | {marker.strip().lower() for marker in settings["na"] or ()}
    decimal, thousands = settings["decimal"], settings["thousands"]
    points = [mark for name, mark in MARKS.items() if decimal in ("auto", name)]
    groups = [marks for name, marks in GROUPS.items() if thousands in ("auto", name)]
    dialects = [Dialect(point, group, missing) for group in groups for point in points if point != group]
    if not dialects:
        raise DataError(f"dataset.decimal and dataset.thousands are both {decimal}; give one mark to one of them")
    plain = dialects[0].point == "." and not any(map(_not_plain, columns.values()))
    if plain or dialects == [Dialect(missing=missing)]:
        return dialects[0]
    cells = _Numbers(columns, missing)
    fits: list[Dialect] = []
    for one in dialects:
        # What reads all without parting thousands would read them alike if it parted some.
        known = any(one.point == fit.point and not fit.group for fit in fits)
        if not known and not any(cells.those(one.reads, False)):
            fits.append(one)
    if not fits:
        raise DataError(f"{source}: {_contradiction(cells, dialects, decimal, thousands)}")
    if decimal == thousands == "auto" and (fits[0].point, fits[0].group) != (".", ""):
        _check_one_meaning(cells, fits, source)
    return fits[0]


class _Numbers:
    """The cells that are numbers in some dialect, of columns where most are."""

    def __init__(self, columns: Mapping[str, Sequence[str]], missing: frozenset[str]) -> None:
        self.columns = columns
        self.numbers: dict[str, list[str]] = {}
        read = _any_number().fullmatch
        for name, cells in columns.items():
            found = list(filter(read, cells))
            if 2 * len(found) > sum(1 for cell in cells if cell.lower() not in missing and cell not in DASHES):
                self.numbers[name] = found

    def those(self, test: Callable[[str], object], passing: bool = True) -> Iterator[str]:
        """The cells that pass a test, or those that do not."""
        return chain.from_iterable(map(partial(filter if passing else filterfalse, test), self.numbers.values()))

    def place(self, cell: str) -> str:
        """Names a cell in messages."""
        name = next(name for name, cells in self.numbers.items() if cell in cells)
        return f"column {name!r}, row {self.columns[name].index(cell) + 1}: {cell}"


def _check_one_meaning(cells: _Numbers, fits: Sequence[Dialect], source: str) -> None:
    """Refuse a mark that may be decimal or part thousands, nothing else in the file telling which."""
    fit = fits[0]
    if (len(fits) == 1 and not fit.group) or (fit.group and any(cells.those(fit.shows_group))):
        return
    readers = [*map(Dialect, MARKS.values()), *fits]
    unclear = next(cells.those(lambda cell: len({one.pointed(cell) for one in readers} - {None}) > 1), None)
    if unclear is None:
        return
    name = "comma" if "," in unclear else "point"
    said = f"{source}, {cells.place(unclear)} may be a decimal {name} or part thousands"
    if any(one.point == MARKS[name] for one in fits):
        raise DataError(f"{said}; set dataset.decimal={name} or dataset.thousands={name}")
    other = cells.place(next(cells.those(Dialect(MARKS[name]).reads, False)))
    raise DataError(
        f"{said}, as {other} has another decimal mark; set dataset.thousands={name} if it does, else write all numbers "
        "alike, as dataset.decimal is one for all"
    )


def _contradiction(cells: _Numbers, dialects: Sequence[Dialect], decimal: str, thousands: str) -> str:
    """Two cells that no dialect reads, or one."""
    first = next(cells.those(lambda cell: Dialect().reads(cell) and dialects[0].reads(cell), False))
    readers = [one for one in dialects if one.reads(first)]
    remedy = (
        "write all numbers alike, leave one of the columns out by dataset.drop=[...], or set dataset.decimal=point "
        "dataset.thousands=none, by which all but plain numbers is text"
    )
    place = cells.place(first)
    if not readers:
        return f"{place} is no number with dataset.decimal={decimal} and dataset.thousands={thousands}; {remedy}"
    others = cells.those(lambda cell: any(one.reads(cell) for one in readers), False)
    second = cells.place(next(chain(others, cells.those(readers[0].reads, False))))
    return f"{place} and {second} are not numbers of one kind, and dataset.decimal is one for all; {remedy}"


def _not_plain(cells: Sequence[str]) -> bool:
    return _NOT_PLAIN.search("\n".join(cells)) is not None


@cache
def _any_number() -> re.Pattern[str]:
    every = (Dialect(point, group).pattern for point in MARKS.values() for group in GROUPS.values() if group != point)
    return re.compile("|".join(every))


def _typed(cells: Sequence[str], dialect: Dialect) -> np.ndarray:
    if all(cell.lower() in _TRUTH for cell in cells):
        return np.array([_TRUTH[cell.lower()] for cell in cells], dtype=bool)
    if dialect.group or dialect.point != ".":
        pointed = [dialect.pointed(cell) for cell in cells]
        if 2 * pointed.count(None) < len(cells):  # A slip among numbers is then the first that is none.
            cells = [cell if number is None else number for cell, number in zip(cells, pointed, strict=True)]
    # As in is_number, whose answer cell by cell would cost a long column twice the time.
    if not any("_" in cell for cell in cells):
        for read, dtype in ((int, np.int64), (float, np.float64)):
            try:
                return np.array([read(cell) for cell in cells], dtype=dtype)
            except (ValueError, OverflowError):
                continue
    return np.array(cells, dtype=object)


def named(names: Mapping[str, str], mark: str) -> str:
    """What a mark is called."""
    return next(name for name, marks in names.items() if marks == mark)
