"""What a trainer needs of whoever keeps its checkpoints."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

Saved = tuple[Mapping[str, np.ndarray], Mapping[str, str]]
"""A checkpoint: named arrays, and text."""


class Keeper(Protocol):
    """Where a long training leaves its checkpoints."""

    def load(self) -> Saved | None:
        """The last checkpoint, if there is one."""
        ...

    def due(self) -> bool:
        """Whether it is time for another."""
        ...

    def save(self, arrays: Mapping[str, np.ndarray], text: Mapping[str, str]) -> None:
        """Replace the checkpoint."""
        ...
