"""When training is at rest: a measure without units, and stop reasons that do not depend on the targets' scale."""

from dataclasses import replace

import numpy as np
import problems
import pytest
import torch
from problems import trained
from train.test_flow import DATA, classes, flat, network

from rsl_cli.lift import sample_lift
from rsl_cli.linearization import sample_jacobians
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.circuits import CircuitObjective
from rsl_cli.train.flow import Flow
from rsl_cli.train.lm import LevenbergMarquardt
from rsl_cli.train.objective import Objective, lone_reach, relative_gradient
from rsl_cli.train.replicas import Replicas, Request

SCALES = (1e-6, 1.0, 1e6)


def moved(net, seed=0):
    theta = flat(net)
    theta += 0.3 * np.random.default_rng(seed).standard_normal(len(theta))
    torch.nn.utils.vector_to_parameters(torch.tensor(theta), net.parameters())
    return theta


@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
def test_responses_are_those_of_explicit_jacobians(kind):
    data, base = (DATA, network([0]).lift.base) if kind == "mse" else classes()
    net = network([0], base=base)
    theta = moved(net)
    objective = Objective(data, kind, dtype=torch.float64)
    alone = LiftedNetwork(net.lift.replicas[0], dtype=torch.float64)
    torch.nn.utils.vector_to_parameters(torch.tensor(theta), alone.parameters())
    jacobians = sample_jacobians(alone, objective.x)[1]
    exact = np.sqrt(sum(matrix.square().mean(1) for matrix in jacobians).numpy())
    found = objective.responses(net)[0]
    # Eight random signs: the square is right to a half of itself, give or take.
    assert np.all((found > 0.2 * exact) & (found < 2.5 * exact))
    assert np.median(found / exact) == pytest.approx(1, abs=0.15)
    np.testing.assert_allclose(CircuitObjective.of(net, objective).responses(0, theta), found, rtol=1e-9)


def test_the_relative_gradient_is_the_same_in_other_units():
    net = network([0])
    theta, found = moved(net), []
    readout = np.concatenate([np.full(p.numel(), "y" in name.split("to")[-1]) for name, p in net.named_parameters()])
    assert 0 < readout.sum() < len(readout)
    for scale in SCALES:
        objective = Objective(replace(DATA, y_train=scale * DATA.y_train), "mse", dtype=torch.float64)
        there = np.where(readout, scale * theta, theta)
        answer = Replicas(net, objective).answer({0: Request(there, lone_reach=True)})[0]
        start = 0 * theta
        found.append(relative_gradient(answer.loss, answer.gradient, there, start, answer.lone_reach))
    np.testing.assert_allclose(found, found[1], rtol=1e-9)
    assert found[1] > 0.1


def test_a_parameter_that_outputs_do_not_feel_has_nothing_to_gain():
    gradient, responses = np.array([0.0, 1.0]), np.array([0.0, 0.0])
    lone = lone_reach(2.0, gradient, responses)
    assert relative_gradient(2.0, gradient, np.zeros(2), np.zeros(2), lone) == pytest.approx(2.0)
    assert relative_gradient(2.0, 0 * gradient, np.ones(2), np.zeros(2), lone_reach(2.0, 0 * gradient, responses)) == 0


TRAINERS = {
    "flow": Flow(t_end=1.0),
    "lm": LevenbergMarquardt(max_steps=30),
    "adam": problems.first_order("adam", steps=300),
    "gd": problems.first_order("gd", steps=300, learning_rate=1e-8),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_the_scale_of_targets_stops_no_training(name):
    """Inputs of order 1: nobody is at rest at the start, nor soon after."""
    settings, reasons = TRAINERS[name], []
    for scale in SCALES:
        data = replace(DATA, y_train=scale * (DATA.y_train + 5), y_test=scale * (DATA.y_test + 5))
        dtype = getattr(torch, settings.dtype)
        results = trained(network([0, 1]).to(dtype), Objective(data, "mse", dtype=dtype), settings)
        reasons.append([result.stop_reason for result in results])
        assert all(result.relative_gradient > 1e-2 for result in results)
    assert reasons == [["time" if name == "flow" else "budget"] * 2] * 3


@pytest.mark.parametrize(
    "settings",
    [Flow(), LevenbergMarquardt(), problems.first_order("gd", steps=3000, learning_rate=0.1, dtype="float64")],
    ids=lambda settings: settings.name,
)
def test_the_scale_of_targets_keeps_no_training_from_rest(settings):
    data, least = problems.least_squares()
    for scale in SCALES:
        scaled = replace(data, y_train=scale * data.y_train)
        net = LiftedNetwork(sample_lift(problems.linear_base(3), 1, 0), dtype=torch.float64)
        result = trained(net, Objective(scaled, "mse", dtype=torch.float64), settings)[0]
        assert result.stop_reason == "stationary"
        assert result.relative_gradient <= settings.stationary
        assert result.trajectory.last["loss"] == pytest.approx(scale**2 * least, rel=1e-3)
