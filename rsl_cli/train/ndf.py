"""Numerical differentiation formulas: variable order and step, for stiff systems y' = f(y) of one replica.

Shampine and Reichelt (1997), *The MATLAB ODE suite*, section 2. The state is the backward differences of the last
values, D_0 = y_n, D_j = nabla^j y_n, at the present step size; a step solves

    c f(y) - psi - (y - y_predicted) = 0,   c = h / alpha_k,   psi = (gamma_1 D_1 + ... + gamma_k D_k) / alpha_k

for y. Orders 1 and 2 are L-stable; all orders damp infinitely fast modes at once and are stable in a wedge around the
negative real axis, where the flow's stiff modes lie.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MOST_ORDER = 5
_KAPPA = (0.0, -0.1850, -1 / 9, -0.0823, -0.0415, 0.0)
_GAMMA = tuple(sum(1 / j for j in range(1, k + 1)) for k in range(MOST_ORDER + 1))
_ALPHA = tuple((1 - kappa) * gamma for kappa, gamma in zip(_KAPPA, _GAMMA, strict=True))
_ERROR = tuple(kappa * gamma + 1 / (k + 1) for k, (kappa, gamma) in enumerate(zip(_KAPPA, _GAMMA, strict=True)))


@dataclass
class Differences:
    """Backward differences of a solution, and the formulas that step them.

    Args:
        d: float64 (`MOST_ORDER` + 3, P), d[j] the j-th backward difference.
        h: step size.
        order: k, from 1 to `MOST_ORDER`.
    """

    d: np.ndarray
    h: float
    order: int

    @classmethod
    def start(cls, y: np.ndarray, slope: np.ndarray, h: float) -> "Differences":
        """Begin at order 1 from y and y', (P,) each."""
        d = np.zeros((MOST_ORDER + 3, len(y)))
        d[0], d[1] = y, h * slope
        return cls(d, h, 1)

    @property
    def c(self) -> float:
        """The step over alpha_k: the implicit equation's weight of f."""
        return self.h / _ALPHA[self.order]

    @property
    def predicted(self) -> np.ndarray:
        """The next value by extrapolation, (P,)."""
        return self.d[: self.order + 1].sum(0)

    @property
    def psi(self) -> np.ndarray:
        """What the implicit equation holds fixed, (P,)."""
        k = self.order
        return np.asarray(_GAMMA[1 : k + 1]) @ self.d[1 : k + 1] / _ALPHA[k]

    def error(self, correction: np.ndarray) -> np.ndarray:
        """Leading local error of a step whose solution is the predicted value plus the correction, (P,)."""
        return _ERROR[self.order] * correction

    def neighbour_errors(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """After `advance`: the errors the step would have had one order lower and higher; None where not allowed."""
        k = self.order
        lower = _ERROR[k - 1] * self.d[k] if k > 1 else None
        higher = _ERROR[k + 1] * self.d[k + 2] if k < MOST_ORDER else None
        return lower, higher

    def advance(self, correction: np.ndarray) -> None:
        """Accept a step."""
        k = self.order
        self.d[k + 2] = correction - self.d[k + 1]
        self.d[k + 1] = correction
        for j in range(k, -1, -1):
            self.d[j] += self.d[j + 1]

    def rescale(self, factor: float) -> None:
        """Change the step size by a factor: the differences of the same polynomial on another grid."""
        k = self.order
        self.d[: k + 1] = (_grid_change(k, factor) @ _grid_change(k, 1.0)).T @ self.d[: k + 1]
        self.h *= factor

    def at(self, back: float) -> tuple[np.ndarray, np.ndarray]:
        """The interpolating polynomial, ``back`` of time before the present, and its derivative by time, (P,) each."""
        x, value, slope = -back / self.h, self.d[0].copy(), np.zeros_like(self.d[0])
        weight, change = 1.0, 0.0
        for j in range(self.order):
            weight, change = weight * (x + j) / (j + 1), (change * (x + j) + weight) / (j + 1)
            value += weight * self.d[j + 1]
            slope += change / self.h * self.d[j + 1]
        return value, slope


@lru_cache(maxsize=64)
def _grid_change(order: int, factor: float) -> np.ndarray:
    """Matrix (k + 1, k + 1) of differences over steps ``factor`` h in terms of those over h; see section 2.2 there."""
    matrix = np.zeros((order + 1, order + 1))
    matrix[0] = 1.0
    for i in range(1, order + 1):
        for j in range(1, order + 1):
            matrix[i, j] = math.prod((m - 1 - factor * j) / m for m in range(1, i + 1))
    return matrix
