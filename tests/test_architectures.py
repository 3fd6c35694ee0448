"""The shipped architectures: lifted, against the loop over copies and edges; dense, against torch's own layers."""

import oracles
import pytest
import torch
from problems import CONF, group
from test_network import batch, both, close, samples, step, tangent_of
from torch.func import functional_call, jacrev
from torch.nn import functional

from rsl_cli.errors import GraphError
from rsl_cli.graph import BaseGraph
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.linearization import sample_jacobians
from rsl_cli.network import LiftedNetwork

BASES = sorted(path.stem for path in (CONF / "base").glob("*.yaml") if path.stem not in ("shallow", "module"))
DENSE = {"kind": "dense"}


def base_of(name: str, **changes) -> BaseGraph:
    config = group("base", name, **changes)
    flat = any(edge["map"] == "linear" and "token" not in edge for edge in config["edges"] if edge["source"] == "x")
    return BaseGraph.from_config(config, input_shape=(4,) if flat else (8, 8), output_size=2)


def network_of(base: BaseGraph, degrees, lifting=None, dtype=torch.float64) -> LiftedNetwork:
    lifting = lifting or {"kind": "random", "in_degree": 2}
    lifts = [sample_lift(base, degree, seed, lifting) for seed, degree in enumerate(degrees)]
    network = LiftedNetwork(lifts[0] if len(lifts) == 1 else disjoint_union(lifts), dtype=dtype)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter += 0.3 * samples(*parameter.shape, seed=number, dtype=dtype)
    return network


def graph_of(vertex: dict, *edges: dict, shape, outputs: int = 1, depth: int = 0) -> BaseGraph:
    """x -> h (as given) -> y, where y reads all of h."""
    config = {
        "vertices": {"x": {"kind": "input"}, "h": vertex, "y": {"kind": "output"}},
        "edges": [
            *({"source": "x", "target": "h"} | edge for edge in edges),
            {"source": "h", "target": "y", "map": "linear", "flatten": True},
        ],
    }
    return BaseGraph.from_config(config, input_shape=shape, output_size=outputs)


@pytest.mark.parametrize("degrees", [(3,), (2, 4)])
@pytest.mark.parametrize("name", BASES)
def test_forward_backward_and_jvp_are_those_of_the_loop(name, degrees):
    network = network_of(base_of(name), degrees)
    x, dx = batch(network, own=False).requires_grad_(), batch(network, own=False, seed=9)
    got, expected = both(network, x), oracles.forward(network, x)
    close(got, expected)
    inputs, cotangent = [x, *network.parameters()], samples(*got.shape, seed=3)
    for one, other in zip(
        torch.autograd.grad(got, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent), strict=True
    ):
        close(one, other)
    close(tangent_of(network, both, x.detach(), dx), tangent_of(network, oracles.forward, x.detach(), dx))


