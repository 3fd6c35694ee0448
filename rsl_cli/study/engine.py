"""What trains the batches of a study: executors, by name, each with its keys. Results do not depend on which.

It knows no study: what an executor does is imported when it does it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rsl_cli.errors import RAISED, ConfigError, first_line
from rsl_cli.keys import Key, Keys, nullable, read_keys, real, whole
from rsl_cli.registry import Registry, load, plain_arguments
from rsl_cli.study.machine import cores

if TYPE_CHECKING:
    from rsl_cli.study.executors import Finished
    from rsl_cli.study.plan import RunBatch
    from rsl_cli.study.runner import Progress
    from rsl_cli.study.spec import StudySpec


class Executor(ABC):
    """What trains batches; one of a user's own is a subclass, named by ``executor=target executor.target=mine.Own``.

    Args:
        settings: its ``keys``, checked, and those that all executors have.
    """

    keys: ClassVar[Keys] = {}
    """Its own keys."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)

    @classmethod
    def declared(cls) -> Keys:
        """All keys that a configuration of it has beside its name."""
        return {**cls.keys, **SHARED}

    @property
    def workers(self) -> int:
        """How many batches are trained at once: unions are cut so that there is work for all."""
        return int(self.settings.get("workers") or 1)

    @property
    def neighbours(self) -> int:
        """How many of them share the memory of one machine."""
        return self.workers

    def beginning(self, batches: int) -> str:
        """What is done, of so many batches, before the first run moves; for people."""
        compiles, workers = "compiling kernels, unless that was done before on this machine", min(self.workers, batches)
        return f"starting {workers} worker processes, which import torch; {compiles}" if workers > 1 else compiles

    def check(self) -> None:
        """Find out, before anything is written, whether it can be had here.

        Raises:
            ConfigError: it cannot, in one line.
        """
        return

    @abstractmethod
    def run(self, spec: "StudySpec", batches: Sequence["RunBatch"], progress: "Progress", finished: "Finished") -> None:
        """Train batches; returns when each of their runs is done, or has failed.

        Args:
            spec: the study.
            batches: what to train, the smallest lifts first.
            progress: to be called while a batch trains.
            finished: to be called once with each run.

        Raises:
            RslError: it cannot go on.
        """


EXECUTORS: Registry[type[Executor]] = Registry("executor")

SHARED: Keys = {
    "checkpoint_seconds": real(30.0, 0, above=True)
    .of("never")
    .about("between two notes of how far a run has come, from which it goes on when it was stopped"),
    "lease_seconds": real(60.0, 1, 86400)
    .of("never")
    .about("after which others take over what a process trains that says nothing any more"),
}
"""Keys of all executors."""


def _text(accepted: str, example: str, default: str | None = None) -> Key:
    """A key whose value is text that is not empty."""

    def read(value: Any) -> str:
        if isinstance(value, bool | Mapping | list) or value is None or not str(value).strip():
            raise ValueError
        return str(value)

    return Key(default, accepted, example, read, text="text").of("never")


def _mapping(what: str, example: str) -> Key:
    def read(value: Any) -> dict[str, Any]:
        try:
            return plain_arguments("executor", value)
        except ConfigError as error:
            raise ValueError from error

    return nullable(Key(None, f"a mapping of {what}", example, read)).of("never")


@EXECUTORS.add("local")
class Local(Executor):
    """One batch after the other in this process."""

    def run(self, spec: "StudySpec", batches: Sequence["RunBatch"], progress: "Progress", finished: "Finished") -> None:
        """See `Executor.run`."""
        from rsl_cli.study.executors import run_here

        run_here(spec, batches, progress, finished)


@EXECUTORS.add("process")
class Process(Executor):
    """Several batches at once, each in a process of this machine."""

    keys: ClassVar[Keys] = {"workers": nullable(whole(None, 1), "one per core").of("never").about("null: one per core")}

    @property
    def workers(self) -> int:
        """See `Executor.workers`."""
        return int(self.settings["workers"] or cores())

    def run(self, spec: "StudySpec", batches: Sequence["RunBatch"], progress: "Progress", finished: "Finished") -> None:
        """See `Executor.run`."""
        from rsl_cli.study.executors import run_here

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
        "partition": nullable(_text("the name of a partition", "gpu")).about("to submit to; null: the default one"),
        "options": _mapping("options of sbatch", "{account: mine}").about(
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
        "address": _text("auto, or host:port of the head", "auto", "auto").about(
            "host:port of the cluster's head; auto: the cluster this machine is part of"
        ),
        "options": _mapping("options of a Ray actor", "{resources: {big: 1}}").about(
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


@EXECUTORS.add("target")
class Target(Executor):
    """An executor of a user's own."""

    keys: ClassVar[Keys] = {
        "target": nullable(_text("package.Class of a rsl_cli.Executor", "mine.Own")).about("needed: package.Class"),
        "arguments": _mapping("its own keys", "{workers: 4}").about("its own keys, e.g. {workers: 4}; null: none"),
    }

    def run(self, spec: "StudySpec", batches: Sequence["RunBatch"], progress: "Progress", finished: "Finished") -> None:
        """Never: `make_executor` makes the one that is named."""
        raise NotImplementedError


def read_executor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check an executor's configuration and fill in its defaults.

    Returns:
        ``name`` and every key of the executor.

    Raises:
        ConfigError: an unknown executor, key or value.
    """
    kind = EXECUTORS.find(str(config.get("name")), "executor")
    settings = {"name": str(config["name"]), **read_keys("executor.", _executor_class(kind).declared(), config)}
    make_executor(settings)
    return settings


def make_executor(settings: Mapping[str, Any]) -> Executor:
    """The executor of a configuration that `read_executor` has read.

    Returns:
        One that has started nothing yet.

    Raises:
        ConfigError: one of a user's own that cannot be made.
    """
    kind = EXECUTORS.find(settings["name"], "executor")
    if not issubclass(kind, Target):
        return kind(settings)
    target = settings["target"]
    own = EXECUTORS[target] if target in EXECUTORS else load(target, "executor.target")
    arguments = read_keys("executor.arguments.", _executor_class(own).keys, settings["arguments"] or {}, also=())
    try:
        made = own({**arguments, **{key: settings[key] for key in SHARED}})
    except RAISED as error:
        raise ConfigError(
            f"executor.target={settings['target']}: {type(error).__name__}: {first_line(error)}"
        ) from error
    return made


def _executor_class(kind: object) -> type[Executor]:
    if not (isinstance(kind, type) and issubclass(kind, Executor)):
        raise ConfigError(f"executor {kind!r}; accepted: a subclass of rsl_cli.Executor, or of rsl_cli.Pilots")
    if not all(isinstance(spec, Key) for spec in kind.keys.values()):
        raise ConfigError(f"executor {kind.__qualname__}: keys={kind.keys!r}; accepted: a mapping to rsl_cli.keys.Key")
    return kind
