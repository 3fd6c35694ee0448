"""Exported networks against the networks they were, alone in a process without rsl; GraphML against the lift."""

import json
import linecache
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import modules
import networkx
import pytest
import torch
from safetensors.torch import load_file
from test_architectures import BASES, base_of, graph_of, network_of

from rsl_cli import load_study
from rsl_cli.activations import ACTIVATIONS
from rsl_cli.cli import main
from rsl_cli.contracts import check_activation
from rsl_cli.errors import GraphError, StoreError
from rsl_cli.graph import BaseGraph
from rsl_cli.lift import sample_lift
from rsl_cli.maps import EDGE_MAPS, Scale
from rsl_cli.module import base_from_module
from rsl_cli.network import LiftedNetwork
from rsl_cli.portable import export, model, unportable
from rsl_cli.portable.model import LiftedModel
from rsl_cli.vertex_maps import COMBINES, NORMS, POOLS

TOKENS, IMAGE, FLAT = (4, 6), (2, 4, 4), (3,)
GRAPHS = [
    graph_of({"bias": True}, {"map": "linear", "out": 2}, shape=FLAT),
    graph_of({"bias": True}, {"map": "linear", "flatten": True}, shape=IMAGE),
    graph_of({"activation": "sin"}, {"map": "linear", "token": 3, "out": 2}, shape=TOKENS),
    graph_of({"bias": "feature"}, {"map": "token_linear", "out": 3}, shape=TOKENS),
    graph_of({"norm": {"kind": "rms", "eps": 1e-3}}, {"map": "token_linear", "out": 3, "over": "tokens"}, shape=TOKENS),
    graph_of({"pool": "token_avg"}, {"map": "token_linear", "out": 3, "patch": 2}, shape=IMAGE),
    graph_of({"bias": "copy", "pool": {"kind": "max", "size": 2}}, {"map": "conv", "upsample": 2}, shape=IMAGE),
    graph_of({"norm": {"kind": "layer", "over": "all"}, "pool": "avg"}, {"map": "conv", "kernel": 5}, shape=IMAGE),
    graph_of({"activation": "gelu", "pool": "global_avg"}, {"map": "conv", "stride": 2}, shape=IMAGE),
    graph_of({"combine": "product"}, {"map": "scale", "slot": "a"}, {"map": "identity", "slot": "b"}, shape=TOKENS),
    *(
        graph_of(
            {"combine": {"kind": "attention", "causal": causal}},
            *({"map": "token_linear", "out": 2, "slot": slot} for slot in "qkv"),
            shape=TOKENS,
        )
        for causal in (False, True)
    ),
]


def agree(network: LiftedNetwork, folder: Path) -> None:
    x = torch.randn(5, *network.lift.base.input_shape, dtype=torch.float64)
    model = LiftedModel.load(export(network, folder))
    torch.testing.assert_close(model(x), network(x), rtol=1e-12, atol=1e-12)
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("name", BASES)
def test_exported_architectures_compute_the_same(name, tmp_path):
    agree(network_of(base_of(name), (3,)), tmp_path / "out")


@pytest.mark.parametrize("base", GRAPHS, ids=lambda base: base.edges[0].map_name)
def test_exported_maps_compute_the_same(base: BaseGraph, tmp_path):
    agree(network_of(base, (3,)), tmp_path / "out")


@pytest.mark.parametrize(("make", "shape"), modules.EXAMPLES[1:])
def test_exported_modules_compute_the_same(make, shape, tmp_path):
    agree(network_of(base_from_module(make(), shape), (2,)), tmp_path / "out")


@pytest.mark.parametrize("parametrization", ["ntk", "mup"])
def test_readouts_keep_their_multiplier(parametrization, tmp_path):
    lift = sample_lift(base_of("skip"), 9, 1)
    agree(LiftedNetwork(lift, None, torch.float64, parametrization), tmp_path / "out")


def test_a_folder_runs_without_rsl(tmp_path):
    network = network_of(base_of("cnn"), (3,))
    export(network, tmp_path / "out")
    script = (
        "import sys, torch\n"
        "from model import LiftedModel\n"
        "model = LiftedModel.load('.')\n"
        "assert not [name for name in sys.modules if name.startswith(('rsl_cli', 'numba', 'scipy'))]\n"
        "out = model(torch.ones(2, 8, 8, dtype=torch.float64))\n"
        "out.sum().backward()\n"
        "print(repr(out[0].tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path / "out", capture_output=True, text=True, check=True
    )
    expected = network(torch.ones(1, 8, 8, dtype=torch.float64))[0]
    torch.testing.assert_close(
        torch.tensor(json.loads(done.stdout), dtype=torch.float64), expected, rtol=1e-12, atol=1e-12
    )


