"""Limits of training curves, trends of intervals, laws, exact shares: arrays in, frozen dataclasses out.

It knows no run, no file and no figure. Losses of seeds by lifts come as arrays (seeds, lifts), or lift by lift.
"""

from rsl_cli.stats.contrast import Contrast, contrast, interval_contrast, slope_weights
from rsl_cli.stats.joint import JointLaw, fit_joint_law
from rsl_cli.stats.laws import Law, LocalExponent, Shape, fit_law, local_exponents, straight
from rsl_cli.stats.limit import Limit, at_saddle, tail_limit
from rsl_cli.stats.noise import Noise, noise
from rsl_cli.stats.success import (
    ZERO_LOSS,
    LearningNumber,
    Proportion,
    approximation_number,
    clopper_pearson,
    cochran_armitage,
    epsilon_grid,
    learning_number,
    seeds_to_decide,
    success_table,
)
from rsl_cli.stats.trend import MIN_LIFTS, MIN_SEEDS, Trend, interval_trend, quantile

__all__ = [
    "MIN_LIFTS",
    "MIN_SEEDS",
    "ZERO_LOSS",
    "Contrast",
    "JointLaw",
    "Law",
    "LearningNumber",
    "Limit",
    "LocalExponent",
    "Noise",
    "Proportion",
    "Shape",
    "Trend",
    "approximation_number",
    "at_saddle",
    "clopper_pearson",
    "cochran_armitage",
    "contrast",
    "epsilon_grid",
    "fit_joint_law",
    "fit_law",
    "interval_contrast",
    "interval_trend",
    "learning_number",
    "local_exponents",
    "noise",
    "quantile",
    "seeds_to_decide",
    "slope_weights",
    "straight",
    "success_table",
    "tail_limit",
]
