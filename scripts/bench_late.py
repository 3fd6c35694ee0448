"""One flow, decade by decade of its time: what each takes, and how well recorded gradients obey |grad L|^2 = -dL/dt.

By hand: ``python scripts/bench_late.py``.
"""

import argparse
import math
import time

from bench_flow import Problem
from machine import use_threads

from rsl_cli.train.flow import Flow
from rsl_cli.train.replicas import Answer, Replicas, Request


def main() -> None:
    """Integrate, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=32, help="lift degree")
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--dataset", default="sine2d", choices=["sine2d", "teacher"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--t-end", type=float, default=1e12)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    problem = Problem(arguments.n, arguments.samples, arguments.dataset, arguments.seed)
    problem.ours([1.0], 1e-3, 1e-6)  # compiles
    marks: list[tuple[int, int, float]] = []
    gradients = matrices = 0
    answer = Replicas.answer

    def counted(replicas: Replicas, asks: dict[int, Request]) -> dict[int, Answer]:
        nonlocal gradients, matrices
        answers = answer(replicas, asks)
        gradients += len(asks)
        matrices += sum(request.curvature > 0 for request in asks.values())
        if asks[0].lone_reach:  # As samples alone do.
            marks.append((gradients, matrices, time.perf_counter()))
        return answers

    Replicas.answer = counted  # pyright: ignore[reportAttributeAccessIssue]
    result = Flow(t_end=arguments.t_end).train(problem.network(), problem.objective)[0]
    Replicas.answer = answer
    rows = result.trajectory.rows
    print(
        f"n={arguments.n} P={problem.parameters} N={arguments.samples} {arguments.dataset}, seed {arguments.seed}, "
        f"{arguments.threads} thread(s); ended: {result.stop_reason}"
    )
    print("| to t | loss | steps | gradients | matrices | seconds | worst of \\|∇L\\|² / (−dL/dt) |")
    print("|---|---|---|---|---|---|---|")
    decades = [i for i, row in enumerate(rows) if row.time > 0 and abs(math.log10(row.time) % 1 - 0.5) > 0.5 - 1e-9]
    for first, last in zip([0, *decades], decades, strict=False):
        taken = [after - before for before, after in zip(marks[first], marks[last], strict=True)]
        worst = max((row.dissipation for row in rows[first + 1 : last + 1]), key=lambda ratio: abs(ratio - 1))
        steps = rows[last].step - rows[first].step
        print(
            f"| 10^{math.log10(rows[last].time):.0f} | {rows[last].loss:.3g} | {steps} | {taken[0]} | {taken[1]} "
            f"| {taken[2]:.2f} | {worst:.4f} |"
        )


if __name__ == "__main__":
    main()