def test_graphml_is_the_lift(tmp_path):
    lift = network_of(base_of("gated"), (5,)).lift
    export(LiftedNetwork(lift), tmp_path / "out")
    graph = networkx.read_graphml(tmp_path / "out" / "graph.graphml", force_multigraph=True)
    expected = lift.to_networkx()
    assert {(d["vertex"], d["copy"]) for _, d in graph.nodes(data=True)} == set(expected.nodes)
    named = {node: (data["vertex"], data["copy"]) for node, data in graph.nodes(data=True)}
    found = sorted((named[a], named[b], data["edge"]) for a, b, data in graph.edges(data=True))
    assert found == sorted((a, b, key) for a, b, key in expected.edges(keys=True))
    for a, b, data in graph.edges(data=True):
        source, _, target = data["edge"].partition("->")
        ends = lift.edges(source, target.partition("[")[0], target.partition("[")[2].rstrip("]") or None)
        assert (ends[0][data["index"]], ends[1][data["index"]]) == (named[a][1], named[b][1])


def test_a_folder_is_made_whole_or_not_at_all(tmp_path, monkeypatch):
    network, out = network_of(base_of("shallow"), (2,)), tmp_path / "deep" / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StoreError, match=r"cannot write .*out: No space left on device"):
            export(network, out)
        assert list((tmp_path / "deep").iterdir()) == []
    out.mkdir()
    export(network, out)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(StoreError, match="is there and not empty; choose another folder, or --force"):
        export(network_of(base_of("shallow"), (3,)), out)
    assert (out / "model.safetensors").read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StoreError):
            export(network_of(base_of("shallow"), (3,)), out, force=True)
    assert (out / "model.safetensors").read_bytes() == before
    export(network_of(base_of("shallow"), (3,)), out, force=True)
    assert (out / "model.safetensors").read_bytes() != before
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert sorted(p.name for p in out.iterdir()) == ["graph.graphml", "graph.json", "model.py", "model.safetensors"]


def test_a_union_is_refused(tmp_path):
    with pytest.raises(StoreError, match="a union of 2 lifts; accepted: a network over one lift"):
        export(network_of(base_of("shallow"), (2, 2)), tmp_path / "out")


def test_runs_of_a_study_are_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = ["study=s", "lift=2,4", "seeds=2", "trainer=adam", "trainer.steps=5", "dataset.samples=64", "executor=local"]
    assert main(["run", *line]) == 0
    capsys.readouterr()
    assert main(["export", "s", "lift=4", "seed=1", "--to", "out"]) == 0
    assert "exported run n00004-s001-" in capsys.readouterr().out
    state = load_study("results/s").state(4, 1)
    tensors = load_file("out/model.safetensors")
    assert all(torch.equal(tensors[name], torch.as_tensor(value)) for name, value in state.items())
    graph = json.loads(Path("out/graph.json").read_text())
    assert (graph["degree"], graph["seed"], graph["dtype"]) == (4, 1, "float32")
    best = load_study("results/s").runs.sort_values("test_loss").iloc[0]
    assert main(["export", "results/s", "--to", "out", "--force"]) == 0
    assert f"exported run n{best.lift:05d}-s{best.seed:03d}-" in capsys.readouterr().out
    assert main(["export", "s", "n00002-s000", "--to", "other/out"]) == 0
    capsys.readouterr()
    for words, text in (
        (["s", "lift=3", "--to", "a"], "study 's' has no finished run lift=3; finished runs: n00002-s000-"),
        (["s", "depth=3", "--to", "a"], "run 'depth=3'; accepted: lift=64, seed=0"),
        (["s", "--to", "out"], "out is there and not empty; choose another folder, or --force to replace an export"),
        (["t", "--to", "a"], "no study 't' in results; there are: s"),
        (["s", "--to", "/proc/none"], "cannot write /proc/none"),
    ):
        assert main(["export", *words]) == 2
        shown = capsys.readouterr().err.strip().splitlines()
        assert len(shown) == 1 and text in shown[0]
    assert not Path("a").exists()


