"""One whole training step of ``base=mlp`` by Adam: batch, forward, loss, backward, update.

Rivals are the same network on the same graph and samples: written with ``embedding_bag`` and with masks, trained by
``torch.optim.Adam``; and as this package trains what has no circuits, by its sparse products under autograd. Losses
after some steps are compared first; then rounds take turns. On a GPU every rival's step is one CUDA graph, as this
package's is, where it is not called eager. By hand: ``python scripts/bench_step.py``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from bench_layer import measure
from machine import Table, described, limits, named, rated, use_threads
from torch import Tensor, nn
from torch.nn import functional

import rsl_cli as rsl
from rsl_cli.data import Dataset
from rsl_cli.train.circuits import CircuitObjective
from rsl_cli.train.engines import AutogradEngine, Batches, CircuitEngine
from rsl_cli.train.objective import Objective
from rsl_cli.train.optimizers import Adam

_RATE = 1e-3
_COMPARED = 5
_DENSE = 8192
"""The largest degree at which the masked dense rival runs."""


def main() -> None:
    """Time small steps, several replicas, and large ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-degree", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15, help="rounds; every rival runs once in each")
    parser.add_argument("--threads", type=int, help="torch's default if left out")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    device = torch.device(arguments.device)
    found = limits(device)
    print(described(found))
    small = ((16, 16384, 256, 1), (16, 16384, 256, 16), (64, 16384, 256, 1))
    # A GPU captures steps on batches; passes over all samples add up on the host.
    large = ((1024, 2048, None, 1),) if device.type == "cpu" else ((1024, 16384, 2048, 1), (16384, 16384, 2048, 1))
    for n, samples, batch, seeds in (*small, *large):
        case(arguments.in_degree, arguments.repeats, found, device, n, samples, batch, seeds)


def case(
    in_degree: int,
    repeats: int,
    found: dict[str, float],
    device: torch.device,
    n: int,
    samples: int,
    batch: int | None,
    seeds: int,
) -> None:
    """Compare, time and print one size."""
    base = rsl.BaseGraph.from_config(
        yaml.safe_load((Path(__file__).parents[1] / "conf" / "base" / "mlp.yaml").read_text()),
        input_shape=(2,),
        output_size=1,
    )
    lifting = {"kind": "regular", "in_degree": in_degree}
    lifts = [rsl.sample_lift(base, n, seed, lifting) for seed in range(seeds)]
    draw = np.random.default_rng(0)
    x, y = draw.uniform(-1, 1, (samples, 2)), draw.standard_normal((samples, 1))
    data = Dataset("made", "regression", x, y, x[:1], y[:1], 1)
    objective = Objective(data, "mse", dtype=torch.float32, device=device)

    def network() -> rsl.LiftedNetwork:
        return rsl.LiftedNetwork(rsl.disjoint_union(lifts) if seeds > 1 else lifts[0]).to(device)

    def batches() -> Batches:
        return Batches(objective, list(range(seeds)), batch)

    mine = network()
    by_autograd = engine_steps(AutogradEngine(network(), objective, batches(), Adam()), seeds)
    compiled = CircuitObjective.of(mine, objective)
    if compiled is None:
        rivals = {"rsl": by_autograd}
    else:
        by_circuits = engine_steps(CircuitEngine(mine, compiled, batches(), Adam()), seeds)
        rivals = {"rsl": by_circuits, "rsl under autograd": by_autograd}
    if seeds == 1:
        for name, kind in (("embedding_bag", Bags), ("masked dense", Masked)):
            if kind is Masked and n > _DENSE:
                continue
            rivals[name] = module_steps(kind(network()), objective, batches())
            if device.type == "cuda":
                rivals[f"{name}, eager"] = rivals[name]
                rivals[name] = captured_steps(kind(network()), objective, batches())
    compare(rivals)
    edges = sum(lift.parameter_count for lift in lifts)
    width = batch or samples
    count = max(10, int(2e7 / (edges * width))) if device.type == "cpu" else 50
    medians = measure({name: (lambda f=advance: f(count)) for name, (advance, _) in rivals.items()}, repeats)
    rows = rated({name: s / count for name, s in medians.items()}, 1e6, 6.0 * edges * width, found["float32"])
    Table(
        f"step-{n:05d}-{seeds:02d}" + ("" if device.type == "cpu" else "-cuda"),
        f"Adam step of mlp, n={n}, seeds {seeds}, P={edges}, batch {width}, float32, {named(device)}; medians of "
        f"{repeats} rounds",
        ("", "us a step", "x rsl", "GF/s", "% of GEMM"),
        rows,
    ).show()


Rival = tuple[Callable[[int], None], Callable[[], float]]
"""Take some steps; the mean of all replicas' losses on all samples."""


