"""The Gauss-Newton matrix of a loss, and solves with it: the linear algebra below the flow and Levenberg-Marquardt.

For half the mean squared error it is H = E[J_i^T J_i], J_i the Jacobian of the outputs at sample i; for other losses
the generalised H = E[J_i^T S_i S_i^T J_i], S_i S_i^T the loss's Hessian by the outputs, diag(p_i) - p_i p_i^T for
cross-entropy (Schraudolph, 2002, *Fast curvature matrix-vector products*).
Either is the Hessian less the part that goes to zero with the residuals, and positive semi-definite everywhere.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import numpy as np
import torch
from scipy.linalg import eigvalsh, get_blas_funcs, get_lapack_funcs
from torch import Tensor

from rsl_cli.kernels.serial import one_thread
from rsl_cli.linearization import Probe, sample_jacobians
from rsl_cli.network import LiftedNetwork
from rsl_cli.rng import generator
from rsl_cli.train.objective import Objective

_syrk, _symv = get_blas_funcs(("syrk", "symv"), dtype=np.float64)
_potrf, _potrs = get_lapack_funcs(("potrf", "potrs"), dtype=np.float64)

_CHUNK_BYTES = 24 << 20
"""Of a Jacobian's chunk: long enough for a fast product, short enough to be kept by the allocator."""

_ROUNDING = 1e-13
"""Share of the largest eigenvalue below which the sign of one is rounding's."""


_LARGEST = 1 << 14
"""Side of a matrix that is still formed: 2 GiB, and as much again for its factor."""


def is_dear(parameters: int, samples: int, outputs: int, *, classify: bool) -> bool:
    """Whether products with the Hessian serve the flow better than the Gauss-Newton matrix does.

    So they do for classes: their matrix costs as much as hundreds of gradients where few of its eigenvalues matter.
    It depends on nothing that machines differ in, as what is chosen decides how a run's numbers are rounded.

    Args:
        parameters: P.
        samples: N.
        outputs: K.
        classify: whether classes are learned.

    Returns:
        Whether they do.
    """
    return classify or side(parameters, samples, outputs) > _LARGEST


def side(parameters: int, samples: int, outputs: int) -> int:
    """Of the square matrix that a solve factors, at most."""
    return min(parameters, samples * outputs)


class SingularError(ArithmeticError):
    """A solve that rounding, or numbers that are not finite, leave no meaning."""


class Curvature(Protocol):
    """A Gauss-Newton matrix H, (P, P), in whatever form is cheapest."""

    def solve(self, alpha: float, rhs: np.ndarray) -> np.ndarray:
        """(I + alpha H)^-1 rhs for alpha >= 0, float64 (P,); what alpha needs is kept for the next call.

        Raises:
            SingularError: the factorisation fails.
        """
        ...

    def times(self, vector: np.ndarray) -> np.ndarray:
        """H vector, float64 (P,)."""
        ...

    def plus(self, bending: np.ndarray) -> "Curvature":
        """H + a symmetric matrix (P, P), which may make it indefinite."""
        ...

    def least(self) -> float:
        """The least eigenvalue; 0 where rounding hides its sign."""
        ...


Jacobians = Callable[[Tensor, Probe], Iterable[Tensor]]
"""From samples (N, *input_shape) and a probe to each cotangent's (P, N); see `rsl_cli.linearization`."""


