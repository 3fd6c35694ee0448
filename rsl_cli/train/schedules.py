"""Schedules of the learning rate by name."""

from collections.abc import Callable, Mapping

import numpy as np

_WARM, _DECAY = 0.05, 0.2

SCHEDULES: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "constant": lambda step, _: np.ones(len(step)),
    "cosine": lambda step, total: 0.5 * (1 + np.cos(np.pi * step / total)),
    "linear": lambda step, total: 1 - step / total,
    "wsd": lambda step, total: np.minimum(1, np.minimum((step + 1) / total / _WARM, (1 - step / total) / _DECAY)),
}
"""Factors on the learning rate by steps taken, (K,), and steps in all: constant; falling to zero as a half cosine, or
linearly; or warmed up over 5 % of the steps, stable, and falling linearly to zero over the last 20 % (Hu et al., 2024,
*MiniCPM*)."""