@pytest.mark.parametrize("name", BASES)
def test_sample_jacobians(name):
    network = network_of(base_of(name), (2,))
    x = batch(network, own=False)[:3]
    parameters = dict(network.named_parameters())
    expected = jacrev(lambda values: functional_call(network, values, (x,)))(parameters)
    rows = torch.cat([part.detach().flatten(2) for part in expected.values()], dim=2)
    for output, matrix in enumerate(sample_jacobians(network, x)[1]):
        torch.testing.assert_close(matrix, rows[:, output].T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("degrees", [(5, 5), (1, 7, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_replica_in_a_union_is_bitwise_what_it_is_alone(name, degrees, dtype):
    base = base_of(name)
    lifts = [sample_lift(base, degree, seed, {"kind": "random", "in_degree": 4}) for seed, degree in enumerate(degrees)]
    union, x = LiftedNetwork(disjoint_union(lifts), dtype=dtype), samples(33, *base.input_shape, dtype=dtype)
    out, gradients = step(union, x, len(lifts))
    for r, lift in enumerate(lifts):
        alone_out, alone_gradients = step(LiftedNetwork(lift, dtype=dtype), x, 1)
        assert torch.equal(out[r], alone_out[0])
        for key, gradient in union.replica_tensors(gradients, r).items():
            assert torch.equal(gradient, alone_gradients[key]), key


def hidden(network: LiftedNetwork, x: torch.Tensor) -> torch.Tensor:
    """What the copies of h hold, (N, n_h, *Y_h): every copy is read out by weights that pick one number."""
    base, size = network.lift.base, network.lift.fibre("h")
    numbers = len(network.weight("h", "y")[0].flatten())
    readout = torch.zeros(base.output_size, size, numbers, dtype=x.dtype)
    readout.view(base.output_size, -1).copy_(torch.eye(base.output_size, dtype=x.dtype))
    with torch.no_grad():
        network.weight("h", "y").copy_(readout.reshape(network.weight("h", "y").shape))
    return network(x).view(len(x), size, *base.space("h"))


CONVOLUTIONS = [
    ((8, 8), {}),
    ((3, 6, 4), {"kernel": 5}),
    ((8, 6), {"stride": 2}),
    ((2, 9, 9), {"stride": 3, "kernel": 1}),
    ((4, 4), {"upsample": 2}),
    ((4, 6), {"upsample": 3, "stride": 2, "kernel": 5}),
]


@pytest.mark.parametrize(("shape", "keys"), CONVOLUTIONS)
def test_a_dense_convolution_is_torchs(shape, keys):
    vertex = {"width": 3, "bias": "copy"}
    space = graph_of(vertex, {"map": "conv"} | keys, shape=shape).space("h")
    base = graph_of(vertex, {"map": "conv"} | keys, shape=shape, outputs=3 * space[0] * space[1])
    network, x = network_of(base, (1,), DENSE), samples(5, *shape).requires_grad_()
    got = hidden(network, x)
    kernel, bias = network.weight("x", "h"), network.bias("h")
    layer = torch.nn.Conv2d(
        shape[0] if len(shape) == 3 else 1, 3, kernel.shape[-1], keys.get("stride", 1), kernel.shape[-1] // 2
    ).double()
    with torch.no_grad():
        layer.weight.copy_(kernel.reshape(layer.weight.shape))
        layer.bias.copy_(bias.flatten())
    image = x if len(shape) == 3 else x[:, None]
    expected = layer(functional.interpolate(image, scale_factor=keys.get("upsample", 1)))
    close(got, expected)
    cotangent = samples(*expected.shape, seed=1)
    for one, other in zip(
        torch.autograd.grad(got, (x, kernel, bias), cotangent),
        torch.autograd.grad(expected, (x, layer.weight, layer.bias), cotangent),
        strict=True,
    ):
        close(one, other.reshape(one.shape))


@pytest.mark.parametrize("causal", [False, True])
def test_a_head_is_scaled_dot_product_attention(causal):
    edges = [{"map": "token_linear", "out": out, "slot": slot} for slot, out in zip("qkv", (3, 3, 2), strict=True)]
    vertex = {"combine": {"kind": "attention", "causal": causal}, "width": 2}
    network, x = network_of(graph_of(vertex, *edges, shape=(5, 4), outputs=20), (1,), DENSE), samples(6, 5, 4)
    q, k, v = (torch.einsum("ntd,hod->nhto", x, network.weight("x", "h", slot)) for slot in "qkv")
    close(hidden(network, x), functional.scaled_dot_product_attention(q, k, v, is_causal=causal))


@pytest.mark.parametrize(
    ("vertex", "edge", "shape", "says"),
    [
        ({}, {"map": "conv"}, (5,), "edge x->h: map 'conv' needs a space (H, W) or (C, H, W), got (5,)"),
        (
            {},
            {"map": "conv", "stride": 2},
            (7, 8),
            "edge x->h: map 'conv' with stride=2 needs sizes it divides, got (7, 8); use stride 1 or other sizes",
        ),
        (
            {},
            {"map": "conv", "kernel": 2},
            (8, 8),
            "edge x->h: map 'conv': kernel=2; accepted: an odd number, so that padding is the same",
        ),
        ({}, {"map": "conv", "stride": 0}, (8, 8), "edge x->h: map 'conv': stride=0; accepted: a whole number from 1"),
        (
            {},
            {"map": "token_linear", "out": 2},
            (3, 8, 8),
            "edge x->h: map 'token_linear' needs a space (T, d), got (3, 8, 8); an image needs patch",
        ),
        (
            {},
            {"map": "token_linear", "out": 2, "patch": 3},
            (8, 8),
            "edge x->h: map 'token_linear' with patch=3 needs an image (H, W) or (C, H, W) of sizes it divides, "
            "got (8, 8)",
        ),
        ({}, {"map": "token_linear"}, (8, 8), "edge x->h: map 'token_linear': out is missing; add it, e.g. out: 8"),
        (
            {},
            {"map": "token_linear", "out": 2, "over": "rows"},
            (8, 8),
            "edge x->h: map 'token_linear': over='rows'; accepted: features or tokens",
        ),
        (
            {},
            {"map": "linear", "token": 9},
            (8, 8),
            "edge x->h: map 'linear' with token=9 needs a space (T, d), T >= 9, got (8, 8)",
        ),
        (
            {},
            {"map": "linear", "token": 1, "flatten": True},
            (8, 8),
            "edge x->h: map 'linear': flatten=True beside token=1; leave one of them out",
        ),
        (
            {"norm": "rms"},
            {"map": "linear"},
            (5,),
            "vertex h: norm of a scalar is its sign; normalise a vertex whose space has an axis",
        ),
        ({"norm": "batch"}, {"map": "linear"}, (5,), "vertex h: norm 'batch' is not known; accepted: rms, layer"),
        (
            {"norm": {"kind": "rms", "eps": 0}},
            {"map": "linear"},
            (5,),
            "vertex h: norm 'rms': eps=0; accepted: a number above 0",
        ),
        (
            {"pool": {"kind": "max", "size": 3}},
            {"map": "conv"},
            (8, 8),
            "vertex h: pool of size 3 needs a space (H, W) of sizes it divides, got (8, 8)",
        ),
        ({"pool": "token_avg"}, {"map": "linear"}, (5,), "vertex h: pool needs a space (T, d), got ()"),
        (
            {"pool": {"kind": "max", "stride": 1}},
            {"map": "conv"},
            (8, 8),
            "vertex h: key of pool 'max' 'stride' is not known; accepted: size; did you mean 'size'?",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(vertex, edge, shape, says):
    with pytest.raises(GraphError) as caught:
        graph_of(vertex, edge, shape=shape)
    assert str(caught.value) == says


def test_slots_of_attention():
    edges = [{"map": "token_linear", "out": out, "slot": slot} for slot, out in zip("qkv", (3, 2, 2), strict=True)]
    with pytest.raises(GraphError) as caught:
        graph_of({"combine": "attention"}, *edges, shape=(5, 4))
    assert str(caught.value) == (
        "vertex h: combine 'attention' needs q of a space (T, d), k of (S, d) and v of (S, d_v), T = S if causal; "
        "got (5, 3), (5, 2) and (5, 2)"
    )
    with pytest.raises(GraphError) as caught:
        graph_of({"combine": "attention"}, *edges[:2], edges[2] | {"slot": "values"}, shape=(5, 4))
    assert str(caught.value) == "edge x->h[values]: slot 'values' is not known; accepted: q, k, v"
