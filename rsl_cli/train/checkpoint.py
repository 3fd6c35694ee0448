"""What a trainer needs of whoever keeps what its runs go on from."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

Saved = tuple[Mapping[str, np.ndarray], Mapping[str, str]]
"""What one run goes on from, whichever union it trained in: named arrays, and text. Both empty: the start."""

OF_ANOTHER = "the checkpoint is of another network"
"""What to say of one."""


class Checkpointer(Protocol):
    """Where a long training leaves what it can go on from."""

    def load(self) -> Sequence[Saved]:
        """What each replica goes on from; empty, if all are at the start."""
        ...

    def due(self) -> bool:
        """Whether it is time to save."""
        ...

    def save(self, replicas: Sequence[Saved]) -> None:
        """Replace what each replica goes on from."""
        ...
