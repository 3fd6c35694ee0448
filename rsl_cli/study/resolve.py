"""The second of a study's steps: what its data decide, from what it asks for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from rsl_cli.data import Dataset, content_identity, dataset_label, drawn_numbers, is_planted, load_dataset
from rsl_cli.errors import ConfigError
from rsl_cli.graph import BaseGraph, EdgeLifting, Init
from rsl_cli.graph_config import read_graph
from rsl_cli.lift import check_fibres, expected_parameters, sample_lift
from rsl_cli.module import module_config
from rsl_cli.network import LiftedNetwork
from rsl_cli.portable import unportable
from rsl_cli.registry import Origin
from rsl_cli.study.diagnostics import Diagnostics
from rsl_cli.study.estimate import affordable_flow, flops
from rsl_cli.study.machine import memory_limit
from rsl_cli.study.parse import Asked
from rsl_cli.train.losses import Loss, check_fit, read_loss
from rsl_cli.train.trainer import Trainer
from rsl_cli.train.trainers import chosen_trainer, trainer_settings

_DRAWN_BYTES, _DRAWN_RATE, _TAUGHT_RATE = 24, 2e7, 5e9
"""Of data that are drawn: bytes of a number at the peak, numbers a second, operations a second of a planted network."""
_DRAWN_SECONDS = 5.0
"""Seconds from which drawing data is said to take long; half of the memory there is is too much."""
_PLANTED_BYTES = 200
"""Of a planted network's parameter, as it is sampled."""


@dataclass(frozen=True, eq=False)
class Resolved:
    """What a study is made of.

    Args:
        config: the plain configuration, with everything settled that was left open.
        base: the base graph, with the data's shapes.
        data: the dataset, read or made.
        trainer: its settings.
        loss: of a sample.
        loss_origin: where it comes from, if it is a user's.
        diagnostics: what is measured on each run's networks.
        name: the study's folder below ``results_dir``.
        notes: lines for the plan.
    """

    config: Mapping[str, Any]
    base: BaseGraph
    data: Dataset
    trainer: Trainer
    loss: Loss
    loss_origin: Origin | None
    diagnostics: Diagnostics
    name: str
    notes: tuple[str, ...]


def resolve(asked: Asked, data: Dataset | None = None) -> Resolved:
    """Read the data, make the base graph, and settle what depends on them; writes nothing.

    Args:
        asked: the study's configuration.
        data: what reading gave already.

    Returns:
        Data, base graph, trainer, loss and all else that a run is made from.

    Raises:
        ConfigError, GraphError, DataError: the first thing that cannot be run, in one line.
    """
    full = dict(asked.config)
    if data is None and not full["force"]:
        _check_data(full, asked.lifting)
    if "target" in full["base"]:
        full["base"] = module_config(full["base"], *_shapes(full["dataset"]))
    if data is None:
        flat = _reads_flat(full["base"])
        data = load_dataset(full["dataset"], teacher=_teacher(full["base"], asked.lifting), flat=flat)
    base = BaseGraph.from_config(full["base"], input_shape=data.input_shape, output_size=data.outputs)
    for degree in (asked.lifts[0], asked.lifts[-1]):
        # Before anything is asked of a lifting: fibres that cannot be joined as wanted show here.
        check_fibres(base, degree, asked.lifting)
    estimate = partial(affordable_flow, base, asked.lifts[-1], asked.lifting, data)
    full["trainer"], notes = chosen_trainer(full["trainer"], data.task, estimate)
    trainer = trainer_settings(full["trainer"])
    full["horizons"] = _horizons(full["horizons"], asked.lifts, full["trainer"], trainer)
    if full["parametrization"] is None:
        full["parametrization"] = trainer.parametrization
    default = "cross_entropy" if data.task == "classification" else "mse"
    loss, origin = read_loss(default if full["loss"] is None else full["loss"])
    check_fit(loss, data)
    trainer.check(loss)
    diagnostics = Diagnostics.from_config(full["theory"], trainer, loss, full["dataset"])
    notes += (note,) if (note := unportable(base)) else ()
    return Resolved(full, base, data, trainer, loss, origin, diagnostics, _name(full, trainer), notes)


def _check_data(config: Mapping[str, Any], lifting: EdgeLifting) -> None:
    """Say what drawing the data would take, if that is long or beyond this machine, before any is drawn.

    Raises:
        ConfigError: so it is.
    """
    dataset, numbers = config["dataset"], drawn_numbers(config["dataset"])
    size, seconds = _DRAWN_BYTES * numbers, numbers / _DRAWN_RATE
    if numbers and is_planted(dataset):
        full = content_identity(dataset)
        graph, degree = _planted_base(config["base"], full, lifting), full["degree"]
        parameters = expected_parameters(graph, degree, lifting)
        size += _PLANTED_BYTES * parameters
        passes = flops(graph, degree, lifting) * (full["samples"] + full["test_samples"])
        seconds += passes / _TAUGHT_RATE + parameters / _DRAWN_RATE
    if seconds > _DRAWN_SECONDS or size > memory_limit() / 2:
        raise ConfigError(
            f"the data of dataset={dataset['name']} are expected to take {size / 2**30:.3g} GB, where this machine has "
            f"{memory_limit() / 2**30:.3g}, and {seconds:.3g} s before anything is trained; lower dataset.samples, or "
            "what else makes them large, or begin with force=true"
        )


