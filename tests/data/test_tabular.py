"""Packaged sets, and the split and standardisation that they share with files."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rsl_cli.data import load_dataset
from rsl_cli.data.holdout import LEAST_TRAINING_ROWS, split, standardise
from rsl_cli.errors import ConfigError, DataError

FACTS = {
    "digits": ("classification", 10, (8, 8), 1797),
    "diabetes": ("regression", 1, (10,), 442),
    "breast_cancer": ("classification", 2, (30,), 569),
}


@pytest.mark.parametrize("name", FACTS)
def test_shapes_and_sizes(name: str):
    task, outputs, shape, rows = FACTS[name]
    data = load_dataset({"name": name})
    assert (data.task, data.outputs, data.input_shape) == (task, outputs, shape)
    assert (len(data.x_test), data.samples) == (round(0.2 * rows), rows - round(0.2 * rows))
    assert data.witness_degree is None


@pytest.mark.parametrize("name", FACTS)
def test_standardisation_is_fitted_on_the_training_part_only(name: str):
    data = load_dataset({"name": name})
    spread = data.x_train.std(axis=0)
    assert np.allclose(data.x_train.mean(axis=0), 0, atol=1e-12)
    assert np.all(np.isclose(spread, 1, rtol=1e-12) | (spread == 0))
    assert np.abs(data.x_test.mean(axis=0)[spread > 0]).min() > 1e-6
    assert not data.x_test[:, spread == 0].any()
    if data.task == "regression":
        assert data.target_variance == pytest.approx(1, rel=1e-12)
        assert abs(data.y_train.mean()) < 1e-12 < abs(data.y_test.mean())


@pytest.mark.parametrize("name", FACTS)
def test_the_split_is_disjoint_complete_and_the_same_whether_standardised_or_not(name: str):
    from sklearn import datasets

    raw = load_dataset({"name": name, "standardize": False, "seed": 5})
    arguments = {"scaled": False} if name == "diabetes" else {}
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True, **arguments)
    rows = sorted(map(tuple, np.column_stack([x, y]).tolist()))
    both = np.concatenate([raw.x_train, raw.x_test]).reshape(len(x), -1)
    kept = np.column_stack([both, np.concatenate([raw.y_train, raw.y_test])])
    assert sorted(map(tuple, kept.tolist())) == rows
    scaled = load_dataset({"name": name, "seed": 5})
    spread = raw.x_train.std(axis=0)
    expected = (raw.x_test - raw.x_train.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
    assert np.allclose(scaled.x_test, expected, rtol=1e-12, atol=1e-12)


def test_images_are_the_flat_inputs_in_another_shape():
    flat, image = (load_dataset({"name": "digits", "shape": shape}) for shape in ("flat", "image"))
    assert image.input_shape == (8, 8)
    assert np.array_equal(image.x_train.reshape(-1, 64), flat.x_train)
    assert np.array_equal(image.y_test, flat.y_test)


@pytest.mark.parametrize("name", FACTS)
def test_seeds_choose_the_split(name: str):
    zero, again, one = (load_dataset({"name": name, "seed": seed}) for seed in (0, 0, 1))
    assert np.array_equal(zero.x_test, again.x_test) and np.array_equal(zero.y_train, again.y_train)
    assert not np.array_equal(zero.y_test, one.y_test)


@given(rows=st.integers(2, 300), fraction=st.floats(0, 1, exclude_min=True, exclude_max=True), seed=st.integers(0))
def test_a_split_shares_out_every_row_once(rows: int, fraction: float, seed: int):
    held = round(fraction * rows)
    if held < 1 or rows - held < LEAST_TRAINING_ROWS:
        with pytest.raises(ConfigError, match=rf"dataset\.test_fraction is .* holds out {held} of {rows} rows"):
            split(rows, fraction, seed)
        return
    train, test = split(rows, fraction, seed)
    assert len(test) == held
    assert sorted([*train, *test]) == list(range(rows))


@given(
    sizes=st.lists(st.integers(2, 40), min_size=2, max_size=12),
    fraction=st.floats(0.01, 0.49),
    seed=st.integers(0, 2**32),
    shuffle=st.randoms(use_true_random=False),
)
def test_each_class_gives_its_share_and_is_trained_on(sizes: list[int], fraction: float, seed: int, shuffle):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    shuffle.shuffle(labels)
    rows, held = len(labels), round(fraction * len(labels))
    assume(1 <= held <= rows / 2)
    train, test = split(rows, fraction, seed, np.array(labels))
    assert len(test) == held
    assert sorted([*train, *test]) == list(range(rows))
    for label, size in enumerate(sizes):
        got = int((np.array(labels)[test] == label).sum())
        assert abs(got - size * held / rows) < 1 + 1e-9
        assert got < size


def test_every_row_is_held_out_by_some_seed():
    labels = np.repeat([0, 1, 2], [5, 7, 9])
    for given_labels in (None, labels):
        times = np.bincount(
            np.concatenate([split(21, 0.3, seed, given_labels)[1] for seed in range(2000)]), minlength=21
        )
        assert np.allclose(times / 2000, 6 / 21, atol=0.05)


def test_parts_are_in_random_order():
    train, test = split(1000, 0.3, 0, np.repeat([0, 1], 500))
    for part in (train, test):
        assert abs(np.corrcoef(part, np.arange(len(part)))[0, 1]) < 0.2


def test_constant_columns_become_zero_in_both_parts():
    train = np.column_stack([np.full(7, 0.1), np.arange(7.0)])
    test = np.array([[0.1, 3.0], [9.0, 3.0]])
    assert train[:, 0].std() > 0, "the trap: rounding gives equal numbers a deviation"
    scaled, held = standardise(train, test, str)
    assert not scaled[:, 0].any() and not held.any()
    assert train[0, 0] == 0.1
    assert not standardise(np.full((9, 1), 1.7e308), np.full((1, 1), -1.7e308), str)[1].any()


@pytest.mark.parametrize("values", [[1e200, -1e200, 0.0], [1e-200, 0.0, 3e-200], [1e308, -1e308, 1e308]])
def test_columns_beyond_double_precision_are_named(values: list[float]):
    column = np.column_stack([[1.0, 2.0, 3.0], values])
    with pytest.raises(DataError, match=r"^column 2 is too large or too small .*dataset\.standardize=false"):
        standardise(column, column, lambda j: f"column {j + 1}")


def test_a_held_out_value_beyond_double_precision_is_named():
    with pytest.raises(DataError, match=r"^column 0 is too large"):
        standardise(np.array([[0.0], [1e-100]]), np.array([[1e300]]), lambda j: f"column {j}")


def test_a_class_that_is_never_trained_on_is_named():
    with pytest.raises(DataError, match=r"dataset 'digits': class \d has no row in the training part; .*test_fraction"):
        load_dataset({"name": "digits", "test_fraction": 0.998})