OWN = """
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn, sigmoid
from rsl_cli import ACTIVATIONS, Combine, Stage

STEEP = 2.5

def softer(z: torch.Tensor) -> torch.Tensor:
    "A sigmoid of one's own."
    def inner(u, by: float = math.pi):
        return F.softplus(u * by) / STEEP
    return inner(z) + nn.functional.silu(sigmoid(z))

@ACTIVATIONS.add("own_bump")
def bump(z):
    return torch.exp(-z * z)

@dataclass(frozen=True)
class Weighed(Combine):
    share: float = 0.25
    def __call__(self, slots):
        first, *others = slots.values()
        return self.share * first + sum(others)
    @staticmethod
    def exported(kind, slots):
        first, *others = slots.values()
        return kind["share"] * first + sum(others)

class Soft(Stage):
    def __call__(self, z):
        return z / (1 + z.square().mean(tuple(range(1, z.dim() - 1)), keepdim=True)).sqrt()
    @staticmethod
    def exported(kind, z):
        return z / (1 + z.square().mean(tuple(range(2, z.dim())), keepdim=True)).sqrt()

class First(Stage):
    def space(self, space):
        return space[1:]
    def __call__(self, z):
        return z[:, 0]
    @staticmethod
    def exported(kind, z):
        return z[:, :, 0]

def shared(space):
    return (1,) * len(space)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of a user's own, to be written; returns where to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path / "own_parts.py"
    sys.modules.pop("own_parts", None)
    ACTIVATIONS._parts.pop("own_bump", None)
    ACTIVATIONS._homes.pop("own_bump", None)


def agree_alone(network: LiftedNetwork, folder: Path) -> None:
    """The folder's own code computes what the network does, and imports nothing of ours or the user's."""
    text = (export(network, folder) / "model.py").read_text()
    assert not re.search(r"import.*(rsl_cli|own_parts)", text)
    names: dict[str, Any] = {"__name__": "model"}
    exec(text, names)
    x = torch.randn(5, *network.lift.base.input_shape, dtype=torch.float64)
    torch.testing.assert_close(names["LiftedModel"].load(folder)(x), network(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["own_parts.softer", "own_parts.bump", "torch.erf", "torch.nn.functional.mish"])
def test_a_users_parts_are_exported_with_their_code(own, tmp_path, activation):
    own.write_text(OWN)
    vertex = {
        "activation": activation,
        "combine": {"kind": "own_parts.Weighed", "share": 0.5},
        "norm": "own_parts.Soft",
        "pool": "own_parts.First",
        "bias": "own_parts.shared",
    }
    maps = ({"map": "scale", "slot": "a"}, {"map": "identity", "slot": "b"})
    network = network_of(graph_of(vertex, *maps, shape=TOKENS), (3,))
    agree_alone(network, tmp_path / "out")
    # A part by its short name is the same.
    if activation == "own_parts.bump":
        short = network_of(graph_of({"activation": "own_bump"}, {"map": "scale"}, shape=FLAT), (3,))
        assert "ACTIVATIONS['own_parts.bump'] = made()" in (export(short, tmp_path / "short") / "model.py").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "K = 0.5\ndef part(z, K=K): return torch.tanh(K * z)",
        "K = 0.5\ndef part(z):\n    twice = lambda K: 2 * K\n    return torch.tanh(K * twice(z))",
        "from torch import *\ndef part(z): return max(z, 0.1 * z)",
        "import numpy as np\nK = np.sqrt(0.5)\ndef part(z, s=K): return torch.tanh(K * z) + s * z",
        "import enum\nclass Size(enum.IntEnum):\n    two = 2\nK = Size.two\ndef part(z): return torch.tanh(K * z)",
        "class Own: pass\ndef part(z: Own) -> Own:\n    y: Own = torch.tanh(z)\n    return y",
        "def part(z, n=2): return torch.tanh(z) if n == 0 else part(torch.tanh(z), n - 1)",
        "def part(z):\n    try:\n        return (y := z.sin()) * y\n    except ValueError as K:\n        return z",
    ],
)
def test_an_activation_goes_with_its_text_whatever_the_names_in_it(own, tmp_path, text):
    own.write_text(f"import torch\n{text}\n")
    agree_alone(
        network_of(graph_of({"activation": "own_parts.part"}, {"map": "scale"}, shape=FLAT), (3,)), tmp_path / "out"
    )


def test_an_activation_whose_text_says_something_else_trains_and_is_not_exported(own):
    own.write_text("import torch\nK = 1.0\ndef part(z): return torch.tanh(K * z)\n")
    base = graph_of({"activation": "own_parts.part"}, {"map": "scale"}, shape=FLAT)
    own.write_text("import torch\nK = 1.0\ndef part(z): return torch.tanh(2 * K * z)\n")
    linecache.checkcache()
    said = unportable(base)
    assert said is not None and "gives shape" in said and "other numbers than it does" in said
    check_activation(ACTIVATIONS.find("own_parts.part"), "own_parts.part")


@pytest.mark.parametrize(
    ("text", "vertex", "reason"),
    [
        (
            "import torch\ndef helper(z): return z.sin()\ndef part(z): return helper(z)",
            {"activation": "own_parts.part"},
            "activation own_parts.part has no code that runs without its package: part names helper, which is noth",
        ),
        (
            "def maker(n):\n    def part(z): return n * z\n    return part\npart = maker(2)",
            {"activation": "own_parts.part"},
            "part names n, which it does not make",
        ),
        ("part = lambda z: z.sin()", {"activation": "own_parts.part"}, "the text of <lambda> cannot be read; write it"),
        (
            "from rsl_cli import Stage\nclass part(Stage):\n    def __call__(self, z): return 2 * z",
            {"norm": "own_parts.part"},
            "norm own_parts.part has no code that runs without its package: it has no function `exported`",
        ),
    ],
)
def test_why_a_part_cannot_be_exported_is_said_before_it_is_trained(own, tmp_path, text, vertex, reason):
    own.write_text(text)
    base = graph_of(vertex, {"map": "scale"}, shape=FLAT)
    said = unportable(base)
    assert said is not None and said.startswith("export: vertex ") and reason in said
    with pytest.raises(StoreError) as caught:
        export(network_of(base, (3,)), tmp_path / "out")
    assert str(caught.value) == said and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("exported", "message"),
    [
        (
            "@staticmethod\n    def exported(kind, z): return 3 * z",
            "its exported code: gives shape .*, and other numbers",
        ),
        ("@staticmethod\n    def exported(kind, z): return 1 / 0", "its exported code: fails with ZeroDivisionError"),
        ("@staticmethod\n    def exported(kind, z): return Stage", "its exported code: exported names Stage, which"),
        ("def exported(self, kind, z): return 2 * z", "is no plain function; write @staticmethod before it"),
    ],
)
def test_exported_code_that_lies_is_refused(own, exported, message):
    own.write_text(
        f"from rsl_cli import Stage\nclass part(Stage):\n    def __call__(self, z): return 2 * z\n    {exported}"
    )
    with pytest.raises(GraphError, match=message):
        graph_of({"norm": "own_parts.part"}, {"map": "scale"}, shape=FLAT)


def test_a_shipped_part_that_the_exported_code_does_not_know_is_no_danger(tmp_path, monkeypatch):
    """A map goes as its stencil, an activation with its code or not at all."""

    class Halved(Scale):
        name = "halved"

    monkeypatch.setitem(EDGE_MAPS._parts, "halved", Halved)
    monkeypatch.setitem(EDGE_MAPS._homes, "halved", "rsl_cli.maps")
    agree(network_of(graph_of({}, {"map": "halved"}, shape=FLAT), (3,)), tmp_path / "map")
    monkeypatch.setitem(ACTIVATIONS._parts, "product", torch.square)
    monkeypatch.setitem(ACTIVATIONS._homes, "product", "rsl_cli.activations")
    network = network_of(graph_of({"activation": "product"}, {"map": "scale"}, shape=FLAT), (3,))
    agree_alone(network, tmp_path / "out")


@pytest.mark.parametrize(
    ("registry", "table"),
    [(EDGE_MAPS, "MAPS"), (ACTIVATIONS, "ACTIVATIONS"), (COMBINES, "COMBINES"), (NORMS, "NORMS"), (POOLS, "POOLS")],
)
def test_the_exported_code_knows_every_part_that_ships(registry, table):
    assert set(registry) <= set(getattr(model, table))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_exported_activations_are_those_that_ship(name):
    z = torch.linspace(-50, 50, 401, dtype=torch.float64)
    torch.testing.assert_close(model.ACTIVATIONS[name](z), ACTIVATIONS[name](z), rtol=1e-12, atol=1e-12)
