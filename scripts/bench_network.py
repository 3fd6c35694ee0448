"""Forward and backward of a whole network through the public module, against the same written with torch's layers.

Layers of tanh units in a row, on one random graph of exact in-degree; every rival holds the same weights. Outputs and
gradients are compared first, then rounds take turns. By hand: ``python scripts/bench_network.py --layers 6``.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import yaml
from bench_layer import measure
from machine import Table, described, limits, named, rated, use_threads
from torch import Tensor
from torch.nn import functional

import rsl_cli as rsl
from rsl_cli.kernels.autograd import Implementation


def main() -> None:
    """Compare, time, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1024, help="copies of each vertex")
    parser.add_argument("--layers", type=int, default=6, help="sparse layers")
    parser.add_argument("--in-degree", type=int, default=8)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=51, help="rounds; every rival runs once in each")
    parser.add_argument("--threads", type=int, help="torch's default if left out")
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    names = [f"h{i + 1}" for i in range(arguments.layers + 1)]
    config = yaml.safe_load((Path(__file__).parents[1] / "conf" / "base" / "deep.yaml").read_text())
    base = rsl.BaseGraph.from_config(config | {"depth": arguments.layers + 1}, input_shape=(2,), output_size=1)
    lift = rsl.sample_lift(base, arguments.n, 0, {"kind": "regular", "in_degree": arguments.in_degree})
    x = torch.randn(arguments.samples, 2)
    net, edgewise = rsl.LiftedNetwork(lift), rsl.LiftedNetwork(lift, implementation=Implementation.NUMBA)
    with torch.no_grad():
        # A readout of zeros would leave nothing to differentiate.
        net.weight(names[-1], "y").normal_()
    edgewise.load_state_dict(net.state_dict())
    sparse = [net.weight(a, b).detach().reshape(-1) for a, b in pairwise(names)]
    first, last = (net.weight(*ends).detach().reshape(shape) for ends, shape in ends_of(names, arguments.n))
    biases = [net.bias(name).detach().reshape(-1, 1) for name in names]
    graph = [[torch.as_tensor(ends) for ends in lift.edges(a, b)] for a, b in pairwise(names)]

    def rival(layer: Callable[[int, Tensor, Tensor], Tensor], weights: list[Tensor]) -> Callable[[], list[Tensor]]:
        weights = [weight.clone().requires_grad_() for weight in weights]
        ends = [first.clone().requires_grad_(), last.clone().requires_grad_()]
        shifts = [bias.clone().requires_grad_() for bias in biases]

        def step() -> list[Tensor]:
            h = torch.tanh(ends[0] @ x.T + shifts[0])
            for i, weight in enumerate(weights):
                h = torch.tanh(layer(i, weight, h) + shifts[i + 1])
            out = ends[1] @ h
            return [out.detach(), *torch.autograd.grad(out.sum(), [*ends, *shifts, *weights])]

        return step

    def ours(network: rsl.LiftedNetwork) -> Callable[[], list[Tensor]]:
        parameters = [network.weight("x", names[0]), network.weight(names[-1], "y")]
        parameters += [network.bias(name) for name in names]
        parameters += [network.weight(a, b) for a, b in pairwise(names)]

        def step() -> list[Tensor]:
            out = network(x)
            return [out.detach().T, *torch.autograd.grad(out.sum(), parameters)]

        return step

    offsets = torch.arange(0, arguments.n * arguments.in_degree, arguments.in_degree)
    masks = []
    for sources, targets in graph:
        masks.append(torch.zeros(arguments.n, arguments.n))
        masks[-1][targets, sources] = 1
    dense = []
    for (sources, targets), mask, weight in zip(graph, masks, sparse, strict=True):
        dense.append(torch.zeros_like(mask))
        dense[-1][targets, sources] = weight

    def bag(i: int, weight: Tensor, h: Tensor) -> Tensor:
        return functional.embedding_bag(graph[i][0], h, offsets, mode="sum", per_sample_weights=weight)

    def condensed(i: int, weight: Tensor, h: Tensor) -> Tensor:
        shape = (arguments.n, arguments.in_degree)
        return torch.bmm(weight.view(*shape, 1).transpose(1, 2), h[graph[i][0].view(shape)]).squeeze(1)

    def masked(i: int, weight: Tensor, h: Tensor) -> Tensor:
        return (weight * masks[i]) @ h

    steps = {
        "rsl": ours(net),
        "rsl edge by edge": ours(edgewise),
        "embedding_bag": rival(bag, sparse),
        "condensed": rival(condensed, sparse),
        "masked dense": rival(masked, dense),
    }
    agree(steps)
    medians = measure(steps, arguments.repeats, untimed=1)
    found = limits()
    print(described(found))
    Table(
        f"network-{arguments.layers}x{arguments.n:05d}",
        f"Network of {arguments.layers} sparse layers, forward and backward: n={arguments.n}, in-degree "
        f"{arguments.in_degree}, {arguments.samples} samples, float32, {named(x.device)}; medians of "
        f"{arguments.repeats} rounds",
        ("", "ms", "x rsl", "GF/s", "% of GEMM"),
        rated(medians, 1e3, 6.0 * lift.parameter_count * arguments.samples, found["float32"]),
    ).show()


def ends_of(names: list[str], n: int) -> list[tuple[tuple[str, str], tuple[int, int]]]:
    """The first and the last edge, and the shape of either's matrix."""
    return [(("x", names[0]), (n, 2)), ((names[-1], "y"), (1, n))]


def agree(steps: dict[str, Callable[[], list[Tensor]]]) -> None:
    """Stop unless all have the same outputs and gradients."""
    expected = steps["rsl"]()
    for name, step in steps.items():
        for got, want in zip(step(), expected, strict=True):
            # A dense rival's gradient has an entry for every pair.
            if got.numel() == want.numel():
                error = float((got.reshape(-1) - want.reshape(-1)).abs().max() / want.abs().max())
                if not error <= 1e-4:
                    raise SystemExit(f"{name} differs by {error:.1e}")


if __name__ == "__main__":
    main()
