"""The three sparse products in plain torch, on any device: what every other implementation is checked against.

All are partial derivatives of one trilinear form, over the entries k at (row r_k, column c_k) of a pattern,

    T(w, x, g) = sum_k  w_k <g[r_k], x[c_k]>

with w (E,), x (columns, M), g (rows, M).
"""

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
