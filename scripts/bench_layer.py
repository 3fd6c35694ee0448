"""One sparse layer's training step against its rivals: forward, and backward to the weights and to the input.

All rivals do the same work on the same graph in one process; their results are compared first, then rounds take turns
so that a noisy machine disturbs all alike. In each, a rival takes one step untimed and then one timed: in training a
step follows one like it, which has left its own data in the caches. "Condensed" is the layer of constant fan-in: an
(n, in-degree) matrix of weights beside one of sources, as structured sparse training keeps it. Run by hand:
``python scripts/bench_layer.py --n 1024 --in-degree 8``.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from machine import Table, described, finished, limits, named, rated, use_threads
from numba import njit, prange
from torch import Tensor
from torch.nn import functional

from rsl_cli.kernels.autograd import Implementation, kernels_for, sparse_product
from rsl_cli.kernels.pattern import Pattern

Step = Callable[[], tuple[Tensor, Tensor, Tensor]]
"""One training step: (output (n, N), gradient of the weights (E,), gradient of the input (n, N))."""


def main() -> None:
    """Compare, then time, then print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1024, help="copies of source and of target")
    parser.add_argument("--in-degree", type=int, default=8)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--repeats", type=int, default=101, help="rounds; every rival runs once in each")
    parser.add_argument("--threads", type=int, help="torch's default if left out")
    parser.add_argument("--dense-limit", type=int, default=8192, help="largest n at which the masked dense rival runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    device = torch.device(arguments.device)
    # torch calls its own CSR tensors unfinished, once for each kind of warning.
    warnings.filterwarnings("ignore", message="Sparse")
    dtype = getattr(torch, arguments.dtype)
    steps = rivals(arguments.n, arguments.in_degree, arguments.samples, dtype, arguments.dense_limit, device)
    agree(steps, 1e-4 if dtype is torch.float32 else 1e-11)
    medians = measure(steps, arguments.repeats, untimed=1)
    # A multiply-add for each edge and sample, once forward and twice backward.
    work = 6.0 * arguments.n * arguments.in_degree * arguments.samples
    found = limits(device)
    print(described(found))
    rows = rated(medians, 1e3, work, found[arguments.dtype])
    Table(
        f"layer-{arguments.n:05d}-{arguments.dtype}" + ("" if device.type == "cpu" else "-cuda"),
        f"One layer, forward and backward: n={arguments.n}, in-degree {arguments.in_degree}, {arguments.samples} "
        f"samples, {arguments.dtype}, {named(device)}; medians of {arguments.repeats} rounds",
        ("", "ms", "x rsl", "GF/s", "% of GEMM"),
        rows,
    ).show()


def rivals(
    n: int, in_degree: int, samples: int, dtype: torch.dtype, dense_limit: int, device: torch.device
) -> dict[str, Step]:
    """Make every rival's step over one random graph of exact in-degree."""
    rng = np.random.default_rng(0)
    sources = np.stack([np.sort(rng.choice(n, in_degree, replace=False)) for _ in range(n)]).ravel()
    targets = np.repeat(np.arange(n), in_degree)
    values, given, cotangent = (
        torch.as_tensor(rng.standard_normal(size), dtype=dtype, device=device)
        for size in (n * in_degree, (n, samples), (n, samples))
    )
    pattern = Pattern.from_edges(targets, sources, n, n)
    weight, x = values.clone().requires_grad_(), given.clone().requires_grad_()
    rows, columns = torch.as_tensor(targets, device=device), torch.as_tensor(sources, device=device)
    own = kernels_for(values, given)

    def autograd(forward: Callable[[], Tensor], against: Tensor = cotangent) -> Step:
        def step() -> tuple[Tensor, Tensor, Tensor]:
            out = forward()
            of_weight, of_x = torch.autograd.grad(out, (weight, x), against)
            return out.detach(), of_weight, of_x

        return step

    def raw() -> tuple[Tensor, Tensor, Tensor]:
        return (
            own.product(values, given, pattern),
            own.sampled_product(given, cotangent, pattern),
            own.transposed_product(values, cotangent, pattern),
        )

    starts = torch.as_tensor(pattern.indptr, device=device)
    arrays = (pattern.indptr, pattern.indices, *pattern.transposed)

    def plain() -> tuple[Tensor, Tensor, Tensor]:
        results = _plain_step(*arrays, values.numpy(), given.numpy(), cotangent.numpy())
        of_out, of_weight, of_x = (torch.from_numpy(result) for result in results)
        return of_out, of_weight, of_x

    def csr() -> Tensor:
        return torch.sparse_csr_tensor(starts, columns, weight, (n, n)) @ x

    def condensed() -> Tensor:
        return torch.bmm(weight.view(n, 1, in_degree), x[columns.view(n, in_degree)]).squeeze(1)

    steps = {
        "rsl": autograd(lambda: sparse_product(weight, x, pattern)),
        "rsl kernels alone": raw,
        "torch CSR tensor": autograd(csr),
        "condensed": autograd(condensed),
        "plain torch (reference)": autograd(lambda: sparse_product(weight, x, pattern, Implementation.REFERENCE)),
    }
    if device.type == "cpu":
        steps["plain Numba loops"] = plain
    if n <= dense_limit:
        mask = torch.zeros(n, n, dtype=dtype, device=device)
        mask[rows, columns] = 1
        dense = torch.zeros_like(mask)
        dense[rows, columns] = values
        dense.requires_grad_()

        def masked() -> tuple[Tensor, Tensor, Tensor]:
            out = (dense * mask) @ x
            of_matrix, of_x = torch.autograd.grad(out, (dense, x), cotangent)
            return out.detach(), of_matrix, of_x

        steps["masked dense product"] = masked
    if dtype is torch.float32:
        # A bag of rows of x for each target: with features as rows, the layer as it stands.
        steps["embedding_bag"] = autograd(
            lambda: functional.embedding_bag(columns, x, starts[:-1], mode="sum", per_sample_weights=weight)
        )
    return steps


def agree(steps: dict[str, Step], tolerance: float) -> None:
    """Stop unless every rival gives the first one's numbers."""
    expected = steps["rsl"]()
    for name, step in steps.items():
        for got, want, what in zip(step(), expected, ("output", "weight gradient", "input gradient"), strict=True):
            # A dense rival has a gradient for every pair; it is zero where the mask is.
            got = got[got != 0] if got.shape != want.shape else got
            error = float((got - want).abs().max() / want.abs().max())
            if not error <= tolerance:
                raise SystemExit(f"{name}: {what} differs by {error:.1e}")


def measure(steps: Mapping[str, Callable[[], object]], repeats: int, untimed: int = 0) -> dict[str, float]:
    """Median seconds of each rival over interleaved rounds, in each after some calls that are not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = np.random.default_rng(0)
    for _ in range(repeats):
        # In another order each time: whoever follows a large product finds cold caches and busy threads.
        for name in order.permutation(list(steps)).tolist():
            step = steps[name]
            for _ in range(untimed):
                step()
            finished()
            start = time.perf_counter()
            step()
            finished()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


@njit(parallel=True, fastmath=True)
def _plain_step(indptr, indices, indptr_t, rows_t, positions, weight, x, g):
    """Compute the three products as one would write them down first."""
    samples = x.shape[1]
    out, of_weight, of_x = np.zeros_like(g), np.empty_like(weight), np.zeros_like(x)
    for row in prange(len(indptr) - 1):
        for k in range(indptr[row], indptr[row + 1]):
            for m in range(samples):
                out[row, m] += weight[k] * x[indices[k], m]
    for row in prange(len(indptr) - 1):
        for k in range(indptr[row], indptr[row + 1]):
            total = weight.dtype.type(0.0)
            for m in range(samples):
                total += g[row, m] * x[indices[k], m]
            of_weight[k] = total
    for column in prange(len(indptr_t) - 1):
        for k in range(indptr_t[column], indptr_t[column + 1]):
            for m in range(samples):
                of_x[column, m] += weight[positions[k]] * g[rows_t[k], m]
    return out, of_weight, of_x


if __name__ == "__main__":
    main()
