"""The tangent approximation number against explicit Jacobians and solvers that share no code with it."""

import math

import numpy as np
import pytest
import torch
from problems import group, least_squares, linear_base
from scipy.optimize import minimize
from torch.func import functional_call, jacrev
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import rsl_cli
from rsl_cli.data import Dataset
from rsl_cli.diagnostics import factor
from rsl_cli.diagnostics.bound import kl_slack
from rsl_cli.diagnostics.factor import LinearProblem
from rsl_cli.diagnostics.krylov import Bidiagonalisation
from rsl_cli.diagnostics.secular import Spectrum
from rsl_cli.diagnostics.tangent import Tangent, TangentProbe, tangent_kappa, tangent_table
from rsl_cli.errors import ConfigError, DataError
from rsl_cli.graph import BaseGraph
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.objective import Objective
from rsl_cli.train.trajectory import PathPoint


def network_of(base="mlp", degree=4, outputs=1, seed=0, spread=0.3, **changes):
    graph = BaseGraph.from_config(group("base", base, **changes), input_shape=(2,), output_size=outputs)
    network = LiftedNetwork(sample_lift(graph, degree, seed, {"kind": "random", "in_degree": 3}), seed, torch.float64)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    return network


def data_of(samples, outputs=1, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 2, generator=draw, dtype=torch.float64)
    return x, torch.sin(x @ torch.tensor([[2.0, 0.5], [-1.0, 1.5]], dtype=torch.float64))[:, :outputs]


def explicit(network, x, y):
    """J / sqrt(N), (N k, P), and r / sqrt(N), by reverse mode through the whole network."""
    parameters = dict(network.named_parameters())
    jacobian = jacrev(lambda p: functional_call(network, p, (x,)))(parameters)
    j = torch.cat([jacobian[name].flatten(2) for name in parameters], 2).flatten(0, 1)
    r = (network(x) - y).detach().flatten()
    return (j / len(x) ** 0.5).detach().numpy(), (r / len(x) ** 0.5).numpy()


def bisected(j, r, epsilon):
    """kappa by bisection on mu: u(mu) solves the least squares problem with sqrt(mu) I below A, as (0, r) solves."""
    low, high = -60.0, 60.0
    for _ in range(120):
        damped = np.vstack([j, math.exp((low + high) / 4) * np.eye(j.shape[1])])
        u = np.linalg.lstsq(damped, np.append(-r, np.zeros(j.shape[1])), rcond=0.0)[0]
        low, high = (low, (low + high) / 2) if 0.5 * np.sum((r + j @ u) ** 2) > epsilon else ((low + high) / 2, high)
    return float(u @ u)


