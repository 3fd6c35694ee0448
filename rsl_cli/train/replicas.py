"""Replicas that train together though each goes its own way.

A method is written for one replica, as a generator that asks for what it needs next: a gradient, a Gauss-Newton
matrix, a full evaluation. All replicas' requests of one round are answered together, by circuits or else by one pass
over the union of those that still train, so that each has step sizes, stages and an end of its own.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from rsl_cli.lift import disjoint_union
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.circuits import CircuitObjective
from rsl_cli.train.gauss_newton import Curvature, gauss_newton, gauss_newton_by
from rsl_cli.train.objective import Objective, lone_reach


@dataclass(frozen=True)
class Request:
    """A request about one replica: loss and gradient at parameters (P,), float64; and more, if wanted.

    Args:
        parameters: where.
        curvature: from how many samples the Gauss-Newton matrix is wanted there, at least 1; 0: it is not.
        held_out: whether held-out loss and accuracy are.
        bending: whether the residuals' part of the Hessian is, over all samples.
        cheaply: whether that part, and the matrix with it, is left out where it costs a great many gradients.
        lone_reach: whether `rsl_cli.train.objective.lone_reach` is.
    """

    parameters: np.ndarray
    curvature: int = 0
    held_out: bool = False
    bending: bool = False
    cheaply: bool = False
    lone_reach: bool = False


@dataclass(frozen=True)
class Answer:
    """What was asked for; NaN and None if it was not, or is not known: ``bending`` of attention, or of no circuit."""

    loss: float
    gradient: np.ndarray
    curvature: Curvature | None = None
    bending: np.ndarray | None = None
    lone_reach: np.ndarray | None = None
    test_loss: float = float("nan")
    accuracy: float = float("nan")


Solver = Generator[Request, Answer, None]


class Replicas:
    """The replicas of a network and an objective, each at parameters of its own choice.

    Args:
        network: whose lifts and parametrization; its parameters are the start.
        objective: data and loss.
    """

    def __init__(self, network: LiftedNetwork, objective: Objective) -> None:
        self._network, self._objective = network, objective
        tensors = {name: parameter.detach() for name, parameter in network.named_parameters()}
        parts = [network.replica_tensors(tensors, r) for r in range(network.replica_count)]
        self.start = [_flat(part) for part in parts]
        self._shapes = [{name: tensor.shape for name, tensor in part.items()} for part in parts]
        self._circuits = CircuitObjective.of(network, objective)
        self._unions: dict[tuple[int, ...], LiftedNetwork] = {}

    @property
    def samples(self) -> int:
        """N."""
        return self._objective.samples

    def tensors(self, replica: int, flat: np.ndarray) -> dict[str, torch.Tensor]:
        """Flat parameters (P,) of a replica as tensors by name."""
        shapes = self._shapes[replica]
        pieces = torch.as_tensor(flat).split([shape.numel() for shape in shapes.values()])
        return {name: piece.reshape(shape).clone() for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}

    def flat(self, replica: int, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Arrays by name as flat parameters (P,) of a replica."""
        return np.concatenate([arrays[name].astype(np.float64).ravel() for name in self._shapes[replica]])

    def answer(self, requests: Mapping[int, Request]) -> dict[int, Answer]:
        """Answer one request of each of some replicas."""
        answers = {}
        for replica, (loss, gradient) in self._gradients(requests).items():
            request = requests[replica]
            curvature, test_loss, accuracy = None, float("nan"), float("nan")
            costs_many = self._circuits is None or self._circuits.shares(replica) or self._objective.classify
            dear = request.cheaply and costs_many
            if request.curvature and not dear:
                curvature = self._gauss_newton(replica, request)
            bending = None
            if request.bending and self._circuits is not None and not dear:
                bending = self._circuits.curvature(replica, request.parameters)
            if request.held_out and self._circuits is not None:
                test_loss, accuracy = self._circuits.held_out(replica, request.parameters)
            elif request.held_out:
                alone = self._loaded((replica,), [request.parameters])
                test_loss, accuracy = (float(figure) for figure in self._objective.held_out(alone))
            lone = self._lone_reach(replica, request, loss, gradient) if request.lone_reach else None
            answers[replica] = Answer(loss, gradient, curvature, bending, lone, test_loss, accuracy)
        return answers

    def _gauss_newton(self, replica: int, request: Request) -> Curvature:
        if self._circuits is None:
            return gauss_newton(self._loaded((replica,), [request.parameters]), self._objective, request.curvature)
        jacobians = partial(self._circuits.jacobians, replica, request.parameters)
        return gauss_newton_by(jacobians, len(request.parameters), self._objective, request.curvature)

    def _lone_reach(self, replica: int, request: Request, loss: float, gradient: np.ndarray) -> np.ndarray:
        if self._circuits is not None:
            responses = self._circuits.responses(replica, request.parameters)
        else:
            responses = self._objective.responses(self._loaded((replica,), [request.parameters]))[0]
        return lone_reach(self._objective.span(loss), gradient, responses)

    def _gradients(self, requests: Mapping[int, Request]) -> dict[int, tuple[float, np.ndarray]]:
        if self._circuits is not None:
            return {
                replica: self._circuits.gradient(replica, request.parameters) for replica, request in requests.items()
            }
        members = tuple(sorted(requests))
        union = self._loaded(members, [requests[r].parameters for r in members])
        union.zero_grad(set_to_none=True)
        losses = self._objective.backward(union, None).tolist()
        gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in union.named_parameters()}
        parts = (_flat(union.replica_tensors(gradients, place)) for place in range(len(members)))
        return dict(zip(members, zip(losses, parts, strict=True), strict=True))

    def _loaded(self, members: tuple[int, ...], flats: Sequence[np.ndarray]) -> LiftedNetwork:
        union = self._union(members)
        parts = [self.tensors(replica, flat) for replica, flat in zip(members, flats, strict=True)]
        with torch.no_grad():
            for name, parameter in union.named_parameters():
                parameter.copy_(torch.cat([part[name] for part in parts]))
        return union

    def _union(self, members: tuple[int, ...]) -> LiftedNetwork:
        if members not in self._unions:
            if len(members) > 1:
                # Who still trains changes seldom, and then for good.
                self._unions = {key: value for key, value in self._unions.items() if len(key) == 1}
            lifts = [self._network.lift.replicas[replica] for replica in members]
            union = LiftedNetwork(disjoint_union(lifts), None, torch.float64, self._network.parametrization)
            self._unions[members] = union.to(self._objective.x.device)
        return self._unions[members]


def _flat(part: Mapping[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([tensor.detach().reshape(-1).double().cpu() for tensor in part.values()]).numpy()
