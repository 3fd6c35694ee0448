"""Trained lifts out of rsl: a folder with plain torch code, its tensors, and its graph for others' tools."""

import dataclasses
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import torch
from safetensors.torch import save

from rsl_cli.errors import StoreError, first_line
from rsl_cli.graph import BaseGraph, Edge, edge_lifting, slot_key
from rsl_cli.lift import Lift, sample_lift
from rsl_cli.network import PARAMETRIZATIONS, LiftedNetwork
from rsl_cli.parts import Space
from rsl_cli.registry import load_plugins
from rsl_cli.study.store import RunKey, StudyStore

__all__ = ["choose_run", "export", "run_network", "to_graphml"]


def export(network: LiftedNetwork, path: str | Path, *, force: bool = False) -> Path:
    """Write a network as a folder that runs without rsl.

    Args:
        network: over one lift.
        path: the folder; made whole or not at all. It holds ``model.py`` (class ``LiftedModel``, which needs torch
            alone), ``graph.json``, ``model.safetensors`` (weights, biases, edge lists as int64) and ``graph.graphml``.
        force: replace a folder that is not empty.

    Returns:
        The folder.

    Raises:
        StoreError: the folder is not empty, or cannot be written; or the network is over a union of lifts.
    """
    lift = network.lift
    if not isinstance(lift, Lift):
        raise StoreError(f"export: a union of {len(lift.replicas)} lifts; accepted: a network over one lift")
    folder = Path(path)
    graph, tensors = _content(network, lift)
    files = {
        "model.py": Path(__file__).with_name("model.py").read_bytes(),
        "graph.json": (json.dumps(graph, indent=1, allow_nan=False) + "\n").encode(),
        "model.safetensors": save(tensors),
        "graph.graphml": to_graphml(lift),
    }
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
            raise StoreError(f"{folder} is there and not empty; choose another folder, or --force to replace it")
        _write_folder(folder, files)
    except OSError as error:
        raise StoreError(
            f"cannot write {folder}: {error.strerror or error}; free space, mend the permissions or choose another "
            "folder"
        ) from error
    return folder


def to_graphml(lift: Lift) -> bytes:
    """The lift as GraphML: nodes ``vertex:copy``, edges with the base edge's name and their place among its weights."""
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


def choose_run(store: StudyStore, words: tuple[str, ...] | list[str] = ()) -> RunKey:
    """The finished run that words name; of several, the one of least held-out loss.

    Args:
        store: a study.
        words: ``lift=64``, ``seed=0``, or the start of a run's folder, each narrowing the choice.

    Raises:
        StoreError: a word that is none of these, or no finished run is left.
    """
    keys = {key: record for key in store.planned() if (record := store.record(key)) and record["status"] == "done"}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and (name not in ("lift", "seed") or not value.isdigit()):
            raise StoreError(f"run {word!r}; accepted: lift=64, seed=0, or the start of a run's folder")
        chosen = {
            key: record
            for key, record in keys.items()
            if (getattr(key, name) == int(value) if equals else key.directory.startswith(word))
        }
        if not chosen:
            listed = f"; finished runs: {', '.join(key.directory for key in list(keys)[:4])}, ..." if keys else ""
            raise StoreError(f"study '{store.name}' has no finished run {word}{listed}")
        keys = chosen
    if not keys:
        raise StoreError(f"study '{store.name}' has no finished run; `rsl list` counts them")
    # A run that diverged has no loss.
    return min(keys, key=lambda key: (keys[key]["test_loss"] is None, keys[key]["test_loss"] or 0.0))


def run_network(store: StudyStore, key: RunKey) -> LiftedNetwork:
    """The network of a finished run, as trained; no data is read, nor a module that became a base graph.

    Raises:
        StoreError: the study is damaged, or another version of rsl draws its lifts otherwise.
    """
    study = store.read_study()
    load_plugins(study["config"].get("plugins"))
    identity = study["identity"]
    base = BaseGraph.from_config(
        study["config"]["base"],
        input_shape=identity["base"]["input_shape"],
        output_size=identity["base"]["output_size"],
    )
    lift = sample_lift(base, key.lift, key.seed, edge_lifting(identity["lifting"]))
    state = {name: torch.as_tensor(array) for name, array in store.state(key).items()}
    dtype = next(iter(state.values())).dtype if state else torch.float32
    network = LiftedNetwork(lift, None, dtype, identity["parametrization"])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise StoreError(
            f"run {key.directory} does not fit its lift: {first_line(error)}; it was made by another version of rsl"
        ) from error
    return network


def _content(network: LiftedNetwork, lift: Lift) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What ``graph.json`` and ``model.safetensors`` hold."""
    _check_portable(lift.base)
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
            "combine": vertex.combine.portable(),
            "bias": known[id(network.bias(vertex.name))] if vertex.bias else None,
            "norm": vertex.norm.portable() if vertex.norm else None,
            "activation": vertex.activation,
            "pool": vertex.pool.portable() if vertex.pool else None,
        }
        for vertex in base.vertices
    ]
    graph = {
        "base": base.name,
        "degree": lift.degree,
        "seed": lift.seed,
        "lifting": dataclasses.asdict(lift.lifting),
        "dtype": str(network.dtype).removeprefix("torch."),
        "input_shape": list(base.input_shape),
        "output": base.output.name,
        "vertices": vertices,
        "edges": edges,
    }
    return graph, tensors


def _map(edge: Edge, space: Space, prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What the exported code is to do for an edge; a user's map goes as its stencil, which is all it does."""
    if edge.origin is None:
        return edge.map.portable()
    stencil, names = edge.map.stencil(space), {}
    for key in ("row", "column", "tap"):
        names[key] = f"{prefix}_{key}"
        tensors[names[key]] = torch.tensor(getattr(stencil, key))
    sizes = {"rows": stencil.rows, "columns": stencil.columns, "out": list(edge.map.output_space(space))}
    return {"name": "stencil", **sizes, "tensors": names}


def _check_portable(base: BaseGraph) -> None:
    for vertex in base.vertices:
        for key, origin in vertex.origins.items():
            raise StoreError(
                f"export: vertex {vertex.name}: {key} {origin.target} has no code that runs without its package; use a "
                "shipped one, or keep rsl where the model is used"
            )


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
