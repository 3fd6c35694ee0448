"""What a study is asked for: its first grid of runs, and each by which it grows, with what it was asked by."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from rsl_cli.data.dataset import Reading
from rsl_cli.lift import is_dense
from rsl_cli.study.plan import keys_of
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import SCHEMA, RunKey


def register(spec: StudySpec, line: Sequence[str] | None = None) -> None:
    """Write ``study.json``, or add to the study what is asked for now: runs, horizons, and the words they came in.

    Raises:
        StoreError: the study's folder computes something else, or cannot be written.
    """
    keys, words, known = keys_of(spec), None if line is None else list(line), set()
    there = spec.store.exists()
    if there:
        last, known = spec.store.grids()[-1], set(spec.store.planned())
        words = last.get("line") if words is None else words
        asked = [last.get("carried"), last["config"].get("horizons"), last.get("line")]
        same = asked == [spec.carried, spec.config["horizons"], words]
        plan = last["plan"]
        same = same and (plan["lifts"], plan["seeds"]) == (list(spec.lifts), list(spec.seeds))
        if "data" in last and {*keys} <= known and same:
            return
    grid = _grid(spec, [key for key in keys if key not in known], words)
    if there:
        spec.store.grow(grid)
    elif not spec.store.create(grid):
        register(spec, line)  # Another process has made it meanwhile.


def _unit(spec: StudySpec) -> str:
    """What losses are, for people; a user's own are told apart from others of one unit."""
    own = () if spec.loss_origin is None else (spec.loss.name,)
    return ", ".join(word for word in (*own, spec.loss.unit) if word)


def _grid(spec: StudySpec, new: Sequence[RunKey], words: Sequence[str] | None) -> dict[str, Any]:
    reading = spec.data.reading or Reading(shape=spec.data.input_shape)
    return {
        "schema": SCHEMA,
        "name": spec.name,
        "line": words,
        "config": spec.config,
        "identity": spec.identity,
        **({"answers": spec.answers} if spec.answers else {}),
        "data": {**reading.plain(), "input_shape": list(spec.data.input_shape)},
        "versions": _versions(),
        "host": {"machine": platform.machine(), "system": platform.platform(), "device": spec.device},
        "git": _revision(),
        "carried": spec.carried,
        "plan": {
            "lifts": list(spec.lifts),
            "seeds": list(spec.seeds),
            "samples": spec.data.samples,
            "outputs": spec.data.outputs,
            "loss_unit": _unit(spec),
            "trainer": asdict(spec.trainer.facts),
            "dense": [lift for lift in spec.lifts if is_dense(spec.base, lift, spec.lifting)],
            "runs": [{"lift": k.lift, "seed": k.seed, "run_id": k.run_id, "directory": k.directory} for k in new],
        },
    }


def _versions() -> dict[str, str]:
    names = ("rsl-cli", "torch", "numpy", "numba", "scipy", "scikit-learn", "pandas", "hydra-core")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _revision() -> str | None:
    """The git revision of the code, if it runs from a checkout."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
