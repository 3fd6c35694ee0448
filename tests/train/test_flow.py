"""The flow against SciPy's stiff solvers at tight tolerances, its order, its ends, its unions and its checkpoints."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import problems
import pytest
import torch
from problems import trained
from scipy.integrate import solve_ivp
from torch.func import functional_call, hessian
from train.test_first_order import Memory, carried

import rsl_cli as rsl
from rsl_cli import stats
from rsl_cli.data import Dataset, load_dataset
from rsl_cli.errors import ConfigError, DataError, TrainingError
from rsl_cli.graph import BaseGraph
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.flow import Flow
from rsl_cli.train.gauss_newton import gauss_newton
from rsl_cli.train.ndf import MOST_ORDER, Differences
from rsl_cli.train.objective import Objective
from rsl_cli.train.trainers import from_results

BASE = BaseGraph.from_config(problems.group("base", "mlp"), input_shape=(2,), output_size=1)
DATA = load_dataset(problems.group("dataset", "sine2d", samples=64, test_samples=16))


def network(seeds, degree=4, base=BASE):
    lifts = [sample_lift(base, degree, seed, {"kind": "random", "in_degree": 3}) for seed in seeds]
    return LiftedNetwork(disjoint_union(lifts), None, torch.float64)


def classes(samples=60):
    draw = np.random.default_rng(3)
    x = draw.standard_normal((samples, 2))
    # Noisy labels, so that the loss has a minimum at finite parameters.
    y = (x[:, 0] * x[:, 1] + 0.8 * draw.standard_normal(samples) > 0).astype(np.int64) + (x[:, 0] > 1)
    data = Dataset("noisy", "classification", x, y, x[:9], y[:9], 3)
    base = BaseGraph.from_config(problems.group("base", "mlp"), input_shape=(2,), output_size=3)
    return data, base


def slow_gradient(net, data, kind):
    """Parameters (P,) -> (loss, gradient) by functional_call and plain autograd."""
    names, shapes = zip(*((n, p.shape) for n, p in net.named_parameters()), strict=True)
    x, y = torch.as_tensor(data.x_train), torch.as_tensor(data.y_train)

    def loss(flat):
        pieces = flat.split([s.numel() for s in shapes])
        out = functional_call(net, {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}, (x,)).reshape(
            len(x), -1
        )
        if kind == "mse":
            return 0.5 * (out - y).square().sum(1).mean()
        return -(out.log_softmax(-1).gather(1, y[:, None])).mean()

    def both(flat):
        theta = torch.tensor(flat, requires_grad=True)
        value = loss(theta)
        return value.item(), torch.autograd.grad(value, theta)[0].numpy()

    curvature = hessian(loss)
    both.hessian = lambda flat: curvature(torch.tensor(flat)).detach().numpy()
    return both


@cache
def in_one_go(settings, *seeds):
    """Training on the numbers, for several tests; nothing changes what they get."""
    return trained(network(seeds), Objective(DATA, "mse", dtype=torch.float64), settings)


def flat(net):
    return torch.nn.utils.parameters_to_vector(net.parameters()).detach().numpy().copy()


def by_hand(net, data):
    """Parameters (P,) -> (loss, gradient) by dense matrices in NumPy; the Hessian by differences of the gradient."""
    x, y, lift = data.x_train, data.y_train, net.lift.replicas[0]
    inputs, middle, outputs = (lift.edges(*ends) for ends in (("x", "h1"), ("h1", "h2"), ("h2", "y")))
    n1, n2, k = lift.fibre("h1"), lift.fibre("h2"), lift.base.output_size
    cuts = np.cumsum([parameter.numel() for parameter in net.parameters()])[:-1]

    def loss_of(out):
        """The loss, and its derivative by the outputs."""
        if data.task == "regression":
            return 0.5 * float(((out - y) ** 2).sum(1).mean()), (out - y) / len(x)
        shares = np.exp(out - out.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        return -float(np.log(shares[np.arange(len(x)), y]).mean()), (shares - np.eye(k)[y]) / len(x)

    def both(theta):
        first, second, last, b1, b2 = np.split(theta, cuts)
        w1, w2, w3 = np.zeros((n1, 2)), np.zeros((n2, n1)), np.zeros((n2, k))
        w1[inputs[1]], w2[middle[1], middle[0]], w3[outputs[0], outputs[1]] = first.reshape(-1, 2), second, last
        h1 = np.tanh(x @ w1.T + b1)
        h2 = np.tanh(h1 @ w2.T + b2)
        loss, left = loss_of(h2 @ w3)
        g2 = left @ w3.T * (1 - h2**2)
        g1 = g2 @ w2 * (1 - h1**2)
        of_first, of_second = (g1.T @ x)[inputs[1]].ravel(), (g2.T @ h1)[middle[1], middle[0]]
        of_last = (h2.T @ left)[outputs[0], outputs[1]]
        return loss, np.concatenate([of_first, of_second, of_last, g1.sum(0), g2.sum(0)])

    def curvature(theta):
        shifts = 1e-5 * np.eye(len(theta))
        return np.stack([both(theta + shift)[1] - both(theta - shift)[1] for shift in shifts]) / 2e-5

    both.hessian = curvature
    return both


@pytest.mark.parametrize("solver", ["BDF", "Radau"])
@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
def test_it_agrees_with_scipy_at_tight_tolerances(solver, kind):
    data, base = (DATA, BASE) if kind == "mse" else classes()
    net = network([0], base=base)
    both = by_hand(net, data)
    times = [1.0, 10.0, 100.0, *([1e3, 1e4] if kind == "mse" else [])]
    exact = solve_ivp(
        lambda t, y: -both(y)[1],
        (0, times[-1]),
        flat(net),
        method=solver,
        jac=lambda t, y: -both.hessian(y),
        rtol=1e-7,
        atol=1e-9,
        t_eval=times,
    )
    results = trained(
        net, Objective(data, kind, dtype=torch.float64), Flow(t_end=times[-1], rtol=1e-6, atol=1e-8, stationary=0.0)
    )
    rows = {row[1]: row for row in results[0].trajectory.rows}
    path = {point.time: point.parameters.numpy() for point in results[0].path}
    for i, time in enumerate(times):
        loss = both(exact.y[:, i])[0]
        sample = next(row for at, row in rows.items() if math.isclose(at, time, rel_tol=1e-9))
        assert sample[2] == pytest.approx(loss, rel=0.01)
        theta = next(p for at, p in path.items() if math.isclose(at, time, rel_tol=1e-9))
        assert np.linalg.norm(theta - exact.y[:, i]) <= 0.001 * np.linalg.norm(theta)


def test_it_agrees_to_late_times_with_an_integrator_that_shares_nothing_with_it():
    """Where most of the Gauss-Newton matrix is below 1 / t; larger and falling further: scripts/check_flow.py."""
    net, times = network([0]), [10.0**k for k in range(2, 9)]
    both = by_hand(net, DATA)
    path = solve_ivp(
        lambda t, y: -both(y)[1],
        (0, times[-1]),
        flat(net),
        method="BDF",
        jac=lambda t, y: -both.hessian(y),
        rtol=1e-7,
        atol=1e-10,
        t_eval=times,
    ).y.T
    settings = Flow(t_end=times[-1], rtol=1e-5, atol=1e-8, stationary=0.0)
    result = trained(net, Objective(DATA, "mse", dtype=torch.float64), settings)[0]
    rows = result.trajectory.rows
    points = {round(math.log10(point.time)): point.parameters.numpy() for point in result.path if point.time > 0}
    for k, (time, exact) in enumerate(zip(times, path, strict=True), start=2):
        loss = next(row.loss for row in rows if math.isclose(row.time, time, rel_tol=1e-9))
        assert loss == pytest.approx(both(exact)[0], rel=0.01)
        assert np.linalg.norm(points[k] - exact) <= 0.001 * np.linalg.norm(exact)


def test_error_falls_with_the_tolerance():
    errors, net = [], network([0])
    both = by_hand(net, DATA)
    exact = solve_ivp(
        lambda t, y: -both(y)[1],
        (0, 20),
        flat(net),
        method="Radau",
        jac=lambda t, y: -both.hessian(y),
        rtol=1e-9,
        atol=1e-11,
    ).y[:, -1]
    for rtol in (1e-3, 1e-5, 1e-7):
        result = trained(
            network([0]), Objective(DATA, "mse", dtype=torch.float64), Flow(t_end=20.0, rtol=rtol, atol=rtol * 1e-2)
        )
        errors.append(np.linalg.norm(result[0].path[-1].parameters.numpy() - exact))
    assert errors[0] < 0.01
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 10


@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
@pytest.mark.parametrize("order", range(1, MOST_ORDER + 1))
def test_fixed_steps_show_the_order(order, kind):
    data, base = (DATA, BASE) if kind == "mse" else classes()
    net = network([1], base=base)
    both = by_hand(net, data)
    end = 1.0
    reference = solve_ivp(
        lambda t, y: -both(y)[1], (0, end), flat(net), method="DOP853", rtol=1e-13, atol=1e-14, dense_output=True
    )
    errors = []
    for steps in (16, 32):
        h = end / steps
        # The exact solution's differences, so that only the formula's own error is seen.
        values = [reference.sol(h * (order - j)) for j in range(order + 1)]
        table = np.zeros((MOST_ORDER + 3, len(values[0])))
        for j in range(order + 1):
            table[j] = sum((-1) ** m * math.comb(j, m) * values[m] for m in range(j + 1))
        formula = Differences(table, h, order)
        for _ in range(steps - order):
            predicted, psi, correction = formula.predicted, formula.psi, 0 * table[0]
            for _ in range(100):
                update = -formula.c * both(predicted + correction)[1] - psi - correction
                correction = correction + update / (1 + formula.c)
                if np.abs(update).max() < 1e-14:
                    break
            formula.advance(correction)
        errors.append(np.linalg.norm(formula.d[0] - reference.y[:, -1]))
    # Orders settle slowly at the top, and rounding is near.
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.45)


def test_differences_change_grid_and_interpolate_exactly():
    times = np.linspace(0, 1, 9)
    polynomial = np.polynomial.Polynomial([0.3, -1.0, 2.0, 0.5, -0.7, 1.1])
    table = np.zeros((MOST_ORDER + 3, 1))
    values = [polynomial(1 - j / 8) for j in range(6)]
    for j in range(6):
        table[j] = sum((-1) ** m * math.comb(j, m) * values[m] for m in range(j + 1))
    formula = Differences(table, 1 / 8, 5)
    for factor in (0.5, 3.0):
        formula.rescale(factor)
    assert formula.h == pytest.approx(1.5 / 8)
    for back in times:
        value, slope = formula.at(back)
        assert value[0] == pytest.approx(polynomial(1 - back), abs=1e-10)
        assert slope[0] == pytest.approx(polynomial.deriv()(1 - back), abs=1e-9)
    assert formula.predicted[0] == pytest.approx(polynomial(1 + 1.5 / 8), abs=1e-10)


@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
@pytest.mark.parametrize("samples", [60, 4])
def test_the_gauss_newton_matrix_is_the_explicit_one(kind, samples):
    data, base = classes(samples)
    net = network([2], base=base)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2
    objective = Objective(data, kind, dtype=torch.float64)
    names = [n for n, _ in net.named_parameters()]

    def out(*parameters):
        return functional_call(net, dict(zip(names, parameters, strict=True)), (objective.x,))[0]

    jacobian = torch.cat([j.flatten(2) for j in torch.autograd.functional.jacobian(out, tuple(net.parameters()))], 2)
    p = net(objective.x)[0].softmax(-1)
    middle = torch.eye(3).expand(samples, 3, 3) if kind == "mse" else torch.diag_embed(p) - p[:, :, None] * p[:, None]
    expected = torch.einsum("nkp,nkl,nlq->pq", jacobian, middle.double(), jacobian).detach() / samples
    curvature, vector = gauss_newton(net, objective), np.linspace(-1, 1, len(expected))
    np.testing.assert_allclose(curvature.times(vector), expected.numpy() @ vector, rtol=1e-10, atol=1e-12)
    for alpha in (0.0, 0.3, 1e4):
        solution = np.linalg.solve(np.eye(len(vector)) + alpha * expected.numpy(), vector)
        np.testing.assert_allclose(curvature.solve(alpha, vector), solution, rtol=1e-7, atol=1e-9)


def test_each_replica_of_a_union_goes_its_own_way_as_if_alone():
    objective = Objective(DATA, "mse", dtype=torch.float64)
    settings = Flow(t_end=100.0)
    together = trained(network([0, 1, 2]), objective, settings)
    for seed, result in enumerate(together):
        alone = trained(network([seed]), objective, settings)[0]
        assert alone.stop_reason == result.stop_reason
        problems.assert_same_training(alone, result)
    assert len({result.trajectory.last["step"] for result in together}) > 1


def test_resumed_integration_is_the_uninterrupted_one_bit_for_bit():
    objective, settings = Objective(DATA, "mse", dtype=torch.float64), Flow(t_end=1000.0)
    whole = trained(network([0, 1]), objective, settings)
    checkpointer = Memory(60, interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        trained(network([0, 1]), objective, settings, checkpointer=checkpointer)
    resumed = trained(network([0, 1]), objective, settings, checkpointer=checkpointer)
    for one, other in zip(whole, resumed, strict=True):
        problems.assert_same_training(one, other)
        assert [point.time for point in one.path] == [point.time for point in other.path]


ROUNDS = {
    "decades": [{"t_end": 1e1}, {"t_end": 1e3}, {"t_end": 1e5}],
    "between samples": [{"t_end": 0}, {"t_end": 3e-3}, {"t_end": 7.3}, {"t_end": 333.3}, {"t_end": 1e5}],
    "steps": [{"max_steps": 0}, {"max_steps": 7}, {"max_steps": 40}, {"t_end": 1e5}],
    "targets": [{"epsilon": 1.0}, {"epsilon": 0.1}, {"epsilon": 1e-2}, {"epsilon": 0.05}, {"t_end": 1e5}],
    "ending between samples": [{"t_end": 2e2}, {"t_end": 5e3}],
    "ending at a target": [{"t_end": 2e2}, {"epsilon": 3e-3}],
    "ending by steps": [{"t_end": 2e2}, {"max_steps": 90}],
}


REASONS = {"t_end": "time", "max_steps": "budget", "epsilon": "target"}


@pytest.mark.slow
@pytest.mark.parametrize("rounds", ROUNDS.values(), ids=ROUNDS)
def test_carried_on_in_rounds_it_is_the_flow_in_one_go(rounds):
    objective, settings = Objective(DATA, "mse", dtype=torch.float64), [Flow(**changes) for changes in rounds]
    parts = carried(lambda: network([0, 1]), objective, settings)
    for one, other in zip(in_one_go(settings[-1], 0, 1), parts, strict=True):
        assert one.stop_reason == other.stop_reason == REASONS[next(iter(rounds[-1]))]
        problems.assert_same_training(one, other)
        assert [point.time for point in one.path] == [point.time for point in other.path]


def test_a_continuation_killed_on_its_way_is_one_that_was_not():
    objective = Objective(DATA, "mse", dtype=torch.float64)
    (whole,) = in_one_go(Flow(t_end=1e4), 0)
    checkpointer = Memory(40, True, [trained(network([0]), objective, Flow(t_end=30))[0].saved])
    with pytest.raises(KeyboardInterrupt):
        trained(network([0]), objective, Flow(t_end=1e4), checkpointer=checkpointer)
    problems.assert_same_training(
        whole, trained(network([0]), objective, Flow(t_end=1e4), checkpointer=checkpointer)[0]
    )
    # Asked for less than it came to, it ends where it stands; and goes on from there.
    less = trained(network([0]), objective, Flow(t_end=40), checkpointer=checkpointer)[0]
    assert less.stop_reason == "time" and 40 < less.trajectory.last["time"] < 1e4
    more = trained(network([0]), objective, Flow(t_end=1e4), checkpointer=Memory(saved=[less.saved]))[0]
    problems.assert_same_training(whole, more)


def test_without_a_saved_state_the_integrator_begins_anew_where_it_stood():
    objective = Objective(DATA, "mse", dtype=torch.float64)
    first = trained(network([0]), objective, Flow(t_end=300))[0]
    state = {name: part.numpy() for name, part in first.state.items()}
    saved = from_results(Flow(), first.trajectory.to_frame().drop(columns="test_loss"), state)
    again = trained(network([0]), objective, Flow(t_end=1e4), checkpointer=Memory(saved=[saved]))[0]
    (whole,) = in_one_go(Flow(t_end=1e4), 0)
    assert again.restarted_at == 300 and whole.restarted_at is None
    kept = len(first.trajectory.rows)
    assert [row[1:3] for row in again.trajectory.rows[:kept]] == [row[1:3] for row in first.trajectory.rows]
    assert [row[1] for row in again.trajectory.rows if row[1] != 300] == [row[1] for row in whole.trajectory.rows]
    assert again.trajectory.last["loss"] == pytest.approx(whole.trajectory.last["loss"], rel=1e-2)
    # From here on it has a state again.
    end = {"t_end": 1e5}
    longer = trained(network([0]), objective, Flow(**end), checkpointer=Memory(saved=[again.saved]))[0]
    assert longer.restarted_at == 300
    rows = [np.array(one.trajectory.rows, dtype=float) for one in (longer, again)]  # NaN equals NaN there.
    np.testing.assert_array_equal(rows[0][: len(rows[1])], rows[1])


class Late(Memory):
    """Interrupts at a number of calls after matrices are formed at each iterate."""

    def due(self):
        return True

    def save(self, saved):
        self.calls += saved[0][0].get("state/newton", np.zeros(5))[3] == 1
        if self.calls == self.step:
            super().save(saved)


@pytest.mark.slow
def test_late_integration_resumes_bit_for_bit_too():
    objective, settings = Objective(DATA, "mse", dtype=torch.float64), Flow(t_end=1e6, stationary=0.0)
    whole = trained(network([0]), objective, settings)
    for calls in (1, 40, 333):
        checkpointer = Late(calls, interrupt=True)
        with pytest.raises(KeyboardInterrupt):
            trained(network([0]), objective, settings, checkpointer=checkpointer)
        checkpointer.step = -1
        problems.assert_same_training(
            whole[0], trained(network([0]), objective, settings, checkpointer=checkpointer)[0]
        )


def test_a_checkpoint_of_another_network_is_refused():
    objective, checkpointer = Objective(DATA, "mse", dtype=torch.float64), Memory(20, interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        trained(network([0]), objective, Flow(), checkpointer=checkpointer)
    with pytest.raises(TrainingError, match="checkpoint is of another network"):
        trained(network([1]), objective, Flow(), checkpointer=checkpointer)


@pytest.mark.parametrize(("rtol", "share"), [(1e-3, 0.1), (1e-4, 0.01)])
@pytest.mark.parametrize(("kind", "end"), [("mse", 1e7), ("cross_entropy", 1e3)])
def test_every_sample_obeys_the_dissipation_identity(kind, end, rtol, share):
    data, base = (DATA, BASE) if kind == "mse" else classes()
    settings = Flow(t_end=end, rtol=rtol, atol=1e-3 * rtol)
    result = trained(network([0], base=base), Objective(data, kind, dtype=torch.float64), settings)[0]
    frame = result.trajectory.to_frame()
    assert math.isnan(frame["dissipation"][0])
    np.testing.assert_allclose(frame["dissipation"][1:], 1, atol=share)


def test_energy_is_dissipated_as_the_gradient_says():
    result = trained(
        network([0]), Objective(DATA, "mse", dtype=torch.float64), Flow(t_end=1e3, rtol=1e-5, log_per_decade=40)
    )[0]
    frame = result.trajectory.to_frame()
    frame = frame[frame["time"] > 0.1]
    drop = -np.diff(frame["loss"])
    work = (
        np.diff(np.log(frame["time"]))
        * 0.5
        * (
            (frame["grad_norm"] ** 2 * frame["time"]).to_numpy()[1:]
            + (frame["grad_norm"] ** 2 * frame["time"]).to_numpy()[:-1]
        )
    )
    np.testing.assert_allclose(drop.sum(), work.sum(), rtol=1e-2)


def test_samples_change_nothing_on_the_way():
    few, many = Flow(t_end=1e4, log_per_decade=1), Flow(t_end=1e4, log_per_decade=20)
    objective = Objective(DATA, "mse", dtype=torch.float64)
    ends = [trained(network([0]), objective, settings)[0].trajectory.last for settings in (few, many)]
    assert ends[0] == ends[1]


def at_a_saddle(size, *, beside):
    """y = a tanh(w x) near a = w = 0, where grad^2 L = -+|E x y|; and ``beside`` it, slow directions that move."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((200, 2))
    x -= x.mean(0)
    x[:, 1] -= x[:, 1] @ x[:, 0] / (x[:, 0] @ x[:, 0]) * x[:, 0]
    x[:, 1] *= 1e-2
    y = 1e-2 * x[:, :1] + (100 * x[:, 1:] if beside else 0)
    edges = [{"source": "x", "target": "h", "map": "linear"}, {"source": "h", "target": "y", "map": "linear"}]
    edges += [{"source": "x", "target": "y", "map": "linear"}] if beside else []
    hidden = {"kind": "hidden", "activation": "tanh"}
    config = {"vertices": {"x": {"kind": "input"}, "h": hidden, "y": {"kind": "output"}}, "edges": edges}
    net = LiftedNetwork(
        sample_lift(BaseGraph.from_config(config, input_shape=(2,), output_size=1), 1, 0), None, torch.float64
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.weight("x", "h").view(-1)[0] = net.weight("h", "y").view(-1)[0] = size
    return net, Dataset("saddle", "regression", x, y, x[:5], y[:5], 1)


@pytest.mark.parametrize("beside", [False, True])
def test_a_saddle_is_left_when_it_is_left(beside):
    """A step that is long against an unstable direction's own time would damp what grows in it."""
    net, data = at_a_saddle(1e-4, beside=beside)
    both, end = slow_gradient(net, data, "mse"), 3e3
    exact = solve_ivp(
        lambda t, y: -both(y)[1],
        (0, end),
        flat(net),
        method="BDF",
        jac=lambda t, y: -both.hessian(y),
        rtol=1e-6,
        atol=1e-11,
    )
    assert np.linalg.eigvalsh(both.hessian(flat(net)))[0] * end < -20
    known = np.array([both(y)[0] for y in exact.y.T])
    settings = Flow(t_end=end, stationary=0.0, log_per_decade=50)
    frame = trained(net, Objective(data, "mse", dtype=torch.float64), settings)[0].trajectory.to_frame()[1:]
    # The loss falls at once, between two levels.
    level = 2 * known[-1] if beside else known[0] / 10
    found = escape_time(frame["time"].to_numpy(), frame["loss"].to_numpy(), level)
    assert found == pytest.approx(escape_time(exact.t, known, level), rel=0.02)


def test_a_flow_that_rests_at_a_saddle_is_not_stationary():
    """Nothing seems left to gain, and it takes off when what is unstable has grown from rounding's size."""
    net, data = at_a_saddle(1e-9, beside=False)
    objective, both = Objective(data, "mse", dtype=torch.float64), slow_gradient(net, data, "mse")
    result = trained(net, objective, Flow(t_end=1e3, max_steps=300))[0]
    assert result.stop_reason == "time"
    least = np.linalg.eigvalsh(both.hessian(result.path[-1].parameters.numpy()))[0]
    frame = result.trajectory.to_frame()
    assert frame["least_curvature"].iloc[-1] == pytest.approx(1e3 * least, rel=1e-6)
    # What grows from rounding's size is seen a little earlier or later.
    assert frame["loss"].iloc[-1] > 0.99 * frame["loss"][0]
    assert stats.tail_limit(frame["time"], frame["loss"]).low == 0  # It has not fallen yet.
    assert stats.at_saddle(frame["time"], frame["least_curvature"])
    further = trained(at_a_saddle(1e-9, beside=False)[0], objective, Flow(t_end=1e4))[0].trajectory
    assert further.last["loss"] < 1e-3 * frame["loss"][0]


def escape_time(times, losses, level):
    """When the loss first falls below a level, by interpolation."""
    k = int(np.argmax(losses < level))
    assert k > 0
    share = np.log(losses[k - 1] / level) / np.log(losses[k - 1] / losses[k])
    return times[k - 1] * (times[k] / times[k - 1]) ** share


STOPS = {
    "time": (Flow(t_end=10.0), 10.0),
    "target": (Flow(epsilon=0.1), None),
    "budget": (Flow(max_steps=7), None),
}


@pytest.mark.parametrize("reason", STOPS)
def test_every_end_has_its_name(reason):
    settings, end = STOPS[reason]
    result = trained(network([0]), Objective(DATA, "mse", dtype=torch.float64), settings)[0]
    last = result.trajectory.last
    assert result.stop_reason == reason
    assert end is None or last["time"] == end
    assert reason != "target" or last["loss"] <= 0.1
    assert reason != "budget" or last["step"] == 7
    np.testing.assert_array_equal(
        torch.cat([part.flatten() for part in result.state.values()]), result.path[-1].parameters
    )


def test_a_quadratic_ends_stationary_at_its_least_loss():
    data, least = problems.least_squares()
    lift = sample_lift(problems.linear_base(3), 1, 0)
    result = trained(
        LiftedNetwork(lift, dtype=torch.float64), Objective(data, "mse", dtype=torch.float64), Flow(stationary=1e-6)
    )[0]
    assert result.stop_reason == "stationary"
    assert result.trajectory.last["loss"] == pytest.approx(least, rel=1e-9)


def test_no_time_at_all_returns_the_start():
    net = network([0])
    before = flat(net)
    trajectory = rsl.gradient_flow(net, *pair(), t_end=0)
    assert isinstance(trajectory, tuple)
    assert [row[1] for row in trajectory[0].rows] == [0.0]
    np.testing.assert_array_equal(flat(net), before)


def test_a_start_that_is_not_finite_has_diverged():
    net = network([0])
    with torch.no_grad():
        net.weight("h2", "y")[0] = math.nan
    result = trained(net, Objective(DATA, "mse", dtype=torch.float64), Flow())[0]
    assert result.stop_reason == "diverged"


def test_a_loss_below_rounding_is_stationary():
    net = network([0])
    x, _ = pair()
    with torch.no_grad():
        y = net(x)[0]
    result = trained(net, Objective(replace(DATA, y_train=y.numpy()), "mse", dtype=torch.float64), Flow())[0]
    assert (result.stop_reason, result.trajectory.last["loss"]) == ("stationary", 0.0)


def test_no_resolvable_step_is_a_stall(monkeypatch):
    from rsl_cli.train import replicas

    class Singular:
        def solve(self, alpha, rhs):
            from rsl_cli.train.gauss_newton import SingularError

            raise SingularError("planted")

        def times(self, vector):
            return vector

        def plus(self, bending):
            return self

    monkeypatch.setattr(replicas, "gauss_newton_by", lambda *_: Singular())
    result = trained(network([0]), Objective(DATA, "mse", dtype=torch.float64), Flow())[0]
    assert result.stop_reason == "stalled"


def test_a_valley_that_turns_takes_no_crawl_until_rounding_hides_where_it_goes():
    """Above its floor, where a step's first guess lies, its curvature seems unstable; on it, it is not."""
    data = load_dataset(problems.group("dataset", "sine2d", samples=1024, test_samples=16))
    net = LiftedNetwork(sample_lift(BASE, 4, 2, {"kind": "random", "in_degree": 2}), None, torch.float64)
    both = slow_gradient(net, data, "mse")
    result = trained(net, Objective(data, "mse", dtype=torch.float64), Flow(t_end=1e13))[0]
    frame = result.trajectory.to_frame()[1:]
    before, then = (frame[np.isclose(frame["time"], at)].iloc[0] for at in (10**9.25, 10**9.5))
    # Steps as short as that guess asks for, 957 of them, came to the same.
    assert then["step"] - before["step"] < 100
    assert then["loss"] == pytest.approx(3.899080e-3, rel=1e-4)
    assert (frame["dissipation"][frame["time"] <= then["time"]] - 1).abs().max() < 0.02
    last = frame.iloc[-1]
    assert result.stop_reason == "stalled" and 1e10 < last["time"] < 1e12 and math.isnan(last["dissipation"])
    at, draw = flat(net), np.random.default_rng(0)
    beside = [both(at + draw.choice([-1, 1], len(at)) * np.spacing(np.abs(at)))[1] for _ in range(8)]
    flow = math.sqrt(-np.gradient(frame["loss"][-3:], frame["time"][-3:])[-1])
    assert np.linalg.norm(beside - both(at)[1]) / math.sqrt(8) > 10 * flow


def test_a_sample_above_the_floor_of_a_valley_is_polished_down_to_it():
    """Where the residuals' curvature, as it is above the floor, leads nowhere: steep directions go first."""
    data = load_dataset(problems.group("dataset", "sine2d", samples=1024, test_samples=16))
    net = LiftedNetwork(sample_lift(BASE, 8, 2, {"kind": "random", "in_degree": 2}), None, torch.float64)
    result = trained(net, Objective(data, "mse", dtype=torch.float64), Flow(t_end=1e8))[0]
    np.testing.assert_allclose(result.trajectory.to_frame()["dissipation"][1:], 1, atol=0.1)


def pair():
    return torch.as_tensor(DATA.x_train), torch.as_tensor(DATA.y_train)


def test_the_promised_call_samples_when_asked():
    lift = sample_lift(BASE, 4, 0, {"kind": "random", "in_degree": 3})
    net = LiftedNetwork(lift, dtype=torch.float64)
    trajectory = rsl.gradient_flow(net, *pair(), t_end=100, rtol=1e-3, sample_times=[0, 1, 10])
    assert isinstance(trajectory, rsl.Trajectory)
    assert list(trajectory.to_frame()["time"]) == [0, 1, 10, 100]
    assert trajectory.to_frame()["loss"].is_monotonic_decreasing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t_end": -1}, "trainer.t_end=-1; accepted: a number from 0"),
        ({"t_end": 1e101}, r"trainer.t_end=1e\+101; accepted: a number from 0 to 1e\+100"),
        ({"t_end": math.nan}, "trainer.t_end=nan; accepted: a number from 0"),
        ({"max_steps": 10**20}, "trainer.max_steps=100000000000000000000; accepted: a whole number from 0"),
        ({"rtol": 0.0}, "trainer.rtol=0.0; accepted: a number from 1e-12 to 0.1"),
        ({"epsilon": 0}, "trainer.epsilon=0; accepted: null or a number above 0"),
        ({"steps": 5}, "trainer key"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        Flow.from_config({"name": "flow", **changes})


def test_bad_calls_are_named():
    x, y = pair()
    with pytest.raises(ConfigError, match="sample time 20 lies outside 0 to t_end=10"):
        rsl.gradient_flow(network([0]), x, y, t_end=10, sample_times=[20])
    with pytest.raises(DataError, match="64 inputs and 5 targets"):
        rsl.gradient_flow(network([0]), x, y[:5])
    with pytest.raises(TrainingError, match=r"float32; flow and lm need torch\.float64"):
        rsl.gradient_flow(network([0]).float(), x, y)
    with pytest.raises(DataError, match="give x_test and y_test, or neither"):
        rsl.gradient_flow(network([0]), x, y, x_test=x)
    with pytest.raises(DataError, match="3 inputs and 64 targets"):
        rsl.gradient_flow(network([0]), x, y, x_test=x[:3], y_test=y)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_held_out_losses_are_of_the_samples_given_or_are_none(loss):
    x, y = pair()
    base, targets = BASE, y
    if loss == "cross_entropy":
        base, targets = problems.linear_base(x.shape[1], 2), (y[:, 0] > y.median()).long()
    lift = sample_lift(base, 4, 0, {"kind": "random", "in_degree": 3})
    net = LiftedNetwork(lift, dtype=torch.float64)
    frame = rsl.gradient_flow(net, x, targets, t_end=1, loss=loss).to_frame()
    assert frame["test_loss"].isna().all() and np.isfinite(frame["loss"]).all()
    net = LiftedNetwork(lift, dtype=torch.float64)
    frame = rsl.gradient_flow(net, x, targets, x_test=x[:9], y_test=targets[:9], t_end=1, loss=loss).to_frame()
    with torch.no_grad():
        out = net(x[:9])
    if loss == "mse":
        expected = 0.5 * (out - targets[:9]).square().sum(1).mean()
    else:
        expected = torch.nn.functional.cross_entropy(out, targets[:9])
    assert frame["test_loss"].iloc[-1] == pytest.approx(float(expected), rel=1e-12)
