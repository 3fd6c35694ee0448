"""Repetition written out, and the base graphs and liftings that ship."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rsl_cli.errors import GraphError
from rsl_cli.graph import BaseGraph, edge_lifting
from rsl_cli.graph_config import expand
from rsl_cli.lift import sample_lift
from rsl_cli.liftings import LIFTINGS

CONF = Path(__file__).parents[1] / "conf"
# A module is no graph until it is traced.
BASES = sorted(path.stem for path in (CONF / "base").glob("*.yaml") if path.stem != "module")


def composed(group: str, name: str, *overrides: str) -> dict:
    """What Hydra makes of one file of a group, as plain containers."""
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        config = compose(overrides=[f"+{group}={name}", *overrides])
    plain = OmegaConf.to_container(config[group], resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def graph(config: dict, **sizes) -> BaseGraph:
    return BaseGraph.from_config(config, **({"input_shape": (2,), "output_size": 1} | sizes))


@pytest.mark.parametrize("name", BASES)
def test_shipped_bases_compose_and_lift(name):
    path = CONF / "base" / f"{name}.yaml"
    config = composed("base", name)
    assert config == yaml.safe_load(path.read_text(encoding="utf-8"))
    assert config["name"] == name and path.read_text(encoding="utf-8").startswith("# ")
    image = any(edge["map"] in ("conv", "token_linear") or "token" in edge for edge in config["edges"])
    for shape, outputs in [((8, 8), 1), ((8, 8), 10)] if image else [((2,), 1), ((64,), 10)]:
        base = graph(config, input_shape=shape, output_size=outputs)
        sample_lift(base, 16).check()
        for edge in base.in_edges(base.output.name):
            assert edge.map_name in ("scale", "linear") and edge.init.kind == "zeros"
            assert edge.lifting is not None and edge.lifting.kind == "dense"


def test_every_lifting_ships():
    files = sorted(path.stem for path in (CONF / "lifting").glob("*.yaml"))
    assert files == sorted(LIFTINGS)
    for name in sorted({*files} - {"target"}):
        config = composed("lifting", name)
        assert config["kind"] == name and set(config) <= {"kind", "in_degree"}
        lifting = edge_lifting(config)
        assert lifting.in_degree == (8.0 if name in ("random", "regular") else None)
        for left_out in ({}, {"in_degree": None}):
            by_name = edge_lifting({"kind": name, **left_out})
            assert by_name == lifting and by_name.identity() == lifting.identity()
        assert (CONF / "lifting" / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_depth_of_deep(depth):
    base = graph(composed("base", "deep", f"base.depth={depth}"))
    hidden = [f"h{i}" for i in range(1, depth + 1)]
    assert [vertex.name for vertex in base.vertices] == ["x", *hidden, "y"]
    assert [(edge.source, edge.target) for edge in base.edges] == list(zip(["x", *hidden], [*hidden, "y"], strict=True))
    assert len(graph(composed("base", "deep")).vertices) == 6


def test_a_dict_config_is_read_as_it_is():
    config = OmegaConf.load(CONF / "base" / "gated.yaml")
    assert graph(config) == graph(composed("base", "gated"))  # pyright: ignore[reportArgumentType]


def test_later_indices_use_earlier_ones():
    every = {"source": "h{i}", "target": "h{j}", "map": "scale", "for": {"j": "2..depth", "i": "1..j-1"}}
    _, vertices, edges = expand(
        {"depth": 4, "vertices": {"h{i}": {"for": {"i": "1..depth"}}}, "edges": [every | {"slot": "s{i}"}]}
    )
    assert list(vertices) == ["h1", "h2", "h3", "h4"] and vertices["h1"] == {}
    assert [(edge["source"], edge["target"], edge["slot"]) for edge in edges] == [
        (f"h{i}", f"h{j}", f"s{i}") for j in range(2, 5) for i in range(1, j)
    ]
    assert all("for" not in edge for edge in edges)


def test_sums_of_constants():
    _, vertices, _ = expand({"k": 3, "vertices": {"a{k - 1 + 10}": {}, "b{-k+5}": {}}, "edges": [{}]})
    assert list(vertices) == ["a12", "b2"]


OWN_KEYS = ": accepted beside name, vertices and edges: whole numbers from 1, decimals above 0 and words"


def one(ranges: object, name: str = "h{i}") -> dict:
    return {"depth": 2, "vertices": {name: {"for": ranges}}, "edges": [{}]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "base graph: got list; write a mapping with name, vertices and edges"),
        ({"edges": [{}]}, "base graph: no vertices; write vertices: {x: {kind: input}, ...}"),
        (
            {"vertices": {"x": {}}, "edges": "x->y"},
            "base graph: no edges; write edges: [{source: x, target: y, map: linear}, ...]",
        ),
        (
            {"vertices": {"x": {}}, "edges": [{}], "depth": "4"},
            "base.depth='4'" + OWN_KEYS,
        ),
        (
            {"vertices": {"x": {}}, "edges": [{}], "depth": True},
            "base.depth=True" + OWN_KEYS,
        ),
        (
            {"vertices": {"x": {}}, "edges": [{}], "width": -0.5},
            "base.width=-0.5" + OWN_KEYS,
        ),
        (
            one({"i": "1..depth"}) | {"depth": 2.0},
            "vertex h{i}: depth=2.0 in 'depth'; accepted where it counts: a whole number",
        ),
        (
            one({"i": "1..2"}, "h{word}") | {"word": "tanh"},
            "vertex h{word}: word='tanh' in 'word'; accepted where it counts: a whole number",
        ),
        (one("1..2"), "vertex h{i}: for='1..2'; write for: {i: \"1..depth\"}"),
        (one({}), 'vertex h{i}: for={}; write for: {i: "1..depth"}'),
        (one({"i": "1-2"}), "vertex h{i}: for i='1-2'; write a range such as \"1..depth-1\""),
        (one({"1": "1..2"}), "vertex h{i}: for 1='1..2'; write a range such as \"1..depth-1\""),
        (one({"i": "1..n"}), "vertex h{i}: unknown name 'n' in 'n'; there are depth"),
        (
            one({"i": "1..2*depth"}),
            "vertex h{i}: cannot read '2*depth'; write whole numbers and names joined by + and -",
        ),
        (one({"i": "1..1 2"}), "vertex h{i}: cannot read '1 2'; write whole numbers and names joined by + and -"),
        (one({"i": "1..²"}), "vertex h{i}: cannot read '²'; write whole numbers and names joined by + and -"),
        (one({"i": "1..2"}, "h"), "vertex h: written twice; rename one of them or narrow its for"),
        (one({"i": "1..2"}, "h{j}"), "vertex h{j}: unknown name 'j' in 'j'; there are depth, i"),
        (one({"i": "1..10001"}), "vertex h{i}: for i='1..10001' stands for more than 10000; narrow it"),
        (
            one({"i": "1..200", "j": "1..200"}, "h{i}_{j}"),
            "vertex h{i}_{j}: its for stands for more than 10000, or tries as many; narrow it",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(config, message):
    with pytest.raises(GraphError) as caught:
        expand(config)
    assert str(caught.value) == message


@pytest.mark.parametrize("word", ["on", "Off", "no", "yes", "true", "1e3", "0.5"])
@pytest.mark.parametrize("place", ["vertex", "source", "target"])
def test_words_that_yaml_makes_something_else_of_are_refused_with_the_remedy(word, place):
    names = {"vertex": "h", "source": "h", "target": "h"} | {place: word}
    text = (
        f"vertices: {{x: {{kind: input}}, {names['vertex']}: {{}}, y: {{kind: output}}}}\n"
        f"edges: [{{source: x, target: {names['target']}, map: linear}}, "
        f"{{source: {names['source']}, target: y, map: scale}}]"
    )
    read = OmegaConf.to_container(OmegaConf.create(text))
    with pytest.raises(GraphError, match=r"is named .*: YAML reads on, off, .*; put the name in quotes, e\.g\. 'on'"):
        BaseGraph.from_config(read, input_shape=(2,), output_size=1)  # pyright: ignore[reportArgumentType]


def test_quoted_words_are_names():
    text = """
    vertices: {x: {kind: input}, 'on': {}, y: {kind: output}}
    edges: [{source: x, target: 'on', map: linear}, {source: 'on', target: y, map: scale}]
    """
    read = OmegaConf.to_container(OmegaConf.create(text))
    base = BaseGraph.from_config(read, input_shape=(2,), output_size=1)  # pyright: ignore[reportArgumentType]
    assert base.vertex("on").name == "on"


def test_decimals_and_words_stand_where_they_are_written():
    """The base `perceptron`: sizes that grow as their keys say, and laws by their names."""
    mapping = yaml.safe_load((CONF / "base" / "perceptron.yaml").read_text(encoding="utf-8"))
    mapping |= {"width1": 0.5, "growth2": 1.5, "activation": "relu", "law": "student", "readout": "normal"}
    base = BaseGraph.from_config(mapping, input_shape=(2,), output_size=1)
    lift = sample_lift(base, 16)
    assert (lift.fibre("h1"), lift.fibre("h2")) == (8, 64)
    assert {base.vertex(name).activation for name in ("h1", "h2")} == {"relu"}
    assert [edge.init.kind for edge in base.edges] == ["student", "student", "normal"]
    assert base.vertex("h1").bias_init.kind == "student"
