"""Gradient flow to t = 1e6 against what else integrates it, on one network, in one run.

Rivals: SciPy's BDF given the exact Gauss-Newton Jacobian, once by this package's kernels and once as one would write it
with torch.func; CVODE, given the first (``pip install 'rsl-cli[bench]'``); torchdiffeq's dopri5 (if installed), which
is explicit and so is stopped at ``--explicit-until``.
Losses are compared with BDF at a tight tolerance. Run by hand: ``python scripts/bench_flow.py --n 16 --samples 2048``.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch.func import functional_call, jacrev, vmap

from rsl_cli.cli import compose
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.linearization import each_output
from rsl_cli.network import LiftedNetwork
from rsl_cli.study.machine import prepare
from rsl_cli.train.circuits import CircuitObjective
from rsl_cli.train.flow import FIRST_TIME, Flow
from rsl_cli.train.objective import Objective
from rsl_cli.train.replicas import Replicas, Request


@dataclass
class Outcome:
    """What an integrator took, and the loss at 1, 10, ... as far as it came."""

    name: str
    seconds: float
    gradients: int
    matrices: int
    losses: list[float]


def main() -> None:
    """Integrate, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=16, help="lift degree")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--dataset", default="teacher")
    parser.add_argument("--decades", type=int, default=6, help="integrate to t = 10^decades")
    parser.add_argument("--rtol", type=float, default=1e-3)
    parser.add_argument(
        "--explicit-until", type=float, default=10.0, help="flow time at which dopri5 stops; 0: leave out"
    )
    parser.add_argument("--alone", action="store_true", help="only this package, and no reference")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    prepare(arguments.threads)
    problem = Problem(arguments.n, arguments.samples, arguments.dataset)
    times = [10.0**k for k in range(arguments.decades + 1)]
    rtol, atol = arguments.rtol, 1e-3 * arguments.rtol
    problem.ours([1.0], rtol, atol)  # compiles
    outcomes = [problem.ours(times, rtol, atol)]
    reference = None
    if not arguments.alone:
        outcomes.append(problem.scipy("SciPy BDF, H by our kernels", times, rtol, atol, problem.matrix))
        outcomes += problem.cvode("CVODE, H by our kernels", times, rtol, atol)
        outcomes.append(problem.scipy("SciPy BDF, H by torch.func", times, rtol, atol, problem.matrix_by_functorch))
        if arguments.explicit_until > 0:
            outcomes += problem.explicit([t for t in times if t <= arguments.explicit_until], rtol, atol)
        reference = problem.scipy("BDF, rtol 1e-7", times, 1e-7, 1e-10, problem.matrix)
    print(
        f"n={arguments.n} P={problem.parameters} N={arguments.samples} {arguments.dataset}, rtol {rtol:g}, "
        f"{arguments.threads} thread(s)"
    )
    print(f"{'':30}{'t':>8}{'s':>9}{'x rsl':>8}{'grads':>8}{'H':>6}  loss at the end, worst error in loss")
    for outcome in [*outcomes, *([] if reference is None else [reference])]:
        reached = times[len(outcome.losses) - 1]
        error = ""
        if reference is not None:
            ratios = [abs(a / b - 1) for a, b in zip(outcome.losses, reference.losses, strict=False)]
            error = f"{max(ratios):.2%}"
        print(
            f"{outcome.name:30}{reached:8.0e}{outcome.seconds:9.2f}{outcome.seconds / outcomes[0].seconds:8.2f}"
            f"{outcome.gradients:8d}{outcome.matrices:6d}  {outcome.losses[-1]:.3e}  {error}"
        )


