"""How weights are scaled with the degree: their law at the start, and the readout's multiplier."""

import math

from rsl_cli.graph import BaseGraph, Edge
from rsl_cli.lift import Lift, lifting_of, mean_in_degree
from rsl_cli.readouts import PARAMETRIZATIONS


def weight_std(edge: Edge, lift: Lift, parametrization: str) -> float:
    """Standard deviation of an edge's weights: gain / sqrt(lambda * fan-in of the map), whatever the degree.

    lambda is the mean in-degree where it is bounded, the source's fibre where the edge is dense. A readout whose
    multiplier already shrinks with the degree keeps unit variance.

    Returns:
        A number from 0.
    """
    base = lift.base
    if is_multiplied(edge, base, parametrization):
        return edge.init.gain
    in_degree = lifting_of(edge, base, lift.lifting).in_degree
    # A small fibre is not compensated for: hidden weights have one law at every degree.
    if in_degree is None or base.vertex(edge.source).kind == "input" or base.vertex(edge.target).kind == "output":
        in_degree = mean_in_degree(edge, base, lift.lifting, lift.fibres)
    return edge.init.gain / math.sqrt(in_degree * edge.map.fan_in(base.space(edge.source)))


def weight_multiplier(edge: Edge, lift: Lift, parametrization: str) -> float:
    """What an edge's weights are multiplied by where they act: 1, but for a readout."""
    power = PARAMETRIZATIONS[parametrization] if is_multiplied(edge, lift.base, parametrization) else 0.0
    return float(lift.degree) ** -power


def is_multiplied(edge: Edge, base: BaseGraph, parametrization: str) -> bool:
    """Whether an edge is a readout that a parametrization multiplies."""
    readout = base.vertex(edge.target).kind == "output" and base.vertex(edge.source).kind != "input"
    return readout and PARAMETRIZATIONS[parametrization] > 0
