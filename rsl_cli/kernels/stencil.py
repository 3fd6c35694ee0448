"""How one kept edge acts: a small sparse matrix whose non-zeros share few weights.

A scalar times a vector, a matrix, a convolution, one matrix at every token: each is S(w) = sum_t w_t S_t with S_t made
of zeros and ones. A lifted edge is then one block S(w_k) of a large matrix for every kept edge k, and one kernel serves
them all. Neighbouring entries of one tap are long runs of contiguous numbers, which is how kernels read them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class StencilPlan:
    """A stencil as contiguous work, for rows of a given number of samples. Offsets count numbers within a copy.

    Args:
        pieces: int64 (S, 5), sorted by tile: where the result starts, its length, how far into their runs its operands
            start, and the first and last + 1 of its links.
        tiles: int64 (tiles + 1,), where the pieces of each tile start.
        links: int64 (links, 2), where the operand's run starts, and its tap.
        sizes: int64 (4,), numbers of a column and of a row, taps, most links of one piece.
    """

    pieces: np.ndarray
    tiles: np.ndarray
    links: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True, eq=False)
class Stencil:
    """S(w), ``rows x columns``, acting along ``width`` numbers of each column.

    Args:
        rows: rows of the result of one copy.
        columns: rows of the activation of one copy.
        taps: T, the number of weights.
        row: int64 (L,), of each entry; there is at least one.
        column: int64 (L,), of each entry.
        tap: int64 (L,), which weight stands there.
        width: how many numbers each row and column has for each sample.
    """

    rows: int
    columns: int
    taps: int
    row: np.ndarray
    column: np.ndarray
    tap: np.ndarray
    width: int = 1

    @classmethod
    def matrix(cls, rows: int, columns: int, width: int = 1) -> "Stencil":
        """A full matrix: every entry has a weight of its own, in row-major order."""
        entry = np.arange(rows * columns)
        return cls(rows, columns, rows * columns, entry // columns, entry % columns, entry, width)

    @cached_property
    def is_matrix(self) -> bool:
        """Whether this is a full matrix."""
        full = self.rows * self.columns
        return len(self.tap) == self.taps == full and bool(
            (self.row * self.columns + self.column == np.arange(full)).all() and (self.tap == np.arange(full)).all()
        )

    def apply(self, taps: np.ndarray, y: np.ndarray) -> np.ndarray:
        """S(w) y, entry by entry: what faster code is checked against.

        Args:
            taps: T numbers, of any shape.
            y: columns * width numbers, of any shape.

        Returns:
            (rows, width).
        """
        made = np.zeros((self.rows, self.width))
        np.add.at(made, self.row, taps.reshape(-1)[self.tap, None] * y.reshape(self.columns, -1)[self.column])
        return made

    @cached_property
    def transposed(self) -> "Stencil":
        """S(w)^T, with the same taps."""
        return Stencil(self.columns, self.rows, self.taps, self.column, self.row, self.tap, self.width)

    @cached_property
    def runs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """First row, first column, tap and length of every longest diagonal run of one tap, sorted by tap; int64."""
        shift = self.column - self.row
        order = np.lexsort((self.row, shift, self.tap))
        row, shift, tap = self.row[order], shift[order], self.tap[order]
        breaks = (np.diff(tap) != 0) | (np.diff(shift) != 0) | (np.diff(row) != 1)
        first = np.flatnonzero(np.append(True, breaks))
        length = np.diff(np.append(first, len(row)))
        return row[first], (row + shift)[first], tap[first], length

    def plan(self, samples: int, tile: int) -> StencilPlan:
        """Cut the result into pieces that read the same taps throughout, and those into tiles over samples.

        Args:
            samples: numbers of one row, for all samples together.
            tile: how many of them belong to one tile. Runs of several rows are left whole, since reading on from row to
                row is worth more than a tile that fits the cache.

        Returns:
            The pieces, in the order of the result's rows.
        """
        key = (samples, tile)
        if key not in self._plans:
            self._plans[key] = self._planned(samples, tile)
        return self._plans[key]

    def _planned(self, samples: int, tile: int) -> StencilPlan:
        row, column, tap, length = self.runs
        cuts = np.unique([0, self.rows, *row, *(row + length)])
        if (np.diff(cuts) > 1).any():
            tile = max(samples, 1)
        first, last = np.searchsorted(cuts, row), np.searchsorted(cuts, row + length)
        count = last - first
        run = np.repeat(np.arange(len(row)), count)
        segment = np.arange(len(run)) + np.repeat(first - np.cumsum(count) + count, count)
        order = np.lexsort((tap[run], segment))
        run, segment = run[order], segment[order]
        links = np.stack([(column[run] + cuts[segment] - row[run]) * samples, tap[run]], axis=1)
        ends = np.searchsorted(segment, np.arange(len(cuts)))
        pieces = []
        for shift in range(0, samples, tile):
            lengths = np.minimum(tile, samples - shift) if samples > tile else np.diff(cuts) * samples
            columns = (cuts[:-1] * samples + shift, lengths, shift, ends[:-1], ends[1:])
            pieces.append(np.stack(np.broadcast_arrays(*columns), axis=1))
        tiles = np.arange(len(pieces) + 1) * (len(cuts) - 1)
        sizes = np.array([self.columns * samples, self.rows * samples, self.taps, np.diff(ends).max()])
        return StencilPlan(
            np.concatenate([np.empty((0, 5), np.int64), *pieces]), tiles, np.ascontiguousarray(links), sizes
        )

    def parts(self, most: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Row, column and tap of the entries, at most ``most`` (but at least one) at a time."""
        for start in range(0, len(self.tap), max(most, 1)):
            stop = start + max(most, 1)
            yield self.row[start:stop], self.column[start:stop], self.tap[start:stop]

    @cached_property
    def _plans(self) -> dict[tuple[int, int], StencilPlan]:
        return {}


POINT = Stencil.matrix(1, 1)
"""One weight times one row."""
