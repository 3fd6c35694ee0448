"""Pilots as tasks of Slurm, submitted by submitit; nothing is asked of it after that but to submit.

What a job's number or its result file says may be an older job's. Which pilots live is asked of Slurm's queue, by a
name that the study's folder gives them.
"""

import getpass
import importlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from rsl_cli.errors import ConfigError, TrainingError, first_line
from rsl_cli.study.store import StudyStore
from rsl_cli.study.studies import study_at

_ANSWER = 60.0
"""Seconds that Slurm has to answer."""
_AT_WORK = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "REQUEUED", "REQUEUE_HOLD", "RESIZING")
_FAREWELL = 30.0
"""Seconds that pilots have to save what they have when told to leave."""
_LEAVE = 90
"""Seconds before its time limit at which a pilot is told to leave."""


class Task:
    """One pilot, as submitit carries it to a node; told that its time is over, it saves, leaves and is queued again."""

    def __init__(self, root: str, threads: int) -> None:
        self.root, self.threads = root, threads
        self._leave, self._pilot = threading.Event(), threading.Thread(target=self._work)
        self._error: BaseException | None = None

    def __reduce__(self) -> tuple[type["Task"], tuple[str, int]]:
        return Task, (self.root, self.threads)

    def __call__(self) -> None:
        """Work until nothing is missing; signals are heard meanwhile, as the work is done by another thread."""
        signal.signal(signal.SIGTERM, lambda *_: self._leave.set())
        self._pilot.start()
        while self._pilot.is_alive():
            self._pilot.join(1.0)
        if self._error is not None:
            raise self._error

    def checkpoint(self) -> Any:
        """What submitit calls when the time is over, or the node is wanted for something else."""
        self._leave.set()
        self._pilot.join(_LEAVE)
        return importlib.import_module("submitit.helpers").DelayedSubmission(Task(self.root, self.threads))

    def _work(self) -> None:
        from rsl_cli.study.pilots import pilot, tell

        try:
            pilot(study_at(self.root), threads=self.threads, leave=self._leave, finished=tell)
        except BaseException as error:
            self._error = error


def check() -> None:
    """Find out whether there is a Slurm here, and what submits to it.

    Raises:
        ConfigError: there is not.
    """
    try:
        importlib.import_module("submitit")
    except ImportError:
        remedy = "pip install 'rsl-cli[slurm]'"
        raise ConfigError(f"executor=slurm needs submitit, which is not installed: {remedy}") from None
    for tool in ("sbatch", "srun", "squeue", "scancel"):
        if shutil.which(tool) is None:
            remedy = "run it where Slurm is, or choose executor=process"
            raise ConfigError(f"executor=slurm: there is no {tool} here; {remedy}")


def alive(store: StudyStore) -> int:
    """How many pilots of a study are queued or run; see `Pilots.alive`."""
    words = ["squeue", "-h", "-r", "-u", getpass.getuser(), "-n", store.pilot_name, "-o", "%T"]
    return sum(state in _AT_WORK for state in _said(words).split())


def start(store: StudyStore, settings: Mapping[str, Any], count: int) -> None:
    """Submit pilots, as one array; see `Pilots.start`."""
    submitit = importlib.import_module("submitit")
    given = {
        "job_name": store.pilot_name,
        "cpus_per_task": settings["cpus"],
        "gpus_per_node": settings["gpus"] or None,
        "mem": None if settings["mem"] is None else f"{round(1024 * settings['mem'])}M",
        "time": settings["time"],
        "partition": settings["partition"],
    }
    options = {str(key).replace("_", "-"): value for key, value in (settings["options"] or {}).items()}
    try:
        # Told to leave so often that a study ends before it.
        executor = submitit.SlurmExecutor(store.pilot_dir, max_num_timeout=10**6)
        executor.update_parameters(
            **{key: value for key, value in given.items() if value is not None},
            signal_delay_s=min(_LEAVE, 60 * settings["time"] // 2),
            wckey=None,
            additional_parameters=options,
        )
        task = Task(store.absolute, settings["cpus"])
        with executor.batch():
            for _ in range(count):
                executor.submit(task)
    except (submitit.core.utils.FailedJobError, OSError, RuntimeError, ValueError) as error:
        said = f"Slurm does not take the pilots: {' '.join(str(error).split())[-300:] or type(error).__name__}"
        raise TrainingError(f"{said}; mend executor.* and run the same line again") from error


def end(store: StudyStore) -> None:
    """Tell a study's pilots to leave, which gives them Slurm's KillWait to save what they have.

    What submitit wrote for them is removed once they have; what they said stays.
    """
    try:
        _said(["scancel", "-u", getpass.getuser(), "-n", store.pilot_name])
        until = time.monotonic() + _FAREWELL
        while (left := alive(store)) and time.monotonic() < until:
            time.sleep(1.0)
    except TrainingError as error:
        print(f"rsl: {error}; `scancel -n {store.pilot_name}` ends the pilots", file=sys.stderr)
        return
    for pattern in () if left else ("*.pkl", "*.sh"):
        for path in store.pilot_dir.glob(pattern):
            path.unlink(missing_ok=True)


def _said(words: list[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TrainingError(f"Slurm does not answer: {words[0]}: {first_line(error)}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[:200]
        raise TrainingError(f"Slurm does not answer: {words[0]} ended with status {done.returncode}: {said}")
    return done.stdout
