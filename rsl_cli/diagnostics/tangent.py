"""The tangent approximation number of a network: how short a step can be whose linear prediction reaches a loss.

kappa(theta, eps) = min |u|^2 subject to 1/2 E |F + dF.u - y|^2 <= eps bounds the loss of the gradient flow and the
length of its path (Robin, Scaman and Lelarge, 2024, *Random Sparse Lifts*, ICLR; `rsl_cli.diagnostics.bound`). How a
network was trained is not known here.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from rsl_cli.diagnostics.factor import LinearProblem
from rsl_cli.diagnostics.krylov import Bidiagonalisation
from rsl_cli.diagnostics.secular import Spectrum
from rsl_cli.errors import ConfigError
from rsl_cli.kernels.serial import norm
from rsl_cli.keys import Key, Keys, identity_of, nullable, read_keys, real, whole
from rsl_cli.network import LiftedNetwork
from rsl_cli.rng import generator
from rsl_cli.train.objective import Objective
from rsl_cli.train.trajectory import PathPoint

if TYPE_CHECKING:
    import pandas

Array = NDArray[np.float64]


def tangent_kappa(net: LiftedNetwork, x: Tensor, y: Tensor, epsilon: float) -> float:
    """Return kappa(theta, epsilon) at the network's present parameters, for half the mean squared residual norm.

    Args:
        net: of one replica.
        x: (N, *input_shape).
        y: (N, outputs), or (N,) for one output.
        epsilon: target loss.

    Returns:
        The squared length of the shortest step, in squared units of the parameters; 0 where the loss is at most
        epsilon already, infinite where no step reaches it or only one that rounding hides. See `Tangent.kappa`.

    Raises:
        ConfigError: a union of replicas, or epsilon below 0.
        DataError: targets of another shape than the outputs.
    """
    return float(Tangent(net, x, y).kappa(epsilon))


class Tangent:
    """A network's linear approximation at its present parameters, which may change afterwards.

    Computed in float64, whatever the network's type.

    Args:
        net: of one replica.
        x: (N, *input_shape).
        y: (N, outputs), or (N,) for one output.
        matrix_free: whether to bound kappa by products with the Jacobian instead of factorising it; None: where that is
            quicker, or a factorisation would not fit memory.

    Raises:
        ConfigError: a union of replicas.
        DataError: targets of another shape than the outputs.
    """

    def __init__(self, net: LiftedNetwork, x: Tensor, y: Tensor, *, matrix_free: bool | None = None) -> None:
        self._problem = problem = LinearProblem(net, x, y)
        self.loss = problem.loss
        """Half the mean squared residual norm."""
        self.grad_norm = norm(problem.transposed(problem.residuals))
        """Norm of the loss's gradient."""
        self._matrix_free = problem.is_large if matrix_free is None else matrix_free

    @property
    def least(self) -> float:
        """The least loss that a linear prediction reaches, or what float64 tells from a loss of 0 if that is more.

        NaN if it is not known, which by products with the Jacobian it seldom is.
        """
        least = self._krylov.least if self._matrix_free else self._spectrum.least
        return float(np.maximum(least, self._problem.resolution))

    def kappa(self, epsilons: ArrayLike) -> Array:
        """Return kappa for target losses.

        Args:
            epsilons: any shape.

        Returns:
            Squared lengths of the same shape: 0 where the loss is at most epsilon already, infinite below `least`.
            Directions along which float64 cannot tell the Jacobian from 0 count as out of reach. Without a
            factorisation these are upper bounds, at most 1 % above kappa, and NaN where 500 products do not get there.

        Raises:
            ConfigError: an epsilon is negative or NaN.
        """
        targets = np.asarray(epsilons, dtype=np.float64)
        wrong = targets[~(targets >= 0)]
        if wrong.size:
            raise ConfigError(f"epsilon is {wrong.flat[0]}; accepted: numbers from 0")
        kappa = np.where(targets < self.loss, np.inf, 0.0)
        below = (targets < self.loss) & (targets > self._problem.resolution)
        if not below.any():
            return kappa
        if self._matrix_free:
            kappa[below] = self._krylov.kappa(targets[below].tolist(), _BOUNDS_APART)
        else:
            kappa[below] = [self._spectrum.kappa(epsilon) for epsilon in targets[below].tolist()]
        return kappa

    @cached_property
    def _spectrum(self) -> Spectrum:
        return self._problem.spectrum()

    @cached_property
    def _krylov(self) -> Bidiagonalisation:
        problem = self._problem
        return Bidiagonalisation(problem.residuals, problem.times, problem.transposed, problem.parameters)