class Problem:
    """One network on one dataset, as every integrator sees it."""

    def __init__(self, n: int, samples: int, dataset: str, seed: int = 0) -> None:
        from rsl_cli.study.spec import StudySpec

        overrides = [f"dataset={dataset}", f"dataset.samples={samples}", f"lift={n}", "trainer=flow", "seeds=1"]
        spec = StudySpec.from_config(compose(overrides))
        self.lift = sample_lift(spec.base, n, seed, spec.lifting)
        self.objective = Objective(spec.data, "mse", dtype=torch.float64)
        self.replicas = Replicas(self.network(), self.objective)
        circuits = CircuitObjective.of(self.network(), self.objective)
        assert circuits is not None
        self.circuits = circuits
        self.start = self.replicas.start[0]
        self.parameters = len(self.start)
        self.alone = self.network()
        self.names = [name for name, _ in self.alone.named_parameters()]
        self.shapes = [parameter.shape for parameter in self.alone.parameters()]
        self.gradients = self.matrices = 0

    def network(self) -> LiftedNetwork:
        """The network at its start, fresh."""
        return LiftedNetwork(disjoint_union([self.lift]), None, torch.float64)

    def gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and gradient at parameters (P,)."""
        self.gradients += 1
        answer = self.replicas.answer({0: Request(theta)})[0]
        return answer.loss, answer.gradient

    def matrix(self, theta: np.ndarray) -> np.ndarray:
        """Minus the Gauss-Newton matrix, (P, P), by this package's Jacobian."""
        self.matrices += 1
        total = np.zeros((self.parameters, self.parameters))
        for part in self.objective.x.split(2048):
            for jacobian in self.circuits.jacobians(0, theta, part, each_output):
                total -= (jacobian @ jacobian.T).numpy()
        return total / self.objective.samples

    def matrix_by_functorch(self, theta: np.ndarray) -> np.ndarray:
        """The same by vmap over jacrev."""
        self.matrices += 1
        pieces = torch.as_tensor(theta).split([shape.numel() for shape in self.shapes])
        values = {n: p.view(s) for n, p, s in zip(self.names, pieces, self.shapes, strict=True)}

        def output(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            return functional_call(self.alone, parameters, (x[None],)).reshape(-1)

        total = np.zeros((self.parameters, self.parameters))
        for part in self.objective.x.split(256):
            rows = vmap(jacrev(output), (None, 0))(values, part)
            jacobian = torch.cat([rows[name].flatten(2) for name in self.names], 2).flatten(0, 1)
            total -= (jacobian.T @ jacobian).numpy()
        return total / self.objective.samples

    def ours(self, times: list[float], rtol: float, atol: float) -> Outcome:
        """This package's flow."""
        counts = {"gradients": 0, "matrices": 0}
        answer = Replicas.answer

        def counted(replicas: Replicas, asks: dict[int, Request]) -> object:
            counts["gradients"] += len(asks)
            counts["matrices"] += sum(request.curvature > 0 for request in asks.values())
            return answer(replicas, asks)

        Replicas.answer = counted  # pyright: ignore[reportAttributeAccessIssue]
        settings = Flow(t_end=times[-1], rtol=rtol, atol=atol, log_per_decade=1, stationary=0.0)
        began = said = time.perf_counter()

        def report(share: int, whole: int, loss: float) -> None:
            nonlocal said
            if time.perf_counter() - said > 10:
                said = time.perf_counter()
                reached = FIRST_TIME * (times[-1] / FIRST_TIME) ** (share / whole)
                print(f"{said - began:.0f} s: t = {reached:.1e}, loss {loss:.2e}", file=sys.stderr, flush=True)

        result = settings.train(self.network(), self.objective, progress=report)[0]
        seconds = time.perf_counter() - began
        Replicas.answer = answer
        rows = {round(row[1], 9): row[2] for row in result.trajectory.rows}
        losses = [rows[round(t, 9)] for t in times if round(t, 9) in rows]
        return Outcome(f"rsl ({result.stop_reason})", seconds, counts["gradients"], counts["matrices"], losses)

    def scipy(
        self, name: str, times: list[float], rtol: float, atol: float, matrix: Callable[[np.ndarray], np.ndarray]
    ) -> Outcome:
        """SciPy's BDF."""
        self.gradients = self.matrices = 0
        began = time.perf_counter()
        solution = solve_ivp(
            lambda _, theta: -self.gradient(theta)[1],
            (0, times[-1]),
            self.start,
            method="BDF",
            jac=lambda _, theta: matrix(theta),
            rtol=rtol,
            atol=atol,
            t_eval=times,
        )
        seconds, gradients, matrices = time.perf_counter() - began, self.gradients, self.matrices
        return Outcome(name, seconds, gradients, matrices, [self.gradient(theta)[0] for theta in solution.y.T])

    def cvode(self, name: str, times: list[float], rtol: float, atol: float) -> list[Outcome]:
        """CVODE of SUNDIALS (Hindmarsh et al., 2005), BDF of order 1 to 5, with the Gauss-Newton matrix."""
        try:
            from sksundae.cvode import CVODE  # pyright: ignore[reportMissingImports]
        except ImportError:
            print("scikit-sundae is not installed; `pip install 'rsl-cli[bench]'` adds CVODE to the table")
            return []
        self.gradients = self.matrices = 0

        def slope(_: float, theta: np.ndarray, into: np.ndarray) -> None:
            into[:] = -self.gradient(theta.copy())[1]

        def jacobian(_: float, theta: np.ndarray, __: np.ndarray, into: np.ndarray) -> None:
            into[:] = self.matrix(theta.copy())

        began = time.perf_counter()
        options = {"jacfn": jacobian, "linsolver": "lapackdense", "rtol": rtol, "atol": atol, "max_num_steps": 10**6}
        path = CVODE(slope, **options).solve(np.array([0.0, *times]), self.start).y
        seconds, gradients, matrices = time.perf_counter() - began, self.gradients, self.matrices
        return [Outcome(name, seconds, gradients, matrices, [self.gradient(theta)[0] for theta in path[1:].copy()])]

    def explicit(self, times: list[float], rtol: float, atol: float) -> list[Outcome]:
        """Dopri5 of torchdiffeq."""
        try:
            from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]
        except ImportError:
            print("torchdiffeq is not installed; `pip install torchdiffeq` adds dopri5 to the table")
            return []
        self.gradients = self.matrices = 0
        began = time.perf_counter()
        solution = odeint(
            lambda _, theta: -torch.as_tensor(self.gradient(theta.numpy())[1]),
            torch.as_tensor(self.start),
            torch.tensor([0.0, *times], dtype=torch.float64),
            rtol=rtol,
            atol=atol,
            method="dopri5",
        )
        seconds, gradients = time.perf_counter() - began, self.gradients
        losses = [self.gradient(theta)[0] for theta in torch.as_tensor(solution)[1:].numpy()]
        return [Outcome("torchdiffeq dopri5", seconds, gradients, 0, losses)]


if __name__ == "__main__":
    main()
