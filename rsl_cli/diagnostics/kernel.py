"""The empirical tangent kernel of a network: its spectrum, and how much of the targets lies in its leading directions.

With J the (N k) x P Jacobian of the outputs at the training samples, the kernel is K = J J^T / N. Under gradient flow
the residuals r obey r' = -K r: what lies along an eigenvector falls at its eigenvalue's rate, while K stays what it is
(Jacot, Gabriel and Hongler, 2018, *Neural Tangent Kernel*, NeurIPS). How a network was trained is not known here.
"""

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import vector_to_parameters

from rsl_cli.diagnostics.factor import LinearProblem
from rsl_cli.diagnostics.secular import ROUNDING
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.objective import Objective
from rsl_cli.train.trajectory import PathPoint

if TYPE_CHECKING:
    import pandas

Array = NDArray[np.float64]

_COLUMNS = ("place", "time", "step", "loss", "trace", "effective_rank", "alignment", "rank", "eigenvalue", "target")


def kernel_table(network: LiftedNetwork, objective: Objective, path: Sequence[PathPoint]) -> "pandas.DataFrame":
    """Take the spectrum of the tangent kernel at points of training.

    Args:
        network: over the lift, of one replica; left as it is, and its own parameters do not matter.
        objective: data and loss; of classes, the one-hot vectors are the targets.
        path: points with parameters in the order of `torch.nn.utils.parameters_to_vector`, the start first.

    Returns:
        Rows for each point, one for each rank that is a power of two, and for the last:

        - place: ``start`` or ``path``;
        - time, step: of training, time NaN where the trainer has none;
        - loss: half the mean squared distance from the targets, in float64;
        - trace: sum of all eigenvalues;
        - effective_rank: the trace's square over the sum of the squares, 1 for one direction, m for m equal ones;
        - alignment: y^T K y / (|K| |y|^2), Frobenius' norm, 1 where K has the targets' direction and no other;
        - rank, eigenvalue: how manieth, the largest being the first;
        - target: share of |y|^2 in the span of so many leading eigenvectors.

    Raises:
        ConfigError: a union of replicas.
    """
    import pandas

    place_at = copy.deepcopy(network).double()
    y = targets_of(objective)
    rows = []
    for index, point in enumerate(path):
        vector_to_parameters(point.parameters.detach().double().to(objective.x.device), place_at.parameters())
        problem = LinearProblem(place_at, objective.x, y)
        values, shares = spectrum(problem, y)
        trace, squares = float(values.sum()), float(values @ values)
        rank, alignment = (
            (trace**2 / squares, float(values @ shares) / math.sqrt(squares)) if squares else (0.0, math.nan)
        )
        inside = np.cumsum(shares)
        common = ("path" if index else "start", point.time, point.step, problem.loss, trace, rank, alignment)
        rows += [(*common, i + 1, float(values[i]), float(inside[i])) for i in _ranks(len(values))]
    return pandas.DataFrame(rows, columns=pandas.Index(_COLUMNS))


def spectrum(problem: LinearProblem, y: Tensor) -> tuple[Array, Array]:
    """Eigenvalues of K that float64 tells from 0, descending, and the shares of |y|^2 along their eigenvectors, (m,).

    Args:
        problem: of the network at its present parameters.
        y: (N, k), targets.

    Returns:
        m eigenvalues, float64 (m,), and as many shares, whose sum is 1 at most.
    """
    scaled = y.double().reshape(-1, 1) / math.sqrt(len(y))
    matrix, vectors, _ = problem.factor(scaled)
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    kept = values > 8 * ROUNDING * np.linalg.norm(values)
    total = float(scaled.square().sum())
    shares = np.square(left.T @ vectors[:, 0]) / (total or math.nan)
    return values[kept] ** 2, shares[kept]


def targets_of(objective: Objective) -> Tensor:
    """The targets as numbers (N, k), of classes their one-hot vectors."""
    y = objective.y
    if not y.is_floating_point():
        return functional.one_hot(y.long(), objective.outputs).to(torch.float64)
    return y[:, None] if y.dim() == 1 else y


def _ranks(count: int) -> list[int]:
    """The places, from 0, of the ranks 1, 2, 4 and so on, and of the last."""
    ranks = {2**k for k in range(count.bit_length()) if 2**k <= count} | ({count} if count else set())
    return [rank - 1 for rank in sorted(ranks)]
