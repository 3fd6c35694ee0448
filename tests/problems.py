"""Small problems with known answers, for every trainer."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from rsl_cli.data import Dataset
from rsl_cli.graph import BaseGraph
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.first_order import FirstOrder
from rsl_cli.train.objective import Objective
from rsl_cli.train.trainer import Trainer
from rsl_cli.train.trajectory import TrainingResult

CONF = Path(__file__).resolve().parents[1] / "conf"


def group(name: str, option: str, **changes: Any) -> dict[str, Any]:
    """One file of conf/, with keys changed."""
    return yaml.safe_load((CONF / name / f"{option}.yaml").read_text()) | changes


def normalised() -> dict[str, Any]:
    """Attention over normalised tokens: a small base graph without circuits."""
    config = group("base", "attention")
    config["vertices"]["e"]["norm"] = "rms"
    return config


def trained(network: LiftedNetwork, objective: Objective, trainer: Trainer, **around: Any) -> list[TrainingResult]:
    """What `Trainer.train` returns."""
    return trainer.train(network, objective, **around)


def study(**changes: Any) -> dict[str, Any]:
    """A configuration that trains in about a second."""
    return {
        "base": group("base", "mlp"),
        "lifting": {"kind": "random", "in_degree": 4},
        "dataset": group("dataset", "sine2d", samples=256, test_samples=64),
        "trainer": group("trainer", "adam", steps=40, batch_size=64),
        "executor": {"name": "local"},
        "lift": [2, 4, 8],
        "seeds": 3,
    } | changes


def first_order(name: str, steps: int = 2000, learning_rate: float = 0.01, **changes: Any) -> FirstOrder:
    """Steps of a constant rate, of all samples, unless said otherwise."""
    plain = {"schedule": "constant", "stationary": 1e-4, "log_per_decade": 8, "dtype": "float32"}
    return FirstOrder(name, steps, learning_rate, **(plain | changes))


def linear_base(inputs: int, outputs: int = 1) -> BaseGraph:
    """A base graph that computes y = W x."""
    config = {
        "vertices": {"x": {"kind": "input"}, "y": {"kind": "output"}},
        "edges": [{"source": "x", "target": "y", "map": "linear"}],
    }
    return BaseGraph.from_config(config, input_shape=(inputs,), output_size=outputs)


def least_squares(inputs: int = 3, samples: int = 40, noise: float = 0.1) -> tuple[Dataset, float]:
    """A linear regression with noise, and the least half mean squared error any linear map has on it."""
    draw = np.random.default_rng(7)
    x = draw.standard_normal((samples, inputs))
    y = x @ np.arange(1.0, inputs + 1)[:, None] + noise * draw.standard_normal((samples, 1))
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    data = Dataset("least_squares", "regression", x, y, x[:5], y[:5], 1)
    return data, 0.5 * float(np.mean(residual**2))


def assert_same_training(one: TrainingResult, other: TrainingResult) -> None:
    """Two results agree bit for bit: trajectory and final parameters."""
    np.testing.assert_array_equal(np.array(one.trajectory.rows), np.array(other.trajectory.rows))
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
