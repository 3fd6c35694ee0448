"""The Triton kernels, natively where there is a CUDA device, through Triton's interpreter on the CPU everywhere."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from problems import group
from test_kernels import STENCILS, operands, pattern_of, products
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from rsl_cli.graph import BaseGraph
from rsl_cli.kernels import cpu, reference
from rsl_cli.kernels.autograd import Implementation, kernels_for, sparse_product
from rsl_cli.kernels.pattern import Pattern
from rsl_cli.kernels.stencil import Stencil
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.network import LiftedNetwork

triton = pytest.importorskip("triton", reason="needs triton, which torch's CUDA builds and the extra dev bring")

from rsl_cli.kernels import cuda  # noqa: E402  (imports triton)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


def on_the_device(test):
    absent = not INTERPRETED and not torch.cuda.is_available()
    reason = "needs a CUDA device; test_all_through_the_interpreter runs it on the CPU"
    return pytest.mark.gpu(pytest.mark.skipif(absent, reason=reason)(test))


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_all_through_the_interpreter():
    # In a process of its own: Triton reads the variable when a kernel is defined.
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("number", ["fp32", "fp64"])
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("ones", [set(), {"of_row", "of_column", "of_weight", "most"}])
def test_kernels_compile_without_a_gpu(number, capability, ones, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    weights = {"WEIGHTS": 4, "SAMPLES": 512}
    for kernel, constants in (
        (cuda._rows, {"SAMPLES": 512}),
        (cuda._weights, {"BY_SAMPLE": False, **weights}),
        (cuda._weights, {"BY_SAMPLE": True, **weights}),
    ):
        code = compiled(kernel, number, capability, constants | dict.fromkeys(ones & {*kernel.arg_names}, 1))
        assert f"fma.rn.f{number[2:]}" in code
        # Sixteen bytes at a time, and no tensor cores.
        assert ("ld.global.v4.b32" if number == "fp32" else "ld.global.v2.b64") in code
        assert "mma" not in code and "tf32" not in code


def compiled(kernel, number, capability, constants) -> str:
    sizes = {"rows", "samples", "count", "groups", "wide", "step", "of_row", "of_column", "of_weight", "most"}
    kinds = dict.fromkeys(("weight", "x", "g", "out"), f"*{number}") | dict.fromkeys(sizes, "i32")
    kinds |= dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name, "*i64") for name in kernel.arg_names}
    aligned = {"x", "g", "out", "samples", "wide", "step"}
    attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name in aligned}
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=triton.backends.compiler.GPUTarget("cuda", capability, 32)).asm["ptx"]


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, cuda), (torch.float64, cuda), (torch.half, reference)])
def test_auto_takes_triton_on_a_cuda_device(dtype, expected):
    with FakeTensorMode():
        a = torch.empty(2, device="cuda", dtype=dtype)
        assert kernels_for(a, a) is expected
        assert kernels_for(a, a.cpu()) is reference


@on_the_device
@pytest.mark.parametrize("name", STENCILS)
@pytest.mark.parametrize("samples", [0, 1, 5, 129, 257])  # Tiles of 128: none, parts of one, two and three.
def test_products_are_those_of_the_reference(name, samples):
    agree(pattern_of([0, 2], 3, stencil=STENCILS[name]), samples, torch.float64, 1e-11)


@on_the_device
@pytest.mark.parametrize("name", STENCILS)
def test_single_precision(name):
    agree(pattern_of([1, 0], 2, stencil=STENCILS[name]), 33, torch.float32, 1e-5)


@on_the_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_degrees_around_the_unrolled_ones(dtype):
    agree(pattern_of([0, 1, 3, 4, 5, 8, 11, 0], 6), 7, dtype, 1e-4 if dtype is torch.float32 else 1e-11)


@on_the_device
@pytest.mark.parametrize("in_degrees", [[0, 0], []])
def test_patterns_without_edges(in_degrees):
    agree(pattern_of(in_degrees, 3), 4, torch.float64, 0)


def agree(pattern, samples, dtype, tolerance):
    tensors = [tensor.to(DEVICE) for tensor in operands(pattern, samples, dtype)]
    for got, want in zip(products(cuda, *tensors, pattern), products(reference, *tensors, pattern), strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
    _, x, g = tensors
    by_sample = [torch.full((len(tensors[0]), samples), torch.nan, dtype=dtype, device=DEVICE) for _ in range(2)]
    for kernels, out in zip((cuda, reference), by_sample, strict=True):
        kernels.entry_products(pattern, 1 / 3, g, x, out)
    torch.testing.assert_close(*by_sample, rtol=tolerance, atol=tolerance)


@on_the_device
def test_entry_products_sum_over_width():
    pattern = pattern_of([2, 1], 4, stencil=Stencil.matrix(1, 2, width=3))
    _, x, g = (tensor.to(DEVICE) for tensor in operands(pattern, 15))
    got, want = (torch.full((6, 5), torch.nan, dtype=torch.float64, device=DEVICE) for _ in range(2))
    for kernels, out in ((cuda, got), (reference, want)):
        kernels.entry_products(pattern, 2.0, g.view(-1, 5), x.view(-1, 5), out)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@on_the_device
@pytest.mark.parametrize("samples", [7, 64])
def test_neighbours_and_addresses_change_no_bit(samples):
    small, large = pattern_of([3, 8, 0, 12], 9), pattern_of([2, 5, 0, 1, 20, 3, 0], 30, seed=3)
    beside = Pattern.from_edges(
        np.concatenate([large.row_of, small.row_of + large.rows]),
        np.concatenate([large.indices, small.indices + large.columns]),
        large.rows + small.rows,
        large.columns + small.columns,
    )
    ones, others = (operands(pattern, samples, torch.float32) for pattern in (large, small))
    both = [torch.cat(pair).to(DEVICE) for pair in zip(ones, others, strict=True)]
    alone = products(cuda, *(tensor.to(DEVICE) for tensor in others), small)
    for got, want in zip(products(cuda, *both, beside), alone, strict=True):
        assert torch.equal(got[len(got) - len(want) :], want)
    storage = [torch.cat([tensor.new_zeros(1), tensor.flatten()]).to(DEVICE) for tensor in others]
    shifted = [flat[1:].view(tensor.shape) for flat, tensor in zip(storage, others, strict=True)]
    for got, want in zip(products(cuda, *shifted, small), alone, strict=True):
        assert torch.equal(got, want)


@on_the_device
@pytest.mark.parametrize("name", ["number", "matrix"])
def test_derivatives(name):
    pattern = pattern_of([1, 0, 1], 2, stencil=STENCILS[name])
    weight, x, _ = (tensor.to(DEVICE).requires_grad_() for tensor in operands(pattern, 2))

    def product(weight, x):
        return sparse_product(weight, x, pattern, Implementation.TRITON)

    assert gradcheck(product, (weight, x), check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(product, (weight, x), check_fwd_over_rev=True, fast_mode=True)


@on_the_device
@pytest.mark.parametrize(("base", "shape", "changes"), [("mlp", (2,), {}), ("cnn", (2, 2), {"pool": 2})])
def test_networks_are_those_of_numba(base, shape, changes):
    graph = BaseGraph.from_config(group("base", base, **changes), input_shape=shape, output_size=2)
    lift = disjoint_union([sample_lift(graph, 3, seed, {"kind": "random", "in_degree": 2}) for seed in range(2)])
    x = torch.randn(5, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for implementation, device in ((Implementation.NUMBA, "cpu"), (Implementation.TRITON, DEVICE)):
        network = LiftedNetwork(lift, 0, torch.float64, implementation=implementation).to(device)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1
        out = network(x.to(device))
        gradients = torch.autograd.grad(out.square().sum(), list(network.parameters()))
        results.append([tensor.detach().cpu() for tensor in (out, *gradients)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert kernels_for(x, x) is cpu