def conic(j, r, epsilon):
    """kappa by a general solver for constrained problems, which is told nothing of spectra."""
    found = minimize(
        lambda u: u @ u,
        np.linalg.lstsq(j, -r, rcond=None)[0],
        jac=lambda u: 2 * u,
        constraints={
            "type": "ineq",
            "fun": lambda u: epsilon - 0.5 * np.sum((r + j @ u) ** 2),
            "jac": lambda u: -j.T @ (r + j @ u),
        },
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    assert found.success
    return float(found.fun)


CASES = {
    "tall": ({"degree": 3}, 60, 1),
    "wide": ({"degree": 6}, 9, 1),
    "two outputs": ({"degree": 3, "outputs": 2}, 40, 2),
    "two outputs, wide": ({"degree": 6, "outputs": 2}, 7, 2),
    "gated": ({"base": "gated", "degree": 3}, 50, 1),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    settings, samples, outputs = CASES[request.param]
    network, (x, y) = network_of(**settings), data_of(samples, outputs)
    return network, x, y


def reachable(tangent, count=5):
    """Targets between the least reachable loss and the loss, over several decades where there are any."""
    low = max(tangent.least, 1e-4 * tangent.loss)
    return low + (tangent.loss - low) * np.geomspace(1e-2, 0.99, count)


def test_it_is_the_shortest_step_by_bisection(case):
    tangent = Tangent(*case)
    epsilons = reachable(tangent)
    expected = [bisected(*explicit(*case), epsilon) for epsilon in epsilons]
    np.testing.assert_allclose(tangent.kappa(epsilons), expected, rtol=1e-8)


@pytest.mark.parametrize(("samples", "features"), [(30, 4), (5, 8)])
def test_it_is_the_shortest_step_by_a_general_solver(samples, features):
    """On linear networks, whose condition such a solver can bear."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(samples, features, generator=draw, dtype=torch.float64)
    network, y = linear_network([[0.3] * features]), torch.randn(samples, 1, generator=draw, dtype=torch.float64)
    tangent = Tangent(network, x, y)
    epsilons = reachable(tangent)
    expected = [conic(*explicit(network, x, y), epsilon) for epsilon in epsilons]
    np.testing.assert_allclose(tangent.kappa(epsilons), expected, rtol=1e-7)


def test_products_alone_give_the_same(case):
    exact, products = Tangent(*case, matrix_free=False), Tangent(*case, matrix_free=True)
    epsilons = reachable(exact)
    np.testing.assert_allclose(products.kappa(epsilons), exact.kappa(epsilons), rtol=0.01)
    # Every target at once or one after the other.
    np.testing.assert_allclose([products.kappa(epsilon) for epsilon in epsilons], exact.kappa(epsilons), rtol=0.01)


def test_products_know_what_is_out_of_reach_when_the_range_is_used_up():
    network, (x, y) = network_of(degree=5, spread=0.0), data_of(50)
    exact, products = Tangent(network, x, y, matrix_free=False), Tangent(network, x, y, matrix_free=True)
    # The readout is 0 at the start, so only its five numbers move the outputs.
    assert exact.least > 1e-3
    assert math.isnan(products.least)
    np.testing.assert_array_equal(products.kappa([exact.least * 0.99, exact.loss]), [math.inf, 0.0])
    assert products.least == pytest.approx(exact.least, rel=1e-9)
    assert products.kappa(exact.least * 1.01) == pytest.approx(exact.kappa(exact.least * 1.01), rel=1e-8)


def bidiagonalisation(j, b, most_steps):
    matrix = torch.as_tensor(j)
    return Bidiagonalisation(torch.as_tensor(b), lambda u: matrix @ u, lambda c: matrix.T @ c, j.shape[1], most_steps)


def test_bounds_enclose_kappa_at_every_step():
    """A spectrum over six decades, of which few steps see the upper part."""
    draw = np.random.default_rng(3)
    left, right = (np.linalg.qr(draw.standard_normal((n, 30)))[0] for n in (80, 40))
    matrix, b = left * np.geomspace(1, 1e-6, 30) @ right.T, left @ draw.standard_normal(30) + 1e-3
    exact = Spectrum.of(matrix, b)
    epsilons = [exact.least + share * (0.5 * b @ b - exact.least) for share in (0.9, 0.3, 0.03)]
    kappa = [exact.kappa(epsilon) for epsilon in epsilons]
    before = [math.inf] * 3
    for steps in (1, 2, 5, 10, 20, 28):
        found = bidiagonalisation(matrix, b, steps)
        # No step may be called resolved, so that all of them are taken.
        found.kappa(epsilons, accuracy=-1.0)
        upper, lower = found._bounds(epsilons)
        for low, middle, high, last in zip(lower, kappa, upper, before, strict=True):
            assert low * (1 - 1e-9) <= middle <= high * (1 + 1e-9)
            assert high <= last * (1 + 1e-9)
        before = upper


def test_what_the_last_step_does_not_resolve_is_not_known():
    draw = np.random.default_rng(4)
    matrix, b = draw.standard_normal((60, 50)) * np.geomspace(1, 1e-5, 50), draw.standard_normal(60)
    exact = Spectrum.of(matrix, b)
    near, far, never = 0.4 * b @ b, exact.least * 1.05, exact.least * 0.5
    found = bidiagonalisation(matrix, b, 10).kappa([near, far, never], 0.01)
    assert found[0] == pytest.approx(exact.kappa(near), rel=0.01)
    assert np.isnan(found[1:]).all()
    found = bidiagonalisation(matrix, b, 50).kappa([near, far, never], 0.01)
    assert found == pytest.approx([exact.kappa(near), exact.kappa(far), math.inf], rel=0.01)


def test_a_perfect_fit_needs_no_step():
    network, (x, _) = network_of(), data_of(20)
    for matrix_free in (False, True):
        tangent = Tangent(network, x, network(x).detach(), matrix_free=matrix_free)
        assert tangent.loss == tangent.grad_norm == tangent.kappa(0.0) == 0


def test_products_are_taken_where_a_factorisation_is_too_large(monkeypatch):
    network, (x, y) = network_of(degree=6), data_of(9)
    problem = LinearProblem(network, x, y)
    assert not problem.is_large
    monkeypatch.setattr(factor, "_MOST_HELD", 9 * problem.parameters - 1)
    assert problem.is_large
    tangent = Tangent(network, x, y)
    assert tangent.kappa(tangent.loss / 2) == Tangent(network, x, y, matrix_free=True).kappa(tangent.loss / 2)
    monkeypatch.undo()
    monkeypatch.setattr(factor, "_LARGE", 8)
    assert problem.is_large


def test_loss_and_gradient_are_the_objectives(case):
    network, x, y = case
    data = Dataset("given", "regression", *(t.numpy() for t in (x, y, x, y)), y.shape[1])
    evaluation = Objective(data, "mse", dtype=torch.float64).evaluate(network)
    tangent = Tangent(network, x, y)
    assert tangent.loss == pytest.approx(float(evaluation.loss), rel=1e-12)
    assert tangent.grad_norm == pytest.approx(float(evaluation.grad_norm), rel=1e-12)


def test_it_falls_as_the_target_rises(case):
    tangent = Tangent(*case)
    kappa = tangent.kappa(np.geomspace(max(tangent.least, 1e-8) * 1.001, tangent.loss, 60))
    assert (np.diff(kappa) < 0).all()
    assert kappa[-1] == 0


def test_the_inequality_holds(case):
    network, x, y = case
    draw = np.random.default_rng(0)
    for scale in (0.01, 0.3, 3.0):
        theta = parameters_to_vector(network.parameters()).detach()
        vector_to_parameters(theta + scale * torch.as_tensor(draw.standard_normal(len(theta))), network.parameters())
        tangent = Tangent(network, x, y)
        epsilons = np.append(reachable(tangent, 9), tangent.loss * (1 - 1e-6))
        slack = kl_slack(tangent.loss, tangent.grad_norm, epsilons, tangent.kappa(epsilons))
        assert (slack >= 1 - 1e-9).all()


def linear_network(weights):
    base = linear_base(len(weights[0]), len(weights))
    network = LiftedNetwork(sample_lift(base, 1, 0, {"kind": "dense"}), 0, torch.float64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.tensor(weights, dtype=torch.float64).reshape(parameter.shape))
    return network


def test_one_weight_by_hand():
    """F = w x on x = 2 with w = 0 and y = 3: a step u leaves (3 - 2 u)^2 / 2, so u = (3 - sqrt(2 eps)) / 2."""
    network, x, y = linear_network([[0.0]]), torch.tensor([[2.0]]), torch.tensor([[3.0]])
    for epsilon in (1e-12, 1e-3, 0.5, 4.0, 4.5 - 1e-9):
        expected = ((3 - math.sqrt(2 * epsilon)) / 2) ** 2
        # Close to the loss the formula above cancels.
        rel = 1e-10 if epsilon < 4.4 else 1e-6
        assert tangent_kappa(network, x, y, epsilon) == pytest.approx(expected, rel=rel)
    assert tangent_kappa(network, x, y, 4.5) == 0
    assert tangent_kappa(network, x, y, 100.0) == 0


def test_two_orthogonal_weights_by_hand():
    """Samples (2, 0) and (0, 1), targets 2 and 1: mu = 1 gives u = (2 / 3, 1 / 3), which leaves 5 / 18 of a loss."""
    x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0], [1.0]])
    # A = diag(2, 1) / sqrt(2), b = (2, 1) / sqrt(2): u_i = s_i b_i / (s_i^2 + 1) and what is left is b_i / (s_i^2 + 1).
    u = np.array([2 / 3, 0.5 / 1.5])
    left = np.array([2 / 3, 1 / 1.5]) / math.sqrt(2)
    epsilon = 0.5 * float(left @ left)
    assert epsilon == pytest.approx(2 / 9)
    assert tangent_kappa(linear_network([[0.0, 0.0]]), x, y, epsilon) == pytest.approx(float(u @ u), rel=1e-12)


def test_below_the_least_squares_residual_nothing_is_near_enough():
    data, least = least_squares()
    network = linear_network([[0.5, 0.5, 0.5]])
    tangent = Tangent(network, torch.as_tensor(data.x_train), torch.as_tensor(data.y_train))
    assert tangent.least == pytest.approx(least, rel=1e-10)
    assert np.isinf(tangent.kappa([0.0, 0.5 * least, least * (1 - 1e-9)])).all()
    assert np.isfinite(tangent.kappa(least * (1 + 1e-9)))


def test_targets_that_only_rounding_could_reach_are_out_of_range():
    """The second input is the first and a perturbation of the last digit, along which the targets differ."""
    x = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2**-52], [1.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [2.0], [1.0]])
    tangent = Tangent(linear_network([[0.0, 0.0]]), x, y)
    assert tangent.least == pytest.approx(0.5 * 2 / 9, rel=1e-12)
    assert np.isinf(tangent.kappa(0.1))


def test_a_loss_that_float64_cannot_tell_from_zero_is_out_of_reach():
    network = network_of(degree=6)
    x, y = data_of(5)
    for matrix_free in (False, True):
        tangent = Tangent(network, x, y, matrix_free=matrix_free)
        assert np.isfinite(tangent.kappa(1e-26))
        assert np.isinf(tangent.kappa([1e-40, 0.0])).all()
    assert Tangent(network, x, y).least < 1e-28


def test_the_accuracy_of_the_root():
    """Spectra over twenty decades, targets made from a known mu."""
    draw = np.random.default_rng(1)
    for _ in range(50):
        squares = 10.0 ** draw.uniform(-20, 2, 30)
        parts = squares ** draw.uniform(0, 0.5) * draw.exponential(size=30)
        mu = 10.0 ** draw.uniform(-18, 2)
        epsilon = 0.5 * math.fsum((mu / (squares + mu)) ** 2 * parts) + 0.25
        expected = math.fsum(squares * parts / (squares + mu) ** 2)
        # What an ulp of the target is worth: d kappa / d eps = -2 / mu.
        inherent = 4 * np.finfo(float).eps * (epsilon + 0.5 * parts.sum()) / mu / expected
        assert Spectrum(squares, parts, 0.25).kappa(epsilon) == pytest.approx(expected, rel=1e-10 + inherent)


def test_copies_that_appear_twice_halve_the_readout_part():
    """With outputs F = sum_c a_c h_c and only the readout free, each copy twice with a / 2 has the same F and 2 K."""
    features = torch.as_tensor(np.random.default_rng(2).standard_normal((40, 5)))
    y = data_of(40)[1]
    once = linear_network([[0.2] * 5])
    twice = linear_network([[0.1] * 10])
    epsilons = reachable(Tangent(once, features, y))
    doubled = Tangent(twice, torch.cat([features, features], 1), y)
    np.testing.assert_allclose(doubled.kappa(epsilons), Tangent(once, features, y).kappa(epsilons) / 2, rtol=1e-9)


def test_single_precision_is_measured_in_double(case):
    network, x, y = case
    single = LiftedNetwork(network.lift, 0, torch.float32)
    rounded = parameters_to_vector(network.parameters()).float()
    vector_to_parameters(rounded, single.parameters())
    vector_to_parameters(rounded.double(), network.parameters())
    expected = Tangent(network, x.float(), y.float())
    found = Tangent(single, x.float(), y.float())
    np.testing.assert_array_equal(found.kappa(reachable(found)), expected.kappa(reachable(expected)))


def test_it_is_on_the_promised_surface():
    network, (x, y) = network_of(), data_of(20)
    assert rsl_cli.tangent_kappa(network, x, y[:, 0], 0.01) == tangent_kappa(network, x, y, 0.01)
    assert float(rsl_cli.loss_bound(1.0, 0.0, 1.0, 1.0)) == pytest.approx(0.2)


def test_errors():
    network, (x, y) = network_of(), data_of(20)
    union = LiftedNetwork(disjoint_union([network.lift, network.lift]))
    with pytest.raises(ConfigError, match="union of 2 replicas has no one kappa"):
        tangent_kappa(union, x, y, 0.1)
    with pytest.raises(ConfigError, match=r"epsilon is -1\.0; accepted: numbers from 0"):
        tangent_kappa(network, x, y, -1.0)
    with pytest.raises(ConfigError, match="epsilon is nan"):
        tangent_kappa(network, x, y, math.nan)
    with pytest.raises(DataError, match=r"20 inputs, targets of shape \(19, 1\); accepted: \(N, 1\)"):
        tangent_kappa(network, x, y[:19], 0.1)
    with pytest.raises(DataError, match="0 inputs"):
        tangent_kappa(network, x[:0], y[:0], 0.1)


def objective_of(samples=30, loss="mse"):
    x, y = (t.numpy() for t in data_of(samples))
    if loss == "mse":
        data = Dataset("given", "regression", x, y, x, y, 1)
    else:
        labels = (y[:, 0] > 0).astype(np.int64)
        data = Dataset("given", "classification", x, labels, x, labels, 2)
    return Objective(data, loss, dtype=torch.float64)


def table(network, objective, seed=3, **settings):
    start = parameters_to_vector(network.parameters()).detach().clone()
    path = [PathPoint(5, 0.5, start + 0.1), PathPoint(9, math.nan, start.float() - 0.1)]
    return tangent_table(network, objective, start, path, TangentProbe(**settings), seed)


def test_the_table():
    network, objective = network_of(), objective_of()
    before = parameters_to_vector(network.parameters()).detach().clone()
    epsilons = (10.0, 1e-2, 1e-4)
    frame = table(network, objective, epsilons=epsilons, probes=2, radius=0.7)
    assert tuple(frame.columns) == (
        *("place", "probe", "time", "step", "distance", "loss", "grad_norm", "epsilon", "kappa"),
    )
    points = frame.iloc[::3]
    assert list(frame["epsilon"]) == list(epsilons) * 5
    assert list(points["place"]) == ["start", "path", "path", "ball", "ball"]
    assert list(points["probe"]) == [0, 0, 1, 0, 1]
    np.testing.assert_array_equal(points["time"], [0, 0.5, math.nan, math.nan, math.nan])
    np.testing.assert_array_equal(points["step"], [0, 5, 9, math.nan, math.nan])
    far = 0.1 * len(before) ** 0.5
    np.testing.assert_allclose(points["distance"], [0, far, far, 0.7, 0.7], rtol=1e-5)
    assert (frame["kappa"][frame["epsilon"] >= frame["loss"]] == 0).all()
    at_start = Tangent(network, objective.x, objective.y)
    np.testing.assert_array_equal(frame["kappa"][:3], at_start.kappa(epsilons))
    assert (frame["loss"][:3] == at_start.loss).all() and (frame["grad_norm"][:3] == at_start.grad_norm).all()
    slack = kl_slack(*(frame[name] for name in ("loss", "grad_norm", "epsilon", "kappa")))
    assert (slack[~np.isnan(slack)] >= 1 - 1e-9).all()
    assert torch.equal(parameters_to_vector(network.parameters()), before)


def test_the_table_depends_on_nothing_but_its_arguments():
    network, objective = network_of(), objective_of()
    first = table(network, objective, probes=2)
    torch.manual_seed(1)
    np.random.default_rng(1)
    assert table(network, objective, probes=2).equals(first)
    # More probes, other targets: the first points stay where they were.
    more = table(network, objective, probes=3, epsilons=(1e-2,))
    where = ["place", "probe", "distance", "loss"]
    kept = more[where][:-1].reset_index(drop=True)
    assert first[first["epsilon"] == 1e-2][where].reset_index(drop=True).equals(kept)
    other = table(network, objective, probes=2, seed=4)
    assert (other["loss"] != first["loss"]).eq(first["place"] == "ball").all()


def test_only_mean_squared_error_has_a_kappa():
    with pytest.raises(ConfigError, match="kappa is defined for loss=mse, not cross_entropy; use loss=mse"):
        table(network_of(outputs=2), objective_of(loss="cross_entropy"))


def test_settings_are_read_and_identified():
    settings = TangentProbe.from_config({"epsilons": [1e-2, 1], "probes": 0, "radius": 2})
    assert settings == TangentProbe((1e-2, 1.0), 0, 2.0)
    assert settings.identity() == {"epsilons": [1e-2, 1.0], "probes": 0, "radius": 2.0}
    assert TangentProbe.from_config({}) == TangentProbe()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"epsilon": [1]}, r"theory.tangent key 'epsilon' is not known; accepted: .*did you mean 'epsilons'"),
        ({"epsilons": []}, r"theory.tangent.epsilons=\[\]; accepted: a list of numbers above 0"),
        ({"epsilons": [0]}, r"theory.tangent.epsilons=\[0\]; accepted"),
        ({"epsilons": 0.1}, r"theory.tangent.epsilons=0.1; accepted"),
        ({"epsilons": ["a"]}, r"theory.tangent.epsilons=\['a'\]; accepted"),
        ({"epsilons": "abc"}, r"theory.tangent.epsilons='abc'; accepted"),
        ({"probes": -1}, "theory.tangent.probes=-1; accepted: a whole number from 0"),
        ({"probes": True}, "theory.tangent.probes=True; accepted"),
        ({"radius": 0}, "theory.tangent.radius=0; accepted: a number above 0"),
        ({"radius": math.inf}, "theory.tangent.radius=inf; accepted"),
        ([1e-2], r"theory.tangent=\[0.01\]; accepted: null or the keys epsilons, probes, radius"),
    ],
)
def test_settings_out_of_range_are_refused(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        TangentProbe.from_config(config)
    assert "\n" not in str(caught.value)
