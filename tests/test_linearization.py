"""The sample-wise Jacobian against torch.func, row by row, on every shipped base graph."""

import numpy as np
import pytest
import torch
from problems import group
from torch.func import functional_call, jacrev

from rsl_cli.errors import ConfigError
from rsl_cli.graph import BaseGraph
from rsl_cli.kernels import cpu, reference
from rsl_cli.kernels.pattern import Pattern
from rsl_cli.kernels.stencil import Stencil
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.linearization import sample_jacobians
from rsl_cli.network import LiftedNetwork


def network_of(base: str, lifting="random", parametrization="standard", outputs=2, **changes):
    graph = BaseGraph.from_config(group("base", base, **changes), input_shape=(3,), output_size=outputs)
    lift = sample_lift(graph, 5, 1, {"kind": lifting, "in_degree": 3} if lifting != "dense" else {"kind": "dense"})
    network = LiftedNetwork(lift, 1, torch.float64, parametrization)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return network


def explicit(network, x):
    """(P, N, k) by reverse mode through the whole network."""
    parameters = dict(network.named_parameters())
    jacobian = jacrev(lambda p: functional_call(network, p, (x,)))(parameters)
    return torch.cat([jacobian[name].flatten(2).permute(2, 0, 1) for name in parameters])


@pytest.mark.parametrize("base", ["shallow", "mlp", "deep", "skip", "gated"])
@pytest.mark.parametrize("lifting", ["random", "dense"])
@pytest.mark.parametrize("parametrization", ["standard", "mup"])
def test_it_is_the_jacobian(base, lifting, parametrization):
    network = network_of(base, lifting, parametrization)
    x = torch.randn(7, 3, dtype=torch.float64)
    out, matrices = sample_jacobians(network, x)
    expected = explicit(network, x)
    torch.testing.assert_close(out, network(x).detach())
    for output, matrix in enumerate(matrices):
        torch.testing.assert_close(matrix, expected[:, :, output], rtol=1e-12, atol=1e-13)


def test_a_probe_mixes_outputs_sample_by_sample():
    network, x = network_of("mlp"), torch.randn(4, 3, dtype=torch.float64)
    mix = torch.randn(1, 4, 2, dtype=torch.float64)
    matrix = next(sample_jacobians(network, x, lambda out: mix)[1])
    torch.testing.assert_close(matrix, torch.einsum("pnk,nk->pn", explicit(network, x), mix[0]))


def test_wide_edges_sum_over_their_width():
    g, x = torch.randn(2 * 3, 5, dtype=torch.float64), torch.randn(4 * 3, 5, dtype=torch.float64)
    rows, columns = np.array([0, 1, 1]), np.array([3, 0, 2])
    pattern = Pattern.from_edges(rows, columns, 2, 4, stencil=Stencil.matrix(1, 1, width=3))
    fast, slow = torch.empty(3, 5, dtype=torch.float64), torch.empty(3, 5, dtype=torch.float64)
    cpu.entry_products(pattern, 0.5, g, x, fast)
    reference.entry_products(pattern, 0.5, g, x, slow)
    expected = torch.stack(
        [
            0.5 * sum(g[3 * r + w] * x[3 * c + w] for w in range(3))
            for r, c in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(fast, expected)
    torch.testing.assert_close(slow, expected)


def test_a_union_is_refused():
    one = network_of("mlp").lift
    union = LiftedNetwork(disjoint_union([one, one]))
    with pytest.raises(ConfigError, match="union of 2 replicas has no one Jacobian"):
        sample_jacobians(union, torch.zeros(1, 3))
