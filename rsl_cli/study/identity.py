"""What a run is: everything that determines its numbers, and the name that is made of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rsl_cli.data import content_identity
from rsl_cli.errors import StoreError
from rsl_cli.graph import BaseGraph, EdgeLifting
from rsl_cli.graph_config import EDGE, VERTEX
from rsl_cli.keys import Keys
from rsl_cli.study.answers import Answers, base_answers, refuse_changed
from rsl_cli.study.diagnostics import Diagnostics
from rsl_cli.study.resolve import Resolved
from rsl_cli.study.store import SCHEMA, StudyStore
from rsl_cli.train.trainers import horizon_keys
from rsl_cli.vertices import Edge, Vertex


def study_identity(study: Resolved, lifting: EdgeLifting) -> dict[str, Any]:
    """Everything that determines the numbers, but lift and seed: no names, paths, devices, executors, horizons.

    Args:
        study: what it is made of.
        lifting: for edges that name none.

    Returns:
        Plain mappings, whose JSON is hashed.
    """
    flat = any(study.base.vertex(edge.source).kind == "input" and edge.map.needs_flat for edge in study.base.edges)
    return {
        "schema": SCHEMA,
        "base": _computed(study.base),
        "lifting": lifting.identity(),
        "dataset": content_identity(study.config["dataset"], flat=flat, data=study.data),
        "loss": study.loss.name if study.loss_origin is None else study.loss_origin.identity(),
        "parametrization": study.config["parametrization"],
        "trainer": study.trainer.identity(),
        # Nothing measured, nothing named: such runs are what they were before anything could be.
        **({"theory": study.diagnostics.identity()} if study.diagnostics != Diagnostics() else {}),
    }


def run_id(identity: Mapping[str, Any], lift: int, seed: int) -> str:
    """16 hex digits of the SHA-256 of everything that determines a run's numbers."""
    text = json.dumps({**identity, "lift": lift, "seed": seed}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def refuse_other(store: StudyStore, identity: Mapping[str, Any], answers: Answers) -> None:
    """Refuse to add to a study that computes something else.

    Args:
        store: the study.
        identity: of what would be added.
        answers: of its parts.

    Raises:
        StoreError: with the keys that differ, or the part that answers otherwise.
    """
    differ = differences(store.read_study()["identity"], identity)
    if not differ:
        return refuse_changed(store, answers)
    pairs = list(differ.items())[:4]
    shown = ", ".join(f"{key} ({_short(old)} there, {_short(new)} now)" for key, (old, new) in pairs)
    more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
    remedy = "choose another study=NAME, or set these keys as they were"
    if list(differ) == ["trainer.steps"]:
        remedy = (
            f"runs of schedule={identity['trainer']['schedule']} end at trainer.steps and cannot be carried on, those "
            "of schedule=constant can; choose another study=NAME, or set it as it was"
        )
    raise StoreError(f"study '{store.name}' at {store.address} computes something else: {shown}{more}; {remedy}")


def refuse_edited(store: StudyStore, base: BaseGraph, lifting: EdgeLifting) -> None:
    """Refuse to make a stored network of parts that it was not trained with.

    Args:
        store: the study.
        base: the base graph, of the parts as they are now.
        lifting: for edges that name none.

    Raises:
        StoreError: it would be another network; with the part, and what differs.
    """
    now = {"base": _computed(base), "lifting": lifting.identity()}
    differ = differences({key: store.read_study()["identity"][key] for key in now}, now)
    if differ:
        key, (old, new) = next(iter(differ.items()))
        owner = key.rpartition(".")[0]
        part = _flat(json.loads(json.dumps(now))).get(f"{owner}.target", owner)
        raise StoreError(
            f"study '{store.name}' at {store.address} was trained with another {part} ({key}: {_short(old)} there, "
            f"{_short(new)} now); restore it as it was, or train with it as it is under another study=NAME"
        )
    refuse_changed(store, base_answers(base, lifting))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two identities differ in: the values of both by key, sorted; None where a key is absent."""
    before, after = (_flat(json.loads(json.dumps(_of_runs(one)))) for one in (old, new))
    return {
        key: (before.get(key), after.get(key)) for key in sorted({*before, *after}) if before.get(key) != after.get(key)
    }


def _of_runs(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A stored identity as it would be today: once it said how far runs are carried as well."""
    trainer = identity.get("trainer", {})
    return {**identity, "trainer": {k: v for k, v in trainer.items() if k not in horizon_keys(trainer)}}


def _computed(base: BaseGraph) -> dict[str, Any]:
    """A base graph without its name. Defaults are left unsaid, so that a new key changes no identity there was."""
    vertices, edges = [], []
    for vertex in base.vertices:
        origins = {key: origin.identity() for key, origin in vertex.origins.items()}
        vertices.append(_said(VERTEX, vertex) | origins)
    for edge in base.edges:
        origin = edge.origin
        own = {} if origin is None else {"map": origin.identity(), "map_name": origin.target}
        edges.append(_said(EDGE, edge) | own)
    sizes = {"input_shape": base.input_shape, "output_size": base.output_size}
    return {"vertices": tuple(vertices), "edges": tuple(edges), **sizes}


def _said(keys: Keys, part: Vertex | Edge) -> dict[str, Any]:
    """What a vertex or an edge is: its fields, but for keys that came later where they are at their defaults."""
    facts = {one.name: getattr(part, one.name) for one in fields(part) if one.name not in ("origin", "origins")}
    later = [key for key, spec in keys.items() if spec.identity == "changed" and facts[key] == spec.default]
    return {
        key: value.identity() if hasattr(value, "identity") else value
        for key, value in facts.items()
        if key not in later
    }


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = ((str(i), item) for i, item in enumerate(value))
    else:
        return {prefix: value}
    return {k: v for key, item in items for k, v in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()}


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else text[:21] + "..."