def gauss_newton(network: LiftedNetwork, objective: Objective, samples: int | None = None) -> Curvature:
    """`gauss_newton_by` of a network of one replica, float64, at its present parameters."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return gauss_newton_by(lambda x, probe: sample_jacobians(network, x, probe)[1], parameters, objective, samples)


def gauss_newton_by(
    jacobians: Jacobians, parameters: int, objective: Objective, samples: int | None = None
) -> Curvature:
    """Form the Gauss-Newton matrix.

    Args:
        jacobians: the derivatives of a network's outputs.
        parameters: P.
        objective: data and loss.
        samples: how many samples to take the mean over, always the same ones for a number; None: all.

    Returns:
        H in parameter space (P x P) or, where samples times outputs are fewer, through their Jacobian.
    """
    x, y = objective.x, objective.y
    if samples is not None and samples < len(x):
        chosen = generator(0, "train/gauss_newton").permutation(len(x))[:samples]
        places = torch.as_tensor(np.sort(chosen), device=x.device)
        x, y = x[places], y[places]
    size = max(256, _CHUNK_BYTES // (8 * parameters))
    chunks: list[tuple[Tensor, Probe]] = [
        (x[i : i + size], partial(objective.loss.root, y=y[i : i + size])) for i in range(0, len(x), size)
    ]
    if len(x) * objective.outputs < parameters:
        return _SampleSpace(_stacked(jacobians, chunks) / len(x) ** 0.5)
    return _ParameterSpace(_summed(jacobians, chunks, len(x)))


def _summed(jacobians: Jacobians, chunks: list[tuple[Tensor, Probe]], samples: int) -> np.ndarray | Tensor:
    """H, lower triangle."""
    total: np.ndarray | Tensor | None = None
    for x, probe in chunks:
        for jacobian in jacobians(x, probe):
            if jacobian.device.type != "cpu":
                product = jacobian @ jacobian.T / samples
                total = product if total is None else total + product
                continue
            if total is None:
                total = np.zeros((len(jacobian),) * 2, order="F")
            # SciPy's symmetric rank-k update does half the work of a full product, and adds in place.
            matrix = jacobian.numpy().T
            total = _syrk(1 / samples, matrix, beta=1.0, c=total, trans=1, lower=1, overwrite_c=1)
    assert total is not None
    return total


def _stacked(jacobians: Jacobians, chunks: list[tuple[Tensor, Probe]]) -> Tensor:
    """(P, samples * outputs)."""
    return torch.cat([matrix.clone() for x, probe in chunks for matrix in jacobians(x, probe)], 1)


class _ParameterSpace:
    """H itself, factored by Cholesky."""

    def __init__(self, matrix: np.ndarray | Tensor) -> None:
        self._matrix, self._factor = matrix, _Factor(matrix)

    def solve(self, alpha: float, rhs: np.ndarray) -> np.ndarray:
        return self._factor.solve(alpha, rhs)

    def times(self, vector: np.ndarray) -> np.ndarray:
        if isinstance(self._matrix, Tensor):
            return (self._matrix @ torch.as_tensor(vector, device=self._matrix.device)).cpu().numpy()
        return _symv(1.0, self._matrix, vector, lower=1)

    def least(self) -> float:
        matrix = self._matrix.cpu().numpy() if isinstance(self._matrix, Tensor) else self._matrix
        values = eigvalsh(matrix, lower=True)
        return float(values[0]) if abs(values[0]) > _ROUNDING * np.abs(values).max() else 0.0

    def plus(self, bending: np.ndarray) -> Curvature:
        other = torch.as_tensor(bending, device=self._matrix.device) if isinstance(self._matrix, Tensor) else bending
        return _ParameterSpace(self._matrix + other)


class _SampleSpace:
    """H = A A^T by A (P, M) with M < P: Woodbury's identity leaves an M x M solve."""

    def __init__(self, a: Tensor) -> None:
        self._a = a
        self._factor = _Factor(a.T @ a if a.device.type != "cpu" else _syrk(1.0, a.numpy().T, lower=1))

    def solve(self, alpha: float, rhs: np.ndarray) -> np.ndarray:
        inner = self._factor.solve(alpha, self._product(self._a.T, rhs))
        return rhs - alpha * self._product(self._a, inner)

    def times(self, vector: np.ndarray) -> np.ndarray:
        return self._product(self._a, self._product(self._a.T, vector))

    def least(self) -> float:
        return 0.0  # Of rank M < P, and none is negative.

    @staticmethod
    def _product(matrix: Tensor, vector: np.ndarray) -> np.ndarray:
        with one_thread():
            return (matrix @ torch.as_tensor(vector, device=matrix.device)).cpu().numpy()

    def plus(self, bending: np.ndarray) -> Curvature:
        return _ParameterSpace((self._a @ self._a.T).cpu().numpy() + bending)


class _Factor:
    """Cholesky factors of I + alpha M, the last one kept."""

    def __init__(self, matrix: np.ndarray | Tensor) -> None:
        self._matrix = matrix
        self._alpha: float | None = None
        self._lower: np.ndarray | Tensor | None = None

    def solve(self, alpha: float, rhs: np.ndarray) -> np.ndarray:
        if alpha != self._alpha:
            self._alpha, self._lower = None, None  # Two factors at once may be more than memory holds.
            self._lower, self._alpha = self._factored(alpha), alpha
        if isinstance(self._lower, Tensor):
            column = torch.as_tensor(rhs, device=self._lower.device)[:, None]
            return torch.cholesky_solve(column, self._lower)[:, 0].cpu().numpy()
        return _potrs(self._lower, rhs, lower=1)[0]

    def _factored(self, alpha: float) -> np.ndarray | Tensor:
        shifted = self._matrix * alpha
        if isinstance(shifted, Tensor):
            shifted.diagonal().add_(1.0)
            factor, info = torch.linalg.cholesky_ex(shifted)
            failed = bool(info.item() != 0) or not bool(torch.isfinite(factor.diagonal()).all())
        else:
            shifted.ravel("K")[:: len(shifted) + 1] += 1.0
            factor, info = _potrf(shifted, lower=1, clean=0, overwrite_a=1)
            failed = info != 0 or not np.isfinite(factor.ravel("K")[:: len(shifted) + 1]).all()
        if failed:
            raise SingularError(f"I + {alpha:g} H has no Cholesky factor")
        return factor
