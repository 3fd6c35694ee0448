"""What a tracker is: one object per tracker, a few methods, and the registry they enter by."""

import importlib
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rsl_cli.errors import ConfigError
from rsl_cli.registry import Registry
from rsl_cli.study.files import write_atomic


@dataclass(frozen=True)
class Note:
    """What is sent of one run, or of the study as a whole.

    Args:
        key: names it for good: a run's id, or ``study``.
        name: for people.
        config: numbers and texts by key with dots.
        rows: finite numbers over time, each with its ``step``.
        final: numbers and texts that stand at the end.
        mark: another one when anything of this is another.
        pages: files to show beside it.
    """

    key: str
    name: str
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, float]]
    final: Mapping[str, Any]
    mark: str
    pages: tuple[Path, ...] = ()

    @property
    def figures(self) -> dict[str, float]:
        """The numbers that stand at the end, under ``final/``."""
        numbers = {k: v for k, v in self.final.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        return {f"final/{key}": float(value) for key, value in numbers.items()}

    @property
    def texts(self) -> dict[str, str]:
        """The texts that stand at the end."""
        return {key: value for key, value in self.final.items() if isinstance(value, str)}

    @property
    def last_step(self) -> int:
        """Of the rows; 0 where there are none."""
        return int(self.rows[-1]["step"]) if self.rows else 0


class Tracker(ABC):
    """A place where experiments are looked at. It is opened for one study, in one process at a time.

    Args:
        study: the study's name.
        place: a folder, or an address that the tracker understands.
    """

    module: ClassVar[str]
    """What must be importable."""
    extra: ClassVar[str | None] = None
    """The optional dependency of rsl that brings it."""

    def __init__(self, study: str, place: str) -> None:
        self.study, self.folder = study, place

    @classmethod
    def check(cls, name: str) -> None:
        """Raise if the tracker is not installed.

        Args:
            name: what the user called it.

        Raises:
            ConfigError: it is not, with the line that installs it.
        """
        if importlib.util.find_spec(cls.module) is None:
            remedy = f"pip install 'rsl-cli[{cls.extra}]'" if cls.extra else f"install {cls.module}"
            raise ConfigError(f"tracker={name} needs {cls.module}, which is not installed; {remedy}")

    @classmethod
    def place(cls, results: Path) -> str:
        """Where it keeps things if nobody says: on this machine.

        Args:
            results: the folder of studies, absolute.

        Returns:
            A folder or an address, as the tracker takes it.
        """
        return str(results / cls.__name__.lower())

    @abstractmethod
    def sent(self, key: str) -> tuple[str, int] | None:
        """The mark that a note was last sent with, and how many rows of it; None if it never was, or not to its end."""

    @abstractmethod
    def send(self, note: Note, since: int) -> None:
        """Send a note, and remember its mark last.

        Args:
            note: what to send.
            since: how many of its rows are there already.
        """


def library(name: str) -> Any:
    """A module of a tracker's own package, imported when it is first needed; `Tracker.check` has found it."""
    return importlib.import_module(name)


class Ledger:
    """What has been sent, in a file beside what was sent: with it gone, all is sent again.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def sent(self, key: str) -> tuple[str, int] | None:
        """The mark and the number of rows of a note; None if it was not sent."""
        found = self._content.get(key)
        return None if found is None else (str(found[0]), int(found[1]))

    def put(self, note: Note) -> None:
        """A note has been sent."""
        self._content[note.key] = [note.mark, len(note.rows)]
        write_atomic(self._path, json.dumps(self._content, indent=1).encode())


TRACKERS: Registry[type[Tracker]] = Registry("tracker")
"""Trackers by name."""
