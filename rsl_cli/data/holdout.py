"""From one table of rows to a training part and a held-out part: seeded split, then standardisation.

Everything that is fitted is fitted on the training part, so the held-out part stays unseen. It knows no file.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rsl_cli.data.dataset import Dataset, Reading, Task
from rsl_cli.data.keys import DatasetSettings, seed
from rsl_cli.errors import ConfigError, DataError
from rsl_cli.keys import Key, flag, real
from rsl_cli.rng import generator

STANDARD = "to mean 0 and variance 1 over the training part"
KEYS: dict[str, Key] = {
    "test_fraction": real(0.2, 0, 1, above=True, below=True).about(
        "share of the rows held out; of every class the same"
    ),
    "seed": seed().about("of the split alone; runs have their own seeds"),
    "standardize": flag(True).about(f"features and real targets {STANDARD}; false: as stored"),
}
"""Keys of every dataset that is one table of rows."""

LEAST_TRAINING_ROWS = 2
"""One row has no variance to standardise by."""


def hold_out(
    x: np.ndarray,
    y: np.ndarray,
    *,
    task: Task,
    outputs: int,
    settings: DatasetSettings,
    feature: Callable[[int], str],
    label: Callable[[int], str],
    reading: Reading | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Split rows at random, fill in what is missing and standardise them by the training part.

    A column that is constant on the training part becomes 0 in both parts: nothing can be learnt about it.

    Args:
        x: float64, shape (N, *input_shape), finite, or nan where ``settings["missing"]`` says what to fill in.
        y: regression, float64 (N, outputs); classification, int64 (N,).
        task: ``"regression"`` or ``"classification"``; targets of regression are standardised too.
        outputs: width of the target, or number of classes.
        settings: ``name`` and the keys of :data:`KEYS`.
        feature: names the j-th number of a flattened input in an error.
        label: names the j-th output, or class, in an error.
        reading: how the rows were read so far.
        notes: the dataset's.

    Returns:
        The dataset; its rows are in random order.

    Raises:
        ConfigError: the held-out fraction leaves one part empty.
        DataError: a class without a training row, or a column too large or small to be standardised.
    """
    train, test = split(len(x), settings["test_fraction"], settings["seed"], y if task == "classification" else None)
    x_train, x_test, y_train, y_test = x[train], x[test], y[train], y[test]
    if task == "classification":
        unseen = np.flatnonzero(np.bincount(y_train, minlength=outputs) == 0)
        if len(unseen):
            raise DataError(
                f"{label(int(unseen[0]))} has no row in the training part; "
                "leave such a class out, or lower dataset.test_fraction"
            )
    reading = replace(reading or Reading(), shape=x.shape[1:])
    if settings.get("missing") in ("mean", "median"):
        fill = _fill(x_train, str(settings["missing"]), feature)
        x_train, x_test = (np.where(np.isnan(part), fill, part) for part in (x_train, x_test))
        reading = replace(reading, fill=fill)
    if settings["standardize"]:
        shift, scale = shift_and_scale(x_train.reshape(len(train), -1))
        reading = replace(reading, shift=shift.reshape(x.shape[1:]), scale=scale.reshape(x.shape[1:]))
        if task == "regression":
            shift, scale = shift_and_scale(y_train)
            reading = replace(reading, target_shift=shift, target_scale=scale)
        flat_train, flat_test = standardise(x_train.reshape(len(train), -1), x_test.reshape(len(test), -1), feature)
        x_train, x_test = flat_train.reshape(x_train.shape), flat_test.reshape(x_test.shape)
        if task == "regression":
            y_train, y_test = standardise(y_train, y_test, label)
    return Dataset(
        name=settings["name"],
        task=task,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        outputs=outputs,
        notes=notes,
        reading=reading,
    )


def _fill(train: np.ndarray, by: str, feature: Callable[[int], str]) -> np.ndarray:
    """The mean or median of each column (N, d) over the rows that have it."""
    empty = np.isnan(train).all(axis=0)
    if empty.any():
        raise DataError(f"{feature(int(np.argmax(empty)))} is missing in every training row; leave the column out")
    return (np.nanmean if by == "mean" else np.nanmedian)(train, axis=0)


def split(rows: int, fraction: float, seed: int, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Share rows out between training and held-out part.

    Args:
        rows: how many there are.
        fraction: share to hold out; the number held out is rounded to the nearest integer.
        seed: of the split.
        labels: int64 (rows,) to hold out the same share of every class, within one row; None for no classes.

    Returns:
        Row numbers of the training part and of the held-out part, each in random order.

    Raises:
        ConfigError: too few rows to train on, or none to hold out.
    """
    held = round(fraction * rows)
    if held < 1 or rows - held < LEAST_TRAINING_ROWS:
        raise ConfigError(
            f"dataset.test_fraction is {fraction}, which holds out {held} of {rows} rows; "
            f"accepted here: {1 / rows:.3g} to {(rows - LEAST_TRAINING_ROWS) / rows:.3g}"
        )
    draws = generator(seed, "data/split")
    order = draws.permutation(rows)
    if labels is None:
        return order[held:], order[:held]
    # Evenly spaced places along rows sorted by class: each class gives its share, and the total is exact.
    by_class = order[np.argsort(labels[order], kind="stable")]
    places = ((np.arange(held) + draws.uniform()) * (rows / held)).astype(np.int64)
    chosen = np.zeros(rows, dtype=bool)
    chosen[by_class[np.minimum(places, rows - 1)]] = True
    return order[~chosen[order]], order[chosen[order]]


def standardise(train: np.ndarray, test: np.ndarray, column: Callable[[int], str]) -> tuple[np.ndarray, np.ndarray]:
    """Bring each column to mean 0 and variance 1 over the training part; constant ones become 0.

    Args:
        train: float64 (N, d).
        test: float64 (M, d); it gets the training part's shift and scale.
        column: names the j-th column in an error.

    Returns:
        Both parts, as new arrays.

    Raises:
        DataError: a column whose variance overflows or underflows.
    """
    mean, scale = shift_and_scale(train)
    constant = train.max(axis=0) == train.min(axis=0)
    with np.errstate(all="ignore"):
        parts = train - mean, test - mean
        for part in parts:
            part /= scale
            part[:, constant] = 0
    usable = constant | (np.isfinite(scale) & (scale > 0))
    for part in parts:
        usable &= np.isfinite(part).all(axis=0)
    if not usable.all():
        raise DataError(
            f"{column(int(np.argmin(usable)))} is too large or too small to be standardised in double precision; "
            "rescale it, or set dataset.standardize=false"
        )
    return parts


def shift_and_scale(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column (N, d); the deviation of a constant column is 0.

    Constant by range, not by deviation: the mean of equal numbers may be off by a rounding, which would be blown up.

    Returns:
        Two of shape (d,), float64.
    """
    with np.errstate(all="ignore"):
        return train.mean(axis=0), np.where(train.max(axis=0) == train.min(axis=0), 0.0, train.std(axis=0))
