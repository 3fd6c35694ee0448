"""Trained lifts out of rsl: a folder with plain torch code, its tensors, and its graph for others' tools."""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from rsl_cli.activations import ACTIVATIONS
from rsl_cli.contracts import activation_code, plain_keys
from rsl_cli.errors import StoreError
from rsl_cli.graph import BaseGraph, Edge, Vertex, slot_key
from rsl_cli.lift import Lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.own_code import code_of
from rsl_cli.parts import Space
from rsl_cli.portable import model
from rsl_cli.readouts import PARAMETRIZATIONS

__all__ = ["export", "to_graphml"]


def export(
    network: LiftedNetwork, path: str | Path, *, force: bool = False, data: Mapping[str, Any] | None = None
) -> Path:
    """Write a network as a folder that runs without rsl.

    Args:
        network: over one lift.
        path: the folder; made whole or not at all. It holds ``model.py`` (class ``LiftedModel``, which needs torch,
            numpy and safetensors), ``graph.json``, ``model.safetensors`` (weights, biases, edge lists as int64) and
            ``graph.graphml``.
        force: replace a folder that holds an export, and nothing else.
        data: how raw inputs became the network's, for ``predict`` (``data.json``); by default what a trained network
            says itself.

    Returns:
        The folder.

    Raises:
        StoreError: the folder is not empty, holds other things than an export, or cannot be written; or the network is
            over a union of lifts, or has a part without code that runs without its package.
    """
    lift = network.lift
    if not isinstance(lift, Lift):
        raise StoreError(f"export: a union of {len(lift.replicas)} lifts; accepted: a network over one lift")
    folder = Path(path)
    code = Path(__file__).with_name("model.py").read_text(encoding="utf-8") + _own_code(lift.base)
    graph, tensors = _content(network, lift)
    files = {
        "model.py": code.encode(),
        "graph.json": (json.dumps(graph, indent=1, allow_nan=False) + "\n").encode(),
        "model.safetensors": save(tensors),
        "graph.graphml": to_graphml(lift),
    }
    data = data or getattr(network, "data", None)
    if data is not None:
        files["data.json"] = (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
            raise StoreError(f"{folder} is there and not empty; choose another folder, or --force to replace an export")
        strange = _strange(folder, files)
        if strange:
            raise StoreError(f"{folder} holds {strange}, which no export wrote; choose another folder")
        _write_folder(folder, files)
    except OSError as error:
        raise StoreError(
            f"cannot write {folder}: {error.strerror or error}; free space, mend the permissions or choose another "
            "folder"
        ) from error
    return folder


def _strange(folder: Path, files: Mapping[str, bytes]) -> str | None:
    """Something at a place that is not an earlier export's, and so must not be replaced."""
    if folder.is_symlink() or not folder.is_dir():
        return folder.name if folder.exists() or folder.is_symlink() else None
    # Python leaves compiled code where model.py was imported.
    return next((path.name for path in folder.iterdir() if path.name not in (*files, "__pycache__")), None)


def to_graphml(lift: Lift) -> bytes:
    """The lift as GraphML: nodes ``vertex:copy``, edges with the base edge's name and their place among its weights."""
    import networkx

    graph = networkx.MultiDiGraph()
    for vertex in lift.base.vertices:
        for copy in range(lift.fibre(vertex.name)):
            graph.add_node(f"{vertex.name}:{copy}", vertex=vertex.name, copy=copy)
    count = 0
    for edge, (sources, targets) in zip(lift.base.edges, lift.edge_lists, strict=True):
        for index, (a, b) in enumerate(zip(sources.tolist(), targets.tolist(), strict=True)):
            ends = f"{edge.source}:{a}", f"{edge.target}:{b}"
            graph.add_edge(*ends, key=f"e{count}", edge=edge.name, map=edge.map_name, index=index)
            count += 1
    buffer = io.BytesIO()
    networkx.write_graphml_xml(graph, buffer)
    return buffer.getvalue()


def _content(network: LiftedNetwork, lift: Lift) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What ``graph.json`` and ``model.safetensors`` hold."""
    base, tensors = lift.base, {name: value.detach().cpu() for name, value in network.named_parameters()}
    known = {id(parameter): name for name, parameter in network.named_parameters()}
    edges, power = [], PARAMETRIZATIONS[network.parametrization]
    for index, (edge, ends) in enumerate(zip(base.edges, lift.edge_lists, strict=True)):
        lists = {side: f"edge{index}_{side}" for side in ("sources", "targets")}
        for name, copies in zip(lists.values(), ends, strict=True):
            tensors[name] = torch.as_tensor(np.ascontiguousarray(copies))
        has_weight, inner = base.weight_shape(edge) is not None, edge.source != base.input.name
        edges.append(
            {
                "source": edge.source,
                "target": edge.target,
                "slot": slot_key(edge),
                "map": _map(edge, base.space(edge.source), f"edge{index}", tensors),
                "weight": known[id(network.weight(edge.source, edge.target, edge.slot))] if has_weight else None,
                "multiplier": float(lift.degree) ** -power if edge.target == base.output.name and inner else 1.0,
                **lists,
            }
        )
    vertices = [
        {
            "name": vertex.name,
            "kind": vertex.kind,
            "copies": lift.fibre(vertex.name),
            "space": list(base.space(vertex.name)),
            "bias": known[id(network.bias(vertex.name))] if vertex.bias else None,
            **_said(vertex),
        }
        for vertex in base.vertices
    ]
    graph = {
        "base": base.name,
        "degree": lift.degree,
        "seed": lift.seed,
        "lifting": lift.lifting.identity(),
        "dtype": str(network.dtype).removeprefix("torch."),
        "input_shape": list(base.input_shape),
        "output": base.output.name,
        "vertices": vertices,
        "edges": edges,
    }
    return graph, tensors


def _map(edge: Edge, space: Space, prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What the exported code is to do for an edge: a map that it does not know goes as its stencil, all that it is."""
    if edge.origin is None and edge.map.portable()["name"] in model.MAPS:
        return edge.map.portable()
    stencil, names = edge.map.stencil(space), {}
    for key in ("row", "column", "tap"):
        names[key] = f"{prefix}_{key}"
        tensors[names[key]] = torch.tensor(getattr(stencil, key))
    sizes = {"rows": stencil.rows, "columns": stencil.columns, "out": list(edge.map.output_space(space))}
    return {"name": "stencil", **sizes, "tensors": names}


_TABLES: Mapping[str, str] = {"activation": "ACTIVATIONS", "combine": "COMBINES", "norm": "NORMS", "pool": "POOLS"}
"""Where the exported code has the parts of a vertex."""


def _parts(vertex: Vertex) -> dict[str, tuple[str, Any]]:
    """The parts of a vertex by key: their names in the exported code, a user's being the full ones, and themselves."""
    parts = {"activation": ACTIVATIONS.find(vertex.activation), "combine": vertex.combine}
    parts |= {key: part for key, part in (("norm", vertex.norm), ("pool", vertex.pool)) if part is not None}
    names = {"activation": vertex.activation} | {key: origin.target for key, origin in vertex.origins.items()}
    return {key: (names.get(key) or part.portable()["name"], part) for key, part in parts.items()}


def _said(vertex: Vertex) -> dict[str, Any]:
    """What ``graph.json`` says of the parts of a vertex."""
    parts = _parts(vertex)
    activation, _ = parts.pop("activation")
    kinds = {key: plain_keys(part) | {"name": name} for key, (name, part) in parts.items()}
    return {"norm": None, "pool": None, "activation": activation, **kinds}


def _own_code(base: BaseGraph) -> str:
    """Code of the parts that ``model.py`` does not have, to stand at its end."""
    texts: dict[str, str] = {}
    for vertex in base.vertices:
        for key, (name, part) in _parts(vertex).items():
            if key not in vertex.origins and name in getattr(model, _TABLES[key]):
                continue
            try:
                code = activation_code(part) if key == "activation" else code_of(part)
                texts[f"{_TABLES[key]}[{name!r}] = made()"] = code
                _said(vertex)
            except ValueError as error:
                raise StoreError(
                    f"export: vertex {vertex.name}: {key} {name} has no code that runs without its package: {error}"
                ) from error
    return "".join(f"\n\n{text}\n\n{entry}\n" for entry, text in texts.items())


def unportable(base: BaseGraph) -> str | None:
    """Why networks of a base graph cannot be exported, in a line; None: they can be."""
    try:
        _own_code(base)
    except StoreError as error:
        return str(error)
    return None


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write beside the place, then move there: a kill leaves the old folder, or the new one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    try:
        for name, content in files.items():
            with (temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o755)
        old = None
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            old = temporary.with_suffix(".old")
            folder.rename(old)
        try:
            temporary.replace(folder)
        except OSError:
            if old is not None:
                old.rename(folder)
            raise
        if old is not None and old.is_dir():
            shutil.rmtree(old)
        elif old is not None:
            old.unlink()
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
