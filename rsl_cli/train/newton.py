"""Newton's method for the flow's implicit equation, z + psi + c grad L(y + z) = 0, step after step.

It starts from I + c H, H the Gauss-Newton matrix of a random subset of the samples. What that matrix lacks (the other
samples, the residuals' curvature, the way gone since it was formed) is learned from the gradients that the iterations
take anyway, as the secants of the BFGS formula: solving by products with the full matrix would cost as many passes over
the data, and know no more than the Gauss-Newton part. So the matrix decides speed alone; what is solved is the flow's
own equation on all samples.

Late, c times H spans so many decades that the motion of one iteration turns steep directions into flat ones by more
than those have curvature, and no matrix of an earlier point leads anywhere. Then H is formed at every iterate, of all
samples, and the residuals' curvature, which decides where H is flat, is added: of the last solution, since at a
predicted point the residuals are those of its distance from the valley's floor, not the floor's. Where they make the
matrix indefinite, steep directions alone first lead down; only what is unstable on the floor asks for a shorter step.
Last, rounding of the parameters moves the gradient by more than the flow does: nearer than that no iteration comes.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from rsl_cli.rng import generator
from rsl_cli.train.gauss_newton import Curvature, SingularError
from rsl_cli.train.replicas import Answer, Request

FEW_STEPS = 4
"""Iterations with a matrix of an earlier step before a new one is formed."""
_MANY_STEPS = 6
"""Iterations with a new one."""
_OVERSHOT = 0.9
"""Of the slope at an update's beginning; where it ends with a larger one of the other sign, it is cut back."""
_MOST_CUTS = 3
LEAST_CONVEXITY = 0.1
"""A step so long that I + c grad^2 L is seen with less curvature than this would jump over an unstable motion."""
_FIRST_SUBSET = 256
"""Samples of the first Gauss-Newton matrix; twice as many where even half the step fails with a fresh one."""
_FRESH_STEPS = 8
"""Iterations with a matrix of each iterate."""
_FRESH_RATE = 0.3
"""How much nearer the first of them is expected to come; the others are measured."""
_LANDINGS = 3
"""Of one solution, on the floor of the valley whose direction the predicted point is off."""
_KEPT_RATE = 0.1
"""At which the iterations of a kept matrix have to converge."""
_BENT_FOR = 6
"""Steps that one evaluation of the residuals' curvature serves, while solutions take no more than two matrices."""
_LEVEL = 0.3
"""Of the gradient, that the error of a step's solution may be: steep directions then bend nothing. Near rest, where
rounding of the parameters alone makes gradients larger than the flow's, less cannot be asked for."""
POLISHED = 3e-3
"""Of the gradient, that the error of a polished point's may be."""
_POLISHES = 12
"""Iterations with the kept matrix towards a polished point."""
_SIGNS = 8
"""Random ways to round that its size is the mean of."""
_PATIENCE = 3
"""Of them in a row that come no nearer, where rounding is all that is left."""
_FIRST_LIFE = 8.0
"""Steps after which a matrix is replaced unasked; thereafter as many as the last one that failed had served."""
_LONGER_LIFE = 1 / 8
"""What a matrix replaced unasked adds to the life of the next: lives grow again, slowly."""

MOST_GROWTH = 10.0
"""Of a step, from one to the next."""
_CAREFUL_GROWTH = 2.0
"""Where each costs matrices, and one that is too long as many: ten times in a decade is all that is wanted there."""

Norm = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Solution:
    """A correction z, (P,), the loss at the last point visited, and the number of iterations."""

    correction: np.ndarray
    loss: float
    iterations: int


