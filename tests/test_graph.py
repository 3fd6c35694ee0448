"""Base graphs: what is accepted, and the one line that every mistake gives."""

from dataclasses import FrozenInstanceError

import networkx
import pytest
import strategies
from hypothesis import given

from rsl_cli.errors import GraphError
from rsl_cli.graph import BaseGraph
from rsl_cli.keys import shorten

VERTICES = {"x": {"kind": "input"}, "h": {"activation": "tanh"}, "g": {}, "y": {"kind": "output"}}
EDGES = [
    {"source": "x", "target": "h", "map": "linear"},
    {"source": "h", "target": "g", "map": "scale"},
    {"source": "g", "target": "y", "map": "scale"},
]


def build(vertices=None, edges=None, *, more=(), input_shape=(2,), output_size=1, **others) -> BaseGraph:
    config = {"name": "test", "vertices": VERTICES | (vertices or {}), "edges": [*(edges or EDGES), *more], **others}
    return BaseGraph.from_config(config, input_shape=input_shape, output_size=output_size)


def edge(source: str, target: str, kind: object = "scale", **keys: object) -> dict:
    return {"source": source, "target": target, "map": kind, **keys}


GATE = "; use map 'linear' with the right out"
MISTAKES = {
    "cycle": (
        {"more": [edge("g", "h")]},
        "cycle h -> g -> h; a base graph is acyclic, remove one of these edges",
    ),
    "unknown vertex": (
        {"more": [edge("q7", "y")]},
        "edge q7->y: unknown vertex 'q7'; there are x, h, g, y",
    ),
    "unknown vertex with a likely one": (
        {"vertices": {"hidden": {}}, "more": [edge("x", "hiden", "linear")]},
        "edge x->hiden: unknown vertex 'hiden'; there are x, h, g, y, hidden; did you mean 'hidden'?",
    ),
    "unreachable output": (
        {"edges": EDGES[:2]},
        "vertex y: the output cannot be reached from x; add the missing edges",
    ),
    "vertex that nothing reaches": (
        {"vertices": {"z": {}}, "more": [edge("z", "y")]},
        "vertex z: no path from x leads to it; add an edge into it or remove it",
    ),
    "vertex that nothing reads": (
        {"vertices": {"z": {}}, "more": [edge("x", "z", "linear")]},
        "vertex z: no path leads from it to y; add an edge from it or remove it",
    ),
    "spaces that do not meet": (
        {"edges": [edge("x", "h", "linear", out=4), *EDGES[1:2], edge("x", "g", "linear", out=8), edge("g", "y")]},
        f"edge x->g: map 'linear' needs equal spaces, got (8,) and (4,) (edge h->g gives that to g){GATE}",
    ),
    "output of a space": (
        {"edges": [edge("x", "h", "linear", out=4), *EDGES[1:]]},
        f"edge g->y: map 'scale' needs equal spaces, got (4,) and () (an output is a scalar){GATE}",
    ),
    "linear of an image": (
        {"input_shape": (1, 8, 8)},
        "edge x->h: map 'linear' needs a flat space, got (1, 8, 8); set flatten: true or use another map",
    ),
    "missing slot": (
        {"vertices": {"g": {"combine": "product"}}},
        "edge h->g: missing slot; combine 'product' of g needs one each",
    ),
    "one slot of a product": (
        {"vertices": {"g": {"combine": "product"}}, "edges": [EDGES[0], edge("h", "g", slot="a"), EDGES[2]]},
        "vertex g: missing slot; combine 'product' needs at least 2 in-edges, got 1",
    ),
    "doubled slot": (
        {"edges": [EDGES[0], edge("h", "g", slot="a"), EDGES[2]], "more": [edge("x", "g", "linear", slot="a")]},
        "edge x->g[a]: doubled slot 'a' of g; give each in-edge its own slot",
    ),
    "parallel edges without slots": (
        {"more": [edge("h", "g")]},
        "edge h->g: doubled slot 'h' of g; give each in-edge its own slot",
    ),
    "two inputs": (
        {"vertices": {"z": {"kind": "input"}}},
        "a base graph has exactly one input vertex, got x, z; mend the kind of the vertices",
    ),
    "no output": (
        {"vertices": {"y": {}}},
        "a base graph has exactly one output vertex, got none; mend the kind of the vertices",
    ),
    "edge into the input": (
        {"more": [edge("h", "x")]},
        "edge h->x: nothing may feed the input vertex x; turn the edge round",
    ),
    "edge from the output": (
        {"more": [edge("y", "g")]},
        "edge y->g: nothing may read the output vertex y; turn the edge round",
    ),
    "unknown key of a vertex": (
        {"vertices": {"h": {"activaton": "tanh"}}},
        "vertex h: key 'activaton' is not known; accepted: kind, activation, combine, bias, width, growth, bias_init, "
        "norm, pool; did you mean 'activation'?",
    ),
    "unknown activation": (
        {"vertices": {"h": {"activation": "tahn"}}},
        "vertex h: activation 'tahn' is not known; accepted: tanh, relu, leaky_relu, gelu, silu, softplus, sin, "
        "identity; did you mean 'tanh'?",
    ),
    "activation of another type": (
        {"vertices": {"h": {"activation": 3}}},
        "vertex h: activation 3 is not known; accepted: tanh, relu, leaky_relu, gelu, silu, softplus, sin, identity",
    ),
    "unknown kind": (
        {"vertices": {"h": {"kind": "hiden"}}},
        "vertex h: kind='hiden'; accepted: input, hidden or output; did you mean 'hidden'?",
    ),
    "unknown combine": (
        {"vertices": {"h": {"combine": None}}},
        "vertex h: combine None is not known; accepted: sum, product, attention",
    ),
    "vertex that is no mapping": (
        {"vertices": {"h": "tanh"}},
        "vertex h: got 'tanh'; write a mapping such as {kind: hidden, activation: tanh}",
    ),
    "name that edges could not be told by": (
        {"vertices": {"a->b": {}}},
        "vertex a->b: name='a->b'; accepted: letters, digits, _, . and -",
    ),
    "bias that is no switch": (
        {"vertices": {"h": {"bias": 1}}},
        "vertex h: bias=1; accepted: true, false, number, copy, feature, or package.function",
    ),
    "width of zero": ({"vertices": {"h": {"width": 0}}}, "vertex h: width=0; accepted: a number above 0"),
    "width of text": ({"vertices": {"h": {"width": "2"}}}, "vertex h: width='2'; accepted: a number above 0"),
    "growth that is no number": (
        {"vertices": {"h": {"growth": float("nan")}}},
        "vertex h: growth=nan; accepted: a number from 0 (a fixed fibre) upwards",
    ),
    "growth beyond floats": (
        {"vertices": {"h": {"growth": 10**400}}},
        f"vertex h: growth={shorten(10**400)}; accepted: a number from 0 (a fixed fibre) upwards",
    ),
    "growth below zero": (
        {"vertices": {"h": {"growth": -1}}},
        "vertex h: growth=-1; accepted: a number from 0 (a fixed fibre) upwards",
    ),
    "activation on the output": (
        {"vertices": {"y": {"kind": "output", "activation": "tanh"}}},
        "vertex y: activation 'tanh' on an output; the readout is linear, leave activation out",
    ),
    "keys of the input": (
        {"vertices": {"x": {"kind": "input", "bias": True}}},
        "vertex x: an input vertex has only the key kind, got kind, bias",
    ),
    "width of the output": (
        {"vertices": {"y": {"kind": "output", "width": 2}}},
        "vertex y: width and growth belong to hidden vertices; an output is not multiplied",
    ),
    "law of biases": (
        {"vertices": {"h": {"bias_init": {"kind": "norml"}}}},
        "vertex h: bias_init kind 'norml' is not known; accepted: normal, uniform, zeros, student; did you mean "
        "'normal'?",
    ),
    "law that is no mapping": (
        {"more": [edge("x", "g", "linear", init="zeros")]},
        "edge x->g: init='zeros'; write a mapping such as {kind: normal, gain: 1.0}",
    ),
    "gain of zero": (
        {"more": [edge("x", "g", "linear", init={"gain": 0})]},
        "edge x->g: init gain=0; accepted: a number above 0",
    ),
    "unknown map": (
        {"more": [edge("x", "g", "linaer")]},
        "edge x->g: map 'linaer' is not known; accepted: linear, scale, conv, token_linear, identity; "
        "did you mean 'linear'?",
    ),
    "map of another type": (
        {"more": [edge("x", "g", {"kind": "linear"})]},
        "edge x->g: map {'kind': 'linear'} is not known; accepted: linear, scale, conv, token_linear, identity",
    ),
    "map misspelt": (
        {"more": [{"source": "x", "target": "g", "mpa": "scale"}]},
        "edge x->g: key 'mpa' is not known; did you mean 'map'?",
    ),
    "no map": (
        {"more": [{"source": "x", "target": "g"}]},
        "edge x->g: no map; add one, e.g. map: scale",
    ),
    "key of a map": (
        {"more": [edge("x", "g", "linear", outs=2)]},
        "edge x->g: key of map 'linear' 'outs' is not known; accepted: out, flatten, token; did you mean 'out'?",
    ),
    "key of a map without keys": (
        {"more": [edge("x", "g", kernel=3)]},
        "edge x->g: map 'scale' has no key 'kernel'",
    ),
    "value of a map's key": (
        {"more": [edge("x", "g", "linear", out=True)]},
        "edge x->g: map 'linear': out=True; accepted: null for a scalar, or a whole number from 1",
    ),
    "edge that is no mapping": (
        {"more": ["x->g"]},
        "edge 'x->g': write a mapping with source, target and map",
    ),
    "slot of another type": (
        {"more": [edge("x", "g", "linear", slot=3)]},
        "edge x->g: slot=3; accepted: letters, digits, _, . and -",
    ),
    "lifting that is no mapping": (
        {"more": [edge("x", "g", "linear", lifting="dense")]},
        "edge x->g: lifting 'dense'; write a mapping such as {kind: random, in_degree: 8}",
    ),
    "unknown lifting": (
        {"more": [edge("x", "g", "linear", lifting={"kind": "densse"})]},
        "edge x->g: lifting 'densse' is not known; accepted: random, regular, dense, matching, target; "
        "did you mean 'dense'?",
    ),
    "key of a lifting": (
        {"more": [edge("x", "g", "linear", lifting={"kind": "random", "indegree": 8})]},
        "edge x->g: key of lifting 'random' 'indegree' is not known; accepted: in_degree; did you mean 'in_degree'?",
    ),
    "in-degree of a dense lifting": (
        {"more": [edge("x", "g", "linear", lifting={"kind": "dense", "in_degree": 8})]},
        "edge x->g: lifting 'dense' has no key 'in_degree'",
    ),
    "broken in-degree": (
        {"more": [edge("x", "g", "linear", lifting={"kind": "regular", "in_degree": 2.5})]},
        "edge x->g: lifting 'regular': in_degree=2.5; accepted: a whole number from 1 to 2147483648",
    ),
    "in-degree of zero": (
        {"more": [edge("x", "g", "linear", lifting={"kind": "random", "in_degree": 0})]},
        "edge x->g: lifting 'random': in_degree=0; accepted: 1e-06 to 2147483648",
    ),
    "input shape": (
        {"input_shape": (0,)},
        "base graph: input_shape=(0,), output_size=1; accepted: whole numbers from 1, e.g. input_shape=(2,), "
        "output_size=1",
    ),
    "input shape that is no sequence": (
        {"input_shape": 2},
        "base graph: input_shape=2, output_size=1; accepted: whole numbers from 1, e.g. input_shape=(2,), "
        "output_size=1",
    ),
    "output size": (
        {"output_size": 1.0},
        "base graph: input_shape=(2,), output_size=1.0; accepted: whole numbers from 1, e.g. input_shape=(2,), "
        "output_size=1",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line(mistake):
    arguments, message = MISTAKES[mistake]
    with pytest.raises(GraphError) as caught:
        build(**arguments)
    assert str(caught.value) == message


def test_lookups():
    base = build(
        {"g": {"combine": "product"}},
        [EDGES[0], edge("h", "g", slot="a"), edge("h", "g", slot="b"), EDGES[2]],
    )
    assert base.vertex("h").activation == "tanh" and base.input.name == "x" and base.output.name == "y"
    assert base.edge_index("h", "g", "b") == 2
    assert [one.name for one in base.in_edges("g")] == ["h->g[a]", "h->g[b]"]
    with pytest.raises(GraphError, match=r"^edge h->g: there are 2; name its slot, one of: a, b$"):
        base.edge_index("h", "g")
    with pytest.raises(GraphError, match=r"^edge 'h->g\[c\]' is not known; accepted: x->h, h->g\[a\], h->g\[b\], g->y"):
        base.edge_index("h", "g", "c")
    for ask in (base.vertex, base.space):
        with pytest.raises(GraphError, match=r"^vertex 'z' is not known; accepted: x, h, g, y$"):
            ask("z")


def test_spaces_and_weights():
    base = build(
        edges=[
            edge("x", "h", "linear", out=3),
            edge("h", "g", "scale"),
            edge("x", "g", "linear", out=3),
            edge("g", "y", "linear"),
        ],
        input_shape=(2,),
    )
    assert [base.space(name) for name in "xhgy"] == [(2,), (3,), (3,), ()]
    assert [base.weight_shape(one) for one in base.edges] == [(3, 2), (), (3, 2), (3,)]


def test_immutable_and_equal_by_value():
    assert build() == build() and hash(build()) == hash(build())
    assert build() != build(output_size=2)
    with pytest.raises(FrozenInstanceError):
        build().name = "other"  # pyright: ignore[reportAttributeAccessIssue]


@given(strategies.base_graphs())
def test_order_and_reach_agree_with_networkx(base):
    graph = networkx.DiGraph([(one.source, one.target) for one in base.edges])
    assert networkx.is_directed_acyclic_graph(graph)
    place = {vertex.name: number for number, vertex in enumerate(base.vertices)}
    assert all(place[one.source] < place[one.target] for one in base.edges)
    assert networkx.descendants(graph, "x") | {"x"} == networkx.ancestors(graph, "y") | {"y"} == set(place)
