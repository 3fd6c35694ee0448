"""Slurm and Ray for real, on this machine: what is killed there costs no run and no digit."""

import json
import os
import signal
import subprocess
import threading

import faults
import problems
import pytest
from apart import Script
from faults import at_work, count_done, losses, wait_until

from rsl_cli.study.api import run_study
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.verify import verify

with_slurm = pytest.mark.skipif(
    not faults.HAS_SLURM, reason=f"needs root, submitit and Debian's packages of {', '.join(faults.TOOLS)}"
)
with_ray = pytest.mark.skipif(not faults.HAS_RAY, reason="needs ray")


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


def check(store, local):
    """None lost, none trained to its end twice, all numbers those of a local study."""
    assert losses(store, local) == (12, 0, 0, 0)
    assert verify(store).clean and not list(store.lease_dir.iterdir())


@pytest.fixture(scope="module")
def two_nodes():
    """Brings up the cluster; calls its script."""
    with faults.slurm() as call:
        yield call


@pytest.mark.slow
@with_slurm
def test_slurm_cancelled_told_to_leave_and_with_a_node_killed(two_nodes, local, tmp_path):
    config = study(tmp_path, {"name": "slurm", "workers": 2, "partition": "test"})
    store = StudySpec.from_config(config).store

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(config, progress=stop)
    wait_until(lambda: not faults.slurm_queue())
    assert not list(store.lease_dir.iterdir()), "what was cancelled has given back what it held"

    outcomes = []
    main = threading.Thread(target=lambda: outcomes.append(run_study(config)))
    before = count_done(store)
    main.start()
    wait_until(lambda: len(at_work(store)) == 2)
    subprocess.run(["scancel", "--signal=USR2", faults.slurm_queue()[0]], check=True)  # As before a time limit.
    # Of submitit, which says it once the pilot has saved and is queued again.
    wait_until(lambda: any("Exiting gracefully" in log.read_text() for log in store.pilot_dir.glob("*_log.*")))
    wait_until(lambda: count_done(store) >= before + 2 and len(at_work(store)) >= 1)
    two_nodes("kill", "n1")
    two_nodes("back", "n1")
    main.join(120)
    assert not main.is_alive()
    assert (outcomes[0].done, outcomes[0].failed) == (12 - before, [])
    check(store, local)
    # A node that comes back may hold what was cancelled for longer than a study waits: its files stay then.
    held = faults.slurm_queue()
    wait_until(lambda: not faults.slurm_queue())
    assert held or not [*store.pilot_dir.glob("*.pkl"), *store.pilot_dir.glob("*.sh")]


@pytest.fixture
def ray_cluster(tmp_path):
    """A head without cores, and two nodes with one each; its address."""
    with faults.ray(tmp_path) as found:
        yield found


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

    main = Script(script, **environment)
    wait_until(lambda: len(at_work(store)) == 2)
    main.kill()
    main.communicate()
    pilots = at_work(store)
    main = Script(script, **environment)
    wait_until(lambda: count_done(store) >= 2 and at_work(store))
    assert at_work(store) <= pilots, "pilots go on without the process that started them"
    os.kill(next(iter(at_work(store))), signal.SIGKILL)
    out, _ = main.communicate(timeout=120)
    assert main.returncode == 0 and out.split()[-1] == "[]"
    check(store, local)
