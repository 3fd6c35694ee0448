"""The three sparse products in plain torch, on any device: what every other implementation is checked against.

All are partial derivatives of one trilinear form, over the entries k at (row r_k, column c_k) of a pattern,

    T(w, x, g) = sum_k  w_k <g[r_k], x[c_k]>

with w (E,), x (columns, M), g (rows, M). Where an entry is a stencil of T weights that joins its rows and columns, w is
(E * T,), x (columns * stencil.columns, M), g (rows * stencil.rows, M), and the sum runs over the stencils' entries.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rsl_cli.kernels.pattern import Pattern

_MOST = 1 << 24
"""Numbers gathered at a time."""


def product(weight: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """dT/dg: the sparse matrix times x."""
    out = x.new_zeros(pattern.rows * pattern.stencil.rows, x.shape[1])
    for rows, columns, places in _entries(pattern, x):
        out.index_add_(0, rows, weight[places, None] * x[columns])
    return out


def transposed_product(weight: Tensor, g: Tensor, pattern: Pattern) -> Tensor:
    """dT/dx: the transposed sparse matrix times g."""
    out = g.new_zeros(pattern.columns * pattern.stencil.columns, g.shape[1])
    for rows, columns, places in _entries(pattern, g):
        out.index_add_(0, columns, weight[places, None] * g[rows])
    return out


def sampled_product(x: Tensor, g: Tensor, pattern: Pattern) -> Tensor:
    """dT/dw: the dense product g x^T at the pattern's entries only, (E * T,)."""
    out = x.new_zeros(pattern.size * pattern.stencil.taps)
    for rows, columns, places in _entries(pattern, x):
        out.index_add_(0, places, (g[rows] * x[columns]).sum(1))
    return out


def entry_products(pattern: Pattern, factor: float, g: Tensor, x: Tensor, out: Tensor) -> None:
    """The sampled product before samples are summed, times a factor.

    Args:
        pattern: with a stencil of some width, over which is summed.
        factor: of every entry.
        g: (rows * stencil.rows * width, N).
        x: (columns * stencil.columns * width, N).
        out: (E * T, N), overwritten.
    """
    width, samples = pattern.stencil.width, out.shape[1]
    g, x = (operand.view(len(operand) // width, width, samples) for operand in (g, x))
    out.zero_()
    for rows, columns, places in _entries(pattern, g):
        out.index_add_(0, places, (g[rows] * x[columns]).sum(1), alpha=factor)


def _entries(pattern: Pattern, like: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Row, column and place among the weights of all entries of all stencils, int64, in parts."""
    stencil = pattern.stencil
    rows, columns = pattern.on(like.device, _positions)
    entry = torch.arange(pattern.size, device=like.device)
    most = _MOST // max(pattern.size * like[:1].numel(), 1)
    for part in stencil.parts(most):
        r, c, t = (torch.as_tensor(index, dtype=torch.int64, device=like.device) for index in part)
        yield (
            (rows[:, None] * stencil.rows + r).flatten(),
            (columns[:, None] * stencil.columns + c).flatten(),
            (entry[:, None] * stencil.taps + t).flatten(),
        )


def _positions(pattern: Pattern) -> tuple[np.ndarray, ...]:
    return pattern.row_of, pattern.indices
