"""Levenberg-Marquardt: right minima, honest ends, checkpoints."""

import math

import numpy as np
import problems
import pytest
import torch
from problems import trained
from scipy.optimize import minimize
from train.test_first_order import Memory, carried
from train.test_flow import DATA, classes, flat, network, slow_gradient

from rsl_cli.errors import ConfigError
from rsl_cli.lift import sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.train import replicas
from rsl_cli.train.gauss_newton import SingularError
from rsl_cli.train.lm import LevenbergMarquardt
from rsl_cli.train.objective import Objective


def test_a_quadratic_is_solved_to_its_least_loss():
    data, least = problems.least_squares()
    net = LiftedNetwork(sample_lift(problems.linear_base(3), 1, 0), dtype=torch.float64)
    result = trained(net, Objective(data, "mse", dtype=torch.float64), LevenbergMarquardt(stationary=1e-10))[0]
    assert result.stop_reason == "stationary"
    assert result.trajectory.last["loss"] == pytest.approx(least, rel=1e-12)


def test_cross_entropy_ends_where_a_quasi_newton_method_ends():
    data, _ = classes()
    net = LiftedNetwork(sample_lift(problems.linear_base(2, 3), 1, 0), dtype=torch.float64)
    both = slow_gradient(net, data, "cross_entropy")
    best = minimize(lambda theta: both(theta)[0], flat(net), jac=lambda theta: both(theta)[1], tol=1e-12)
    settings = LevenbergMarquardt(stationary=1e-8)
    result = trained(net, Objective(data, "cross_entropy", dtype=torch.float64), settings)[0]
    assert result.stop_reason == "stationary"
    assert result.trajectory.last["loss"] == pytest.approx(best.fun, rel=1e-9)


@pytest.mark.slow
def test_larger_lifts_end_lower_by_decades():
    objective = Objective(DATA, "mse", dtype=torch.float64)
    ends = [
        np.median(
            [
                r.trajectory.last["loss"]
                for r in trained(network([0, 1, 2], n), objective, LevenbergMarquardt(max_steps=100))
            ]
        )
        for n in (2, 4, 8)
    ]
    assert ends[1] < ends[0] / 3
    assert ends[2] < ends[1] / 10


def test_loss_never_rises_and_steps_have_no_time():
    rows = trained(network([0]), Objective(DATA, "mse", dtype=torch.float64), LevenbergMarquardt(max_steps=40))[0]
    frame = rows.trajectory.to_frame()
    assert frame["loss"].is_monotonic_decreasing
    assert frame["time"].isna().all()
    assert rows.stop_reason == "budget"
    assert frame["step"].iloc[-1] == 40


def test_target_diverged_and_stalled_have_their_names(monkeypatch):
    objective = Objective(DATA, "mse", dtype=torch.float64)
    reached = trained(network([0]), objective, LevenbergMarquardt(epsilon=0.1))[0]
    assert reached.stop_reason == "target"
    assert reached.trajectory.last["loss"] <= 0.1
    lost = network([0])
    with torch.no_grad():
        lost.weight("h2", "y")[0] = math.nan
    assert trained(lost, objective, LevenbergMarquardt())[0].stop_reason == "diverged"

    class Singular:
        def solve(self, alpha, rhs):
            raise SingularError("planted")

        def times(self, vector):
            return vector

    monkeypatch.setattr(replicas, "gauss_newton_by", lambda *_: Singular())
    assert trained(network([0]), objective, LevenbergMarquardt())[0].stop_reason == "stalled"


def test_resumed_and_united_training_is_the_same_bit_for_bit():
    objective, settings = Objective(DATA, "mse", dtype=torch.float64), LevenbergMarquardt(max_steps=60)
    whole = trained(network([0, 1]), objective, settings)
    checkpointer = Memory(30, interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        trained(network([0, 1]), objective, settings, checkpointer=checkpointer)
    resumed = trained(network([0, 1]), objective, settings, checkpointer=checkpointer)
    alone = [trained(network([seed]), objective, settings)[0] for seed in (0, 1)]
    for one, two, three in zip(whole, resumed, alone, strict=True):
        for other in (two, three):
            problems.assert_same_training(one, other)


def test_carried_on_in_rounds_it_is_the_training_in_one_go():
    objective = Objective(DATA, "mse", dtype=torch.float64)
    # 23 is no step of the grid, and a loss may be reached anywhere.
    rounds = [(0, None), (23, None), (60, 1e-3), (60, 1e-2), (80, None)]
    settings = [LevenbergMarquardt(max_steps=steps, epsilon=epsilon) for steps, epsilon in rounds]
    parts = carried(lambda: network([0, 1]), objective, settings)
    for one, other in zip(trained(network([0, 1]), objective, settings[-1]), parts, strict=True):
        problems.assert_same_training(one, other)
        assert [point.step for point in one.path] == [point.step for point in other.path] == [80]


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match=r"trainer.max_steps=-1; accepted: a whole number from 0"):
        LevenbergMarquardt.from_config({"name": "lm", "max_steps": -1})
