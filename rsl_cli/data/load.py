"""From a dataset's configuration to its arrays and to its identity; the only place that knows every dataset."""

from collections.abc import Mapping
from typing import Any

from rsl_cli.data import files, images, sequences, synthetic, tables, tabular, target
from rsl_cli.data.dataset import Dataset
from rsl_cli.data.keys import DatasetBuilder, DatasetSettings, Teacher
from rsl_cli.data.target import DATASETS, arrays_digest
from rsl_cli.errors import ConfigError, DataError
from rsl_cli.keys import Keys, identity_of, read_keys, shorten

for _part in (synthetic, sequences, tabular, images, tables, files, target):
    for _name, _builder in _part.BUILDERS.items():
        DATASETS.add(_name)(_builder)


def load_dataset(config: Mapping[str, Any], *, teacher: Teacher | None = None, flat: bool = False) -> Dataset:
    """Draw, load or read the dataset that a configuration describes.

    Args:
        config: ``name`` and any keys of that dataset; keys that are left out take their defaults.
        teacher: for dataset ``teacher`` only: from its settings to the planted function, which maps
            (N, inputs) to (N, outputs).
        flat: whether ``shape: auto`` means inputs of shape (d,); else they keep the shape they have.

    Returns:
        The training part and the held-out part; equal configurations give equal arrays.

    Raises:
        ConfigError: an unknown dataset or key, a value of a wrong type or out of range.
        DataError: a file or a teacher that cannot be learnt from, or data that memory cannot hold.
    """
    builder, settings = _resolved(config, flat)
    try:
        dataset = builder.build(settings, teacher)
    except MemoryError:
        raise DataError(
            f"dataset '{settings['name']}' does not fit in memory; ask for fewer samples or inputs"
        ) from None
    _check_learnable(dataset)
    return dataset.flat() if settings.get("shape") == "flat" else dataset


def content_identity(config: Mapping[str, Any], *, flat: bool = False, data: Dataset | None = None) -> DatasetSettings:
    """Return the part of a dataset's configuration that determines its numbers.

    Args:
        config: as for :func:`load_dataset`.
        flat: as for :func:`load_dataset`.
        data: what was loaded, if it was; only asked for where it is part of the identity.

    Returns:
        ``name`` and every key, but for later ones at their defaults, filled in and of one canonical type, hence the
        same for all ways to write one configuration; ``path`` is replaced by the SHA-256 of what lies there, in
        hexadecimal, or by null where checksums say that it is the published data.

    Raises:
        ConfigError: as for :func:`load_dataset`.
        DataError: the file is not there or cannot be read.
    """
    builder, settings = _resolved(config, flat)
    content = builder.content(settings)
    if data is None and (builder.by_arrays or builder.as_read):
        data = load_dataset(config, flat=flat)
    if builder.as_read and data is not None:
        content = builder.as_read(content, data)
    said = identity_of(builder.keys, content)
    arrays = {"arrays": arrays_digest(data)} if builder.by_arrays and data is not None else {}
    return {key: value for key, value in content.items() if key in said or key not in builder.keys} | arrays


def dataset_label(config: Mapping[str, Any]) -> str:
    """What studies of a dataset are told apart by: its name, or what that stands for."""
    builder, settings = _resolved(config, flat=False)
    return builder.label(settings)


def is_planted(config: Mapping[str, Any]) -> bool:
    """Whether a planted network makes a dataset's targets."""
    return getattr(DATASETS.get(str(config.get("name"))), "planted", False)


def drawn_numbers(config: Mapping[str, Any]) -> int:
    """How many numbers a dataset's inputs are made of that are drawn, not read.

    Returns:
        Of both parts together; 0 for a dataset that is read.

    Raises:
        ConfigError: as for :func:`load_dataset`.
    """
    builder, settings = _resolved(config, flat=False)
    return 0 if builder.inputs is None else (settings["samples"] + settings["test_samples"]) * builder.inputs(settings)


def declared_datasets() -> dict[str, Keys]:
    """The keys of every dataset that declares some, by name; a function that a plug-in has named has those of none."""
    return {name: builder.keys for name, builder in DATASETS.items() if isinstance(builder, DatasetBuilder)}


def accepted_datasets() -> tuple[str, ...]:
    """Return the names that ``dataset.name`` accepts: sampled functions, packaged sets, then files."""
    return tuple(DATASETS)


def _resolved(config: Mapping[str, Any], flat: bool) -> tuple[DatasetBuilder, DatasetSettings]:
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"dataset is {shorten(config)} ({type(config).__name__}); accepted: a mapping with a name, e.g. sine2d"
        )
    name = config.get("name")
    builder = DATASETS.find(name)
    if not isinstance(builder, DatasetBuilder):  # A function of the user's own, by its name.
        name, config, builder = "target", {**config, "target": name}, DATASETS["target"]
    settings = {"name": str(name), **read_keys("dataset.", builder.keys, config)}
    if settings.get("shape") == "auto":
        settings["shape"] = "flat" if flat else builder.own_shape
    builder.check(settings)
    return builder, settings


def _check_learnable(dataset: Dataset) -> None:
    if (dataset.y_train == dataset.y_train[0]).all():
        problem = (
            "the training part holds one class only"
            if dataset.task == "classification"
            else "the training target has the same value in every row, so its variance is 0"
        )
        raise DataError(f"dataset '{dataset.name}': {problem}; use more samples or another dataset.seed or target")
