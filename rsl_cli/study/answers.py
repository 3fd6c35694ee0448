"""What a user's parts answer to fixed questions: a few numbers by which another process knows them again.

A part may answer otherwise though its source is the same: it reads a file, goes by the order of a set, or asks for the
process's number. Within one process its contract finds that out; between processes, these numbers do.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from rsl_cli.activations import ACTIVATIONS
from rsl_cli.contracts import drawn, failing
from rsl_cli.errors import LiftError, StoreError
from rsl_cli.graph import BaseGraph, Edge, EdgeLifting, Init, Vertex, slot_key
from rsl_cli.lift import fibre_sizes, lifting_of
from rsl_cli.study.resolve import Resolved
from rsl_cli.study.store import StudyStore
from rsl_cli.train.first_order import FirstOrder
from rsl_cli.train.losses import drawn_outputs
from rsl_cli.vertex_maps import bias_of

Answers = Mapping[str, list[float]]
"""By what the part is and where it stands, e.g. ``map mine.Diagonal of edge h1->h2``; those that ship are not asked."""

_DEGREE, _COPIES, _DRAWS = 32, 64, 64
"""Of the lift between whose fibres liftings are asked, and copies of those at most; numbers drawn of a law."""
_NEAR = 1e-5
"""Of the largest number, how far others may lie apart: other machines round and add up otherwise."""


def base_answers(base: BaseGraph, lifting: EdgeLifting) -> Answers:
    """Answers of a base graph's parts.

    Args:
        base: the graph.
        lifting: for edges that name none.

    Returns:
        Numbers by part.

    Raises:
        GraphError: a part fails, in one line.
    """
    return _answers(_of_base(base, lifting))


def study_answers(study: Resolved, lifting: EdgeLifting) -> Answers:
    """Answers of all parts that determine a study's numbers, but for its data, whose arrays are in its identity.

    Args:
        study: what it is made of.
        lifting: for edges that name none.

    Returns:
        Numbers by part.

    Raises:
        GraphError: a part fails, in one line.
    """
    return _answers([*_of_base(study.base, lifting), *_of_training(study)])


def refuse_changed(store: StudyStore, answers: Answers, before: Answers | None = None) -> None:
    """Refuse parts that answer otherwise than when a study was begun; of earlier versions, studies hold no answers.

    Args:
        store: the study.
        answers: of now.
        before: those of then; None: what the study holds.

    Raises:
        StoreError: one does, in one line.
    """
    known = store.read_study().get("answers", {}) if before is None else before
    for what, kept in known.items():
        apart = np.abs(np.subtract(kept, now)) if len(now := answers.get(what, ())) == len(kept) else np.zeros(1)
        if apart.max() > _NEAR * np.abs(kept).max():
            at = int(apart.argmax())
            raise StoreError(
                f"study '{store.name}' at {store.address}: {what} answers otherwise than when the study was begun "
                f"({kept[at]:.6g} there, {now[at]:.6g} now), though its source is the same; it must not depend on "
                "chance, the process or a file: restore what it reads, or mend it and choose another study=NAME"
            )


_Question = tuple[str, Callable[[], Any]]


def _answers(questions: Iterator[_Question] | list[_Question]) -> Answers:
    found = {}
    for what, ask in questions:
        with failing(what):
            made = ask()
            made = made.detach().cpu() if isinstance(made, torch.Tensor) else made
            numbers = np.nan_to_num(np.asarray(made, dtype=np.float64)).ravel()
        # A few sums stand for all: with these weights hardly any other numbers have the same.
        sums = np.cos(np.outer(np.arange(1, 5), np.arange(1, len(numbers) + 1))) @ numbers
        found[what] = [float(f"{one:.7g}") for one in sums]
    return found


def _of_base(base: BaseGraph, lifting: EdgeLifting) -> Iterator[_Question]:
    fibres = fibre_sizes(base, _DEGREE)
    for edge in base.edges:
        if edge.origin is not None:
            yield f"map {edge.origin.target} of edge {edge.name}", partial(_product, base, edge)
        own = lifting_of(edge, base, lifting)
        if own.origin is not None:
            sizes = [min(fibres[end], _COPIES) for end in (edge.source, edge.target)]
            yield f"lifting {own.origin.target} of edge {edge.name}", partial(_drawn_edges, own, *sizes)
        yield from _of_law(edge.init, f"edge {edge.name}")
    for vertex in base.vertices:
        for key, origin in vertex.origins.items():
            yield f"{key} {origin.target} of vertex {vertex.name}", partial(_PARTS[key], base, vertex)
        yield from _of_law(vertex.bias_init, f"vertex {vertex.name}")


def _of_law(init: Init, where: str) -> Iterator[_Question]:
    if init.origin is not None:
        yield f"law {init.origin.target} of {where}", lambda: init.law.sample(np.random.default_rng(0), (_DRAWS,))


def _of_training(study: Resolved) -> Iterator[_Question]:
    if study.loss_origin is not None:
        yield (
            f"loss {study.loss_origin.target}",
            lambda: study.loss.values(*drawn_outputs(study.loss)),
        )
    trainer, named = study.trainer, study.trainer.identity()
    if isinstance(trainer, FirstOrder) and "source" in named:
        yield f"optimiser {named['target']}", trainer.optimizer.trial


def _product(base: BaseGraph, edge: Edge) -> np.ndarray:
    """What one kept edge makes of an activation, of the size that weights at the start give it."""
    space, draw = base.space(edge.source), np.random.default_rng(0)
    shape = edge.map.weight_shape(space)
    weight = np.ones(1) if shape is None else draw.standard_normal(shape)
    return edge.map.stencil(space).apply(weight, draw.standard_normal(space)) / edge.map.fan_in(space) ** 0.5


def _drawn_edges(lifting: EdgeLifting, n_u: int, n_v: int) -> np.ndarray:
    try:
        lifting.law.check_fibres(n_u, n_v)
    except LiftError:  # What cannot be drawn between these may be between the study's.
        return np.zeros(1)
    ends = lifting.law.sample(np.random.default_rng(0), n_u, n_v)
    return np.concatenate([*ends, [lifting.in_degree or 0.0]])


def _combined(base: BaseGraph, vertex: Vertex) -> Any:
    edges = base.in_edges(vertex.name)
    return vertex.combine({slot_key(e): drawn(e.map.output_space(base.space(e.source))) for e in edges})


def _normalised(base: BaseGraph, vertex: Vertex) -> Any:
    assert vertex.norm is not None
    return vertex.norm(drawn(base.sum_space(vertex.name)))


def _pooled(base: BaseGraph, vertex: Vertex) -> Any:
    assert vertex.pool is not None
    space = base.sum_space(vertex.name)
    return vertex.pool(drawn(space if vertex.norm is None else vertex.norm.space(space)))


_PARTS: Mapping[str, Callable[[BaseGraph, Vertex], Any]] = {
    "activation": lambda _, vertex: ACTIVATIONS.find(vertex.activation)(drawn((5,))),
    "combine": _combined,
    "bias": lambda base, vertex: bias_of(vertex.bias)(base.sum_space(vertex.name)),
    "norm": _normalised,
    "pool": _pooled,
}
"""What is asked of each part of a vertex, by its key."""
