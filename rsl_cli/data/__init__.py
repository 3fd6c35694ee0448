"""Datasets: functions sampled, packaged sets, local files."""

from rsl_cli.data.dataset import Dataset
from rsl_cli.data.load import (
    accepted_datasets,
    content_identity,
    dataset_label,
    drawn_numbers,
    is_planted,
    load_dataset,
)

__all__ = [
    "Dataset",
    "accepted_datasets",
    "content_identity",
    "dataset_label",
    "drawn_numbers",
    "is_planted",
    "load_dataset",
]
