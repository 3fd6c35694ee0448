"""Losses of a sample: each is one object with its value, its curvature, its unit and what it needs of the data.

A user's loss is a function of outputs (M, k) and targets that returns (M,), or a subclass of `Loss`; derivatives come
from autograd, and curvature too, unless the class has its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from rsl_cli.claims import check_answer, check_claims
from rsl_cli.contracts import check_derivatives, failing
from rsl_cli.data import Dataset
from rsl_cli.errors import RAISED, ConfigError, first_line
from rsl_cli.registry import Origin, Registry, plain_arguments


class Loss(ABC):
    """One loss."""

    name: str = ""
    unit: str = ""
    """What its numbers are, for people: on the axes of a report."""
    labels: ClassVar[bool] = False
    """Whether targets are class numbers (M,); else numbers (M, k), classes becoming one-hot."""
    quadratic: ClassVar[bool] = False
    """Whether it is half the squared norm of the residual, of which kappa is defined."""
    circuit: ClassVar[Literal["squared", "softmax"] | None] = None
    """How circuits compute it, or not at all."""

    def __init_subclass__(cls, **options: Any) -> None:
        """What is said of a parent's values is not said of a child's own."""
        super().__init_subclass__(**options)
        if "values" in vars(cls):
            cls.quadratic, cls.circuit = vars(cls).get("quadratic", False), vars(cls).get("circuit")

    @abstractmethod
    def values(self, out: Float[Tensor, "samples outputs"], y: Tensor) -> Float[Tensor, " samples"]:
        """The loss of each sample."""

    def losses(self, out: Float[Tensor, "replicas samples outputs"], y: Tensor) -> Float[Tensor, "replicas samples"]:
        """The loss of each sample of each replica; targets are (N, ...), shared, or (R, N, ...)."""
        targets = y.expand(*out.shape[:2], *([] if self.labels else [-1]))
        return self.values(out.flatten(0, 1), targets.flatten(0, 1)).view(out.shape[:2])

    def root(self, out: Float[Tensor, "samples outputs"], y: Tensor) -> Float[Tensor, "columns samples outputs"]:
        """Columns (k, M, k) of a square root of the loss's Hessian by the outputs, of its positive part."""
        with torch.enable_grad():
            at = out.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.values(at, y).sum(), at, create_graph=True)
            if not slope.requires_grad:  # Linear almost everywhere.
                return torch.zeros(at.shape[1], *at.shape, dtype=at.dtype, device=at.device)
            rows = [
                torch.autograd.grad(slope[:, i].sum(), at, retain_graph=True, materialize_grads=True)[0]
                for i in range(at.shape[1])
            ]
        sizes, directions = torch.linalg.eigh(torch.stack(rows, 1))
        return (directions * sizes.clamp(min=0).sqrt()[:, None]).permute(2, 0, 1)

    def resolution(self, y: Tensor, dtype: torch.dtype) -> float:
        """The smallest loss that rounding of the outputs lets one tell from zero.

        Args:
            y: all targets.
            dtype: of the outputs.

        Returns:
            A loss from 0.
        """
        epsilon = torch.finfo(dtype).eps
        if self.labels:
            return epsilon
        exact, rounded = (self.values(y.double() * factor, y.double()).mean() for factor in (1.0, 1.0 + epsilon))
        return max(abs(float(rounded - exact)), 1e-300)


LOSSES: Registry[Any] = Registry("loss")
"""Every loss by name: a `Loss`, a class of such, or a function."""


class Squared(Loss):
    """Half the squared norm of the residual."""

    name, unit, circuit, quadratic = "mse", "half mean squared error", "squared", True

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """1/2 |out - y|^2."""
        return 0.5 * (out - y).square().sum(-1)

    def losses(self, out: Tensor, y: Tensor) -> Tensor:
        """Without a copy of the outputs."""
        return self.values(out, y)

    def root(self, out: Tensor, y: Tensor) -> Tensor:
        """The identity."""
        return torch.eye(out.shape[1], dtype=out.dtype, device=out.device)[:, None].expand(-1, *out.shape)

    def resolution(self, y: Tensor, dtype: torch.dtype) -> float:
        """What remains of outputs that are the targets, rounded."""
        return 0.5 * torch.finfo(dtype).eps ** 2 * max(float(y.double().square().sum(-1).mean()), 1e-300)


class CrossEntropy(Loss):
    """The negative log-likelihood of the class under a softmax of the outputs."""

    name, unit, labels, circuit = "cross_entropy", "cross-entropy, nats", True, "softmax"

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """-log softmax(out)[y]."""
        return functional.cross_entropy(out, y, reduction="none")

    def root(self, out: Tensor, y: Tensor) -> Tensor:
        """S = diag(sqrt p) - p sqrt(p)^T, a square root of diag(p) - p p^T (Schraudolph, 2002)."""
        p = out.softmax(-1)
        root = p.sqrt()
        return torch.diag_embed(root).permute(1, 0, 2) - root.T[:, :, None] * p


LOSSES.add("mse")(Squared())
LOSSES.add("cross_entropy")(CrossEntropy())


class FunctionLoss(Loss):
    """A function of outputs (M, k) and targets (M, k) as a loss.

    Args:
        function: returns (M,).
        name: what to call it.
        arguments: by keyword.
    """

    def __init__(self, function: Callable[..., Any], name: str, arguments: Mapping[str, Any] | None = None) -> None:
        self.function, self.name, self.arguments = function, name, dict(arguments or {})

    def values(self, out: Tensor, y: Tensor) -> Tensor:
        """What the function returns."""
        return self.function(out, y, **self.arguments)


