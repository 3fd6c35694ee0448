"""Pilots: workers that take what a study lacks from its folder; and the process that follows what they do.

Neither needs the other. The folder is the truth: what a cluster says of a task, that it ended or how, is never taken
for a result.
"""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from rsl_cli.data import Dataset
from rsl_cli.errors import TrainingError
from rsl_cli.study.costs import unions
from rsl_cli.study.executor import EXECUTORS, SHARED
from rsl_cli.study.leases import Holder, holders, sweep
from rsl_cli.study.machine import prepare
from rsl_cli.study.plan import RunBatch, is_reached, make_plan, stand_of
from rsl_cli.study.runner import Finished, LeavingError, Progress, work
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import RunKey, StudyStore

if TYPE_CHECKING:
    from rsl_cli.study.executors import Pilots

_LOOK = 2.0
"""Seconds between two looks at the folder, at least; as a look takes no more than a tenth of the time."""
_WORD = 60.0
"""Seconds of nothing after which that is said."""
_GIVEN_UP = 600.0
"""Seconds without an answer of the cluster, and without anyone at work, after which there is none."""
_FRUITLESS = 5
"""How many times all pilots may be started anew without any of them saving anything."""


@dataclass
class Tally:
    """What one pilot did: folders of the runs that it finished, and of those that failed."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def pilot(
    store: StudyStore,
    *,
    threads: int | None = None,
    idle: float | None = None,
    leave: threading.Event | None = None,
    progress: Progress | None = None,
    finished: Finished | None = None,
) -> Tally:
    """Train what a study lacks, of every grid it was ever asked for, the latest first, the largest lifts first.

    Args:
        store: the study, made by `rsl run`.
        threads: cores to use; None: all.
        idle: seconds without anything to train after which to leave; None: once nothing is missing.
        leave: once set, what is being trained is saved, and given back.
        progress: see `Progress`.
        finished: see `Finished`.

    Returns:
        What it did. A run that fails stops no other, and is not tried again.

    Raises:
        RslError: the study cannot be read or written.
    """
    prepare(threads)
    leave, tally, began = leave or threading.Event(), Tally(), store.now()
    grids: dict[int, StudySpec] = {}
    useful = time.monotonic()
    while not leave.is_set():
        todo = _todo(store, grids, began)
        if not todo and idle is None:
            break
        for spec, batch in todo:
            try:
                outcome = work(spec, batch, progress, leave=leave)
            except LeavingError:
                return tally
            own = {name: state for name, state in outcome.items() if state in ("done", "failed")}
            if own:
                useful = time.monotonic()
                tally.done += [name for name, state in own.items() if state == "done"]
                tally.failed += [name for name, state in own.items() if state == "failed"]
                if finished is not None:
                    finished(batch, own)
            if leave.is_set() or len(grids) != store.grid_count():
                break  # The study has grown: what was asked for last comes first.
        else:
            if idle is not None and time.monotonic() - useful > idle:
                break
            leave.wait(_LOOK)
    sweep(store.leases)
    return tally


def tell(batch: RunBatch, outcome: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Note what a pilot has finished, a line for each run; see `Finished`."""
    for name, state in outcome.items():
        print(time.strftime("%Y-%m-%d %H:%M:%S"), state, name, file=stream, flush=True)


def _todo(store: StudyStore, grids: dict[int, StudySpec], began: float) -> list[tuple[StudySpec, RunBatch]]:
    """What is missing and has not failed since a time, the latest grid first."""
    todo, seen = [], set()
    stored = store.grids()
    for number in reversed(range(len(stored))):
        if number not in grids:
            same = next((spec.data for spec in grids.values()), None)
            grids[number] = _spec_of(store, stored[number], same)
        spec = grids[number]
        keys = [key for key in make_plan(spec).missing if key not in seen and not _failed_since(store, key, began)]
        seen.update(keys)
        todo += [(spec, batch) for batch in sorted(unions(spec, keys), key=lambda batch: -batch.lift)]
    return todo


def _spec_of(store: StudyStore, grid: Mapping[str, Any], data: Dataset | None) -> StudySpec:
    """A grid of a study as a study, to be trained by pilots."""
    executor = dict(grid["config"].get("executor") or {"name": "process"})
    kind = EXECUTORS.get(str(executor.get("name")))
    if kind is None or kind.here:
        executor = {"name": "pilots", **{key: executor[key] for key in SHARED if key in executor}}
    plan = grid["plan"]
    own = {"lift": plan["lifts"], "seeds": plan["seeds"], "results_dir": store.results_dir, "study": store.name}
    return StudySpec.from_config({**grid["config"], **own, "executor": executor}, data)