def engine_steps(engine: CircuitEngine | AutogradEngine, seeds: int) -> Rival:
    """A trainer's own steps."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        engine.advance(range(seeds), range(done, done + count), np.full(count, _RATE))
        done += count

    return advance, lambda: float(engine.evaluate().loss.mean())


def module_steps(module: nn.Module, objective: Objective, batches: Batches) -> Rival:
    """Steps as one writes them in torch."""
    optimizer = torch.optim.Adam(module.parameters(), lr=_RATE)
    done = 0

    def loss_on(x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (module(x.T) - y.T).square().mean()

    def advance(count: int) -> None:
        nonlocal done
        for step in range(done, done + count):
            chosen = batches.at(step)
            numbers = slice(None) if chosen is None else torch.as_tensor(chosen[0], device=objective.x.device)
            optimizer.zero_grad()
            loss_on(objective.x[numbers], objective.y[numbers]).backward()
            optimizer.step()
        done += count

    return advance, lambda: float(loss_on(objective.x, objective.y).detach())


def captured_steps(module: nn.Module, objective: Objective, batches: Batches) -> Rival:
    """The same with each step one CUDA graph."""
    optimizer = torch.optim.Adam(module.parameters(), lr=_RATE, capturable=True)
    numbers = torch.zeros(batches.size or batches.samples, dtype=torch.int64, device=objective.x.device)
    kept = [parameter.detach().clone() for parameter in module.parameters()]
    graph, done = torch.cuda.CUDAGraph(), 0

    def loss_on(x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (module(x.T) - y.T).square().mean()

    def step() -> None:
        optimizer.zero_grad()
        loss_on(objective.x[numbers], objective.y[numbers]).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        step()
    # The steps that warmed up are taken back.
    with torch.no_grad():
        for parameter, start in zip(module.parameters(), kept, strict=True):
            parameter.copy_(start)
            for value in optimizer.state[parameter].values():
                value.zero_()

    def advance(count: int, alive: object = optimizer) -> None:
        # Its states' memory is the graph's, and must not be given to others.
        nonlocal done
        for number in range(done, done + count):
            chosen = batches.at(number)
            assert chosen is not None
            numbers.copy_(torch.from_numpy(chosen[0]))
            graph.replay()
        done += count

    return advance, lambda: float(loss_on(objective.x, objective.y).detach())


def compare(rivals: dict[str, Rival]) -> None:
    """Stop unless all have the same loss after some steps."""
    losses = {}
    for name, (advance, loss) in rivals.items():
        advance(_COMPARED)
        losses[name] = loss()
    for name, loss in losses.items():
        if not abs(loss - losses["rsl"]) <= 1e-5 * losses["rsl"]:
            raise SystemExit(f"{name}: loss {loss} after {_COMPARED} steps, rsl's is {losses['rsl']}")


class Bags(nn.Module):
    """The network with ``embedding_bag`` for its sparse layer; features are rows."""

    def __init__(self, net: rsl.LiftedNetwork) -> None:
        super().__init__()
        sources, targets = net.lift.edges("h1", "h2")
        n = net.lift.fibre("h2")
        self.first = nn.Parameter(net.weight("x", "h1").detach().reshape(n, -1).clone())
        self.second = nn.Parameter(net.weight("h1", "h2").detach().reshape(-1).clone())
        self.last = nn.Parameter(net.weight("h2", "y").detach().reshape(1, -1).clone())
        self.bias1 = nn.Parameter(net.bias("h1").detach().reshape(-1, 1).clone())
        self.bias2 = nn.Parameter(net.bias("h2").detach().reshape(-1, 1).clone())
        device = self.first.device
        self.sources, self.targets = (torch.as_tensor(ends, device=device) for ends in (sources, targets))
        self.offsets = torch.searchsorted(self.targets, torch.arange(n, device=device))

    def sparse(self, h: Tensor) -> Tensor:
        """(n, N) to (n, N)."""
        return functional.embedding_bag(self.sources, h, self.offsets, mode="sum", per_sample_weights=self.second)

    def forward(self, x: Tensor) -> Tensor:
        """(2, N) to (1, N)."""
        h1 = torch.tanh(self.first @ x + self.bias1)
        h2 = torch.tanh(self.sparse(h1) + self.bias2)
        return self.last @ h2


class Masked(Bags):
    """The same with a dense matrix under a mask."""

    def __init__(self, net: rsl.LiftedNetwork) -> None:
        super().__init__(net)
        n = len(self.first)
        mask, dense = (torch.zeros(n, n, device=self.first.device) for _ in range(2))
        mask[self.targets, self.sources] = 1
        dense[self.targets, self.sources] = self.second.detach()
        self.mask, self.second = mask, nn.Parameter(dense)

    def sparse(self, h: Tensor) -> Tensor:
        """(n, N) to (n, N)."""
        return (self.second * self.mask) @ h


if __name__ == "__main__":
    main()