_BOUNDS_APART = 0.01
"""Relative difference of the bounds on kappa at which products with the Jacobian end."""


def _read_epsilons(value: Any) -> tuple[float, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError
    return tuple(real(1.0, 0, above=True).read(epsilon) for epsilon in value)


TANGENT: Keys = {
    "epsilons": Key(
        (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        "a list of numbers above 0, e.g. [1e-2,1e-4]",
        "[1e-2,1e-4]",
        _read_epsilons,
        "target losses",
    ),
    "probes": whole(4, 0, 10_000).about("random points on the sphere around the start"),
    "radius": real(1.0, 0, above=True).about("of that sphere"),
    "largest": nullable(whole(None, 1))
    .of("changed")
    .about("parameters beyond which a lift is left out: kappa costs like P^3; null: all are measured"),
}
"""What can be set of kappa's measurements."""


@dataclass(frozen=True)
class TangentProbe:
    """Where and for which target losses kappa is measured.

    Args:
        epsilons: target losses.
        probes: random points on the sphere around the start.
        radius: of that sphere, in units of the parameters.
        largest: parameters beyond which a lift is not measured, since kappa costs like P^3; None: all are.
    """

    epsilons: tuple[float, ...] = TANGENT["epsilons"].default
    probes: int = TANGENT["probes"].default
    radius: float = TANGENT["radius"].default
    largest: int | None = TANGENT["largest"].default

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TangentProbe":
        """Read and validate the settings.

        Returns:
            The probe, every key settled.

        Raises:
            ConfigError: no mapping, an unknown key or a value out of range, with the key as ``theory.tangent.KEY``.
        """
        if not isinstance(config, Mapping):
            raise ConfigError(f"theory.tangent={config!r}; accepted: null or the keys {', '.join(TANGENT)}")
        return cls(**read_keys("theory.tangent.", TANGENT, config, also=()))

    def identity(self) -> dict[str, Any]:
        """The settings that determine the numbers."""
        return identity_of(TANGENT, {**vars(self), "epsilons": list(self.epsilons)})


_COLUMNS = ("place", "probe", "time", "step", "distance", "loss", "grad_norm", "epsilon", "kappa")


def tangent_table(
    network: LiftedNetwork,
    objective: Objective,
    start: Tensor,
    path: Sequence[PathPoint],
    probe: TangentProbe,
    seed: int,
) -> "pandas.DataFrame":
    """Measure kappa at the start, along a path, and at random points of the sphere around the start.

    Args:
        network: over the lift, of one replica; left as it is, and its own parameters do not matter.
        objective: data and loss, which has to be ``mse``.
        start: (P,), in the order of `torch.nn.utils.parameters_to_vector`.
        path: points of training, with parameters in the same order.
        probe: target losses, and how many points on which sphere.
        seed: of the points on the sphere, which depend on nothing else but P.

    Returns:
        A row for each point and epsilon:

        - place: ``start``, ``path`` or ``ball``;
        - probe: number of the point within its place, from 0;
        - time, step: of training; NaN on the sphere, and time where the trainer has none;
        - distance: |theta - theta_0|;
        - loss, grad_norm: at the point, in float64;
        - epsilon, kappa: see `Tangent.kappa`.

    Raises:
        ConfigError: another loss, or a union of replicas.
    """
    import pandas

    if not objective.loss.quadratic:
        raise ConfigError(f"kappa is defined for loss=mse, not {objective.loss.name}; use loss=mse")
    place_at = copy.deepcopy(network).double()
    origin = start.detach().double().cpu()
    rows = []
    for place, index, time, step, theta in _points(origin, path, probe, seed):
        vector_to_parameters(theta.to(objective.x.device), place_at.parameters())
        tangent = Tangent(place_at, objective.x, objective.y)
        distance = norm(theta - origin)
        for epsilon, kappa in zip(probe.epsilons, tangent.kappa(probe.epsilons), strict=True):
            rows.append((place, index, time, step, distance, tangent.loss, tangent.grad_norm, epsilon, float(kappa)))
    return pandas.DataFrame(rows, columns=pandas.Index(_COLUMNS))


def _points(
    start: Tensor, path: Sequence[PathPoint], probe: TangentProbe, seed: int
) -> Iterator[tuple[str, int, float, float, Tensor]]:
    yield "start", 0, 0.0, 0.0, start
    for index, point in enumerate(path):
        yield "path", index, point.time, point.step, point.parameters.detach().double().cpu()
    draw = generator(seed, "theory/ball")
    for index in range(probe.probes):
        direction = torch.as_tensor(draw.standard_normal(len(start)))
        yield "ball", index, math.nan, math.nan, start + probe.radius * direction / norm(direction)