def read_loss(config: object) -> tuple[Loss, Origin | None]:
    """Make a loss from its name, ``package.attribute``, or ``{target: package.attribute, arguments: {...}}``.

    Returns:
        The loss, and where it comes from if it is a user's.

    Raises:
        ConfigError: an unknown name or key, arguments it does not take, or a user's loss that breaks its contract.
    """
    given = dict(config) if isinstance(config, Mapping) else {"target": config}
    target, arguments = given.pop("target", None), plain_arguments("loss", given.pop("arguments", None) or {})
    if given:
        raise ConfigError(f"loss has no key {next(iter(given))!r}; accepted: target, arguments")
    found = LOSSES.find(target)
    origin = LOSSES.origin(str(target), arguments)
    if origin is None:
        if arguments or not isinstance(found, Loss):
            raise ConfigError(f"loss '{target}' has no arguments; leave them out")
        return found, None
    try:
        made = found(**arguments) if isinstance(found, type) else found
    except RAISED as error:
        raise ConfigError(f"loss {target}: {type(error).__name__}: {first_line(error)}; mend its arguments") from error
    if not isinstance(made, Loss):
        if isinstance(found, type) or not callable(made):
            raise ConfigError(f"loss {target}: is no rsl_cli.Loss; name a function of outputs and targets, or such")
        made = FunctionLoss(made, str(target), arguments)
    check_claims(made, Loss, f"loss {target}")
    made.name = made.name or str(target)
    check_loss(made)
    return made, origin


def check_fit(loss: Loss, data: Dataset) -> None:
    """Refuse a loss of classes on a dataset of numbers.

    Raises:
        ConfigError: so it is.
    """
    if loss.labels and data.task != "classification":
        raise ConfigError(f"loss={loss.name} needs classes, dataset '{data.name}' has numbers; use loss=mse")


def is_straight(loss: Loss, outputs: int = 3) -> bool:
    """Whether a loss has no second derivative by the outputs but where its first one jumps."""
    return not bool(loss.root(*drawn_outputs(loss, outputs)).any())


def drawn_outputs(loss: Loss, outputs: int = 3) -> tuple[Tensor, Tensor]:
    """Some samples' outputs (M, k), and targets."""
    out, y = torch.as_tensor(np.random.default_rng(0).standard_normal((2, 7, outputs)))
    return out, y.argmax(1) if loss.labels else y


def check_loss(loss: Loss | Callable[..., Any], outputs: int = 3) -> None:
    """The contract of a loss: one finite number a sample, from that sample alone; true derivative and curvature.

    Args:
        loss: a loss, or a function of outputs and targets.
        outputs: k.

    Raises:
        ConfigError: what it breaks, in one line.
    """
    if isinstance(loss, type) or not (isinstance(loss, Loss) or callable(loss)):
        shown = loss.__name__ if isinstance(loss, type) else repr(loss)
        raise ConfigError(f"loss {shown}; accepted: a function of outputs and targets, or an object of a rsl_cli.Loss")
    if not isinstance(loss, Loss):
        loss = FunctionLoss(loss, getattr(loss, "__qualname__", type(loss).__name__))
    check_claims(loss, Loss, f"loss {type(loss).__name__}")
    what, (out, y) = f"loss {loss.name or type(loss).__name__}", drawn_outputs(loss, outputs)
    samples = len(out)
    with failing(what):
        values, again, alone = loss.values(out, y), loss.values(out, y), loss.values(out[:1], y[:1])
    if not isinstance(values, Tensor) or values.shape != (samples,):
        shown = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise ConfigError(f"{what}: gives {shown} from {samples} samples; wanted one number each, ({samples},)")
    if not bool(torch.isfinite(values).all()):
        raise ConfigError(f"{what}: gives numbers that are not finite from ordinary ones")
    if not torch.equal(values, again):
        raise ConfigError(f"{what}: gives other numbers when asked again; it must not depend on chance")
    if values.dtype != out.dtype:
        raise ConfigError(f"{what}: gives {values.dtype} from {out.dtype}; it must keep the type")
    if not torch.allclose(alone, values[:1], rtol=1e-9, atol=1e-12):
        raise ConfigError(f"{what}: gives a sample another loss beside others; each must be for itself")
    with failing(what):
        replicas, resolution = loss.losses(out[None], y), loss.resolution(y, out.dtype)
    if not isinstance(replicas, Tensor) or replicas.shape != (1, samples) or not torch.allclose(replicas[0], values):
        raise ConfigError(f"{what}: its losses of replicas are not its values; leave them out")
    check_answer("resolution", resolution, Loss.resolution, what)
    for claim, said in (("quadratic", loss.quadratic or None), ("circuit", loss.circuit)):
        same = next((one for one in (Squared(), CrossEntropy()) if getattr(one, claim) == said), None)
        fits = same is not None and same.labels == loss.labels and torch.allclose(same.values(out, y), values)
        if said is not None and not fits:
            raise ConfigError(f"{what}: says {claim}={said!r}, and its values are not such a loss's; leave it out")
    check_derivatives(what, lambda out: loss.values(out, y), [out], forward=False)
    with failing(what):
        own, true = (part.permute(1, 2, 0) for part in (loss.root(out, y), Loss.root(loss, out, y)))
    if own.shape != true.shape or not torch.allclose(own @ own.mT, true @ true.mT, rtol=1e-6, atol=1e-9):
        raise ConfigError(f"{what}: its root is no square root of its second derivative by the outputs")
