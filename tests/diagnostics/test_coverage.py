from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import group
from scipy.stats import norm
from strategies import base_graphs, default_liftings

from rsl_cli.diagnostics.coverage import coverage, coverage_table
from rsl_cli.errors import ConfigError
from rsl_cli.graph import BaseGraph
from rsl_cli.lift import Lift, disjoint_union, sample_lift
from rsl_cli.network import LiftedNetwork

SPARSE = {"kind": "random", "in_degree": 2}
ETAS = (0.0, 0.5, 1.0, 2.0, 50.0)
BASES = ("mlp", "skip", "gated", "deep", "shallow")


def base_graph(name, inputs=2, **changes):
    return BaseGraph.from_config(group("base", name, **changes), input_shape=(inputs,), output_size=1)


def one_map(vertices, edges):
    config = {"vertices": {"x": {"kind": "input"}, **vertices, "y": {"kind": "output"}}, "edges": edges}
    return BaseGraph.from_config(config, input_shape=(1,), output_size=1)


def drawn(base, degree, seed, lifting=SPARSE, dtype=torch.float64):
    return LiftedNetwork(sample_lift(base, degree, seed, lifting), seed, dtype)


def rounded(network, seed, numbers=(-1, 0, 0.5, 1)):
    """Weights from a few values, so that many are equal or at one step."""
    draw = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.as_tensor(draw.choice(numbers, size=tuple(parameter.shape))))
    return network


def matrix(network, witness, eta):
    """By recursion over copies and all bijections: pairs (vertex, copy, witness copy) that cover."""
    base, known = network.lift.base, {}

    def in_edges(net, edge, copy):
        sources, targets = net.lift.edges(edge.source, edge.target, edge.slot)
        weighted = edge.map_name != "identity"
        weights = net.weight(edge.source, edge.target, edge.slot) if weighted else None
        return [
            (int(sources[k]), None if weights is None else weights[k])
            for k in range(len(sources))
            if targets[k] == copy
        ]

    def near(one, other):
        return one is None or bool((one.double() - other.double()).abs().max() <= eta)

    def covers(vertex, b, c):
        if vertex == base.input.name:
            return True
        if (vertex, b, c) not in known:
            known[vertex, b, c] = asked(vertex, b, c)
        return known[vertex, b, c]

    def asked(vertex, b, c):
        if base.vertex(vertex).bias and not near(network.bias(vertex)[b], witness.bias(vertex)[c]):
            return False
        for edge in base.in_edges(vertex):
            mine, theirs = in_edges(network, edge, b), in_edges(witness, edge, c)
            if len(mine) != len(theirs):
                return False
            fits = [[near(w, w0) and covers(edge.source, a, d) for d, w0 in theirs] for a, w in mine]
            numbers = range(len(mine))
            if not any(all(fits[i][j] for i, j in enumerate(order)) for order in permutations(numbers)):
                return False
        return True

    return {
        vertex.name: np.array(
            [
                [covers(vertex.name, b, c) for c in range(witness.lift.fibre(vertex.name))]
                for b in range(network.lift.fibre(vertex.name))
            ]
        )
        for vertex in base.vertices
        if vertex.kind == "hidden"
    }


def assert_as_the_oracle(network, witness, eta):
    found = coverage(network, witness, eta)
    expected = matrix(network, witness, eta)
    assert [one.vertex for one in found] == list(expected)
    for one in found:
        covers = expected[one.vertex]
        assert one.by_witness.dtype == np.int64
        assert one.by_witness.tolist() == covers.sum(axis=0).tolist()
        assert (one.copies, one.covering) == (len(covers), covers.any(axis=1).sum())
        assert (one.share, one.least) == (one.covering / one.copies, covers.sum(axis=0).min())
    return expected


@given(base_graphs(), default_liftings, st.integers(1, 3), st.integers(1, 2), st.sampled_from(ETAS), st.integers(0, 99))
def test_drawn_base_graphs(base, lifting, degree, small, eta, seed):
    network = rounded(drawn(base, degree, seed, lifting), seed)
    witness = rounded(drawn(base, small, seed + 1, lifting), seed + 1)
    assert_as_the_oracle(network, witness, eta)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("name", BASES)
