"""What `rsl show` says of a study and draws of it."""

import shutil
import subprocess

import problems
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rsl_cli.cli import main
from rsl_cli.errors import ConfigError
from rsl_cli.lift import sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.show import describe, draw
from rsl_cli.show.drawing import to_dot
from rsl_cli.study.costs import flops
from rsl_cli.study.spec import StudySpec

HAS_DOT = shutil.which("dot") is not None
needs_dot = pytest.mark.skipif(not HAS_DOT, reason="no Graphviz: no program dot on the PATH")


def study(base: str, **changes) -> StudySpec:
    config = problems.study(base=problems.group("base", base), dataset=problems.group("dataset", "digits"), **changes)
    return StudySpec.from_config(config)


@pytest.mark.parametrize(
    ("base", "lines"),
    [
        (
            "unet",
            [
                "u0       hidden, space 2 x 2 pooled from 8 x 8, bias per copy, relu, pool avg size 4",
                "d0->d1       conv stride 2, W_e 3 x 3, random, in-degree 4, init normal",
                "u1->u0       conv upsample 2, W_e 3 x 3, random, in-degree 4, init normal",
                "u0->y        linear flatten True, W_e 4, dense, init zeros",
            ],
        ),
        (
            "transformer",
            [
                "n1       hidden, space 8 x 2, norm rms, identity",
                "h1       hidden, space 8 x 2, combine attention, identity",
                "f1       hidden, space 8 x 2, bias per feature, gelu",
                "n1->h1[q]    token_linear out 2, W_e 2 x 2, random, in-degree 4, init normal",
                "s0->n1       identity, no weight, matching",
            ],
        ),
    ],
)
def test_a_base_graph_is_described_with_every_key_that_is_not_at_its_default(base, lines):
    shown = [line.strip() for line in describe(study(base)).splitlines()]
    for line in lines:
        assert line in shown


def test_a_lift_whose_in_degree_reaches_a_fibre_is_called_dense():
    marks = {
        kind: [
            line.endswith("dense, not sparse")
            for line in describe(study("mlp", lift=[2, 3, 8], lifting=lifting)).splitlines()
            if line[:8].strip().isdigit()
        ]
        for kind, lifting in {"random": {"kind": "random", "in_degree": 3}, "dense": {"kind": "dense"}}.items()
    }
    assert marks == {"random": [True, True, False], "dense": [False] * 3}


def test_operations_are_those_torch_counts_in_dense_layers():
    spec = study("cnn", lifting={"kind": "dense"}, lift=[5])
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 5, 1),
        torch.nn.Conv2d(5, 5, 1),
        torch.nn.AvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(20, 10),
    )
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 1, 8, 8))
    base = StudySpec.from_config(
        problems.study(base=problems.group("base", "cnn", kernel=1), dataset=problems.group("dataset", "digits"))
    ).base
    assert flops(base, 5, spec.lifting) == counter.get_total_flops()


def test_operations_of_attention():
    base = study("attention").base
    lift = sample_lift(base, 4, 0, {"kind": "dense"})
    # Tokens, times copies joined, times numbers of the matrix: of e, of q, k, v and r.
    linear = 8 * (4 * 8 * 2 + 4 * 16 * 4)
    heads = 4 * 8 * 8 * (2 + 2)
    assert flops(base, 4, lift.lifting) == 2 * (linear + heads + 10 * 4 * 2)
    assert LiftedNetwork(lift)(torch.zeros(1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
@pytest.mark.parametrize("engine", ["matplotlib", pytest.param("graphviz", marks=needs_dot)])
def test_drawings(form, engine, tmp_path):
    path = tmp_path / f"drawn.{form}"
    draw(study("resnet"), path, engine)
    start = path.read_bytes()[:200]
    assert {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[form] in start


def test_dot_has_every_copy_and_edge(tmp_path):
    spec = study("attention")
    path = tmp_path / "drawn.dot"
    draw(spec, path)
    text, lift = path.read_text(), sample_lift(spec.base, 2, 0, spec.lifting)
    assert text == to_dot(lift)
    assert text.count("shape=circle") == sum(lift.fibres.values())
    pairs = {(edge.source, edge.target) for edge in spec.base.edges}
    assert text.count("->") == len(pairs) + sum(len(sources) for sources, _ in lift.lists)
    if HAS_DOT:
        subprocess.run(["dot", "-Tplain", str(path)], check=True, capture_output=True)


def test_graphviz_asked_for_and_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        draw(study("mlp"), tmp_path / "drawn.png", "graphviz")
    assert str(caught.value) == (
        "--engine graphviz: no program dot on the PATH; install Graphviz or leave --engine out"
    )
    draw(study("mlp"), tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes()[:4] == b"\x89PNG"


def test_a_large_fibre_is_drawn_in_part(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["show", "lift=100", "dataset.samples=64", "dataset.test_samples=16", "--save", "drawn.dot"]) == 0
    assert "h1: 100, 48 drawn" in (tmp_path / "drawn.dot").read_text()
    assert "FLOP/sample" in capsys.readouterr().out
