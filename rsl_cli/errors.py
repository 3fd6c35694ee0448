"""The one hierarchy of errors that a user of rsl can cause.

Every error is one line: what was got, what is accepted, how to mend it. The command line prints that line and
exits with the class's ``exit_status``; nothing else in the package decides exit codes.
"""

import difflib
from collections.abc import Iterable


class RslError(Exception):
    """Base of everything rsl raises on purpose; its text is complete without a traceback."""

    exit_status = 2


class ConfigError(RslError):
    """A configuration that cannot be run: unknown key, value out of range, impossible sweep."""


class GraphError(ConfigError):
    """A base graph that is not one; the text names the vertex or the edge."""


class LiftError(RslError):
    """A lift that is not a lift of its base graph, or that cannot be drawn."""


class DataError(RslError):
    """Data that cannot be learnt from: missing file, missing values, wrong shapes."""


class StoreError(RslError):
    """A results folder that cannot be read or written, or that belongs to another study."""


class TrainingError(RslError):
    """A training that cannot be started or carried on."""

    exit_status = 1


class CheckpointError(TrainingError):
    """A checkpoint that training cannot go on from: of another network, or not one."""


RAISED = (Exception, SystemExit)
"""What code of a user's may raise and is told of in a line; SystemExit would end rsl without one."""


def nearest(got: str, accepted: Iterable[object]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest accepted name, or an empty string."""
    close = difflib.get_close_matches(str(got), [str(name) for name in accepted], n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def one_of(what: str, got: object, accepted: Iterable[object]) -> str:
    """Compose the usual line for a name outside a closed set, with the nearest accepted name."""
    names = [str(name) for name in accepted]
    return f"{what} {got!r} is not known; accepted: {', '.join(names)}{nearest(str(got), names)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for use inside one-line messages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
