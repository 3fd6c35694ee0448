"""Laws of weights and biases at the start: of mean 0, and of variance 1 before they are scaled.

To add one, write a class with the members that `Law` leaves open, and add it to `LAWS` under a name.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from rsl_cli.errors import GraphError
from rsl_cli.keys import real
from rsl_cli.parts import Part, setting
from rsl_cli.registry import Registry

Array = NDArray[np.float64]


class Law(Part, ABC):
    """The law of independent numbers, symmetric about 0, that its gain and a fan-in scale."""

    called = "law"
    name: ClassVar[str] = "of your own"
    """What it is called in a configuration."""
    variance: ClassVar[float] = 1.0
    """Before it is scaled: 1; or 0, which is the point mass at 0."""

    @abstractmethod
    def sample(self, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Independent numbers, float64 of that shape."""

    @property
    def support(self) -> float:
        """The largest size of a number; infinite where any can be drawn, as the theory assumes."""
        return math.inf

    def cdf(self, z: Array) -> Array | None:
        """The probabilities of numbers up to z; None: not known, and nothing is held against it."""
        return None


LAWS: Registry[Callable[..., Law]] = Registry("kind", GraphError)
"""Every law of weights and biases at the start, by name."""


@LAWS.add("normal")
@dataclass(frozen=True)
class Normal(Law):
    """The normal law, whose support is everything."""

    name = "normal"

    def sample(self, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Standard normal numbers."""
        return draw.standard_normal(shape)

    def cdf(self, z: Array) -> Array:
        """Of the standard normal law."""
        return ndtr(z)


@LAWS.add("uniform")
@dataclass(frozen=True)
class Uniform(Law):
    """Uniform on an interval about 0: no number beyond the root of 3 times the standard deviation."""

    name = "uniform"

    @property
    def support(self) -> float:
        """The root of 3."""
        return 3**0.5

    def sample(self, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Numbers between plus and minus the root of 3."""
        return draw.uniform(-(3**0.5), 3**0.5, shape)

    def cdf(self, z: Array) -> Array:
        """Linear within the interval."""
        return (z / 3**0.5 + 1) / 2


@LAWS.add("zeros")
@dataclass(frozen=True)
class Zeros(Law):
    """The point mass at 0, for readouts that start at nothing."""

    name = "zeros"
    variance = 0.0

    @property
    def support(self) -> float:
        """Nothing but 0."""
        return 0.0

    def sample(self, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Zeros."""
        return np.zeros(shape)


@LAWS.add("student")
@dataclass(frozen=True)
class Student(Law):
    """Student's t: full support, with tails so heavy that of its powers only those below ``degrees`` have a mean."""

    degrees: float = setting(
        real(3.0, 2, 1e6, above=True).about("of freedom; at 2 there is no variance left to scale to 1")
    )
    name = "student"

    @property
    def _scale(self) -> float:
        return math.sqrt((self.degrees - 2) / self.degrees)

    def sample(self, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Numbers of variance 1."""
        return draw.standard_t(self.degrees, shape) * self._scale

    def cdf(self, z: Array) -> Array:
        """Of the scaled law."""
        return stdtr(self.degrees, z / self._scale)
