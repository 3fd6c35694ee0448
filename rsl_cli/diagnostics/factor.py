"""A network's linearised least squares problem, chunk by chunk of samples, and its factorisation.

A = J / sqrt(N) and b = r / sqrt(N), with J the (N k) x P Jacobian of the outputs and r the residuals, so that
1/2 |b - A u|^2 is the loss that is foretold of the step -u. Targets down to a millionth of the loss need a mu of some
1e-15 of the largest eigenvalue of A^T A, which only an orthogonal factorisation of A itself resolves: the eigenvalues
of A^T A, as formed in float64, are known to some 1e-15 of the largest, its singular values squared to 1e-31.
"""

import copy
import math
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs
from torch import Tensor
from torch.func import functional_call, jvp

from rsl_cli.diagnostics.secular import ROUNDING, Spectrum
from rsl_cli.errors import ConfigError, DataError
from rsl_cli.kernels.serial import norm
from rsl_cli.linearization import sample_jacobians
from rsl_cli.network import LiftedNetwork

Array = NDArray[np.float64]

(_tpqrt,) = get_lapack_funcs(("tpqrt",), dtype=np.float64)

_CHUNK_BYTES = 24 << 20
"""Of a Jacobian's chunk: long enough for fast products, short enough to be kept by the allocator."""
_QR_BLOCK = 32
_LARGE = 2500
"""The lesser of P and N k from which 100 pairs of products were quicker than a factorisation, at N = 8192."""
_MOST_HELD = 1 << 27
"""Numbers of a Jacobian held whole."""


class LinearProblem:
    """The least squares problem of a network at its present parameters, which may change afterwards.

    Computed in float64, whatever the network's type.

    Args:
        network: of one replica.
        x: (N, *input_shape).
        y: (N, k), or (N,) for one output.

    Raises:
        ConfigError: a union of several replicas.
        DataError: no samples, or targets of another shape than the outputs.
    """

    def __init__(self, network: LiftedNetwork, x: Tensor, y: Tensor) -> None:
        if network.replica_count != 1:
            raise ConfigError(f"a union of {network.replica_count} replicas has no one kappa; take them one by one")
        outputs = network.lift.base.output_size
        y = y[:, None] if y.dim() == 1 else y
        if len(x) == 0 or tuple(y.shape) != (len(x), outputs):
            raise DataError(f"{len(x)} inputs, targets of shape {tuple(y.shape)}; accepted: (N, {outputs}), N from 1")
        self.network = copy.deepcopy(network).double()
        device = next(self.network.parameters()).device
        self.x, self.y = (tensor.detach().to(device, torch.float64) for tensor in (x, y))
        self.samples = len(x)
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self.equations = self.samples * outputs
        self.residuals = self._residuals()
        self.loss = 0.5 * norm(self.residuals) ** 2

    @property
    def is_large(self) -> bool:
        """Whether a factorisation takes longer than products, or more memory than there may be."""
        held = self.equations * self.parameters if self.equations < self.parameters else 0
        return min(self.equations, self.parameters) > _LARGE or held > _MOST_HELD

    @property
    def resolution(self) -> float:
        """What rounding of the outputs lets one tell from a loss of 0, with room for the factorisation's own."""
        targets = 0.5 * norm(self.y) ** 2 / self.samples
        return (8 * ROUNDING) ** 2 * (self.loss + targets)

    def times(self, step: Tensor) -> Tensor:
        """A u, (N k,), from u (P,), without forming A."""
        parameters = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        sizes = [parameter.numel() for parameter in parameters.values()]
        shaped = zip(parameters.items(), step.split(sizes), strict=True)
        tangents = {name: part.view_as(parameter) for (name, parameter), part in shaped}

        def along(x: Tensor) -> Tensor:
            return jvp(lambda values: functional_call(self.network, values, (x,)), (parameters,), (tangents,))[1]

        parts = [along(self.x[part]).detach() for part in self.chunks()]
        return torch.cat(parts).reshape(-1) / math.sqrt(self.samples)

    def transposed(self, cotangent: Tensor) -> Tensor:
        """A^T c, (P,), from c (N k,), without forming A."""
        parameters = list(self.network.parameters())
        total = cotangent.new_zeros(self.parameters)
        for part in self.chunks():
            out = self.network(self.x[part])
            along = cotangent.view(self.samples, -1)[part]
            gradients = torch.autograd.grad(out, parameters, along, materialize_grads=True)
            total += torch.cat([gradient.reshape(-1) for gradient in gradients])
        return total / math.sqrt(self.samples)

    def spectrum(self) -> Spectrum:
        """Of A and the residuals."""
        matrix, vectors, beyond = self.factor(self.residuals[:, None])
        return Spectrum.of(matrix, vectors[:, 0], float(beyond[0]))

    def factor(self, vectors: Tensor) -> tuple[Array, Array, Array]:
        """Triangularise A orthogonally, which is held whole only if it is wider than high.

        Args:
            vectors: (N k, c), of the order of the residuals.

        Returns:
            A matrix (m, P) of A's singular values and right singular vectors; the vectors in the same basis, (m, c);
            and the norms (c,) of what is left of them where that matrix would have rows of zeros.
        """
        return self._wide(vectors) if self.equations < self.parameters else self._tall(vectors)

    def chunks(self) -> list[slice]:
        """Samples whose Jacobian of one output fits a few megabytes."""
        size = min(max(256, _CHUNK_BYTES // (8 * self.parameters)), 4096)
        return [slice(i, min(i + size, self.samples)) for i in range(0, self.samples, size)]

    def _tall(self, vectors: Tensor) -> tuple[Array, Array, Array]:
        n, wide = self.parameters, self.parameters + vectors.shape[1]
        triangle = np.zeros((wide, wide), order="F")
        for jacobian, beside in self._blocks(vectors):
            rows = np.empty((len(beside), wide), order="F")
            rows[:, :n], rows[:, n:] = jacobian.T, beside
            # The factor stacked on new rows, triangularised in place without touching the zeros.
            triangle = _tpqrt(0, min(_QR_BLOCK, wide), triangle, rows, overwrite_a=1, overwrite_b=1)[0]
        triangle /= math.sqrt(self.samples)
        beyond = np.linalg.norm(triangle[n:, n:], axis=0)
        return triangle[:n, :n], triangle[:n, n:], beyond

    def _wide(self, vectors: Tensor) -> tuple[Array, Array, Array]:
        rows, beside = [], []
        for jacobian, part in self._blocks(vectors):
            rows.append(jacobian.T.copy())
            beside.append(part)
        factor = cast(Array, np.linalg.qr(np.concatenate(rows).T, mode="r"))
        scale = math.sqrt(self.samples)
        return factor.T / scale, np.concatenate(beside) / scale, np.zeros(vectors.shape[1])

    def _blocks(self, vectors: Tensor) -> Iterator[tuple[Array, Array]]:
        """For each chunk of samples and each output, J^T (P, n) and vectors (n, c), neither divided by root N."""
        scaled = vectors.reshape(self.samples, -1, vectors.shape[1]) * math.sqrt(self.samples)
        for part in self.chunks():
            _, matrices = sample_jacobians(self.network, self.x[part])
            for output, matrix in enumerate(matrices):
                yield matrix.cpu().numpy(), scaled[part, output].cpu().numpy()

    def _residuals(self) -> Tensor:
        with torch.no_grad():
            parts = [self.network(self.x[part]) - self.y[part] for part in self.chunks()]
        return torch.cat(parts).reshape(-1) / math.sqrt(self.samples)
