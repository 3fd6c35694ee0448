"""First-order optimisers: each is one object with its settings, its state and its step, number by number.

A step is written once, for flat tensors, and serves both engines: all parameters of a union at once under autograd, and
each replica by itself where circuits compute its gradient. To add one, write a frozen dataclass with `direction`, its
keys as fields and its defaults in `usual`, and a file of ``conf/trainer`` that says the same.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from rsl_cli.claims import check_answer, check_claims
from rsl_cli.contracts import failing
from rsl_cli.errors import RAISED, ConfigError, RslError, first_line, one_of
from rsl_cli.graph import BaseGraph
from rsl_cli.kernels.circuit import BETA1, BETA2, EPSILON
from rsl_cli.keys import Keys, flag
from rsl_cli.lift import sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.parts import setting, settings_of
from rsl_cli.registry import Registry, is_ours
from rsl_cli.train.settings import DECAY, first_order_keys, share


@runtime_checkable
class Steps(Protocol):
    """What moves the parameters of one network."""

    def prepare(self, rate: float) -> None:
        """Say the learning rate of the next step, before its factors."""
        ...

    def step(self) -> None:
        """Take the step that the parameters' gradients ask for."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What to go on from: ``parameter/NAME`` and ``optimizer/INDEX/KEY``; may be views."""
        ...

    def counts(self) -> dict[str, Tensor]:
        """Steps taken, where they matter and `tensors` does not tell."""
        ...

    def resume(self, arrays: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` and `counts` once were."""
        ...


class Optimizer(ABC):
    """One optimiser; its fields are its settings."""

    usual: ClassVar[Mapping[str, Any]] = {}
    """Of one that ships, defaults of its trainer's keys, where they are others than most optimisers'; None for a key
    that it has not. One of a user's own has the defaults of ``trainer=target``."""
    counted: ClassVar[bool] = False
    """Whether its step depends on how many there were."""
    adaptive: ClassVar[bool] = False
    """Whether it divides by the gradient's size, which decides how learning rates go with the degree."""
    euler: ClassVar[bool] = False
    """Whether its steps of a constant rate are Euler's on the gradient flow, so that trajectories have a time."""

    momentum: float = 0.0
    """Share of the last step that the next one keeps; loops of circuits' own take it beside their states."""
    follows_flow: ClassVar[bool] = False
    """Whether its steps of a constant rate on all samples follow the gradient flow, as gradient descent's do, so that
    losses fall by steps as the flow's by time."""

    def __init_subclass__(cls, **options: Any) -> None:
        """What is said of a parent's steps is not said of a child's own."""
        super().__init_subclass__(**options)
        if vars(cls).keys() & {"direction", "states", "rate", "numbers"}:
            for claim in {"in_circuits", "euler", "follows_flow"} - vars(cls).keys():
                setattr(cls, claim, False)

    @property
    def states(self) -> tuple[str, ...]:
        """What it keeps for each number, all zero at first, by the names that checkpoints have."""
        return ()

    @property
    def in_circuits(self) -> bool:
        """Whether circuits have loops of their own for it."""
        return False

    @property
    def over(self) -> Callable[[LiftedNetwork], Steps] | None:
        """Its own steps over a network of one replica, by autograd; None: it acts on each number by itself."""
        return None

    def rate(self, rate: float, step: int) -> float:
        """The learning rate of a step, counted from 1, before its factors."""
        return rate

    def numbers(self, step: int) -> tuple[float, ...]:
        """What else depends on the step's number."""
        return ()

    @abstractmethod
    def direction(self, gradient: Tensor, theta: Tensor, states: Sequence[Tensor], numbers: Sequence[Tensor]) -> Tensor:
        """What the learning rate multiplies, for theta to be moved against; states change in place.

        Args:
            gradient: (P,); may be overwritten.
            theta: (P,), to be read only.
            states: (P,) each, of `states`.
            numbers: tensors of no axes, of `numbers`. No other number that changes may be used: steps are recorded.
        """

    def trial(self, count: int = 6) -> Tensor:
        """Where so many steps of rate 0.01 lead on half the sum of squares."""
        if self.over is None:
            return _steps(self, _START, 0, count)[0]
        network = _smallest()
        steps = self.over(network)
        for _ in range(count):
            for parameter in network.parameters():
                parameter.grad = parameter.detach().clone()
            steps.prepare(0.01)
            steps.step()
        return parameters_to_vector(network.parameters()).detach()


OPTIMIZERS: Registry[Callable[..., Optimizer]] = Registry("trainer.name")
"""Every optimiser by name."""


@OPTIMIZERS.add("adam")
@dataclass(frozen=True)
class Adam(Optimizer):
    """Kingma and Ba (2015), with torch's defaults."""

    usual: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.03}
    counted, adaptive = True, True

    @property
    def states(self) -> tuple[str, ...]:
        """Both moments."""
        return "exp_avg", "exp_avg_sq"

    @property
    def in_circuits(self) -> bool:
        """They have."""
        return True

    def rate(self, rate: float, step: int) -> float:
        """With the first moment's correction."""
        return rate / (1 - BETA1**step)

    def numbers(self, step: int) -> tuple[float, ...]:
        """The root of the second moment's correction."""
        return (math.sqrt(1 - BETA2**step),)

    def direction(self, gradient: Tensor, theta: Tensor, states: Sequence[Tensor], numbers: Sequence[Tensor]) -> Tensor:
        """First moment over the root of the second."""
        first, second = states
        first.lerp_(gradient, 1 - BETA1)
        second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        return first / second.sqrt().div_(numbers[0]).add_(EPSILON)


@OPTIMIZERS.add("sgd")
@dataclass(frozen=True)
class Sgd(Optimizer):
    """Gradient descent with momentum.

    Args:
        momentum: in [0, 1).
        nesterov: look ahead by one step of it (Sutskever et al., 2013), as torch does.
    """

    momentum: float = setting(share(0.9).about("share of the last step that the next one keeps"))
    nesterov: bool = setting(flag(False).of("changed").about("look ahead by one step of the momentum"))
    usual: ClassVar[Mapping[str, Any]] = {"steps": 4000, "batch_size": 128, "log_per_decade": 8}
    follows_flow = True

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ConfigError("trainer.nesterov=True looks ahead along a momentum; set trainer.momentum above 0")

    @property
    def states(self) -> tuple[str, ...]:
        """The velocity, if there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    @property
    def in_circuits(self) -> bool:
        """They have, without looking ahead."""
        return not self.nesterov

    def direction(self, gradient: Tensor, theta: Tensor, states: Sequence[Tensor], numbers: Sequence[Tensor]) -> Tensor:
        """Velocity, or the gradient where there is no momentum."""
        if not self.momentum:
            return gradient
        velocity = states[0].mul_(self.momentum).add_(gradient)
        return gradient + self.momentum * velocity if self.nesterov else velocity


@OPTIMIZERS.add("gd")
@dataclass(frozen=True)
class Gd(Sgd):
    """Gradient descent on all samples: Euler's method on the gradient flow."""

    momentum: float = 0.0
    nesterov: bool = False
    usual: ClassVar[Mapping[str, Any]] = {
        "steps": 1000,
        "learning_rate": 0.05,
        "batch_size": None,
        "schedule": "constant",
        "log_per_decade": 8,
    }
    euler: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.momentum or self.nesterov:
            raise ConfigError(f"trainer.momentum={self.momentum}: only sgd has momentum; leave it out")


@OPTIMIZERS.add("adamw")
@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decay of the weights beside it (Loshchilov and Hutter, 2019).

    Args:
        weight_decay: share of a weight that a step of unit rate takes away.
        beta1: of the first moment.
        beta2: of the second moment.
    """

    weight_decay: float = setting(DECAY)
    beta1: float = setting(share(BETA1).about("of the first moment"))
    beta2: float = setting(share(BETA2).about("of the second moment"))
    usual: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.03}
    counted, adaptive = True, True

    @property
    def states(self) -> tuple[str, ...]:
        """Both moments."""
        return "exp_avg", "exp_avg_sq"

    def numbers(self, step: int) -> tuple[float, ...]:
        """Both corrections, the second's root."""
        return 1 - self.beta1**step, math.sqrt(1 - self.beta2**step)

    def direction(self, gradient: Tensor, theta: Tensor, states: Sequence[Tensor], numbers: Sequence[Tensor]) -> Tensor:
        """Adam's, and the decay."""
        first, second = states
        first.lerp_(gradient, 1 - self.beta1)
        second.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        root = second.sqrt().div_(numbers[1]).add_(EPSILON)
        return (first / root).div_(numbers[0]).add_(theta, alpha=self.weight_decay)


@OPTIMIZERS.add("lion")
@dataclass(frozen=True)
class Lion(Optimizer):
    """The sign of a momentum (Chen et al., 2023, *Symbolic discovery of optimization algorithms*).

    Args:
        weight_decay: share of a weight that a step of unit rate takes away.
        beta1: of the momentum that a step goes by.
        beta2: of the momentum that is kept.
    """

    weight_decay: float = setting(replace(DECAY, default=0.0))
    beta1: float = setting(share(0.9).about("of the momentum that a step goes by"))
    beta2: float = setting(share(0.99).about("of the momentum that is kept"))
    usual: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.003}
    adaptive = True

    @property
    def states(self) -> tuple[str, ...]:
        """The momentum."""
        return ("exp_avg",)

    def direction(self, gradient: Tensor, theta: Tensor, states: Sequence[Tensor], numbers: Sequence[Tensor]) -> Tensor:
        """Plus or minus one, and the decay."""
        (kept,) = states
        sign = torch.lerp(kept, gradient, 1 - self.beta1).sign_()
        kept.lerp_(gradient, 1 - self.beta2)
        return sign.add_(theta, alpha=self.weight_decay)


def trainer_keys(part: Callable[..., Optimizer]) -> Keys:
    """Every key of a trainer by an optimiser, beside its name, with its defaults."""
    return first_order_keys(settings_of(part), getattr(part, "usual", {}))


def make_optimizer(name: str, options: Mapping[str, Any]) -> Optimizer:
    """Make an optimiser from its name and its own settings, a user's being held to its contract.

    Returns:
        One that has taken no step.

    Raises:
        ConfigError: an unknown name or key, a value out of range, or what a user's breaks, in one line.
        RslError: as the optimiser's class raises it.
    """
    factory = OPTIMIZERS.find(name)
    foreign = f"trainer {name}: is no rsl_cli.Optimizer; name a class of such, or use trainer=torch"
    if isinstance(factory, type) and not issubclass(factory, Optimizer):
        raise ConfigError(foreign)
    try:
        accepted = inspect.signature(factory).parameters
        own = not is_ours(factory)
        for key in options:
            if key not in accepted and own and not accepted:
                raise ConfigError(f"trainer {name} has no key {key!r}; fields of a @dataclass are an optimiser's keys")
            if key not in accepted:
                raise ConfigError(one_of("trainer key", key, accepted))
        for key, parameter in accepted.items():
            if parameter.default is parameter.empty and options.get(key) is None:
                if own and not isinstance(factory, type):
                    raise ConfigError(f"{foreign}; it is a function of {', '.join(accepted)}")
                remedy = f"trainer.arguments={{{key}: ...}}" if own else f"trainer.{key}=mine.part"
                raise ConfigError(f"trainer.{key} is not set; trainer {name} needs it, e.g. {remedy}")
        made = factory(**options)
    except RslError:
        raise
    except RAISED as error:
        raise ConfigError(f"trainer {name}: {type(error).__name__}: {first_line(error)}; mend its arguments") from error
    if not isinstance(made, Optimizer):
        raise ConfigError(foreign)
    if OPTIMIZERS.origin(name, options) is not None:
        check_optimizer(made)
    return made


def check_optimizer(optimizer: Optimizer) -> None:
    """The contract of an optimiser: number by number, finite, one answer, its whole state in `states`, descent.

    Args:
        optimizer: the optimiser.

    Raises:
        ConfigError: what it breaks, in one line.
    """
    if not isinstance(optimizer, Optimizer):
        shown = optimizer.__name__ if isinstance(optimizer, type) else repr(optimizer)
        raise ConfigError(f"optimiser {shown}; accepted: an object of a rsl_cli.Optimizer, e.g. Own(), no class")
    what = f"optimiser {type(optimizer).__name__}"
    check_claims(optimizer, Optimizer, what)
    start = _START
    if len({*optimizer.states}) < len(optimizer.states):
        raise ConfigError(f"{what}: states={optimizer.states}; accepted: names that differ, as checkpoints know them")
    if optimizer.over is not None:
        with failing(what):
            steps = optimizer.over(_smallest())
        check_answer("over", steps, Steps, what)
        return
    with failing(what):
        whole, states = _steps(optimizer, start, 0, 6)
        half, kept = _steps(optimizer, start, 0, 3)
        resumed, _ = _steps(optimizer, half, 3, 6, kept)
    for key, state in zip(optimizer.states, states, strict=True):
        if state.shape != start.shape:
            raise ConfigError(f"{what}: state {key} has shape {tuple(state.shape)}; it must keep {tuple(start.shape)}")
    if whole.shape != start.shape or not bool(torch.isfinite(whole).all()):
        raise ConfigError(f"{what}: its direction is not {_ONE_EACH}")
    with failing(what):
        # Once more from the start: what it keeps in itself shows, before it is asked for other numbers of them.
        again, _ = _steps(optimizer, start, 0, 6)
    if not torch.equal(again, whole):
        raise ConfigError(f"{what}: {_FORGETFUL}")
    with failing(what):
        part, _ = _steps(optimizer, start[:2], 0, 6)
        far, _ = _steps(optimizer, start, 0, 200)
        of_step = [[*map(float, optimizer.numbers(step)), optimizer.rate(1.0, step)] for step in (1, 9)]
    if not optimizer.counted and of_step[0] != of_step[1]:
        raise ConfigError(f"{what}: its step depends on how many there were; say so, counted = True")
    if optimizer.euler and not torch.allclose(whole, 0.99**6 * start):
        raise ConfigError(f"{what}: says euler=True, and its steps are not those of gradient descent; leave it out")
    own = not is_ours(type(optimizer).direction)
    if optimizer.follows_flow and own and not _follows_flow(optimizer):
        raise ConfigError(f"{what}: says follows_flow=True, and its steps lead elsewhere than the flow; leave it out")
    if optimizer.in_circuits and own:
        raise ConfigError(f"{what}: says in_circuits=True, and circuits have no loops for it; leave it out")
    if not torch.equal(resumed, whole):
        raise ConfigError(f"{what}: {_FORGETFUL}")
    if not torch.allclose(part, whole[:2], rtol=1e-12, atol=1e-15):
        raise ConfigError(f"{what}: moves a number otherwise beside others; each must be by itself")
    if not float(far.square().sum()) < float(start.square().sum()):
        raise ConfigError(f"{what}: does not descend on half the sum of squares; theta is moved against its direction")


_START = torch.linspace(-1, 1, 6, dtype=torch.float64)
_ONE_EACH = "one finite number for each parameter"
_FORGETFUL = "goes on otherwise when resumed; keep all its state in `states`, none in itself"


def _smallest() -> LiftedNetwork:
    """Two weights."""
    vertices, edge = {"x": {"kind": "input"}, "y": {"kind": "output"}}, {"source": "x", "target": "y", "map": "linear"}
    base = BaseGraph.from_config({"vertices": vertices, "edges": [edge]}, input_shape=(2,), output_size=1)
    return LiftedNetwork(sample_lift(base, 1, 0))


def _follows_flow(optimizer: Optimizer) -> bool:
    """Whether of two numbers on a bowl the one curved twice as much falls twice as fast, as along the flow."""
    end, _ = _steps(optimizer, torch.ones(2, dtype=torch.float64), 0, 2000, curvature=torch.tensor([0.02, 0.04]))
    slow, fast = end.log().tolist()
    return math.isclose(fast, 2 * slow, rel_tol=0.1)


def _steps(
    optimizer: Optimizer,
    start: Tensor,
    first: int,
    last: int,
    kept: Sequence[Tensor] = (),
    curvature: Tensor | float = 1.0,
) -> tuple[Tensor, list[Tensor]]:
    """Steps of rate 0.01 on half the sum of squares, each number's curved as said."""
    theta = start.clone()
    states = [state.clone() for state in kept] or [torch.zeros_like(theta) for _ in optimizer.states]
    for step in range(first + 1, last + 1):
        numbers = [torch.tensor(number, dtype=theta.dtype) for number in optimizer.numbers(step)]
        move = optimizer.direction(curvature * theta, theta, states, numbers)
        if not isinstance(move, Tensor) or move.shape != theta.shape:
            raise ConfigError(f"optimiser {type(optimizer).__name__}: its direction is not {_ONE_EACH}")
        theta = theta - optimizer.rate(0.01, step) * move
    return theta, states
