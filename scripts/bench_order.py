"""Whether renumbering the copies of a random lift lets a layer's products find their rows in cache.

The same layer (weights go with their edges) in several orders of its copies: as drawn, by reverse Cuthill-McKee, and
greedily, each target being the one that shares most sources with those before it. "In blocks" is another law, of
sources near their target, and shows what an order that does not exist would be worth. Beside the times stands what
share of the reads an L2 cache could serve, and the largest that any order of targets can have: by the first moment,
almost no graph of this law has s targets whose sources all are among 2 M, for an s that is small (M rows being a
cache's), and a stretch with M misses reads 2 M rows at most. By hand: ``python scripts/bench_order.py``.
"""

import argparse
import math

import numpy as np
import torch
from bench_layer import measure
from machine import Table, described, limits, named, rated, use_threads
from numba import njit
from scipy.sparse import bmat, csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from rsl_cli.kernels import cpu
from rsl_cli.kernels.pattern import Pattern

_CACHE = 1 << 20
"""Bytes of a usual L2."""


def main() -> None:
    """Order, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=16384, help="copies of source and of target")
    parser.add_argument("--in-degree", type=int, default=16)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=11, help="rounds; every order runs once in each")
    parser.add_argument("--threads", type=int, help="torch's default if left out")
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    n, degree, samples = arguments.n, arguments.in_degree, arguments.samples
    held = _CACHE // (4 * samples)
    draw = np.random.default_rng(0)
    drawn = np.stack([draw.choice(n, degree, replace=False) for _ in range(n)])
    block = min(held // 2, n)
    near = np.stack([draw.choice(block, degree, replace=False) + i // block * block for i in range(n)]) % n
    graphs = {
        "as drawn": drawn,
        "Cuthill-McKee": by_bandwidth(drawn),
        "greedy": greedily(drawn, held),
        "in blocks": near,
    }
    weight = torch.as_tensor(draw.standard_normal(n * degree), dtype=torch.float32)
    x, g = (torch.as_tensor(draw.standard_normal((n, samples)), dtype=torch.float32) for _ in range(2))

    def step(sources: np.ndarray) -> object:
        pattern = Pattern.from_edges(np.repeat(np.arange(n), degree), np.sort(sources).ravel(), n, n)
        return lambda: (
            cpu.product(weight, x, pattern),
            cpu.sampled_product(x, g, pattern),
            cpu.transposed_product(weight, g, pattern),
        )

    medians = measure({name: step(sources) for name, sources in graphs.items()}, arguments.repeats, untimed=1)  # pyright: ignore[reportArgumentType]
    found = limits()
    print(described(found))
    shares = {name: 100 * (1 - misses(sources, held, n) / sources.size) for name, sources in graphs.items()}
    timed = rated({"rsl": medians["as drawn"], **medians}, 1e3, 6.0 * n * degree * samples, found["float32"])
    rows = tuple((*row[:4], shares[str(row[0])]) for row in timed if row[0] != "rsl")
    print(f"no order of the targets has more than {100 * most_served(n, degree, held):.0f} % of its reads in cache")
    Table(
        f"order-{n:05d}",
        f"Three products of one layer by the order of its copies: n={n}, in-degree {degree}, {samples} samples, "
        f"float32, {named(x.device)}; medians of {arguments.repeats} rounds; reads that a cache of {held} rows serves",
        ("", "ms", "x drawn", "GF/s", "% in cache"),
        rows,
    ).show()


def by_bandwidth(sources: np.ndarray) -> np.ndarray:
    """Copies of both sides renumbered by reverse Cuthill-McKee of the bipartite graph."""
    n, degree = sources.shape
    matrix = csr_array((np.ones(sources.size), sources.ravel(), np.arange(0, sources.size + 1, degree)), shape=(n, n))
    order = reverse_cuthill_mckee(bmat([[None, matrix], [matrix.T, None]]).tocsr(), symmetric_mode=True)
    targets, columns = order[order < n], order[order >= n] - n
    place = np.empty(n, np.int64)
    place[columns] = np.arange(n)
    return place[sources[targets]]


@njit
def greedily(sources, held):
    """Targets in an order in which each has most of its sources among the last ``held`` that were read first."""
    n, degree = sources.shape
    cached, done, order = np.zeros(n, np.bool_), np.zeros(n, np.bool_), np.empty_like(sources)
    queue, first, last = np.empty(sources.size, np.int64), 0, 0
    for i in range(n):
        best, most = -1, -1
        for target in range(n):
            if not done[target]:
                shared = 0
                for k in range(degree):
                    shared += cached[sources[target, k]]
                if shared > most:
                    best, most = target, shared
        done[best] = True
        order[i] = sources[best]
        for k in range(degree):
            if not cached[sources[best, k]]:
                cached[sources[best, k]] = True
                queue[last] = sources[best, k]
                last += 1
                if last - first > held:
                    cached[queue[first]] = False
                    first += 1
    return order


def in_order_of_use(sources: np.ndarray) -> np.ndarray:
    """Sources renumbered in the order in which they are first read."""
    used, first = np.unique(sources, return_index=True)
    place = np.empty(sources.max() + 1, np.int64)
    place[used[np.argsort(first)]] = np.arange(len(used))
    return place[sources]


@njit
def misses(sources, held, n):
    """Reads, target after target, that are not among the ``held`` rows that were fetched last."""
    cached, queue, first, last = np.zeros(n, np.bool_), np.empty(sources.size, np.int64), 0, 0
    for row in sources.ravel():
        if not cached[row]:
            cached[row] = True
            queue[last] = row
            last += 1
            if last - first > held:
                cached[queue[first]] = False
                first += 1
    return last


def most_served(n: int, degree: int, held: int) -> float:
    """A bound, of almost all graphs of the law, on the share of reads that a cache of ``held`` rows serves."""
    rows = min(2 * held, n)

    def chosen(k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    targets = 1
    # How many sets of targets and of rows there are, times the chance that all edges of one lead into the other.
    while targets < n and chosen(targets) + chosen(rows) + degree * targets * math.log(rows / n) > math.log(0.01):
        targets += 1
    return max(0.0, 1 - held / (degree * targets))


if __name__ == "__main__":
    main()
