"""What a study is: its resolved configuration, and the identity that names each run by what it computes."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsl_cli.data import Dataset, content_identity, load_dataset
from rsl_cli.errors import ConfigError, StoreError, one_of
from rsl_cli.graph import BaseGraph, EdgeLifting, edge_lifting
from rsl_cli.graph_config import read_graph
from rsl_cli.keys import read_keys
from rsl_cli.lift import sample_lift
from rsl_cli.module import module_config
from rsl_cli.network import LiftedNetwork
from rsl_cli.parametrization import PARAMETRIZATIONS
from rsl_cli.registry import Origin, load_plugins
from rsl_cli.study.estimate import flow_of_classes
from rsl_cli.study.keys import EXECUTORS, GROUPS, STUDY
from rsl_cli.study.machine import cores
from rsl_cli.study.measurements import Theory
from rsl_cli.study.store import SCHEMA, RunKey, StudyStore
from rsl_cli.study.sweep import lift_degrees, seed_list
from rsl_cli.theory.probes import FinishedRun
from rsl_cli.train.first_order import FirstOrder
from rsl_cli.train.losses import Loss, Squared, check_fit, read_loss
from rsl_cli.train.objective import Objective
from rsl_cli.train.trainers import Flow, Settings, chosen_trainer, horizon_keys, trainer_settings
from rsl_cli.train.trajectory import Row, TrainingResult, Trajectory


@dataclass(frozen=True)
class StudySpec:
    """One study, fully resolved; make one with `StudySpec.from_config`.

    Args:
        config: the plain configuration it was made from, defaults filled in.
        lifts: degrees, ascending.
        seeds: ascending.
        lifting: for edges that name none.
        trainer: its settings.
        loss: of a sample.
        loss_origin: where it comes from, if it is a user's.
        device: ``cpu`` or ``cuda``.
        name: the study's folder below ``results_dir``.
        theory: what is measured on each run's networks.
        notes: lines for the plan.
    """

    config: Mapping[str, Any]
    lifts: tuple[int, ...]
    seeds: tuple[int, ...]
    lifting: EdgeLifting
    trainer: Settings
    loss: Loss
    loss_origin: Origin | None
    device: str
    name: str
    theory: Theory
    notes: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], data: Dataset | None = None) -> "StudySpec":
        """Validate a configuration; reads the data, writes nothing.

        Args:
            config: see `rsl_cli.study.session.run_study`.
            data: what reading gave already.

        Raises:
            ConfigError, GraphError, DataError: the first thing that cannot be run, in one line.
        """
        full = {**read_keys("", STUDY, config, also=GROUPS), **{key: config.get(key, GROUPS[key]) for key in GROUPS}}
        for key in GROUPS:
            if not isinstance(full[key], Mapping):
                raise ConfigError(f"{key}={full[key]!r}; a group is needed: {key}=NAME")
        load_plugins(full["plugins"])
        full["executor"] = _executor(full["executor"])
        if "target" in full["base"]:
            full["base"] = module_config(full["base"], *_shapes(full["dataset"]))
        lifts, seeds = lift_degrees(full["lift"]), seed_list(full["seeds"])
        device = _device(full["device"])
        # What data there is decides the rest.
        draft = cls(full, lifts, seeds, edge_lifting(full["lifting"]), Flow(), Squared(), None, device, "", Theory())
        if data is not None:
            draft.__dict__["data"] = data
        full["trainer"], notes = chosen_trainer(
            full["trainer"],
            draft.data.task,
            lambda: flow_of_classes(draft.base, lifts[-1], draft.lifting, draft.data),
        )
        trainer = trainer_settings(full["trainer"])
        full["horizons"] = _horizons(full["horizons"], lifts, full["trainer"], trainer)
        if full["parametrization"] is None:
            # The theorem is about weights whose law does not change with the degree; first-order trainers need mup.
            full["parametrization"] = "mup" if isinstance(trainer, FirstOrder) else "standard"
        if not isinstance(full["parametrization"], str) or full["parametrization"] not in PARAMETRIZATIONS:
            raise ConfigError(one_of("parametrization", full["parametrization"], PARAMETRIZATIONS))
        name = _name(full)
        default = "cross_entropy" if draft.data.task == "classification" else "mse"
        loss, origin = read_loss(default if full["loss"] is None else full["loss"])
        check_fit(loss, draft.data)
        theory = Theory.from_config(full["theory"], trainer, loss, draft.data)
        spec = cls(full, lifts, seeds, draft.lifting, trainer, loss, origin, device, name, theory, notes)
        # What was read to choose the loss need not be read again.
        spec.__dict__["data"], spec.__dict__["base"] = draft.data, draft.base
        for degree in (lifts[0], lifts[-1]):
            _check_matchings(spec, degree)
        if theory.probes:
            theory.check(_untrained(spec))
        return spec

    @cached_property
    def data(self) -> Dataset:
        """The dataset, read or made."""
        return load_dataset(self.config["dataset"], teacher=self._teacher, flat=self._reads_flat)

    @cached_property
    def _reads_flat(self) -> bool:
        """Whether the base graph can take images and sequences as vectors only."""
        _, vertices, edges = read_graph(self.config["base"])
        return any(vertices[edge.source].kind == "input" and edge.map.needs_flat for edge in edges)

    @cached_property
    def base(self) -> BaseGraph:
        """The base graph, with the data's shapes."""
        return BaseGraph.from_config(
            self.config["base"], input_shape=self.data.input_shape, output_size=self.data.outputs
        )

    @property
    def store(self) -> StudyStore:
        """Where the study lies."""
        return StudyStore(Path(str(self.config["results_dir"])) / self.name)

    @property
    def workers(self) -> int:
        """How many processes train at once."""
        executor = self.config["executor"]
        if executor["name"] == "local":
            return 1
        return int(executor["workers"] or cores())

    def trainer_of(self, lift: int) -> Settings:
        """The trainer's settings for a lift, to its own horizon where it has one."""
        return replace(self.trainer, **self.config["horizons"].get(str(lift), {}))

    @property
    def carried(self) -> dict[str, Any]:
        """How far runs are to be carried, but for lifts with a horizon of their own; see `StudyStore.carried`."""
        return {key: getattr(self.trainer, key) for key in self.trainer.horizon}

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and data."""
        return torch.float64 if self.trainer.dtype == "float64" else torch.float32

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the numbers, but lift and seed: no names, paths, devices, executors, horizons."""
        return {
            "schema": SCHEMA,
            "base": _computed(self.base),
            "lifting": asdict(self.lifting),
            "dataset": content_identity(self.config["dataset"], flat=self._reads_flat, data=self.data),
            "loss": self.loss.name if self.loss_origin is None else self.loss_origin.identity(),
            "parametrization": self.config["parametrization"],
            "trainer": self.trainer.identity(),
            # Nothing measured, nothing named: such runs are what they were before anything could be.
            **({"theory": self.theory.identity()} if self.theory != Theory() else {}),
        }

    def run_keys(self) -> list[RunKey]:
        """Every run, by lift, then seed."""
        return [RunKey(n, s, run_id(self.identity, n, s)) for n in self.lifts for s in self.seeds]

    @cached_property
    def witness(self) -> LiftedNetwork | None:
        """The planted network of ``dataset=teacher``: it fits the targets exactly, up to their scale."""
        return self._planted(self.config["dataset"]) if self.data.witness_degree is not None else None

    def _teacher(self, config: Mapping[str, Any]) -> Any:
        network = self._planted(config)

        def compute(x: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return network(torch.as_tensor(x, dtype=torch.float64)).numpy()

        return compute

    def _planted(self, config: Mapping[str, Any]) -> LiftedNetwork:
        """A lift of the base at the witness's degree, its readout drawn even where a study starts at zero."""
        full = content_identity(config)
        base_config = json.loads(json.dumps(self.config["base"]))
        for edge in base_config.get("edges") or []:
            if isinstance(edge, dict) and (edge.get("init") or {}).get("kind") == "zeros":
                edge["init"] = {"kind": "normal"}
        base = BaseGraph.from_config(base_config, input_shape=(full["inputs"],), output_size=full["outputs"])
        lift = sample_lift(base, full["degree"], full["seed"], self.lifting)
        return LiftedNetwork(lift, full["seed"], torch.float64)


def _shapes(dataset: Mapping[str, Any]) -> tuple[list[tuple[int, ...]], int]:
    """Shapes that a sample of the data can have, its own first, and the number of outputs."""
    full = content_identity(dataset) if dataset.get("name") == "teacher" else {}
    if full:
        return [(full["inputs"],)], full["outputs"]
    data = load_dataset(dataset)
    return [data.input_shape, data.flat().input_shape], data.outputs


def _computed(base: BaseGraph) -> dict[str, Any]:
    """A base graph without its name. Defaults are left unsaid, so that a new key changes no identity there was."""
    vertices, edges = [], []
    for vertex in base.vertices:
        facts = {one.name: getattr(vertex, one.name) for one in fields(vertex)}
        origins = {key: origin.identity() for key, origin in facts.pop("origins").items()}
        facts |= {"bias_init": asdict(vertex.bias_init), "combine": vertex.combine.identity()}
        for key in ("norm", "pool"):
            part = facts.pop(key)
            facts |= {key: part.identity()} if part is not None and key not in origins else {}
        vertices.append(facts | origins)
    for edge in base.edges:
        facts = {one.name: getattr(edge, one.name) for one in fields(edge)}
        origin = facts.pop("origin")
        facts["map"] = edge.map.identity() if origin is None else origin.identity()
        facts["map_name"] = edge.map_name if origin is None else origin.target
        facts["lifting"] = None if edge.lifting is None else asdict(edge.lifting)
        edges.append(facts | {"init": asdict(edge.init)})
    sizes = {"input_shape": base.input_shape, "output_size": base.output_size}
    return {"vertices": tuple(vertices), "edges": tuple(edges), **sizes}


def run_id(identity: Mapping[str, Any], lift: int, seed: int) -> str:
    """16 hex digits of the SHA-256 of everything that determines a run's numbers."""
    text = json.dumps({**identity, "lift": lift, "seed": seed}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def refuse_other(store: StudyStore, identity: Mapping[str, Any]) -> None:
    """Refuse to add to a study that computes something else.

    Raises:
        StoreError: with the keys that differ.
    """
    differ = differences(store.read_study()["identity"], identity)
    if not differ:
        return
    pairs = list(differ.items())[:4]
    shown = ", ".join(f"{key} ({_short(old)} there, {_short(new)} now)" for key, (old, new) in pairs)
    more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
    remedy = "choose another study=NAME, or set these keys as they were"
    if list(differ) == ["trainer.steps"]:
        remedy = (
            f"runs of schedule={identity['trainer']['schedule']} end at trainer.steps and cannot be carried on, those "
            "of schedule=constant can; choose another study=NAME, or set it as it was"
        )
    raise StoreError(f"study '{store.name}' at {store.root} computes something else: {shown}{more}; {remedy}")


def _of_runs(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A stored identity as it would be today: once it said how far runs are carried as well."""
    trainer = identity.get("trainer", {})
    return {**identity, "trainer": {k: v for k, v in trainer.items() if k not in horizon_keys(trainer)}}


def _horizons(
    config: Any, lifts: Sequence[int], trainer: Mapping[str, Any], settings: Settings
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


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two identities differ in: the values of both by key, sorted; None where a key is absent."""
    before, after = (_flat(json.loads(json.dumps(_of_runs(one)))) for one in (old, new))
    return {
        key: (before.get(key), after.get(key)) for key in sorted({*before, *after}) if before.get(key) != after.get(key)
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


def _name(config: Mapping[str, Any]) -> str:
    folder = config["results_dir"]
    if not isinstance(folder, str) or not folder.strip() or "\0" in folder:
        raise ConfigError(f"results_dir={folder!r}; accepted: the path of a folder, e.g. results")
    given = config["study"] is not None
    parts = {"study": config["study"]} if given else {f"{g}.name": config[g].get("name", "unnamed") for g in _NAMING}
    for key, part in parts.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", str(part)):
            remedy = "" if given else "; or set study=NAME"
            raise ConfigError(
                f"{key}={_short(part)!r}; accepted: letters, digits and . _ + -, starting with a letter or digit, at "
                f"most 100 of them{remedy}"
            )
    return "_".join(map(str, parts.values()))


_NAMING = ("base", "dataset", "trainer")
"""Groups whose names make a study's, where none is given."""


def _executor(config: Mapping[str, Any]) -> dict[str, Any]:
    name = str(config.get("name"))
    if name not in EXECUTORS:
        raise ConfigError(one_of("executor", name, EXECUTORS))
    return {"name": name, **read_keys("executor.", EXECUTORS[name], config)}


def _device(value: Any) -> str:
    if value not in ("auto", "cpu", "cuda"):
        raise ConfigError(one_of("device", value, ("auto", "cpu", "cuda")))
    found = torch.cuda.is_available()
    if value == "cuda" and not found:
        raise ConfigError("device=cuda, but torch finds no CUDA device here; use device=cpu or device=auto")
    return "cuda" if found and value != "cpu" else "cpu"


def _untrained(spec: StudySpec) -> FinishedRun:
    """A run of the smallest lift on a few samples that ended before its first step."""
    data = spec.data.first(32)
    objective = Objective(data, spec.loss, dtype=spec.dtype)
    lift = sample_lift(spec.base, spec.lifts[0], spec.seeds[0], spec.lifting)
    network = LiftedNetwork(lift, None, spec.dtype, str(spec.config["parametrization"]))
    figures = objective.evaluate(network)
    row = Row(0, math.nan, float(figures.loss), float(figures.test_loss), float(figures.grad_norm), 0.0)
    state = {name: parameter.detach() for name, parameter in network.named_parameters()}
    shares = float(figures.accuracy), float(figures.relative_gradient)
    result = TrainingResult(Trajectory((row,)), "budget", *shares, state)
    return FinishedRun(lift, network.parametrization, objective, result, spec.witness)


def _check_matchings(spec: StudySpec, degree: int) -> None:
    """Draw the smallest and the largest lift's fibres before anything is written: a bad matching shows here."""
    from rsl_cli.lift import fibre_sizes, lifting_of

    fibres = fibre_sizes(spec.base, degree)
    for edge in spec.base.edges:
        if lifting_of(edge, spec.base, spec.lifting).kind == "matching" and fibres[edge.source] != fibres[edge.target]:
            raise ConfigError(
                f"edge {edge.name}: lifting 'matching' needs fibres of equal size, got {fibres[edge.source]} and "
                f"{fibres[edge.target]} at lift {degree}; use 'random' or 'regular' there"
            )
