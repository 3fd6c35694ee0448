"""The noise between the seeds of a lift: variances that borrow strength from the other lifts, as far as they agree.

Five seeds know their variance badly. Where the lifts' variances scatter no more than samples of one variance do, they
are pooled; where they scatter more, each is drawn to the common one only so far as the scatter allows, and as many
degrees of freedom are gained (Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004). Where what
is shared is worth less than a lift's own seeds, as where noise grows along the lifts, each variance stands for itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import root_scalar
from scipy.special import digamma, polygamma

Array = NDArray[np.float64]

LEAST_GROUPS = 4
"""From fewer variances one cannot say how variances differ: each stands for itself."""


@dataclass(frozen=True)
class Noise:
    """``variance`` of a log loss and its degrees of ``freedom``, both (groups,); no sum has more than ``total``."""

    variance: Array
    freedom: Array
    total: float


def noise(groups: Sequence[Array]) -> Noise:
    """Estimate the variance of each group.

    Args:
        groups: log losses of the seeds of each lift, two at least. Where some are infinite, or all the same, nothing is
            borrowed.

    Returns:
        The moderated variances: NaN for a group with an infinite value.
    """
    own = np.array([group.var(ddof=1) if np.isfinite(group).all() else math.nan for group in groups])
    freedom = np.array([group.size - 1.0 for group in groups])
    known = np.isfinite(own)
    total = float(freedom[known].sum())
    if known.sum() < LEAST_GROUPS or not (own[known] > 0).all():
        return Noise(own, freedom, total)
    prior, borrowed = _prior(own[known], freedom[known])
    if borrowed < freedom[known].mean():
        return Noise(own, freedom, total)
    if math.isinf(borrowed):
        return Noise(np.where(known, prior, math.nan), np.full(own.shape, total), total)
    return Noise((borrowed * prior + freedom * own) / (borrowed + freedom), borrowed + freedom, total)


def _prior(own: Array, freedom: Array) -> tuple[float, float]:
    """The variance that the groups share and the degrees of freedom it is worth, infinite if it fits all."""
    shift = digamma(freedom / 2) - np.log(freedom / 2)
    logs = np.log(own) - shift
    excess = float(logs.var(ddof=1) - polygamma(1, freedom / 2).mean())
    if excess <= 0:
        return float((freedom * own).sum() / freedom.sum()), math.inf
    # The trigamma function falls from infinity to 0: half the worth is where it is as large as the excess scatter.
    half = root_scalar(lambda x: math.log(polygamma(1, math.exp(x)) / excess), bracket=(-20.0, 40.0), method="brentq")
    worth = 2 * math.exp(half.root)
    return float(np.exp(logs.mean() + digamma(worth / 2) - math.log(worth / 2))), worth
