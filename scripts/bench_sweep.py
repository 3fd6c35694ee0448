"""A whole sweep by Adam: ``rsl run`` against the same runs one after another.

``rsl run`` is timed as a user sees it, from the start of its process to its report. One after another, each run has the
same steps and the same samples of its trajectory, in this process: by circuits, and by ``torch.optim.Adam`` on this
package's sparse products under autograd. By hand: ``python scripts/bench_sweep.py``.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from machine import Table, described, limits, use_threads

import rsl_cli as rsl
from rsl_cli.cli import compose
from rsl_cli.study.spec import StudySpec
from rsl_cli.train.circuits import CircuitObjective
from rsl_cli.train.engines import Batches, CircuitEngine
from rsl_cli.train.first_order import FirstOrder
from rsl_cli.train.objective import Objective
from rsl_cli.train.optimizers import Adam
from rsl_cli.train.trajectory import log_spaced_steps


def main() -> None:
    """Time all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lift", default="16..1024")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, help="torch's default if left out")
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    print(described(limits()))
    line = [f"lift={arguments.lift}", f"seeds={arguments.seeds}", "trainer=adam", f"trainer.steps={arguments.steps}"]
    spec = StudySpec.from_config(compose(line))
    objective = Objective(spec.data, spec.loss, dtype=spec.dtype)
    seconds = {"rsl run": whole(line)}
    print(f"rsl run: {seconds['rsl run']:.1f} s", flush=True)
    for name, circuits in (("circuits, one by one", True), ("torch.optim, one by one", False)):
        start = time.perf_counter()
        for lift in spec.lifts:
            for seed in spec.seeds:
                alone(spec, objective, lift, seed, circuits=circuits)
            print(f"{name}: lift {lift} at {time.perf_counter() - start:.1f} s", flush=True)
        seconds[name] = time.perf_counter() - start
    runs = len(spec.lifts) * len(spec.seeds)
    rows = tuple((name, taken, taken / seconds["rsl run"], 1e3 * taken / runs) for name, taken in seconds.items())
    title = (
        f"Sweep {' '.join(line)}: {runs} runs, N={spec.data.samples}, {torch.get_num_threads()} threads or processes, "
        "one measurement each"
    )
    Table("sweep", title, ("", "s", "x rsl", "ms a run"), rows).show()


def whole(line: list[str]) -> float:
    """Seconds of one ``rsl run``."""
    with TemporaryDirectory() as scratch:
        rsl_command = Path(sys.executable).with_name("rsl")
        start = time.perf_counter()
        subprocess.run([rsl_command, "run", *line, f"results_dir={scratch}"], check=True, capture_output=True)
        return time.perf_counter() - start


class TorchEngine:
    """Steps of ``torch.optim.Adam``."""

    def __init__(self, net: rsl.LiftedNetwork, objective: Objective, batches: Batches) -> None:
        self.net, self.objective, self.batches = net, objective, batches
        scales = net.learning_rate_scales(adaptive=True)
        groups = [{"params": [parameter], "scale": scales[name]} for name, parameter in net.named_parameters()]
        self.optimizer = torch.optim.Adam(groups)

    def advance(self, _: list[int], steps: range, rates: np.ndarray) -> None:
        """Take steps."""
        for step, rate in zip(steps, rates.tolist(), strict=True):
            chosen = self.batches.at(step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            self.optimizer.zero_grad()
            self.objective.backward(self.net, None if chosen is None else torch.from_numpy(chosen))
            self.optimizer.step()

    def evaluate(self) -> None:
        """Compute what a sample of a trajectory holds."""
        self.objective.evaluate(self.net)


def alone(spec: StudySpec, objective: Objective, degree: int, seed: int, *, circuits: bool) -> None:
    """Train one run as a study does."""
    settings = spec.trainer
    assert isinstance(settings, FirstOrder)
    net = rsl.LiftedNetwork(
        rsl.sample_lift(spec.base, degree, seed, {"kind": "random", "in_degree": spec.lifting.in_degree}),
        None,
        spec.dtype,
        "mup",
    )
    batches = Batches(objective, [seed], settings.batch_size)
    if circuits:
        compiled = CircuitObjective.of(net, objective)
        assert compiled is not None
        engine = CircuitEngine(net, compiled, batches, Adam())
    else:
        engine = TorchEngine(net, objective, batches)
    engine.evaluate()
    done = 0
    for step in log_spaced_steps(settings.steps, settings.log_per_decade):
        if step > done:
            steps = range(done, step)
            rates = 0.5 * settings.learning_rate * (1 + np.cos(np.pi * np.array(steps) / settings.steps))
            engine.advance([0], steps, rates)
            engine.evaluate()
            done = step


if __name__ == "__main__":
    main()
