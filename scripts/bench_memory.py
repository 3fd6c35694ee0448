"""Time and memory of a training step of ``base=mlp`` against the lift degree n, each size in a process of its own.

Memory is by how much the process's peak grows from before the lift is drawn to after some steps of Adam on 1024
samples; time is the median step. Slopes are fitted to the logarithms over the degrees from 1024 on. The rival is the
same network with a dense matrix under a mask. By hand: ``python scripts/bench_memory.py``.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from bench_step import Masked, engine_steps, module_steps
from machine import Table, use_threads

import rsl_cli as rsl
from rsl_cli.data import Dataset
from rsl_cli.train.circuits import CircuitObjective
from rsl_cli.train.engines import Batches, CircuitEngine
from rsl_cli.train.objective import Objective
from rsl_cli.train.optimizers import Adam

_SAMPLES = 1024


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[16, 64, 256, 1024, 4096, 16384, 65536])
    parser.add_argument("--in-degree", type=int, default=8)
    parser.add_argument("--dense-limit", type=int, default=4096, help="largest n at which the masked dense rival runs")
    parser.add_argument("--threads", type=int, help="torch's default if left out")
    parser.add_argument("--one", choices=["rsl", "masked dense"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(one(arguments.n[0], arguments.in_degree, arguments.one)))
        return
    rows = []
    for n in arguments.n:
        found: list[float] = []
        for rival in ("rsl", "masked dense"):
            if rival == "rsl" or n <= arguments.dense_limit:
                command = [sys.executable, *sys.argv, "--n", str(n), "--one", rival]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found += json.loads(done.stdout)
            else:
                found += [float("nan")] * 2
        rows.append((str(n), *found))
        print(f"n={n}: {found[0]:.2f} ms, {found[1]:.1f} MiB", flush=True)
    large = [row for row in rows if int(row[0]) >= 1024]
    slopes = []
    for column in (1, 2, 3, 4):
        points = np.log([(int(row[0]), row[column]) for row in large if np.isfinite(row[column])])
        slopes.append(float(np.polyfit(points[:, 0], points[:, 1], 1)[0]) if len(points) > 1 else float("nan"))
    rows.append(("slope from 1024 on", *slopes))
    title = (
        f"Adam step of mlp on {_SAMPLES} samples, in-degree {arguments.in_degree}, float32, "
        f"{torch.get_num_threads()} threads"
    )
    Table("memory", title, ("n", "rsl ms", "rsl MiB", "masked ms", "masked MiB"), tuple(rows)).show()


def one(n: int, in_degree: int, rival: str) -> tuple[float, float]:
    """Milliseconds of a step, and MiB by which the peak grew."""
    steps_of(4, 2, rival)(2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    advance = steps_of(n, in_degree, rival)
    advance(1)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        advance(1)
        times.append(time.perf_counter() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return 1e3 * statistics.median(times), grown / 1024


def steps_of(n: int, in_degree: int, rival: str):
    """A function that takes steps."""
    mapping = yaml.safe_load((Path(__file__).parents[1] / "conf" / "base" / "mlp.yaml").read_text())
    base = rsl.BaseGraph.from_config(mapping, input_shape=(2,), output_size=1)
    net = rsl.LiftedNetwork(rsl.sample_lift(base, n, 0, {"kind": "random", "in_degree": in_degree}))
    draw = np.random.default_rng(0)
    x, y = draw.uniform(-1, 1, (_SAMPLES, 2)), draw.standard_normal((_SAMPLES, 1))
    objective = Objective(Dataset("made", "regression", x, y, x[:1], y[:1], 1), "mse", dtype=torch.float32)
    batches = Batches(objective, [0], None)
    if rival == "masked dense":
        return module_steps(Masked(net), objective, batches)[0]
    compiled = CircuitObjective.of(net, objective)
    assert compiled is not None
    return engine_steps(CircuitEngine(net, compiled, batches, Adam()), 1)[0]


if __name__ == "__main__":
    main()
