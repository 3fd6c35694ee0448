"""The shortest step that takes a linear least squares problem down to a given loss, from the problem's spectrum.

kappa(eps) = min |u|^2 subject to 1/2 |A u - b|^2 <= eps has the minimiser u = (A^T A + mu I)^-1 A^T b, where mu > 0
solves a scalar, monotone, so-called secular equation (Golub and Van Loan, 2013, *Matrix computations*, section 6.2).
With the singular values s of A and the parts beta of b along its left singular vectors, u has the squared length
sum (s beta / (s^2 + mu))^2, so that one factorisation answers for every eps. No network is known here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Array = NDArray[np.float64]

ROUNDING = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Spectrum:
    """A least squares problem in its singular basis.

    Args:
        squares: s^2 > 0, (m,).
        parts: beta^2, (m,).
        least: the loss below which no step leads: 1/2 the squared distance of b from the range of A.
    """

    squares: Array
    parts: Array
    least: float

    @classmethod
    def of(cls, matrix: Array, b: Array, beyond: float = 0.0) -> "Spectrum":
        """Decompose a problem.

        Singular values within rounding of 0, that is below 8 ulp of the matrix's Frobenius norm, count as 0: what lies
        along them is out of range.

        Args:
            matrix: A, (m, n).
            b: (m,).
            beyond: one more number of b, where A has a row of zeros.

        Returns:
            The problem along its singular vectors.
        """
        left, values, _ = np.linalg.svd(matrix, full_matrices=False)
        parts = left.T @ b
        outside = b - left @ parts
        kept = values > 8 * ROUNDING * np.linalg.norm(values)
        least = 0.5 * (beyond**2 + float(outside @ outside) + float(parts[~kept] @ parts[~kept]))
        return cls(values[kept] ** 2, parts[kept] ** 2, least)

    def kappa(self, epsilon: float) -> float:
        """The squared length; 0 if no step is needed, infinite if no step is enough."""
        gain = 0.5 * float(self.parts.sum()) + self.least - epsilon
        left = epsilon - self.least
        if gain <= 0:
            return 0.0
        if left <= 0:
            return math.inf
        # Were all singular values the least one, or all the greatest one.
        share = math.sqrt(left / (left + gain))
        ratio = share * (1 + share) * (left + gain) / gain
        bracket = float(self.squares.min()) * ratio, float(self.squares.max()) * ratio
        # Of the loss left and the loss gained, the smaller is known to more digits.
        mu = _root(self._left, left, bracket) if left < gain else _root(self._gain, gain, bracket)
        return float(np.sum(self.squares * self.parts / (self.squares + mu) ** 2))

    def _left(self, mu: float) -> float:
        """The loss left in range."""
        return 0.5 * float(np.sum((mu / (self.squares + mu)) ** 2 * self.parts))

    def _gain(self, mu: float) -> float:
        """The loss gained, without the cancellation that a difference of losses would suffer."""
        share = self.squares / (self.squares + mu)
        return 0.5 * float(np.sum(share * (1 + mu / (self.squares + mu)) * self.parts))


def _root(function: Callable[[float], float], value: float, bracket: tuple[float, float]) -> float:
    """The mu at which a positive, monotone function has a value: bracketed, in logarithms, to rounding."""

    def off(log_mu: float) -> float:
        return math.log(function(math.exp(log_mu)) / value)

    # Where all singular values are equal the bracket is a point, and rounding may put the root beside it.
    low, high = math.log(bracket[0]) - 1e-3, math.log(bracket[1]) + 1e-3
    return math.exp(brentq(off, low, high, xtol=1e-14, rtol=4 * ROUNDING))  # pyright: ignore[reportArgumentType]
