"""Studies on disk whose losses follow a known law, without any training."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_diagnostics
import numpy as np
import pandas as pd
import pytest

from rsl_cli.study.record import Record
from rsl_cli.study.store import RunKey, StudyStore

LIFTS = (16, 32, 64, 128, 256, 512)
Tables = dict[str, pd.DataFrame]


def key_of(lift: int, seed: int) -> RunKey:
    return RunKey(lift, seed, f"{lift * 1000 + seed:016x}")


def params_of(lift: int) -> int:
    return 13 * lift + 1


def make_study(
    root: Path,
    law: Callable[[int, int], float | None],
    *,
    lifts: Sequence[int] = LIFTS,
    seeds: int = 5,
    noise: float = 0.25,
    test_law: Callable[[int, int], float | None] | None = None,
    held_out: bool = True,
    samples: int = 16384,
    classification: bool = False,
    flow: bool = False,
    missing: Sequence[tuple[int, int]] = (),
    failed: Sequence[tuple[int, int]] = (),
    trajectories: bool = True,
    measured: bool = False,
    lifting: dict[str, Any] | None = None,
    change: Callable[[int, int], dict[str, Any]] = lambda lift, seed: {},
    edit: Callable[[int, int, Tables], Tables] = lambda lift, seed, tables: tables,
) -> StudyStore:
    """Write a study: ``law(params, lift)`` is the loss before noise, None a diverged run; ``change`` edits records,
    ``edit`` a run's tables.

    A study that is ``measured`` has the trajectories and tables of `fake_measures` instead.
    """
    store = StudyStore(root)
    random = np.random.default_rng(7)
    keys = [key_of(lift, seed) for lift in lifts for seed in range(seeds)]
    study = study_of(root.name, keys, samples)
    if lifting is not None:
        study["config"]["lifting"] = lifting
    if flow:
        study["config"]["trainer"] = {"name": "flow"}
    store.create(study)
    for key in keys:
        factor = math.exp(noise * random.standard_normal())
        params = params_of(key.lift)
        train = law(params, key.lift)
        held = test_law(params, key.lift) if test_law else None if train is None else 1.1 * train
        losses = [None if loss is None else loss * factor for loss in (train, held if held_out else None)]
        record = record_of(key, params, samples, *losses, classification=classification, flow=flow)
        record = replace(record, **change(key.lift, key.seed))
        if (key.lift, key.seed) in missing:
            continue
        if (key.lift, key.seed) in failed:
            kept = ("run_id", "base", "dataset", "trainer", "lifting", "in_degree", "lift", "seed")
            named = {name: getattr(record, name) for name in kept}
            store.write_failure(key, Record(**named, status="failed", error="out of memory"), "out of memory\n")
            continue
        frame = _trajectory(record) if trajectories else pd.DataFrame({"step": [0]})
        tables = {"trajectory": frame} if not measured else fake_diagnostics.tables_of(record)
        # Nothing here need outlast the machine, which takes most of the time that writing does.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: None)
            store.write_run(key, record, edit(key.lift, key.seed, tables), {"w": np.zeros(1)})
    return store


def study_of(name: str, keys: Sequence[RunKey], samples: int) -> dict[str, Any]:
    runs = [{"lift": key.lift, "seed": key.seed, "run_id": key.run_id, "directory": key.directory} for key in keys]
    return {
        "schema": 1,
        "name": name,
        "config": {"base": {"name": "mlp"}, "trainer": {"name": "adam", "lr": 0.01}, "lift": "16..512"},
        "identity": {"dataset": "sine2d"},
        "versions": {"rsl": "0.1.0", "torch": "2.9"},
        "host": {"cpu": "<any>", "cores": 2},
        "git": "0123abc",
        "plan": {
            "lifts": sorted({key.lift for key in keys}),
            "seeds": sorted({key.seed for key in keys}),
            "samples": samples,
            "outputs": 1,
            "runs": runs,
        },
    }


def record_of(
    key: RunKey,
    params: int,
    samples: int,
    train: float | None,
    held: float | None,
    *,
    classification: bool = False,
    flow: bool = False,
) -> Record:
    return Record(
        run_id=key.run_id,
        base="mlp",
        dataset="sine2d",
        trainer="flow" if flow else "adam",
        lifting="random",
        in_degree=8.0,
        lift=key.lift,
        seed=key.seed,
        params=params,
        samples=samples,
        outputs=1,
        train_loss=train,
        test_loss=held,
        loss_std=None if held is None or classification else held / 0.25,
        accuracy=max(0.0, 1 - held) if classification and held is not None else None,
        flow_time=1e6 if flow else None,
        steps=1000,
        grad_norm=1e-4,
        distance=3.0,
        stop_reason="diverged" if train is None else "stationary",
        wall_seconds=1.5,
        status="done",
        loss="cross_entropy" if classification else "mse",
        parametrization="standard",
        initial_loss=0.5,
        log_slope=-0.001,
        relative_gradient=0.001,
        resolution=1e-30,
        witness_degree=None,
    )


def _trajectory(record: Record) -> pd.DataFrame:
    step = np.unique(np.concatenate([[0], np.geomspace(1, 1000, 40).round()]))
    random = np.random.default_rng(record.seed)
    last = record.train_loss or 1e-12
    loss = last + (0.5 - min(last, 0.4)) / (1 + step) ** 1.2 * np.exp(0.05 * random.standard_normal(step.size))
    held = loss * 1.1 if record.test_loss is not None else np.full(step.size, math.nan)
    time = step**2.0 if record.flow_time else np.full(step.size, math.nan)
    return pd.DataFrame(
        {
            "step": step.astype(int),
            "time": time,
            "loss": loss,
            "test_loss": held,
            "grad_norm": loss,
            "distance": np.log1p(step),
        }
    )
