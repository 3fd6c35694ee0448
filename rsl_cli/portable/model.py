"""A trained lift of a base graph, as plain torch: nothing else is needed, but safetensors to read the file.

Beside this file lie ``graph.json`` (the base graph: what each vertex and edge computes) and ``model.safetensors``
(weights, biases, and for every base edge which copy reads which); in ``data.json`` how raw columns became the numbers
that it was trained on. Use it so::

    from model import LiftedModel
    model = LiftedModel.load(".")        # the folder
    outputs = model(x)                   # (N, *input_shape) -> (N, outputs), as it was trained
    values = model.predict(table)        # raw columns -> values in the target's units, or names of classes

Activations are (N, copies, *space). An edge gathers its sources, multiplies each by its own weight, and adds the
results up per target: y_b = sigma( sum over edges a -> b of M(w_ab, y_a) ).
"""

import json
import math
from functools import reduce
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
        data: as in ``data.json``, which only ``predict`` needs.
    """

    def __init__(self, graph: dict[str, Any], tensors: dict[str, Tensor], data: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.graph, self.data = graph, data
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    @classmethod
    def load(cls, folder: str | Path = ".") -> "LiftedModel":
        """Read the model that lies in a folder."""
        from safetensors.torch import load_file

        home, known = Path(folder), Path(folder) / "data.json"
        graph = json.loads((home / "graph.json").read_text(encoding="utf-8"))
        data = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else None
        return cls(graph, load_file(home / "model.safetensors"), data)

    def predict(self, table: Any) -> Any:
        """From raw inputs to values in the target's units; see `predict`."""
        return predict(self, self.data, table)

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
        z = COMBINES[vertex["combine"]["name"]](vertex["combine"], slots)
        if vertex["bias"] is not None:
            z = z + getattr(self, vertex["bias"])
        if vertex["norm"]:
            z = normalise(vertex["norm"], z)
        y = ACTIVATIONS[vertex["activation"]](z)
        return POOLS[vertex["pool"]["name"]](vertex["pool"], y) if vertex["pool"] else y


def predict(model: Any, data: dict[str, Any] | None, table: Any) -> Any:
    """Ask a model in the units of the data that it was trained on.

    Args:
        model: from (N, *input_shape) to (N, outputs).
        data: as in ``data.json``.
        table: columns by name, such as a pandas DataFrame or a dictionary of lists, others than the features being
            ignored; or, where no feature is text, an array (N, features) or of N samples.

    Returns:
        Numbers: a float64 tensor (N, outputs) in the target's units. Classes: a list of N labels.

    Raises:
        ValueError: a column or a value is missing, or a category is new; or nothing is known about the data.
    """
    if data is None:
        raise ValueError("nothing is known about the data of this model; call it with the inputs it was trained on")
    with torch.no_grad():
        out = model(encode(data, table).reshape(-1, *data["input_shape"])).double()
    if data["classes"]:
        return [data["classes"][index] for index in out.argmax(1).tolist()]
    if data["target_scale"] is None:
        return out
    scale, shift = (torch.tensor(data[key], dtype=torch.float64) for key in ("target_scale", "target_shift"))
    return out * scale + shift


def encode(data: dict[str, Any], table: Any) -> Tensor:
    """Raw inputs as they were for training: float64 (N, *shape)."""
    columns = data["columns"]
    if columns and hasattr(table, "keys"):
        absent = [column["name"] for column in columns if column["name"] not in table]
        if absent:
            raise ValueError(f"the table lacks column {absent[0]!r}; needed: {[column['name'] for column in columns]}")
        x = torch.cat([_column(column, list(table[column["name"]])) for column in columns], 1)
    elif any(column["categories"] for column in columns):
        raise ValueError(f"some columns are text: give a table with columns {[column['name'] for column in columns]}")
    else:
        x = torch.as_tensor(table, dtype=torch.float64)
    x = x.reshape(-1, *data["shape"])
    fill, shift, scale = (
        None if data[key] is None else torch.tensor(data[key], dtype=torch.float64)
        for key in ("fill", "shift", "scale")
    )
    if fill is not None:
        x = torch.where(x.isnan(), fill, x)
    if not x.isfinite().all():
        row, *place = (~x.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"row {row + 1}, input {[1 + at for at in place]} is missing or infinite; fill it in")
    if shift is not None and scale is not None:
        x = torch.where(scale == 0, 0.0, (x - shift) / torch.where(scale == 0, 1.0, scale))
    return x


def _column(column: dict[str, Any], cells: list[Any]) -> Tensor:
    """One column's inputs, (N, 1) or (N, categories)."""
    if not column["categories"]:
        numbers = [math.nan if cell is None else float(cell) for cell in cells]
        return torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)
    known = {category: index for index, category in enumerate(column["categories"])}
    new = [(row, cell) for row, cell in enumerate(cells, start=1) if cell not in known]
    if new:
        raise ValueError(f"column {column['name']!r}, row {new[0][0]}: {new[0][1]!r} is none of {list(known)}")
    codes = torch.tensor([known[cell] for cell in cells])
    return functional.one_hot(codes, len(known)).double() if column["onehot"] else codes.double().unsqueeze(1)


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


def add(kind: dict[str, Any], slots: dict[str, Tensor]) -> Tensor:
    """The sum of the slots."""
    return reduce(torch.add, slots.values())


def multiply(kind: dict[str, Any], slots: dict[str, Tensor]) -> Tensor:
    """The product of the slots, number by number."""
    return reduce(torch.mul, slots.values())


def attend(kind: dict[str, Any], slots: dict[str, Tensor]) -> Tensor:
    """Attend with q (N, heads, T, d) to k (N, heads, S, d) and v."""
    q, k, v = slots["q"], slots["k"], slots["v"]
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    if kind["causal"]:
        later = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return scores.softmax(3) @ v


COMBINES = {"sum": add, "product": multiply, "attention": attend}


def normalise(kind: dict[str, Any], z: Tensor) -> Tensor:
    """Divide by the root mean square, of the last axis or of the whole copy."""
    axes = (-1,) if kind["over"] == "last" else tuple(range(2, z.dim()))
    if kind["centred"]:
        z = z - z.mean(axes, keepdim=True)
    return z * (z.square().mean(axes, keepdim=True) + kind["eps"]).rsqrt()


POOLS = {
    "max": lambda kind, y: functional.max_pool2d(y, kind["size"]),
    "avg": lambda kind, y: functional.avg_pool2d(y, kind["size"]),
    "global_avg": lambda kind, y: y.mean((2, 3)),
    "token_avg": lambda kind, y: y.mean(2),
}
"""Squares of maps, whole maps, or tokens."""
