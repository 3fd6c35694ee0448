"""Processes that call a function of rsl's, soon: on Linux they are copies of one that has imported what they need.

Nothing heavy is imported here, since processes that are no copies begin with it.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any


def start(act: Callable[..., Any], *given: Any) -> BaseProcess:
    """Start a process that calls a function, and ends with this one.

    Args:
        act: the function, of a module.
        given: what it is called with; it can be pickled.

    Returns:
        The process.
    """
    with suppress(OSError, EOFError):  # What it would be a copy of has died.
        return _started(context(), act, given)
    return _started(multiprocessing.get_context("spawn"), act, given)


def get_ready() -> None:
    """Let what processes will be copies of import what they need while this one does, where it has another core."""
    if sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1:
        context()


def context() -> Any:
    """How processes begin: on Linux as copies of one, elsewhere, where a copy may hang, each anew.

    Returns:
        A context of `multiprocessing`.
    """
    told = not sys.flags.ignore_environment and all(isinstance(place, str) for place in sys.path)
    if sys.platform == "linux" and hasattr(os, "fork") and told:
        from multiprocessing import forkserver

        forkserver.set_forkserver_preload(["rsl_cli.study.common"])
        # It is told by its environment alone to find modules where this process does, the current folder left out.
        path = os.pathsep.join(filter(None, sys.path))
        with suppress(OSError), _environment(PYTHONPATH=path, PYTHONSAFEPATH="1"):
            forkserver.ensure_running()
            return multiprocessing.get_context("forkserver")
        # Its socket lies in a temporary folder, whose name may be too long for one.
    return multiprocessing.get_context("spawn")


def _started(kind: Any, act: Callable[..., Any], given: tuple[Any, ...]) -> BaseProcess:
    process = kind.Process(target=_call, args=(dict(os.environ), act, given), daemon=True)
    with _without_main():
        process.start()
    return process


def _call(environment: Mapping[str, str], act: Callable[..., Any], given: tuple[Any, ...]) -> None:
    # The variables that the parent has now: the process that this is a copy of may have begun with others.
    os.environ.clear()
    os.environ.update(environment)
    act(*given)


@contextmanager
def _environment(**changes: str) -> Iterator[None]:
    """Give processes that begin meanwhile other variables."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes that do not run the program's own script again.

    They need nothing of it, and a script without a guard, or one from standard input, would start the study anew.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
