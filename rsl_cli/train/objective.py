"""The loss of a network on a dataset, replica by replica, in chunks that fit memory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rsl_cli.data import Dataset
from rsl_cli.graph import BaseGraph
from rsl_cli.kernels.serial import one_thread
from rsl_cli.network import LiftedNetwork
from rsl_cli.rng import generator
from rsl_cli.train.losses import Loss, check_fit, read_loss

_PROBED, _PROBES = 256, 8
"""Samples, and random signs of each, that tell how far outputs move with parameters."""
_CHUNK_NUMBERS = 1 << 22
"""Activations of one vertex that one chunk of samples may hold, for one replica."""


@dataclass(frozen=True)
class Evaluation:
    """Full-batch figures of every replica.

    Args:
        loss: training loss, float64 (R,).
        grad_norm: norm of its gradient, float64 (R,).
        relative_gradient: see `relative_gradient`, float64 (R,).
        distance: |theta - theta_0|, float64 (R,).
        test_loss: held-out loss, float64 (R,).
        accuracy: held-out share classified rightly, float64 (R,); NaN for regression.
    """

    loss: Tensor
    grad_norm: Tensor
    relative_gradient: Tensor
    distance: Tensor
    test_loss: Tensor
    accuracy: Tensor


class Objective:
    """A dataset and a loss, on a device, ready to be evaluated.

    Args:
        data: the samples; class labels become one-hot targets where the loss takes numbers.
        loss: the loss, or its name.
        dtype: of inputs and targets.
        device: where they are kept.

    Raises:
        ConfigError: unknown loss, or one of classes on regression targets.
    """

    def __init__(
        self, data: Dataset, loss: Loss | str, *, dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> None:
        self.loss = loss if isinstance(loss, Loss) else read_loss(loss)[0]
        check_fit(self.loss, data)
        self.classify = data.task == "classification"
        self.outputs = data.outputs
        self.x = torch.as_tensor(data.x_train, dtype=dtype, device=device)
        self.x_test = torch.as_tensor(data.x_test, dtype=dtype, device=device)
        self.y = self._targets(data, data.y_train, dtype, device)
        self.y_test = self._targets(data, data.y_test, dtype, device)

    @property
    def samples(self) -> int:
        """N, the number of training samples."""
        return len(self.x)

    def backward(self, network: LiftedNetwork, batch: Tensor | None) -> Tensor:
        """Accumulate gradients of the sum over replicas of their mean losses.

        Args:
            network: whose parameters get them.
            batch: int64 (R, B), samples of each replica; None for all samples, in chunks.

        Returns:
            (R,) losses, detached.
        """
        if batch is None:
            return self._backward_all(network)
        losses = self.loss.losses(_outputs(network, self.x[batch]), self.y[batch]).sum(1) / batch.shape[1]
        losses.sum().backward()
        return losses.detach()

    def evaluate(self, network: LiftedNetwork, start: Mapping[str, Tensor] | None = None) -> Evaluation:
        """Figures of every replica, given where it started, by name (None: here); the gradients are cleared again."""
        start = {name: p.detach() for name, p in network.named_parameters()} if start is None else start
        network.zero_grad(set_to_none=True)
        loss = self._backward_all(network)
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        grad_norm = network.squared_norms(gradients).sqrt()
        relative = self._relative_gradients(network, start, gradients, loss)
        network.zero_grad(set_to_none=True)
        test_loss, accuracy = self.held_out(network)
        return Evaluation(loss, grad_norm, relative, distances(network, start), test_loss, accuracy)

    def _relative_gradients(
        self, network: LiftedNetwork, start: Mapping[str, Tensor], gradients: Mapping[str, Tensor], loss: Tensor
    ) -> Tensor:
        values = {name: parameter.detach() for name, parameter in network.named_parameters()}
        slopes = {name: gradients.get(name, torch.zeros_like(value)) for name, value in values.items()}
        figures = []
        for replica, responses in enumerate(self.responses(network)):
            one, (g, theta, theta_0) = (
                float(loss[replica]),
                (_flat(network, t, replica) for t in (slopes, values, start)),
            )
            figures.append(relative_gradient(one, g, theta, theta_0, lone_reach(self.span(one), g, responses)))
        return torch.tensor(figures, dtype=torch.float64)

    def responses(self, network: LiftedNetwork) -> list[np.ndarray]:
        """For each replica, how far its outputs move with each parameter: E[|dF / dtheta_p|^2]^(1/2), float64 (P,).

        Estimated from some samples and random signs (Hutchinson, 1990), to a fraction of itself.

        Returns:
            Arrays in the order of the replicas.
        """
        chosen, signs = self.probes()
        out = _outputs(network, self.x[torch.as_tensor(chosen, device=self.x.device)])
        parameters = dict(network.named_parameters())
        total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for i, sign in enumerate(signs):
            cotangent = torch.as_tensor(sign, dtype=out.dtype, device=out.device).expand_as(out)
            keep = i + 1 < len(signs)
            grads = torch.autograd.grad(out, list(parameters.values()), cotangent, retain_graph=keep, allow_unused=True)
            for name, grad in zip(parameters, grads, strict=True):
                if grad is not None:
                    total[name] += grad.square() / (len(chosen) * len(signs))
        return [np.sqrt(_flat(network, total, replica)) for replica in range(network.replica_count)]

    def probes(self) -> tuple[np.ndarray, np.ndarray]:
        """Some samples' numbers, (B,), and random signs (`_PROBES`, B, outputs); always the same ones."""
        draw = generator(0, "train/responses")
        chosen = np.sort(draw.permutation(self.samples)[:_PROBED])
        return chosen, draw.choice([-1.0, 1.0], (_PROBES, len(chosen), self.outputs))

    def span(self, loss: float) -> float:
        """How far outputs have to move to change a loss by as much as it is: the residuals' size; in logits, 1."""
        return 1.0 if self.loss.labels else math.sqrt(2 * max(loss, 0.0))

    def held_out(self, network: LiftedNetwork) -> tuple[Tensor, Tensor]:
        """Held-out loss and accuracy, float64 (R,) each; accuracy is NaN for regression, both without samples."""
        total = len(self.x_test)
        test_loss = torch.full((network.replica_count,), 0.0 if total else math.nan, dtype=torch.float64)
        right = test_loss.clone()
        with torch.no_grad():
            for part in self._chunks(network, total):
                out, y = _outputs(network, self.x_test[part]), self.y_test[part]
                test_loss += _sums(self.loss.losses(out, y)) / total
                if self.classify:
                    labels = y if self.loss.labels else y.argmax(-1)
                    right += (out.argmax(-1) == labels).double().sum(1).cpu() / total
        return test_loss, right if self.classify else torch.full_like(right, math.nan)

    def resolution(self) -> float:
        """The smallest loss that rounding of the outputs lets one tell from zero."""
        with one_thread():
            return self.loss.resolution(self.y, self.x.dtype)

    def _backward_all(self, network: LiftedNetwork) -> Tensor:
        loss = torch.zeros(network.replica_count, dtype=torch.float64)
        for part in self._chunks(network, self.samples):
            losses = self.loss.losses(_outputs(network, self.x[part]), self.y[part])
            (losses.sum() / self.samples).backward()
            loss += _sums(losses.detach()) / self.samples
        return loss

    def _chunks(self, network: LiftedNetwork, total: int) -> list[slice]:
        # Sized by one replica, so that what is beside it in a union cannot change its rounding.
        size = min(samples_at_once(replica.base, replica.fibres) for replica in network.lift.replicas)
        return [slice(start, min(start + size, total)) for start in range(0, total, size)]

    def _targets(self, data: Dataset, y: object, dtype: torch.dtype, device: str | torch.device) -> Tensor:
        if not self.classify:
            return torch.as_tensor(y, dtype=dtype, device=device)
        labels = torch.as_tensor(y, dtype=torch.int64, device=device)
        return labels if self.loss.labels else functional.one_hot(labels, data.outputs).to(dtype)


