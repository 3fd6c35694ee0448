"""Where the items of a study are trained: in this process, or in a pool of processes. Results do not depend on it."""

import json
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rsl_cli.errors import RslError, TrainingError
from rsl_cli.study.machine import prepare
from rsl_cli.study.runner import Item, Progress, work
from rsl_cli.study.spec import StudySpec, refuse_other
from rsl_cli.study.store import RunKey

Finished = Callable[[Item, Mapping[str, str]], None]
"""Called with (item, outcome by run folder) when an item has ended."""


def execute(spec: StudySpec, items: Sequence[Item], progress: Progress, finished: Finished) -> None:
    """Train items by the study's executor; first all that are free, then those other processes held.

    Args:
        spec: the study.
        items: what to train.
        progress: see `Progress`.
        finished: see `Finished`.
    """
    busy: list[Item] = []

    def sort(item: Item, outcome: Mapping[str, str]) -> None:
        held = tuple(key for key in item.keys if outcome[key.directory] == "busy")
        if held:
            busy.append(Item(held))
        finished(item, {name: state for name, state in outcome.items() if state != "busy"})

    workers = min(spec.workers, len(items))
    prepare()
    if workers > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // workers)
        _in_processes(spec, items, workers, threads, progress, sort)
    else:
        for item in items:
            sort(item, work(spec, item, progress))
    for item in busy:
        finished(item, work(spec, item, progress, wait=True))


def _in_processes(
    spec: StudySpec, items: Sequence[Item], workers: int, threads: int, progress: Progress, finished: Finished
) -> None:
    context = multiprocessing.get_context("spawn")
    config = json.dumps(spec.config)
    reports = context.Queue()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (config, threads, reports))
    try:
        # The largest first, so that no long item is left for the end.
        order = sorted(items, key=lambda item: -item.lift)
        pending: dict[Future[dict[str, str]], Item] = {
            pool.submit(_work_there, [(k.lift, k.seed, k.run_id) for k in item.keys]): item for item in order
        }
        while pending:
            done, _ = wait_for(pending, timeout=0.25, return_when="FIRST_COMPLETED")
            _pass_on(reports, progress)
            for future in done:
                finished(pending.pop(future), future.result())
        pool.shutdown()
    except BrokenProcessPool as error:
        raise TrainingError(
            "a worker process died (out of memory?); finished runs are kept, run the same line again with "
            "fewer executor.workers"
        ) from error
    except BaseException:
        # Workers take SIGTERM as the order to leave.
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)
        pool.shutdown(wait=True, cancel_futures=True)
        raise


def _pass_on(reports: Any, progress: Progress) -> None:
    while True:
        try:
            keys, step, steps, loss = reports.get_nowait()
        except queue.Empty:
            return
        progress(Item(tuple(RunKey(*key) for key in keys)), step, steps, loss)


_worker: dict[str, Any] = {}
"""What a worker process keeps between items; empty in every other process."""


def _start_worker(config: str, threads: int, reports: Any) -> None:
    # A pool hands exceptions back and goes on, so that only leaving at once is stopping. Writes are atomic.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare(threads)
    _worker.update(reports=reports, parent=os.getppid())
    try:
        spec = StudySpec.from_config(json.loads(config))
        # A user's part may have been edited since the study was registered.
        refuse_other(spec.store, spec.identity)
        _worker["spec"] = spec
    except RslError as error:
        _worker["error"] = error  # An initializer that raises says nothing to the parent.


def _work_there(keys: Sequence[tuple[int, int, str]]) -> dict[str, str]:
    def progress(item: Item, step: int, steps: int, loss: float) -> None:
        if os.getppid() != _worker["parent"]:
            os._exit(143)  # The parent was killed: training on would hold its locks.
        _worker["reports"].put(([(k.lift, k.seed, k.run_id) for k in item.keys], step, steps, loss))

    if "error" in _worker:
        raise _worker["error"]
    return work(_worker["spec"], Item(tuple(RunKey(*key) for key in keys)), progress)
