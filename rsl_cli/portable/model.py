"""A trained lift of a base graph, as plain torch: nothing else is needed, but safetensors to read the file.

Beside this file lie ``graph.json`` (the base graph: what each vertex and edge computes) and ``model.safetensors``
(weights, biases, and for every base edge which copy reads which). Use it so::

    from model import LiftedModel
    model = LiftedModel.load(".")        # the folder
    outputs = model(x)                   # (N, *input_shape) -> (N, outputs)

Activations are (N, copies, *space). An edge gathers its sources, multiplies each by its own weight, and adds the
results up per target: y_b = sigma( sum over edges a -> b of M(w_ab, y_a) ).
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "sin": torch.sin,
    "identity": lambda z: z,
}


class LiftedModel(nn.Module):
    """The network that ``graph.json`` describes.

    Args:
        graph: its content.
        tensors: as in ``model.safetensors``; floating ones become parameters, edge lists buffers.
    """

    def __init__(self, graph: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.graph = graph
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    @classmethod
    def load(cls, folder: str | Path = ".") -> "LiftedModel":
        """Read the model that lies in a folder."""
        from safetensors.torch import load_file

        graph = json.loads((Path(folder) / "graph.json").read_text(encoding="utf-8"))
        return cls(graph, load_file(Path(folder) / "model.safetensors"))

    def forward(self, x: Tensor) -> Tensor:
        """From (N, *input_shape) to (N, outputs)."""
        values: dict[str, Tensor] = {}
        for vertex in self.graph["vertices"]:
            if vertex["kind"] == "input":
                values[vertex["name"]] = x.to(getattr(torch, self.graph["dtype"])).unsqueeze(1)
                continue
            slots: dict[str, Tensor] = {}
            for edge in self.graph["edges"]:
                if edge["target"] == vertex["name"]:
                    slots[edge["slot"]] = self.edge(edge, values[edge["source"]], vertex["copies"])
            values[vertex["name"]] = self.vertex(vertex, slots)
        return values[self.graph["output"]]

    def edge(self, edge: dict[str, Any], y: Tensor, copies: int) -> Tensor:
        """What all copies of an edge's target read through it: (N, copies, *space)."""
        sources, targets = getattr(self, edge["sources"]), getattr(self, edge["targets"])
        weight = None if edge["weight"] is None else getattr(self, edge["weight"])
        kind = edge["map"] | {key: getattr(self, name) for key, name in edge["map"].get("tensors", {}).items()}
        products = MAPS[kind["name"]](kind, weight, y[:, sources])
        total = products.new_zeros(len(y), copies, *products.shape[2:])
        return total.index_add(1, targets, products) * edge["multiplier"]

    def vertex(self, vertex: dict[str, Any], slots: dict[str, Tensor]) -> Tensor:
        """Combine the slots, add the bias, normalise, activate, pool."""
        z = combine(vertex["combine"], slots)
        if vertex["bias"] is not None:
            z = z + getattr(self, vertex["bias"])
        if vertex["norm"]:
            z = normalise(vertex["norm"], z)
        y = ACTIVATIONS[vertex["activation"]](z)
        return pool(vertex["pool"], y) if vertex["pool"] else y


def pass_on(kind: dict[str, Any], weight: Tensor | None, y: Tensor) -> Tensor:
    """What is read, (N, E, *space), as it is."""
    return y


def scale(kind: dict[str, Any], weight: Tensor, y: Tensor) -> Tensor:
    """A number for each edge, (E,), times (N, E, *space)."""
    return y * weight.reshape(len(weight), *[1] * (y.dim() - 2))


def linear(kind: dict[str, Any], weight: Tensor, y: Tensor) -> Tensor:
    """A matrix for each edge, (E, [out,] d), times (N, E, *space), flat, or times one token of it."""
    y = y[:, :, kind["token"] - 1] if kind["token"] else y
    flat = y.flatten(2) if y.dim() > 2 else y.unsqueeze(2)
    if kind["out"] is None:
        return torch.einsum("ei,nei->ne", weight.reshape(len(weight), -1), flat)
    return torch.einsum("eoi,nei->neo", weight.reshape(len(weight), kind["out"], -1), flat)


