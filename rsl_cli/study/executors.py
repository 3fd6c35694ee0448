"""The shipped executors, by name, each with its keys.

What they do is imported when they do it, so that their keys are known without it.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rsl_cli.keys import Keys, nullable, real, whole
from rsl_cli.study.executor import EXECUTORS, Executor, Target, mapping_key, text_key

if TYPE_CHECKING:
    from rsl_cli.study.plan import RunBatch
    from rsl_cli.study.runner import Finished, Progress
    from rsl_cli.study.spec import StudySpec


@EXECUTORS.add("local")
class Local(Executor):
    """One batch after the other in this process."""

    def run(self, spec: "StudySpec", batches: Sequence["RunBatch"], progress: "Progress", finished: "Finished") -> None:
        """See `Executor.run`."""
        from rsl_cli.study.pool import run_here

        run_here(spec, batches, progress, finished)


@EXECUTORS.add("process")
class Process(Executor):
    """Several batches at once, each in a process of this machine."""

    forks = True
    keys: ClassVar[Keys] = {"workers": nullable(whole(None, 1), "one per core").of("never").about("null: one per core")}

    @property
    def workers(self) -> int:
        """See `Executor.workers`."""
        from rsl_cli.study.machine import cores

        return int(self.settings["workers"] or cores())

    def run(self, spec: "StudySpec", batches: Sequence["RunBatch"], progress: "Progress", finished: "Finished") -> None:
        """See `Executor.run`."""
        from rsl_cli.study.pool import run_here

        run_here(spec, batches, progress, finished)


_WORKERS = {
    "workers": whole(4, 1, 1000).of("never").about("pilots at work; unions are cut so that there is work for as many")
}


@EXECUTORS.add("pilots")
class Pilots(Executor):
    """Pilots on any machines that see the study's folder: `rsl work STUDY`, started by hand here.

    They take what is missing from the study itself, and this process follows what the study holds. So pilots may come
    and go, and so may this process. A cluster of another kind is a subclass that starts them: `start`, `alive`, `end`.
    """

    keys: ClassVar[Keys] = _WORKERS
    here = False
    word = "`rsl work {root}` starts one, on any machine that sees that folder"
    """What to say while none is at work."""

    @property
    def neighbours(self) -> int:
        """See `Executor.neighbours`."""
        return 1

    def beginning(self, batches: int) -> str:
        """See `Executor.beginning`."""
        return "waiting for pilots to take runs"

    def alive(self, spec: "StudySpec") -> int | None:
        """How many pilots of the study run or wait to.

        Returns:
            A number from 0; None where that is not known.

        Raises:
            TrainingError: the cluster does not answer.
        """
        return None

    def start(self, spec: "StudySpec", count: int) -> None:
        """Start more pilots.

        Args:
            spec: the study.
            count: how many.

        Raises:
            RslError: they cannot be started.
        """

    def end(self, spec: "StudySpec") -> None:
        """Tell all pilots of the study to save what they have, and to leave."""

    def run(self, spec: "StudySpec", batches: Sequence["RunBatch"], progress: "Progress", finished: "Finished") -> None:
        """See `Executor.run`."""
        from rsl_cli.study.pilots import follow

        follow(self, spec, batches, progress, finished)


_MACHINES = {
    **_WORKERS,
    "cpus": whole(1, 1, 100_000).of("never").about("cores of each"),
    "gpus": whole(0, 0, 10_000).of("never").about("GPUs of each"),
    "mem": nullable(real(None, 0, 1e6, above=True), "the cluster's own default")
    .of("never")
    .about("memory of each in GB; null: the cluster's own default"),
}


class _Cluster(Pilots):
    """Pilots that a cluster runs: a module of functions of its name starts, counts and ends them."""

    @abstractmethod
    def _module(self) -> Any:
        """Imported when it is first needed."""

    def alive(self, spec: "StudySpec") -> int | None:
        """See `Pilots.alive`."""
        return self._module().alive(spec.store)

    def start(self, spec: "StudySpec", count: int) -> None:
        """See `Pilots.start`."""
        self._module().start(spec.store, self.settings, count)

    def end(self, spec: "StudySpec") -> None:
        """See `Pilots.end`."""
        self._module().end(spec.store)


@EXECUTORS.add("slurm")
class Slurm(_Cluster):
    """Pilots as tasks of Slurm, submitted by submitit."""

    keys: ClassVar[Keys] = {
        **_MACHINES,
        "time": whole(60, 1, 10**7)
        .of("never")
        .about("minutes after which Slurm ends a pilot; it saves before that, and is queued again"),
        "partition": nullable(text_key("the name of a partition", "gpu")).about("to submit to; null: the default one"),
        "options": mapping_key("options of sbatch", "{account: mine}").about(
            "any more options of sbatch, e.g. {account: mine, qos: long}"
        ),
    }
    word = "`squeue --me` says whether Slurm has started any, and why not"

    def check(self) -> None:
        """See `Executor.check`."""
        self._module().check()

    def _module(self) -> Any:
        from rsl_cli.study import slurm

        return slurm


@EXECUTORS.add("ray")
class Ray(_Cluster):
    """Pilots as actors of a Ray cluster."""

    keys: ClassVar[Keys] = {
        **_MACHINES,
        "address": text_key("auto, or host:port of the head", "auto", "auto").about(
            "host:port of the cluster's head; auto: the cluster this machine is part of"
        ),
        "options": mapping_key("options of a Ray actor", "{resources: {big: 1}}").about(
            "any more options of an actor, e.g. {resources: {big: 1}}"
        ),
    }
    word = "`ray status` says whether Ray has started any, and what it lacks"

    def check(self) -> None:
        """See `Executor.check`."""
        self._module().connect(self.settings)

    def _module(self) -> Any:
        from rsl_cli.study import ray_actors

        return ray_actors


EXECUTORS.add("target")(Target)
