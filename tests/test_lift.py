"""Sampled lifts: the homomorphism, the laws of in-degrees, reach, unions, cost."""

import dataclasses
import itertools
import resource
import sys

import networkx
import numpy as np
import pytest
import strategies
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rsl_cli.errors import LiftError
from rsl_cli.graph import BaseGraph, EdgeLifting, edge_lifting
from rsl_cli.lift import Lift, disjoint_union, expected_parameters, fibre_sizes, sample_lift
from rsl_cli.network import LiftedNetwork

LIFTINGS = [
    {"kind": "random", "in_degree": 8},
    {"kind": "random", "in_degree": 0.3},
    {"kind": "regular", "in_degree": 3},
    {"kind": "regular", "in_degree": 8},
    {"kind": "dense"},
    {"kind": "matching"},
]


def mlp(hidden: dict | None = None, *, first: dict | None = None, second: dict | None = None) -> BaseGraph:
    config = {
        "vertices": {
            "x": {"kind": "input"},
            "a": {"bias": True} | (first or {}),
            "b": {"activation": "tanh"} | (second or {}),
            "y": {"kind": "output"},
        },
        "edges": [
            {"source": "x", "target": "a", "map": "linear"},
            {"source": "a", "target": "b", "map": "scale"} | ({"lifting": hidden} if hidden else {}),
            {"source": "b", "target": "y", "map": "scale"},
        ],
    }
    return BaseGraph.from_config(config, input_shape=(2,), output_size=2)


