"""What a dataset is to the rest of rsl: four arrays, a task and a width. It knows no file, no source and no network."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from rsl_cli.errors import DataError

Task = Literal["regression", "classification"]
"""Regression is scored by squared error on real targets, classification on the index of a class."""


@dataclass(frozen=True)
class Column:
    """One column of a user's table: a number, or text of a closed set.

    Args:
        name: in the table.
        categories: the texts there are, sorted; None for a number.
        onehot: whether each category became an input of its own, instead of its number in the order.
    """

    name: str
    categories: tuple[str, ...] | None = None
    onehot: bool = False

    @property
    def width(self) -> int:
        """How many inputs it makes."""
        return len(self.categories or ()) if self.onehot else 1


@dataclass(frozen=True, eq=False)
class Reading:
    """How a user's own numbers became a network's, so that what was trained can be asked in them.

    Attributes:
        columns: the table's, in order; none for arrays.
        shape: of one sample's inputs once columns are numbers.
        fill: what stands for a missing input; broadcasts against ``shape``, as the next two. None: nothing is missing.
        shift, scale: inputs are (raw - shift) / scale, and 0 where the scale is; None: as they are.
        target: names of the targets, where they have names.
        classes: their labels, by index; empty for numbers.
        target_shift, target_scale: as for inputs, (outputs,).
        cells: how a file's text was read as numbers; see `rsl_cli.data.cells.Dialect.plain`.
        said: settings that read the same numbers by the rules of the first version; part of an identity.
    """

    columns: tuple[Column, ...] = ()
    shape: tuple[int, ...] = ()
    fill: np.ndarray | None = None
    shift: np.ndarray | None = None
    scale: np.ndarray | None = None
    target: tuple[str, ...] = ()
    classes: tuple[str | int | float | bool, ...] = ()
    target_shift: np.ndarray | None = None
    target_scale: np.ndarray | None = None
    said: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        listed = ("fill", "shift", "scale", "target_shift", "target_scale")
        arrays = {key: getattr(self, key) for key in listed}
        return {
            "columns": [asdict(column) for column in self.columns],
            "shape": list(self.shape),
            "target": list(self.target),
            "classes": list(self.classes),
            "cells": self.cells,
            **{key: None if value is None else value.tolist() for key, value in arrays.items()},
        }


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training part and a held-out part of the same law.

    Attributes:
        name: the dataset's name in the configuration.
        task: ``"regression"`` or ``"classification"``.
        x_train: float64, shape (N, *input_shape).
        y_train: regression, float64 (N, outputs); classification, int64 (N,) in ``0..outputs - 1``.
        x_test: float64, shape (M, *input_shape).
        y_test: as ``y_train``, of length M.
        outputs: regression, the width of the target; classification, the number of classes.
        witness_degree: lift degree of a network known to fit the targets exactly, where there is one.
        notes: what a user should know about how it was read, a line each.
        reading: how it was read; None where its numbers are the law's own.

    Raises:
        DataError: the arrays contradict each other or the task.
    """

    name: str
    task: Task
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    outputs: int
    witness_degree: int | None = None
    notes: tuple[str, ...] = ()
    reading: Reading | None = None

    def __post_init__(self) -> None:
        for part, x, y in (("training", self.x_train, self.y_train), ("held-out", self.x_test, self.y_test)):
            wanted = (len(x), self.outputs) if self.task == "regression" else (len(x),)
            dtype = np.float64 if self.task == "regression" else np.int64
            if x.ndim < 2 or x.shape[1:] != self.input_shape or x.dtype != np.float64:
                raise DataError(
                    f"dataset '{self.name}': {part} inputs are {x.dtype} {x.shape}; "
                    f"expected float64 (N, {', '.join(map(str, self.input_shape)) or '...'})"
                )
            if y.shape != wanted or y.dtype != dtype:
                raise DataError(
                    f"dataset '{self.name}': {part} targets are {y.dtype} {y.shape}; "
                    f"{self.task} needs {np.dtype(dtype)} {wanted}"
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the axis of samples."""
        return self.x_train.shape[1:]

    def flat(self) -> "Dataset":
        """The same numbers as inputs of shape (d,)."""
        return replace(
            self, x_train=self.x_train.reshape(self.samples, -1), x_test=self.x_test.reshape(len(self.x_test), -1)
        )

    def first(self, samples: int) -> "Dataset":
        """At most so many samples of each part."""
        return replace(
            self,
            x_train=self.x_train[:samples],
            y_train=self.y_train[:samples],
            x_test=self.x_test[:samples],
            y_test=self.y_test[:samples],
        )

    @property
    def samples(self) -> int:
        """Number N of training samples."""
        return len(self.x_train)

    @property
    def target_variance(self) -> float | None:
        """Variance of ``y_train`` summed over outputs; None for classification."""
        return float(self.y_train.var(axis=0).sum()) if self.task == "regression" else None