def planted(base: Mapping[str, Any], dataset: Mapping[str, Any], lifting: EdgeLifting) -> LiftedNetwork:
    """The network behind ``dataset=teacher``: a lift of the study's base, its readout drawn even where it starts at 0.

    Args:
        base: the study's base graph, as configured.
        dataset: its dataset.
        lifting: for edges that name none.

    Returns:
        A network of one replica, in float64.
    """
    full = content_identity(dataset)
    graph = _planted_base(base, full, lifting)
    drawn = tuple(edge if edge.init.law.variance else replace(edge, init=Init()) for edge in graph.edges)
    graph = replace(graph, edges=drawn)
    lift = sample_lift(graph, full["degree"], full["seed"], lifting)
    return LiftedNetwork(lift, full["seed"], torch.float64)


def _planted_base(base: Mapping[str, Any], settings: Mapping[str, Any], lifting: EdgeLifting) -> BaseGraph:
    graph = BaseGraph.from_config(base, input_shape=(settings["inputs"],), output_size=settings["outputs"])
    check_fibres(graph, settings["degree"], lifting)
    return graph


def _teacher(base: Mapping[str, Any], lifting: EdgeLifting) -> Any:
    def teach(config: Mapping[str, Any]) -> Any:
        network = planted(base, config, lifting)

        def compute(x: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return network(torch.as_tensor(x, dtype=torch.float64)).numpy()

        return compute

    return teach


def _reads_flat(base: Mapping[str, Any]) -> bool:
    """Whether a base graph can take images and sequences as vectors only."""
    _, vertices, edges = read_graph(base)
    return any(vertices[edge.source].kind == "input" and edge.map.needs_flat for edge in edges)


def _shapes(dataset: Mapping[str, Any]) -> tuple[list[tuple[int, ...]], int]:
    """Shapes that a sample of the data can have, its own first, and the number of outputs."""
    full = content_identity(dataset) if is_planted(dataset) else {}
    if full:
        return [(full["inputs"],)], full["outputs"]
    data = load_dataset(dataset)
    return [data.input_shape, data.flat().input_shape], data.outputs


def _horizons(
    config: Any, lifts: Sequence[int], trainer: Mapping[str, Any], settings: Trainer
) -> dict[str, dict[str, Any]]:
    """Horizons of single lifts, checked: by lift, keys of the trainer that say how far its runs are carried."""
    checked: dict[str, dict[str, Any]] = {}
    config = {} if config is None else config
    if not isinstance(config, Mapping):
        raise ConfigError(f"horizons={config!r}; accepted: null, or horizons by lift, e.g. {{64: {{t_end: 1e10}}}}")
    for lift, wanted in config.items():
        if str(lift) not in map(str, lifts):
            raise ConfigError(f"horizons.{lift}: the study's lifts are {', '.join(map(str, lifts))}; add it to lift=")
        accepted = ", ".join(settings.horizon) or "none, since its schedule ends its runs; trainer.schedule=constant"
        if not isinstance(wanted, Mapping) or not {*wanted} <= {*settings.horizon}:
            raise ConfigError(f"horizons.{lift}={wanted!r}; accepted are keys of trainer {settings.name}: {accepted}")
        own = trainer_settings({**trainer, **wanted})
        checked[str(lift)] = {key: getattr(own, key) for key in wanted}
    return checked


def _name(config: Mapping[str, Any], trainer: Trainer) -> str:
    given = config["study"] is not None
    parts = {
        "base.name": config["base"].get("name", "unnamed"),
        "dataset.name": _last(dataset_label(config["dataset"])),
        "trainer.name": _last(trainer.label),
    }
    parts = {"study": config["study"]} if given else parts
    for key, part in parts.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", str(part)):
            remedy = "" if given else "; or set study=NAME"
            raise ConfigError(
                f"{key}={_short(part)!r}; accepted: letters, digits and . _ + -, starting with a letter or digit, at "
                f"most 100 of them{remedy}"
            )
    return "_".join(map(str, parts.values()))


def _last(label: str) -> str:
    """The last part of ``package.attribute``, as the name of a folder may have it."""
    home, _, name = label.rpartition(".")
    return re.sub(r"[^A-Za-z0-9_+-]+", "-", name).strip("-_") or "target" if home else name


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:21] + "..."
