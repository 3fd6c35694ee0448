"""Networks over lifts against a loop over copies and edges, alone and in unions."""

import math
from itertools import pairwise

import numpy as np
import oracles
import pytest
import strategies
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad

from rsl_cli.errors import ConfigError, DataError, GraphError
from rsl_cli.graph import BaseGraph
from rsl_cli.kernels.autograd import Implementation
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.parametrization import weight_std
from rsl_cli.readouts import PARAMETRIZATIONS

MLP = {
    "name": "mlp",
    "vertices": {
        "x": {"kind": "input"},
        "h1": {"activation": "tanh", "bias": True},
        "h2": {"activation": "tanh", "bias": True},
        "y": {"kind": "output", "bias": True},
    },
    "edges": [
        {"source": "x", "target": "h1", "map": "linear"},
        {"source": "h1", "target": "h2", "map": "scale"},
        {"source": "h2", "target": "y", "map": "scale"},
    ],
}


def mlp(hidden: dict | None = None, outputs: int = 1) -> BaseGraph:
    edges = [dict(edge) for edge in MLP["edges"]]
    edges[1] |= hidden or {}
    return BaseGraph.from_config(MLP | {"edges": edges}, input_shape=(3,), output_size=outputs)


def samples(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def directions(network: LiftedNetwork) -> list[torch.Tensor]:
    return [samples(*parameter.shape, seed=i) for i, parameter in enumerate(network.parameters())]


def tangent_of(network: LiftedNetwork, compute, x, dx) -> torch.Tensor:
    """The derivative of a function of (network, x) along fixed directions, in forward mode."""
    parameters = dict(network.named_parameters())
    with forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(value.detach(), tangent)
            for (name, value), tangent in zip(parameters.items(), directions(network), strict=True)
        }
        out = torch.func.functional_call(_Wrapped(network, compute), {f"net.{k}": v for k, v in duals.items()}, (x, dx))
        tangent = forward_ad.unpack_dual(out).tangent
        return torch.zeros_like(out) if tangent is None else tangent


class _Wrapped(torch.nn.Module):
    def __init__(self, net, compute):
        super().__init__()
        self.net, self.compute = net, compute

    def forward(self, x, dx):
        return self.compute(self.net, forward_ad.make_dual(x, dx))


@st.composite
def settings_of_networks(draw):
    """Arguments of a network; made in the test, since the checks of shapes draw from `random`."""
    base = draw(strategies.base_graphs())
    lifting, parametrization = draw(strategies.default_liftings), draw(st.sampled_from(sorted(PARAMETRIZATIONS)))
    lifts = [
        sample_lift(base, degree, seed, lifting)
        for seed, degree in enumerate(draw(st.lists(strategies.degrees, min_size=1, max_size=3)))
    ]
    lift = lifts[0] if len(lifts) == 1 and draw(st.booleans()) else disjoint_union(lifts)
    implementation = draw(st.sampled_from([Implementation.AUTO, Implementation.REFERENCE, Implementation.NUMBA]))
    return lift, None, torch.float64, parametrization, implementation


def batch(network: LiftedNetwork, own: bool, seed: int = 0) -> torch.Tensor:
    shape = (network.replica_count, 5) if own else (5,)
    return samples(*shape, *network.lift.base.input_shape, seed=seed)


def both(network: LiftedNetwork, x: torch.Tensor) -> torch.Tensor:
    out = network(x)
    return out if out.dim() == 3 else out[None]


def close(got, expected):
    largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10 * (1 + largest))


@given(settings_of_networks(), st.booleans())
def test_forward_backward_and_jvp_are_those_of_the_loop(arguments, own):
    network = LiftedNetwork(*arguments)
    x, dx = batch(network, own).requires_grad_(), batch(network, own, seed=9)
    got, expected = both(network, x), oracles.forward(network, x)
    assert network(x).dim() == (3 if hasattr(network.lift, "_joined") else 2)
    close(got, expected)
    inputs = [x, *network.parameters()]
    cotangent = samples(*got.shape, seed=3)
    kept = {"allow_unused": True, "materialize_grads": True}
    for one, other in zip(
        torch.autograd.grad(got, inputs, cotangent, **kept),
        torch.autograd.grad(expected, inputs, cotangent, **kept),
        strict=True,
    ):
        close(one, other)
    close(tangent_of(network, both, x.detach(), dx), tangent_of(network, oracles.forward, x.detach(), dx))


