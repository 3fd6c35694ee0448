"""The network as one node of autograd's graph, against the same network edge by edge."""

import copy
import pickle

import pytest
import torch
from problems import group
from test_circuits import HEADS, HIDDEN, PERCEPTRONS, graph_of

from rsl_cli.graph import BaseGraph
from rsl_cli.kernels.autograd import Implementation
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.network import LiftedNetwork

KINDS = {"kind": "random", "in_degree": 3}


def pair(base: BaseGraph, degrees, dtype=torch.float64, parametrization="standard"):
    """The network through the node and edge by edge, with the same parameters, none of them zero."""
    lift = disjoint_union([sample_lift(base, n, seed, KINDS) for seed, n in enumerate(degrees)])
    nets = [
        LiftedNetwork(lift, None, dtype, parametrization, implementation)
        for implementation in (Implementation.AUTO, Implementation.NUMBA)
    ]
    with torch.no_grad():
        for parameter in nets[0].parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    nets[1].load_state_dict(nets[0].state_dict())
    return nets


def uses_node(out: torch.Tensor) -> bool:
    return type(out.grad_fn).__name__ == "_NodeBackward"


def samples(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def base_of(name):
    return BaseGraph.from_config(group("base", name), input_shape=(3,), output_size=2)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", [*PERCEPTRONS, "silu", "attention"])
def test_outputs_gradients_and_second_derivatives(name, own):
    others = {
        "silu": graph_of(HIDDEN | {"activation": "silu"}, {"map": "linear"}, shape=(3,)),
        "attention": HEADS["causal"],
    }
    base = others[name] if name in others else base_of(name)
    node, edgewise = pair(base, (2, 5))
    x = samples(*([2] if own else []), 70, *base.input_shape).requires_grad_()
    out, expected = node(x), edgewise(x)
    assert uses_node(out) and not uses_node(expected)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    cotangent = samples(*out.shape, seed=1).requires_grad_()
    of_node, of_edges = ([x, *net.parameters()] for net in (node, edgewise))
    once = torch.autograd.grad(out, of_node, cotangent, retain_graph=True)
    again = torch.autograd.grad(out, of_node, cotangent, retain_graph=True)
    recorded = torch.autograd.grad(out, of_node, cotangent, create_graph=True)
    by_edges = torch.autograd.grad(expected, of_edges, cotangent, create_graph=True)
    for one, two, three, want in zip(once, again, recorded, by_edges, strict=True):
        assert torch.equal(one, two)
        for got in (one, three):
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    second = [
        torch.autograd.grad(sum(part.square().sum() for part in first), [*inputs, cotangent], materialize_grads=True)
        for first, inputs in ((recorded, of_node), (by_edges, of_edges))
    ]
    for got, want in zip(*second, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_only_some_parameters_are_asked_for_and_none_without_grad():
    node, edgewise = pair(base_of("mlp"), (4,))
    x = samples(9, 3)
    for net in (node, edgewise):
        net.weight("x", "h1").requires_grad_(False)
        net(x).square().sum().backward()
    assert node.weight("x", "h1").grad is None
    torch.testing.assert_close(node.bias("h1").grad, edgewise.bias("h1").grad, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        assert node(x).grad_fn is None
        torch.testing.assert_close(node(x), edgewise(x), rtol=1e-12, atol=1e-12)
    assert node(x[:0]).shape == (1, 0, 2)
    assert torch.equal(copy.deepcopy(node)(x), node(x))


def test_memory_of_a_pass_serves_one_graph_at_a_time_and_no_copy():
    net, edgewise = pair(base_of("mlp"), (4,))
    first, second = samples(70, 3), samples(70, 3, seed=7)
    expected = [torch.autograd.grad(edgewise(x).square().sum(), list(edgewise.parameters())) for x in (first, second)]
    net(first).sum().backward()
    fresh = len(pickle.dumps(net))  # What a pass of so many samples wrote is not in it.
    for _ in range(2):
        outs = [net(x).square().sum() for x in (first, second)]
        found = [torch.autograd.grad(out, list(net.parameters())) for out in reversed(outs)]
        for got, want in zip(reversed(found), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    net(samples(7000, 3)).sum().backward()
    assert len(pickle.dumps(net)) == fresh


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbours_threads_and_memory_change_no_bit(dtype):
    both, _ = pair(base_of("mlp"), (6, 40), dtype)
    alone = LiftedNetwork(both.lift.replicas[1], None, dtype)
    alone.load_state_dict(both.replica_tensors(both.state_dict(), 1))
    x, cotangent = samples(3000, 3).to(dtype), samples(3000, 2, seed=2).to(dtype)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for net, pick in ((both, 1), (alone, None)):
                out = net(x) if pick is None else net(x)[pick]
                gradients = dict(
                    zip(
                        dict(net.named_parameters()),
                        torch.autograd.grad(out, list(net.parameters()), cotangent),
                        strict=True,
                    )
                )
                found.append([out, *(gradients if pick is None else net.replica_tensors(gradients, pick)).values()])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_a_multiplied_readout_without_weight_goes_edge_by_edge():
    # Its multiplier has no weight to stand in.
    config = {
        "vertices": {"x": {"kind": "input"}, "h": HIDDEN, "y": {"kind": "output"}},
        "edges": [{"source": "x", "target": "h", "map": "linear"}, {"source": "h", "target": "y", "map": "identity"}],
    }
    config["vertices"]["h"] = HIDDEN | {"activation": "gelu"}
    base = BaseGraph.from_config(config, input_shape=(3,), output_size=1)
    for parametrization in ("standard", "mup"):
        node, edgewise = pair(base, (5,), parametrization=parametrization)
        x = samples(8, 3)
        assert uses_node(node(x)) == (parametrization == "standard")
        torch.testing.assert_close(node(x), edgewise(x), rtol=1e-12, atol=1e-12)


def test_weights_that_change_before_the_backward_pass_are_seen():
    node, _ = pair(base_of("mlp"), (4,))
    out = node(samples(9, 3)).sum()
    with torch.no_grad():
        node.bias("h1").add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()
