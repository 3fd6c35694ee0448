"""The three sparse products on CPU cores, compiled by Numba once and cached on disk.

Rows of samples are contiguous, so a product is a handful of long multiply-adds per kept edge. Samples are cut into
tiles small enough for the gathered operand to stay in a core's L2 cache; in-edges are unrolled by eight and four.
Every row (or, for the sampled product, every entry) is computed by one thread in one order, whatever lies around it:
results do not depend on the number of threads, nor on what else is in the same union.
"""

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from rsl_cli.kernels.pattern import Pattern

_FAST = {"contract", "reassoc", "nsz", "arcp"}
_TILE_BYTES = 1 << 19
"""Share of a core's L2 cache that the gathered operand of one tile may fill."""
_LEAST_TILE = 512
"""Samples below which starting on the next row costs more than reading from beyond L2."""
_DOT_TILE = 512
"""Samples summed at a time, alike for every pattern: where a sum is cut decides how it is rounded."""
_SERIAL_WORK = 1 << 15
"""Multiply-adds below which waking a second thread costs more than it saves."""


def product(weight: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """The sparse matrix times x, (rows, M)."""
    out = torch.empty(pattern.rows, x.shape[1], dtype=x.dtype)
    tile = _tile(pattern.columns // pattern.blocks, x)
    arguments = (pattern.indptr, pattern.indices, weight.numpy(), x.numpy(), out.numpy(), tile)
    threads = _threads(pattern.size * x.shape[1])
    if threads == 1:
        _rows(0, pattern.rows, *arguments)
    else:
        _rows_parallel(_chunks(pattern, threads), *arguments)
    return out


def transposed_product(weight: Tensor, g: Tensor, pattern: Pattern) -> Tensor:
    """The transposed sparse matrix times g, (columns, M)."""
    out = torch.empty(pattern.columns, g.shape[1], dtype=g.dtype)
    indptr, rows, positions = pattern.transposed
    tile = _tile(pattern.rows // pattern.blocks, g)
    arguments = (indptr, rows, weight.numpy().take(positions), g.numpy(), out.numpy(), tile)
    threads = _threads(pattern.size * g.shape[1])
    if threads == 1:
        _rows(0, pattern.columns, *arguments)
    else:
        _rows_parallel(_chunks(pattern, threads, transposed=True), *arguments)
    return out


def sampled_product(x: Tensor, g: Tensor, pattern: Pattern) -> Tensor:
    """The dense product g x^T at the pattern's entries only, (E,)."""
    out = torch.empty(pattern.size, dtype=x.dtype)
    arguments = (pattern.indptr, pattern.indices, x.numpy(), g.numpy(), out.numpy(), _DOT_TILE)
    threads = _threads(pattern.size * x.shape[1])
    if threads == 1:
        _dots(0, pattern.rows, *arguments)
    else:
        _dots_parallel(_chunks(pattern, threads), *arguments)
    return out


def entry_products(
    rows: np.ndarray, columns: np.ndarray, factor: float, g: Tensor, x: Tensor, width: int, out: Tensor
) -> None:
    """Entry by entry and sample by sample, the sampled product before samples are summed; see the reference."""
    _entries(rows, columns, factor, g.numpy(), x.numpy(), width, out.numpy())


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


@njit(cache=True, fastmath=_FAST, nogil=True)
def _rows(first, last, indptr, indices, weight, x, out, tile):
    samples = x.shape[1]
    for start in range(0, samples, tile):
        stop = min(start + tile, samples)
        for row in range(first, last):
            k, end = indptr[row], indptr[row + 1]
            into = out[row, start:stop]
            if end - k >= 8:
                _eight(k, indices, weight, x, into, start, stop, False)
                k += 8
            elif end - k >= 4:
                _four(k, indices, weight, x, into, start, stop, False)
                k += 4
            elif end > k:
                w, a = weight[k], x[indices[k], start:stop]
                for m in range(stop - start):
                    into[m] = w * a[m]
                k += 1
            else:
                for m in range(stop - start):
                    into[m] = 0.0
            while end - k >= 8:
                _eight(k, indices, weight, x, into, start, stop, True)
                k += 8
            if end - k >= 4:
                _four(k, indices, weight, x, into, start, stop, True)
                k += 4
            while k < end:
                w, a = weight[k], x[indices[k], start:stop]
                for m in range(stop - start):
                    into[m] += w * a[m]
                k += 1


@njit(cache=True, fastmath=_FAST, nogil=True, inline="always")
def _eight(k, indices, weight, x, into, start, stop, add):
    w0, w1, w2, w3 = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
    w4, w5, w6, w7 = weight[k + 4], weight[k + 5], weight[k + 6], weight[k + 7]
    a0, a1, a2, a3 = (
        x[indices[k], start:stop],
        x[indices[k + 1], start:stop],
        x[indices[k + 2], start:stop],
        x[indices[k + 3], start:stop],
    )
    a4, a5, a6, a7 = (
        x[indices[k + 4], start:stop],
        x[indices[k + 5], start:stop],
        x[indices[k + 6], start:stop],
        x[indices[k + 7], start:stop],
    )
    if add:
        for m in range(stop - start):
            into[m] += (w0 * a0[m] + w1 * a1[m] + w2 * a2[m] + w3 * a3[m]) + (
                w4 * a4[m] + w5 * a5[m] + w6 * a6[m] + w7 * a7[m]
            )
    else:
        for m in range(stop - start):
            into[m] = (w0 * a0[m] + w1 * a1[m] + w2 * a2[m] + w3 * a3[m]) + (
                w4 * a4[m] + w5 * a5[m] + w6 * a6[m] + w7 * a7[m]
            )


@njit(cache=True, fastmath=_FAST, nogil=True, inline="always")
def _four(k, indices, weight, x, into, start, stop, add):
    w0, w1, w2, w3 = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
    a0, a1, a2, a3 = (
        x[indices[k], start:stop],
        x[indices[k + 1], start:stop],
        x[indices[k + 2], start:stop],
        x[indices[k + 3], start:stop],
    )
    if add:
        for m in range(stop - start):
            into[m] += w0 * a0[m] + w1 * a1[m] + w2 * a2[m] + w3 * a3[m]
    else:
        for m in range(stop - start):
            into[m] = w0 * a0[m] + w1 * a1[m] + w2 * a2[m] + w3 * a3[m]


@njit(cache=True, fastmath=_FAST, nogil=True)
def _dots(first, last, indptr, indices, x, g, out, tile):
    samples = x.shape[1]
    for k in range(indptr[first], indptr[last]):
        out[k] = 0.0
    for start in range(0, samples, tile):
        stop = min(start + tile, samples)
        for row in range(first, last):
            b = g[row, start:stop]
            k, end = indptr[row], indptr[row + 1]
            while end - k >= 4:
                a0, a1, a2, a3 = (
                    x[indices[k], start:stop],
                    x[indices[k + 1], start:stop],
                    x[indices[k + 2], start:stop],
                    x[indices[k + 3], start:stop],
                )
                s0 = s1 = s2 = s3 = x.dtype.type(0.0)
                for m in range(stop - start):
                    s0 += a0[m] * b[m]
                    s1 += a1[m] * b[m]
                    s2 += a2[m] * b[m]
                    s3 += a3[m] * b[m]
                out[k] += s0
                out[k + 1] += s1
                out[k + 2] += s2
                out[k + 3] += s3
                k += 4
            while k < end:
                a = x[indices[k], start:stop]
                s = x.dtype.type(0.0)
                for m in range(stop - start):
                    s += a[m] * b[m]
                out[k] += s
                k += 1


@njit(cache=True, fastmath=_FAST, nogil=True, parallel=True)
def _rows_parallel(chunks, indptr, indices, weight, x, out, tile):
    for chunk in prange(len(chunks) - 1):
        _rows(chunks[chunk], chunks[chunk + 1], indptr, indices, weight, x, out, tile)


@njit(cache=True, fastmath=_FAST, nogil=True, parallel=True)
def _dots_parallel(chunks, indptr, indices, x, g, out, tile):
    for chunk in prange(len(chunks) - 1):
        _dots(chunks[chunk], chunks[chunk + 1], indptr, indices, x, g, out, tile)


@njit(cache=True, fastmath=_FAST, nogil=True)
def _entries(rows, columns, factor, g, x, width, out):
    for k in range(len(rows)):
        b, a, into = g[rows[k] * width], x[columns[k] * width], out[k]
        for m in range(len(into)):
            into[m] = factor * b[m] * a[m]
        for w in range(1, width):
            b, a = g[rows[k] * width + w], x[columns[k] * width + w]
            for m in range(len(into)):
                into[m] += factor * b[m] * a[m]
