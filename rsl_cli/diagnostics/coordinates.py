"""The coordinate check: how large the sums at each vertex are, and how far the first steps of training move them.

Where both stay of one size whatever the lift degree, a learning rate found at a small lift serves a large one (Yang et
al., 2022, *Tensor Programs V*, appendix D.1). How the steps are taken is not known here.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rsl_cli.network import LiftedNetwork

if TYPE_CHECKING:
    import pandas


def coordinates_table(
    start: LiftedNetwork, after: Callable[[int], LiftedNetwork], x: Tensor, steps: Sequence[int]
) -> "pandas.DataFrame":
    """Measure the sums that each vertex's activation is given, before and after the first steps.

    Args:
        start: the network as it was drawn, over one lift.
        after: from a number of steps to the network after them.
        x: (N, *input_shape), where to look.
        steps: how many.

    Returns:
        A row for each vertex and number of steps, 0 first:

        - vertex: its name;
        - step: how many;
        - size: root mean square of the sums, over copies, their space and samples;
        - change: that of their difference from the start's.
    """
    import pandas

    before, rows = pre_activations(start, x), []
    for step in (0, *steps):
        now = pre_activations(after(step), x) if step else before
        rows += [(name, step, _size(z), _size(z - before[name])) for name, z in now.items()]
    return pandas.DataFrame(rows, columns=pandas.Index(("vertex", "step", "size", "change")))


def pre_activations(network: LiftedNetwork, x: Tensor) -> dict[str, Tensor]:
    """The sums of every vertex but the input, bias included, (copies, *space, N) in float64, by its name."""
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        network.forward_on_tape(x, {}, sums)
    return {name: z.double().cpu() for name, z in sums.items()}


def _size(z: Tensor) -> float:
    return float(z.square().mean().sqrt())