def test_shipped_base_graphs(name, eta):
    base = base_graph(name, inputs=1)
    seen = []
    for seed in range(6):
        network, witness = rounded(drawn(base, 20, seed), seed), rounded(drawn(base, 3, seed + 100), seed + 100)
        seen += assert_as_the_oracle(network, witness, eta).values()
    joined = np.concatenate([mask.ravel() for mask in seen])
    assert joined.any(), "nothing covered: the comparison would show nothing"
    # In a shallow base every pair has as many in-edges, so a large eta covers all.
    assert not joined.all() or (name, eta) in {("shallow", 2.0), ("shallow", 50.0)}


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("degree", [3, 4, 5])
def test_matchings_of_several_edges(degree, eta):
    lifting = {"kind": "regular", "in_degree": degree}
    found = []
    for seed in range(4):
        network = rounded(drawn(base_graph("mlp", 1), 12, seed, lifting), seed, np.arange(-1, 1.1, 0.5))
        witness = rounded(drawn(base_graph("mlp", 1), 5, seed + 9, lifting), seed + 9, np.arange(-1, 1.1, 0.5))
        with torch.no_grad():
            for net in (network, witness):
                net.weight("x", "h1").mul_(0.5)
        found.append(assert_as_the_oracle(network, witness, eta)["h2"].ravel())
    assert 0 < np.concatenate(found).mean() < 1


def test_dense_edges_match_equally_many():
    base, dense = base_graph("mlp", 1), {"kind": "dense"}
    witness = rounded(drawn(base, 3, 0, dense), 0)
    assert_as_the_oracle(rounded(drawn(base, 3, 1, dense), 1), witness, 1.0)
    assert coverage(drawn(base, 4, 1, dense), witness, 50.0)[1].covering == 0


def fan(weights):
    """h2's one copy reads all copies of h1, which are alike, with the given weights."""
    base = one_map(
        {"h1": {"width": len(weights)}, "h2": {"width": 1}},
        [
            {"source": "x", "target": "h1", "map": "linear"},
            {"source": "h1", "target": "h2", "map": "scale", "lifting": {"kind": "dense"}},
            {"source": "h2", "target": "y", "map": "scale"},
        ],
    )
    network = drawn(base, 1, 0)
    with torch.no_grad():
        network.weight("x", "h1").fill_(1)
        network.weight("h1", "h2").copy_(torch.tensor(weights))
    return network


def test_two_edges_may_not_share_a_partner():
    witness = fan([0.0, 1.5, 1.6])
    # Each edge has a partner, but the first two only the same one.
    assert coverage(fan([-0.9, -0.9, 0.8]), witness, 1.0)[1].covering == 0
    assert coverage(fan([0.8, 2.4, -0.9]), witness, 1.0)[1].covering == 1


def test_weights_without_a_bias_or_a_map_of_numbers():
    base = one_map(
        {"h1": {"bias": True}, "h2": {}},
        [
            {"source": "x", "target": "h1", "map": "scale"},
            {"source": "h1", "target": "h2", "map": "identity"},
            {"source": "h2", "target": "y", "map": "linear"},
        ],
    )
    network, witness = rounded(drawn(base, 12, 0), 0), rounded(drawn(base, 3, 3), 3)
    expected = assert_as_the_oracle(network, witness, 0.5)["h2"]
    assert expected.any() and not expected.all()


def test_eta_is_the_greatest_difference_allowed():
    witness = fan([0.0])
    assert coverage(fan([0.25]), witness, 0.25)[1].covering == 1
    assert coverage(fan([0.25]), witness, 0.2499)[1].covering == 0
    assert coverage(fan([float("nan")]), witness, 50.0)[1].covering == 0


def test_a_vector_weight_is_as_far_as_its_farthest_entry():
    base = base_graph("shallow", inputs=3)
    network, witness = drawn(base, 1, 0), drawn(base, 1, 0)
    with torch.no_grad():
        network.weight("x", "h")[0, 1] += 0.5
    assert [coverage(network, witness, eta)[0].covering for eta in (0.0, 0.49, 0.51)] == [0, 0, 1]