class Newton:
    """The solver of one replica's implicit equations, with what it keeps from step to step.

    Args:
        samples: N.
        tolerance: of a solution, in units of the norm.
        start: parameters (P,).
    """

    def __init__(self, samples: int, tolerance: float, start: np.ndarray) -> None:
        self._samples, self._tolerance = samples, tolerance
        self._subset = min(samples, _FIRST_SUBSET)
        self._curvature: Curvature | None = None
        self._formed_at = start
        self._secants: list[tuple[np.ndarray, np.ndarray]] = []
        self._age, self._life = 0, _FIRST_LIFE
        self._fresh = False
        self._bent_for = 1
        self._bending: np.ndarray | None = None

    def solve(
        self, last: np.ndarray, predicted: np.ndarray, psi: np.ndarray, c: float, norm: Norm
    ) -> Generator[Request, Answer, Solution | None]:
        """Solve for one step.

        Args:
            last: the solution before, (P,).
            predicted: y, (P,).
            psi: (P,).
            c: above 0.
            norm: of a correction, in units of the step's own tolerance.

        Yields:
            Requests for gradients, and for matrices where the one kept is too old.

        Returns:
            The solution, or None where the step has to be shorter.
        """
        if self._fresh:
            return (yield from self._iterate_afresh(last, predicted, psi, c, norm))
        if self._age >= int(self._life):
            self._life += _LONGER_LIFE
            self._forget()
        solution = yield from self._iterate(predicted, psi, c, norm)
        if solution is None and self._age > 0:
            self._life = float(self._age)
            self._forget()
            solution = yield from self._iterate(predicted, psi, c, norm)
        return solution

    @property
    def most_growth(self) -> float:
        """By how much the next step may be longer than this one."""
        return _CAREFUL_GROWTH if self._fresh else MOST_GROWTH

    def accepted(self) -> None:
        """The step was taken: the matrix is one step older."""
        self._age += 1

    def grow(self) -> bool:
        """Take the next matrix over twice the samples, and at last a matrix of each iterate; whether there is more."""
        if self._fresh:
            return False
        self._fresh = self._subset == self._samples
        self._subset = min(2 * self._subset, self._samples)
        self._forget()
        return True

    def state(self) -> dict[str, np.ndarray]:
        """Arrays to go on from, for `resume`."""
        secants = np.array(self._secants).reshape(-1, 2, len(self._formed_at))
        newton = np.array([self._subset, self._age, self._life, self._fresh, self._bent_for])
        return {"newton": newton, "secants": secants, "formed_at": self._formed_at.copy()}

    def resume(self, state: dict[str, np.ndarray]) -> Generator[Request, Answer, None]:
        """Go on from a checkpoint: the matrix is formed again where it was formed before."""
        subset, age, self._life, fresh, bent_for = state["newton"].tolist()
        self._subset, self._age, self._fresh, self._bent_for = int(subset), int(age), bool(fresh), int(bent_for)
        self._formed_at = state["formed_at"]
        self._secants = [(update, change) for update, change in state["secants"]]
        answer = yield Request(self._formed_at, curvature=0 if self._fresh else self._subset, bending=self._fresh)
        self._curvature, self._bending = answer.curvature, answer.bending

    def polish(
        self, near: np.ndarray, slope: np.ndarray, c: float
    ) -> Generator[Request, Answer, tuple[np.ndarray, float]]:
        """Solve z + c (slope + grad L(near + z)) = 0 until the gradient is right; leaves no trace in what is kept.

        Args:
            near: a point on the solution, to the step's tolerance, (P,).
            slope: the solution's derivative by time there, (P,).
            c: about a step: motions much faster than it are put where they rest, slower ones left alone.

        Yields:
            Requests for gradients.

        Returns:
            z, (P,), and the norm of what rounding of the parameters adds to the gradient there: 0 where it is right.
        """
        psi, secants, best = c * slope, self._secants.copy(), math.inf
        answer = yield Request(near)
        z = correction = np.zeros_like(near)
        for _ in range(0 if self._fresh else _POLISHES):
            residual = c * answer.gradient + psi + z
            size = float(np.linalg.norm(residual))
            if size <= POLISHED * c * np.linalg.norm(answer.gradient):
                return z, 0.0
            if size < best:
                correction, best = z, size
            elif not size < 10 * best:
                break
            try:
                update = -self._inverse_times(residual, c, secants)
            except SingularError:
                break
            trial = yield Request(near + z + update)
            if not is_finite(trial):
                break
            secants.append((update, trial.gradient - answer.gradient))
            z, answer = z + update, trial
        return (yield from self._polish_afresh(near, psi, c, correction))

    def _polish_afresh(
        self, near: np.ndarray, psi: np.ndarray, c: float, z: np.ndarray
    ) -> Generator[Request, Answer, tuple[np.ndarray, float]]:
        """With a matrix of each iterate: off the valley's floor by steep directions first, or else by all at once."""
        best, correction, curvature = math.inf, z, None
        for bent in (False, True):
            there, least, worse = z, math.inf, 0
            answer = yield Request(near + there)
            while is_finite(answer):
                residual = c * answer.gradient + psi + there
                size = float(np.linalg.norm(residual))
                worse = 0 if size < 0.5 * least else worse + 1
                least = min(size, least)
                if size <= POLISHED * c * np.linalg.norm(answer.gradient):
                    return there, 0.0
                if worse == _PATIENCE:
                    break
                matrices = yield Request(near + there, curvature=self._samples, bending=bent or bool(there.any()))
                assert matrices.curvature is not None
                if size < best:
                    correction, best, curvature = there, size, matrices.curvature
                try:
                    there = there - _solve(matrices.curvature, matrices.bending, c, residual)
                except SingularError:
                    break
                answer = yield Request(near + there)
        return correction, 0.0 if curvature is None else _rounding(curvature, near + correction)

    def _iterate_afresh(
        self, last: np.ndarray, predicted: np.ndarray, psi: np.ndarray, c: float, norm: Norm
    ) -> Generator[Request, Answer, Solution | None]:
        """Iterate with a matrix of each iterate."""
        if self._bending is None or self._age >= self._bent_for:
            self._bending, self._formed_at, self._age = (yield Request(last, bending=True)).bending, last, 0
        optimizer_state = _NewtonIteration(self._samples, self._bending, predicted, psi, c, np.zeros_like(predicted))
        yield from optimizer_state.begin()
        landings, iteration = _LANDINGS, 0
        while iteration < _FRESH_STEPS:
            iteration += 1
            try:
                if not (yield from optimizer_state.step(norm)):
                    return None
            except SingularError:
                if landings == 0 or self._bending is None or not (yield from optimizer_state.land()):
                    return None
                landings, iteration = landings - 1, 0
                continue
            if optimizer_state.solves(self._tolerance):
                self._bent_for = 1 if optimizer_state.matrices > 2 else _BENT_FOR
                return Solution(optimizer_state.z, optimizer_state.loss, min(iteration, FEW_STEPS))
        return None

    def _forget(self) -> None:
        self._curvature, self._secants, self._age = None, [], 0

    def _iterate(
        self, predicted: np.ndarray, psi: np.ndarray, c: float, norm: Norm
    ) -> Generator[Request, Answer, Solution | None]:
        """Iterate until converged, or until it is seen that this matrix does not get there."""
        correction, previous = np.zeros_like(predicted), math.inf
        answer = yield Request(predicted, curvature=self._subset if self._curvature is None else 0)
        if answer.curvature is not None:
            self._curvature, self._formed_at = answer.curvature, predicted
        most = FEW_STEPS if self._age else _MANY_STEPS
        for iteration in range(1, most + 1):
            if not is_finite(answer):
                return None
            residual = c * answer.gradient + psi + correction
            try:
                update = -self._inverse_times(residual, c, self._secants)
            except SingularError:
                return None
            size = norm(update)
            rate = size / previous
            left = rate / (1 - rate) if 0 < rate < 1 else math.inf
            if size == 0 or left * size < self._tolerance:
                return Solution(correction + update, answer.loss, iteration)
            hopeless = rate >= 1 or rate ** (most + 1 - iteration) / (1 - rate) * size > self._tolerance
            if not math.isfinite(size) or (hopeless and iteration >= most / 2):
                return None
            trial = answer
            for _ in range(1 + _MOST_CUTS):
                trial = yield Request(predicted + correction + update)
                change = trial.gradient - answer.gradient
                squared, convexity = update @ update, update @ change
                if not is_finite(trial) or squared + c * convexity < LEAST_CONVEXITY * squared:
                    return None
                self._secants.append((update, change))
                before = update @ residual
                after = before + squared + c * convexity
                if self._age or after <= _OVERSHOT * -before:
                    break
                update = before / (before - after) * update
            correction, answer, previous = correction + update, trial, size
        return None

    def _inverse_times(self, vector: np.ndarray, c: float, secants: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Solve with I + c H, corrected by the secants: the two loops of Nocedal and Wright (2006), algorithm 7.4."""
        assert self._curvature is not None
        pairs = [(update, update + c * change) for update, change in secants]
        pairs = [(s, w, s @ w) for s, w in pairs if s @ w > 0]
        weights = []
        for s, w, product in reversed(pairs):
            weights.append(s @ vector / product)
            vector = vector - weights[-1] * w
        solved = self._curvature.solve(c, vector)
        for (s, w, product), weight in zip(pairs, reversed(weights), strict=True):
            solved = solved + (weight - w @ solved / product) * s
        return solved


class _NewtonIteration:
    """Newton's method from one point, a matrix being kept while it leads far enough.

    Args:
        samples: N.
        bending: the residuals' part of the Hessian, if known, (P, P).
        near: the point, (P,).
        psi: of the equation z + psi + c grad L(near + z) = 0, (P,).
        c: the same.
        z: where to start, (P,).
    """

    def __init__(
        self, samples: int, bending: np.ndarray | None, near: np.ndarray, psi: np.ndarray, c: float, z: np.ndarray
    ) -> None:
        self._samples, self._bending, self._near, self._psi, self._c = samples, bending, near, psi, c
        self.z, self.size, self.rate = z, math.inf, 0.0
        self._curvature: Curvature | None = None
        self.matrices = 0
        self._bends = bending is not None

    def begin(self) -> Generator[Request, Answer, None]:
        """Look where it starts."""
        self._answer = yield Request(self._near + self.z)

    @property
    def loss(self) -> float:
        """L where it is."""
        return self._answer.loss

    @property
    def residual(self) -> np.ndarray:
        """Of the equation, (P,)."""
        return self._c * self._answer.gradient + self._psi + self.z

    @property
    def left(self) -> float:
        """What the next steps will add up to, by the size of the last one."""
        return self.size * self.rate / (1 - self.rate) if self.rate < 1 else math.inf

    def solves(self, tolerance: float) -> bool:
        """Whether it is there: to a tolerance, and on the valley's floor, or as near as rounding lets it."""
        error, steepness = np.linalg.norm(self.residual), self._c * np.linalg.norm(self._answer.gradient)
        if self.left < tolerance and error <= _LEVEL * steepness:
            return True
        if self._curvature is None or self.size >= tolerance:
            return False
        return bool(error <= self._c * _rounding(self._curvature, self._near + self.z))

    def step(self, norm: Norm) -> Generator[Request, Answer, bool]:
        """Take a step, of which size, and the rate at which sizes fall, are kept; whether it led towards a solution."""
        if not is_finite(self._answer):
            return False
        update = None if self._curvature is None else -self._curvature.solve(self._c, self.residual)
        if update is None or norm(update) > _KEPT_RATE * self.size:
            update = yield from self._update_afresh()
        size = float(norm(update))
        before, self.rate = self.rate, size / self.size if math.isfinite(self.size) else _FRESH_RATE
        if not (math.isfinite(size) and min(before, self.rate) < 1):
            return False
        self.z, self.size = self.z + update, size
        self._answer = yield Request(self._near + self.z)
        return is_finite(self._answer)

    def land(self) -> Generator[Request, Answer, bool]:
        """Go down to the valley's floor, if there is one: the residuals' curvature above it may seem unstable."""
        assert self._bending is not None
        answer = yield Request(self._near + self.z, curvature=self._samples)
        assert answer.curvature is not None
        try:
            self.z = self.z - _landed(answer.curvature, self._bending, self._c, self.residual)
        except SingularError:
            return False
        self._curvature, self._bending, self.size, self.rate = None, None, math.inf, 0.0
        self._answer = yield Request(self._near + self.z)
        return True

    def _update_afresh(self) -> Generator[Request, Answer, np.ndarray]:
        # Where that of the last solution leads slowly, residuals are large, and bend here otherwise than there.
        slow = self.rate > _FRESH_RATE or (self._bends and self._bending is None)
        answer = yield Request(self._near + self.z, curvature=self._samples, bending=slow)
        self._bending = answer.bending if slow else self._bending
        curvature = answer.curvature
        self.matrices += 1
        assert curvature is not None
        self._curvature = curvature if self._bending is None else curvature.plus(self._bending)
        return -self._curvature.solve(self._c, self.residual)


def _rounding(curvature: Curvature, at: np.ndarray) -> float:
    """The norm of what the gradient differs by between points that are the same but for rounding."""
    signs = generator(0, "train/rounding").choice([-1.0, 1.0], (_SIGNS, len(at)))
    ways = [curvature.times(sign * np.spacing(np.abs(at))) for sign in signs]
    return float(np.linalg.norm(ways)) / math.sqrt(_SIGNS)


def _solve(curvature: Curvature, bending: np.ndarray | None, c: float, residual: np.ndarray) -> np.ndarray:
    """(I + c (H + bending))^-1 residual, or where that matrix is indefinite, a step to where it may not be."""
    if bending is None:
        return curvature.solve(c, residual)
    try:
        return curvature.plus(bending).solve(c, residual)
    except SingularError:
        return _landed(curvature, bending, c, residual)


def _landed(curvature: Curvature, bending: np.ndarray, c: float, residual: np.ndarray) -> np.ndarray:
    """A step towards the valley's floor, by directions steeper than the bending: what is flat rests meanwhile."""
    held = 1 + c * float(np.linalg.norm(bending))
    return curvature.solve(c / held, residual) / held


def is_finite(answer: Answer) -> bool:
    """Whether loss and gradient are."""
    return math.isfinite(answer.loss) and bool(np.isfinite(answer.gradient).all())
