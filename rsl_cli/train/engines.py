"""What takes the steps of a first-order trainer: passes by autograd, or by circuits."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rsl_cli.network import LiftedNetwork
from rsl_cli.rng import generator
from rsl_cli.train.circuits import CircuitObjective, OptimizerState
from rsl_cli.train.objective import Evaluation, Objective, lone_reach, relative_gradient
from rsl_cli.train.optimizers import Optimizer, Steps


class Engine(Protocol):
    """What takes the steps. Checkpoints of one kind can be resumed by the other, to rounding."""

    def advance(self, active: Sequence[int], steps: range, rates: np.ndarray) -> Mapping[int, int]:
        """Take steps with active replicas; for each whose loss was not finite, the step before which it was seen."""
        ...

    def evaluate(self) -> Evaluation:
        """Figures of every replica."""
        ...

    def parameters(self, replica: int) -> dict[str, Tensor]:
        """A replica's parameters now, by name."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What to go on from: ``parameter/NAME`` and ``optimizer/INDEX/KEY``, as torch's optimisers name them."""
        ...

    def resume(self, arrays: Mapping[str, Tensor]) -> None:
        """Go on from it."""
        ...

    def finish(self, parameters: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Leave the network with these parameters of each replica."""
        ...


class AutogradEngine:
    """Backward passes by autograd through the union of all replicas, then one step for all their parameters."""

    def __init__(self, network: LiftedNetwork, objective: Objective, batches: "Batches", optimizer: Optimizer) -> None:
        self.network, self.objective, self.batches = network, objective, batches
        self.start = {name: p.detach().clone() for name, p in network.named_parameters()}
        self.optimizer: Steps = FlatOptimizer(network, optimizer) if optimizer.over is None else optimizer.over(network)
        captured = objective.x.device.type == "cuda" and batches.size is not None and optimizer.over is None
        self.captured = CapturedStep(network, objective, self.optimizer) if captured else None

    def advance(self, active: Sequence[int], steps: range, rates: np.ndarray) -> Mapping[int, int]:
        """See `Engine`."""
        losses = [self._step(self.batches.at(step), rate) for step, rate in zip(steps, rates.tolist(), strict=True)]
        # Asked once, not at every step: a GPU would be waited for.
        broken = ~torch.isfinite(torch.stack(losses)).cpu().numpy()
        return {r: steps[int(broken[:, r].argmax())] for r in active if broken[:, r].any()}

    def _step(self, batch: np.ndarray | None, rate: float) -> Tensor:
        """One step; the losses before it, (R,)."""
        chosen = None if batch is None else torch.as_tensor(batch, device=self.objective.x.device)
        self.optimizer.prepare(rate)
        if self.captured is not None and chosen is not None:
            return self.captured.step(chosen)
        return _launch(self.network, self.objective, self.optimizer, chosen)

    def evaluate(self) -> Evaluation:
        """See `Engine`."""
        return self.objective.evaluate(self.network, self.start)

    def parameters(self, replica: int) -> dict[str, Tensor]:
        """See `Engine`."""
        tensors = {name: p.detach() for name, p in self.network.named_parameters()}
        return {name: part.clone() for name, part in self.network.replica_tensors(tensors, replica).items()}

    def state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return {name: tensor.clone() for name, tensor in self.optimizer.tensors().items()} | self.optimizer.counts()

    def resume(self, arrays: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        self.optimizer.resume(arrays)

    def finish(self, parameters: Mapping[int, Mapping[str, Tensor]]) -> None:
        """See `Engine`."""
        for parameter in self.network.parameters():
            parameter.data = parameter.data.clone()


class FlatOptimizer:
    """An optimiser for all parameters of a network in one buffer.

    A small lift has many small parameters, and torch's optimisers take some calls for each of them. Every number has a
    learning rate of its own, so that replicas of different degrees can be trained as one union.

    Args:
        network: whose parameters are views of the buffer from now on; it stays on its device.
        optimizer: whose steps are taken.
    """

    def __init__(self, network: LiftedNetwork, optimizer: Optimizer) -> None:
        self._parameters = dict(network.named_parameters())
        self._optimizer, self._keys, self._taken = optimizer, optimizer.states, 0
        like = next(iter(self._parameters.values())).detach()
        # Every parameter starts where torch's memory would: elsewhere dense products round differently.
        counts = [-(-p.numel() // _ALIGNED) * _ALIGNED for p in self._parameters.values()]
        starts = np.cumsum([0, *counts]).tolist()
        self._starts = dict(zip(self._parameters, starts, strict=False))
        self._theta, self._scale, self._gradient = (like.new_zeros(starts[-1]) for _ in range(3))
        self._states = [like.new_zeros(starts[-1]) for _ in self._keys]
        self._rate, self._numbers = like.new_zeros(()), [like.new_ones(()) for _ in optimizer.numbers(1)]
        replicas = range(network.replica_count)
        scales = [network.learning_rate_scales(adaptive=optimizer.adaptive, replica=r) for r in replicas]
        of_scale = self._views(self._scale)
        for replica in replicas:
            for name, part in network.replica_tensors(of_scale, replica).items():
                part.fill_(scales[replica][name])
        for name, view in self._views(self._theta).items():
            view.copy_(self._parameters[name].detach())
            self._parameters[name].data = view
        self._gradients = self._views(self._gradient)

    def prepare(self, rate: float) -> None:
        """Say the learning rate of the next step, before its factors."""
        self._taken += 1
        self._rate.fill_(self._optimizer.rate(rate, self._taken))
        for tensor, number in zip(self._numbers, self._optimizer.numbers(self._taken), strict=True):
            tensor.fill_(number)

    def step(self) -> None:
        """Take the step; nothing in it depends on numbers that the host knows."""
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                self._gradients[name].zero_()
            else:
                self._gradients[name].copy_(parameter.grad)
        change = self._optimizer.direction(self._gradient, self._theta, self._states, self._numbers)
        self._theta.sub_(self._scale * change * self._rate)

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and what goes with them, by the names of `Engine.state`; views."""
        named = {f"parameter/{name}": view for name, view in self._views(self._theta).items()}
        for key, state in zip(self._keys, self._states, strict=True):
            named |= {f"optimizer/{i}/{key}": view for i, view in enumerate(self._views(state).values())}
        return named

    def counts(self) -> dict[str, Tensor]:
        """Steps taken, as torch's Adam notes them, once for each parameter."""
        return step_counts(self._optimizer, self._taken, len(self._parameters))

    def resume(self, arrays: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` and `counts` once were."""
        tensors = self.tensors()
        for name, tensor in tensors.items():
            if name.startswith("parameter/") and arrays[name].shape != tensor.shape:
                raise KeyError(name)
        for name, tensor in tensors.items():
            # Before the first step there may be no moments.
            tensor.copy_(arrays[name]) if name in arrays else tensor.zero_()
        self._taken = int(arrays.get("optimizer/0/step", torch.zeros(())))

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """Parts of a buffer, shaped and named like the parameters."""
        return {n: flat[self._starts[n] :][: p.numel()].view(p.shape) for n, p in self._parameters.items()}


_ALIGNED = 64
"""Numbers, a multiple of every alignment that matters."""


def step_counts(optimizer: Optimizer, steps: int, parameters: int) -> dict[str, Tensor]:
    """Steps taken, as torch's Adam notes them, where they matter."""
    return {f"optimizer/{i}/step": torch.tensor(float(steps)) for i in range(parameters)} if optimizer.counted else {}


def replica_state(network: LiftedNetwork, arrays: Mapping[str, Tensor], replica: int) -> dict[str, Tensor]:
    """One replica's part of what `Engine.state` gives, as if it had trained alone."""
    if network.replica_count == 1:
        return dict(arrays)  # Those of torch's optimisers may have shapes of their own.
    names, part = [name for name, _ in network.named_parameters()], {}
    for key, tensor in arrays.items():
        kind, place, *rest = key.split("/")
        name = place if kind == "parameter" else names[int(place)]
        part[key] = tensor if rest == ["step"] else network.replica_tensors({name: tensor}, replica)[name]
    return part


def joined_state(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The inverse of `replica_state`: what a union of replicas resumes from.

    Returns:
        Tensors by name, of all replicas one after the other.

    Raises:
        KeyError, RuntimeError: the parts are not of one trainer and one base graph.
    """
    if len(parts) == 1:
        return dict(parts[0])
    return {
        key: tensor if key.endswith("/step") else torch.cat([part[key] for part in parts])
        for key, tensor in parts[0].items()
    }


def _launch(network: LiftedNetwork, objective: Objective, optimizer: Steps, batch: Tensor | None) -> Tensor:
    """A step on some samples, (R, B), or on all; the losses before it, (R,)."""
    network.zero_grad(set_to_none=True)
    losses = objective.backward(network, batch)
    optimizer.step()
    return losses


class CapturedStep:
    """A step on batches, recorded once as a CUDA graph and then replayed.

    A small lift's step is some dozens of kernels of a few microseconds each; launched one by one, their launches are
    what it takes. Passes over all samples add up on the host, and are launched as ever.

    Args:
        network: whose parameters change, on a CUDA device.
        objective: data and loss, there too.
        optimizer: of this network.
    """

    _EAGER = 3
    """Steps launched one by one first, in which what is made once is made, kernels among it."""

    def __init__(self, network: LiftedNetwork, objective: Objective, optimizer: Steps) -> None:
        self._arguments = (network, objective, optimizer)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._taken = 0

    def step(self, batch: Tensor) -> Tensor:
        """Take a step that the optimiser is prepared for.

        Args:
            batch: int64 (R, B), samples of each replica, on the device.

        Returns:
            (R,) losses before it.
        """
        if self._taken == 0:
            self._batch = batch.clone()
        self._batch.copy_(batch)
        self._taken += 1
        if self._taken <= self._EAGER:
            # Not on the stream that everything else is on, as torch asks of what is to be captured.
            side, here = torch.cuda.Stream(batch.device), torch.cuda.current_stream(batch.device)
            side.wait_stream(here)
            with torch.cuda.stream(side):
                losses = _launch(*self._arguments, self._batch)
            here.wait_stream(side)
            return losses
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.device_of(batch), torch.cuda.graph(self._graph):
                self._losses = _launch(*self._arguments, self._batch)
        self._graph.replay()
        return self._losses.clone()


class CircuitEngine:
    """Each replica by its circuit: many steps in one call, all its parameters in one buffer."""

    def __init__(
        self, network: LiftedNetwork, circuits: CircuitObjective, batches: "Batches", optimizer: Optimizer
    ) -> None:
        self.network, self.circuits, self.batches, self.optimizer = network, circuits, batches, optimizer
        self.keys = optimizer.states
        self.steps = 0
        tensors = {name: p.detach() for name, p in network.named_parameters()}
        self.optimizer_states: list[OptimizerState] = []
        for replica in range(circuits.count):
            scales = network.learning_rate_scales(adaptive=optimizer.adaptive, replica=replica)
            theta = self._flat(tensors, replica)
            parts = network.replica_tensors(tensors, replica).items()
            scale = np.concatenate([np.full(part.numel(), scales[name], theta.dtype) for name, part in parts])
            # Loops of circuits' own are no objects: they know gradient descent by its one state, with momentum or
            # without, and Adam by its two.
            states = np.zeros((max(1, len(self.keys)), len(theta)), theta.dtype)
            self.optimizer_states.append(OptimizerState(theta, scale, states, optimizer.momentum))
        self.starts = [optimizer_state.theta.copy() for optimizer_state in self.optimizer_states]

    def advance(self, active: Sequence[int], steps: range, rates: np.ndarray) -> Mapping[int, int]:
        """See `Engine`."""
        chosen = [self.batches.at(step) for step in steps]
        # All samples are the same ones every time.
        stacked = np.stack([one for one in chosen if one is not None] or [self.batches.all])
        parts = [(r, self.optimizer_states[r], np.ascontiguousarray(stacked[:, r % stacked.shape[1]])) for r in active]
        if self.optimizer.in_circuits:
            diverged = self.circuits.advance(parts, rates, steps.start)
        else:
            taken = {r: self._steps(r, own, chosen, rates, steps.start) for r, own, chosen in parts}
            diverged = {r: steps.start + count for r, count in taken.items() if count < len(steps)}
        self.steps = steps.stop
        return diverged

    def _steps(self, replica: int, own: OptimizerState, batches: np.ndarray, rates: np.ndarray, taken: int) -> int:
        """Steps of an optimiser that circuits have no loops for; how many were taken before a loss was not finite."""
        theta, scale = torch.from_numpy(own.theta), torch.from_numpy(own.scale)
        states = [torch.from_numpy(state) for state in own.states[: len(self.keys)]]
        for k, rate in enumerate(rates.tolist()):
            loss, gradient = self.circuits.gradient(replica, own.theta, batches[min(k, len(batches) - 1)])
            if not np.isfinite(loss):
                return k
            numbers = [torch.tensor(number, dtype=theta.dtype) for number in self.optimizer.numbers(taken + k + 1)]
            change = self.optimizer.direction(torch.from_numpy(gradient), theta, states, numbers)
            theta.sub_(scale * change * self.optimizer.rate(rate, taken + k + 1))
        return len(rates)

    def evaluate(self) -> Evaluation:
        """See `Engine`."""
        rows = []
        for replica, (own, start) in enumerate(zip(self.optimizer_states, self.starts, strict=True)):
            loss, gradient = self.circuits.gradient(replica, own.theta)
            flats = [flat.astype(np.float64) for flat in (gradient, own.theta, start)]
            lone = lone_reach(self.circuits.span(loss), flats[0], self.circuits.responses(replica, own.theta))
            relative = relative_gradient(loss, flats[0], flats[1], flats[2], lone)
            grad_norm, distance = (float(np.linalg.norm(v)) for v in (flats[0], flats[1] - flats[2]))
            rows.append((loss, grad_norm, relative, distance, *self.circuits.held_out(replica, own.theta)))
        return Evaluation(*torch.tensor(rows, dtype=torch.float64).T)

    def parameters(self, replica: int) -> dict[str, Tensor]:
        """See `Engine`."""
        return self._named(replica, self.optimizer_states[replica].theta)

    def state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        every = range(self.circuits.count)
        arrays = {f"parameter/{k}": v for k, v in self._joined([self.optimizer_states[r].theta for r in every]).items()}
        for i, key in enumerate(self.keys):
            joined = self._joined([self.optimizer_states[r].states[i] for r in every])
            arrays |= {f"optimizer/{index}/{key}": value for index, value in enumerate(joined.values())}
        return arrays | step_counts(self.optimizer, self.steps, len(self._names))

    def resume(self, arrays: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        names = self._names
        saved = {name: arrays[f"parameter/{name}"] for name in names}
        for name, parameter in self.network.named_parameters():
            if saved[name].shape != parameter.shape:
                raise KeyError(name)
        states = [{n: arrays.get(f"optimizer/{i}/{key}") for i, n in enumerate(names)} for key in self.keys]
        self.steps = int(arrays.get("optimizer/0/step", torch.zeros(())))
        for replica, own in enumerate(self.optimizer_states):
            own.theta[:] = self._flat(saved, replica)
            for state, values in zip(own.states, states, strict=False):
                # Before the first step there are none.
                known = {n: v if v is not None else torch.zeros_like(saved[n]) for n, v in values.items()}
                state[:] = self._flat(known, replica)

    def finish(self, parameters: Mapping[int, Mapping[str, Tensor]]) -> None:
        """See `Engine`."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(torch.cat([parameters[r][name] for r in range(self.circuits.count)]))

    @property
    def _names(self) -> list[str]:
        return [name for name, _ in self.network.named_parameters()]

    def _flat(self, tensors: Mapping[str, Tensor], replica: int) -> np.ndarray:
        parts = self.network.replica_tensors(tensors, replica).values()
        return torch.cat([part.reshape(-1) for part in parts]).numpy()

    def _named(self, replica: int, flat: np.ndarray) -> dict[str, Tensor]:
        named = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        shapes = {name: part.shape for name, part in self.network.replica_tensors(named, replica).items()}
        pieces = torch.from_numpy(flat.copy()).split([shape.numel() for shape in shapes.values()])
        return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}

    def _joined(self, flats: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Flat vectors of all replicas as tensors shaped and named like the network's parameters."""
        parts = [self._named(replica, flat) for replica, flat in enumerate(flats)]
        return {name: torch.cat([part[name] for part in parts]) for name in self._names}


class Batches:
    """Which samples each replica sees at each step: a pure function of its seed and the step."""

    def __init__(self, objective: Objective, seeds: list[int], size: int | None) -> None:
        self.samples, self.seeds = objective.samples, seeds
        self.size = None if size is None or size >= self.samples else size
        self.epoch, self.order = -1, np.empty(0)

    @property
    def all(self) -> np.ndarray:
        """Every sample's number, int64 (1, N)."""
        return np.arange(self.samples)[None]

    def at(self, step: int) -> np.ndarray | None:
        """int64 (R, B), or None for all samples."""
        if self.size is None:
            return None
        epoch, batch = divmod(step, self.samples // self.size)
        if epoch != self.epoch:
            orders = [generator(seed, f"batches/{epoch}").permutation(self.samples) for seed in self.seeds]
            self.epoch, self.order = epoch, np.stack(orders)
        return self.order[:, batch * self.size : (batch + 1) * self.size]
