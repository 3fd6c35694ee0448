"""Pilots as actors of a Ray cluster. They are detached: they outlive the process that started them."""

import importlib
import os
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rsl_cli.errors import ConfigError, TrainingError, first_line
from rsl_cli.study.store import StudyStore
from rsl_cli.study.studies import study_at

_NAMESPACE = "rsl"
_ANSWER, _FAREWELL = 10.0, 20.0
"""Seconds that a cluster's head has to answer, and that pilots have to save what they have when told to leave."""
_SILENT = 5.0
"""Seconds after which it is said that the head is silent: when Ray gives it up, it ends this process without a word."""
_LOST = (
    "rsl: Ray's head does not answer; if that lasts, Ray ends this process with status 1; what is done is kept: run "
    "the same line again once there is a head"
)


class Pilot:
    """One pilot, in a process of its own somewhere in the cluster."""

    def __init__(self, root: str, threads: int) -> None:
        self.root, self.threads = root, threads
        self._leave, self._once, self._thread = threading.Event(), threading.Lock(), threading.Thread(target=self._work)

    def work(self) -> None:
        """Begin to work; the actor ends itself when nothing is missing."""
        with self._once:
            if self._thread.ident is None:
                self._thread.start()

    def leave(self) -> None:
        """Save what is being trained, and end; returns when it is saved."""
        self._leave.set()
        self._thread.join(_FAREWELL)

    def _work(self) -> None:
        from rsl_cli.study.pilots import pilot, tell

        store = study_at(self.root)
        try:
            store.pilot_dir.mkdir(parents=True, exist_ok=True)
            with (store.pilot_dir / f"ray-{os.getpid()}.log").open("a", encoding="utf-8") as log:
                finished = partial(tell, stream=log)
                pilot(store, threads=self.threads, leave=self._leave, finished=finished)
        except Exception as error:
            print(f"rsl: a pilot ended: {type(error).__name__}: {first_line(error)}", file=sys.stderr, flush=True)
        # Nobody may be there any more to end a detached actor.
        threading.Timer(1.0, os._exit, (0,)).start()


def connect(settings: Mapping[str, Any]) -> None:
    """Join a Ray cluster.

    Raises:
        ConfigError: there is none, or no Ray here.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise ConfigError("executor=ray needs Ray, which is not installed: pip install 'rsl-cli[ray]'") from None
    if ray.is_initialized():
        return
    try:
        _reach(str(settings["address"]))
        ray.init(address=settings["address"], namespace=_NAMESPACE, configure_logging=False, log_to_driver=True)
    except Exception as error:
        raise ConfigError(
            f"executor.address={settings['address']}: no Ray cluster answers ({first_line(error)}); `ray start --head` "
            "makes one, `ray start --address=HEAD:PORT` joins it on other machines"
        ) from error


def _reach(address: str) -> None:
    """Find out whether anything listens at an address; Ray itself would try for minutes, and say so in many lines."""
    if address != "auto":
        host, _, port = address.rpartition("/")[2].rpartition(":")
        if not port.isdigit():
            raise ValueError("accepted: auto, or host:port of its head")
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER).close()


def alive(store: StudyStore) -> int:
    """How many pilots of a study there are, waiting ones included; see `Pilots.alive`."""
    return len(_pilots(store))


def start(store: StudyStore, settings: Mapping[str, Any], count: int) -> None:
    """Start pilots; see `Pilots.start`."""
    ray = importlib.import_module("ray")
    memory = {} if settings["mem"] is None else {"memory": int(settings["mem"] * 2**30)}
    options = {"num_cpus": settings["cpus"], "num_gpus": settings["gpus"], **memory, **(settings["options"] or {})}
    places = os.pathsep.join(dict.fromkeys([str(Path(__file__).parents[2]), str(Path.cwd()), *filter(None, sys.path)]))
    taken, number = set(_pilots(store)), 0
    for _ in range(count):
        while (name := f"{store.pilot_name}-{number}") in taken:
            number += 1
        taken.add(name)
        try:
            actor = ray.remote(Pilot).options(
                name=name,
                namespace=_NAMESPACE,
                lifetime="detached",
                max_concurrency=4,
                max_restarts=0,
                runtime_env={"env_vars": {"PYTHONPATH": places}},
                **options,
            )
            actor.remote(store.absolute, settings["cpus"]).work.remote()
        except Exception as error:
            said = f"Ray does not take the pilots: {type(error).__name__}: {first_line(error)}"
            raise TrainingError(f"{said}; mend executor.* and run the same line again") from error


def end(store: StudyStore) -> None:
    """Tell a study's pilots to leave, and end those that do not."""
    ray = importlib.import_module("ray")
    try:
        actors = [ray.get_actor(name, _NAMESPACE) for name in _pilots(store)]
        with suppress(Exception):
            ray.wait([actor.leave.remote() for actor in actors], num_returns=len(actors), timeout=_FAREWELL)
        for actor in actors:
            with suppress(Exception):
                ray.kill(actor)
    except Exception as error:
        print(f"rsl: pilots may go on: {first_line(error)}", file=sys.stderr)


def _pilots(store: StudyStore) -> list[str]:
    """Names of a study's pilots."""
    word = threading.Timer(_SILENT, print, [_LOST], {"file": sys.stderr, "flush": True})
    word.daemon = True
    word.start()
    try:
        names = importlib.import_module("ray.util").list_named_actors()
    except Exception as error:
        raise TrainingError(f"Ray does not answer: {type(error).__name__}: {first_line(error)}") from error
    finally:
        word.cancel()
    return [name for name in names if name.startswith(f"{store.pilot_name}-")]
