"""Optimisers of torch, and whatever has their form: by autograd, one replica at a time."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rsl_cli.contracts import failing
from rsl_cli.errors import RAISED, ConfigError, first_line
from rsl_cli.keys import flag
from rsl_cli.network import LiftedNetwork
from rsl_cli.parts import setting
from rsl_cli.registry import load, plain_arguments
from rsl_cli.train.optimizers import Optimizer, Steps, make_optimizer
from rsl_cli.train.settings import TARGET


@dataclass(frozen=True)
class TorchOptimizer(Optimizer):
    """A class of torch.optim as it is; its learning rate is the trainer's, times the parametrization's factors.

    Args:
        target: ``package.Class``.
        arguments: of its constructor, beside parameters and learning rate.
        divides: whether it divides by the gradient's size, as Adam does and SGD does not.
    """

    target: str = setting(TARGET["target"], needed=True)
    arguments: Mapping[str, Any] | None = field(default=None, hash=False, metadata={"key": TARGET["arguments"]})
    divides: bool = setting(
        flag(True).about("whether it divides by the gradient's size, as Adam does and SGD does not")
    )

    def __post_init__(self) -> None:
        if not isinstance(self.divides, bool):
            raise ConfigError(f"trainer.divides={self.divides!r}; accepted: true or false")
        kind = load(self.target, "trainer.target")
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            remedy = "for one of your own on rsl_cli.Optimizer use trainer=target"
            raise ConfigError(f"trainer.target={self.target}: is no torch.optim.Optimizer; {remedy}")
        plain_arguments("trainer", self.arguments or {})
        closure = inspect.signature(kind.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ConfigError(f"trainer.target={self.target}: its step needs a closure; use one that takes a gradient")
        _check(self)

    @property
    def adaptive(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the setting says."""
        return self.divides

    @property
    def over(self) -> Callable[[LiftedNetwork], Steps]:
        """Its steps over a network of one replica."""
        return lambda network: _Steps(self, network)

    def made(self, parameters: Sequence[tuple[Tensor, float]]) -> torch.optim.Optimizer:
        """The optimiser over parameters, each with its factor of the learning rate."""
        groups = [{"params": [parameter], "lr": factor} for parameter, factor in parameters]
        try:
            return load(self.target, "trainer.target")(groups, **(self.arguments or {}))
        except RAISED as error:
            text = f"{type(error).__name__}: {first_line(error)}"
            raise ConfigError(f"trainer.target={self.target}: {text}; mend trainer.arguments") from error

    def direction(self, gradient: Tensor, theta: Tensor, states: Sequence[Tensor], numbers: Sequence[Tensor]) -> Tensor:
        """Not known: torch moves the parameters."""
        raise NotImplementedError("steps of torch's optimisers are taken by `over`")


class _Steps:
    """See `Steps`."""

    def __init__(self, optimizer: TorchOptimizer, network: LiftedNetwork) -> None:
        assert network.replica_count == 1
        self._parameters = dict(network.named_parameters())
        factors = network.learning_rate_scales(adaptive=optimizer.adaptive)
        self._factors = [factors[name] for name in self._parameters]
        self._optimizer = optimizer.made(list(zip(self._parameters.values(), self._factors, strict=True)))

    def prepare(self, rate: float) -> None:
        """See `Steps`."""
        for group, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor

    def step(self) -> None:
        """See `Steps`."""
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """See `Steps`."""
        named = {f"parameter/{name}": parameter.detach() for name, parameter in self._parameters.items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            named |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
        return named

    def counts(self) -> dict[str, Tensor]:
        """See `Steps`; among the states."""
        return {}

    def resume(self, arrays: Mapping[str, Tensor]) -> None:
        """See `Steps`."""
        for name, parameter in self._parameters.items():
            saved = arrays[f"parameter/{name}"]
            if saved.shape != parameter.shape:
                raise KeyError(name)
            parameter.data.copy_(saved)
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in arrays.items():
            kind, index, key = name.split("/", 2) if name.startswith("optimizer/") else ("", "", "")
            if kind:
                states.setdefault(int(index), {})[key] = value.clone()
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": states})


def _check(optimizer: TorchOptimizer) -> None:
    """Whether it goes on from what it keeps, on half the sum of squares."""
    what = f"trainer.target={optimizer.target}"

    def steps(count: int, start: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        parameter = nn.Parameter(start.clone())
        made = optimizer.made([(parameter, 0.01)])
        if state is not None:
            made.load_state_dict(state)
        for _ in range(count):
            parameter.grad = parameter.detach().clone()
            made.step()
        return parameter.detach(), made.state_dict()

    start = torch.linspace(-1, 1, 6)
    with failing(what):
        whole, _ = steps(6, start)
        half, state = steps(3, start)
        tensors = all(isinstance(v, Tensor | int | float) for one in state["state"].values() for v in one.values())
        resumed, _ = steps(3, half, state)
    if not tensors:
        raise ConfigError(f"{what}: keeps more than tensors, which no checkpoint holds; use another")
    if not bool(torch.isfinite(whole).all()) or not torch.equal(whole, resumed):
        raise ConfigError(f"{what}: goes on otherwise when resumed from its state; use another")


def own_optimizer(target: str, arguments: Mapping[str, Any] | None = None) -> Optimizer:
    """An optimiser of the user's own, a subclass of `Optimizer`."""
    return make_optimizer(target, plain_arguments("trainer", arguments or {}))
