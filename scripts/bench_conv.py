"""One sparse convolution's training step against masked dense ones: forward, and backward to weights and input.

Every rival has the same kernels on the same graph and the same images; results are compared first. Memory is by how
much one step's peak exceeds what the process held (Linux), each rival in a process of its own. Run by hand:
``python scripts/bench_conv.py``.
"""

import argparse
import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from bench_layer import Step, agree, measure
from machine import use_threads
from torch import Tensor
from torch.nn import functional

from rsl_cli.kernels.autograd import Implementation, sparse_product
from rsl_cli.kernels.pattern import Pattern
from rsl_cli.maps import Conv


def main() -> None:
    """Compare, then time, then print a table, for each number of channels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--in-degree", type=int, default=8)
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--pixels", type=int, default=16, help="height and width of the maps")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--repeats", type=int, default=11, help="rounds; every rival runs once in each")
    parser.add_argument("--threads", type=int, help="torch's default if left out")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    if arguments.peak_of:
        print(peak(rivals(arguments, arguments.channels[0])[arguments.peak_of]))
        return
    print(
        f"in-degree {arguments.in_degree}, {arguments.kernel} x {arguments.kernel}, {arguments.pixels} x "
        f"{arguments.pixels} pixels, {arguments.images} images, {arguments.dtype}, {torch.get_num_threads()} threads, "
        f"medians of {arguments.repeats} interleaved rounds"
    )
    print(f"{'channels':>8}  {'':24}{'ms':>9}{'x rsl':>8}{'GF/s':>8}{'peak MiB':>10}")
    for channels in arguments.channels:
        steps = rivals(arguments, channels)
        agree(steps, 1e-4 if arguments.dtype == "float32" else 1e-11)
        medians = measure(steps, arguments.repeats)
        stencil = Conv(arguments.kernel).stencil((arguments.pixels,) * 2)
        # A multiply-add for each kept edge, tap, pixel it reaches and image, once forward and twice backward.
        work = 6.0 * channels * arguments.in_degree * len(stencil.tap) * arguments.images
        for name, seconds in sorted(medians.items(), key=lambda item: item[1]):
            command = [sys.executable, *sys.argv, "--channels", str(channels), "--peak-of", name]
            grown = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"{channels:8}  {name:24}{1e3 * seconds:9.2f}{seconds / medians['rsl']:8.2f}{work / seconds / 1e9:8.1f}"
                f"{grown / 2**20:10.1f}",
                flush=True,
            )


def rivals(arguments: argparse.Namespace, channels: int) -> dict[str, Step]:
    """Make every rival's step over one random graph of exact in-degree."""
    rng, dtype = np.random.default_rng(0), getattr(torch, arguments.dtype)
    degree, side, pixels, images = arguments.in_degree, arguments.kernel, arguments.pixels, arguments.images
    sources = np.stack([np.sort(rng.choice(channels, degree, replace=False)) for _ in range(channels)]).ravel()
    targets = np.repeat(np.arange(channels), degree)
    shape = (channels, pixels, pixels, images)
    values, given, cotangent = (
        torch.as_tensor(rng.standard_normal(size, dtype=np.float32), dtype=dtype)
        for size in ((len(sources), side, side), shape, shape)
    )
    pattern = Pattern.from_edges(targets, sources, channels, channels, stencil=Conv(side).stencil((pixels, pixels)))
    weight, x = values.clone().requires_grad_(), given.clone().requires_grad_()
    rows, columns = torch.as_tensor(targets), torch.as_tensor(sources)

    def sparse() -> tuple[Tensor, Tensor, Tensor]:
        wide = x.view(-1, images)
        out = sparse_product(weight.view(-1), wide, pattern, Implementation.NUMBA).view(shape)
        of_weight, of_x = torch.autograd.grad(out, (weight, x), cotangent)
        return out.detach(), of_weight, of_x

    mask = torch.zeros(channels, channels, 1, 1, dtype=dtype)
    mask[rows, columns] = 1
    kernels = torch.zeros(channels, channels, side, side, dtype=dtype)
    kernels[rows, columns] = values
    kernels.requires_grad_()
    # Each in the layout that suits it: images first.
    first, against = (part.permute(3, 0, 1, 2).contiguous() for part in (given, cotangent))
    first.requires_grad_()

    def masked() -> tuple[Tensor, Tensor, Tensor]:
        out = functional.conv2d(first, kernels * mask, padding=side // 2)
        of_kernels, of_first = torch.autograd.grad(out, (kernels, first), against)
        return out.detach().permute(1, 2, 3, 0), of_kernels[rows, columns], of_first.permute(1, 2, 3, 0)

    return {"rsl": sparse, "masked dense conv2d": masked}


def peak(step: Step) -> float:
    """Bytes by which one step's peak exceeds what the process holds before it, after a step that compiles and warms."""
    step()
    # What the warm step left is given back; and Linux forgets the peak so far when told to.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _kib("VmRSS")
    step()
    return 1024.0 * (_kib("VmHWM") - before)


def _kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
