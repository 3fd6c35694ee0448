"""Exported networks against the networks they were, alone in a process without rsl; GraphML against the lift."""

import json
import subprocess
import sys
from pathlib import Path

import modules
import networkx
import pytest
import torch
from safetensors.torch import load_file
from test_architectures import BASES, base_of, graph_of, network_of

from rsl_cli import load_study
from rsl_cli.cli import main
from rsl_cli.errors import StoreError
from rsl_cli.graph import BaseGraph
from rsl_cli.lift import sample_lift
from rsl_cli.module import base_from_module
from rsl_cli.network import LiftedNetwork
from rsl_cli.portable import export
from rsl_cli.portable.model import LiftedModel

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
