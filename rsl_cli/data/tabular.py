"""Measured sets that scikit-learn ships inside its package, so that they are there offline and never change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rsl_cli.data.dataset import Column, Dataset, Reading, Task
from rsl_cli.data.holdout import KEYS, hold_out
from rsl_cli.data.keys import DatasetBuilder, DatasetSettings, Teacher, shaped


@dataclass(frozen=True)
class _Packaged:
    """A set of scikit-learn: its loader's name and arguments, and the shape of an input where it is not flat."""

    loader: str
    task: Task
    arguments: Mapping[str, bool] = field(default_factory=dict)
    image: tuple[int, ...] = ()


_PACKAGED: dict[str, _Packaged] = {
    "digits": _Packaged("load_digits", "classification", image=(8, 8)),
    # The scaled form is standardised over all rows, which would let the held-out ones leak into training.
    "diabetes": _Packaged("load_diabetes", "regression", {"scaled": False}),
    "breast_cancer": _Packaged("load_breast_cancer", "classification"),
}


def _builder(packaged: _Packaged) -> DatasetBuilder:
    def build(settings: DatasetSettings, teacher: Teacher | None) -> Dataset:
        from sklearn import datasets

        loader: Callable[..., Any] = getattr(datasets, packaged.loader)
        found = loader(**packaged.arguments)
        x, y = found.data, found.target
        x = np.ascontiguousarray(x, dtype=np.float64)
        if packaged.image:
            x = x.reshape(len(x), *packaged.image)
        classes = packaged.task == "classification"
        return hold_out(
            x,
            y.astype(np.int64) if classes else y.astype(np.float64)[:, None],
            task=packaged.task,
            outputs=int(y.max()) + 1 if classes else 1,
            settings=settings,
            feature=lambda j: f"dataset '{settings['name']}': column {j + 1}",
            label=lambda j: f"dataset '{settings['name']}': {'class' if classes else 'target'} {j}",
            reading=Reading(
                columns=tuple(Column(str(name)) for name in found.feature_names),
                classes=tuple(np.asarray(found.target_names).tolist()) if classes else (),
            ),
        )

    if not packaged.image:
        return DatasetBuilder(KEYS, build)
    return DatasetBuilder({**shaped("image"), **KEYS}, build, own_shape="image")


BUILDERS: dict[str, DatasetBuilder] = {name: _builder(packaged) for name, packaged in _PACKAGED.items()}
