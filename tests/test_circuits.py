"""Circuits against the loop over copies and edges, and against torch's own optimisers."""

import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import oracles
import problems
import pytest
import torch
from problems import CONF, group, trained
from test_architectures import base_of, network_of
from torch.func import functional_call, hessian
from train.test_first_order import Memory

from rsl_cli.activations import ACTIVATIONS
from rsl_cli.circuits import circuit_of, has_circuits
from rsl_cli.data import Dataset
from rsl_cli.graph import BaseGraph
from rsl_cli.kernels.circuit import FUNCTIONS
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.linearization import each_output, sample_jacobians
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.circuits import CircuitObjective
from rsl_cli.train.engines import AutogradEngine, Batches, CircuitEngine
from rsl_cli.train.flow import Flow
from rsl_cli.train.gauss_newton import gauss_newton
from rsl_cli.train.losses import Squared
from rsl_cli.train.objective import Objective
from rsl_cli.train.optimizers import Adam, AdamW, Gd, Lion, Sgd
from rsl_cli.train.replicas import Replicas, Request
from rsl_cli.vertex_maps import Sum

PERCEPTRONS = ["shallow", "mlp", "deep", "skip", "gated"]
CONVOLUTIONS = {"cnn", "densenet", "resnet", "resnet_random", "unet"}
HIDDEN = {"kind": "hidden", "activation": "tanh", "bias": True}


def graph_of(vertex: dict, *edges: dict, shape) -> BaseGraph:
    """x -> h (as given) -> y."""
    config = {
        "vertices": {"x": {"kind": "input"}, "h": vertex, "y": {"kind": "output"}},
        "edges": [
            *({"source": "x", "target": "h"} | edge for edge in edges),
            {"source": "h", "target": "y", "map": "linear"},
        ],
    }
    return BaseGraph.from_config(config, input_shape=shape, output_size=1)


def perceptron(name: str) -> BaseGraph:
    """One as configured, of four inputs and two outputs."""
    return BaseGraph.from_config(group("base", name), input_shape=(4,), output_size=2)


def dataset(base: BaseGraph, task: str, samples: int = 75, held_out: int = 40) -> Dataset:
    draw = np.random.default_rng(5)
    x = draw.standard_normal((samples + held_out, *base.input_shape))
    y = draw.standard_normal((len(x), base.output_size))
    if task == "classification":
        y = draw.integers(0, base.output_size, len(x))
    return Dataset("d", task, x[:samples], y[:samples], x[samples:], y[samples:], base.output_size)


def flat(tensors) -> np.ndarray:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).numpy()


def against_the_loop(network: LiftedNetwork, task: str, loss: str) -> None:
    objective = Objective(dataset(network.lift.base, task), loss, dtype=torch.float64)
    circuits = CircuitObjective.of(network, objective)
    assert circuits is not None
    out = oracles.forward(network, objective.x)
    losses = objective.loss.losses(out if out.dim() == 3 else out[None], objective.y).mean(1)
    losses.sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    parameters = dict(network.named_parameters())
    for replica, expected in enumerate(losses.tolist()):
        theta = flat(network.replica_tensors(parameters, replica).values())
        value, gradient = circuits.gradient(replica, theta)
        assert value == pytest.approx(expected, rel=1e-12)
        zeros = {n: torch.zeros_like(parameters[n]) if g is None else g for n, g in gradients.items()}
        np.testing.assert_allclose(
            gradient, flat(network.replica_tensors(zeros, replica).values()), rtol=1e-10, atol=1e-13
        )
        against_edge_by_edge(network, replica, circuits, theta, objective)
        by_autograd = objective.held_out(network)
        held_out = circuits.held_out(replica, theta)
        np.testing.assert_allclose(held_out, [figure[replica] for figure in by_autograd], rtol=1e-12)


