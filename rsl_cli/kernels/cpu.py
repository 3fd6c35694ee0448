"""The three sparse products on CPU cores, compiled by Numba once and cached on disk.

Rows of samples are contiguous, so a product is a handful of long multiply-adds per kept edge. Samples are cut into
tiles small enough for the gathered operand to stay in a core's L2 cache, and those into strips, summed in registers.
Every row (or, for the sampled product, every entry) is computed by one thread in one order, whatever lies around it:
results do not depend on the number of threads, nor on what else is in the same union.
"""

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from rsl_cli.kernels.jit import jit
from rsl_cli.kernels.pattern import Pattern
from rsl_cli.kernels.strip import add_dots, lanes, multiply_add, weighted_sum

_TILE_BYTES = 1 << 19
"""Share of a core's L2 cache that the gathered operand of one tile may fill."""
_LEAST_TILE = 512
"""Samples below which starting on the next row costs more than reading from beyond L2."""
_DOT_TILE = 512
"""Samples summed at a time, alike for every pattern: where a sum is cut decides how it is rounded."""
_SERIAL_WORK = 1 << 15
"""Multiply-adds below which waking a second thread costs more than it saves."""


def product(weight: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """The sparse matrix times x."""
    return _product(pattern.indptr, pattern.indices, weight.numpy(), x, pattern, transposed=False)


def transposed_product(weight: Tensor, g: Tensor, pattern: Pattern) -> Tensor:
    """The transposed sparse matrix times g."""
    indptr, rows, positions = pattern.transposed
    taps = pattern.stencil.taps
    ordered = weight.numpy().take(positions) if taps == 1 else weight.numpy().reshape(-1, taps)[positions].reshape(-1)
    return _product(indptr, rows, ordered, g, pattern, transposed=True)


def _product(
    indptr: np.ndarray, indices: np.ndarray, weight: np.ndarray, x: Tensor, pattern: Pattern, *, transposed: bool
) -> Tensor:
    stencil = pattern.stencil.transposed if transposed else pattern.stencil
    rows, columns = (pattern.columns, pattern.rows) if transposed else (pattern.rows, pattern.columns)
    samples = x.shape[1]
    out = torch.empty(rows * stencil.rows, samples, dtype=x.dtype)
    plan = stencil.plan(samples, _tile(columns // pattern.blocks * stencil.columns, x))
    numbers = (x.numpy().reshape(-1), out.numpy().reshape(-1))
    arguments = (indptr, indices, weight, *numbers, plan.pieces, plan.tiles, plan.links, plan.sizes)
    threads = _threads(pattern.size * len(stencil.tap) * samples)
    if threads == 1:
        _rows(0, rows, *arguments)
    else:
        _rows_parallel(_chunks(pattern, threads, transposed=transposed), *arguments)
    return out


def sampled_product(x: Tensor, g: Tensor, pattern: Pattern) -> Tensor:
    """The dense product g x^T at the pattern's entries only, (E * T,)."""
    stencil, samples = pattern.stencil, x.shape[1]
    out = torch.empty(pattern.size * stencil.taps, dtype=x.dtype)
    plan = stencil.plan(samples, _DOT_TILE)
    numbers = (x.numpy().reshape(-1), g.numpy().reshape(-1), out.numpy())
    arguments = (pattern.indptr, pattern.indices, *numbers, plan.pieces, plan.tiles, plan.links, plan.sizes)
    threads = _threads(pattern.size * len(stencil.tap) * samples)
    if threads == 1:
        _dots(0, pattern.rows, *arguments)
    else:
        _dots_parallel(_chunks(pattern, threads), *arguments)
    return out


def entry_products(pattern: Pattern, factor: float, g: Tensor, x: Tensor, out: Tensor) -> None:
    """Entry by entry and sample by sample, the sampled product before samples are summed; see the reference."""
    stencil = pattern.stencil
    runs = np.stack(stencil.runs, axis=1)
    starts = np.searchsorted(runs[:, 2], np.arange(stencil.taps + 1))
    sizes = np.array([stencil.columns, stencil.rows, stencil.taps, stencil.width])
    _entries(pattern.row_of, pattern.indices, factor, g.numpy(), x.numpy(), runs, starts, sizes, out.numpy())


def _tile(gathered_rows: int, operand: Tensor) -> int:
    columns = _TILE_BYTES // (operand.element_size() * max(gathered_rows, 1))
    return max(_LEAST_TILE, columns // 64 * 64)


def _threads(work: int) -> int:
    if work < _SERIAL_WORK:
        return 1
    threads = torch.get_num_threads()
    if threads == 1:
        return 1
    # Starting Numba's threads sets the OpenMP library's number, which torch shares, to its own.
    if numba.get_num_threads() != threads:
        most = numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
        numba.set_num_threads(min(threads, most))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


def _chunks(pattern: Pattern, threads: int, *, transposed: bool = False) -> np.ndarray:
    # Some more than threads, for a thread that another program slows down.
    return pattern.chunks(4 * threads, transposed=transposed)


@jit(nogil=True)
def _rows(first, last, indptr, indices, weight, x, out, pieces, tiles, links, sizes):
    of_column, of_row, taps, widest = sizes
    most = _longest(first, last, indptr) * widest if taps > 1 or widest > 1 else 0
    starts, weights = np.empty(most, np.int64), np.empty(most, weight.dtype)
    for tile in range(len(tiles) - 1):
        for row in range(first, last):
            for piece in range(tiles[tile], tiles[tile + 1]):
                start, length, shift, link, end = pieces[piece]
                into = out[row * of_row + start : row * of_row + start + length]
                if taps == 1 and end - link == 1:
                    shift += links[link, 0]
                    _add_up(indptr[row], indptr[row + 1], indices, of_column, shift, weight, x, into)
                    continue
                n = np.int64(0)  # As a literal it would have `_add_up` compiled once more for itself.
                for k in range(indptr[row], indptr[row + 1]):
                    for term in range(link, end):
                        starts[n] = indices[k] * of_column + links[term, 0]
                        weights[n] = weight[k * taps + links[term, 1]]
                        n += 1
                _add_up(np.int64(0), n, starts, np.int64(1), shift, weights, x, into)


@jit(nogil=True)
def _longest(first, last, indptr):
    most = 0
    for row in range(first, last):
        most = max(most, indptr[row + 1] - indptr[row])
    return most


@jit(nogil=True)
def _add_up(begin, end, starts, factor, shift, weight, x, into):
    """Sum weight[k] * x[starts[k] * factor + shift:] over k into a piece of the result."""
    strip = lanes(x)
    whole = len(into) // strip * strip
    for m in range(0, whole, strip):
        weighted_sum(x, starts, factor, shift + m, None, weight, begin, end, into, m)
    rest = into[whole:]
    rest[:] = 0
    for k in range(begin, end if len(rest) > 0 else begin):
        # Unsigned: signed ones could be negative, which would be looked after at every access.
        w, a = weight[k], np.uintp(starts[k] * factor + shift + whole)
        for m in range(np.uintp(len(rest))):
            rest[m] = multiply_add(w, x[a + m], rest[m])


@jit(nogil=True)
def _dots(first, last, indptr, indices, x, g, out, pieces, tiles, links, sizes):
    of_column, of_row, taps, widest = sizes
    for place in range(indptr[first] * taps, indptr[last] * taps):
        out[place] = 0.0
    most = _longest(first, last, indptr) * widest if taps > 1 or widest > 1 else 0
    starts, sums = np.empty(most, np.int64), np.empty(most, out.dtype)
    for tile in range(len(tiles) - 1):
        for row in range(first, last):
            k, stop = indptr[row], indptr[row + 1]
            for piece in range(tiles[tile], tiles[tile + 1]):
                start, length, shift, link, end = pieces[piece]
                b = g[row * of_row + start : row * of_row + start + length]
                if taps == 1 and end - link == 1:
                    _add_dots(indices[k:stop], of_column, shift + links[link, 0], x, b, out[k:stop])
                    continue
                n = 0
                for entry in range(k, stop):
                    for term in range(link, end):
                        starts[n] = indices[entry] * of_column + links[term, 0]
                        n += 1
                sums[:n] = 0.0
                _add_dots(starts[:n], 1, shift, x, b, sums)
                n = 0
                for entry in range(k, stop):
                    for term in range(link, end):
                        out[entry * taps + links[term, 1]] += sums[n]
                        n += 1


@jit(nogil=True)
def _add_dots(starts, factor, shift, x, b, into):
    """Add <x[starts[k] * factor + shift:], b> to into[k]."""
    strip = lanes(x)
    whole = len(b) // strip * strip
    for m in range(0, whole, strip):
        add_dots(x, starts, factor, shift + m, None, 0, len(starts), b, m, into)
    if whole == len(b):
        return
    if whole > 0:
        # Once more over the last strip, of which what is counted already counts for nothing.
        last = len(b) - strip
        rest = b[last:].copy()
        rest[: whole - last] = 0
        add_dots(x, starts, factor, shift + last, None, 0, len(starts), rest, 0, into)
        return
    for k in range(len(starts)):
        a = np.uintp(starts[k] * factor + shift)
        s = x.dtype.type(0.0)
        for m in range(np.uintp(len(b))):
            s = multiply_add(x[a + m], b[m], s)
        into[k] += s


@jit(nogil=True, parallel=True)
def _rows_parallel(chunks, indptr, indices, weight, x, out, pieces, tiles, links, sizes):
    for chunk in prange(len(chunks) - 1):
        _rows(chunks[chunk], chunks[chunk + 1], indptr, indices, weight, x, out, pieces, tiles, links, sizes)


@jit(nogil=True, parallel=True)
def _dots_parallel(chunks, indptr, indices, x, g, out, pieces, tiles, links, sizes):
    for chunk in prange(len(chunks) - 1):
        _dots(chunks[chunk], chunks[chunk + 1], indptr, indices, x, g, out, pieces, tiles, links, sizes)


@jit(nogil=True)
def _entries(row_of, indices, factor, g, x, runs, run_starts, sizes, out):
    of_column, of_row, taps, width = sizes
    for k in range(len(indices)):
        for tap in range(taps):
            into = out[k * taps + tap]
            first = True
            for run in range(run_starts[tap], run_starts[tap + 1]):
                row, column, _, length = runs[run]
                row, column = (row_of[k] * of_row + row) * width, (indices[k] * of_column + column) * width
                for w in range(length * width):
                    b, a = g[row + w], x[column + w]
                    if first:
                        for m in range(np.uintp(len(into))):
                            into[m] = factor * b[m] * a[m]
                        first = False
                    else:
                        for m in range(np.uintp(len(into))):
                            into[m] += factor * b[m] * a[m]
            if first:
                into[:] = 0.0
