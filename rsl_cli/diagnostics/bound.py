"""What a tangent approximation number promises of the gradient flow: the loss curve, the path, the gradient.

Arrays in, arrays out, by NumPy alone, so that a report may draw bounds without loading what trains. Losses are
half mean squared errors, s is the root of the loss L, se the root of the target epsilon, and kappa is the squared
length of the shortest step whose linear prediction has a loss of at most epsilon. All three formulas come from the
inequality ``|grad L| >= 2 s (s - se) / sqrt(kappa)``, which holds wherever kappa(theta, epsilon) <= kappa.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsl_cli.errors import ConfigError

Array = NDArray[np.float64]


def loss_bound(loss0: float, epsilon: float, kappa: float, times: ArrayLike) -> Array:
    """Return the largest loss that the gradient flow can have, while it stays where kappa(theta, epsilon) <= kappa.

    The bound is the square of ``se + (1/(s0 - se)^2 + 4 t/kappa)^(-1/2)``; for epsilon -> 0 and large t it is
    ``kappa / (4 t)``. A flow that meets the inequality with equality attains it for epsilon = 0; for epsilon > 0 the
    closed form has given away a factor of s / (s - se) in the speed, so such a flow falls below it.

    Args:
        loss0: loss at time 0.
        epsilon: target loss of the tangent approximation; at loss0 or above it, nothing is promised.
        kappa: tangent approximation number, in squared units of the parameters; infinite promises nothing.
        times: any shape, flow times.

    Returns:
        Losses of the shape of ``times``, between epsilon and loss0; loss0 where nothing is promised.

    Raises:
        ConfigError: an argument is negative or NaN, or a loss is infinite.
    """
    start, least, number = _loss("loss0", loss0), _loss("epsilon", epsilon), float(_checked("kappa", kappa))
    t = _checked("times", times)
    if least >= start or np.isinf(number):
        return np.full(t.shape, start)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        # At time 0 nothing has been gained, even if kappa is 0.
        root_spent = np.where(t > 0, 2 * np.sqrt(t) / np.sqrt(number), 0.0)
        gap = _gap(start, least)
        bound = (np.sqrt(least) + gap / np.hypot(1.0, gap * root_spent)) ** 2
    return np.where(t > 0, np.clip(bound, least, start), start)


def length_bound(loss0: float, epsilon: float, kappa: float, loss: ArrayLike) -> Array:
    """Return the greatest length of the flow's path from the start down to a loss, ``sqrt(kappa) ln(gap0 / gap)``.

    Here gap0 = s0 - se and gap = s - se. The distance from the start is at most this length.

    Args:
        loss0: loss at the start.
        epsilon: target loss of the tangent approximation.
        kappa: the largest kappa(theta, epsilon) along the path; infinite promises nothing.
        loss: any shape, losses on the path; those above loss0, which no flow reaches, count as loss0.

    Returns:
        Lengths of the shape of ``loss``, in units of the parameters; infinite where loss <= epsilon or nothing is
        promised.

    Raises:
        ConfigError: an argument is negative or NaN, or loss0 or epsilon is infinite.
    """
    start, least, number = _loss("loss0", loss0), _loss("epsilon", epsilon), float(_checked("kappa", kappa))
    reached = np.minimum(_checked("loss", loss), start)
    if least >= start or np.isinf(number):
        return np.full(reached.shape, np.inf)
    above = reached > least
    lengths = np.sqrt(number) * np.log(_gap(start, least) / _gap(np.where(above, reached, start), least))
    return np.where(above, np.maximum(lengths, 0.0), np.inf)


def kl_slack(loss: ArrayLike, grad_norm: ArrayLike, epsilon: ArrayLike, kappa: ArrayLike) -> Array:
    """Return how far the Kurdyka-Lojasiewicz inequality is from failing: it holds where this is 1 or more.

    The slack is ``|grad L| sqrt(kappa) / (2 s (s - se))``. At a point with kappa = kappa(theta, epsilon) a slack below
    1 is no property of the network: it shows an error in the loss, the gradient or kappa.

    Args:
        loss: losses.
        grad_norm: norms of the gradient of the loss.
        epsilon: target losses.
        kappa: tangent approximation numbers of the same points and targets.

    Returns:
        Slacks of the shape that the arguments broadcast to; NaN where there is nothing to check: loss <= epsilon,
        or kappa is infinite or 0.

    Raises:
        ConfigError: an argument is negative or NaN.
    """
    L, gradient, target, number = np.broadcast_arrays(
        _checked("loss", loss),
        _checked("grad_norm", grad_norm),
        _checked("epsilon", epsilon),
        _checked("kappa", kappa),
    )
    checked = (target < L) & (number > 0) & np.isfinite(number) & np.isfinite(L)
    s, gap = np.sqrt(np.where(checked, L, 1.0)), _gap(np.where(checked, L, 1.0), np.where(checked, target, 0.0))
    return np.where(checked, gradient / (2 * s) * (np.sqrt(np.where(checked, number, 0.0)) / gap), np.nan)


def _gap(loss: ArrayLike, epsilon: ArrayLike) -> Array:
    """The difference of the roots of two losses, without the cancellation that close ones would suffer."""
    upper, lower = np.asarray(loss, dtype=np.float64), np.asarray(epsilon, dtype=np.float64)
    return (upper - lower) / (np.sqrt(upper) + np.sqrt(lower))


def _loss(name: str, value: float) -> float:
    number = float(_checked(name, value))
    if np.isinf(number):
        raise ConfigError(f"{name} is {number}, expected a finite loss")
    return number


def _checked(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    wrong = array[~(array >= 0)]
    if wrong.size:
        raise ConfigError(f"{name} is {wrong.flat[0]}, expected numbers >= 0; leave out points that have none")
    return array
