"""Trend tests, power-law fits and exact intervals: arrays in, frozen dataclasses out.

It knows no run, no file and no figure. Losses of seeds by lifts come as arrays (seeds, lifts).
"""

from rsl_cli.stats.power_law import MATERIAL_FLOOR, ZERO_LOSS, PowerLawFit, fit_power_law
from rsl_cli.stats.success import (
    LearningNumber,
    Proportion,
    approximation_number,
    clopper_pearson,
    epsilon_grid,
    learning_number,
    success_table,
)
from rsl_cli.stats.trend import (
    MIN_LIFTS,
    MIN_SEEDS,
    TailRise,
    Trend,
    complete_blocks,
    page_trend,
    quantile,
    tail_rise,
)

__all__ = [
    "MATERIAL_FLOOR",
    "MIN_LIFTS",
    "MIN_SEEDS",
    "ZERO_LOSS",
    "LearningNumber",
    "PowerLawFit",
    "Proportion",
    "TailRise",
    "Trend",
    "approximation_number",
    "clopper_pearson",
    "complete_blocks",
    "epsilon_grid",
    "fit_power_law",
    "learning_number",
    "page_trend",
    "quantile",
    "success_table",
    "tail_rise",
]
