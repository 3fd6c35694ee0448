"""Weighted sums of mean log losses over lifts, tested with the noise between the seeds and nothing else.

A law's residuals say how wrong the law is, not how noisy the losses are, so they never enter here. Where a loss is
known to an interval only, each contrast is taken at the end of the interval that speaks against what it would prove.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from rsl_cli.stats.noise import noise

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Contrast:
    """``value`` = sum of weight times mean, its standard error and Satterthwaite's degrees of freedom."""

    value: float
    error: float
    freedom: float

    def below(self, bound: float) -> float:
        """One-sided p-value of the claim that the contrast lies below a bound."""
        if math.isnan(self.value) or self.value == math.inf:
            return 1.0
        if self.value == -math.inf:
            return 0.0
        if self.error == 0:
            return float(self.value >= bound)
        return float(stdtr(self.freedom, (self.value - bound) / self.error))

    def above(self, bound: float) -> float:
        """One-sided p-value of the claim that the contrast lies above a bound."""
        return Contrast(-self.value, self.error, self.freedom).below(-bound)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided t interval."""
        reach = float(stdtrit(self.freedom, (1 + confidence) / 2)) * self.error
        return self.value - reach, self.value + reach


def contrast(groups: Sequence[Array], weights: Array) -> Contrast:
    """Sum weighted means of groups, with moderated variances and Satterthwaite's degrees of freedom.

    Args:
        groups: log losses of the seeds of each lift, at least two; an infinite one makes the sum infinite or undefined.
            Groups of weight 0 say how much the variances of groups differ.
        weights: (groups,).

    Returns:
        The sum with its variance and degrees of freedom.
    """
    used = weights != 0
    sizes = np.array([group.size for group in groups])[used]
    means = np.array([group.mean() for group, weighs in zip(groups, used, strict=True) if weighs])
    scale = weights[used]
    with np.errstate(invalid="ignore"):
        value = float((scale * means).sum())
    if not math.isfinite(value):
        return Contrast(value, math.nan, math.nan)
    known = noise(groups)
    parts = scale**2 * known.variance[used] / sizes
    total = float(parts.sum())
    if total <= 0:
        return Contrast(value, 0.0, math.inf)
    freedom = total**2 / float((parts**2 / known.freedom[used]).sum())
    return Contrast(value, math.sqrt(total), min(freedom, known.total))


def interval_contrast(low: Sequence[Array], high: Sequence[Array], weights: Array) -> tuple[Contrast, Contrast]:
    """Bound a contrast of values that are known to intervals.

    Args:
        low: lower ends of the log losses of the seeds of each lift; minus infinity where there is none.
        high: upper ends.
        weights: (lifts,).

    Returns:
        A contrast that the true one does not fall below, and one that it does not exceed.
    """
    least = contrast([low[i] if w > 0 else high[i] for i, w in enumerate(weights)], weights)
    most = contrast([low[i] if w < 0 else high[i] for i, w in enumerate(weights)], weights)
    return least, most


def slope_weights(x: Array) -> Array:
    """Weights (lifts,) of the least-squares slope of means over x."""
    centred = x - x.mean()
    return centred / (centred @ centred)
