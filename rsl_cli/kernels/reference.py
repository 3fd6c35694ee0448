"""The three sparse products in plain torch, on any device: what every other implementation is checked against.

All are partial derivatives of one trilinear form, over the entries k at (row r_k, column c_k) of a pattern,

    T(w, x, g) = sum_k  w_k <g[r_k], x[c_k]>

with w (E,), x (columns, M), g (rows, M).
"""

import numpy as np
import torch
from torch import Tensor

from rsl_cli.kernels.pattern import Pattern


def product(weight: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """dT/dg: the sparse matrix times x, (rows, M)."""
    rows, columns = pattern.on(x.device)
    return x.new_zeros(pattern.rows, x.shape[1]).index_add_(0, rows, weight[:, None] * x[columns])


def transposed_product(weight: Tensor, g: Tensor, pattern: Pattern) -> Tensor:
    """dT/dx: the transposed sparse matrix times g, (columns, M)."""
    rows, columns = pattern.on(g.device)
    return g.new_zeros(pattern.columns, g.shape[1]).index_add_(0, columns, weight[:, None] * g[rows])


def sampled_product(x: Tensor, g: Tensor, pattern: Pattern) -> Tensor:
    """dT/dw: the dense product g x^T at the pattern's entries only, (E,)."""
    rows, columns = pattern.on(x.device)
    return (g[rows] * x[columns]).sum(1)


def entry_products(
    rows: np.ndarray, columns: np.ndarray, factor: float, g: Tensor, x: Tensor, width: int, out: Tensor
) -> None:
    """The sampled product before samples are summed: row k of out becomes factor <g[r_k], x[c_k]> for each sample.

    Args:
        rows: int32 (E,), r_k.
        columns: int32 (E,), c_k.
        factor: of every entry.
        g: (rows * width, N).
        x: (columns * width, N).
        width: numbers a copy of one row has for each sample, over which is summed.
        out: (E, N), overwritten.
    """
    r, c = (torch.as_tensor(index, dtype=torch.int64, device=x.device) for index in (rows, columns))
    samples = out.shape[1]
    torch.sum(g.view(-1, width, samples)[r] * x.view(-1, width, samples)[c], 1, out=out)
    out *= factor