def lone_reach(span: float, gradient: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """How far each parameter by itself would have to go for the outputs to move by their span, (P,).

    Args:
        span: see `Objective.span`.
        gradient: of the loss, (P,).
        responses: see `Objective.responses`, (P,).

    Returns:
        Float64 (P,), infinite where outputs do not move.
    """
    # Whatever the probed samples show, no gradient is steeper than span times the response of all.
    least = np.maximum(responses, np.abs(gradient) / max(span, np.finfo(float).tiny))
    return np.divide(span, least, out=np.full(len(least), np.inf), where=least > span * np.finfo(float).tiny)


def relative_gradient(
    loss: float, gradient: np.ndarray, parameters: np.ndarray, start: np.ndarray, lone: np.ndarray
) -> float:
    """What share of the loss is left to gain, to first order: sum_p |g_p| reach_p / L, a number without units.

    A parameter's reach is what a further motion of it is measured by: its size, the way it has gone, or `lone_reach`,
    whichever is largest. In other units of targets or of parameters nothing changes, while |grad L| |theta| / L adds up
    numbers of different units.

    Args:
        loss: L.
        gradient: of L, (P,).
        parameters: (P,).
        start: theta_0, (P,).
        lone: see `lone_reach`, (P,).

    Returns:
        A number from 0.
    """
    slope = np.abs(gradient)
    reach = np.maximum(np.maximum(np.abs(parameters), np.abs(parameters - start)), lone)
    return float(slope @ np.where(slope > 0, reach, 0.0)) / loss if loss > 0 else 0.0


def samples_at_once(base: BaseGraph, fibres: Mapping[str, int]) -> int:
    """Into how large chunks a pass over all samples is cut."""
    largest = max(copies * math.prod(base.sum_space(vertex)) for vertex, copies in fibres.items())
    return min(max(_CHUNK_NUMBERS // largest, 64), 4096)


def distances(network: LiftedNetwork, start: Mapping[str, Tensor]) -> Tensor:
    """|theta - theta_0| of every replica, float64 (R,)."""
    moved = {name: parameter.detach() - start[name] for name, parameter in network.named_parameters()}
    return network.squared_norms(moved).sqrt()


def _flat(network: LiftedNetwork, tensors: Mapping[str, Tensor], replica: int) -> np.ndarray:
    """A replica's part of tensors named like the parameters, float64 (P,)."""
    parts = network.replica_tensors(tensors, replica).values()
    return torch.cat([part.detach().double().reshape(-1).cpu() for part in parts]).numpy()


def _outputs(network: LiftedNetwork, x: Tensor) -> Tensor:
    out = network(x)
    return out if out.dim() == 3 else out[None]


def _sums(losses: Tensor) -> Tensor:
    return torch.stack([row.double().sum() for row in losses]).cpu()
