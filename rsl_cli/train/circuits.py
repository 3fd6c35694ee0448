"""The replicas of a network as circuits over an objective's samples: passes without autograd, on CPU cores.

Each replica goes by itself, at parameters, and for as many steps, as suit it; threads share replicas or samples.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from rsl_cli.circuits import circuit_of
from rsl_cli.kernels.circuit import (
    Circuit,
    Samples,
    add_gradient,
    advance,
    group_bounds,
    mean_gradient,
    scratch,
    update,
)
from rsl_cli.kernels.circuit_pass import backward, forward, needs_slopes
from rsl_cli.kernels.curvature import add_curvature
from rsl_cli.kernels.strip import BYTES
from rsl_cli.kernels.threads import in_threads, worth_threads
from rsl_cli.linearization import Probe
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.objective import Objective

_FEW = 1 << 14
"""Samples a forward pass takes at a time, so that threads have something to share."""

_SHARED = 4
"""Uses of a weight. Perceptrons have one of each, and little beside; rows of what has more outnumber the weights."""


@dataclass(frozen=True)
class OptimizerState:
    """What a first-order method keeps from step to step, for one replica; arrays change in place.

    Args:
        theta: parameters (P,).
        scale: factors of the learning rate, (P,).
        states: (2, P), the moments of Adam; or (1, P), the velocity of gradient descent.
        momentum: of gradient descent.
    """

    theta: np.ndarray
    scale: np.ndarray
    states: np.ndarray
    momentum: float


class CircuitObjective:
    """Passes over an objective's samples by circuits; make one with `CircuitObjective.of`.

    Args:
        circuits: each replica's.
        factors: by which each replica's parameters are multiplied, (P,).
        objective: data and loss.
    """

    def __init__(self, circuits: Sequence[Circuit], factors: Sequence[np.ndarray], objective: Objective) -> None:
        self._circuits, self._factors = circuits, factors
        self._train = _samples(objective, objective.x, objective.y)
        self._test = _samples(objective, objective.x_test, objective.y_test)
        self._classify, self.span = objective.classify, objective.span
        chosen, signs = objective.probes()
        size = float(objective.y.double().square().mean()) ** 0.5 if not objective.loss.labels else 1.0
        self._probe = max(size, np.finfo(np.float32).tiny)
        """About as large as outputs, so that rounding takes neither from the other."""
        x, labels = self._train.x[chosen], np.empty(0, np.int64)
        shifts = [(way * self._probe * sign).astype(x.dtype) for sign in signs for way in (1.0, -1.0)]
        self._probes = [Samples(x, shift, labels) for shift in shifts]

    @classmethod
    def of(cls, network: LiftedNetwork, objective: Objective) -> "CircuitObjective | None":
        """The circuits of a network on the CPU, if all its replicas have one."""
        if (
            objective.x.device.type != "cpu"
            or objective.loss.circuit is None
            or network.dtype not in (torch.float32, torch.float64)
        ):
            return None
        circuits, factors = [], []
        for lift in network.lift.replicas:
            found = circuit_of(lift, network.parametrization)
            if found is None:
                return None
            circuits.append(found[0])
            factors.append(found[1].astype(objective.x.numpy().dtype))
        return cls(circuits, factors, objective)

    @property
    def count(self) -> int:
        """R."""
        return len(self._circuits)

    @property
    def samples(self) -> int:
        """N."""
        return len(self._train.x)

    def gradient(self, replica: int, theta: np.ndarray, chosen: np.ndarray | None = None) -> tuple[float, np.ndarray]:
        """Mean loss and its gradient.

        Args:
            replica: which.
            theta: its parameters, (P,), of the objective's type.
            chosen: int64 (B,), numbers of samples; None: all.

        Returns:
            The loss, and the gradient (P,).
        """
        circuit, factor = self._circuits[replica], self._factors[replica]
        numbers = np.arange(self.samples) if chosen is None else chosen
        if not self._worth_threads(replica, len(numbers)):
            gradient = np.empty_like(theta)
            work = scratch(circuit, theta)
            return mean_gradient(circuit, theta, factor, self._train, numbers, gradient, work), gradient
        weight = np.append(theta * factor, theta.dtype.type(1))
        groups = group_bounds(len(numbers), weight, 0)[2]
        threads = min(torch.get_num_threads(), groups)

        def of_groups(thread: int) -> list[tuple[float, np.ndarray]]:
            found, work = [], scratch(circuit, weight)
            for group in range(thread, groups, threads):
                start, stop, _ = group_bounds(len(numbers), weight, group)
                part = np.zeros_like(weight)
                loss, _ = add_gradient(circuit, weight, self._train, numbers, start, stop, 1 / len(numbers), part, work)
                found.append((loss, part))
            return found

        shares = list(in_threads(of_groups, range(threads)))
        loss, total = 0.0, np.zeros_like(theta)
        for group in range(groups):
            share, part = shares[group % threads][group // threads]
            loss += share
            total += part[:-1]
        return loss / len(numbers), total * factor

    def jacobians(
        self, replica: int, theta: np.ndarray, x: torch.Tensor, probe: Probe
    ) -> Iterator[Float[torch.Tensor, "parameters samples"]]:
        """Each cotangent's derivatives by parameters (P,), as `rsl_cli.linearization.sample_jacobians` gives them.

        Args:
            replica: which.
            theta: its parameters, (P,), of the objective's type.
            x: (N, *input_shape).
            probe: which combinations of the outputs to differentiate.

        Yields:
            (P, N); the next one overwrites it.
        """
        circuit, factor, samples = self._circuits[replica], self._factors[replica], len(x)
        weight, inputs = np.append(theta * factor, theta.dtype.type(1)), x.flatten(1).contiguous().numpy()
        strip = BYTES // weight.itemsize
        strips, length = -(-samples // strip), len(circuit.function) * strip
        # torch's memory starts where a line of cache does.
        kept, slopes = (
            torch.ones(count, length, dtype=x.dtype).numpy()
            for count in (strips, strips if needs_slopes(circuit) else 1)
        )
        out = np.empty((samples, circuit.outputs), weight.dtype)
        into = torch.empty(len(weight), strips, strip, dtype=x.dtype).numpy()
        share = strip * -(-strips // torch.get_num_threads()) if self._worth_threads(replica, samples) else samples
        starts = range(0, samples, share)

        def forwards(start: int) -> None:
            forward(circuit, weight, inputs, start, min(start + share, samples), kept, slopes, out)

        list(in_threads(forwards, starts))
        cotangents = probe(torch.from_numpy(out))
        for number, cotangent in enumerate(cotangents):
            values = kept if number + 1 == len(cotangents) else kept.copy()
            along, nothing = cotangent.contiguous().numpy(), np.empty((0, circuit.inputs), weight.dtype)
            into[:] = 0

            def backwards(start: int, values=values, along=along, nothing=nothing) -> None:
                stop = min(start + share, samples)
                backward(circuit, weight, start, stop, values, slopes, along, into, nothing)

            list(in_threads(backwards, starts))
            for place in np.flatnonzero(factor != 1):
                into[place] *= factor[place]
            yield torch.from_numpy(into).view(len(weight), -1)[:-1, :samples]

    def shares(self, replica: int) -> bool:
        """Whether weights are used again and again, as in convolutions, for which `curvature` takes long."""
        return len(self._circuits[replica].columns) > _SHARED * len(self._factors[replica])

    def curvature(self, replica: int, theta: np.ndarray) -> np.ndarray | None:
        """The Hessian less the Gauss-Newton matrix: E[sum_o a_o grad^2 F_o], (P, P), a_o a sample's dloss / dF_o.

        Returns:
            The matrix; None for attention, whose own curvature is not written out.
        """
        circuit, factor = self._circuits[replica], self._factors[replica]
        if len(circuit.heads):
            return None
        weight = np.append(theta * factor, theta.dtype.type(1))
        total = np.zeros((len(weight), len(weight)), theta.dtype)
        add_curvature(circuit, weight, self._train, np.arange(self.samples), 1 / self.samples, total)
        half = factor[:, None] * total[:-1, :-1] * factor
        return half + half.T

    def responses(self, replica: int, theta: np.ndarray) -> np.ndarray:
        """See `rsl_cli.train.objective.Objective.responses`: gradients of squared distances from probes +v and -v."""
        circuit, factor = self._circuits[replica], self._factors[replica]
        numbers, work = np.arange(len(self._probes[0].x)), scratch(circuit, theta)
        total, gradients = np.zeros(len(theta)), np.empty((2, len(theta)), theta.dtype)
        for pair in zip(self._probes[::2], self._probes[1::2], strict=True):
            for probe, gradient in zip(pair, gradients, strict=True):
                mean_gradient(circuit, theta, factor, probe, numbers, gradient, work)
            along = (gradients[1] - gradients[0]).astype(np.float64) / (2 * self._probe)
            total += len(numbers) * along**2
        return np.sqrt(2 * total / len(self._probes))

    def held_out(self, replica: int, theta: np.ndarray) -> tuple[float, float]:
        """Held-out loss and accuracy (NaN for regression), both NaN without samples."""
        if not len(self._test.x):
            return math.nan, math.nan
        weight = np.append(theta * self._factors[replica], theta.dtype.type(1))
        chosen, nothing = np.arange(len(self._test.x)), np.empty(0, theta.dtype)

        def of_part(start: int) -> tuple[float, int]:
            circuit, stop = self._circuits[replica], min(start + _FEW, len(chosen))
            work = scratch(circuit, weight)
            return add_gradient(circuit, weight, self._test, chosen, start, stop, 1.0, nothing, work)

        losses, right = zip(*in_threads(of_part, range(0, len(chosen), _FEW)), strict=True)
        return sum(losses) / len(chosen), sum(right) / len(chosen) if self._classify else math.nan

    def advance(
        self, optimizer_states: Sequence[tuple[int, OptimizerState, np.ndarray]], rates: np.ndarray, step: int
    ) -> dict[int, int]:
        """Take steps of a first-order method, in place.

        Args:
            optimizer_states: (replica, its state, its batches), batches int64 (K, B), or (1, B) for all steps the same.
            rates: float64 (K,), learning rates before their factors.
            step: steps taken before.

        Returns:
            For each replica whose loss was not finite: at which step, before which it stopped.
        """

        def alone(part: tuple[int, OptimizerState, np.ndarray]) -> int:
            replica, own, batches = part
            circuit, factor = self._circuits[replica], self._factors[replica]
            arguments = (batches, rates, own.scale, own.states, step, own.momentum)
            return advance(circuit, own.theta, factor, self._train, *arguments)

        def together(part: tuple[int, OptimizerState, np.ndarray]) -> int:
            replica, own, batches = part
            for k, rate in enumerate(rates):
                loss, gradient = self.gradient(replica, own.theta, batches[min(k, len(batches) - 1)])
                if not np.isfinite(loss):
                    return k
                rate = own.scale * own.theta.dtype.type(rate)
                update(own.theta, gradient, rate, own.states, step + k + 1, own.momentum)
            return len(rates)

        wide = len(optimizer_states) < torch.get_num_threads() and all(
            self._worth_threads(replica, batches.shape[1]) for replica, _, batches in optimizer_states
        )
        taken = map(together, optimizer_states) if wide else in_threads(alone, optimizer_states)
        return {
            part[0]: step + count for part, count in zip(optimizer_states, taken, strict=True) if count < len(rates)
        }

    def _worth_threads(self, replica: int, samples: int) -> bool:
        return worth_threads(3 * len(self._circuits[replica].columns) * samples)


def _samples(objective: Objective, x: torch.Tensor, y: torch.Tensor) -> Samples:
    inputs = x.flatten(1).contiguous().numpy()
    if objective.loss.circuit == "squared":
        return Samples(inputs, y.contiguous().numpy(), np.empty(0, np.int64))
    if objective.loss.circuit == "softmax":
        return Samples(inputs, np.empty((0, 0), inputs.dtype), y.numpy())
    raise AssertionError(f"circuits have no {objective.loss.circuit!r}, which is said of loss {objective.loss.name}")
