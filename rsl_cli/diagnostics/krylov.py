"""Bounds on kappa from products with a matrix alone, for problems whose matrix is too large to be factorised.

Golub and Kahan's bidiagonalisation of A started from b (1965, *Calculating the singular values and pseudo-inverse of a
matrix*) builds orthonormal U and V with A V = U B, B lower bidiagonal. Over steps in the range of V the problem is that
of B, (j + 1, j), whose kappa is an upper bound. The square part of B, (j, j), is the same for the dual problem: its
kappa is max over mu of b^T (A A^T + mu I)^-1 b - 2 eps / mu with the quadratic form replaced by its Gauss quadrature,
which is a lower bound on it (Golub and Meurant, 2010, *Matrices, moments and quadrature*, section 6). No network is
known here.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from rsl_cli.diagnostics.secular import ROUNDING, Spectrum
from rsl_cli.kernels.serial import norm, one_thread

Product = Callable[[Tensor], Tensor]

MOST_STEPS = 500
"""Of the bidiagonalisation; 90 to 130 were observed to resolve targets of 1e-6 at 200 to 3300 parameters."""

_MOST_NUMBERS = 1 << 28
_BETWEEN_CHECKS = 10


class Bidiagonalisation:
    """A problem min |u|^2 subject to 1/2 |b - A u|^2 <= eps, known by products.

    Args:
        b: float64 (m,).
        times: u (n,) to A u (m,).
        transposed: c (m,) to A^T c (n,).
        columns: n.
        most_steps: after which what is not resolved remains unknown; fewer where bases of so many vectors would not
            fit 2 GiB.
    """

    def __init__(
        self, b: Tensor, times: Product, transposed: Product, columns: int, most_steps: int = MOST_STEPS
    ) -> None:
        self._times, self._transposed = times, transposed
        self._most = max(1, min(most_steps, columns, len(b), _MOST_NUMBERS // (columns + len(b))))
        self._left = b.new_empty(self._most + 1, len(b))
        self._right = b.new_empty(self._most, columns)
        self._diagonal: list[float] = []
        self._below: list[float] = []
        self._norm = norm(b)
        self._left[0] = b / self._norm if self._norm > 0 else b
        self._exhausted = self._norm == 0

    def kappa(self, epsilons: Sequence[float], accuracy: float) -> list[float]:
        """Iterate until upper and lower bounds on kappa agree for all targets.

        Args:
            epsilons: target losses below 1/2 |b|^2.
            accuracy: by how much upper bounds may exceed lower ones, relatively.

        Returns:
            Upper bounds, infinite where no step leads to the target that does not go along directions within rounding
            of 0; NaN where the bounds do not agree after the last step.
        """
        while True:
            upper, lower = self._bounds(epsilons)
            resolved = [high <= (1 + accuracy) * low for high, low in zip(upper, lower, strict=True)]
            if all(resolved) or self._exhausted or len(self._diagonal) == self._most:
                return [high if known else math.nan for high, known in zip(upper, resolved, strict=True)]
            for _ in range(_BETWEEN_CHECKS):
                self._advance()

    @property
    def least(self) -> float:
        """The least loss that a step reaches; NaN before the range of A is exhausted."""
        return self._spectrum().least if self._exhausted else math.nan

    def _bounds(self, epsilons: Sequence[float]) -> tuple[list[float], list[float]]:
        over = self._spectrum()
        under = over if self._exhausted else self._spectrum(square=True)
        return [over.kappa(epsilon) for epsilon in epsilons], [under.kappa(epsilon) for epsilon in epsilons]

    def _spectrum(self, square: bool = False) -> Spectrum:
        j = len(self._diagonal)
        matrix = np.zeros((j + 1, j))
        matrix[range(j), range(j)], matrix[range(1, j + 1), range(j)] = self._diagonal, self._below
        rows = j if square else j + 1
        b = np.zeros(rows)
        b[:1] = self._norm
        return Spectrum.of(matrix[:rows], b)

    def _advance(self) -> None:
        j = len(self._diagonal)
        if self._exhausted or j == self._most:
            return
        v, alpha = _orthonormal(self._transposed(self._left[j]), self._right[:j])
        if alpha <= self._negligible():
            self._exhausted = True
            return
        self._right[j] = v
        self._diagonal.append(alpha)
        u, beta = _orthonormal(self._times(v), self._left[: j + 1])
        self._left[j + 1] = u
        self._below.append(beta)
        self._exhausted = beta <= self._negligible() or j + 1 == self._right.shape[1]

    def _negligible(self) -> float:
        """What an entry of B is if the range of A is used up, in float64."""
        return 8 * ROUNDING * math.hypot(*self._diagonal, *self._below)


def _orthonormal(vector: Tensor, basis: Tensor) -> tuple[Tensor, float]:
    """Take a vector's part in the span of the rows of a basis away, twice as rounding demands; and its norm."""
    with one_thread():
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
    length = norm(vector)
    return vector / max(length, 1e-300), length