def token_linear(kind: dict[str, Any], weight: Tensor, y: Tensor) -> Tensor:
    """A matrix for each edge at every token, or at every feature, of (N, E, T, d)."""
    y = patches(y, kind["patch"]) if kind["patch"] else y
    return torch.einsum("eoi,neti->neto" if kind["over"] == "features" else "eot,neti->neoi", weight, y)


def stencil(kind: dict[str, Any], weight: Tensor | None, y: Tensor) -> Tensor:
    """A small sparse matrix for each edge, whose entries (row, column) are the weight's numbers ``tap``."""
    columns = y.flatten(2) if y.dim() > 2 else y.unsqueeze(2)
    columns = columns.unflatten(2, (kind["columns"], -1))
    taps = y.new_ones(y.shape[1], 1) if weight is None else weight.flatten(1)
    read = columns[:, :, kind["column"]] * taps[:, kind["tap"], None]
    made = y.new_zeros(*y.shape[:2], kind["rows"], columns.shape[3]).index_add(2, kind["row"], read)
    return made.reshape(*y.shape[:2], *kind["out"])


def convolve(kind: dict[str, Any], weight: Tensor, y: Tensor) -> Tensor:
    """A kernel for each edge, (E, [C,] k, k), over maps (N, E, [C,] H, W)."""
    edges, size = len(weight), y.shape[-2:]
    maps = y.reshape(len(y), -1, *size)
    if kind["upsample"] > 1:
        maps = maps.repeat_interleave(kind["upsample"], 2).repeat_interleave(kind["upsample"], 3)
    kernels = weight.reshape(edges, -1, kind["kernel"], kind["kernel"])
    return functional.conv2d(maps, kernels, None, kind["stride"], kind["kernel"] // 2, groups=edges)


MAPS = {
    "identity": pass_on,
    "scale": scale,
    "linear": linear,
    "conv": convolve,
    "token_linear": token_linear,
    "stencil": stencil,
}


def patches(y: Tensor, side: int) -> Tensor:
    """Cut images (N, E, [C,] H, W) into squares: tokens (N, E, T, C * side^2)."""
    images = y.reshape(y.shape[0] * y.shape[1], -1, *y.shape[-2:])
    cut = functional.unfold(images, side, stride=side).transpose(1, 2)
    return cut.reshape(*y.shape[:2], *cut.shape[1:])


def combine(kind: dict[str, Any], slots: dict[str, Tensor]) -> Tensor:
    """Add or multiply the slots, or attend with q (N, heads, T, d) to k (N, heads, S, d) and v."""
    if kind["name"] == "attention":
        q, k, v = slots["q"], slots["k"], slots["v"]
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        if kind["causal"]:
            later = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        return scores.softmax(3) @ v
    first, *others = slots.values()
    for other in others:
        first = first * other if kind["name"] == "product" else first + other
    return first


def normalise(kind: dict[str, Any], z: Tensor) -> Tensor:
    """Divide by the root mean square, of the last axis or of the whole copy."""
    axes = (-1,) if kind["over"] == "last" else tuple(range(2, z.dim()))
    if kind["centred"]:
        z = z - z.mean(axes, keepdim=True)
    return z * (z.square().mean(axes, keepdim=True) + kind["eps"]).rsqrt()


def pool(kind: dict[str, Any], y: Tensor) -> Tensor:
    """Squares of maps, whole maps, or tokens."""
    if kind["name"] == "max":
        return functional.max_pool2d(y, kind["size"])
    if kind["name"] == "avg":
        return functional.avg_pool2d(y, kind["size"])
    return y.mean(2) if kind["name"] == "token_avg" else y.mean((2, 3))
