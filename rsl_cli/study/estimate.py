"""What a lift's arithmetic costs before it is made, by expected numbers of edges, and how long the flow takes by it."""

from rsl_cli.circuits import has_circuits
from rsl_cli.data import Dataset
from rsl_cli.graph import BaseGraph, EdgeLifting, slot_key
from rsl_cli.lift import expected_parameters, fibre_sizes, mean_in_degree
from rsl_cli.train.flow import Flow
from rsl_cli.train.implicit import PER_MATRIX
from rsl_cli.train.trainer import Sizes

_GRADIENTS = {"classification": 3000, "regression": 1000}
"""Of a run from t = 0 to 1e5, or to a training loss of 1e-3 by classes of digits, products included, where larger lifts
take fewer and small ones of convolutions twice as many; by numbers 500 to 1,000, with a matrix for every few."""
_RATES = {True: 2e10, False: 4e9}
"""Floating-point operations of a gradient a second on one core in float64: by circuits, and by autograd."""
_AFFORDABLE = 600.0
"""Seconds a run may be expected to take by the flow, where nobody asked for it by name."""


def flops(base: BaseGraph, degree: int, lifting: EdgeLifting) -> float:
    """Floating-point operations of a forward pass for one sample: two for each multiply-add of all kept edges.

    Attention's products are counted; activations, norms, pooling and sums are not. A training step is three times it.

    Returns:
        A number from 0, by expected numbers of edges.
    """
    fibres, total = fibre_sizes(base, degree), 0.0
    for edge in base.edges:
        kept = fibres[edge.target] * mean_in_degree(edge, base, lifting, fibres)
        total += kept * edge.map.flops(base.space(edge.source))
    for vertex in base.vertices:
        slots = {slot_key(e): e.map.output_space(base.space(e.source)) for e in base.in_edges(vertex.name)}
        total += fibres[vertex.name] * vertex.combine.flops(slots)
    return total


def affordable_flow(base: BaseGraph, degree: int, lifting: EdgeLifting, data: Dataset) -> tuple[bool, str]:
    """Whether a run by the flow is affordable, and the estimate behind it in one line.

    It depends on the study alone, not on the machine: who trains decides the numbers.

    Args:
        base: the base graph.
        degree: the largest lift degree.
        lifting: of edges that name none.
        data: the dataset.

    Returns:
        Whether it is, and the line.
    """
    sizes, gradients = sizes_of(base, degree, lifting, data), _GRADIENTS[data.task]
    numbers = f"P = {sizes.parameters:,}, N = {sizes.samples:,}, K = {sizes.outputs}"
    seconds = Flow().effort(sizes) / PER_MATRIX * gradients / _RATES[has_circuits(base, "standard")]
    shown = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} minutes"
    estimate = f"about {shown} of one core for a run of lift {degree} ({numbers}, {gradients:,} gradients)"
    if seconds <= _AFFORDABLE:
        return True, f"trainer=auto: the gradient flow, {estimate}"
    return False, f"trainer=auto: Adam, since the flow takes {estimate}; trainer=flow takes it all the same"


def sizes_of(base: BaseGraph, degree: int, lifting: EdgeLifting, data: Dataset) -> Sizes:
    """Of a run, by expected numbers of edges; arguments as of `affordable_flow`."""
    parameters, per_sample = expected_parameters(base, degree, lifting), 3 * flops(base, degree, lifting)
    return Sizes(parameters, data.samples, data.outputs, data.task == "classification", per_sample)
