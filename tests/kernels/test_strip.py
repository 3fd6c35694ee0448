import numpy as np
import pytest
from numba import njit

from rsl_cli.kernels.elementary import apply_tanh, exponential, tanh
from rsl_cli.kernels.strip import BYTES, add_dots, backward_sum, backward_sum_tanh, lanes, weighted_sum

TYPES = [np.float32, np.float64]


@njit
def _tanh(x):
    out = np.empty_like(x)
    for i in range(len(x)):
        out[i] = tanh(x[i])
    return out


@njit
def _apply_tanh(y, at):
    apply_tanh(y, at)


@njit
def _exponential(x):
    out = np.empty_like(x)
    for i in range(len(x)):
        scale, less_one = exponential(x[i])
        out[i] = scale + scale * less_one
    return out


@njit
def _lanes(x):
    return lanes(x)


@njit
def _sum(x, starts, factor, shift, places, weight, begin, end, into, at):
    weighted_sum(x, starts, factor, shift, places, weight, begin, end, into, at)


@njit
def _backward_sum(y, readers, places, weight, begin, end, at, gradient, of_tanh):
    if of_tanh:
        backward_sum_tanh(y, readers, places, weight, begin, end, at, gradient)
    else:
        backward_sum(y, readers, places, weight, begin, end, at, gradient)


@njit
def _dots(x, starts, factor, shift, places, begin, end, g, at, into):
    add_dots(x, starts, factor, shift, places, begin, end, g, at, into)


@pytest.mark.parametrize("kind", TYPES)
def test_tanh_and_exponential_to_two_units_of_the_last_place(kind):
    small = np.geomspace(1e-30, 1, 2000)
    x = np.concatenate([np.linspace(-30, 30, 20001), small, -small]).astype(kind)
    exact = np.tanh(x.astype(np.longdouble))
    with np.errstate(invalid="ignore"):
        error = np.where(x == 0, np.abs(_tanh(x)), np.abs(_tanh(x) - exact) / np.abs(exact))
    assert error.max() < 2 * np.finfo(kind).eps
    exact = np.exp(x.astype(np.longdouble))
    assert (np.abs(_exponential(x) - exact) / exact).max() < 2 * np.finfo(kind).eps
    edges = np.array([np.nan, np.inf, -np.inf, 0.0, 1e4, -1e4], kind)
    np.testing.assert_array_equal(_tanh(edges), np.array([np.nan, 1, -1, 0, 1, -1], kind))


@pytest.mark.parametrize("kind", TYPES)
def test_tanh_of_a_strip_is_that_of_its_numbers_and_nothing_beside_is_touched(kind):
    strip, at = BYTES // np.dtype(kind).itemsize, 5
    before = np.random.default_rng(0).standard_normal(strip + 9).astype(kind) * 3
    before[at : at + 3] = [np.nan, np.inf, -1e4]
    y = before.copy()
    _apply_tanh(y, at)
    expected = before.copy()
    expected[at : at + strip] = _tanh(before[at : at + strip])
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("kind", TYPES)
def test_sums_and_dots_are_those_of_matrix_products(kind, index, count):
    draw = np.random.default_rng(count)
    strip = BYTES // np.dtype(kind).itemsize
    x = draw.standard_normal(40 * strip).astype(kind)
    assert _lanes(x) == strip
    begin, factor, shift, at = 2, 3, 5, 7
    starts = draw.integers(0, 400, begin + count).astype(index)
    places = draw.permutation(20)[: begin + count].astype(np.int32)
    weight, before = draw.standard_normal(20).astype(kind), draw.standard_normal(2 * strip).astype(kind)
    operand = np.stack([x[s * factor + shift :][:strip] for s in starts[begin:]] or [np.zeros(strip)])
    tolerance = {"rtol": 0, "atol": 40 * np.finfo(kind).eps}
    for given in (places, None):
        order = (places if given is not None else np.arange(begin + count))[begin:]
        expected = weight[order].astype(float) @ operand if count else np.zeros(strip)
        into = before.copy()
        _sum(x, starts, factor, shift, given, weight, begin, begin + count, into, at)
        np.testing.assert_allclose(into[at : at + strip], expected, **tolerance)
        np.testing.assert_array_equal(np.delete(into, range(at, at + strip)), np.delete(before, range(at, at + strip)))
        into = weight.copy()
        _dots(x, starts, factor, shift, given, begin, begin + count, before, at, into)
        added = weight.astype(float)
        if count:
            added[order] += operand.astype(float) @ before[at : at + strip]
        np.testing.assert_allclose(into, added, rtol=0, atol=200 * np.finfo(kind).eps)
        rows = np.ones((len(weight), 2, strip), kind)
        _dots(x, starts, factor, shift, given, begin, begin + count, before, at, rows[:, 1])
        added = np.ones((len(weight), strip))
        if count:
            added[order] += operand.astype(float) * before[at : at + strip]
        np.testing.assert_allclose(rows[:, 1], added, **tolerance)
        np.testing.assert_array_equal(rows[:, 0], 1)


@pytest.mark.parametrize("of_tanh", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("kind", TYPES)
def test_a_backward_sum_is_two_matrix_products(kind, count, of_tanh):
    draw = np.random.default_rng(count)
    strip, begin, row = BYTES // np.dtype(kind).itemsize, 2, 1
    y = draw.standard_normal((12, strip)).astype(kind)
    readers = draw.integers(2, 12, begin + count).astype(np.int32)
    places = draw.integers(0, 9, begin + count).astype(np.int32)  # Several entries of one weight, where it is shared.
    weight, gradient = draw.standard_normal((2, 9)).astype(kind)
    value, slopes = y[row].astype(float), y[readers[begin:]].astype(float)
    expected, added = weight[places[begin:]].astype(float) @ slopes, gradient.astype(float)
    np.add.at(added, places[begin:], slopes @ value)
    after = y.copy()
    _backward_sum(after.reshape(-1), readers, places, weight, begin, begin + count, row * strip, gradient, of_tanh)
    epsilon = np.finfo(kind).eps
    expected = expected * (1 - value**2 if of_tanh else 1)
    np.testing.assert_allclose(after[row], expected, rtol=0, atol=200 * epsilon)
    np.testing.assert_allclose(gradient, added, rtol=0, atol=200 * epsilon)
    np.testing.assert_array_equal(np.delete(after, row, axis=0), np.delete(y, row, axis=0))
    matrix, again = np.zeros((9, 3, strip), kind), y.copy()
    _backward_sum(again.reshape(-1), readers, places, weight, begin, begin + count, row * strip, matrix[:, 1], of_tanh)
    by_sample = np.zeros((9, strip))
    np.add.at(by_sample, places[begin:], slopes * value)
    np.testing.assert_array_equal(again, after)
    np.testing.assert_allclose(matrix[:, 1], by_sample, rtol=0, atol=40 * epsilon)
    np.testing.assert_array_equal(matrix[:, ::2], 0)