def same(one: Lift, other: Lift) -> bool:
    pairs = zip(one.lists, other.lists, strict=True)
    return all(np.array_equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("degree", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("lifting", LIFTINGS, ids=str)
def test_every_sampler_gives_a_lift(lifting, degree):
    lifts = [sample_lift(mlp(lifting), degree, seed) for seed in range(3)]
    for lift in lifts:
        lift.check()
        assert all(ends.dtype == np.int64 for pair in lift.lists for ends in pair)
        assert len(lift.edges("b", "y")[0]) == 2 * degree
    disjoint_union(lifts).check()


@given(strategies.base_graphs(), st.lists(strategies.degrees, min_size=1, max_size=3), strategies.default_liftings)
def test_drawn_bases_lift_and_unite(base, degrees, lifting):
    lifts = [sample_lift(base, degree, seed, lifting) for seed, degree in enumerate(degrees)]
    union = disjoint_union([lifts[0], disjoint_union(lifts[1:])] if len(lifts) > 1 else lifts)
    union.check()
    assert union.degree == tuple(degrees) and union.seed == tuple(range(len(degrees)))
    assert union.parameter_count == sum(lift.parameter_count for lift in lifts)
    for edge in base.edges:
        name = (edge.source, edge.target, edge.slot)
        assert np.array_equal(union.in_degrees(*name), np.concatenate([lift.in_degrees(*name) for lift in lifts]))
        sources, targets = union.edges(*name)
        assert (np.diff(targets * max(union.fibre(edge.source), 1) + sources) > 0).all()


@pytest.mark.parametrize("default", [{"kind": "regular", "in_degree": 2}, {"kind": "dense"}])
def test_a_default_lifting_leaves_the_readout_dense(default):
    lift = sample_lift(mlp(), 9, lifting=default)
    lift.check()
    assert (lift.in_degrees("b", "y") == 9).all()


def tampered(lift: Lift, edge: int, sources: object, targets: object) -> Lift:
    lists = list(lift.lists)
    lists[edge] = (np.asarray(sources, dtype=np.int64), np.asarray(targets, dtype=np.int64))
    return dataclasses.replace(lift, lists=tuple(lists))


def test_check_finds_each_kind_of_tampering():
    lift = sample_lift(mlp(), 4, lifting={"kind": "regular", "in_degree": 2})
    sources, targets = lift.edges("a", "b")
    swapped = [1, 0, *range(2, 8)]
    moved = targets.copy()
    moved[2] = 0
    fixed_random = dataclasses.replace(lift, lifting=edge_lifting({"kind": "random", "in_degree": 2}))
    cases = [
        (
            dataclasses.replace(lift, fibres={**lift.fibres, "a": 5}),
            "vertex a: the fibre has 5 copies, degree 4 needs 4",
        ),
        (
            dataclasses.replace(lift, fibres={"x": 1, "a": 4, "y": 2}),
            "vertex b: the fibre has None copies, degree 4 needs 4",
        ),
        (dataclasses.replace(lift, lists=lift.lists[:2]), "2 edge lists for 3 base edges; one each is needed"),
        (tampered(lift, 1, sources[1:], targets), "edge a->b: (7,) sources for (8,) targets"),
        (tampered(lift, 1, sources[None], targets[None]), "edge a->b: (1, 8) sources for (1, 8) targets"),
        (tampered(lift, 1, sources + 4, targets), "edge a->b: a copy outside the fibre of a, which has 4"),
        (tampered(lift, 1, sources, targets - 1), "edge a->b: a copy outside the fibre of b, which has 4"),
        (
            tampered(lift, 1, sources[swapped], targets),
            "edge a->b: a pair of copies is joined twice, or the pairs are not sorted",
        ),
        (
            tampered(fixed_random, 1, np.repeat(sources, 2), np.repeat(targets, 2)),
            "edge a->b: a pair of copies is joined twice, or the pairs are not sorted",
        ),
        (
            tampered(lift, 1, [0, 1, 2, 3, 0, 1, 0, 1], [0, 0, 0, 1, 2, 2, 3, 3]),
            "edge a->b: lifting 'regular' gives every copy in-degree 2; some differ",
        ),
        (
            tampered(lift, 2, lift.lists[2][0][1:], lift.lists[2][1][1:]),
            "edge b->y: lifting 'dense' gives every copy in-degree 4; some differ",
        ),
    ]
    lift.check()
    for broken, message in cases:
        for one in (broken, disjoint_union([lift, broken])):
            with pytest.raises(LiftError) as caught:
                one.check()
            assert str(caught.value) == message


def test_a_matching_is_a_permutation():
    base = mlp({"kind": "matching"})
    for degree in (1, 2, 100):
        sources, targets = sample_lift(base, degree).edges("a", "b")
        assert np.array_equal(targets, np.arange(degree)) and np.array_equal(np.sort(sources), targets)
    seen = {tuple(sample_lift(base, 3, seed).edges("a", "b")[0]) for seed in range(100)}
    assert seen == set(itertools.permutations(range(3)))


def test_a_source_read_twice_is_no_matching():
    lift = sample_lift(mlp({"kind": "matching"}), 3)
    with pytest.raises(LiftError) as caught:
        tampered(lift, 1, [0, 0, 2], [0, 1, 2]).check()
    assert str(caught.value) == "edge a->b: lifting 'matching' gives every copy out-degree 1; some differ"


@pytest.mark.parametrize(("n", "in_degree"), [(20, 8.0), (1000, 3.0), (50, 0.5)])
def test_random_in_degrees_are_binomial(n, in_degree):
    lifting = {"kind": "random", "in_degree": in_degree}
    drawn = np.concatenate([sample_lift(mlp(), n, seed, lifting).in_degrees("a", "b") for seed in range(20000 // n)])
    law = stats.binom(n, in_degree / n)
    expected = law.pmf(np.arange(n + 1)) * len(drawn)
    low, high = np.flatnonzero(expected > 10)[[0, -1]]
    observed = np.bincount(np.clip(drawn, low, high), minlength=high + 1)[low:]
    bins = np.add.reduceat(expected, [0, *range(low + 1, high + 1)])
    assert stats.chisquare(observed, bins).pvalue > 0.001


def test_random_pairs_are_all_as_likely():
    lifting = {"kind": "random", "in_degree": 2}
    counts = np.zeros((5, 5))
    for seed in range(2000):
        sources, targets = sample_lift(mlp(), 5, seed, lifting).edges("a", "b")
        counts[targets, sources] += 1
    z = (counts - 2000 * 0.4) / (2000 * 0.4 * 0.6) ** 0.5
    assert stats.chi2(25).sf((z**2).sum()) > 0.001


@pytest.mark.parametrize(("n", "k"), [(6, 2), (7, 3), (5, 4)])
def test_regular_sources_are_uniform_over_subsets(n, k):
    """Both ways of drawing: with redraws (2k <= n) and by permutation."""
    counts = dict.fromkeys(itertools.combinations(range(n), k), 0)
    for seed in range(6000 // n):
        sources, _ = sample_lift(mlp(), n, seed, {"kind": "regular", "in_degree": k}).edges("a", "b")
        for row in sources.reshape(n, k):
            counts[tuple(row)] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_seeds_decide_and_zero_is_a_seed():
    base = mlp()
    for lifting in LIFTINGS[:4]:
        assert same(sample_lift(base, 64, 0, lifting), sample_lift(base, 64, 0, lifting))
        assert not same(sample_lift(base, 64, 0, lifting), sample_lift(base, 64, 1, lifting))
    assert not same(sample_lift(base, 64, 0), sample_lift(base, 64, -1))
    assert sample_lift(base, np.int64(8)).degree == 8


def test_an_edge_is_drawn_alike_whatever_else_there_is():
    base = mlp(second={"combine": "sum"})
    wider = BaseGraph.from_config(
        {
            "vertices": {"x": {"kind": "input"}, "c": {}, "a": {}, "b": {}, "y": {"kind": "output"}},
            "edges": [
                {"source": "x", "target": "c", "map": "linear"},
                {"source": "x", "target": "a", "map": "linear"},
                {"source": "c", "target": "b", "map": "scale"},
                {"source": "a", "target": "b", "map": "scale"},
                {"source": "b", "target": "y", "map": "scale"},
            ],
        },
        input_shape=(2,),
        output_size=1,
    )
    one, other = sample_lift(base, 30).edges("a", "b"), sample_lift(wider, 30).edges("a", "b")
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


@given(strategies.base_graphs(), strategies.degrees, st.integers(0, 3))
def test_reach_agrees_with_networkx(base, degree, seed):
    lifts = [sample_lift(base, degree, seed, {"kind": "random", "in_degree": 0.8}) for seed in (seed, seed + 1)]
    for lift in (lifts[0], disjoint_union(lifts)):
        graph = lift.to_networkx()
        assert isinstance(graph, networkx.MultiDiGraph)
        for vertex in base.vertices:
            nodes = [node for node, name in graph.nodes(data="base") if name == vertex.name]
            assert nodes == [(vertex.name, copy) for copy in range(lift.fibre(vertex.name))]
        for edge in base.edges:
            kept = {(a, b) for a, b, key in graph.edges(keys=True) if key == edge.name}
            sources, targets = lift.edges(edge.source, edge.target, edge.slot)
            pairs = zip(sources.tolist(), targets.tolist(), strict=True)
            assert kept == {((edge.source, a), (edge.target, b)) for a, b in pairs}
        inputs = [(base.input.name, copy) for copy in range(lift.fibre(base.input.name))]
        outputs = [(base.output.name, copy) for copy in range(lift.fibre(base.output.name))]
        reached = set(inputs).union(*(networkx.descendants(graph, node) for node in inputs))
        read = set(outputs).union(*(networkx.ancestors(graph, node) for node in outputs))
        for got, expected in ((lift.unreached(), reached), (lift.unread(), read)):
            missing = {(name, int(copy)) for name, copies in got.items() for copy in copies}
            assert missing == set(graph.nodes) - expected
            assert set(got) == {vertex.name for vertex in base.vertices}


@pytest.mark.parametrize(
    ("width", "growth", "sizes"),
    [(1, 1, [1, 2, 9, 1024]), (3, 0, [3, 3, 3, 3]), (0.1, 1, [1, 1, 1, 102]), (2, 0.5, [2, 3, 6, 64])],
)
def test_sizes_of_fibres(width, growth, sizes):
    base = mlp(first={"width": width, "growth": growth})
    got = [fibre_sizes(base, degree) for degree in (1, 2, 9, 1024)]
    assert [fibres["a"] for fibres in got] == sizes
    assert all((fibres["x"], fibres["y"]) == (1, 2) for fibres in got)


@pytest.mark.parametrize("lifting", LIFTINGS, ids=str)
def test_expected_parameters_are_the_mean_over_seeds(lifting):
    base = mlp(lifting)
    counts = [sample_lift(base, 40, seed).parameter_count for seed in range(200)]
    expected = expected_parameters(base, 40, EdgeLifting())
    error = np.std(counts) / len(counts) ** 0.5
    assert abs(np.mean(counts) - expected) <= 4 * error + 0.5
    # Two weights and a bias for each copy of a; a readout for each copy of b and output.
    kept = 40 * min({"dense": 40, "matching": 1}.get(lifting["kind"], lifting.get("in_degree", 0)), 40)
    assert expected == 3 * 40 + kept + 2 * 40


@pytest.mark.parametrize("degree", [0, -1, 2.0, "8", True, None])
def test_degrees_that_are_none(degree):
    with pytest.raises(LiftError) as caught:
        sample_lift(mlp(), degree)
    assert str(caught.value) == f"lift degree {degree!r}; accepted: a whole number from 1"


def test_what_cannot_be_lifted():
    with pytest.raises(LiftError) as caught:
        sample_lift(mlp({"kind": "matching"}, first={"width": 2}), 4)
    assert str(caught.value) == (
        "edge a->b: lifting 'matching' needs fibres of equal size, got 8 and 4; use 'random' or 'regular' with "
        "in_degree: 1, or equal width and growth"
    )
    with pytest.raises(LiftError) as caught:
        sample_lift(mlp(first={"growth": 1000}), 64)
    assert str(caught.value) == (
        "vertex a: degree 64 with width 1 and growth 1000 gives more than 1073741824 copies; lower one of them"
    )
    with pytest.raises(LiftError, match=r"^disjoint union of no lifts; pass at least one$"):
        disjoint_union([])
    with pytest.raises(LiftError, match=r"^disjoint union: base graph 'unnamed' differs from 'unnamed'"):
        disjoint_union([sample_lift(mlp(), 4), sample_lift(mlp({"kind": "dense"}), 4)])


def test_a_vanishing_in_degree_keeps_nothing():
    lift = sample_lift(mlp({"kind": "random", "in_degree": 1e-6}), 1000)
    lift.check()
    assert len(lift.edges("a", "b")[0]) == 0
    assert LiftedNetwork(lift)(torch.ones(3, 2)).shape == (3, 2)


def test_cost_goes_with_the_edges_kept():
    """A million copies with eight in-edges each: nothing may be as large as the pairs, a trillion."""
    n = 1_000_000
    for kind in ("random", "regular"):
        lift = sample_lift(mlp(), n, 0, {"kind": kind, "in_degree": 8})
        sources, targets = lift.edges("a", "b")
        assert len(sources) == len(targets)
        # Five standard deviations of a binomial count.
        assert abs(len(sources) - 8 * n) <= (0 if kind == "regular" else 5 * (8 * n) ** 0.5)
    lift.check()
    network = LiftedNetwork(lift)
    network(torch.ones(16, 2)).sum().backward()
    gradient = network.weight("a", "b").grad
    assert gradient is not None and gradient.shape == (8 * n,)
    unit = 1 if sys.platform == "darwin" else 1024
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit < 8 << 30