@given(settings_of_networks())
def test_names_and_counts_of_parameters(arguments):
    network = LiftedNetwork(*arguments)
    lift, base = network.lift, network.lift.base
    assert sum(parameter.numel() for parameter in network.parameters()) == lift.parameter_count
    assert set(network.segments()) == {name for name, _ in network.named_parameters()}
    for name, counts in network.segments().items():
        assert sum(counts) == len(network.get_parameter(name)) and len(counts) == network.replica_count
    for edge in base.edges:
        shape = base.weight_shape(edge)
        if shape is not None:
            kept = len(lift.edges(edge.source, edge.target, edge.slot)[0])
            assert network.weight(edge.source, edge.target, edge.slot).shape == (kept, *shape)
    for vertex in base.vertices:
        if vertex.bias:
            assert network.bias(vertex.name).shape == (lift.fibre(vertex.name), *base.space(vertex.name))


def step(network: LiftedNetwork, x: torch.Tensor, replicas: int):
    out = network(x).reshape(replicas, *network(x).shape[-2:])
    gradients = torch.autograd.grad(out.square().sum(), list(network.parameters()))
    return out, dict(zip(network.segments(), gradients, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [7, 256, 1000])
@pytest.mark.parametrize("degrees", [(3, 3, 3), (64, 64), (16, 128, 700, 16), (1, 1024)])
def test_a_replica_in_a_union_is_bitwise_what_it_is_alone(degrees, count, dtype):
    base = mlp(outputs=2)
    lifts = [sample_lift(base, degree, seed, {"kind": "random", "in_degree": 8}) for seed, degree in enumerate(degrees)]
    x = samples(count, 3, dtype=dtype)
    union = LiftedNetwork(disjoint_union(lifts), dtype=dtype)
    out, gradients = step(union, x, len(lifts))
    for r, lift in enumerate(lifts):
        alone = LiftedNetwork(lift, dtype=dtype)
        alone_out, alone_gradients = step(alone, x, 1)
        assert torch.equal(out[r], alone_out[0])
        for name, gradient in union.replica_tensors(gradients, r).items():
            assert torch.equal(gradient, alone_gradients[name]), name
            assert torch.equal(
                union.replica_tensors(dict(union.named_parameters()), r)[name], alone.get_parameter(name)
            )


def test_own_samples_per_replica_are_the_replicas_own():
    base = mlp()
    lifts = [sample_lift(base, degree, seed) for seed, degree in enumerate((4, 9, 4))]
    x = samples(3, 11, 3)
    union = LiftedNetwork(disjoint_union(lifts), dtype=torch.float64)
    for r, lift in enumerate(lifts):
        assert torch.equal(union(x)[r], LiftedNetwork(lift, dtype=torch.float64)(x[r]))
    shared = union(x[0])
    assert torch.equal(union(x[:1].expand(3, -1, -1)), shared)
    assert union(x[:, :0]).shape == (3, 0, 1)


def test_one_lift_takes_one_replica_of_samples_and_gives_no_replica_axis():
    network = LiftedNetwork(sample_lift(mlp(outputs=2), 4), dtype=torch.float64)
    x = samples(5, 3)
    assert network(x).shape == network(x[None]).shape == (5, 2)
    assert torch.equal(network(x), network(x[None]))


@pytest.mark.parametrize("shape", [(5, 2), (3,), (3, 5, 3), (2, 5, 2), (1, 2, 5, 3)])
def test_other_shapes_of_samples_are_refused(shape):
    network = LiftedNetwork(disjoint_union([sample_lift(mlp(), 4, seed) for seed in (0, 1)]))
    with pytest.raises(DataError) as caught:
        network(torch.zeros(shape))
    assert str(caught.value) == (
        f"a batch of shape {shape}; this network takes (N, 3) or, 2 being the number of its replicas, (2, N, 3)"
    )


def test_torch_func_over_a_network():
    network = LiftedNetwork(sample_lift(mlp(), 3, lifting={"kind": "regular", "in_degree": 2}), dtype=torch.float64)
    values = {name: parameter.detach() for name, parameter in network.named_parameters()}
    x = samples(4, 3)

    def outputs(parameters):
        return torch.func.functional_call(network, parameters, (x,)).squeeze(-1)

    backward, forward = torch.func.jacrev(outputs)(values), torch.func.jacfwd(outputs)(values)
    for name, value in values.items():
        rows = [torch.autograd.grad(network(x)[i, 0], network.get_parameter(name))[0] for i in range(4)]
        close(backward[name], torch.stack(rows))
        close(forward[name], torch.stack(rows))
        assert backward[name].shape == (4, *value.shape)

    def one(sample):
        return network(sample[None])[0, 0]

    close(torch.func.vmap(one)(x), network(x)[:, 0])
    hessian = torch.func.hessian(one)(x[0])
    close(hessian, torch.autograd.functional.hessian(one, x[0]))


def test_seeds_fix_the_weights_and_zero_is_a_seed():
    base = mlp()
    lifts = [sample_lift(base, 8, seed) for seed in (0, 1)]
    first, again, other = (LiftedNetwork(lifts[0], seed).weight("h1", "h2") for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(LiftedNetwork(lifts[1]).bias("h1"), LiftedNetwork(lifts[1], 1).bias("h1"))
    assert torch.equal(LiftedNetwork(lifts[0], np.int64(1)).bias("h1"), LiftedNetwork(lifts[0], 1).bias("h1"))
    union = LiftedNetwork(disjoint_union(lifts), [5, 0])
    parts = union.replica_tensors(dict(union.named_parameters()), 1)
    for name, parameter in LiftedNetwork(lifts[1], 0).named_parameters():
        assert torch.equal(parts[name], parameter)
    with pytest.raises(ConfigError) as caught:
        LiftedNetwork(disjoint_union(lifts), [1, 2, 3])
    assert str(caught.value) == "3 seeds for 2 replicas; give one seed, or one each"


def test_dtype_follows_the_module():
    network = LiftedNetwork(sample_lift(mlp(), 4))
    assert network.dtype is torch.float32
    assert network.double().dtype is torch.float64
    assert network(samples(2, 3)).dtype is torch.float64


def test_unknown_names():
    network = LiftedNetwork(sample_lift(mlp(), 4))
    with pytest.raises(GraphError, match=r"edge 'h1->h3' is not known; accepted: x->h1, h1->h2, h2->y"):
        network.weight("h1", "h3")
    with pytest.raises(GraphError, match=r"vertex 'h3' is not known; accepted: x, h1, h2, y"):
        network.bias("h3")
    with pytest.raises(ConfigError, match=r"'mpu' is not known; accepted: standard, ntk, mup; did you mean 'mup'\?"):
        LiftedNetwork(network.lift, parametrization="mpu")


def test_names_that_look_alike_keep_their_own_parameters():
    vertices = {"x": {"kind": "input"}, "a-b": {}, "a.b": {}, "a_b": {}, "y": {"kind": "output"}}
    edges = [
        {"source": source, "target": target, "map": "linear"}
        for name in ("a-b", "a.b", "a_b")
        for source, target in (("x", name), (name, "y"))
    ]
    base = BaseGraph.from_config({"vertices": vertices, "edges": edges}, input_shape=(2,), output_size=1)
    network = LiftedNetwork(sample_lift(base, 5))
    assert len(list(network.parameters())) == 6
    assert sum(parameter.numel() for parameter in network.parameters()) == network.lift.parameter_count


def test_squared_norms_are_per_replica():
    network = LiftedNetwork(disjoint_union([sample_lift(mlp(), degree) for degree in (2, 5)]), dtype=torch.float64)
    tensors = dict(network.named_parameters())
    expected = [
        sum(float(part.detach().square().sum()) for part in network.replica_tensors(tensors, r).values())
        for r in range(2)
    ]
    np.testing.assert_allclose(network.squared_norms(tensors).detach().numpy(), expected, rtol=1e-13)
    everything = sum(float(tensor.detach().square().sum()) for tensor in tensors.values())
    assert math.isclose(float(network.squared_norms(tensors).detach().sum()), everything)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_hidden_weights_have_one_law_at_every_degree(kind):
    base = mlp({"init": {"kind": kind, "gain": 3.0}})
    for degree in (2, 64, 2000):
        lift = sample_lift(base, degree, lifting={"kind": "random", "in_degree": 8})
        assert weight_std(base.edges[1], lift, "standard") == pytest.approx(3 / 8**0.5)
        assert weight_std(base.edges[0], lift, "standard") == pytest.approx(1 / 3**0.5)
        assert weight_std(base.edges[2], lift, "standard") == pytest.approx(degree**-0.5)
        assert weight_std(base.edges[2], lift, "ntk") == weight_std(base.edges[2], lift, "mup") == 1.0
    weights = LiftedNetwork(lift).weight("h1", "h2").detach().numpy()
    # 16,000 draws: the standard deviation is known to within 3 percent, at four of its own standard errors.
    assert weights.std() == pytest.approx(3 / 8**0.5, rel=0.03)
    assert kind == "normal" or abs(weights).max() <= 3 / 8**0.5 * 3**0.5


def test_readouts_are_multiplied_by_degree_and_direct_edges_are_not():
    edges = [*MLP["edges"], {"source": "x", "target": "y", "map": "linear"}]
    base = BaseGraph.from_config(MLP | {"edges": edges}, input_shape=(3,), output_size=1)
    lift = sample_lift(base, 16)
    x = samples(4, 3)
    for parametrization, multiplier in {"standard": 1.0, "ntk": 1 / 4, "mup": 1 / 16}.items():
        network = LiftedNetwork(lift, 0, torch.float64, parametrization)
        with torch.no_grad():
            for parameter in (network.weight("x", "y"), network.bias("y")):
                parameter.zero_()
            network.weight("h2", "y").fill_(1.0)
            readout = network(x)
            network.weight("h2", "y").zero_()
            network.weight("x", "y").fill_(1.0)
            direct = network(x)
        reference = LiftedNetwork(lift, 0, torch.float64)
        reference.load_state_dict(network.state_dict())
        with torch.no_grad():
            reference.weight("x", "y").zero_()
            reference.weight("h2", "y").fill_(1.0)
            close(readout, multiplier * reference(x))
        close(direct, x.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("parametrization", "adaptive", "sparse", "dense"),
    [
        ("standard", False, 1, 1),
        ("standard", True, 1, 1),
        ("ntk", False, 1, 1 / 64),
        ("ntk", True, 1 / 8, 1 / 512),
        ("mup", False, 64, 1),
        ("mup", True, 1, 1 / 64),
    ],
)
def test_table_of_learning_rate_scales(parametrization, adaptive, sparse, dense):
    for hidden, expected in (({}, sparse), ({"lifting": {"kind": "dense"}}, dense)):
        network = LiftedNetwork(sample_lift(mlp(hidden), 64), parametrization=parametrization)
        scales = network.learning_rate_scales(adaptive=adaptive)
        assert scales.pop("bias_y") == 1.0
        assert scales.pop("weight_h1__to__h2") == pytest.approx(expected)
        assert list(scales.values()) == pytest.approx([sparse] * 4)


def test_each_replica_of_a_union_has_the_scales_of_its_degree():
    lifts = [sample_lift(mlp(), degree, seed) for seed, degree in enumerate((4, 4, 8))]
    union = LiftedNetwork(disjoint_union(lifts), parametrization="mup")
    assert [union.learning_rate_scales(adaptive=False, replica=r)["bias_h1"] for r in range(3)] == [4.0, 4.0, 8.0]


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("lifting", [{"kind": "regular", "in_degree": 8}, {"kind": "dense"}])
def test_mup_moves_the_function_as_much_at_every_degree(lifting, adaptive):
    """One step of one learning rate, from a readout off zero: the output moves by O(1), whatever the degree."""
    x, moved = samples(16, 3), []
    for degree in (32, 128, 512):
        moves = []
        for seed in range(4):
            lift = sample_lift(mlp({"lifting": lifting}), degree, seed)
            network = LiftedNetwork(lift, None, torch.float64, "mup")
            scales = network.learning_rate_scales(adaptive=adaptive)
            before = network(x)
            gradients = torch.autograd.grad((before - 1).square().mean(), list(network.parameters()))
            with torch.no_grad():
                for (name, parameter), gradient in zip(network.named_parameters(), gradients, strict=True):
                    parameter -= 0.01 * scales[name] * (gradient.sign() if adaptive else gradient)
                moves.append(float((network(x) - before).square().mean().sqrt()))
        moved.append(np.mean(moves))
    for smaller, larger in pairwise(moved):
        assert 0.6 < larger / smaller < 1.6, moved