def against_edge_by_edge(
    network: LiftedNetwork, replica: int, circuits: CircuitObjective, theta: np.ndarray, objective: Objective
) -> None:
    """Every sample's derivatives, of each output and of a combination of all."""
    alone = LiftedNetwork(network.lift.replicas[replica], None, torch.float64, network.parametrization)
    torch.nn.utils.vector_to_parameters(torch.as_tensor(theta), alone.parameters())

    def probe(out: torch.Tensor) -> torch.Tensor:
        return torch.cat([each_output(out), out.cos()[None]])

    for expected, found in zip(
        sample_jacobians(alone, objective.x, probe)[1],
        circuits.jacobians(replica, theta, objective.x, probe),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def against_the_hessian(network: LiftedNetwork, task: str, loss: str) -> None:
    """With the Gauss-Newton matrix, the curvature of a circuit is what autograd makes of the loss."""
    draw = np.random.default_rng(0)
    theta = flat(network.parameters()) + 0.2 * draw.standard_normal(sum(p.numel() for p in network.parameters()))
    torch.nn.utils.vector_to_parameters(torch.tensor(theta), network.parameters())
    objective = Objective(dataset(network.lift.base, task), loss, dtype=torch.float64)
    names, shapes = zip(*((name, p.shape) for name, p in network.named_parameters()), strict=True)

    def mean_loss(moved: torch.Tensor) -> torch.Tensor:
        pieces = moved.split([shape.numel() for shape in shapes])
        values = {n: piece.view(shape) for n, piece, shape in zip(names, pieces, shapes, strict=True)}
        out = functional_call(network, values, (objective.x,))
        return objective.loss.losses(out if out.dim() == 3 else out[None], objective.y).mean()

    expected = hessian(mean_loss)(torch.tensor(theta)).detach().numpy()
    circuits = CircuitObjective.of(network, objective)
    assert circuits is not None
    matrix = gauss_newton(network, objective).plus(circuits.curvature(0, theta))
    found = np.stack([matrix.times(unit) for unit in np.eye(len(theta))])
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("task", "loss"), [("regression", "mse"), ("classification", "mse"), ("classification", "cross_entropy")]
)
@pytest.mark.parametrize("name", PERCEPTRONS)
def test_curvature_of_perceptrons(name, task, loss):
    base = BaseGraph.from_config(group("base", name), input_shape=(4,), output_size=2)
    against_the_hessian(network_of(base, (3,)), task, loss)


def test_curvature_of_a_recurrent_network_unrolled():
    against_the_hessian(network_of(base_of("rnn"), (2,)), "classification", "cross_entropy")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_curvature_of_every_activation(activation):
    vertex = HIDDEN | {"activation": activation}
    against_the_hessian(network_of(graph_of(vertex, {"map": "linear"}, shape=(3,)), (6,)), "regression", "mse")


@pytest.mark.parametrize("degrees", [(3,), (2, 5)])
@pytest.mark.parametrize(
    ("task", "loss"), [("regression", "mse"), ("classification", "mse"), ("classification", "cross_entropy")]
)
@pytest.mark.parametrize("name", PERCEPTRONS)
def test_losses_and_gradients_of_perceptrons(name, task, loss, degrees):
    base = BaseGraph.from_config(group("base", name), input_shape=(4,), output_size=2)
    against_the_loop(network_of(base, degrees), task, loss)


def test_a_recurrent_network_unrolled():
    against_the_loop(network_of(base_of("rnn"), (2, 3)), "classification", "cross_entropy")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_its_row_function(activation):
    assert activation in FUNCTIONS
    vertex = HIDDEN | {"activation": activation}
    network = network_of(graph_of(vertex, {"map": "linear"}, shape=(3,)), (6,))
    against_the_loop(network, "regression", "mse")


GRAPHS = {
    "vectors": graph_of(HIDDEN, {"map": "linear", "out": 3}, shape=(4,)),
    "bias of a copy": graph_of(HIDDEN | {"bias": "copy"}, {"map": "linear", "out": 3}, shape=(4,)),
    "image flattened": graph_of(HIDDEN, {"map": "linear", "flatten": True}, shape=(3, 2)),
    "two slots": graph_of(
        HIDDEN | {"combine": "product"},
        {"map": "linear", "slot": "a"},
        {"map": "linear", "slot": "b"},
        {"map": "linear", "slot": "c"},
        shape=(3,),
    ),
    "no weight": BaseGraph.from_config(
        {
            "vertices": {"x": {"kind": "input"}, "h": HIDDEN, "r": HIDDEN, "y": {"kind": "output", "bias": True}},
            "edges": [
                {"source": "x", "target": "h", "map": "linear", "out": 2},
                {"source": "h", "target": "r", "map": "identity", "lifting": {"kind": "matching"}},
                {"source": "h", "target": "r", "map": "scale", "slot": "more"},
                {"source": "r", "target": "y", "map": "linear"},
                {"source": "x", "target": "y", "map": "linear"},
            ],
        },
        input_shape=(3,),
        output_size=2,
    ),
    "convolutions": BaseGraph.from_config(group("base", "cnn", pool=2), input_shape=(2, 4, 6), output_size=2),
    "mean of all": graph_of(
        HIDDEN | {"bias": "copy", "pool": "global_avg"}, {"map": "conv", "kernel": 3}, shape=(4, 5)
    ),
    "mean of tokens": graph_of(HIDDEN | {"pool": "token_avg"}, {"map": "token_linear", "out": 2}, shape=(3, 4)),
}


