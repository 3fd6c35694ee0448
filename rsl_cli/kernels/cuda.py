"""The three sparse products on a GPU, in Triton.

One program makes one tile of one result: a row (or column) for some samples, or some weights. It adds up in-edges in
their order, or samples in theirs, and nobody else writes there: no atomics, and results that depend neither on the
launch nor on what else is in the same union. Samples are contiguous, so neighbouring threads read neighbouring numbers;
programs run through all rows of one tile of samples before the next, to keep the gathered operand in the L2 cache.
Everything is multiplied and added in its own type: no tensor cores, hence no TF32.

Block sizes were measured on an H200, see below. Triton's interpreter runs the same code on the CPU
(``TRITON_INTERPRET=1``, set before the first import), which is how it is tested without a GPU.
"""

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from rsl_cli.kernels.pattern import Pattern
from rsl_cli.kernels.stencil import Stencil

_LEAST_TILE, _MOST_TILE = 32, 128
"""Samples of one program: the power of two that holds all, within these. Of 32 to 1024 on an H200, 128 gathers fastest
over degrees of 1024 to 65,536 and both types (5 to 8.9 TB/s, out of the L2 cache): wider tiles of all rows no longer
stay in it, narrower ones leave too few bytes to a program."""
_PER_THREAD = 4
"""Numbers of a tile's row that one thread holds: 16 bytes of float32, the most that one instruction loads."""
_WEIGHTS = 4
"""Weights of one program of the sampled product: in-edges of one copy lie side by side and share what they read."""
_ALIGNMENT = 16
"""Bytes. Triton compiles operands that start elsewhere to other code, which may add up in another order."""


