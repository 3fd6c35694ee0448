"""A network's outputs as a linear function of its parameters, sample by sample.

A weight acts on one row of activations and adds to one row of pre-activations, so its derivative at a sample is one
product of two numbers: after a forward and a backward pass, the whole Jacobian costs one multiplication an entry.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from rsl_cli.edge_steps import Tape, WeightUse
from rsl_cli.errors import ConfigError
from rsl_cli.kernels.autograd import kernels_for
from rsl_cli.network import LiftedNetwork

Probe = Callable[[Tensor], Tensor]
"""From outputs (N, k) to cotangents (C, N, k), along which the outputs are differentiated."""


def each_output(out: Tensor) -> Tensor:
    """Cotangents (k, N, k) that pick one output after the other."""
    return torch.eye(out.shape[1], dtype=out.dtype, device=out.device)[:, None].expand(-1, *out.shape)


def sample_jacobians(
    network: LiftedNetwork, x: Tensor, probe: Probe = each_output
) -> tuple[Float[Tensor, "samples outputs"], Iterator[Float[Tensor, "parameters samples"]]]:
    """Differentiate outputs by all parameters, for every sample.

    Args:
        network: of one replica.
        x: (N, *input_shape).
        probe: which combinations of the outputs to differentiate, at each sample.

    Returns:
        The outputs, (N, k), and for each cotangent c of the probe the matrix (P, N) of d<c, F(x_i)> / d theta_p, in
        the order of `torch.nn.utils.parameters_to_vector`. The next matrix overwrites the last.

    Raises:
        ConfigError: a union of several replicas.
    """
    if network.replica_count != 1:
        raise ConfigError(f"a union of {network.replica_count} replicas has no one Jacobian; take them one by one")
    tape: Tape = {}
    with torch.enable_grad():
        out = network.forward_on_tape(x, tape)[0]
    return out.detach(), _matrices(network, out, probe(out.detach()), tape)


def _matrices(network: LiftedNetwork, out: Tensor, cotangents: Tensor, tape: Tape) -> Iterator[Tensor]:
    samples = len(out)
    uses = [tape[name] for name, _ in network.named_parameters()]
    places = [use.z if isinstance(use, WeightUse) else use for use in uses]
    sizes = [parameter.numel() for parameter in network.parameters()]
    jacobian = torch.empty(sum(sizes), samples, dtype=out.dtype, device=out.device)
    kernels = kernels_for(out, out)
    for i, cotangent in enumerate(cotangents):
        keep = i + 1 < len(cotangents)
        gradients = torch.autograd.grad(out, places, cotangent, retain_graph=keep, materialize_grads=True)
        for parameter, use, g, rows in zip(network.parameters(), uses, gradients, jacobian.split(sizes), strict=True):
            if not isinstance(use, WeightUse):
                rows.copy_(g.sum_to_size(*parameter.shape, samples).reshape(-1, samples))
                continue
            step = use.step
            factor = 1.0 if step.multipliers is None else step.multipliers[0]
            x = use.x.detach().reshape(-1, samples)
            kernels.entry_products(step.pattern, factor, g.reshape(-1, samples).contiguous(), x, rows)
        yield jacobian
