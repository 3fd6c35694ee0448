"""What trains the batches of a study: an executor, found by name, with its keys. Results do not depend on which.

It knows no study and none of those that ship: `rsl_cli.study` registers them, as a plug-in does its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rsl_cli.claims import check_claims, check_method
from rsl_cli.errors import RAISED, ConfigError, first_line
from rsl_cli.keys import Key, Keys, nullable, read_keys, real
from rsl_cli.registry import Registry, load, plain_arguments

if TYPE_CHECKING:
    from rsl_cli.study.plan import RunBatch
    from rsl_cli.study.runner import Finished, Progress
    from rsl_cli.study.spec import StudySpec


class Executor(ABC):
    """What trains batches; one of a user's own is a subclass, named by ``executor=target executor.target=mine.Own``.

    Args:
        settings: its ``keys``, checked, and those that all executors have.
    """

    keys: ClassVar[Keys] = {}
    """Its own keys."""
    here: ClassVar[bool] = True
    """Whether it trains on this machine, whose memory is known."""
    forks: ClassVar[bool] = False
    """Whether it starts processes of rsl's own here, which can get ready while this one still does."""

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


def text_key(accepted: str, example: str, default: str | None = None) -> Key:
    """A key whose value is text that is not empty."""

    def read(value: Any) -> str:
        if isinstance(value, bool | Mapping | list) or value is None or not str(value).strip():
            raise ValueError
        return str(value)

    return Key(default, accepted, example, read, text="text").of("never")


def mapping_key(what: str, example: str) -> Key:
    """A key whose value is a mapping that a file can hold, or null."""

    def read(value: Any) -> dict[str, Any]:
        try:
            return plain_arguments("executor", value)
        except ConfigError as error:
            raise ValueError from error

    return nullable(Key(None, f"a mapping of {what}", example, read)).of("never")


class Target(Executor):
    """An executor of a user's own."""

    keys: ClassVar[Keys] = {
        "target": nullable(text_key("package.Class of a rsl_cli.Executor", "mine.Own")).about("needed: package.Class"),
        "arguments": mapping_key("its own keys", "{workers: 4}").about("its own keys, e.g. {workers: 4}; null: none"),
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
    what = f"executor {own.__qualname__}"
    check_claims(made, Executor, what)
    if min(made.workers, made.neighbours) < 1:
        raise ConfigError(f"{what}: workers={made.workers}, neighbours={made.neighbours}; accepted: numbers from 1")
    check_method(made, Executor, "beginning", 1, what=what)
    return made


def _executor_class(kind: object) -> type[Executor]:
    if not (isinstance(kind, type) and issubclass(kind, Executor)):
        raise ConfigError(f"executor {kind!r}; accepted: a subclass of rsl_cli.Executor, or of rsl_cli.Pilots")
    check_claims(kind, Executor, f"executor {kind.__qualname__}")
    return kind
