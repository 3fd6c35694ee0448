"""A trained lift of a base graph, as plain torch: needs torch, numpy, and safetensors to read the file.

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
import re
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": lambda z: functional.softplus(z, threshold=40),
    "sin": torch.sin,
    "identity": lambda z: z,
}


TRUTH = {"true": 1.0, "false": 0.0}
CELLS = {
    "missing": ["", "nan", "none", "<na>"],
    "number": r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?i:inf(?:inity)?)",
    "group": "",
    "point": ".",
}
"""How text is read as a number where ``data.json`` does not say."""


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
            z = NORMS[vertex["norm"]["name"]](vertex["norm"], z)
        y = ACTIVATIONS[vertex["activation"]](z)
        return POOLS[vertex["pool"]["name"]](vertex["pool"], y) if vertex["pool"] else y


def predict(model: Any, data: dict[str, Any] | None, table: Any) -> Any:
    """Ask a model in the units of the data that it was trained on.

    Args:
        model: from (N, *input_shape) to (N, outputs).
        data: as in ``data.json``.
        table: columns by name, such as a pandas DataFrame, a row of one, a dictionary of lists or a list of
            dictionaries, others than the features being ignored; or, where no feature is text, an array of N samples
            or of one. Text is read as the cells of the file were: missing ones, decimal commas, thousands, blanks
            around.

    Returns:
        Numbers: a float64 tensor (N, outputs) in the target's units. Classes: a list of N labels.

    Raises:
        ValueError: a column or a value is missing, a cell is no number, a category is new, or an array has another
            shape; or nothing is known about the data.
    """
    if data is None:
        raise ValueError("nothing is known about the data of this model; call it with the inputs it was trained on")
    with torch.no_grad():
        x = encode(data, table)
        out = model(x.reshape(len(x), *data["input_shape"])).double()
    if data["classes"]:
        return [data["classes"][index] for index in out.argmax(1).tolist()]
    if data["target_scale"] is None:
        return out
    scale, shift = (torch.tensor(data[key], dtype=torch.float64) for key in ("target_scale", "target_shift"))
    return out * scale + shift


def encode(data: dict[str, Any], table: Any) -> Tensor:
    """Raw inputs as they were for training: float64 (N, *shape)."""
    columns, names = data["columns"], _names(table)
    if columns and names is not None:
        x = _from_columns(columns, data.get("cells") or CELLS, table, names).reshape(-1, *data["shape"])
    elif any(column["categories"] for column in columns):
        raise ValueError(f"some columns are text: give a table with columns {_listed(columns)}")
    else:
        x = _from_array(data, table)
    if not len(x):
        raise ValueError("the table has no rows; give one or more")
    fill, shift, scale = (
        None if data[key] is None else torch.tensor(data[key], dtype=torch.float64)
        for key in ("fill", "shift", "scale")
    )
    if fill is not None:
        x = torch.where(x.isnan(), fill, x)
    if not x.isfinite().all():
        row, *place = (~x.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"row {row + 1}, {_input(columns, place)} is missing or infinite; fill it in")
    if shift is not None and scale is not None:
        x = torch.where(scale == 0, 0.0, (x - shift) / torch.where(scale == 0, 1.0, scale))
    return x


def _names(table: Any) -> list[Any] | None:
    """Names of a table's columns: of a mapping or a pandas, polars, Arrow or NumPy table, or of rows by name."""
    if isinstance(table, list | tuple):
        return list(table[0].keys()) if table and all(hasattr(row, "keys") for row in table) else None
    if hasattr(table, "keys"):
        return list(table.keys())
    places = (table, "column_names"), (table, "columns"), (getattr(table, "dtype", None), "names")
    found = (getattr(holder, name, None) for holder, name in places)
    return next((list(names) for names in found if names is not None), None)


