"""Contracts of a user's own parts, each a line of a test: ``rsl.testing.check_edge_map(Diagonal(), (4,))``.

The same checks refuse a part that breaks them when a study names it, but for executors and trackers, which are tried
here alone. Each returns nothing, or raises an `RslError` of
one line that says what is wrong; give them the spaces and settings that a part is made for.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rsl_cli.contracts import (
    check_activation,
    check_bias,
    check_combine,
    check_edge_map,
    check_law,
    check_lifting,
    check_stage,
    failing,
)
from rsl_cli.data import Dataset
from rsl_cli.data.target import check_dataset
from rsl_cli.diagnostics import probes
from rsl_cli.errors import ConfigError, TrainingError
from rsl_cli.graph import BaseGraph
from rsl_cli.keys import read_keys
from rsl_cli.lift import sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.report import figures
from rsl_cli.study.api import run_study
from rsl_cli.study.executor import SHARED, Executor
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.studies import open_study
from rsl_cli.track import Tracker, send
from rsl_cli.train.first_order import FirstOrder
from rsl_cli.train.losses import check_loss
from rsl_cli.train.objective import Objective
from rsl_cli.train.optimizers import check_optimizer

__all__ = [
    "check_activation",
    "check_bias",
    "check_combine",
    "check_dataset",
    "check_edge_map",
    "check_executor",
    "check_figure",
    "check_law",
    "check_lifting",
    "check_loss",
    "check_optimizer",
    "check_probe",
    "check_stage",
    "check_tracker",
    "finished_run",
]

_BASE: Mapping[str, Any] = {
    "vertices": {
        "x": {"kind": "input"},
        "h1": {"activation": "tanh", "bias": True},
        "h2": {"activation": "tanh", "bias": True},
        "y": {"kind": "output"},
    },
    "edges": [
        {"source": "x", "target": "h1", "map": "linear"},
        {"source": "h1", "target": "h2", "map": "scale"},
        {"source": "h2", "target": "y", "map": "scale"},
    ],
}

_STUDY: Mapping[str, Any] = {
    "base": {"name": "two hidden layers", **_BASE},
    "lift": [4, 8],
    "seeds": 2,
    "lifting": {"kind": "regular", "in_degree": 2},
    "dataset": {"name": "sine2d", "samples": 64, "test_samples": 32},
    "trainer": {"name": "gd", "steps": 20},
    "executor": {"name": "local"},
    "study": "small",
}


def check_executor(kind: type[Executor], **arguments: Any) -> None:
    """The contract of an executor: each run of a study done, told once, and with the numbers it has in this process.

    Args:
        kind: the class.
        arguments: its own keys.

    Raises:
        RslError: it cannot be made, or fails.
        TrainingError: what it breaks, in one line.
    """
    name, told = kind.__qualname__, Counter[str]()
    settings = {**read_keys("executor.arguments.", kind.keys, arguments, also=()), **read_keys("", SHARED, {})}

    class Tried(StudySpec):
        @cached_property
        def executor(self) -> Executor:
            return kind(settings)

    with tempfile.TemporaryDirectory() as folder:
        expected = run_study({**_STUDY, "results_dir": f"{folder}/local"}).store
        spec = Tried.from_config({**_STUDY, "results_dir": f"{folder}/own"})
        with failing(f"executor {name}"):
            store = run_study(spec, finished=lambda _, states: told.update(states.keys())).store
        for key in expected.planned():
            found, wanted = store.record(key), expected.record(key)
            if found is None or wanted is None or found.train_loss != wanted.train_loss:
                raise TrainingError(f"executor {name}: run {key.directory} is not what it is when trained here")
            if told[key.directory] != 1:
                raise TrainingError(f"executor {name}: told of run {key.directory} {told[key.directory]} times")


def check_tracker(kind: type[Tracker]) -> None:
    """The contract of a tracker: it takes a study's runs, and knows them again when opened anew.

    Args:
        kind: the class.

    Raises:
        RslError: what it breaks, in one line.
        ConfigError: it forgets, or finds what nobody sent.
    """
    name = kind.__qualname__
    with tempfile.TemporaryDirectory() as folder:
        store = run_study({**_STUDY, "results_dir": folder}).store
        runs = len(store.planned())
        for asked, wanted in (("at first", (runs, 0, 0)), ("again", (0, 0, runs))):
            sent = send(store, kind, name, kind.place(Path(folder)))
            if (sent.fresh, sent.changed, sent.known) != wanted:
                raise ConfigError(
                    f"tracker {name}: of {runs} runs {asked} {sent.fresh} were new to it, {sent.changed} changed and "
                    f"{sent.known} known; wanted {wanted[0]}, {wanted[1]} and {wanted[2]}"
                )


def check_figure(figure: figures.ReportFigure | figures.Function, study: str | Path | None = None) -> None:
    """The contract of a figure: it can be drawn, by matplotlib and on a page, and is the same at every call.

    Args:
        figure: a function from the study's store to a matplotlib figure or None, or a `ReportFigure`.
        study: the folder of a study to draw; None: a small one, of four runs, trained here.

    Raises:
        ConfigError: what it breaks, in one line.
    """
    name = getattr(figure, "title", getattr(figure, "__qualname__", type(figure).__name__))
    if study is not None:
        return figures.check_figure(name, figure, open_study(study))
    with tempfile.TemporaryDirectory() as folder:
        return figures.check_figure(name, figure, run_study({**_STUDY, "results_dir": folder}).store)


def check_probe(probe: probes.Probe, **arguments: Any) -> None:
    """The contract of a probe: a table, the same at every call, and the run left as it was.

    Args:
        probe: from a `FinishedRun` and the arguments to a pandas.DataFrame, a mapping (one row of it), or None.
        arguments: what it is called with.

    Raises:
        ConfigError: what it breaks, in one line.
    """
    name = getattr(probe, "__qualname__", type(probe).__name__)
    probes.check_probe(name, probe, finished_run(), arguments)


def finished_run(steps: int = 50, degree: int = 4, loss: str = "mse") -> probes.FinishedRun:
    """A small run that is over: a perceptron of two hidden layers, trained on 64 samples of a smooth function.

    Args:
        steps: of gradient descent.
        degree: of the lift.
        loss: its name.

    Returns:
        What a probe is given, to try one's own on.
    """
    draw = np.random.default_rng(0)
    x = draw.uniform(-1, 1, (80, 2))
    y = np.sin(3 * x[:, :1]) * x[:, 1:]
    data = Dataset("made", "regression", x[:64], y[:64], x[64:], y[64:], 1)
    lift = sample_lift(BaseGraph.from_config(_BASE, input_shape=(2,), output_size=1), degree, 0)
    objective = Objective(data, loss, dtype=LiftedNetwork(lift).dtype)
    settings = FirstOrder.from_config({"name": "gd", "steps": steps})
    (result,) = settings.train(LiftedNetwork(lift), objective)
    return probes.FinishedRun(lift, "standard", objective, result, trainer=settings)