def product(weight: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """The sparse matrix times x."""
    return _product(weight, x, pattern.on(x.device, _by_row), pattern.rows, pattern.stencil)


def transposed_product(weight: Tensor, g: Tensor, pattern: Pattern) -> Tensor:
    """The transposed sparse matrix times g."""
    return _product(weight, g, pattern.on(g.device, _by_column), pattern.columns, pattern.stencil.transposed)


def sampled_product(x: Tensor, g: Tensor, pattern: Pattern) -> Tensor:
    """The dense product g x^T at the pattern's entries only, (E * T,)."""
    out = torch.empty(pattern.size * pattern.stencil.taps, dtype=x.dtype, device=x.device)
    _launch_weights(pattern, g, x, out, x.shape[1])
    return out


def entry_products(pattern: Pattern, factor: float, g: Tensor, x: Tensor, out: Tensor) -> None:
    """Entry by entry and sample by sample, the sampled product before samples are summed; see the reference."""
    # Not inside the kernel, to which a number of Python's is a float32.
    g = g if factor == 1 else factor * g
    _launch_weights(pattern, g.contiguous(), x.contiguous(), out, pattern.stencil.width * out.shape[1])


def _product(weight: Tensor, x: Tensor, index: tuple[Tensor, ...], copies: int, stencil: Stencil) -> Tensor:
    rows, samples = copies * stencil.rows, x.shape[1]
    out = torch.empty(rows, samples, dtype=x.dtype, device=x.device)
    tile, warps = _tile(samples)
    sizes = (stencil.rows, stencil.columns, stencil.taps, index[-1].shape[1])
    programs = rows * _tiles(samples, tile)
    tensors = (*index, weight, _aligned(x), out)
    _launch(_rows, programs, warps, tensors, (rows, samples, *sizes), {"SAMPLES": tile})
    return out


def _launch_weights(pattern: Pattern, g: Tensor, x: Tensor, out: Tensor, wide: int) -> None:
    """Launch over (E * T,) or, for rows of several samples each, (E * T, N); ``wide`` numbers make up a row."""
    stencil, index = pattern.stencil, pattern.on(x.device, _by_weight)
    by_sample = out.dim() == 2
    tile, warps = _tile(out.shape[1] if by_sample else wide)
    step = out.shape[1] if by_sample else tile
    sizes = (stencil.rows, stencil.columns, stencil.taps, index[-1].shape[1])
    groups = _tiles(len(out), _WEIGHTS)
    tensors = (*index, _aligned(g), _aligned(x), out)
    constants = {"BY_SAMPLE": by_sample, "WEIGHTS": _WEIGHTS, "SAMPLES": tile}
    _launch(_weights, groups * _tiles(step, tile), warps, tensors, (len(out), groups, wide, step, *sizes), constants)


def _launch(
    kernel: Any,  # Triton's types know no launch.
    programs: int,
    warps: int,
    tensors: tuple[Tensor, ...],
    sizes: tuple[int, ...],
    constants: dict[str, int],
) -> None:
    with torch.cuda.device_of(tensors[0]):
        kernel[programs,](*tensors, *sizes, **constants, num_warps=warps)


def _tile(samples: int) -> tuple[int, int]:
    """Samples and warps of one program."""
    tile = min(max(1 << (samples - 1).bit_length(), _LEAST_TILE), _MOST_TILE)
    return tile, max(tile // (32 * _PER_THREAD), 1)


def _tiles(length: int, tile: int) -> int:
    return -(-length // tile)


def _aligned(operand: Tensor) -> Tensor:
    return operand.clone() if operand.data_ptr() % _ALIGNMENT else operand


def _by_row(pattern: Pattern) -> tuple[np.ndarray, ...]:
    stencil = pattern.stencil
    links = _table(stencil.rows, stencil.row, stencil.column, stencil.tap)
    return pattern.indptr, pattern.indices, np.arange(pattern.size), *links


def _by_column(pattern: Pattern) -> tuple[np.ndarray, ...]:
    stencil = pattern.stencil
    return *pattern.transposed, *_table(stencil.columns, stencil.column, stencil.row, stencil.tap)


def _by_weight(pattern: Pattern) -> tuple[np.ndarray, ...]:
    stencil = pattern.stencil
    return pattern.row_of, pattern.indices, *_table(stencil.taps, stencil.tap, stencil.row, stencil.column)


def _table(count: int, key: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Values by key, (count, most of one key) each; -1 where a key has fewer."""
    order = np.argsort(key, kind="stable")
    sizes = np.bincount(key, minlength=count)
    starts = np.cumsum(sizes) - sizes
    place = key[order], np.arange(len(key)) - starts[key[order]]
    tables = [np.full((count, sizes.max()), -1) for _ in values]
    for table, value in zip(tables, values, strict=True):
        table[place] = value[order]
    return tables


@triton.jit(do_not_specialize=["rows"])
def _rows(
    indptr, indices, positions, link_columns, link_taps, weight, x, out,
    rows, samples, of_row, of_column, of_weight, most, SAMPLES: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row = program % rows
    copy, link = row // of_row, row % of_row * most
    m = (program // rows).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)
    total = tl.full([SAMPLES], 0, x.dtype.element_ty)
    # Unrolled, four edges' indices are read at once, and then their rows.
    first, last = tl.load(indptr + copy), tl.load(indptr + copy + 1)
    for k in tl.range(first, last, loop_unroll_factor=4):  # pyright: ignore[reportGeneralTypeIssues]
        column, place = tl.load(indices + k) * of_column, tl.load(positions + k) * of_weight
        for n in range(most):
            tap = tl.load(link_taps + link + n)
            w = tl.load(weight + place + tap, mask=tap >= 0, other=0.0)
            start = (column + tl.load(link_columns + link + n)) * samples
            total += w * tl.load(x + start + m, mask=(m < samples) & (tap >= 0), other=0.0)
    tl.store(out + row.to(tl.int64) * samples + m, total, mask=m < samples)


@triton.jit(do_not_specialize=["count", "groups"])
def _weights(
    row_of, indices, tap_rows, tap_columns, g, x, out,
    count, groups, wide, step, of_row, of_column, of_weight, most,
    BY_SAMPLE: tl.constexpr, WEIGHTS: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    place = (program % groups).to(tl.int64) * WEIGHTS + tl.arange(0, WEIGHTS)
    n = (program // groups).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)
    real = place < count
    k, tap = place // of_weight, place % of_weight
    row = tl.load(row_of + k, mask=real, other=0) * of_row
    column = tl.load(indices + k, mask=real, other=0) * of_column
    total = tl.full([WEIGHTS, SAMPLES], 0, x.dtype.element_ty)
    for link in range(most):
        r = tl.load(tap_rows + tap * most + link)
        c = tl.load(tap_columns + tap * most + link)
        here = (real & (r >= 0))[:, None]
        for shift in range(0, wide, step):
            m = (shift + n)[None, :]
            mask = here & (n < step)[None, :] & (m < wide)
            b = tl.load(g + ((row + r) * wide)[:, None] + m, mask=mask, other=0.0)
            a = tl.load(x + ((column + c) * wide)[:, None] + m, mask=mask, other=0.0)
            total += b * a
    if BY_SAMPLE:
        mask = real[:, None] & (n < step)[None, :]
        tl.store(out + (place * step)[:, None] + n[None, :], total, mask=mask)
    else:
        tl.store(out + place, tl.sum(total, 1), mask=real)
