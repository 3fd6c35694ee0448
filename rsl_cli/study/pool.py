"""Training batches on this machine: in this process, or in a pool of processes."""

import json
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

from rsl_cli.data import Dataset
from rsl_cli.errors import TrainingError
from rsl_cli.study.costs import memory
from rsl_cli.study.machine import cores, memory_limit, prepare
from rsl_cli.study.plan import RunBatch
from rsl_cli.study.processes import start
from rsl_cli.study.runner import Finished, Progress, record_failure, work
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.worker import serve

_ROOM = 0.8
"""Share of the memory there is that batches may be expected to take together."""
_TURN = 1.0
"""Seconds after which the parent looks around even if no worker says anything."""
_SILENT, _GIVEN_UP = 60.0, 600.0
"""Seconds of silence after which a worker is called silent, and after which it is ended."""
_FAREWELL = 5.0
"""Seconds that a worker has to leave when told to."""


def run_here(spec: StudySpec, batches: Sequence[RunBatch], progress: Progress, finished: Finished) -> None:
    """Train batches on this machine; first all that are free, then those other processes held.

    Args:
        spec: the study; its executor says in how many processes.
        batches: what to train.
        progress: see `Progress`.
        finished: see `Finished`.
    """
    busy: list[RunBatch] = []

    def sort(batch: RunBatch, outcome: Mapping[str, str]) -> None:
        held = tuple(key for key in batch.keys if outcome[key.directory] == "busy")
        if held:
            busy.append(RunBatch(held))
        finished(batch, {name: state for name, state in outcome.items() if state != "busy"})

    workers = min(spec.executor.workers, len(batches))
    prepare()
    if workers > 1:
        _Pool(spec, workers, progress, sort).run(batches)
    else:
        for batch in batches:
            sort(batch, work(spec, batch, progress))
    for batch in busy:
        finished(batch, work(spec, batch, progress, wait=True))


class _Worker:
    """One process and what it is doing."""

    def __init__(self, config: str, data: Dataset, threads: int) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.process = start(serve, theirs, config, data, threads)
        theirs.close()  # Held by the worker alone, so that its death shows as the end of what it says.
        self.batch: RunBatch | None = None
        self.silent = 0.0

    def start(self, batch: RunBatch) -> None:
        self.batch, self.silent = batch, 0.0
        self.connection.send([(key.lift, key.seed, key.run_id) for key in batch.keys])

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """What it has said; raises EOFError if it is dead."""
        try:
            while self.connection.poll():
                self.silent = 0.0
                yield self.connection.recv()
        except OSError as error:
            raise EOFError from error

    def death(self) -> str:
        """How it died."""
        self.process.join(_FAREWELL)
        code = self.process.exitcode or 0
        return f"by signal {-code}" + (" (out of memory?)" if code == -9 else "") if code < 0 else f"with status {code}"


class _Pool:
    """Workers that take one batch after another. One that dies costs what it held, and no other."""

    def __init__(self, spec: StudySpec, workers: int, progress: Progress, finished: Finished) -> None:
        self.spec, self.most, self.progress, self.finished = spec, workers, progress, finished
        self.config = json.dumps(spec.config)
        self.threads = max(1, cores() // workers)
        self.room = math.inf if spec.device == "cuda" else _ROOM * memory_limit()
        self.free: list[_Worker] = []
        self.busy: list[_Worker] = []
        self.again: list[RunBatch] = []

    def run(self, batches: Sequence[RunBatch]) -> None:
        # The largest first, so that no long batch is left for the end.
        waiting = sorted(batches, key=lambda batch: -batch.lift)
        try:
            while waiting or self.busy or self.again:
                self._hand_out(waiting)
                began = time.monotonic()
                wait([worker.connection for worker in self.busy], timeout=_TURN)
                # While this process was stopped itself nobody was silent.
                passed = min(time.monotonic() - began, 2 * _TURN)
                for worker in list(self.busy):
                    self._listen(worker, passed)
        finally:
            _end([*self.busy, *self.free])

    def _hand_out(self, waiting: list[RunBatch]) -> None:
        while waiting and len(self.busy) < self.most and (batch := self._fitting(waiting)):
            waiting.remove(batch)
            self._start(batch)
        # What a worker died of is tried once more, with the whole machine to itself.
        if self.again and not (waiting or self.busy):
            self._start(self.again[0])

    def _start(self, batch: RunBatch) -> None:
        self.free = [worker for worker in self.free if worker.process.is_alive()]
        worker = self.free.pop() if self.free else _Worker(self.config, self.spec.data, self.threads)
        self.busy.append(worker)
        worker.start(batch)

    def _fitting(self, waiting: Sequence[RunBatch]) -> RunBatch | None:
        """The largest that fits beside what is running; where nothing is, the smallest in any case."""
        left = self.room - sum(self._bytes(worker.batch) for worker in self.busy)
        fits = (batch for batch in waiting if self._bytes(batch) <= left)
        return next(fits, None) or (None if self.busy else min(waiting, key=self._bytes))

    def _bytes(self, batch: RunBatch | None) -> float:
        return sum(memory(self.spec, key.lift) for key in batch.keys) if batch else 0.0

    def _listen(self, worker: _Worker, passed: float) -> None:
        batch, before = worker.batch, worker.silent
        assert batch is not None
        worker.silent += passed
        try:
            for message in worker.messages():
                match message:
                    case ("progress", *figures):
                        self.progress(batch, *figures)
                    case ("done", outcome):
                        self.busy.remove(worker)
                        self.free.append(worker)
                        self.again = [one for one in self.again if one is not batch]
                        self.finished(batch, outcome)
                        return
                    case ("error", error):
                        raise error
                    case ("alive",):
                        pass
                    case _:
                        raise TrainingError(
                            f"worker process {worker.process.pid} says {message!r}, which no worker does"
                        )
        except EOFError:
            self.busy.remove(worker)
            self._lost(batch, worker.death())
            return
        if before < _SILENT <= worker.silent:
            print(
                f"rsl: worker process {worker.process.pid}, at lift {batch.lifts}, is silent for {_SILENT:.0f} s; if "
                f"it was stopped, `kill -CONT {worker.process.pid}` lets it go on; it is ended after {_GIVEN_UP:.0f} s",
                file=sys.stderr,
            )
        if worker.silent > _GIVEN_UP:
            worker.process.kill()

    def _lost(self, batch: RunBatch, death: str) -> None:
        """A worker died: what it held is tried again alone, run by run, and fails if that is deadly too."""
        if batch not in self.again:
            self.again += [RunBatch((key,)) for key in batch.keys]
            print(
                f"rsl: a worker process died {death}, training lift {batch.lifts}; tried again alone", file=sys.stderr
            )
            return
        self.again.remove(batch)
        (key,) = batch.keys
        error = TrainingError(f"its worker process died {death}, with no other beside it; finished runs are kept")
        self.finished(batch, {key.directory: record_failure(self.spec, key, error)})


def _end(workers: Sequence[_Worker]) -> None:
    """Tell workers to leave, and end those that do not: a stopped one hears nothing."""
    for worker in workers:
        worker.connection.close()
        worker.process.terminate()
    deadline = time.monotonic() + _FAREWELL
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join(_FAREWELL)
