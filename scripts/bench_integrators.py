"""Stiff integrators of the gradient flow against each other: gradients and Gauss-Newton matrices to t = 10^6.

Linearly implicit and exponential methods take the Gauss-Newton matrix H for the flow's Jacobian -grad^2 L, which costs
them order where residuals are large; formulas that solve an implicit equation only converge more slowly. Each has the
same error norm and tolerance and stops at t = 1, 10, ...; losses there are compared with BDF at a tight tolerance. A
second table sets what this package's takes for an error beside what SciPy's BDF and CVODE take for it, over several
tolerances and starts, since one error is chance. By hand: ``python scripts/bench_integrators.py``.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from bench_flow import Outcome, Problem
from machine import Table, use_threads
from scipy.linalg import cho_factor, cho_solve, eigh

_MOST_STEPS = 20_000


def main() -> None:
    """Integrate with each, on both problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=16, help="lift degree")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--decades", type=int, default=6, help="integrate to t = 10^decades")
    parser.add_argument("--rtol", type=float, default=1e-3)
    parser.add_argument("--starts", type=int, default=3, help="seeds that errors and costs are taken over")
    parser.add_argument("--datasets", nargs="+", default=["teacher", "sine2d"])
    arguments = parser.parse_args()
    use_threads(1)
    rtol, atol = arguments.rtol, 1e-3 * arguments.rtol
    times = [10.0**k for k in range(arguments.decades + 1)]
    for dataset in arguments.datasets:
        problem = Problem(arguments.n, arguments.samples, dataset)
        problem.ours([1.0], rtol, atol)  # compiles
        title = (
            f"Integrators, {dataset}: P={problem.parameters}, N={arguments.samples}, rtol {rtol:g}, one thread; error "
            f"is the loss's worst at t = 1, 10, ..., in per cent"
        )
        columns = ("", "t reached", "gradients", "matrices", "error %", "s")
        Table(f"integrators-{dataset}", title, columns, compared(problem, times, rtol, atol)).show()
        title = (
            f"Work and precision, {dataset}: P={problem.parameters}, N={arguments.samples}, one thread, to t = "
            f"{times[-1]:.0e}; means of {arguments.starts} starts, of the loss's worst error the geometric one"
        )
        problems = [Problem(arguments.n, arguments.samples, dataset, seed) for seed in range(arguments.starts)]
        columns = ("", "rtol", "gradients", "matrices", "s", "error %")
        Table(f"precision-{dataset}", title, columns, precision(problems, times)).show()


def compared(problem: Problem, times: list[float], rtol: float, atol: float) -> tuple[tuple[str | float, ...], ...]:
    """A row of figures for each integrator."""
    reference = problem.scipy("", times, 1e-7, 1e-10, problem.matrix)
    outcomes = [stepped(problem, name, method, times, rtol, atol) for name, method in METHODS.items()]
    rows = []
    for outcome in (*outcomes, *implicit(problem, times, rtol, atol)):
        error = 100 * worst(outcome, reference)
        reached = times[len(outcome.losses) - 1] if outcome.losses else 0.0
        rows.append((outcome.name, f"{reached:.0e}", outcome.gradients, outcome.matrices, error, outcome.seconds))
        print(f"{outcome.name}: {outcome.gradients} + {outcome.matrices}, {error:.2g} %", flush=True)
    return tuple(rows)


def implicit(problem: Problem, times: list[float], rtol: float, atol: float) -> list[Outcome]:
    """What solves an implicit equation: two standard packages, and this one last."""
    ours = replace(problem.ours(times, rtol, atol), name="rsl: NDF 1-5, subsets, secants")
    bdf = problem.scipy("SciPy BDF", times, rtol, atol, problem.matrix)
    return [bdf, *problem.cvode("CVODE", times, rtol, atol), ours]


def worst(outcome: Outcome, reference: Outcome) -> float:
    """The largest relative error of the loss."""
    pairs = zip(outcome.losses, reference.losses, strict=False)
    return max((abs(a / b - 1) for a, b in pairs), default=math.nan)


