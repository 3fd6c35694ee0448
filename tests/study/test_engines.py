"""Slurm and Ray for real, on this machine: what is killed there costs no run and no digit."""

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
import threading
import time
from collections import Counter
from pathlib import Path

import problems
import pytest
from test_runner import snapshot

from rsl_cli.study.api import run_study
from rsl_cli.study.leases import holders
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.verify import verify

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
TOOLS = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "sacctmgr", "mariadbd", "munged")
SLURM = all(shutil.which(tool, path=PATH) for tool in TOOLS) and importlib.util.find_spec("submitit")
with_slurm = pytest.mark.skipif(
    not SLURM or os.geteuid() != 0, reason=f"needs root, submitit and Debian's packages of {', '.join(TOOLS)}"
)
with_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs ray")
TWO_NODES = Path(__file__).parents[1] / "slurm" / "two_nodes.sh"


def study(folder, executor):
    """Twelve runs, each of a second or two."""
    return problems.study(
        results_dir=str(folder),
        study="s",
        lift=[2, 4, 8],
        seeds=4,
        trainer=problems.group("trainer", "adam", steps=40000, batch_size=64),
        executor={"checkpoint_seconds": 0.2, "lease_seconds": 6, **executor},
    )


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return run_study(study(tmp_path_factory.mktemp("local"), {"name": "local"})).store


def wait_until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def at_work(store):
    return {one.process for one in holders(store.lease_dir).values() if one.note}


def done(store):
    return sum(store.is_done(key) for key in store.planned()) if store.exists() else 0


def check(store, local):
    """None lost, none trained to its end twice, all numbers those of a local study."""
    logs = [*store.pilot_dir.glob("*.out"), *store.pilot_dir.glob("ray-*.log")]
    words = [line.split() for log in logs for line in log.read_text().splitlines()]
    finished = Counter(line[-1] for line in words if line[-2:-1] == ["done"])
    # One that was killed between writing a run and saying so has no line for it.
    assert set(finished.values()) == {1} and finished.keys() <= {key.directory for key in store.planned()}
    assert snapshot(store) == snapshot(local)
    # A lease of one that was killed after it had written its run may lie there; nobody holds it.
    assert verify(store).clean and not holders(store.lease_dir)


@pytest.fixture(scope="module")
def two_nodes():
    """Brings up the cluster; calls its script."""
    # Not below pytest's own folder, which it keeps from other users, the database's among them.
    folder, port = Path(tempfile.mkdtemp(prefix="rsl-slurm-")), 20000 + 8 * (os.getpid() % 4000)

    def call(action, *words):
        subprocess.run(["bash", TWO_NODES, action, folder, *map(str, words)], check=True, timeout=150)

    before, os.environ["SLURM_CONF"] = os.environ.get("SLURM_CONF"), str(folder / "slurm.conf")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(problems.CONF.parent), os.environ.get("PYTHONPATH")]))
    try:
        call("up", port)
        yield call
    finally:
        call("down")
        shutil.rmtree(folder, ignore_errors=True)
        del os.environ["SLURM_CONF"]
        if before is not None:
            os.environ["SLURM_CONF"] = before


def queue():
    words = ["squeue", "-h", "-r", "-o", "%i"]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.split()


@pytest.mark.slow
@with_slurm
def test_slurm_cancelled_told_to_leave_and_with_a_node_killed(two_nodes, local, tmp_path):
    config = study(tmp_path, {"name": "slurm", "workers": 2, "partition": "test"})
    store = StudySpec.from_config(config).store

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(config, progress=stop)
    wait_until(lambda: not queue())
    assert not list(store.lease_dir.iterdir()), "what was cancelled has given back what it held"

    outcomes = []
    main = threading.Thread(target=lambda: outcomes.append(run_study(config)))
    before = done(store)
    main.start()
    wait_until(lambda: len(at_work(store)) == 2)
    subprocess.run(["scancel", "--signal=USR2", queue()[0]], check=True)  # As before a time limit.
    # Of submitit, which says it once the pilot has saved and is queued again.
    wait_until(lambda: any("Exiting gracefully" in log.read_text() for log in store.pilot_dir.glob("*_log.*")))
    wait_until(lambda: done(store) >= before + 2 and len(at_work(store)) >= 1)
    two_nodes("kill", "n1")
    two_nodes("back", "n1")
    main.join(120)
    assert not main.is_alive()
    assert (outcomes[0].done, outcomes[0].failed) == (12 - before, [])
    check(store, local)
    wait_until(lambda: not queue())


@pytest.fixture
def ray_cluster(tmp_path):
    """A head without cores, and two nodes with one each; its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = 20000 + found.getsockname()[1] % 10000  # Beside the ports that its workers take.
    environment = os.environ | {"RAY_gcs_rpc_server_reconnect_timeout_s": "10", "RAY_USAGE_STATS_ENABLED": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(problems.CONF.parent), os.environ.get("PYTHONPATH")]))
    # Sockets' names may have a hundred letters.
    folder, nodes = Path("/tmp") / f"rsl-ray-{os.getpid()}", []

    def start(*words):
        """Wait until it runs; a node that gives up since the machine is busy is started again."""
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1", *words]
        for _ in range(3):
            log = tmp_path / f"ray{len(nodes)}.log"
            with log.open("w") as stream:
                nodes.append(
                    subprocess.Popen(words, env=environment, stdout=stream, stderr=stream, start_new_session=True)
                )
            wait_until(lambda log=log: "runtime started" in log.read_text() or nodes[-1].poll() is not None)
            if nodes[-1].poll() is None:
                return
        raise AssertionError(log.read_text())

    try:
        start("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}")
        for _ in range(2):
            start(f"--address=127.0.0.1:{port}", "--num-cpus=1")
        yield f"127.0.0.1:{port}", environment
    finally:
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@with_ray
def test_ray_with_a_worker_killed_and_the_main_process_too(ray_cluster, local, tmp_path):
    address, environment = ray_cluster
    config = study(tmp_path, {"name": "ray", "workers": 2, "address": address})
    store = StudySpec.from_config(config).store
    script = f"""
import json
from rsl_cli.study.api import run_study
outcome = run_study(json.loads({json.dumps(config)!r}))
print(outcome.done, outcome.failed)
"""

    def run():
        return subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)

    main = run()
    wait_until(lambda: len(at_work(store)) == 2)
    main.kill()
    main.communicate()
    pilots = at_work(store)
    main = run()
    wait_until(lambda: done(store) >= 2 and at_work(store))
    assert at_work(store) <= pilots, "pilots go on without the process that started them"
    os.kill(next(iter(at_work(store))), signal.SIGKILL)
    out, _ = main.communicate(timeout=120)
    assert main.returncode == 0 and out.split()[-1] == "[]"
    check(store, local)
