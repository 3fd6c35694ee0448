"""What a lift costs before it is made, arithmetic and memory, by expected numbers of edges; and who trains together."""

import math
from collections import Counter
from collections.abc import Sequence

import torch

from rsl_cli.circuits import has_circuits
from rsl_cli.errors import ConfigError
from rsl_cli.kernels.strip import BYTES
from rsl_cli.lift import expected_parameters, fibre_sizes, mean_in_degree
from rsl_cli.study.estimate import flops, sizes_of
from rsl_cli.study.machine import memory_limit
from rsl_cli.study.plan import RunBatch, pack
from rsl_cli.study.record import RunKey
from rsl_cli.study.spec import StudySpec
from rsl_cli.train.objective import samples_at_once
from rsl_cli.train.settings import AUTO
from rsl_cli.train.trainer import Sizes

_KEPT = 5
"""Copies of a vertex's numbers alive at the peak, backward: sums, activations and gradients. Measured: 4 to 6."""
_CIRCUIT_PARAMETER = 110
"""Bytes of a parameter and its entry: index arrays, as they are made; the trainer's state. Measured."""
_LAUNCH = 1e8
"""Floating-point operations of a pass, some milliseconds' worth, that make its calls a small part of it."""
_ROOM = 0.5
"""Share of the memory there is that unions may be expected to take."""
_RATE, _CALL = 1e11, 2e-5
"""Floating-point operations a second, and seconds of a step without any, that few machines better."""
_LONG = 7 * 86400.0
"""Seconds from which a study is too long to begin without being told to."""
_MATRICES = 3
"""Of a matrix: itself, shifted and factored, and the residuals' curvature."""
_SUBSET = 512
"""Samples of the Gauss-Newton matrix, mostly."""


def memory(spec: StudySpec, degree: int) -> float:
    """Bytes that training one seed takes, within a factor of two.

    Weights with their gradient and the trainer's state, index arrays, what a pass over as many samples as are taken at
    once keeps of each vertex (by circuits, two strips of each row), and for implicit trainers their matrix and its
    Jacobian, with the pass it comes from.

    Returns:
        Bytes, by expected numbers of edges.
    """
    item = 8 if spec.trainer.dtype == "float64" else 4
    base, fibres = spec.base, fibre_sizes(spec.base, degree)
    edges = sum(fibres[e.target] * mean_in_degree(e, base, spec.lifting, fibres) for e in base.edges)
    parameters = expected_parameters(base, degree, spec.lifting)
    numbers = sum(n * math.prod(base.sum_space(v)) for v, n in fibres.items())
    implicit = _of_matrix(spec, degree) + (_KEPT * numbers * _SUBSET * item if _matrix(spec, degree) else 0)
    if _by_circuits(spec):
        entries = max(parameters, int(flops(base, degree, spec.lifting) / 2))
        return implicit + _CIRCUIT_PARAMETER * entries + 2 * numbers * BYTES
    samples = samples_at_once(base, fibres)
    samples = max(samples, spec.trainer.batch_size or 0)
    kept = _KEPT * numbers * min(samples, spec.data.samples) * item
    return spec.trainer.copies * parameters * item + max(kept, implicit) + 28 * edges


def check_affordable(spec: StudySpec, missing: Sequence[RunKey]) -> None:
    """Say before anything starts what a study would take, if that is beyond this machine or beyond a week.

    Raises:
        ConfigError: it would, and ``force`` is not set.
    """
    counts = Counter(key.lift for key in missing)
    if not counts or spec.config["force"]:
        return
    largest = max(counts, key=lambda lift: memory(spec, lift))
    need, there = memory(spec, largest), _memory_there(spec) * spec.executor.neighbours
    if not spec.executor.here:
        there = math.inf  # Other machines' is not known here.
    seconds = sum(count * _least_seconds(spec, lift) for lift, count in counts.items()) / spec.executor.workers
    if need > there or seconds > _LONG:
        raise ConfigError(
            f"this study is expected to take {need / 2**30:.3g} GB at lift {largest}, where this machine has "
            f"{there / 2**30:.3g}, and at least {seconds / 3600:.3g} h; ask for fewer or smaller lifts, or steps, "
            f"{_without_matrix(spec, largest, there)}or begin with force=true"
        )


def _least_seconds(spec: StudySpec, degree: int) -> float:
    """What training one run takes at the very least: all its steps at a rate that few machines reach."""
    return spec.trainer_of(degree).least_steps() * max(_work(spec, degree) / _RATE, _CALL)


