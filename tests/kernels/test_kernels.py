"""The sparse products: implementations against each other and the dense truth, derivatives of every order and mode."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from rsl_cli.kernels import cpu, reference
from rsl_cli.kernels.autograd import Implementation, sparse_product
from rsl_cli.kernels.pattern import Pattern
from rsl_cli.kernels.stencil import POINT, Stencil
from rsl_cli.maps import Conv, Linear, TokenLinear

IMPLEMENTATIONS = [Implementation.AUTO, Implementation.REFERENCE, Implementation.NUMBA]


STENCILS = {
    "number": POINT,
    "matrix": Stencil.matrix(2, 3),
    "convolution": Conv(3).stencil((3, 4)),
    "strided convolution": Conv(3, stride=2).stencil((2, 4)),
    "convolution of an image": Conv(3).stencil((2, 2, 3)),
    "larger map": Conv(3, upsample=2).stencil((1, 2)),
    "matrix at every token": TokenLinear(2).stencil((3, 2)),
    "one token of three": Linear(2, token=2).stencil((3, 2)),
    "a row that reads nothing": Stencil(3, 2, 2, np.array([0, 2, 2]), np.array([1, 0, 0]), np.array([1, 0, 1])),
}


def pattern_of(in_degrees, columns: int, seed: int = 0, stencil: Stencil = POINT) -> Pattern:
    """A pattern of given in-degrees per row; columns may repeat when a row has more than there are."""
    rng = np.random.default_rng(seed)
    rows = [np.sort(rng.choice(columns, k, replace=k > columns)) for k in in_degrees]
    sources = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
    targets = np.repeat(np.arange(len(in_degrees)), in_degrees)
    return Pattern.from_edges(targets, sources, len(in_degrees), columns, stencil=stencil)


def operands(pattern: Pattern, samples: int, dtype=torch.float64, seed: int = 0):
    rng = np.random.default_rng(seed)
    stencil = pattern.stencil
    shapes = (
        (pattern.size * stencil.taps,),
        (pattern.columns * stencil.columns, samples),
        (pattern.rows * stencil.rows, samples),
    )
    return [torch.as_tensor(rng.standard_normal(shape), dtype=dtype) for shape in shapes]


def products(kernels, weight, x, g, pattern):
    return (
        kernels.product(weight, x, pattern),
        kernels.transposed_product(weight, g, pattern),
        kernels.sampled_product(x, g, pattern),
    )


patterns = st.builds(
    pattern_of,
    st.lists(st.integers(0, 20), min_size=1, max_size=12),
    st.integers(1, 25),
    st.integers(0, 1000),
)


@given(patterns, st.sampled_from([0, 1, 2, 3, 5, 8, 17, 63, 65, 513, 1031]))
def test_products_are_those_of_the_dense_matrix(pattern, samples):
    weight, x, g = operands(pattern, samples)
    matrix, pairs = oracles.sparse_matrix(weight, pattern), g @ x.T
    expected = (matrix @ x, matrix.T @ g, pairs[pattern.row_of, pattern.indices])
    for kernels in (reference, cpu):
        for got, want in zip(products(kernels, weight, x, g, pattern), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", STENCILS)
@pytest.mark.parametrize("samples", [0, 1, 5, 600])
def test_products_with_stencils_are_those_of_the_dense_matrix(name, samples):
    pattern = pattern_of([3, 0, 1, 9], 4, stencil=STENCILS[name])
    weight, x, g = operands(pattern, samples)
    matrix = oracles.sparse_matrix(weight.requires_grad_(), pattern)
    (of_weight,) = torch.autograd.grad((g * (matrix @ x)).sum(), weight)
    expected = ((matrix @ x).detach(), (matrix.T @ g).detach(), of_weight)
    for kernels in (reference, cpu):
        for got, want in zip(products(kernels, weight.detach(), x, g, pattern), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
        by_sample = torch.full((len(weight), samples), math.nan, dtype=torch.float64)
        kernels.entry_products(pattern, 2.0, g, x, by_sample)
        torch.testing.assert_close(by_sample.sum(1), 2 * of_weight, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", STENCILS)
def test_derivatives_with_stencils(name):
    pattern = pattern_of([2, 0, 1], 2, stencil=STENCILS[name])
    weight, x, _ = (tensor.requires_grad_() for tensor in operands(pattern, 2))

    def product(weight, x):
        return sparse_product(weight, x, pattern, Implementation.NUMBA)

    assert gradcheck(product, (weight, x), check_forward_ad=True)
    assert gradgradcheck(product, (weight, x), check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [1, 129, 1000])
def test_implementations_agree_at_parallel_sizes(samples, dtype):
    in_degrees = np.random.default_rng(1).integers(0, 21, 700)
    in_degrees[:50] = 0
    pattern = pattern_of(in_degrees, 900)
    arguments = operands(pattern, samples, dtype)
    tolerance = 1e-4 if dtype is torch.float32 else 1e-11
    for got, want in zip(products(cpu, *arguments, pattern), products(reference, *arguments, pattern), strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("samples", [7, 64, 1000])
def test_threads_and_neighbours_change_no_bit(samples):
    small = pattern_of([3, 8, 0, 12, 20], 30)
    large = pattern_of(np.random.default_rng(2).integers(0, 21, 600), 2000, seed=3)
    beside = Pattern.from_edges(
        np.concatenate([large.row_of, small.row_of + large.rows]),
        np.concatenate([large.indices, small.indices + large.columns]),
        large.rows + small.rows,
        large.columns + small.columns,
    )
    ones, others = operands(large, samples, torch.float32), operands(small, samples, torch.float32, seed=1)
    both = [torch.cat(pair) for pair in zip(ones, others, strict=True)]
    alone = products(cpu, *others, small)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for got, want in zip(products(cpu, *both, beside), alone, strict=True):
                assert torch.equal(got[len(got) - len(want) :], want)
    finally:
        torch.set_num_threads(threads)


def test_torch_keeps_its_number_of_threads():
    code = (
        "import torch; from rsl_cli.kernels import cpu; from test_kernels import operands, pattern_of\n"
        "pattern = pattern_of([8] * 512, 512)\n"
        "for count in (1, 2, 3, 1):\n"
        "    torch.set_num_threads(count)\n"
        "    cpu.product(*operands(pattern, 64)[:2], pattern)\n"
        "    assert torch.get_num_threads() == count, (count, torch.get_num_threads())\n"
    )
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("in_degrees", "samples"), [([2, 0, 3], 3), ([9, 1], 2), ([0, 0], 2), ([5], 1)])
def test_derivatives_of_first_and_second_order(implementation, in_degrees, samples):
    pattern = pattern_of(in_degrees, 4)
    weight, x, _ = (tensor.requires_grad_() for tensor in operands(pattern, samples))

    def product(weight, x):
        return sparse_product(weight, x, pattern, implementation)

    assert gradcheck(product, (weight, x), check_forward_ad=True)
    assert gradgradcheck(product, (weight, x), check_fwd_over_rev=True, check_rev_over_rev=True)
    # One argument alone: the other's tangents and cotangents are absent, not zero.
    assert gradcheck(product, (weight.detach(), x), check_forward_ad=True)
    assert gradcheck(product, (weight, x.detach()), check_forward_ad=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_torch_func(implementation):
    pattern = pattern_of([2, 0, 3], 4)
    weight, x, _ = operands(pattern, 3)

    def product(weight, x):
        return sparse_product(weight, x, pattern, implementation)

    def truth(weight, x):
        return oracles.sparse_matrix(weight, pattern) @ x

    for transform, argument in itertools.product((torch.func.jacrev, torch.func.jacfwd), (0, 1)):
        torch.testing.assert_close(transform(product, argument)(weight, x), transform(truth, argument)(weight, x))

    def energy(compute):
        return lambda weight: compute(weight, torch.tanh(compute(weight, x)[:1].expand(4, -1))).square().sum()

    torch.testing.assert_close(torch.func.hessian(energy(product))(weight), torch.func.hessian(energy(truth))(weight))
    weights, xs = torch.stack([weight, 2 * weight]), torch.stack([x, x + 1], dim=1)
    for dims in ((0, None), (None, 1), (0, 1)):
        given_weight, given_x = weights if dims[0] == 0 else weight, xs if dims[1] == 1 else x
        got = torch.func.vmap(product, dims)(given_weight, given_x)
        torch.testing.assert_close(got, torch.func.vmap(truth, dims)(given_weight, given_x))


@pytest.mark.parametrize("implementation", [Implementation.AUTO, Implementation.REFERENCE])
def test_other_types_take_the_reference(implementation):
    pattern = pattern_of([2, 3], 4)
    weight, x, _ = operands(pattern, 3, torch.bfloat16)
    got = sparse_product(weight, x, pattern, implementation)
    assert got.dtype is torch.bfloat16
    torch.testing.assert_close(got, reference.product(weight, x, pattern))


def test_strided_operands():
    pattern = pattern_of([2, 3], 4)
    weight, x, g = operands(pattern, 6)
    sliced = (weight.repeat_interleave(2)[::2], x.T.contiguous().T, g.T.contiguous().T)
    expected = products(reference, weight, x, g, pattern)
    leaves = [sliced[0].clone().requires_grad_(), sliced[1].requires_grad_()]
    out = sparse_product(leaves[0], leaves[1], pattern, Implementation.NUMBA)
    got = (out, *reversed(torch.autograd.grad(out, leaves, sliced[2])))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


@given(patterns, st.integers(1, 12))
def test_chunks_cover_every_row_once(pattern, count):
    for transposed, rows in ((False, pattern.rows), (True, pattern.columns)):
        chunks = pattern.chunks(count, transposed=transposed)
        assert chunks.dtype == np.int64 and len(chunks) == count + 1
        assert chunks[0] == 0 and chunks[-1] == rows and (np.diff(chunks) >= 0).all()
