"""Base graphs from torch modules: any `nn.Module` whose layers have a map can be lifted, and loads into its lift."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsl_cli.errors import RAISED, ConfigError, GraphError, first_line, one_of
from rsl_cli.graph import BaseGraph
from rsl_cli.graph_config import Init
from rsl_cli.lift import Lift
from rsl_cli.module.draft import DraftVertex, in_order, named_terms, to_config
from rsl_cli.module.trace import read_module, shape_taken
from rsl_cli.network import LiftedNetwork
from rsl_cli.parts import Space
from rsl_cli.registry import load
from rsl_cli.rng import generator

__all__ = ["base_from_module", "load_module", "module_config"]

_KEYS = ("name", "target", "arguments")
_TRIED = 8
"""Samples on which a module and its lift are compared."""


def base_from_module(module: nn.Module, input_shape: Sequence[int]) -> BaseGraph:
    """The base graph that a torch module computes: its lift of degree 1, dense, is the module.

    Channels, attention heads and the features of vectors become copies, tokens stay axes of one copy. Weights between
    hidden vertices take the study's lifting; what passes on without weights (a residual) is joined by matching.

    Args:
        module: from (N, *input_shape), or (N, 1, H, W) where that is (H, W), to (N, outputs), of layers that
            `rsl_cli.module.layers` lists.
        input_shape: shape of one sample.

    Returns:
        The base graph, which `BaseGraph.from_config` has validated.

    Raises:
        GraphError: the module cannot be traced, or a layer has no map; the text names the layer and its line.
    """
    last = read_module(module, input_shape)
    config = to_config(type(module).__name__, last)
    return BaseGraph.from_config(config, input_shape=input_shape, output_size=last.copies)


def module_config(config: Mapping[str, Any], shapes: Sequence[Space], outputs: int) -> dict[str, Any]:
    """The base graph of a study's ``base: {target: package.Class, arguments: {...}}``, written out.

    Args:
        config: ``target`` is imported, from the current folder too, and called with ``arguments``; ``name`` names the
            base graph, by default as the class.
        shapes: of one sample, as the data can be read; the first that the module takes is used.
        outputs: how many numbers the data wants.

    Returns:
        A configuration for `BaseGraph.from_config`, of vertices and edges, which says nothing about the module.

    Raises:
        ConfigError: the class cannot be imported or made, or gives another number of outputs.
        GraphError: as for `base_from_module`.
    """
    for key in config:
        if key not in _KEYS:
            raise ConfigError(one_of("key of base=module", key, _KEYS))
    module = _made(config.get("target"), config.get("arguments") or {})
    last = read_module(module, next((shape for shape in shapes if shape_taken(module, shape)), shapes[0]))
    if last.copies != outputs:
        raise ConfigError(
            f"base.target={config['target']}: gives {last.copies} outputs, the data wants {outputs}; "
            "change base.arguments or the last layer"
        )
    return to_config(str(config.get("name") or type(module).__name__), last)


def load_module(network: LiftedNetwork, module: nn.Module) -> None:
    """Copy a module's parameters into the lift of degree 1 of its base graph: both then compute the same.

    Args:
        network: over ``sample_lift(base_from_module(module, shape), 1, lifting={"kind": "dense"})``.
        module: whose parameters are read.

    Raises:
        ConfigError: the network is over another lift, or over another base graph.
        GraphError: as for `base_from_module`; or the two differ on random samples.
    """
    lift = network.lift
    if not isinstance(lift, Lift) or lift.degree != 1:
        raise ConfigError(
            f"load_module: a lift of degree {lift.degree}; accepted: sample_lift(base, 1, lifting={{'kind': 'dense'}})"
        )
    base = base_from_module(module, lift.base.input_shape)
    if _computed(base) != _computed(lift.base):
        raise ConfigError(
            f"load_module: the network is a lift of '{lift.base.name}', which is not what {base.name} computes; "
            "make its base by base_from_module"
        )
    drafts = in_order(read_module(module, lift.base.input_shape))
    labels = _labels(drafts, lift)
    state = dict(module.named_parameters())
    with torch.no_grad():
        for draft in drafts:
            for term in named_terms(draft):
                if term.weight is None:
                    continue
                sources, targets = lift.edges(term.source.name, draft.name, term.slot)
                if len(sources) < draft.copies * term.source.copies:
                    raise ConfigError(
                        f"load_module: edge {term.source.name}->{draft.name} keeps {len(sources)} of "
                        f"{draft.copies * term.source.copies} pairs; sample the lift with lifting={{'kind': 'dense'}}"
                    )
                matrix = term.matrix(draft.copies, state)
                kept = matrix[_index(labels[draft.name][targets]), _index(labels[term.source.name][sources])]
                network.weight(term.source.name, draft.name, term.slot).copy_(kept)
            if draft.biases:
                bias = network.bias(draft.name)
                total = sum((one.read(state) for one in draft.biases), torch.zeros(()))
                assert isinstance(total, Tensor)
                shape = (draft.copies, *bias.shape[1:])
                bias.copy_(total.expand(shape)[_index(labels[draft.name])])
    _check_same(network, module, lift.base.input_shape)


def _check_same(network: LiftedNetwork, module: nn.Module, shape: Space) -> None:
    """Compare outputs on random samples, to half the digits of the shorter type."""
    parameter = next(module.parameters())
    x = torch.as_tensor(generator(0, "load_module").standard_normal((_TRIED, *shape)))
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            seen = x.to(parameter).reshape(_TRIED, *(shape_taken(module, shape) or shape))
            wanted, got = module(seen).double().cpu(), network(x.to(network.dtype)).double().cpu()
    finally:
        module.train(training)
    digits = max(torch.finfo(parameter.dtype).eps, torch.finfo(network.dtype).eps) ** 0.5
    scale, error = float(wanted.abs().max()), float((got - wanted).abs().max())
    if not error <= digits * max(scale, 1e-300):
        raise GraphError(
            f"load_module: outputs differ by {error:.3g} on a scale of {scale:.3g} on random samples; module "
            f"{type(module).__name__} computes something that its trace does not show"
        )


def _index(copies: np.ndarray) -> Tensor:
    return torch.as_tensor(copies)


def _labels(drafts: Sequence[DraftVertex], lift: Lift) -> dict[str, np.ndarray]:
    """Which copy of the module each copy of the lift is: matchings have permuted them."""
    matched = [
        (term.source.name, draft.name, lift.edges(term.source.name, draft.name, term.slot))
        for draft in drafts
        for term in named_terms(draft)
        if term.weight is None and term.source.terms
    ]
    labels: dict[str, np.ndarray] = {}
    for draft in drafts:
        frontier = [] if draft.name in labels else [draft.name]
        labels.setdefault(draft.name, np.arange(draft.copies))
        while frontier:
            here = frontier.pop()
            for source, target, (sources, targets) in matched:
                other = {source: target, target: source}.get(here)
                if other is None or other in labels:
                    continue
                near, far = (sources, targets) if here == source else (targets, sources)
                labels[other] = np.empty(len(far), dtype=np.int64)
                labels[other][far] = labels[here][near]
                frontier.append(other)
    return labels


def _computed(base: BaseGraph) -> tuple[object, ...]:
    """What a base graph computes: without name, growth, laws and lifting."""
    vertices = {replace(vertex, growth=1.0, bias_init=Init()) for vertex in base.vertices}
    edges = {replace(edge, lifting=None, init=Init()) for edge in base.edges}
    return vertices, edges, base.input_shape, base.output_size


def _made(target: object, arguments: object) -> nn.Module:
    """The module that a configuration names."""
    where = f"base.target={target}"
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"base.arguments={arguments!r}; accepted: a mapping, e.g. base.arguments={{width: 32}}")
    found = load(target, "base.target")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(f"{where}: is not a torch.nn.Module; name a class that is one")
    try:
        return found(**arguments)
    except RAISED as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ConfigError(
            f"{where}: {found.__name__}({given}) fails: {type(error).__name__}: {first_line(error)}; "
            "mend base.arguments"
        ) from error
