"""The coordinate check against loops over copies and edges, and against steps taken by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import rsl_cli as rsl
from rsl_cli.diagnostics.coordinates import pre_activations
from rsl_cli.diagnostics.probes import PROBES, FinishedRun
from rsl_cli.errors import ConfigError
from rsl_cli.testing import check_probe, finished_run
from rsl_cli.train.first_order import FirstOrder
from rsl_cli.train.flow import Flow
from rsl_cli.train.lm import LevenbergMarquardt


def slow_sums(net: rsl.LiftedNetwork, x: np.ndarray) -> dict[str, np.ndarray]:
    """The sums at each vertex of a perceptron of two hidden layers, copy by copy and edge by edge, (copies, N)."""
    lift, values, found = net.lift, {"x": [x]}, {}
    for source, target in (("x", "h1"), ("h1", "h2"), ("h2", "y")):
        weights = net.weight(source, target).detach().numpy()
        sums = [np.zeros(len(x)) for _ in range(lift.fibre(target))]
        for weight, a, b in zip(weights, *lift.edges(source, target), strict=True):
            y = values[source][a]
            sums[b] = sums[b] + (y @ weight.reshape(-1) if source == "x" else float(weight) * y)
        if target != "y":
            sums = [z + float(bias) for z, bias in zip(sums, net.bias(target).detach(), strict=True)]
        values[target] = [np.tanh(z) for z in sums]
        found[target] = np.array(sums)
    return found


def gd_by_hand(run: FinishedRun, steps: int) -> rsl.LiftedNetwork:
    """Gradient descent on half the mean squared error, written out."""
    net = rsl.LiftedNetwork(run.lift, None, run.objective.x.dtype, run.parametrization)
    for _ in range(steps):
        loss = 0.5 * (net(run.objective.x) - run.objective.y).square().sum(1).mean()
        for parameter, gradient in zip(
            net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True
        ):
            parameter.data -= run.trainer.learning_rate * gradient
    return net


def test_sizes_and_changes_are_those_of_a_loop_over_copies():
    run = finished_run()
    table = PROBES["coordinates"](run, steps=[1, 3], samples=20).set_index(["vertex", "step"])
    x = run.objective.x[:20].double().numpy()
    before = slow_sums(run.start, x)
    assert list(table.index) == [(vertex, step) for step in (0, 1, 3) for vertex in ("h1", "h2", "y")]
    for step in (0, 1, 3):
        for vertex, sums in slow_sums(gd_by_hand(run, step), x).items():
            row = table.loc[vertex, step]
            assert row["size"] == pytest.approx(np.sqrt(np.mean(sums**2)), rel=1e-4)
            change = np.sqrt(np.mean((sums - before[vertex]) ** 2))
            assert row["change"] == pytest.approx(change, rel=1e-2, abs=1e-7)


def test_sums_have_the_space_of_their_vertex():
    mapping = {
        "vertices": {"x": {"kind": "input"}, "c": {"activation": "relu", "bias": "copy"}, "y": {"kind": "output"}},
        "edges": [
            {"source": "x", "target": "c", "map": "conv", "kernel": 3},
            {"source": "c", "target": "y", "map": "linear", "flatten": True},
        ],
    }
    base = rsl.BaseGraph.from_config(mapping, input_shape=(1, 4, 4), output_size=2)
    net = rsl.LiftedNetwork(rsl.sample_lift(base, degree=3, seed=0), seed=0)
    shapes = {name: tuple(z.shape) for name, z in pre_activations(net, torch.ones(5, 1, 4, 4)).items()}
    assert shapes == {"c": (3, 4, 4, 5), "y": (2, 5)}


def test_the_flow_is_followed_for_as_long_as_gradient_descent_would():
    run = finished_run()
    for name in ("x", "y", "x_test", "y_test"):
        setattr(run.objective, name, getattr(run.objective, name).double())
    flow = replace(run, trainer=Flow(epsilon=1e-1))
    small = replace(run, trainer=replace(run.trainer, learning_rate=0.05 / 50, steps=1))
    by_flow = PROBES["coordinates"](flow, steps=[2]).set_index(["vertex", "step"])["change"]
    by_steps = PROBES["coordinates"](small, steps=[100]).set_index(["vertex", "step"])["change"]
    for vertex in ("h1", "h2", "y"):
        assert by_flow[vertex, 2] == pytest.approx(by_steps[vertex, 100], rel=0.03)
    lm = PROBES["coordinates"](replace(run, trainer=LevenbergMarquardt()), steps=[1])
    assert (lm[lm["step"] == 1]["change"] > 0).any()


def test_a_schedule_has_not_begun_and_a_run_needs_its_trainer():
    cosine = FirstOrder.from_config({"name": "adam", "steps": 1000})
    assert cosine.beginning(3) == replace(cosine, steps=3, schedule="constant")
    with pytest.raises(ConfigError, match=r"trained again; pass FinishedRun\(..., trainer=...\)"):
        PROBES["coordinates"](replace(finished_run(steps=1), trainer=None))
    check_probe(PROBES["coordinates"], steps=[1])


def change(parametrization: str, degree: int, trainer: dict) -> float:
    """How far the first steps move the output."""
    run = finished_run(steps=1, degree=degree)
    run = replace(run, parametrization=parametrization, trainer=FirstOrder.from_config(trainer))
    table = PROBES["coordinates"](run, steps=[2])
    return float(table[(table["vertex"] == "y") & (table["step"] == 2)]["change"].iloc[0])


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_standard_steps_grow_with_the_lift_and_those_of_mup_do_not(name):
    trainer = {"name": name, "batch_size": None, "learning_rate": 1e-4}
    grown = {
        scaled: math.log(change(scaled, 256, trainer) / change(scaled, 16, trainer)) / math.log(16)
        for scaled in ("standard", "mup")
    }
    assert grown["standard"] > 0.6 and abs(grown["mup"]) < 0.25
