"""The flow to t = 1e8 against an integrator that shares nothing with it: other passes, other matrices, other formulas.

The network is written out as dense matrices under tanh, its gradient and whole Hessian come from torch.func, and
SciPy's BDF integrates at a tolerance at which its losses no longer change. This package's flow must agree with them
within one per cent at ``--rtol``; beside it stands what the default tolerance costs. By hand:
``python scripts/check_flow.py``.
"""

import argparse

import torch
from bench_flow import Problem
from machine import use_threads
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.func import grad_and_value, hessian

from rsl_cli.train.flow import Flow

_AGREED = 0.01


def main() -> None:
    """Integrate both ways and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=8, help="lift degree")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--dataset", default="sine2d")
    parser.add_argument("--decades", type=int, default=8, help="integrate to t = 10^decades")
    parser.add_argument("--rtol", type=float, default=1e-6, help="of this package's flow, beside its default")
    parser.add_argument("--exact-rtol", type=float, default=1e-7, help="of the independent integrator")
    arguments = parser.parse_args()
    use_threads(1)
    problem = Problem(arguments.n, arguments.samples, arguments.dataset)
    times = [10.0**k for k in range(arguments.decades + 1)]
    exact = independent(problem, times, arguments.exact_rtol)
    tolerances = {Flow.rtol, arguments.rtol}
    found = {rtol: ours(problem, times, rtol) for rtol in sorted(tolerances, reverse=True)}
    print(f"P={problem.parameters}, N={arguments.samples}, {arguments.dataset}")
    print(f"{'t':>8}{'L':>14}{'d log L / d log t':>20}" + "".join(f"{f'error, rtol {rtol:g}':>20}" for rtol in found))
    for i, (t, (loss, slope)) in enumerate(zip(times, exact, strict=True)):
        errors = "".join(f"{abs(losses[i] / loss - 1):20.3%}" for losses in found.values())
        print(f"{t:8.0e}{loss:14.6e}{slope:20.3f}{errors}")
    worst = max(abs(one / loss - 1) for one, (loss, _) in zip(found[arguments.rtol], exact, strict=True))
    if not worst <= _AGREED:
        raise SystemExit(f"rtol {arguments.rtol:g}: the loss is {worst:.2%} off, more than {_AGREED:.0%}")


def independent(problem: Problem, times: list[float], rtol: float) -> list[tuple[float, float]]:
    """Loss and d log L / d log t at each time."""

    def loss(theta: Tensor) -> Tensor:
        return 0.5 * (dense(problem, theta) - problem.objective.y).square().sum(1).mean()

    slope, curvature = grad_and_value(loss), hessian(loss)
    path = solve_ivp(
        lambda _, theta: -slope(torch.from_numpy(theta))[0].numpy(),
        (0, times[-1]),
        problem.start,
        method="BDF",
        jac=lambda _, theta: -curvature(torch.from_numpy(theta)).numpy(),
        rtol=rtol,
        atol=1e-3 * rtol,
        t_eval=times,
    )
    found = []
    for t, theta in zip(times, path.y.T, strict=True):
        gradient, value = slope(torch.from_numpy(theta.copy()))
        found.append((float(value), -t * float(gradient @ gradient) / float(value)))
    return found


def dense(problem: Problem, theta: Tensor) -> Tensor:
    """Outputs (N, 1) of tanh layers by matrices with a zero for every edge that is not kept."""
    pieces = theta.split([shape.numel() for shape in problem.shapes])
    named = dict(zip(problem.names, pieces, strict=True))
    base, values = problem.lift.base, {problem.lift.base.input.name: problem.objective.x}
    for vertex in base.vertices:
        if vertex.kind == "input":
            continue
        fibre, z = problem.lift.fibre(vertex.name), torch.zeros(())
        for edge in base.edges:
            if edge.target == vertex.name:
                sources, targets = map(torch.as_tensor, problem.lift.edges(edge.source, edge.target))
                kept = named[f"weight_{edge.source}__to__{edge.target}"]
                # An edge from the input reads all of it.
                width = values[edge.source].shape[1] if edge.source == base.input.name else 1
                columns = sources[:, None] * width + torch.arange(width)
                matrix = torch.zeros(fibre, values[edge.source].shape[1], dtype=theta.dtype)
                matrix = matrix.index_put((targets[:, None], columns), kept.view(-1, width))
                z = z + values[edge.source] @ matrix.T
        z = z + named.get(f"bias_{vertex.name}", torch.zeros(()))
        values[vertex.name] = torch.tanh(z) if vertex.activation == "tanh" else z
    return values[base.output.name]


def ours(problem: Problem, times: list[float], rtol: float) -> list[float]:
    """This package's losses at each time."""
    settings = Flow(t_end=times[-1], rtol=rtol, atol=1e-3 * rtol, log_per_decade=1, stationary=0.0)
    rows = settings.train(problem.network(), problem.objective)[0].trajectory.rows
    return [next(row.loss for row in rows if abs(row.time / t - 1) < 1e-9) for t in times]


if __name__ == "__main__":
    main()
