"""Slow, obvious truths in float64: what the fast code is compared with."""

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from rsl_cli.graph import Edge
from rsl_cli.lift import Lift
from rsl_cli.maps import Conv, Linear, TokenLinear
from rsl_cli.network import LiftedNetwork
from rsl_cli.vertex_maps import Mean, Pool

ACTIVATIONS = {
    "identity": lambda z: z,
    "tanh": lambda z: 2 / (1 + (-2 * z).exp()) - 1,
    "relu": lambda z: torch.where(z > 0, z, torch.zeros_like(z)),
    "leaky_relu": lambda z: torch.where(z > 0, z, 0.01 * z),
    "gelu": lambda z: z * (1 + torch.erf(z / 2**0.5)) / 2,
    "silu": lambda z: z / (1 + (-z).exp()),
    "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
    "sin": lambda z: z.sin(),
}


def forward(network: LiftedNetwork, x: Tensor) -> Tensor:
    """The outputs (R, N, outputs) by a loop over replicas, copies and kept edges."""
    base, lift = network.lift.base, network.lift
    own = x.dim() == len(base.input_shape) + 2
    edge_start, copy_start = dict.fromkeys(base.edges, 0), {vertex.name: 0 for vertex in base.vertices}
    outputs = []
    for r, replica in enumerate(lift.replicas):
        values = _replica(network, replica, x[r] if own else x, edge_start, copy_start)
        outputs.append(torch.stack([values[base.output.name, o] for o in range(base.output_size)], dim=1))
        for edge, (sources, _) in zip(base.edges, replica.lists, strict=True):
            edge_start[edge] += len(sources)
        for vertex in base.vertices:
            copy_start[vertex.name] += replica.fibres[vertex.name]
    return torch.stack(outputs)


def _replica(network, replica: Lift, x: Tensor, edge_start, copy_start) -> dict[tuple[str, int], Tensor]:
    base, power = replica.base, {"standard": 0, "ntk": 0.5, "mup": 1}[network.parametrization]
    values = {(base.input.name, 0): x}
    for vertex in base.vertices:
        if vertex.kind == "input":
            continue
        for copy in range(replica.fibres[vertex.name]):
            slots = []
            for edge, (sources, targets) in zip(base.edges, replica.lists, strict=True):
                if edge.target != vertex.name:
                    continue
                # Zero, yet a function of x, so that a vertex without in-edges has derivatives too.
                nothing, space = 0 * x.flatten(1).sum(1), edge.map.output_space(base.space(edge.source))
                total = nothing.reshape(-1, *[1] * len(space)).expand(-1, *space)
                for k in range(len(sources)):
                    if targets[k] == copy:
                        weight = None
                        if edge.map_name != "identity":
                            weight = getattr(network, network._names[f"weight {edge.name}"])[edge_start[edge] + k]
                        total = total + _act(edge, weight, values[edge.source, int(sources[k])])
                if vertex.kind == "output" and edge.source != base.input.name:
                    total = total * replica.degree**-power
                slots.append((edge.slot, total))
            z = slots[0][1]
            if vertex.combine.name == "attention":
                named = dict(slots)
                # The one of torch's implementations that has derivatives in forward mode.
                with sdpa_kernel(SDPBackend.MATH):
                    z = functional.scaled_dot_product_attention(
                        *(named[name][:, None] for name in "qkv"), is_causal=vertex.combine.causal
                    )[:, 0]
            else:
                for _, slot in slots[1:]:
                    z = z * slot if vertex.combine.name == "product" else z + slot
            if vertex.bias:
                z = z + getattr(network, network._names[f"bias {vertex.name}"])[copy_start[vertex.name] + copy]
            if vertex.norm is not None:
                axes = z.shape[1:] if vertex.norm.over == "all" else z.shape[-1:]
                norm = functional.layer_norm if vertex.norm.centred else functional.rms_norm
                z = norm(z, tuple(axes), eps=vertex.norm.eps)
            values[vertex.name, copy] = _pool(vertex.pool, ACTIVATIONS[vertex.activation](z))
    return values


def _pool(pool, y: Tensor) -> Tensor:
    if isinstance(pool, Mean):
        return y.mean(1) if pool.tokens else functional.adaptive_avg_pool2d(y[:, None], 1).flatten()
    if isinstance(pool, Pool):
        return (functional.max_pool2d if pool.largest else functional.avg_pool2d)(y[:, None], pool.size)[:, 0]
    return y


def _act(edge: Edge, weight: Tensor | None, y: Tensor) -> Tensor:
    if weight is None:
        return y
    if isinstance(edge.map, Conv):
        image = y if y.dim() == 4 else y[:, None]
        image = functional.interpolate(image, scale_factor=edge.map.upsample) if edge.map.upsample > 1 else image
        kernel = weight if weight.dim() == 3 else weight[None]
        return functional.conv2d(image, kernel[None], stride=edge.map.stride, padding=edge.map.kernel // 2)[:, 0]
    if isinstance(edge.map, TokenLinear):
        if edge.map.patch is not None:
            image = y if y.dim() == 4 else y[:, None]
            y = functional.unfold(image, edge.map.patch, stride=edge.map.patch).transpose(1, 2)
        return y @ weight.T if edge.map.over == "features" else weight @ y
    if isinstance(edge.map, Linear) and (edge.map.flatten or edge.map.token):
        y = y[:, edge.map.token - 1] if edge.map.token else y.flatten(1)
    if weight.dim() == 0:
        return y * weight
    if y.dim() == 1:
        return y[:, None] * weight
    return (y[:, None, :] * weight).sum(-1) if weight.dim() == 2 else (y * weight).sum(-1)


def sparse_matrix(weight: Tensor, pattern) -> Tensor:
    """The dense matrix of a pattern, one number at a time; numbers at one place add up."""
    stencil = pattern.stencil
    matrix = torch.zeros(pattern.rows * stencil.rows, pattern.columns * stencil.columns, dtype=weight.dtype)
    for row in range(pattern.rows):
        for k in range(pattern.indptr[row], pattern.indptr[row + 1]):
            for r, c, tap in zip(stencil.row, stencil.column, stencil.tap, strict=True):
                here = torch.zeros_like(matrix)
                here[row * stencil.rows + r, pattern.indices[k] * stencil.columns + c] = 1
                matrix = matrix + weight[k * stencil.taps + tap] * here
    return matrix