def follow(
    executor: "Pilots", spec: StudySpec, batches: Sequence[RunBatch], progress: Progress, finished: Finished
) -> None:
    """Have pilots train batches: start them, replace those that died, and follow the study's folder until all is done.

    Args:
        executor: starts pilots and counts them.
        spec: the study.
        batches: what to wait for.
        progress: see `Progress`.
        finished: see `Finished`.

    Raises:
        TrainingError: pilots are started again and again, and none saves anything.
        RslError: they cannot be started, or the folder cannot be read or written.
    """
    store, began = spec.store, spec.store.now()
    missing = {key for batch in batches for key in batch.keys}
    crew = _Crew(executor, spec, began)
    try:
        while missing:
            look = time.monotonic()
            store.check_there()
            held = holders(store.leases)
            ended = _ended(spec, missing, began)
            for key, state in ended.items():
                missing.discard(key)
                finished(RunBatch((key,)), {key.directory: state})
            _report(missing, held, progress)
            if missing:
                saved = store.saved_at(key for key in missing if key.directory in held)
                crew.keep(len(missing), at_work=bool(ended or held), ended=bool(ended), saved=saved)
                time.sleep(max(_LOOK, 9 * (time.monotonic() - look)))
    finally:
        executor.end(spec)


class _Crew:
    """The pilots of one study: counted, started anew when they have ended, given up where that helps nothing."""

    def __init__(self, executor: "Pilots", spec: StudySpec, began: float) -> None:
        self.executor, self.spec, self.saved = executor, spec, began
        self.started = self.fruitless = 0
        self.worked = self.answered = self.said = time.monotonic()

    def keep(self, missing: int, *, at_work: bool, ended: bool, saved: float) -> None:
        """See to it that there are as many as are wanted, and say once a minute if none is at work.

        Args:
            missing: runs.
            at_work: whether any are held, or were until now.
            ended: whether any have ended.
            saved: when any of those held last saved what they go on from.

        Raises:
            TrainingError: none of those started saved anything, or the cluster has not answered for long.
        """
        now, root = time.monotonic(), self.spec.store.address
        if at_work:
            self.worked = now
        if ended or saved > self.saved:
            self.fruitless, self.saved = 0, saved
        try:
            alive = self.executor.alive(self.spec)
            self.answered = now
        except TrainingError as error:
            if now - max(self.answered, self.worked) > _GIVEN_UP:
                raise
            self._say(f"{error}; asked again")
            return
        lacking = 0 if alive is None else max(0, min(self.executor.workers, missing) - alive)
        if lacking and self.fruitless > _FRUITLESS * self.executor.workers:
            raise TrainingError(
                f"{self.fruitless} pilots were started and ended, and none saved anything; see what they wrote in "
                f"{self.spec.store.pilot_dir}, or `rsl work {root}` here"
            )
        if lacking:
            if self.started:
                self.spec.store.check_room()
            self.executor.start(self.spec, lacking)
            if self.started:
                print(f"rsl: {lacking} pilots have ended; as many are started anew", file=sys.stderr)
            self.started, self.fruitless = self.started + lacking, self.fruitless + lacking
        elif now - self.worked > _WORD:
            self._say(f"{missing} runs are missing, and no pilot is at work: {self.executor.word.format(root=root)}")

    def _say(self, word: str) -> None:
        if time.monotonic() - self.said > _WORD:
            self.said = time.monotonic()
            print(f"rsl: {word}", file=sys.stderr)


def _ended(spec: StudySpec, keys: set[RunKey], began: float) -> dict[RunKey, str]:
    """Which runs are as far as asked for, or have failed since a time."""
    found = {}
    for key in sorted(keys, key=lambda key: (-key.lift, key.seed)):
        if is_reached(spec, key, stand_of(spec.store, key)):
            found[key] = "done"
        elif _failed_since(spec.store, key, began):
            found[key] = "failed"
    return found


def _report(missing: set[RunKey], held: Mapping[str, Holder], progress: Progress) -> None:
    """Tell how far those are who train, each batch once."""
    batches: dict[tuple[str, int], list[RunKey]] = {}
    for key in missing:
        if key.directory in held:
            holder = held[key.directory]
            batches.setdefault((holder.machine, holder.process), []).append(key)
    for keys in batches.values():
        note = held[keys[0].directory].note
        if note:
            progress(RunBatch(tuple(keys)), int(note["step"]), int(note["steps"]), float(note["loss"]))


def _failed_since(store: StudyStore, key: RunKey, began: float) -> bool:
    return store.failed_at(key) >= began
