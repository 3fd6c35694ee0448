"""What a study lost when it was disturbed; and, for real on this machine, a Slurm of two nodes and a Ray of three."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rsl_cli.study.leases import holders
from rsl_cli.study.store import StudyStore

ROOT = Path(__file__).resolve().parents[1]
TWO_NODES = Path(__file__).parent / "slurm" / "two_nodes.sh"
TOOLS = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "sacctmgr", "mariadbd", "munged")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_TIMES = {"wall_seconds"}

HAS_SLURM = os.geteuid() == 0 and all(shutil.which(tool, path=_PATH) for tool in TOOLS)
HAS_SLURM = HAS_SLURM and importlib.util.find_spec("submitit") is not None
HAS_RAY = importlib.util.find_spec("ray") is not None


def snapshot(store: StudyStore) -> dict[str, Any]:
    """Everything that a study computed, by run; only the time it took is left out."""
    runs = {}
    for key in store.planned():
        found = store.record(key)
        assert found is not None, key
        record = {name: value for name, value in found.values().items() if name not in _TIMES}
        state = {name: array.tobytes() for name, array in store.state(key).items()}
        runs[key.directory] = (json.dumps(record), store.trajectory(key).to_json(double_precision=15), state)
    return runs


class Losses(NamedTuple):
    """What a study lost, against the same study undisturbed.

    Args:
        runs: planned.
        lost: of these, not done.
        doubled: trained to their ends more than once: a record that is written anew says so.
        unequal: a number of theirs is another.
    """

    runs: int
    lost: int
    doubled: int
    unequal: int


def losses(store: StudyStore, undisturbed: StudyStore) -> Losses:
    """Compare a study that was disturbed with one that was not; neither is ever carried further."""
    records = [store.record(key) for key in store.planned()]
    lost = sum(record is None or not record.done for record in records)
    doubled = sum(record is not None and record.continued > 0 for record in records)
    here, there = ({}, {}) if lost else (snapshot(store), snapshot(undisturbed))
    assert here.keys() == there.keys()
    return Losses(len(records), lost, doubled, sum(here[name] != there[name] for name in here))


def wait_until(condition: Callable[[], object], seconds: float = 90) -> None:
    """Wait until something holds; fail where it does not in so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def at_work(store: StudyStore) -> set[int]:
    """The processes that are training."""
    return {one.process for one in holders(store.leases).values() if one.note}


def count_done(store: StudyStore) -> int:
    """How many runs of a study are done."""
    return store.counted()[0] if store.exists() else 0


def environment(**more: str) -> dict[str, str]:
    """That of a process that imports this very code."""
    places = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": places} | more


@contextlib.contextmanager
def slurm() -> Iterator[Callable[..., None]]:
    """A Slurm of two nodes; gives what calls its script, e.g. ``("kill", "n1")``."""
    # Not below a folder that other users may not enter, the database's among them.
    folder, port = Path(tempfile.mkdtemp(prefix="rsl-slurm-")), 20000 + 8 * (os.getpid() % 4000)

    def call(action: str, *words: object) -> None:
        subprocess.run(["bash", TWO_NODES, action, folder, *map(str, words)], check=True, timeout=150)

    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PYTHONPATH")}
    os.environ.update(environment(SLURM_CONF=str(folder / "slurm.conf")))
    try:
        call("up", port)
        yield call
    finally:
        call("down")
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def slurm_queue() -> list[str]:
    """The tasks that Slurm has."""
    words = ["squeue", "-h", "-r", "-o", "%i"]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.split()


@contextlib.contextmanager
def ray(logs: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A head without cores and two nodes with one each; gives its address, and the environment to reach it in.

    Args:
        logs: a folder for what they write.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = 20000 + found.getsockname()[1] % 10000  # Beside the ports that its workers take.
    surroundings = environment(RAY_gcs_rpc_server_reconnect_timeout_s="10", RAY_USAGE_STATS_ENABLED="0")
    # Sockets' names may have a hundred letters.
    folder, nodes = Path("/tmp") / f"rsl-ray-{os.getpid()}", []

    def start(*words: str) -> None:
        """Wait until it runs; a node that gives up since the machine is busy is started again."""
        begin = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"]
        log = logs
        for _ in range(3):
            log = logs / f"ray{len(nodes)}.log"
            with log.open("w") as stream:
                nodes.append(
                    subprocess.Popen(
                        [*begin, *words], env=surroundings, stdout=stream, stderr=stream, start_new_session=True
                    )
                )
            wait_until(lambda log=log: "runtime started" in log.read_text() or nodes[-1].poll() is not None)
            if nodes[-1].poll() is None:
                return
        raise AssertionError(log.read_text())

    try:
        start("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}")
        for _ in range(2):
            start(f"--address=127.0.0.1:{port}", "--num-cpus=1")
        yield f"127.0.0.1:{port}", surroundings
    finally:
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)
