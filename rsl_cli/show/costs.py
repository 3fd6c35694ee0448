"""What a lift costs before it is made: arithmetic and memory, by expected numbers of edges."""

import math

from rsl_cli.graph import BaseGraph, EdgeLifting
from rsl_cli.lift import expected_parameters, fibre_sizes, lifting_of, mean_in_degree
from rsl_cli.study.spec import StudySpec
from rsl_cli.train.first_order import FirstOrder
from rsl_cli.vertex_maps import Attention

_CHUNK = 4096
"""Samples of one pass where a trainer takes all of them."""


def flops(base: BaseGraph, degree: int, lifting: EdgeLifting) -> float:
    """Floating-point operations of a forward pass for one sample: two for each multiply-add of all kept edges.

    Attention's products are counted; activations, norms, pooling and sums are not. A training step is three times it.
    """
    fibres, total = fibre_sizes(base, degree), 0.0
    for edge in base.edges:
        kept = fibres[edge.target] * mean_in_degree(edge, base, lifting_of(edge, base, lifting), fibres[edge.source])
        stencil = base.stencil(edge)
        total += 2 * kept * len(stencil.tap) * stencil.width if base.weight_shape(edge) is not None else 0
    for vertex in base.vertices:
        if isinstance(vertex.combine, Attention):
            q, k, v = (
                edge.map.output_space(base.space(edge.source))
                for slot in vertex.combine.slots
                for edge in base.in_edges(vertex.name)
                if edge.slot == slot
            )
            total += 2 * fibres[vertex.name] * q[0] * k[0] * (q[1] + v[1])
    return total


def memory(spec: StudySpec, degree: int) -> float:
    """Bytes that training one seed takes, roughly.

    Weights with their gradient and the trainer's state, index arrays, a batch's activations and their gradients, and
    for implicit trainers the matrix they solve with.
    """
    item = 8 if spec.trainer.dtype == "float64" else 4
    first_order = isinstance(spec.trainer, FirstOrder)
    batch_size = spec.trainer.batch_size if isinstance(spec.trainer, FirstOrder) else None
    batch = min(batch_size or _CHUNK, spec.data.samples)
    base, fibres = spec.base, fibre_sizes(spec.base, degree)
    edges = sum(
        fibres[e.target] * mean_in_degree(e, base, lifting_of(e, base, spec.lifting), fibres[e.source])
        for e in base.edges
    )
    parameters = expected_parameters(base, degree, spec.lifting)
    numbers = sum(n * math.prod(base.sum_space(v)) for v, n in fibres.items())
    side = 0 if first_order else min(parameters, spec.data.samples * spec.data.outputs)
    return 4 * parameters * item + 28 * edges + 3 * numbers * batch * item + 2 * side**2 * item
