"""How long a study of many runs takes to be listed, planned, grown, reported and verified; the runs are made up.

Studies of 1e3, 1e4 and 1e5 runs (or of the sizes named) are written by the store's own code into a temporary folder,
without waiting for the disk, then each command is timed in a process of its own; all is removed at the end::

    python scripts/bench_store.py [RUNS ...]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from rsl_cli.study.record import Record, RunKey
from rsl_cli.study.store import StudyStore

LIFTS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
ITEM = 20
"""Runs that are noted together, as the runs of one union are."""
COMMANDS = {
    "list": "from rsl_cli.cli import main; main(['list', '--results-dir', r'{results}'])",
    "resume plan": "from rsl_cli.study.survey import survey; from rsl_cli.study.store import StudyStore; "
    "from pathlib import Path; store = StudyStore(Path(r'{study}')); "
    "assert len(survey(store, store.planned()).records) == {runs}",
    "grow": "import sys; sys.path.insert(0, 'scripts'); from bench_store import *; grow(StudyStore(Path(r'{study}')))",
    "report": "from rsl_cli.cli import main; main(['report', r'{study}', '--format', 'png'])",
    "verify": "from rsl_cli.cli import main; main(['verify', r'{study}'])",
}


def make(root: Path, runs: int) -> StudyStore:
    """Write a study of flows that fall like a power of the lift."""
    store, seeds = StudyStore(root), runs // len(LIFTS)
    keys = [key_of(lift, seed) for lift in LIFTS for seed in range(seeds)]
    store.create(plan(root.name, keys))
    write(store, keys)
    return store


def grow(store: StudyStore) -> None:
    """Add one seed to each lift."""
    keys = store.planned()
    new = [key_of(lift, len(keys)) for lift in LIFTS]
    store.grow(plan(store.name, new))
    write(store, new)


def write(store: StudyStore, keys: list[RunKey]) -> None:
    """Write runs as items of `ITEM`."""
    for start in range(0, len(keys), ITEM):
        part = keys[start : start + ITEM]
        for key in part:
            path = trajectory(key.lift, key.seed)
            loss = path["loss"].to_numpy()
            store.write_run(key, record_of(key, float(loss[-1])), {"trajectory": path}, {"w": loss[:8]})
        store.note(part)


class Encoded(pd.DataFrame):
    """A table that is encoded without what pandas adds, which would take most of the time."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def to_parquet(self, path: Any = None, **options: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write it as ever."""
        del options
        parquet.write_table(pa.table({name: self[name].to_numpy() for name in self.columns}), path)


AT = np.concatenate([[0.0], np.geomspace(1e-2, 1e6, 33)])


def trajectory(lift: int, seed: int) -> Encoded:
    """A flow's loss on its way to its limit; no two are alike."""
    rng = np.random.default_rng([lift, seed])
    limit, begin = np.exp(0.2 * rng.standard_normal(2)) * (1 / lift, 0.5)
    loss = (limit + begin / (1 + AT)) * 0.5
    columns = {"step": np.arange(AT.size), "time": AT, "loss": loss, "test_loss": 1.1 * loss}
    return Encoded(columns | {"grad_norm": loss**0.5, "distance": np.log1p(AT * begin), "dissipation": 1 + 0.01 * loss})


def key_of(lift: int, seed: int) -> RunKey:
    """A run's key; its hash is spread as a real one is."""
    return RunKey(lift, seed, f"{(lift * 2654435761 + seed * 11400714819323198485) % 2**64:016x}")


def record_of(key: RunKey, loss: float) -> Record:
    """What a flow's record says."""
    return Record(
        run_id=key.run_id, lift=key.lift, seed=key.seed, status="done", base="mlp", dataset="sine2d", trainer="flow",
        lifting="random", in_degree=8.0, params=13 * key.lift, samples=2**17, outputs=1, train_loss=loss,
        test_loss=1.1 * loss, flow_time=1e6, steps=400, grad_norm=1e-4, distance=3.0, stop_reason="time",
        wall_seconds=1.0, loss="mse", parametrization="standard", initial_loss=0.5, resolution=1e-30,
    )  # fmt: skip


def plan(name: str, keys: list[RunKey]) -> dict[str, Any]:
    """The content of ``study.json``."""
    runs = [{"lift": k.lift, "seed": k.seed, "run_id": k.run_id, "directory": k.directory} for k in keys]
    trainer = {"name": "flow", "t_end": 1e6}
    config = {"base": {"name": "mlp"}, "trainer": trainer, "horizons": {}, "lift": "16..8192"}
    grid = {"lifts": list(LIFTS), "seeds": sorted({k.seed for k in keys}), "samples": 2**17, "outputs": 1}
    content = {"schema": 1, "name": name, "config": config, "identity": {}, "carried": {"t_end": 1e6}}
    return content | {"plan": grid | {"runs": runs}}


def timed(code: str) -> str:
    """Seconds by the clock, seconds of processor time, and peak memory of a program in a process of its own."""
    used = "\nimport resource; used = resource.getrusage(resource.RUSAGE_SELF)"
    tell = f"{used}; print('used', used.ru_utime + used.ru_stime, used.ru_maxrss)"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code + tell], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    processor, peak = map(float, done.stdout.rsplit("used", 1)[1].split())
    return f"{seconds:.1f}, {processor:.1f}, {peak / 2**20:.2f}"


def main(sizes: list[int]) -> None:
    """Print the table; what is made up need not outlive a power cut."""
    os.fsync = lambda _: None
    names = [f"{name}: s, s of CPU, GB" for name in COMMANDS]
    print("| runs | write, ms a run | files a run | " + " | ".join(names) + " | growth wrote, MB of MB |")
    print("| ---: " * (4 + len(names)) + "|")
    for runs in sizes:
        with tempfile.TemporaryDirectory(prefix="rsl-store-") as results:
            began = time.perf_counter()
            root = make(Path(results) / "s", runs).root
            each = (time.perf_counter() - began) / runs * 1e3
            before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
            entries = sum(1 for _ in root.rglob("*")) / runs
            cells, wrote, have = [], 0, 0
            for name, code in COMMANDS.items():
                cells.append(timed(code.format(results=results, study=root, runs=runs)))
                if name == "grow":
                    files = {path: path.stat() for path in root.rglob("*") if path.is_file()}
                    new = [one.st_size for path, one in files.items() if before.get(path) != one.st_mtime_ns]
                    # Of study.json the time is changed, and nothing else.
                    wrote, have = (
                        sum(new) - (root / "study.json").stat().st_size,
                        sum(one.st_size for one in files.values()),
                    )
            sizes_of = f"{wrote / 1e6:.2f} of {have / 1e6:.0f}"
            print(f"| {runs} | {each:.1f} | {entries:.2f} | " + " | ".join(cells) + f" | {sizes_of} |", flush=True)


if __name__ == "__main__":
    main([int(float(word)) for word in sys.argv[1:]] or [1000, 10_000, 100_000])
