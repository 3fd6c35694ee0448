"""What a trainer is: its settings, and all that the rest of rsl asks of one, so that nothing else tells them apart."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import numpy as np

from rsl_cli.network import LiftedNetwork
from rsl_cli.train.checkpoint import Checkpointer, Saved
from rsl_cli.train.facts import Facts
from rsl_cli.train.losses import Loss
from rsl_cli.train.objective import Objective
from rsl_cli.train.trajectory import Row, Stand, TrainingResult

Progress = Callable[[int, int, float], None]
"""Called with (done, of how many, median training loss)."""


@dataclass(frozen=True)
class Sizes:
    """Of a run, as a trainer's cost goes by them.

    Args:
        parameters: P.
        samples: N.
        outputs: K.
        classify: whether classes are learned.
        per_sample: floating-point operations of a gradient of one sample's loss.
    """

    parameters: int
    samples: int
    outputs: int
    classify: bool
    per_sample: float


class Trainer(ABC):
    """A trainer. Leaves are frozen dataclasses whose fields are their settings, each with a declared key."""

    name: str
    dtype: str
    """``float32`` or ``float64``."""
    batch_size: int | None = None
    """Samples that a step takes; None: all."""
    parametrization: ClassVar[str]
    """What it asks for by default."""
    in_step: ClassVar[bool] = False
    """Whether replicas of a union train step by step together."""
    copies: ClassVar[int]
    """Of the parameters, that memory has to hold."""
    pace: ClassVar[float] = 1.0
    """Power of the share of a run's way that gives about the share of its seconds."""

    @property
    @abstractmethod
    def horizon(self) -> tuple[str, ...]:
        """The keys that say how far a run is carried, and are no part of what it is."""

    @property
    def label(self) -> str:
        """What runs by it are told apart by: its name, or what that stands for."""
        return self.name

    @property
    def facts(self) -> Facts:
        """What a report has to know of it."""
        return Facts()

    @property
    def alone(self) -> bool:
        """Whether it takes one run at a time, by autograd."""
        return False

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """The settings that determine the numbers."""

    @abstractmethod
    def least_steps(self) -> int:
        """Steps that a run takes at the least."""

    @abstractmethod
    def effort(self, sizes: Sizes) -> float:
        """Operations that a run takes, up to a factor that is much the same for all lifts of a study."""

    def check(self, loss: Loss) -> None:  # noqa: B027
        """Refuse what it cannot train.

        Raises:
            ConfigError: such a loss.
        """

    def matrix(self, sizes: Sizes) -> int:
        """Side of the matrix that it mostly forms; 0 where it forms none."""
        return 0

    @abstractmethod
    def beginning(self, steps: int) -> Self:
        """The same trainer for its first steps alone, so few that its schedule has not begun to tell."""

    @abstractmethod
    def train(
        self,
        network: LiftedNetwork,
        objective: Objective,
        *,
        checkpointer: Checkpointer | None = None,
        progress: Progress | None = None,
    ) -> list[TrainingResult]:
        """Train every replica of a network.

        Args:
            network: a lift's or a union's, of the trainer's dtype; left with the final parameters.
            objective: data and loss, of the same dtype.
            checkpointer: where to leave and find what to go on from, which is bit for bit (on the CPU) what would have
                come.
            progress: called with (done, of how many, median training loss), about twice a second.

        Returns:
            One result per replica.

        Raises:
            CheckpointError: saved states of another network, or of several steps.
        """

    def to(self, **horizon: float | None) -> Self:
        """The same trainer with another horizon.

        Args:
            horizon: values for some of the keys of `horizon`.

        Returns:
            A copy; this one stays as it is.
        """
        return replace(cast(Any, self), **horizon)

    def goes_on(self, rows: list[Row], state: Mapping[str, np.ndarray]) -> Saved:
        """What a run goes on from of which the results alone are left; its start costs steps, and changes nothing.

        Args:
            rows: samples of its trajectory.
            state: final parameters by name.

        Returns:
            Arrays and texts, as a checkpoint has them.
        """
        return {}, {}

    @abstractmethod
    def reaches(self, stand: Stand) -> bool:
        """Whether a run that stands there is as far as asked for."""
