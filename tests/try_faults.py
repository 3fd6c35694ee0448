"""Studies that are disturbed while they train, against the same studies undisturbed: runs lost, doubled, unequal.

    python tests/try_faults.py slurm           200 runs on two nodes, one of which is killed and brought back
    python tests/try_faults.py ray             200 runs on a head and two nodes, where a worker is killed
    python tests/try_faults.py storm [KILLS]   random kills, 100, over flow, Adam and a convolutional base
    python tests/try_faults.py growth          four processes on one study, each of which asks for more, one killed

On both clusters the process that began the study is killed too, and begun again. ``--seed N`` draws other kills. Slurm
needs root, submitit and the packages that ``tests/slurm/two_nodes.sh`` names, Ray needs ray. Equal means each number of
each record, trajectory and final state, bit for bit; doubled, that a run was trained to its end twice. The exit status
is 1 where anything was lost, doubled or unequal.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import faults
import problems

from rsl_cli.study.api import run_study
from rsl_cli.study.growth import register
from rsl_cli.study.leases import holders
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import StudyStore
from rsl_cli.study.verify import verify

Config = dict[str, Any]

MAIN = "import sys, json; from rsl_cli.study.api import run_study; run_study(json.loads(sys.argv[1]))"
STORM: dict[str, Config] = {
    "flow": {"trainer": problems.group("trainer", "flow", t_end=3e4), "seeds": 4},
    "adam": {"trainer": problems.group("trainer", "adam", steps=15000, batch_size=64), "seeds": 4},
    "cnn": {
        "base": problems.group("base", "cnn"),
        "dataset": problems.group("dataset", "digits"),
        "trainer": problems.group("trainer", "adam", steps=60, batch_size=32),
        "loss": "cross_entropy",
        "lift": [1, 2, 3],
        "seeds": 3,
    },
}


def main() -> int:
    """Try what is asked for; see above."""
    parser = argparse.ArgumentParser(description="Disturb studies, and compare them with undisturbed ones.")
    parser.add_argument("what", choices=["slurm", "ray", "storm", "growth"])
    parser.add_argument("kills", nargs="?", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    print(f"{given.what}, seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="rsl-faults-") as name:
        folder = Path(name)
        if given.what == "storm":
            return storm(folder, draw, given.kills)
        if given.what == "growth":
            return growth(folder, draw)
        local = undisturbed(folder, hundreds(folder / "local", {"name": "local"}))
        with contextlib.ExitStack() as stack:
            if given.what == "slurm":
                call = stack.enter_context(faults.slurm())
                config = hundreds(folder / "slurm", {"name": "slurm", "workers": 4, "partition": "test"})
                return clustered(config, local, faults.environment(), lambda _: node_lost(call))
            address, environment = stack.enter_context(faults.ray(folder))
            config = hundreds(folder / "ray", {"name": "ray", "workers": 2, "address": address})
            return clustered(config, local, environment, lambda store: worker_lost(store, draw))


def hundreds(folder: Path, executor: Config) -> Config:
    """Two hundred small runs."""
    return problems.study(
        results_dir=str(folder),
        study="s",
        lift=[2, 3, 4, 5, 6, 7, 8, 9, 10, 12],
        seeds=20,
        trainer=problems.group("trainer", "adam", steps=20000, batch_size=64),
        executor={"checkpoint_seconds": 0.5, "lease_seconds": 6, **executor},
    )


def undisturbed(folder: Path, config: Config) -> StudyStore:
    """The study as it is where nothing happens to it."""
    began = time.monotonic()
    store = run_study(config).store
    say(f"undisturbed, in {time.monotonic() - began:.0f} s: {len(store.planned())} runs; {folder}")
    return store


def clustered(
    config: Config, local: StudyStore, environment: Mapping[str, str], disturb: Callable[[StudyStore], None]
) -> int:
    """Train on a cluster, and disturb it there; the process that started it is killed, and started again."""
    store, began = StudySpec.from_config(config).store, time.monotonic()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", MAIN, json.dumps(config)], env=environment)

    first = start()
    faults.wait_until(lambda: faults.count_done(store) >= 20, 240)
    say(f"{faults.count_done(store)} runs are done")
    disturb(store)
    faults.wait_until(lambda: faults.at_work(store), 120)
    first.kill()
    first.wait()
    say(f"the main process is killed; {faults.count_done(store)} runs are done")
    time.sleep(2)
    status = start().wait(900)
    say(f"the main process, started again, ended with status {status} after {time.monotonic() - began:.0f} s in all")
    return status or judged(store, local)


def node_lost(call: Callable[..., None]) -> None:
    """Kill a node and what runs there, and bring it back."""
    call("kill", "n1")
    say("node n1 is killed, with all that ran on it")
    call("back", "n1")
    say("node n1 is back")


def worker_lost(store: StudyStore, draw: random.Random) -> None:
    """Kill one of Ray's workers."""
    faults.wait_until(lambda: faults.at_work(store))
    victim = draw.choice(sorted(faults.at_work(store)))
    os.kill(victim, signal.SIGKILL)
    say(f"worker {victim} is killed")


