"""Newton's method for the flow's implicit equation, z + psi + c grad L(y + z) = 0, by products with its matrix alone.

Where classes are learned the Gauss-Newton matrix of N samples and K outputs costs as much as hundreds to thousands of
gradients, while few of its eigenvalues are above 1/c: those of cross-entropy fall with the loss, so that c times the
largest stays of order 10 whatever the time. The conjugate gradients then need some ten products with I + c grad^2 L,
each the difference of two gradients (Knoll and Keyes, 2004, *Jacobian-free Newton-Krylov methods*), whichever base and
loss there is: no matrix is formed, no memory grows but with P, and what is solved is the flow's own equation.

Tried on the way of digits (perceptrons of degree 8 under cross-entropy and 32 under half the squared error,
convolutions of degree 4), products for one solution early | late, and what each costs beside them in gradients:
none, 2..6 | 7..26, 51 under the squared error at t = 1e4, 140 at 1e5; the diagonal, 2..5 | 5..25, 78, 93 and K
gradients; 20 secants of the step before, 2..5 | 4..17, 44, 176, saving an eighth of a whole run's gradients under
cross-entropy and costing as much under the squared error; deflation of 20 Ritz vectors, 2..6 | 4..35, 41, 210; the
Gauss-Newton matrix of 64 samples, 2..9 | 3..30, 30, 229 and 80 to 130 gradients. None of them paid for itself.
"""

import math
from collections.abc import Callable, Generator

import numpy as np

from rsl_cli.train.newton import FEW_STEPS, LEAST_CONVEXITY, MOST_GROWTH, POLISHED, Norm, Solution, is_finite
from rsl_cli.train.replicas import Answer, Request

_ROUNDS = 6
"""Newton's steps towards one solution."""
_WORSE = 2.0
"""A step that leaves the residual this much larger has gone astray."""
_SHARE = 0.3
"""Of the tolerance that linear equations are solved to,"""
_FALL = 0.03
"""or of their right side, whichever is larger."""
_MOST_PRODUCTS = 500
"""Of one linear equation, which is left as it is then: Newton's next step goes on."""
_DIFFERENCE = np.finfo(np.float64).eps ** 0.5
"""Between the points of a difference, in units of 1 + |theta|."""


class NewtonKrylov:
    """The solver of one replica's implicit equations; keeps nothing from step to step. See `Newton` for what each does.

    Args:
        tolerance: of a solution, in units of the norm.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance

    def solve(
        self, last: np.ndarray, predicted: np.ndarray, psi: np.ndarray, c: float, norm: Norm
    ) -> Generator[Request, Answer, Solution | None]:
        """See `rsl_cli.train.newton.Newton.solve`."""
        least, previous = _SHARE * self._tolerance, math.inf
        z, answer = np.zeros_like(predicted), (yield Request(predicted))
        for taken in range(_ROUNDS + 1):
            residual = c * answer.gradient + psi + z
            size = norm(residual)
            # The matrix being at least about I, the residual is at least about the error.
            if size <= self._tolerance:
                return Solution(z, answer.loss, min(max(taken, 1), FEW_STEPS))
            if not (is_finite(answer) and size < _WORSE * previous) or taken == _ROUNDS:
                return None
            update = yield from _update(predicted + z, answer, c, residual, norm, max(least, _FALL * size))
            if update is None:
                return None
            z, previous = z + update, size
            answer = yield Request(predicted + z)
        return None

    @property
    def most_growth(self) -> float:
        """See `rsl_cli.train.newton.Newton.most_growth`."""
        return MOST_GROWTH

    def accepted(self) -> None:
        """The step was taken."""

    def grow(self) -> bool:
        """Whether there is a better matrix: none is better than the one that is multiplied by."""
        return False

    def state(self) -> dict[str, np.ndarray]:
        """Arrays to go on from, for `resume`: none."""
        return {}

    def resume(self, state: dict[str, np.ndarray]) -> Generator[Request, Answer, None]:
        """Go on from a checkpoint."""
        yield from ()

    def polish(
        self, near: np.ndarray, slope: np.ndarray, c: float
    ) -> Generator[Request, Answer, tuple[np.ndarray, float]]:
        """See `rsl_cli.train.newton.Newton.polish`."""
        psi, best = c * slope, math.inf
        z = correction = np.zeros_like(near)
        answer = yield Request(near)
        for _ in range(_ROUNDS + 1):
            residual = c * answer.gradient + psi + z
            size = float(np.linalg.norm(residual))
            if not (is_finite(answer) and size < best):
                break
            correction, best = z, size
            goal = POLISHED * c * float(np.linalg.norm(answer.gradient))
            if size <= goal:
                break
            least = max(_SHARE * goal, _FALL * size)
            update = yield from _update(near + z, answer, c, residual, lambda r: float(np.linalg.norm(r)), least)
            if update is None:
                break
            z = z + update
            answer = yield Request(near + z)
        return correction, 0.0


def _update(
    at: np.ndarray, answer: Answer, c: float, residual: np.ndarray, norm: Callable[[np.ndarray], float], goal: float
) -> Generator[Request, Answer, np.ndarray | None]:
    """Newton's step: solve (I + c grad^2 L) u = -residual by conjugate gradients, until what is left is below a goal.

    Yields:
        Requests for products with the Hessian.

    Returns:
        u, (P,); None where the matrix is seen to have a direction of too little curvature, or none that is finite.
    """
    u, left = np.zeros_like(residual), -residual
    direction, squared = left, float(left @ left)
    apart = _DIFFERENCE * (1 + float(np.linalg.norm(at)))
    for _ in range(_MOST_PRODUCTS):
        if norm(left) <= goal:
            break
        length = float(np.linalg.norm(direction))
        beside = yield Request(at + apart / length * direction)
        product = direction + c * length / apart * (beside.gradient - answer.gradient)
        along = float(direction @ product)
        if not (is_finite(beside) and along >= LEAST_CONVEXITY * length**2):
            return None
        u, left = u + squared / along * direction, left - squared / along * product
        before, squared = squared, float(left @ left)
        direction = left + squared / before * direction
    return u