@pytest.mark.parametrize("base", GRAPHS.values(), ids=GRAPHS)
def test_curvature_of_other_graphs(base):
    against_the_hessian(network_of(base, (3,)), "regression", "mse")


@pytest.mark.parametrize("base", GRAPHS.values(), ids=GRAPHS)
def test_vectors_images_shared_biases_products_means_and_edges_without_weight(base):
    assert has_circuits(base, "ntk")
    task = "classification" if base.output_size > 1 else "regression"
    against_the_loop(network_of(base, (3, 4)), task, "cross_entropy" if base.output_size > 1 else "mse")


def attending(q: dict, k: dict, v: dict, **vertex) -> BaseGraph:
    """x, of three tokens of four features, -> h, whose slots are fed so, -> the mean of its tokens -> y."""
    edges = [{"map": "token_linear", "slot": slot} | edge for slot, edge in (("q", q), ("k", k), ("v", v))]
    return graph_of({"kind": "hidden", "combine": "attention", "pool": "token_avg"} | vertex, *edges, shape=(3, 4))


HEADS = {
    "as configured": base_of("attention"),
    "causal": attending({"out": 2}, {"out": 2}, {"out": 3}, combine={"kind": "attention", "causal": True}),
    "fewer queries than keys": attending({"over": "tokens", "out": 2}, {"out": 4}, {"out": 3}),
    "bent": attending({"out": 2}, {"out": 2}, {"out": 1}, activation="tanh", bias="feature"),
}


@pytest.mark.parametrize("base", HEADS.values(), ids=HEADS)
def test_attention(base):
    task = "classification" if base.output_size > 1 else "regression"
    network = network_of(base, (3, 4))
    against_the_loop(network, task, "cross_entropy" if base.output_size > 1 else "mse")
    circuits = CircuitObjective.of(network, Objective(dataset(base, task), "mse", dtype=torch.float64))
    assert circuits is not None and circuits.curvature(0, np.zeros(1)) is None


def test_shares_of_scores_far_apart_are_numbers():
    network = network_of(HEADS["causal"], (4,))
    with torch.no_grad():
        for slot in "qk":
            network.weight("x", "h", slot).mul_(100)
    against_the_loop(network, "regression", "mse")