def _from_columns(columns: list[dict[str, Any]], rules: dict[str, Any], table: Any, names: list[Any]) -> Tensor:
    """The inputs (N, d) of a table with named columns; blanks around a name count for nothing."""
    found = {str(name).strip(): name for name in names} | {name: name for name in names}
    absent = [column["name"] for column in columns if column["name"] not in found]
    if absent:
        raise ValueError(f"the table lacks column {absent[0]!r}; needed: {_listed(columns)}")
    cells = {column["name"]: _cells(table, found[column["name"]]) for column in columns}
    lengths = {name: len(column) for name, column in cells.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
        raise ValueError(f"columns differ in length: {shown}; give as many cells for each")
    return torch.cat([_column(column, cells[column["name"]], rules) for column in columns], 1)


def _cells(table: Any, name: Any) -> list[Any]:
    """A column's cells; a single value is a table of one row."""
    if isinstance(table, list | tuple):
        return [row.get(name) for row in table]
    cells = table[name]
    if isinstance(cells, str) or not hasattr(cells, "__iter__") or getattr(cells, "ndim", 1) == 0:
        return [cells]
    if getattr(cells, "ndim", 1) != 1:
        raise ValueError(f"column {name!r} has shape {tuple(cells.shape)}; give one cell for each row")
    return cells.to_pylist() if hasattr(cells, "to_pylist") else list(cells)


def _from_array(data: dict[str, Any], table: Any) -> Tensor:
    """An array as samples: (N, *shape) from that shape, from (N, d) or from one sample."""
    shape, columns = tuple(data["shape"]), data["columns"]
    try:
        if isinstance(table, Tensor):
            table = table.detach().cpu()
            table = table if table.is_complex() else table.double()
        x = np.asarray(table)
    except ValueError:
        raise ValueError("samples differ in length; give as many numbers for each") from None
    wanted = f"(N, {', '.join(map(str, shape))})"
    wanted += f", the columns {_listed(columns)}" if columns else ""
    if x.ndim == 0 or x.dtype.kind not in "biufOU":
        raise ValueError(f"got {x.dtype if x.ndim else type(table).__name__}; wanted numbers {wanted}")
    size = math.prod(shape)
    if x.shape[1:] not in (shape, (size,)) and x.shape not in (shape, (size,)) and not x.ndim == size == 1:
        raise ValueError(f"got an array of shape {x.shape}; wanted {wanted}")
    if x.dtype.kind in "OU":
        rules, named = data.get("cells") or CELLS, [_input(columns, [at]) for at in range(size)]
        places = (f"row {row}, {name}" for row in range(1, x.size // size + 1) for name in named)
        x = np.array([_number(cell, rules, place) for cell, place in zip(x.ravel().tolist(), places, strict=True)])
    return torch.as_tensor(np.array(x, dtype=np.float64)).reshape(-1, *shape)


def _listed(columns: list[dict[str, Any]]) -> str:
    return _shown([column["name"] for column in columns])


def _shown(names: list[Any]) -> str:
    """The first names, on one line."""
    return f"[{', '.join([*map(repr, names[:10]), *['...'] * (len(names) > 10)])}]"


def _input(columns: list[dict[str, Any]], place: list[int]) -> str:
    """Names an input, by its place in a sample."""
    widths = [len(column["categories"]) if column["onehot"] else 1 for column in columns]
    named = [column["name"] for column, width in zip(columns, widths, strict=True) for _ in range(width)]
    return f"input {[1 + at for at in place]}" + (f" (column {named[place[0]]!r})" if named and len(place) == 1 else "")


def _column(column: dict[str, Any], cells: list[Any], rules: dict[str, Any]) -> Tensor:
    """One column's inputs, (N, 1) or (N, categories)."""
    name = f"column {column['name']!r}"
    if not column["categories"]:
        numbers = [_number(cell, rules, f"{name}, row {row}") for row, cell in enumerate(cells, start=1)]
        return torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)
    known = {category: index for index, category in enumerate(column["categories"])}
    texts = [text if text in known else text.strip() for text in map(str, cells)]
    for row, text in enumerate(texts, start=1):
        if text not in known:
            raise ValueError(f"{name}, row {row}: {text!r} is none of {_shown(column['categories'])}")
    codes = torch.tensor([known[text] for text in texts], dtype=torch.int64)
    return functional.one_hot(codes, len(known)).double() if column["onehot"] else codes.double().unsqueeze(1)


def _number(cell: Any, rules: dict[str, Any], place: str) -> float:
    """A cell's number, nan where it is missing; text by the rules of the file that was trained on."""
    absent = rules.get("absent", ())
    if not isinstance(cell, str):
        try:
            number = math.nan if cell is None else float(cell)
            return math.nan if number in absent else number
        except (TypeError, ValueError):
            cell = str(cell)
    text = cell.strip()
    if text.lower() in rules["missing"]:
        return math.nan
    if text.lower() in TRUTH:
        return TRUTH[text.lower()]
    if not re.fullmatch(rules["number"], text):
        commas = f"; numbers of this model's table have a decimal {rules['point']!r}"
        told = rules is not CELLS and text.strip("+-")[:1].isdigit()
        raise ValueError(f"{place}: {cell!r} is not a number{commas if told else ''}")
    number = float(text.translate({ord(mark): None for mark in rules["group"]}).replace(rules["point"], "."))
    return math.nan if number in absent else number


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
    taps = y.new_ones(y.shape[1], 1) if weight is None else weight.reshape(len(weight), -1)
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


NORMS = {"rms": normalise, "layer": normalise}

POOLS = {
    "max": lambda kind, y: functional.max_pool2d(y, kind["size"]),
    "avg": lambda kind, y: functional.avg_pool2d(y, kind["size"]),
    "global_avg": lambda kind, y: y.mean((2, 3)),
    "token_avg": lambda kind, y: y.mean(2),
}
"""Squares of maps, whole maps, or tokens."""