def _without_matrix(spec: StudySpec, degree: int, there: float) -> str:
    """The way out where it is a matrix that takes the memory, and what is beside it fits."""
    parameters, formed = expected_parameters(spec.base, degree, spec.lifting), _of_matrix(spec, degree)
    other = AUTO["classes" if spec.data.task == "classification" else "dear"]["name"]
    helps = formed > memory(spec, degree) / 2 and memory(spec, degree) - formed <= there
    return f"or trainer={other}, which forms no matrix of P = {parameters:,} parameters, " if helps else ""


def effort(spec: StudySpec, degree: int) -> float:
    """Operations that training one seed takes, up to a factor that is much the same for all lifts of a study."""
    return spec.trainer_of(degree).effort(_sizes(spec, degree))


def _of_matrix(spec: StudySpec, degree: int) -> float:
    """Bytes of the trainer's matrix and of the Jacobian behind it, which is kept whole where its columns are fewer."""
    parameters, matrix = expected_parameters(spec.base, degree, spec.lifting), _matrix(spec, degree)
    columns = matrix if matrix < parameters else _SUBSET
    return 8 * (2 * parameters * columns + _MATRICES * matrix**2) if matrix else 0.0


def _matrix(spec: StudySpec, degree: int) -> int:
    """Side of the matrix that the trainer mostly forms for a lift; 0 where it forms none."""
    return spec.trainer.matrix(_sizes(spec, degree))


def _sizes(spec: StudySpec, degree: int) -> Sizes:
    return sizes_of(spec.base, degree, spec.lifting, spec.data)


def unions(spec: StudySpec, missing: Sequence[RunKey]) -> list[RunBatch]:
    """What a study lacks as batches, each as many runs as are well trained together."""
    return pack(
        missing,
        lambda lift, seeds: union_size(spec, lift, seeds),
        lambda lifts: may_share(spec, lifts, len(missing)),
    )


def union_size(spec: StudySpec, degree: int, seeds: int) -> int:
    """How many of a degree's seeds to train as one union.

    Circuits gain nothing from company; one process takes all of them, so that threads share them. Products by autograd
    share their calls: as many seeds as make those calls cheap, have room in memory, and leave work for every process.

    Returns:
        A number from 1.
    """
    if _by_circuits(spec):
        return seeds if spec.executor.workers == 1 else 1
    if spec.trainer.alone:
        return 1
    useful = math.ceil(_LAUNCH / _work(spec, degree))
    shared = math.ceil(seeds / spec.executor.workers)
    return max(1, min(useful, shared, int(_ROOM * _memory_there(spec) / memory(spec, degree))))


def may_share(spec: StudySpec, degrees: Sequence[int], runs: int) -> bool:
    """Whether runs of several degrees are to train as one union.

    They are where their calls cost more than their arithmetic, and take as many steps: under first-order trainers.
    Degrees whose passes over all samples are cut elsewhere stay apart, since a cut decides how a sum is rounded.

    Args:
        spec: the study.
        degrees: of each run of the union.
        runs: how many there are to share out among processes.

    Returns:
        Whether to.
    """
    if not spec.trainer.in_step or _by_circuits(spec) or spec.trainer.alone:
        return False
    return (
        len(degrees) <= math.ceil(runs / spec.executor.workers)
        and len({samples_at_once(spec.base, fibre_sizes(spec.base, degree)) for degree in degrees}) == 1
        and sum(_work(spec, degree) for degree in degrees) <= _LAUNCH
        and sum(memory(spec, degree) for degree in degrees) <= _ROOM * _memory_there(spec)
    )


def _by_circuits(spec: StudySpec) -> bool:
    known = spec.loss.circuit is not None and has_circuits(spec.base, str(spec.config["parametrization"]))
    return spec.device == "cpu" and known and not spec.trainer.alone


def _work(spec: StudySpec, degree: int) -> float:
    """Floating-point operations of a pass, forward and back."""
    samples = samples_at_once(spec.base, fibre_sizes(spec.base, degree))
    samples = min(spec.trainer.batch_size or samples, samples)
    return 3 * flops(spec.base, degree, spec.lifting) * samples


def _memory_there(spec: StudySpec) -> float:
    """Bytes for each process."""
    if spec.device == "cuda":
        return torch.cuda.mem_get_info()[0] / spec.executor.neighbours
    return memory_limit() / spec.executor.neighbours