def test_what_circuits_do_not_know_is_taken_for_nothing_else(monkeypatch):
    network = network_of(base_of("shallow"), (4,))
    objective = Objective(dataset(network.lift.base, "regression"), "mse", dtype=torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(Sum, "circuit", "mean")
        with pytest.raises(AssertionError, match="circuits have no 'mean', which h combines by"):
            circuit_of(network.lift, "standard")
    monkeypatch.setattr(Squared, "circuit", "hinge")
    with pytest.raises(AssertionError, match="circuits have no 'hinge', which is said of loss mse"):
        CircuitObjective.of(network, objective)


@pytest.mark.parametrize(
    ("name", "task", "known"),
    [
        ("cnn", "regression", False),
        ("transformer", "regression", False),
        ("mlp", "regression", True),
        ("gated", "regression", True),
        ("mlp", "classification", False),
    ],
)
def test_curvature_of_shared_weights_and_of_classes_is_left_out_where_it_is_asked_for_cheaply(name, task, known):
    base = base_of(name) if name in ("cnn", "transformer") else perceptron(name)
    network = network_of(base, (1,))
    replicas = Replicas(network, Objective(dataset(base, task), "mse", dtype=torch.float64))
    asked = Request(replicas.start[0], curvature=75, bending=True)
    cheap, full = (replicas.answer({0: one})[0] for one in (replace(asked, cheaply=True), asked))
    assert (cheap.curvature is not None, cheap.bending is not None) == (known, known)
    assert (full.curvature is not None, full.bending is not None) == (True, name != "transformer")


def test_a_flow_of_shared_weights_looks_for_saddles_at_powers_of_ten_and_at_its_end():
    base = base_of("cnn")
    objective = Objective(dataset(base, "regression"), "mse", dtype=torch.float64)
    (result,) = Flow.from_config({"name": "flow", "t_end": 2.0}).train(network_of(base, (1,)), objective)
    rows = result.trajectory.rows
    assert all(row.loss < 1.5 * rows[-1].loss for row in rows if row.time >= 0.1), "training is level throughout"
    assert [row.time for row in rows if not math.isnan(row.least_curvature)] == [1.0, 2.0]


@pytest.mark.parametrize("parametrization", ["standard", "ntk", "mup"])
def test_readouts_are_multiplied_as_in_the_network(parametrization):
    base = BaseGraph.from_config(group("base", "skip"), input_shape=(4,), output_size=2)
    lifts = [sample_lift(base, n, n, {"kind": "random", "in_degree": 2}) for n in (3, 8)]
    against_the_loop(LiftedNetwork(disjoint_union(lifts), 1, torch.float64, parametrization), "regression", "mse")


def test_what_has_no_circuit():
    others = {path.stem for path in (CONF / "base").glob("*.yaml")} - {*PERCEPTRONS, "module"}
    assert {name for name in others if has_circuits(base_of(name), "standard")} == CONVOLUTIONS | {
        "attention",
        "perceptron",
        "rnn",
    }
    for name, shape in (("mlp", (784,)), ("cnn", (1, 28, 28))):
        wide = BaseGraph.from_config(group("base", name), input_shape=shape, output_size=10)
        assert not has_circuits(wide, "standard")
    lift = sample_lift(base_of("transformer"), 2, 0, {"kind": "random", "in_degree": 2})
    assert circuit_of(lift, "standard") is None
    assert (
        CircuitObjective.of(
            LiftedNetwork(lift), Objective(dataset(lift.base, "regression"), "mse", dtype=torch.float32)
        )
        is None
    )


def one_and_more_threads(compute):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(compute())
    finally:
        torch.set_num_threads(before)
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_no_bit(dtype):
    base = BaseGraph.from_config(group("base", "mlp"), input_shape=(2,), output_size=1)
    data = dataset(base, "regression", samples=2000)
    network = network_of(base, (40, 40), dtype=dtype)
    objective = Objective(data, "mse", dtype=dtype)

    def compute():
        circuits = CircuitObjective.of(network, objective)
        theta = flat(network.replica_tensors(dict(network.named_parameters()), 1).values())
        loss, gradient = circuits.gradient(1, theta)
        settings = problems.first_order("adam", steps=30, batch_size=1500, dtype=str(dtype).removeprefix("torch."))
        lift = sample_lift(base, 60, 3, {"kind": "random", "in_degree": 8})
        (alone,) = trained(LiftedNetwork(lift, dtype=dtype), objective, settings)
        return [np.float64(loss), gradient, *circuits.held_out(1, theta), *(p.numpy() for p in alone.state.values())]

    one, more = one_and_more_threads(compute)
    for a, b in zip(one, more, strict=True):
        np.testing.assert_array_equal(a, b)


METHODS = {
    "adam": Adam(),
    "sgd": Sgd(0.9),
    "gd": Gd(),
    "nesterov": Sgd(0.9, nesterov=True),
    "adamw": AdamW(weight_decay=0.3),
    "lion": Lion(weight_decay=0.3),
}


@pytest.mark.parametrize("batch", [20, None])
@pytest.mark.parametrize("method", METHODS)
def test_steps_are_those_under_autograd(method, batch):
    optimizer = METHODS[method]
    base = BaseGraph.from_config(group("base", "mlp"), input_shape=(2,), output_size=1)
    objective = Objective(dataset(base, "regression"), "mse", dtype=torch.float64)

    def network():
        lifts = [sample_lift(base, 6, seed, {"kind": "random", "in_degree": 3}) for seed in (0, 1)]
        return LiftedNetwork(disjoint_union(lifts), None, torch.float64, "mup")

    rates, steps = np.linspace(0.03, 0.01, 25), range(25)
    first, second = network(), network()
    circuits = CircuitObjective.of(first, objective)
    circuits = CircuitEngine(first, circuits, Batches(objective, [0, 1], batch), optimizer)
    autograd = AutogradEngine(second, objective, Batches(objective, [0, 1], batch), optimizer)
    for engine in (circuits, autograd):
        assert engine.advance([0, 1], steps, rates) == {}
    for replica in (0, 1):
        parts = zip(circuits.parameters(replica).items(), autograd.parameters(replica).items(), strict=True)
        for (name, one), (other_name, other) in parts:
            assert name == other_name
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    mine, theirs = circuits.evaluate(), autograd.evaluate()
    for field in ("loss", "grad_norm", "relative_gradient", "distance", "test_loss"):
        torch.testing.assert_close(getattr(mine, field), getattr(theirs, field), rtol=1e-8, atol=0)
    # Each goes on from where the other stopped.
    saved = circuits.state(), autograd.state()
    for name, value in saved[0].items():
        torch.testing.assert_close(value, saved[1][name], rtol=1e-8, atol=1e-11, check_dtype=False)
    circuits.resume(saved[1])
    autograd.resume(saved[0])
    for engine in (circuits, autograd):
        engine.advance([0, 1], range(25, 30), rates[:5])
    for one, other in zip(circuits.parameters(1).values(), autograd.parameters(1).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    circuits.finish({replica: circuits.parameters(replica) for replica in (0, 1)})
    torch.testing.assert_close(flat(first.parameters()), flat(second.parameters()), rtol=1e-8, atol=1e-10)


def test_a_checkpoint_before_the_first_step_can_be_resumed():
    base = BaseGraph.from_config(group("base", "mlp"), input_shape=(2,), output_size=1)
    objective = Objective(dataset(base, "regression"), "mse", dtype=torch.float32)
    network = network_of(base, (4,), dtype=torch.float32)
    other = AutogradEngine(network, objective, Batches(objective, [0], 10), Adam())
    engine = CircuitEngine(network, CircuitObjective.of(network, objective), Batches(objective, [0], 10), Adam())
    engine.resume(other.state())
    assert not engine.optimizer_states[0].states.any()


def test_a_long_training_saves_on_the_way():
    base = BaseGraph.from_config(group("base", "mlp"), input_shape=(2,), output_size=1)
    objective = Objective(dataset(base, "regression"), "mse", dtype=torch.float32)
    checkpointer = Memory(6, interrupt=False)
    trained(
        network_of(base, (4,), dtype=torch.float32),
        objective,
        problems.first_order("adam", steps=200),
        checkpointer=checkpointer,
    )
    assert checkpointer.saved is not None and checkpointer.calls > 6


_NUMBERS = """
import hashlib, sys
sys.path[:0] = [".", "tests"]
import numpy as np, torch
import problems
from problems import group, trained
from test_circuits import dataset, flat
from rsl_cli import BaseGraph, LiftedNetwork, sample_lift
from rsl_cli.train.losses import Squared
from rsl_cli.train.objective import Objective
from rsl_cli.train.optimizers import Adam, AdamW, Gd, Lion, Sgd
base = BaseGraph.from_config(group("base", "mlp"), input_shape=(3,), output_size=1)
for name in ("float32", "float64"):
    network = LiftedNetwork(sample_lift(base, 8, 0), dtype=getattr(torch, name))
    objective = Objective(dataset(base, "regression", 333), "mse", dtype=network.dtype)
    result, = trained(network, objective, problems.first_order("adam", steps=30, batch_size=100, dtype=name))
    objective.backward(network, None)
    gradients = flat(parameter.grad for parameter in network.parameters())
    for array in (np.array(result.trajectory.rows), flat(result.state.values()), gradients):
        print(hashlib.sha256(array.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_compiled_and_cached_code_give_the_same_bits(tmp_path):
    """A process that compiles holds copies of a function that one reading the cache does not."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", _NUMBERS]
    both = [subprocess.run(command, env=environment, capture_output=True, text=True, check=False) for _ in range(2)]
    assert [one.returncode for one in both] == [0, 0], both[0].stderr + both[1].stderr
    assert list(tmp_path.rglob("*.nbc")) and both[0].stdout == both[1].stdout
    assert len(set(both[0].stdout.split())) == 6