def storm(folder: Path, draw: random.Random, kills: int) -> int:
    """Kill pilots, each of them while it holds runs, until so many died; as often as studies must be begun for that."""
    status = total = 0
    for number, (name, changes) in enumerate(STORM.items(), start=1):
        config = problems.study(study="s", **changes) | {"executor": {"name": "local"}}
        local = undisturbed(folder, config | {"results_dir": str(folder / name)})
        wanted, again = kills * number // len(STORM), 0
        while total < wanted:
            again += 1
            executor = {"name": "pilots", "workers": 2, "checkpoint_seconds": 0.2}
            spec = StudySpec.from_config(config | {"results_dir": f"{folder}/{name}{again}", "executor": executor})
            register(spec)
            died = shot(spec.store, draw, wanted - total)
            total += died
            say(f"{name}: {died} pilots killed, {total} in all")
            status |= judged(spec.store, local)
    return status


def shot(store: StudyStore, draw: random.Random, most: int) -> int:
    """Train with two pilots, each replaced when it has died; how many were killed."""

    def start() -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "rsl_cli.cli", "work", str(store.root), "--threads", "1"]
        return subprocess.Popen(words, env=faults.environment(), stdout=subprocess.DEVNULL)

    pilots, died = [start(), start()], 0
    while faults.count_done(store) < len(store.planned()):
        held = {holder.process for holder in holders(store.leases).values()}
        live = [pilot for pilot in pilots if pilot.pid in held]
        if live and died < most:
            time.sleep(draw.uniform(0, 1.5))
            victim = draw.choice(live)
            died += victim.poll() is None
            victim.send_signal(signal.SIGKILL)
            victim.wait()
        pilots = [start() if has_ended(pilot) else pilot for pilot in pilots]
        time.sleep(0.1)
    for pilot in pilots:
        pilot.wait(60)
        has_ended(pilot)
    return died


def has_ended(pilot: subprocess.Popen[bytes]) -> bool:
    """Whether a pilot has ended; if so, by itself and well, or since it was killed."""
    assert pilot.poll() in (None, 0, -signal.SIGKILL), f"a pilot ended with status {pilot.returncode}"
    return pilot.returncode is not None


def growth(folder: Path, draw: random.Random) -> int:
    """Four processes ask for more lifts and seeds of one study, all at once, again and again; one of them is killed."""
    executor = {"name": "process", "workers": 2, "checkpoint_seconds": 0.2, "lease_seconds": 6}
    trainer = problems.group("trainer", "adam", steps=3000, batch_size=64)
    asked = [(list(range(2, 4 + i)), 2 + 2 * i) for i in range(4)]
    configs = [
        problems.study(study="s", lift=lifts, seeds=seeds, trainer=trainer, executor=executor) for lifts, seeds in asked
    ]
    local = undisturbed(folder, configs[-1] | {"results_dir": str(folder / "local")})
    configs = [config | {"results_dir": str(folder / "grown")} for config in configs]

    def start(config: Config) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", MAIN, json.dumps(config)], env=faults.environment())

    running = [start(config) for config in configs]
    store = StudySpec.from_config(configs[0]).store
    faults.wait_until(lambda: faults.count_done(store) >= 4)
    victim = draw.randrange(4)
    running[victim].kill()
    say(f"process {victim} is killed; {faults.count_done(store)} of {len(store.planned())} runs are done")
    running[victim].wait()
    running[victim] = start(configs[victim])
    status = max(process.wait(600) for process in running)
    say(f"asked for {store.grid_count()} times")
    return status or judged(store, local)


def judged(store: StudyStore, local: StudyStore) -> int:
    """Say what a study lost."""
    found, verified = faults.losses(store, local), verify(store)
    left = [path.name for path in store.lease_dir.iterdir()] if store.lease_dir.is_dir() else []
    words = "clean" if verified.clean else f"not clean, {verified.text(store.name)}"
    say(
        f"{found.runs} runs: lost {found.lost}, doubled {found.doubled}, unequal {found.unequal}; verified {words}; "
        f"{len(left)} leases of the dead are left"
    )
    return int(not verified.clean or any(found[1:]))


def say(text: str) -> None:
    """Print, with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
