"""The tangent kernel's spectrum against an explicit Jacobian, taken by torch.func on a dense network written out."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.func import jacrev

import rsl_cli as rsl
from rsl_cli.data import Dataset
from rsl_cli.diagnostics.kernel import kernel_table
from rsl_cli.diagnostics.probes import PROBES, FinishedRun
from rsl_cli.testing import check_probe, finished_run
from rsl_cli.train.objective import Objective
from rsl_cli.train.trajectory import PathPoint

WIDTH = 3


def dense_lift(outputs: int) -> rsl.Lift:
    """A dense perceptron of two hidden layers with a random readout, whose parameters are plain matrices."""
    mapping = {
        "vertices": {
            "x": {"kind": "input"},
            "h1": {"kind": "hidden", "activation": "tanh", "bias": True},
            "h2": {"kind": "hidden", "activation": "tanh", "bias": True},
            "y": {"kind": "output"},
        },
        "edges": [
            {"source": "x", "target": "h1", "map": "linear"},
            {"source": "h1", "target": "h2", "map": "scale", "lifting": {"kind": "dense"}},
            {"source": "h2", "target": "y", "map": "scale", "lifting": {"kind": "dense"}},
        ],
    }
    base = rsl.BaseGraph.from_config(mapping, input_shape=(2,), output_size=outputs)
    return rsl.sample_lift(base, degree=WIDTH, seed=0)


def objective_of(samples: int, outputs: int, *, classes: bool) -> Objective:
    draw = np.random.default_rng(3)
    x = draw.standard_normal((samples, 2))
    y = draw.integers(0, outputs, samples) if classes else draw.standard_normal((samples, outputs))
    data = Dataset("made", "classification" if classes else "regression", x, y, x[:2], y[:2], outputs)
    return Objective(data, "cross_entropy" if classes else "mse", dtype=torch.float64)


def explicit(net: rsl.LiftedNetwork, x: torch.Tensor) -> np.ndarray:
    """The Jacobian (N k, P) of the same function as three matrix products."""
    sizes = [parameter.numel() for parameter in net.parameters()]
    names = {id(parameter): i for i, parameter in enumerate(net.parameters())}
    places = [net.weight("x", "h1"), net.bias("h1"), net.weight("h1", "h2"), net.bias("h2"), net.weight("h2", "y")]
    outputs = net.lift.base.output_size

    def function(theta: torch.Tensor) -> torch.Tensor:
        w1, b1, w2, b2, w3 = (theta.split(sizes)[names[id(parameter)]] for parameter in places)
        h1 = torch.tanh(x @ w1.reshape(WIDTH, 2).T + b1)
        h2 = torch.tanh(h1 @ w2.reshape(WIDTH, WIDTH).T + b2)
        return (h2 @ w3.reshape(outputs, WIDTH).T).reshape(-1)

    theta = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    assert torch.allclose(function(theta), net(x).detach().reshape(-1), atol=1e-12)
    return jacrev(function)(theta).numpy()


@pytest.mark.parametrize(
    ("samples", "outputs", "classes"), [(40, 1, False), (4, 1, False), (20, 2, False), (15, 3, True)]
)
def test_the_spectrum_is_that_of_an_explicit_jacobian(samples, outputs, classes):
    lift, objective = dense_lift(outputs), objective_of(samples, outputs, classes=classes)
    net = rsl.LiftedNetwork(lift, seed=0, dtype=torch.float64)
    theta = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    moved = theta + 0.3 * torch.cos(torch.arange(len(theta), dtype=torch.float64))
    path = [PathPoint(0, 0.0, theta), PathPoint(7, 2.5, moved)]
    table = kernel_table(net, objective, path)
    assert torch.equal(torch.nn.utils.parameters_to_vector(net.parameters()), theta)
    targets = np.eye(outputs)[objective.y.numpy()] if classes else objective.y.numpy()
    y = targets.reshape(-1)
    for point, place in zip(path, ("start", "path"), strict=True):
        torch.nn.utils.vector_to_parameters(point.parameters, net.parameters())
        kernel = explicit(net, objective.x)
        kernel = kernel @ kernel.T / samples
        values, vectors = np.linalg.eigh(kernel)
        values, vectors = values[::-1], vectors[:, ::-1]
        rows = table[table["place"] == place]
        ranks = rows["rank"].to_numpy()
        assert list(ranks[:3]) == [1, 2, 4] and ranks[-1] == np.linalg.matrix_rank(kernel, tol=1e-13)
        np.testing.assert_allclose(rows["eigenvalue"], values[ranks - 1], rtol=1e-9, atol=1e-14)
        shares = np.cumsum((vectors.T @ y) ** 2) / (y @ y)
        np.testing.assert_allclose(rows["target"], shares[ranks - 1], rtol=1e-7)
        np.testing.assert_allclose(rows["trace"], np.trace(kernel), rtol=1e-12)
        np.testing.assert_allclose(rows["effective_rank"], np.trace(kernel) ** 2 / (kernel**2).sum(), rtol=1e-10)
        alignment = y @ kernel @ y / (np.linalg.norm(kernel) * (y @ y))
        np.testing.assert_allclose(rows["alignment"], alignment, rtol=1e-10)
        loss = 0.5 * ((net(objective.x).detach().numpy() - targets) ** 2).sum() / samples
        np.testing.assert_allclose(rows["loss"], loss, rtol=1e-12)
        assert set(rows["time"]) == {point.time} and set(rows["step"]) == {point.step}


def test_the_kernel_says_how_fast_the_loss_falls():
    """On the flow dL/dt = -|grad L|^2, which is r^T K r: of a readout at 0, whose residuals are the targets."""
    objective, net = objective_of(30, 2, classes=False), rsl.LiftedNetwork(dense_lift(2), seed=0, dtype=torch.float64)
    net.weight("h2", "y").data.zero_()
    theta = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    row = kernel_table(net, objective, [PathPoint(0, 0.0, theta)]).iloc[0]
    norm = row["trace"] / np.sqrt(row["effective_rank"])
    slope = row["alignment"] * norm * float(objective.y.square().sum()) / objective.samples
    assert slope == pytest.approx(float(objective.evaluate(net).grad_norm) ** 2, rel=1e-10)


def test_a_trainer_without_a_path_has_the_start_and_the_end():
    run = finished_run(steps=5)
    table = PROBES["ntk"](run)
    assert list(table.groupby("place")["step"].unique().map(list)[["start", "path"]]) == [[0], [5]]
    assert PROBES["ntk"](run, largest=run.lift.parameter_count - 1) is None
    assert PROBES["ntk"](run, largest=None) is not None
    diverged = dataclasses.replace(run, result=dataclasses.replace(run.result, stop_reason="diverged"))
    assert PROBES["ntk"](diverged) is None
    check_probe(PROBES["ntk"])


def test_targets_of_nothing_have_no_alignment():
    run = finished_run(steps=1)
    still = FinishedRun(run.lift, run.parametrization, run.objective, run.result)
    still.objective.y.zero_()
    table = PROBES["ntk"](still)
    assert table["alignment"].isna().all() and (table["trace"] > 0).all()
