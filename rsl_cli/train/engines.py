"""What takes the steps of a first-order trainer: torch's optimisers under autograd, or circuits."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rsl_cli.network import LiftedNetwork
from rsl_cli.rng import generator
from rsl_cli.train.compiled import Compiled, Descent
from rsl_cli.train.objective import Evaluation, Objective, distances


class Engine(Protocol):
    """What takes the steps. Checkpoints of one kind can be resumed by the other, to rounding."""

    def advance(self, active: Sequence[int], steps: range, rates: np.ndarray) -> Mapping[int, int]:
        """Take steps with active replicas; for each whose loss was not finite, the step before which it was seen."""
        ...

    def evaluate(self) -> tuple[Evaluation, Tensor]:
        """Figures of every replica, and its |theta - theta_0|, float64 (R,)."""
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
    """torch's own optimisers on the union of all replicas."""

    def __init__(
        self, network: LiftedNetwork, objective: Objective, batches: "Batches", adaptive: bool, momentum: float
    ) -> None:
        self.network, self.objective, self.batches = network, objective, batches
        self.start = {name: p.detach().clone() for name, p in network.named_parameters()}
        scales = network.learning_rate_scales(adaptive=adaptive)
        groups: list[dict[str, Any]] = [
            {"params": [parameter], "scale": scales[name], "lr": scales[name]}
            for name, parameter in network.named_parameters()
        ]
        captured = adaptive and objective.x.device.type == "cuda" and batches.size is not None
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(groups, foreach=False, capturable=captured)
            if adaptive
            else torch.optim.SGD(groups, momentum=momentum, foreach=False)
        )
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
        if self.captured is not None and chosen is not None:
            return self.captured.step(chosen, rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.objective.backward(self.network, chosen)
        self.optimizer.step()
        return losses

    def evaluate(self) -> tuple[Evaluation, Tensor]:
        """See `Engine`."""
        return self.objective.evaluate(self.network), distances(self.network, self.start)

    def parameters(self, replica: int) -> dict[str, Tensor]:
        """See `Engine`."""
        tensors = {name: p.detach() for name, p in self.network.named_parameters()}
        return {name: part.clone() for name, part in self.network.replica_tensors(tensors, replica).items()}

    def state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        arrays = {f"parameter/{name}": p.detach() for name, p in self.network.named_parameters()}
        for index, state in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer/{index}/{key}": value for key, value in state.items() if value is not None}
        return arrays

    def resume(self, arrays: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(arrays[f"parameter/{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, array in arrays.items():
            kind, *rest = name.split("/", 2)
            if kind == "optimizer":
                state.setdefault(int(rest[0]), {})[rest[1]] = array.clone()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        if self.captured is not None:
            # The optimiser's tensors are new ones now, of which a graph recorded before knows nothing.
            self.captured = CapturedStep(self.network, self.objective, self.optimizer)

    def finish(self, parameters: Mapping[int, Mapping[str, Tensor]]) -> None:
        """See `Engine`."""


class CapturedStep:
    """A step of Adam on batches, recorded once as a CUDA graph and then replayed.

    A small lift's step is some dozens of kernels of a few microseconds each; launched one by one, their launches are
    what it takes. Gradient descent reads its rate on the host at every step, passes over all samples add up there: both
    are launched as ever.

    Args:
        network: whose parameters change, on a CUDA device.
        objective: data and loss, there too.
        optimizer: of torch, made with ``capturable=True``; each group has a ``scale`` of its learning rate.
    """

    _EAGER = 3
    """Steps launched one by one first, in which what is made once is made, kernels among it."""

    def __init__(self, network: LiftedNetwork, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        self._network, self._objective, self._optimizer = network, objective, optimizer
        self._graph: torch.cuda.CUDAGraph | None = None
        self._taken = 0

    def step(self, batch: Tensor, rate: float) -> Tensor:
        """Take a step.

        Args:
            batch: int64 (R, B), samples of each replica, on the device.
            rate: learning rate before the groups' factors.

        Returns:
            (R,) losses before it.
        """
        if self._taken == 0:
            self._batch = batch.clone()
            self._rate = torch.empty((), dtype=torch.float32, device=batch.device)
            for group in self._optimizer.param_groups:
                group["lr"] = torch.empty_like(self._rate)
        self._batch.copy_(batch)
        self._rate.fill_(rate)
        self._taken += 1
        if self._taken <= self._EAGER:
            # Not on the stream that everything else is on, as torch asks of what is to be captured.
            side, here = torch.cuda.Stream(batch.device), torch.cuda.current_stream(batch.device)
            side.wait_stream(here)
            with torch.cuda.stream(side):
                losses = self._launch()
            here.wait_stream(side)
            return losses
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.device_of(batch), torch.cuda.graph(self._graph):
                self._losses = self._launch()
        self._graph.replay()
        return self._losses.clone()

    def _launch(self) -> Tensor:
        for group in self._optimizer.param_groups:
            group["lr"].copy_(self._rate * group["scale"])
        self._optimizer.zero_grad(set_to_none=True)
        losses = self._objective.backward(self._network, self._batch)
        self._optimizer.step()
        return losses


class CircuitEngine:
    """Each replica by its circuit: many steps in one call, all its parameters in one buffer."""

    def __init__(
        self, network: LiftedNetwork, compiled: Compiled, batches: "Batches", adaptive: bool, momentum: float
    ) -> None:
        self.network, self.compiled, self.batches = network, compiled, batches
        self.keys = ("exp_avg", "exp_avg_sq") if adaptive else ("momentum_buffer",) if momentum else ()
        self.steps = 0
        tensors = {name: p.detach() for name, p in network.named_parameters()}
        self.descents: list[Descent] = []
        for replica in range(compiled.count):
            scales = network.learning_rate_scales(adaptive=adaptive, replica=replica)
            theta = self._flat(tensors, replica)
            parts = network.replica_tensors(tensors, replica).items()
            scale = np.concatenate([np.full(part.numel(), scales[name], theta.dtype) for name, part in parts])
            states = np.zeros((2 if adaptive else 1, len(theta)), theta.dtype)
            self.descents.append(Descent(theta, scale, states, momentum))
        self.starts = [descent.theta.copy() for descent in self.descents]

    def advance(self, active: Sequence[int], steps: range, rates: np.ndarray) -> Mapping[int, int]:
        """See `Engine`."""
        chosen = [self.batches.at(step) for step in steps]
        # All samples are the same ones every time.
        stacked = np.stack([one for one in chosen if one is not None] or [self.batches.all])
        parts = [(r, self.descents[r], np.ascontiguousarray(stacked[:, r % stacked.shape[1]])) for r in active]
        diverged = self.compiled.advance(parts, rates, steps.start)
        self.steps = steps.stop
        return diverged

    def evaluate(self) -> tuple[Evaluation, Tensor]:
        """See `Engine`."""
        rows = []
        for replica, (own, start) in enumerate(zip(self.descents, self.starts, strict=True)):
            loss, gradient = self.compiled.gradient(replica, own.theta)
            norms = [float(np.linalg.norm(v.astype(np.float64))) for v in (gradient, own.theta - start)]
            rows.append((loss, norms[0], *self.compiled.held_out(replica, own.theta), norms[1]))
        *figures, moved = torch.tensor(rows, dtype=torch.float64).T
        return Evaluation(*figures), moved

    def parameters(self, replica: int) -> dict[str, Tensor]:
        """See `Engine`."""
        return self._named(replica, self.descents[replica].theta)

    def state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        every = range(self.compiled.count)
        arrays = {f"parameter/{k}": v for k, v in self._joined([self.descents[r].theta for r in every]).items()}
        for i, key in enumerate(self.keys):
            joined = self._joined([self.descents[r].states[i] for r in every])
            arrays |= {f"optimizer/{index}/{key}": value for index, value in enumerate(joined.values())}
        if len(self.keys) == 2:
            arrays |= {f"optimizer/{i}/step": torch.tensor(float(self.steps)) for i in range(len(self._names))}
        return arrays

    def resume(self, arrays: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        names = self._names
        saved = {name: arrays[f"parameter/{name}"] for name in names}
        for name, parameter in self.network.named_parameters():
            if saved[name].shape != parameter.shape:
                raise KeyError(name)
        states = [{n: arrays.get(f"optimizer/{i}/{key}") for i, n in enumerate(names)} for key in self.keys]
        for replica, own in enumerate(self.descents):
            own.theta[:] = self._flat(saved, replica)
            for state, values in zip(own.states, states, strict=False):
                # Before the first step there are none.
                known = {n: v if v is not None else torch.zeros_like(saved[n]) for n, v in values.items()}
                state[:] = self._flat(known, replica)

    def finish(self, parameters: Mapping[int, Mapping[str, Tensor]]) -> None:
        """See `Engine`."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(torch.cat([parameters[r][name] for r in range(self.compiled.count)]))

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