def planted(witness, times, seed):
    """A lift that consists of copies of the witness, renumbered at random, and a network with its weights."""
    lift, base = witness.lift, witness.lift.base
    draw = np.random.default_rng(seed)
    fibres = {v.name: n * (times if v.kind == "hidden" else 1) for v in base.vertices for n in [lift.fibre(v.name)]}
    names = {name: draw.permutation(size) if base.vertex(name).kind == "hidden" else np.arange(size)
             for name, size in fibres.items()}  # fmt: skip
    lists, orders = [], []
    for edge, (sources, targets) in zip(base.edges, lift.edge_lists, strict=True):
        blocks = []
        for vertex, ends in ((edge.source, sources), (edge.target, targets)):
            step = lift.fibre(vertex) if base.vertex(vertex).kind == "hidden" else 0
            blocks.append(names[vertex][np.concatenate([ends + step * i for i in range(times)])])
        order = np.lexsort(blocks)
        lists.append((blocks[0][order], blocks[1][order]))
        orders.append(order % len(sources) if len(sources) else order)
    network = LiftedNetwork(Lift(base, lift.degree, 0, lift.lifting, fibres, tuple(lists)), 0, torch.float64)
    with torch.no_grad():
        for edge, order in zip(base.edges, orders, strict=True):
            ends = (edge.source, edge.target, edge.slot)
            network.weight(*ends).copy_(witness.weight(*ends)[torch.as_tensor(order)])
        for vertex in base.vertices:
            if vertex.bias and vertex.kind == "hidden":
                whose = np.argsort(names[vertex.name]) % lift.fibre(vertex.name)
                network.bias(vertex.name).copy_(witness.bias(vertex.name)[torch.as_tensor(whose)])
    return network


@pytest.mark.parametrize("name", BASES)
def test_copies_of_the_witness_cover_it_exactly(name):
    witness = drawn(base_graph(name), 5, 3)
    network = planted(witness, 4, 8)
    assert network.lift.fibre("h1" if name in ("mlp", "skip", "deep") else "h") == 20
    itself = {one.vertex: one.by_witness for one in coverage(witness, witness, 0.0)}
    for one in coverage(network, witness, 0.0):
        assert one.covering == one.copies == 20
        assert (one.by_witness == 4 * itself[one.vertex]).all()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1e-9)
    assert all(
        one.covering == 0 for one in coverage(network, witness, 0.0) if network.lift.base.vertex(one.vertex).bias
    )
    assert all(one.covering == 20 for one in coverage(network, witness, 2e-9))


@pytest.mark.parametrize("name", BASES)
def test_more_is_covered_within_a_larger_eta(name):
    network, witness = drawn(base_graph(name), 400, 0), drawn(base_graph(name), 4, 1)
    counts = [np.concatenate([one.by_witness for one in coverage(network, witness, eta)]) for eta in (0, 0.3, 1, 2, 9)]
    assert (np.diff(counts, axis=0) >= 0).all()
    assert counts[0].sum() < counts[-1].sum()


def test_copies_of_the_first_layer_cover_with_the_probability_of_their_law():
    n, eta = 40_000, 0.5
    network, witness = drawn(base_graph("mlp"), n, 0), drawn(base_graph("mlp"), 4, 1)
    # Two inputs, so the standard deviation of a weight is 1/sqrt(2), that of a bias 1.
    numbers = torch.cat([witness.weight("x", "h1"), witness.bias("h1")[:, None]], dim=1).detach().numpy()
    std = np.array([2**-0.5, 2**-0.5, 1.0])
    chance = (norm.cdf((numbers + eta) / std) - norm.cdf((numbers - eta) / std)).prod(axis=1)
    counts = coverage(network, witness, eta)[0].by_witness
    assert (np.abs(counts - n * chance) < 4 * np.sqrt(n * chance)).all()


def test_covering_copies_grow_in_proportion_to_the_lift():
    base, sizes = base_graph("mlp"), np.array([2000, 8000, 32000])
    witness = drawn(base, 4, 1)
    counts = np.array([coverage(drawn(base, int(n), 0), witness, 1.5)[1].by_witness for n in sizes])
    expected = counts[-1] * sizes[:, None] / sizes[-1]
    assert (expected > 8).all() and (expected < 0.2 * sizes[:, None]).all()
    # Nearly binomial, and the expectation has an error of its own.
    error = np.sqrt(expected * (1 + sizes[:, None] / sizes[-1]))
    assert (np.abs(counts - expected) < 4 * error).all()


