"""The flow by products with the Hessian: classes, every base, against closed forms and explicit integrators."""

import math

import numpy as np
import problems
import pytest
import torch
from problems import trained
from scipy.integrate import solve_ivp
from train.test_first_order import Memory
from train.test_flow import classes, flat, network, slow_gradient

from rsl_cli.data import Dataset
from rsl_cli.graph import BaseGraph
from rsl_cli.lift import sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.flow import Flow
from rsl_cli.train.gauss_newton import is_dear
from rsl_cli.train.krylov import NewtonKrylov
from rsl_cli.train.objective import Objective
from rsl_cli.train.replicas import Answer

SIDES = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0]


def solved(curvatures, c, psi, tolerance):
    """The solution z of z + psi + c H z = 0, H of given eigenvalues, and how many gradients it took."""
    hessian = (SIDES * curvatures) @ SIDES.T
    solver = NewtonKrylov(tolerance).solve(psi, 0 * psi, psi, c, lambda v: float(np.linalg.norm(v)))
    request, asked = next(solver), 0
    try:
        while True:
            at, asked = request.parameters, asked + 1
            request = solver.send(Answer(0.5 * float(at @ hessian @ at), hessian @ at))
    except StopIteration as end:
        return end.value, np.linalg.solve(np.eye(40) + c * hessian, -psi), asked


def test_an_equation_is_solved_to_its_tolerance_by_as_many_gradients_as_eigenvalues_matter():
    psi = np.random.default_rng(1).standard_normal(40)
    few = np.where(np.arange(40) < 5, 1.0 + np.arange(40), 1e-9)
    for curvatures, most in ((few, 20), (np.linspace(0, 1, 40), 90)):
        solution, exact, asked = solved(curvatures, 100.0, psi, 1e-6)
        assert np.linalg.norm(solution.correction - exact) <= 1e-6
        assert asked <= most


def test_a_step_long_against_an_unstable_motion_is_refused_and_a_shorter_one_is_not():
    psi, curvatures = np.random.default_rng(1).standard_normal(40), np.linspace(-0.01, 1, 40)
    assert solved(curvatures, 120.0, psi, 1e-3)[0] is None
    solution, exact, _ = solved(curvatures, 50.0, psi, 1e-3)
    assert np.linalg.norm(solution.correction - exact) <= 2e-3


@pytest.mark.parametrize(("rtol", "error", "share"), [(1e-4, 0.01, 0.1), (1e-5, 1e-3, 0.02)])
def test_separable_classes_follow_the_closed_form_to_late_times(rtol, error, share):
    # One margin m for all samples: m' = 2 / (1 + e^m), so that e^m + m = 2 t + 1, and L = log(1 + e^-m) falls as 1/t.
    x, y = np.array([[1.0], [-1.0], [1.0]]), np.array([0, 1, 0])
    objective = Objective(Dataset("two", "classification", x, y, x[:0], y[:0], 2), "cross_entropy", dtype=torch.float64)
    net = LiftedNetwork(sample_lift(problems.linear_base(1, 2), 1, 0), None, torch.float64)
    with torch.no_grad():
        next(net.parameters()).zero_()
    result = trained(net, objective, Flow(t_end=1e8, rtol=rtol))[0]
    assert result.stop_reason == "time"
    for row in result.trajectory.rows[1:]:
        m = np.log(2 * row.time + 1)
        for _ in range(60):
            m -= (math.exp(m) + m - 2 * row.time - 1) / (math.exp(m) + 1)
        assert row.loss == pytest.approx(math.log1p(math.exp(-m)), rel=error)
        assert row.dissipation == pytest.approx(1, abs=share)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_interrupted_classes_go_on_bit_for_bit(loss):
    data, base = classes()
    objective, settings = Objective(data, loss, dtype=torch.float64), Flow(t_end=300.0)
    whole = trained(network([0, 1], base=base), objective, settings)
    checkpointer = Memory(150, interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        trained(network([0, 1], base=base), objective, settings, checkpointer=checkpointer)
    for one, other in zip(
        whole, trained(network([0, 1], base=base), objective, settings, checkpointer=checkpointer), strict=True
    ):
        problems.assert_same_training(one, other)


def test_classes_by_their_squared_error_follow_the_flow_that_a_matrix_gives():
    data, base = classes()
    targets = np.eye(3)[data.y_train]
    numbers = Dataset("numbers", "regression", data.x_train, targets, data.x_test, np.eye(3)[data.y_test], 3)
    settings, rows = Flow(t_end=1e4, rtol=1e-5, atol=1e-8), []
    for one in (data, numbers):
        objective = Objective(one, "mse", dtype=torch.float64)
        assert is_dear(100, 60, 3, classify=objective.classify) == (one is data)
        rows.append(np.array(trained(network([0], base=base), objective, settings)[0].trajectory.rows))
    np.testing.assert_allclose(rows[0][:, 1], rows[1][:, 1])
    np.testing.assert_allclose(rows[0][:, 2], rows[1][:, 2], rtol=2e-3)


OTHERS = ("attention", "transformer", "mixer", "rnn", "unet", "resnet")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("cnn", "mse"), *((name, "cross_entropy") for name in ("cnn", *OTHERS))])
def test_every_base_follows_an_explicit_integrator(name, kind):
    draw = np.random.default_rng(5)
    config = problems.group("base", name, **({"depth": 1} if name in ("transformer", "unet", "resnet") else {}))
    x, labels = draw.standard_normal((6, 8, 8)), draw.integers(0, 3, 6)
    data = Dataset("made", "classification", x, labels, x[:2], labels[:2], 3)
    base = BaseGraph.from_config(config, input_shape=(8, 8), output_size=3)
    net = LiftedNetwork(sample_lift(base, 2, 0, {"kind": "random", "in_degree": 2}), None, torch.float64)
    numbers = Dataset("made", "regression", x, np.eye(3)[labels], x[:2], np.eye(3)[labels[:2]], 3)
    both, start = slow_gradient(net, data if kind == "cross_entropy" else numbers, kind), flat(net)
    exact = solve_ivp(lambda _, y: -both(y)[1], (0, 1.0), start, "RK45", rtol=1e-6, atol=1e-8).y[:, -1]
    settings = Flow(t_end=1.0, rtol=1e-4, atol=1e-7, log_per_decade=1)
    result = trained(net, Objective(data, kind, dtype=torch.float64), settings)[0]
    assert result.trajectory.rows[-1].loss == pytest.approx(both(exact)[0], rel=2e-3)
    assert np.linalg.norm(flat(net) - exact) <= 2e-3 * np.linalg.norm(exact - start)
