"""What a study has and lacks, and which of its runs are to train together. It trains and writes nothing."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from rsl_cli.lift import expected_parameters
from rsl_cli.study.identity import refuse_other
from rsl_cli.study.record import Record
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import RunKey, StudyStore
from rsl_cli.study.survey import survey
from rsl_cli.train.trajectory import Stand


@dataclass(frozen=True)
class RunBatch:
    """Runs that train together as one union."""

    keys: tuple[RunKey, ...]

    @property
    def lift(self) -> int:
        """Their largest lift degree."""
        return max(key.lift for key in self.keys)

    @property
    def lifts(self) -> str:
        """Their lift degrees, for people."""
        least = min(key.lift for key in self.keys)
        return f"{self.lift}" if least == self.lift else f"{least}..{self.lift}"


@dataclass(frozen=True)
class StudyPlan:
    """What a study has and lacks.

    Args:
        keys: every run asked for now.
        missing: those that are not done, or not as far as asked for.
        stands: where those stand that have a record.
        parameters: expected P by lift.
        first: whether the first of the missing is to be done alone.
        took: seconds of a run by lift, the median of those that are done.
    """

    keys: tuple[RunKey, ...]
    missing: tuple[RunKey, ...]
    stands: Mapping[RunKey, Stand]
    parameters: Mapping[int, int]
    first: bool = False
    took: Mapping[int, float] = field(default_factory=dict)

    @property
    def to_do(self) -> tuple[RunKey, ...]:
        """What is to be done now."""
        return self.missing[:1] if self.first else self.missing


def make_plan(spec: StudySpec, *, first: bool = False) -> StudyPlan:
    """Compare what is asked for with what is stored; writes nothing.

    Args:
        spec: the study.
        first: see `StudyPlan`.

    Returns:
        Every run with where it stands, and what is missing.

    Raises:
        StoreError: the study's folder computes something else.
    """
    keys = tuple(keys_of(spec))
    found = survey(spec.store, keys).records if spec.store.exists() else {}
    stands = {key: stand for key, record in found.items() if (stand := _stand(record)) is not None}
    missing = tuple(key for key in keys if not is_reached(spec, key, stands.get(key)))
    parameters = {lift: expected_parameters(spec.base, lift, spec.lifting) for lift in spec.lifts}
    took: dict[int, list[float]] = {}
    for key, record in found.items():
        if record.done and record.wall_seconds:
            took.setdefault(key.lift, []).append(record.wall_seconds)
    return StudyPlan(keys, missing, stands, parameters, first, {lift: median(found) for lift, found in took.items()})


def stand_of(store: StudyStore, key: RunKey) -> Stand | None:
    """Where a finished run stands by its record; None if it is not finished."""
    record = store.record(key)
    return record and _stand(record)


def _stand(record: Record) -> Stand | None:
    if not record.done:
        return None
    time, loss = (math.nan if value is None else value for value in (record.flow_time, record.train_loss))
    return Stand(str(record.stop_reason), record.steps or 0, time, loss)


def is_reached(spec: StudySpec, key: RunKey, stand: Stand | None) -> bool:
    """Whether a run stands as far as it is asked for."""
    return stand is not None and spec.trainer_of(key.lift).reaches(stand)


def keys_of(spec: StudySpec) -> list[RunKey]:
    """Every run asked for, under the name it has in the study, which may be from when names said more than today.

    Returns:
        Runs by lift, then seed.

    Raises:
        StoreError: the study's folder computes something else.
    """
    if not spec.store.exists():
        return spec.run_keys()
    refuse_other(spec.store, spec.identity, spec.answers)
    known = {(key.lift, key.seed): key for key in spec.store.planned()}
    return [known.get((key.lift, key.seed), key) for key in spec.run_keys()]


def pack(
    missing: Sequence[RunKey], size: Callable[[int, int], int], may_share: Callable[[Sequence[int]], bool]
) -> list[RunBatch]:
    """Group missing runs into unions, those of each degree shared out.

    Args:
        missing: what is to be done.
        size: how many seeds of a degree one union is to have, given the degree and how many there are.
        may_share: whether runs of these degrees, as many, may be one union.

    Returns:
        Batches of ascending degrees, which together hold each run once.
    """
    fresh: list[tuple[RunKey, ...]] = []
    for lift in sorted({key.lift for key in missing}):
        keys = [key for key in missing if key.lift == lift]
        most = size(lift, len(keys))
        for start in range(0, len(keys), most):
            part = tuple(keys[start : start + most])
            if fresh and may_share([key.lift for key in (*fresh[-1], *part)]):
                fresh[-1] += part
            else:
                fresh.append(part)
    return [RunBatch(keys) for keys in fresh]