def test_work_in_blocks_changes_nothing(monkeypatch):
    network, witness = rounded(drawn(base_graph("skip", 1), 60, 0), 0), rounded(drawn(base_graph("skip", 1), 4, 1), 1)
    whole = [one.by_witness.tolist() for one in coverage(network, witness, 1.0)]
    monkeypatch.setattr("rsl_cli.diagnostics.coverage._BLOCK", 7)
    assert [one.by_witness.tolist() for one in coverage(network, witness, 1.0)] == whole
    assert sum(map(sum, whole)) > 0


def test_single_precision_is_compared_without_rounding_eta():
    base = base_graph("shallow", inputs=1)
    network, witness = drawn(base, 1, 0, dtype=torch.float32), drawn(base, 1, 0)
    with torch.no_grad():
        network.bias("h").fill_(0.1)
        witness.bias("h").fill_(0.0)
        witness.weight("x", "h").copy_(network.weight("x", "h"))
    # The nearest number to 0.1 in single precision is greater.
    assert coverage(network, witness, 0.1)[0].covering == 0
    assert coverage(network, witness, float(np.float32(0.1)))[0].covering == 1


def test_the_table_has_a_row_for_each_vertex_and_eta():
    network, witness = drawn(base_graph("mlp"), 500, 0), drawn(base_graph("mlp"), 4, 1)
    table = coverage_table(network, witness, (0.5, 2.0))
    assert list(table.columns) == ["vertex", "eta", "copies", "covering", "share", "least", "witness_copies"]
    assert list(zip(table["vertex"], table["eta"], strict=True)) == [(v, e) for e in (0.5, 2.0) for v in ("h1", "h2")]
    for row, one in zip(table.itertuples(), [*coverage(network, witness, 0.5), *coverage(network, witness, 2.0)],
                        strict=True):  # fmt: skip
        assert (row.copies, row.covering, row.share) == (500, one.covering, one.covering / 500)
        assert (row.least, row.witness_copies) == (one.by_witness.min(), 4)
    assert len(coverage_table(network, witness, ())) == 0


@pytest.mark.parametrize("eta", [-0.1, float("nan"), float("inf")])
def test_eta_out_of_range(eta):
    network = drawn(base_graph("mlp"), 2, 0)
    with pytest.raises(ConfigError, match=f"eta={eta}; accepted: a finite number from 0"):
        coverage(network, network, eta)


def test_unions_are_refused():
    one = drawn(base_graph("mlp"), 2, 0)
    union = LiftedNetwork(disjoint_union([one.lift, one.lift]))
    with pytest.raises(ConfigError, match="network: a union of 2 lifts; accepted: one lift"):
        coverage(union, one, 0.5)
    with pytest.raises(ConfigError, match="witness: a union of 2 lifts; accepted: one lift"):
        coverage(one, union, 0.5)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (base_graph("deep", depth=2), None),
        (base_graph("deep", depth=3), r"map of edge h2->y: absent in the witness, Scale\(\) in the network"),
        (base_graph("deep", depth=1), "kind of vertex h2: absent in the witness, hidden in the network"),
        (base_graph("mlp", inputs=3), r"space of vertex x: \(3,\) in the witness, \(2,\) in the network"),
        (base_graph("skip"), "map of edge x->h2: Linear.* in the witness, absent in the network"),
    ],
)
def test_other_base_graphs(other, text):
    network, witness = drawn(base_graph("mlp"), 2, 0), drawn(other, 2, 0)
    if text is None:
        assert len(coverage(network, witness, 0.5)) == 2
    else:
        with pytest.raises(ConfigError, match=f"^{text}; accepted: equal vertices and edges"):
            coverage(network, witness, 0.5)


def test_initial_laws_liftings_and_widths_may_differ():
    config = group("base", "mlp")
    config["vertices"]["h1"]["width"] = 2
    config["edges"][1]["lifting"] = {"kind": "dense"}
    config["edges"][2]["init"] = {"kind": "normal"}
    other = BaseGraph.from_config(config, input_shape=(2,), output_size=1)
    witness = drawn(other, 1, 0)
    found = coverage(drawn(base_graph("mlp"), 300, 0), witness, 50.0)
    assert [len(one.by_witness) for one in found] == [2, 1]
    assert 0 < found[1].covering < 300