def precision(problems: list[Problem], times: list[float]) -> tuple[tuple[str | float, ...], ...]:
    """A row for each integrator and tolerance."""
    references = [problem.scipy("", times, 1e-8, 1e-12, problem.matrix) for problem in problems]
    rows = []
    for rtol in (1e-2, 1e-3, 1e-4, 1e-5):
        found = [implicit(problem, times, rtol, 1e-3 * rtol) for problem in problems]
        for outcomes in zip(*found, strict=True):
            figures = np.array([(one.gradients, one.matrices, one.seconds) for one in outcomes]).mean(0)
            errors = [worst(one, reference) for one, reference in zip(outcomes, references, strict=True)]
            error = 100 * float(np.exp(np.log(errors).mean()))
            rows.append((outcomes[0].name, f"{rtol:.0e}", *figures.tolist(), error))
    return tuple(sorted(rows, key=lambda row: str(row[0])))


@dataclass(frozen=True)
class Rosenbrock:
    """A Rosenbrock-W method: (I + h gamma H) k_i = -h grad L(y + sum_j a_ij k_j) - h H sum_j g_ij k_j, j < i.

    Args:
        order: of the method.
        gamma: on the diagonal.
        a: strictly lower triangle, row by row.
        g: the same.
        b: weights of the result.
        embedded: of the result that the error is measured against.
        kept: steps that one matrix serves.
    """

    order: int
    gamma: float
    a: tuple[tuple[float, ...], ...]
    g: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    embedded: tuple[float, ...]
    kept: int = 1

    def prepared(self, matrix: np.ndarray) -> np.ndarray:
        """What is kept of H."""
        return matrix

    def step(
        self,
        gradient: Callable[[np.ndarray], np.ndarray],
        h: float,
        y: np.ndarray,
        slope: np.ndarray,
        matrix: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The step's motion and its estimated error."""
        factor = cho_factor(np.eye(len(y)) + h * self.gamma * matrix, lower=True)
        stages: list[np.ndarray] = []
        for a, g in zip(((), *self.a), ((), *self.g), strict=True):
            moved = sum((c * k for c, k in zip(a, stages, strict=True)), np.zeros_like(y))
            mixed = sum((c * k for c, k in zip(g, stages, strict=True)), np.zeros_like(y))
            here = -gradient(y + moved) if moved.any() else slope
            stages.append(cho_solve(factor, h * here - h * (matrix @ mixed)))
        motion = sum((b * k for b, k in zip(self.b, stages, strict=True)), np.zeros_like(y))
        other = sum((b * k for b, k in zip(self.embedded, stages, strict=True)), np.zeros_like(y))
        return motion, motion - other


@dataclass(frozen=True)
class ExponentialRosenbrock:
    """Order 4 with an error estimate of order 3 (Hochbruck, Ostermann and Schweitzer, 2009, exprb43)."""

    order: int = 4
    kept: int = 1

    def prepared(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and eigenvectors of -H."""
        values, vectors = eigh(-matrix)
        return values, vectors

    def step(
        self,
        gradient: Callable[[np.ndarray], np.ndarray],
        h: float,
        y: np.ndarray,
        slope: np.ndarray,
        matrix: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """The step's motion and its estimated error."""
        values, vectors = matrix
        half, whole = phi(0.5 * h * values), phi(h * values)
        turned = vectors.T @ slope

        def remainder(moved: np.ndarray) -> np.ndarray:
            """What the linear part leaves of the slope's change, in eigenvectors."""
            return vectors.T @ -gradient(y + vectors @ moved) - turned - values * moved

        second = remainder(0.5 * h * half[1] * turned)
        third = remainder(h * whole[1] * (turned + second))
        error = h * whole[4] * (-48 * second + 12 * third)
        motion = h * (whole[1] * turned + whole[3] * (16 * second - 2 * third)) + error
        return vectors @ motion, vectors @ error


def phi(z: np.ndarray) -> list[np.ndarray]:
    """phi_0 = e^z, ..., phi_4, with phi_k = (phi_(k-1) - 1 / (k - 1)!) / z, by series where z is small."""
    found = [np.exp(z)]
    small = np.abs(z) < 0.5
    safe = np.where(small, 1.0, z)
    for k in range(1, 5):
        series = sum(z**j / math.factorial(j + k) for j in range(16))
        found.append(np.where(small, series, (found[-1] - 1 / math.factorial(k - 1)) / safe))
    return found


_G = 1 - 1 / math.sqrt(2)
_ROS34PW2 = {
    "gamma": 0.43586652150845900,
    "a": ((0.87173304301691801,), (0.84457060015369423, -0.11299064236484185), (0.0, 0.0, 1.0)),
    "g": (
        (-0.87173304301691801,),
        (-0.90338057013044082, 0.054180672388095326),
        (0.24212380706095346, -1.2232505839045147, 0.54526025533510214),
    ),
    "b": (0.24212380706095346, -1.2232505839045147, 1.5452602553351020, 0.43586652150845900),
    "embedded": (0.37810903145819369, -0.096042292212423178, 0.5, 0.21793326075422950),
}
METHODS: dict[str, Rosenbrock | ExponentialRosenbrock] = {
    # Verwer et al. (1999), and Rang and Angermann (2005), tables of coefficients.
    "Rosenbrock-W, order 2": Rosenbrock(2, _G, ((1.0,),), ((-2 * _G,),), (0.5, 0.5), (1.0, 0.0)),
    "ROS34PW2": Rosenbrock(3, **_ROS34PW2),
    "ROS34PW2, matrix kept 5 steps": Rosenbrock(3, **_ROS34PW2, kept=5),
    "ROS3Pw": Rosenbrock(
        3,
        0.78867513459481287,
        ((1.5773502691896257,), (0.5, 0.0)),
        ((-1.5773502691896257,), (-0.67075317547305480, -0.17075317547305482)),
        (0.10566243270259355, 0.049038105676657971, 0.84529946162074843),
        (-0.17863279495408180, 1 / 3, 0.84529946162074843),
    ),
    "exponential Rosenbrock 4(3)": ExponentialRosenbrock(),
}


def stepped(
    problem: Problem,
    name: str,
    solver: Rosenbrock | ExponentialRosenbrock,
    times: list[float],
    rtol: float,
    atol: float,
) -> Outcome:
    """Integrate with error control by a method that steps from one time to the next."""
    problem.gradients = problem.matrices = 0
    began, t, y, age = time.perf_counter(), 0.0, problem.start.copy(), 0
    slope = -problem.gradient(y)[1]
    losses: list[float] = []
    h = 0.01 / max(norm(slope, y, rtol, atol), 1e-300)
    kept = solver.prepared(-problem.matrix(y))
    for _ in range(_MOST_STEPS):
        if len(losses) == len(times):
            break
        if age >= solver.kept:
            kept, age = solver.prepared(-problem.matrix(y)), 0
        size = min(h, times[len(losses)] - t)
        motion, estimate = solver.step(lambda at: problem.gradient(at)[1], size, y, slope, kept)  # pyright: ignore[reportArgumentType]
        error = norm(estimate, y + motion, rtol, atol)
        factor = min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** (-1 / solver.order)))
        if not error <= 1:
            h = size * (factor if math.isfinite(error) else 0.2)
            age = age if age == 0 else solver.kept
            continue
        y, t, age = y + motion, t + size, age + 1
        loss, gradient = problem.gradient(y)
        slope = -gradient
        if t >= times[len(losses)] * (1 - 1e-12):
            losses.append(loss)
        h = max(h, size * factor) if size < h else size * factor
    return Outcome(name, time.perf_counter() - began, problem.gradients, problem.matrices, losses)


def norm(vector: np.ndarray, y: np.ndarray, rtol: float, atol: float) -> float:
    """Root mean square in units of the tolerance."""
    return float(np.sqrt(np.mean((vector / (atol + rtol * np.abs(y))) ** 2)))


if __name__ == "__main__":
    main()
