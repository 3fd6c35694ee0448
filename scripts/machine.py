"""What this machine can do at most: dense multiply-adds, and reading rows at random from each cache and from memory.

Other benchmarks measure these limits in their own run and give their figures as shares of them. By hand:
``python scripts/machine.py``.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numba
import numpy as np
import torch
from numba import njit, prange

from rsl_cli.kernels.strip import BYTES, weighted_sum
from rsl_cli.study.machine import prepare

_PLACES = {"L2": 1 << 19, "L3": 1 << 23, "memory": 1 << 29}
"""Bytes of the rows read, for each thread, or for all where they share: half of a usual L2, and so on."""


KEPT = Path(__file__).parents[1] / "results" / "bench"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="torch's default if left out")
    use_threads(parser.parse_args().threads)
    print(described(limits()))


def use_threads(threads: int | None) -> None:
    """Set this process up as studies do, for all rivals alike: threads (None: torch's), and freed memory kept."""
    # Numba first: its threads, once started, set the number that torch shares.
    threads = threads or torch.get_num_threads()
    numba.set_num_threads(threads)
    prepare(threads)


def named(device: torch.device) -> str:
    """A device, as titles of tables say it."""
    return f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)


def finished() -> None:
    """Wait for what a GPU still does, where one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def limits(device: torch.device | None = None) -> dict[str, float]:
    """Of a device, the CPU if left out: GEMM in GF/s by type, and GB/s from each place.

    Returns:
        ``float32`` and ``float64``; on the CPU ``L2``, ``L3`` and ``memory``, reading 256-byte rows at random; on a GPU
        ``memory``, copying (bytes read and written).
    """
    device, found = device or torch.device("cpu"), {}
    for dtype in (torch.float32, torch.float64):
        # A GPU needs more to be busy.
        size = 1024 if device.type == "cpu" else 8192
        a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        found[str(dtype).removeprefix("torch.")] = 2 * size**3 / median(lambda a=a, b=b: a @ b) / 1e9
    if device.type == "cuda":
        given, into = (torch.zeros(_PLACES["memory"], device=device) for _ in range(2))
        return found | {"memory": 8 * len(given) / median(lambda: into.copy_(given)) / 1e9}
    draw, threads = np.random.default_rng(0), torch.get_num_threads()
    for place, size in _PLACES.items():
        rows = size // BYTES
        x = torch.ones(rows * BYTES // 4).numpy()  # which starts at a line of cache
        reads = max(1 << 15, rows)
        starts = draw.integers(0, rows, (threads, reads)).astype(np.int32)
        weight, sums = np.ones(reads, np.float32), np.empty((threads, BYTES // 4), np.float32)
        seconds = median(lambda x=x, s=starts, w=weight, into=sums: _gather(x, s, w, into))
        found[place] = starts.size * BYTES / seconds / 1e9
    return found


def described(found: dict[str, float]) -> str:
    """One line of it; the CPU's is kept for `scripts/bench_report.py` too."""
    gemm = f"GEMM {found['float32']:.0f} GF/s float32, {found['float64']:.0f} float64"
    if "L2" not in found:
        return f"limits of {torch.cuda.get_device_name()}: {gemm}; copying {found['memory']:.0f} GB/s"
    reads = ", ".join(f"{place} {found[place]:.0f}" for place in _PLACES)
    text = f"limits here, {torch.get_num_threads()} threads: {gemm}; rows of {BYTES} bytes at random, GB/s: {reads}"
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / "limits.txt").write_text(text)
    return text


@dataclass(frozen=True)
class Table:
    """What a benchmark found: printed, and kept for `scripts/bench_report.py`.

    Args:
        name: of its file.
        title: what was measured, on what.
        columns: first a name, then figures.
        rows: as many cells each.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]

    def show(self) -> None:
        """Print it, and write it to ``results/bench``."""
        print(f"\n{self.title}")
        width = max(len(str(row[0])) for row in (*self.rows, self.columns)) + 2
        cells = [self.columns, *self.rows]
        for row in cells:
            print(f"{row[0]:{width}}" + "".join(f"{shown(cell):>13}" for cell in row[1:]))
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / f"{self.name}.json").write_text(json.dumps(asdict(self), indent=1))


def rated(medians: Mapping[str, float], unit: float, work: float, peak: float) -> tuple[tuple[str | float, ...], ...]:
    """Rows of name, time, time over this package's, GF/s and share of the GEMM rate in per cent, fastest first.

    Args:
        medians: seconds by name, ``rsl`` among them.
        unit: what to multiply seconds by.
        work: floating-point operations in those seconds.
        peak: the GEMM rate, in GF/s.
    """
    return tuple(
        (name, unit * seconds, seconds / medians["rsl"], work / seconds / 1e9, 100 * work / seconds / 1e9 / peak)
        for name, seconds in sorted(medians.items(), key=lambda item: item[1])
    )


def shown(cell: str | float) -> str:
    """Three digits of a figure."""
    if isinstance(cell, str):
        return cell
    if math.isnan(cell):
        return "-"
    return f"{cell:,.0f}" if cell >= 100 else f"{cell:.3g}"


def median(work: Callable[[], object], repeats: int = 15) -> float:
    """Median seconds of a call, after two that warm it up."""
    times = []
    for _ in range(repeats + 2):
        finished()
        start = time.perf_counter()
        work()
        finished()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


@njit(parallel=True)
def _gather(x, starts, weight, sums):
    for thread in prange(len(starts)):
        weighted_sum(x, starts[thread], BYTES // 4, 0, None, weight, 0, starts.shape[1], sums[thread], 0)


if __name__ == "__main__":
    main()
