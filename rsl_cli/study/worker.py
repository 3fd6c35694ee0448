"""A worker process of a study. It ends with its parent, whatever it is doing then, importing included.

So nothing heavy is imported here before the process is tied to its parent.
"""

import json
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection, wait
from typing import Any

from rsl_cli.garbage import unswept

BEAT_SECONDS = 2.0
"""How often a worker says that it is alive."""


def serve(connection: Connection, config: str, data: Any, threads: int) -> None:
    """Train what comes through a connection until it is closed.

    Args:
        connection: brings lists of (lift, seed, run_id). Takes ``("alive",)``, ``("progress", step, steps, loss)`` and,
            at the end of each batch, ``("done", outcome by run folder)`` or ``("error", exception)``.
        config: the study's, as JSON.
        data: the study's dataset, read once by the parent.
        threads: cores to use.
    """
    # A terminal's Ctrl-C is the parent's to hear. Writes are atomic, so that leaving at once is safe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    one_at_a_time = threading.Lock()

    def send(*message: Any) -> None:
        with one_at_a_time:
            connection.send(message)

    threading.Thread(target=_beat, args=(send,), daemon=True).start()
    with unswept(for_good=True):
        from rsl_cli.errors import RAISED, RslError, TrainingError
        from rsl_cli.study.identity import refuse_other
        from rsl_cli.study.machine import prepare
        from rsl_cli.study.plan import RunBatch
        from rsl_cli.study.runner import work
        from rsl_cli.study.spec import StudySpec
        from rsl_cli.study.store import RunKey

    prepare(threads)
    spec: StudySpec | None = None
    while True:
        try:
            keys = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            if spec is None:
                spec = StudySpec.from_config(json.loads(config), data)
                # A user's part may have been edited since the study was registered.
                refuse_other(spec.store, spec.identity, spec.answers)
            batch = RunBatch(tuple(RunKey(*key) for key in keys))
            outcome = work(spec, batch, lambda _, step, steps, loss: send("progress", step, steps, loss))
            send("done", outcome)
        except RslError as error:
            send("error", error)
        except RAISED as error:
            send("error", TrainingError(f"a worker process failed: {type(error).__name__}: {error}"))


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    # A pipe whose other end the parent alone holds: it is closed by any death, one before this line included.
    wait([parent.sentinel])
    os._exit(143)


def _beat(send: Any) -> None:
    while True:
        send("alive")
        time.sleep(BEAT_SECONDS)
