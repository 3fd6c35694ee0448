"""Sampled functions against their formulas, and the independence of their parts."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsl_cli.data import load_dataset
from rsl_cli.errors import ConfigError, DataError

SMALL = {"samples": 300, "test_samples": 200}
FUNCTIONS = ["sine2d", "lemniscate", "spirals", "parity"]


def waves(config) -> Callable[[np.ndarray], np.ndarray]:
    shift = np.arange(config["outputs"])
    return lambda x: 3 + 40 * np.sin(x.sum(axis=1, keepdims=True) + shift)


def load(name: str, **keys):
    return load_dataset({"name": name, **SMALL, **keys}, teacher=waves)


def test_sine2d_is_its_formula():
    data = load("sine2d")
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert np.abs(x).max() <= 1
        assert np.array_equal(y[:, 0], np.sin(2 * np.pi * x[:, 0]) * np.cos(np.pi * x[:, 1]))
    assert (data.task, data.outputs, data.input_shape, data.samples) == ("regression", 1, (2,), 300)


def test_sine2d_fills_the_square_and_has_the_variance_of_its_law():
    data = load("sine2d", samples=200_000)
    assert data.target_variance == pytest.approx(0.25, rel=0.02)
    assert np.allclose(
        np.quantile(data.x_train, [0.25, 0.5, 0.75], axis=0), [[-0.5] * 2, [0.0] * 2, [0.5] * 2], atol=0.01
    )


def test_defaults_are_16384_and_4096():
    data = load_dataset({"name": "sine2d"})
    assert (len(data.x_train), len(data.x_test)) == (16384, 4096)


def test_lemniscate_satisfies_its_equation():
    data = load("lemniscate")
    x, y = data.y_train.T
    assert np.allclose((x**2 + y**2) ** 2, x**2 - y**2, rtol=0, atol=1e-14)
    t = np.pi * data.x_train[:, 0]
    assert np.allclose(np.tan(t), np.divide(y, x) * np.tan(t) / np.sin(t), rtol=1e-8)
    assert (data.outputs, data.input_shape) == (2, (1,))
    assert x.min() < -0.9 and x.max() > 0.9 and y.min() < -0.3 and y.max() > 0.3


@pytest.mark.parametrize(("bits", "k"), [(1, 1), (4, 1), (5, 3), (5, 5)])
def test_parity_agrees_with_counting_over_all_inputs(bits: int, k: int):
    data = load("parity", bits=bits, k=k, samples=2000)
    truth = {point: sum(entry == -1 for entry in point[:k]) % 2 for point in product((-1.0, 1.0), repeat=bits)}
    seen = {tuple(x) for x in data.x_train.tolist()}
    assert seen == set(truth)
    assert all(truth[tuple(x)] == y for x, y in zip(data.x_train.tolist(), data.y_train, strict=True))
    assert (data.task, data.outputs, data.y_train.dtype, data.target_variance) == ("classification", 2, np.int64, None)


def test_parity_refuses_more_relevant_bits_than_bits():
    with pytest.raises(ConfigError, match=r"dataset\.k is 4, more than dataset\.bits, 3; accepted: 1 to 3"):
        load("parity", bits=3, k=4)


def test_spirals_without_noise_lie_on_their_arms():
    data = load("spirals", noise=0, turns=2)
    radius = np.hypot(*data.x_train.T)
    assert radius.min() >= 0.1 and radius.max() <= 1
    angle = 2 * np.pi * 2 * radius + np.pi * data.y_train
    assert np.allclose(data.x_train, radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)]))
    assert set(data.y_train) == {0, 1}


def test_spirals_noise_has_the_standard_deviation_asked_for():
    clean, noisy = load("spirals", noise=0.0, samples=20_000), load("spirals", noise=0.05, samples=20_000)
    assert np.array_equal(clean.y_train, noisy.y_train)
    assert (noisy.x_train - clean.x_train).std() == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize("name", [*FUNCTIONS, "teacher"])
@given(seed=st.integers(0, 2**70))
def test_equal_seeds_give_equal_data_and_others_do_not(name: str, seed: int):
    first, again, other = load(name, seed=seed), load(name, seed=seed), load(name, seed=seed + 1)
    for part in ("x_train", "y_train", "x_test", "y_test"):
        assert np.array_equal(getattr(first, part), getattr(again, part))
    assert not np.array_equal(first.x_train, other.x_train)
    assert not np.array_equal(first.x_test, other.x_test)


@pytest.mark.parametrize("name", ["sine2d", "lemniscate", "spirals", "teacher"])
def test_held_out_points_are_fresh(name: str):
    data = load(name)
    assert not set(map(tuple, data.x_train.tolist())) & set(map(tuple, data.x_test.tolist()))
    assert abs(np.corrcoef(data.x_train[:200, 0], data.x_test[:, 0])[0, 1]) < 0.3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_part_does_not_depend_on_the_size_of_the_other_and_grows_at_its_end(name: str):
    small, large = load(name), load(name, samples=777, test_samples=555)
    assert np.array_equal(small.x_train, large.x_train[:300])
    assert np.array_equal(small.y_train, large.y_train[:300])
    assert np.array_equal(small.x_test, large.x_test[:200])
    assert np.array_equal(small.y_test, large.y_test[:200])


@pytest.mark.parametrize("outputs", [1, 3])
def test_teacher_targets_are_the_function_over_one_constant(outputs: int):
    data = load("teacher", inputs=5, outputs=outputs, degree=7)
    function = waves({"outputs": outputs})
    ratios = np.concatenate([function(data.x_train) / data.y_train, function(data.x_test) / data.y_test])
    assert np.allclose(ratios, ratios[0, 0], rtol=1e-12)
    assert data.target_variance == pytest.approx(1, rel=1e-12)
    assert (data.witness_degree, data.outputs, data.input_shape) == (7, outputs, (5,))


def test_teacher_is_told_every_setting_and_cannot_change_the_inputs():
    told = {}

    def meddling(config):
        told.update(config)
        config["samples"] = 1

        def function(x):
            y = x.sum(axis=1, keepdims=True)
            x[:] = 0
            return y

        return function

    data = load_dataset({"name": "teacher", "seed": 3, "samples": 50}, teacher=meddling)
    assert told == {
        "name": "teacher", "degree": 4, "inputs": 2, "outputs": 1, "samples": 50, "test_samples": 4096, "seed": 3
    }  # fmt: skip
    assert data.samples == 50 and data.x_train.any()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: np.full((len(x), 1), 0.1), r"standard deviation of the planted targets is .*; use another"),
        (lambda x: 0.1 + 1e-16 * x[:, :1], r"cannot be scaled to 1"),
        (lambda x: 1e300 * x[:, :1], r"is inf, which cannot be scaled to 1"),
        (lambda x: np.zeros((len(x), 1)), r"is 0, which cannot"),
        (lambda x: np.where(x[:, :1] > 0, np.nan, 1.0), r"not finite; use another dataset\.seed or dataset\.degree"),
        (lambda x: np.where(x[:, :1] > 0, np.inf, 1.0), r"not finite"),
        (lambda x: x, r"returned shape \(300, 2\); expected \(300, 1\), as dataset\.outputs says"),
        (lambda x: x[:, 0], r"returned shape \(300,\)"),
    ],
)
def test_a_teacher_that_cannot_be_learnt_from_is_refused(function, message: str):
    with pytest.raises(DataError, match=message):
        load_dataset({"name": "teacher", **SMALL}, teacher=lambda config: function)


def test_a_teacher_set_without_a_teacher_is_refused():
    with pytest.raises(ConfigError, match="needs a planted network, and none was given"):
        load_dataset({"name": "teacher"})


def test_a_training_part_of_one_class_is_refused():
    seeds = []
    for seed in range(20):
        try:
            data = load("parity", samples=2, seed=seed)
        except DataError as error:
            assert "one class only; use more samples" in str(error)
            seeds.append(seed)
        else:
            assert set(data.y_train) == {0, 1}
    assert 0 < len(seeds) < 20


def test_more_points_than_memory_is_one_line():
    def exhausted(config):
        raise MemoryError("Unable to allocate")

    with pytest.raises(DataError, match="dataset 'teacher' does not fit in memory; ask for fewer samples or inputs"):
        load_dataset({"name": "teacher"}, teacher=exhausted)
