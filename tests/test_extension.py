"""Parts of a user's own, from a folder outside the package, one file each: trained, measured, exported, resumed."""

import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import problems
import pytest
import torch

from rsl_cli import load_study
from rsl_cli.cli import compose, main
from rsl_cli.errors import StoreError
from rsl_cli.network import LiftedNetwork
from rsl_cli.registry import load_plugins
from rsl_cli.report.read import read_runs
from rsl_cli.study.answers import refuse_changed
from rsl_cli.study.files import write_json
from rsl_cli.study.growth import register
from rsl_cli.study.naming import _word
from rsl_cli.study.plan import make_plan
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.trained import run_network

FILES = {
    "my_diagonal.py": """
import numpy as np
from rsl_cli import EdgeMap, Stencil

class Diagonal(EdgeMap):
    "A number for each number of the space: z = w * y."
    def output_space(self, space):
        return space
    def stencil(self, space):
        own = np.arange(int(np.prod(space)))
        return Stencil(len(own), len(own), len(own), own, own, own)
    def weight_shape(self, space):
        return space
    def reference(self, weight, y):
        return weight * y
""",
    "my_loss.py": """
def pseudo_huber(out, y, delta=1.0):
    return (delta**2 * ((1 + ((out - y) / delta) ** 2).sqrt() - 1)).sum(-1)
""",
    "my_data.py": """
import numpy as np
from my_helpers import target

def waves(n, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.uniform(-1, 1, (n, 2))
    return x[16:], target(x[16:]), x[:16], target(x[:16])
""",
    "my_helpers.py": """
import numpy as np

def target(x):
    return np.sin(3 * x[:, 0]) * x[:, 1]
""",
    "my_optimizer.py": """
from dataclasses import dataclass
import torch
from rsl_cli import Optimizer

@dataclass(frozen=True)
class Decayed(Optimizer):
    "A running mean of gradients over that of their sizes, with decay of the weights."
    decay: float = 0.01
    adaptive = True
    @property
    def states(self):
        return ("mean", "size")
    def direction(self, gradient, theta, states, numbers):
        mean, size = states
        mean.lerp_(gradient, 0.1)
        size.lerp_(gradient.abs(), 0.1)
        return mean / (size + 1e-8) + self.decay * theta
""",
    "my_probe.py": """
def largest(run, power=1.0):
    sizes = {name: float(p.detach().abs().max()) ** power for name, p in run.network.named_parameters()}
    return {"largest": max(sizes.values()), "loss": run.result.trajectory.last["loss"]}
""",
    "my_figure.py": """
from matplotlib.figure import Figure
from rsl_cli import load_study

def spread(store):
    figure = Figure()
    runs = load_study(store.root).runs
    figure.subplots().plot(runs["lift"], runs["train_loss"], "o")
    return figure
""",
    "my_lifting.py": """
import numpy as np
from rsl_cli import Lifting

class Band(Lifting):
    "Each copy reads its neighbours in a ring."
    def __init__(self, width=2):
        self.width = width
    @property
    def bounded(self):
        return float(self.width)
    def sample(self, draw, n_u, n_v):
        width = min(self.width, n_u)
        sources = (np.arange(n_v)[:, None] + np.arange(width)) % n_u
        return np.sort(sources, axis=1).ravel(), np.repeat(np.arange(n_v), width)
    def mean_in_degree(self, n_u, n_v):
        return float(min(self.width, n_u))
    def every(self, n_u, n_v):
        return min(self.width, n_u)
""",
    "my_law.py": """
import numpy as np
from rsl_cli import Law

class Signs(Law):
    "Plus or minus one."
    support = 1.0
    def sample(self, draw, shape):
        return draw.choice([-1.0, 1.0], shape)
""",
    "conf/base/diagonal.yaml": """
name: diagonal
vertices:
  x: {kind: input}
  h1: {activation: tanh, bias: true}
  h2: {activation: torch.tanh, bias: true}
  y: {kind: output}
edges:
  - {source: x, target: h1, map: linear, out: 3}
  - {source: h1, target: h2, map: my_diagonal.Diagonal}
  - {source: h2, target: y, map: linear, lifting: {kind: dense}, init: {kind: zeros}}
""",
}
LINE = [
    "run", "--config-dir", "conf", "base=diagonal", "dataset=target", "dataset.target=my_data.waves",
    "dataset.arguments={n: 80}", "loss={target: my_loss.pseudo_huber, arguments: {delta: 0.5}}",
    "theory=none", "theory.probes=[{target: my_probe.largest, arguments: {power: 2.0}}]", "trainer=target",
    "trainer.target=my_optimizer.Decayed", "trainer.arguments={decay: 0.001}",
    "figures=[my_figure.spread]",
    "trainer.steps=40", "trainer.batch_size=32", "lift=2,4", "seeds=2", "executor=process", "executor.workers=2",
    "study=mine",
]  # fmt: skip

ALONE = [*(word for word in LINE if not word.startswith("executor")), "executor=local"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's folder, with nothing of it imported before or after."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("my_", "plug_"))]:
        del sys.modules[name]


def with_words(line: list[str], *words: str) -> list[str]:
    """A line with words in the place of those for the same keys."""
    keys = {word.partition("=")[0] for word in words}
    return [*(word for word in line if word.partition("=")[0] not in keys), *words]


def edit(path: Path, old: str, new: str) -> None:
    """Change a file and forget that it was imported, as a new process would."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def one_line(capsys, line: list[str]) -> str:
    capsys.readouterr()
    assert main(line) == 2
    # What is said of a slow start is no part of the refusal.
    shown = [line for line in capsys.readouterr().err.strip().splitlines() if not re.match(r"\[\d+ s\] ", line)]
    assert len(shown) == 1
    return shown[0]


@pytest.mark.slow
def test_a_users_parts_are_trained_reported_exported_and_resumed(folder, capsys):
    assert main(LINE) == 0
    study = load_study("results/mine")
    runs = study.runs
    assert len(runs) == 4 and set(runs["status"]) == {"done"} and set(runs["loss"]) == {"my_loss.pseudo_huber"}
    identity = study.store.read_study()["identity"]
    assert identity["dataset"]["target"] == "my_data.waves" and identity["dataset"]["arguments"] == {"n": 80}
    assert identity["base"]["edges"][1]["map"]["target"] == "my_diagonal.Diagonal"
    assert identity["trainer"]["target"] == "my_optimizer.Decayed"
    assert identity["trainer"]["arguments"] == {"decay": 0.001}
    assert identity["loss"]["arguments"] == {"delta": 0.5}
    assert read_runs(study.store).loss_unit == "my_loss.pseudo_huber"
    for key in study.store.planned():
        table = study.store.table(key, "largest")
        assert table is not None
        record = study.store.record(key)
        assert record is not None and table["loss"][0] == record.train_loss
        state = study.store.state(key)
        assert table["largest"][0] == pytest.approx(max(np.abs(v).max() for v in state.values()) ** 2)
    assert Path("results/mine/report/spread.png").is_file()
    assert "spread" in Path("results/mine/report/index.html").read_text()

    # A run that is lost is made again, bit for bit, the others are left.
    key = study.store.planned()[0]
    before, other = study.store.state(key), study.store.run_dir(study.store.planned()[1]) / "record.json"
    (study.store.run_dir(key) / "record.json").unlink()
    stamp = other.stat().st_mtime_ns
    assert main(LINE) == 0
    assert other.stat().st_mtime_ns == stamp
    again = study.store.state(key)
    assert all(np.array_equal(before[name], again[name]) for name in before)


def test_users_parts_are_told_apart_by_their_own_names(folder, capsys):
    line = [
        *("run", "dataset=target", "dataset.target=my_data.waves", "dataset.arguments={n: 80}", "trainer=target"),
        *("trainer.target=my_optimizer.Decayed", "trainer.steps=2", "theory=none", "lift=2", "seeds=1"),
        "executor=local",
    ]
    other = with_words(line, "trainer=torch", "trainer.target=torch.optim.SGD", "trainer.divides=false")
    for words, name, trainer in ((line, "Decayed", "my_optimizer.Decayed"), (other, "SGD", "torch.optim.SGD")):
        assert main(words) == 0
        assert f"trainer {trainer}" in capsys.readouterr().out
        table = pd.read_csv(folder / f"results/mlp_waves_{name}/report/runs.csv")
        assert (table["dataset"][0], table["trainer"][0]) == ("my_data.waves", trainer)
    assert _word("trainer.source", "8d4d68b03e45a7c9") == "source8d4d68b0"
    # When such parts were called target.
    (folder / "results/mlp_waves_Decayed").rename(folder / "results/mlp_target_target")
    assert main(line) == 0
    assert "study mlp_target_target" in (shown := capsys.readouterr().out) and "nothing to do" in shown


OTHERS = [
    "run", "lifting=target", "lifting.target=my_lifting.Band", "lifting.arguments={width: 3}", "dataset.samples=64",
    "base.edges=[{source: x, target: h1, map: linear, init: {kind: my_law.Signs, gain: 2.0}}, "
    "{source: h1, target: h2, map: scale}, {source: h2, target: y, map: scale, init: {kind: zeros}}]",
    "trainer=gd", "trainer.steps=3", "theory=none", "lift=4,8", "seeds=1", "executor=local", "study=other",
]  # fmt: skip


@pytest.mark.slow
def test_a_users_lifting_and_law_are_drawn_named_and_found_again(folder, capsys):
    assert main(OTHERS) == 0
    store = load_study("results/other").store
    identity = store.read_study()["identity"]
    assert identity["lifting"] == {
        "kind": "target",
        "target": "my_lifting.Band",
        "source": identity["lifting"]["source"],
        "arguments": {"width": 3},
    }
    assert identity["base"]["edges"][0]["init"]["target"] == "my_law.Signs"
    network = run_network(store, store.planned()[1])
    assert network.lift.replicas[0].edges("h1", "h2")[0][:6].tolist() == [0, 1, 2, 1, 2, 3]
    network.lift.check()
    drawn = LiftedNetwork(network.lift, None, parametrization="mup").weight("x", "h1")
    assert np.allclose(drawn.detach().abs(), 2**0.5)
    assert main(["export", "other", "lift=8", "--to", "out"]) == 0
    assert json.loads(Path("out/graph.json").read_text())["lifting"]["target"] == "my_lifting.Band"
    # By its name alone, as an edge may have it, it is the same part.
    edges = "base.edges=[{source: x, target: h1, map: linear}, {source: h1, target: h2, map: scale, lifting: {kind: "
    rest = "my_lifting.Band, width: 3}}, {source: h2, target: y, map: scale}]"
    assert main([*(word for word in OTHERS if "=target" not in word and "lifting." not in word), edges + rest]) == 2
    capsys.readouterr()
    edit(folder / "my_lifting.py", "its neighbours", "its nearest")
    assert "computes something else: lifting.source" in one_line(capsys, OTHERS)


PARTS = """
import torch
from rsl_cli import Combine, Stage

class Average(Combine):
    def __call__(self, slots):
        return sum(slots.values()) / len(slots)

class Soft(Stage):
    def __call__(self, z):
        return z / (1 + z.square().mean(tuple(range(1, z.dim() - 1)), keepdim=True)).sqrt()

class First(Stage):
    def space(self, space):
        return ()
    def __call__(self, y):
        return y[:, 0]

def bump(z):
    return torch.exp(-z * z)

def whole(space):
    return space
"""


def test_a_users_parts_of_a_vertex_are_in_the_identity(folder):
    Path("my_parts.py").write_text(PARTS)
    own = {"combine": "Average", "norm": "Soft", "pool": "First", "activation": "bump", "bias": "whole"}
    base = {
        "vertices": {
            "x": {"kind": "input"},
            "h": {key: f"my_parts.{name}" for key, name in own.items()},
            "y": {"kind": "output"},
        },
        "edges": [
            {"source": "x", "target": "h", "map": "linear", "out": 3},
            {"source": "h", "target": "y", "map": "linear"},
        ],
    }
    made = StudySpec.from_config(problems.study(base=base, lift=2, seeds=1, results_dir=str(folder))).identity
    (vertex,) = [one for one in made["base"]["vertices"] if one["name"] == "h"]
    assert {key: vertex[key]["target"] for key in own} == {key: f"my_parts.{name}" for key, name in own.items()}


LIFTING = "import numpy as np\nfrom rsl_cli import Lifting\nclass Own(Lifting):\n"
DRAWN = "    def sample(self, draw, n_u, n_v): return "
MATCHED = DRAWN + "(np.arange(n_v), np.arange(n_v))"
MEAN = "\n    def mean_in_degree(self, n_u, n_v): return 1.0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Own = 3", "3 is not a callable object"),
        ("class Own: pass", "makes a Own; accepted: a subclass of rsl_cli.Lifting"),
        (LIFTING + DRAWN + "np.arange(n_v)" + MEAN, "sample gives a ndarray; accepted: (sources, targets)"),
        (LIFTING + DRAWN + "(np.arange(n_v), np.arange(n_v) * 1.0)" + MEAN, "sample gives int64 (4,), float64 (4,)"),
        (LIFTING + DRAWN + "(np.arange(n_v) + 1, np.arange(n_v))" + MEAN, "a source is 1..4; accepted: 0..3"),
        (LIFTING + DRAWN + "(np.arange(n_v), np.arange(n_v)[::-1].copy())" + MEAN, "not sorted by target"),
        (LIFTING + DRAWN + "(np.arange(2), np.arange(2))" + MEAN, "mean in-degree is about 0.5; mean_in_degree says 1"),
        (
            LIFTING + DRAWN + "(np.random.permutation(n_u), np.arange(n_v))" + MEAN,
            "gives other pairs from the same generator",
        ),
        (
            LIFTING + DRAWN + "(np.arange(n_v), np.arange(n_v))" + MEAN + "    def every(self, n_u, n_v): return 2\n",
            "says that every in-degree is 2, draws 1 to 1",
        ),
        (LIFTING + DRAWN + "(1 / 0, 1)" + MEAN, "fails with ZeroDivisionError"),
        (LIFTING + DRAWN + "exit(3)" + MEAN, "fails with SystemExit: 3"),
        (LIFTING + MATCHED + "\n    def mean_in_degree(self): return 1.0", "fails with TypeError"),
        (
            LIFTING + MATCHED + "\n    def mean_in_degree(self, n_u, n_v): pass",
            "mean_in_degree is None; accepted",
        ),
        (LIFTING + MATCHED + MEAN.replace("1.0", "float('nan')"), "mean_in_degree is nan; accepted: a finite number"),
        (LIFTING + MATCHED + MEAN + "    def check_fibres(self, n_u, n_v): 1 / 0\n", "fails with ZeroDivisionError"),
    ],
)
def test_a_lifting_that_lies_is_one_line(folder, capsys, text, message):
    Path("plug_bad.py").write_text(text)
    assert message in one_line(capsys, ["run", "lifting=target", "lifting.target=plug_bad.Own", "lift=4", "seeds=1"])
    assert not Path("results").exists()


LAW = "import numpy as np\nfrom rsl_cli import Law\nclass Own(Law):\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            LAW + "    def sample(self, draw, shape): return draw.uniform(0, 1, shape)",
            "its mean is about 0.49",
        ),
        (LAW + "    def sample(self, draw, shape): return 2 * draw.standard_normal(shape)", "its variance is about"),
        (LAW + "    def sample(self, draw, shape): return draw.standard_normal(3)", "sample gives float64 (3,)"),
        (
            LAW + "    def sample(self, draw, shape): return np.random.standard_normal(shape)",
            "gives other numbers",
        ),
        (
            LAW + "    support = 1.0\n    def sample(self, draw, shape): return draw.standard_normal(shape)",
            "draws numbers beyond its support, 1",
        ),
        (
            LAW + "    def cdf(self, z): return np.clip(z, 0, 1)\n"
            "    def sample(self, draw, shape): return draw.standard_normal(shape)",
            "its cdf is not that of what it draws",
        ),
        (
            LAW + "    def cdf(self, z): return 'z'\n"
            "    def sample(self, draw, shape): return draw.standard_normal(shape)",
            "its cdf gives () from (4000,); accepted: a number each, or None",
        ),
    ],
)
def test_a_law_that_lies_is_one_line(folder, capsys, text, message):
    Path("plug_bad.py").write_text(text)
    word = "base.vertices.h1.bias_init={kind: plug_bad.Own}"
    shown = one_line(capsys, ["run", f"+{word}", "lift=2", "seeds=1"])
    assert message in shown and shown.startswith("rsl: vertex h1: law Own")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def own(space): return (2, 2)", "gives (2, 2); accepted: a tuple of 1 or the space's own size"),
        ("def own(space): return list(space)", "gives []; accepted: a tuple"),
        ("def own(space, n): return space", "fails with TypeError"),
    ],
)
def test_a_bias_that_lies_is_one_line(folder, capsys, text, message):
    Path("plug_bad.py").write_text(text)
    assert message in one_line(capsys, ["run", "base.vertices.h1.bias=plug_bad.own", "lift=2", "seeds=1"])


def test_a_users_edge_map_and_activation_are_exported(folder, capsys):
    assert main([*ALONE]) == 0
    study = load_study("results/mine")
    assert main(["export", "mine", "lift=4", "seed=1", "--to", "out"]) == 0
    script = (
        "import sys, json, torch\nfrom model import LiftedModel\nmodel = LiftedModel.load('.')\n"
        "x = torch.linspace(-1, 1, 10).reshape(5, 2)\nprint(json.dumps(model(x).tolist()))\n"
        "assert not [name for name in sys.modules if name.startswith(('rsl_cli', 'my_'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd="out", capture_output=True, text=True, check=True)
    key = next(key for key in study.store.planned() if (key.lift, key.seed) == (4, 1))
    expected = run_network(study.store, key)(torch.linspace(-1, 1, 10).reshape(5, 2))
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, rtol=1e-5, atol=1e-6)

    # With another map the same weights are another network.
    edit(folder / "my_diagonal.py", "own, own, own)", "own, own[::-1].copy(), own)")
    edit(folder / "my_diagonal.py", "weight * y", "weight * y[::-1]")
    shown = one_line(capsys, ["export", "mine", "lift=4", "seed=1", "--to", "again"])
    assert "was trained with another my_diagonal.Diagonal (base.edges.1.map.source: " in shown
    assert "restore it as it was, or train with it as it is under another study=NAME" in shown
    assert not Path("again").exists()
    with pytest.raises(StoreError, match=r"was trained with another my_diagonal\.Diagonal"):
        study.network(lift=4, seed=1)


@pytest.mark.parametrize(
    ("file", "old", "new", "key"),
    [
        ("my_data.py", "seed=0", "seed=1", "dataset.source"),
        ("my_helpers.py", "3 * x", "4 * x", "dataset.source"),
        ("my_loss.py", "- 1)).sum", "- 1)).mean", "loss.source"),
        ("my_diagonal.py", "return space", "return tuple(space)", "base.edges.1.map.source"),
        ("my_optimizer.py", "0.1", "0.2", "trainer.source"),
        ("my_probe.py", "max(sizes", "min(sizes", "theory.probes.0.source"),
    ],
)
def test_an_edited_part_claims_no_old_results(folder, capsys, file, old, new, key):
    line = with_words(ALONE, "lift=2", "seeds=1", "trainer.steps=2")
    assert main(line) == 0
    edit(folder / file, old, new)
    shown = one_line(capsys, line)
    assert "study 'mine'" in shown and "computes something else" in shown and key in shown


@pytest.mark.slow
def test_short_names_come_from_plugins_in_every_worker(folder, capsys):
    edit(folder / "my_diagonal.py", "from rsl_cli import", "from rsl_cli import EDGE_MAPS,")
    edit(folder / "my_diagonal.py", "class Diagonal", '@EDGE_MAPS.add("diagonal")\nclass Diagonal')
    edit(folder / "conf/base/diagonal.yaml", "my_diagonal.Diagonal", "diagonal")
    try:
        assert "map 'diagonal' is not known; accepted: linear" in one_line(capsys, LINE)
        assert main([*LINE, "plugins=[my_diagonal]"]) == 0
        store = load_study("results/mine").store
        assert store.read_study()["identity"]["base"]["edges"][1]["map"]["target"] == "my_diagonal.Diagonal"
        assert [record.status for record in store.records()] == ["done"] * 4
    finally:
        from rsl_cli.maps import EDGE_MAPS

        EDGE_MAPS._parts.pop("diagonal", None)


def test_entry_points_are_found_once_they_are_installed(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    load_plugins(None)
    (folder / "plug_entry.py").write_text("")
    installed = folder / "plug_entry-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-entry\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[rsl_cli.plugins]\nmine = plug_entry\n")
    load_plugins(None)
    assert "plug_entry" in sys.modules


@pytest.mark.slow
def test_a_part_that_changes_between_processes_is_refused(folder, capsys):
    again = "with open('my_helpers.py', 'a') as file:\n    file.write('# imported\\n')\n"
    edit(folder / "my_data.py", "import numpy as np\n", again + "import numpy as np\n")
    shown = one_line(capsys, LINE)
    assert "computes something else: dataset.source" in shown
    assert not list(Path("results/mine/runs").rglob("record.json"))


OWN_DATA = (
    "import numpy as np\nfrom rsl_cli import Dataset\nx, y = np.eye(12), np.arange(12.0)[:, None]\n"
    "def made(kind, **more): return kind('own', 'regression', x, y, x, y, 1, **more)\n"
)
FICKLE = """
from dataclasses import dataclass
from pathlib import Path
import numpy as np
import torch
from rsl_cli import Combine, EdgeMap, Law, Lifting, Optimizer, Stage, Stencil

def much(kind):
    return 1.5 if Path("fickle.txt").read_text() == kind else 1.0

class Map(EdgeMap):
    def output_space(self, space): return space
    def stencil(self, space):
        own = np.arange(int(np.prod(space)))
        return Stencil(len(own), len(own), len(own), own, own[:: -1 if much("map") > 1 else 1].copy(), own)

class Ring(Lifting):
    def sample(self, draw, n_u, n_v): return (np.arange(n_v) + (much("lifting") > 1)) % n_u, np.arange(n_v)
    def mean_in_degree(self, n_u, n_v): return 1.0

class Ends(Law):
    def sample(self, draw, shape): return (5 - 4 * much("law")) * draw.choice([-1.0, 1.0], shape)

class Average(Combine):
    def __call__(self, slots): return much("combine") * sum(slots.values())

class Norm(Stage):
    def __call__(self, z): return much("norm") * z

class Pool(Stage):
    def space(self, space): return ()
    def __call__(self, z): return much("pool") * z[:, 0]

class Steps(Optimizer):
    def direction(self, gradient, theta, states, numbers): return much("optimiser") * gradient

class Sgd(torch.optim.SGD):
    def __init__(self, groups): super().__init__(groups, momentum=much("optimiser") - 1)

def bump(z): return much("activation") * torch.exp(-z * z)
def bias(space): return space if much("bias") > 1 else (1,) * len(space)
def loss(out, y): return much("loss") * (out - y).square().sum(1)
"""
FICKLE_BASE = {
    "vertices": {
        "x": {"kind": "input"},
        "h": {"combine": "my_fickle.Average", "norm": "my_fickle.Norm", "activation": "my_fickle.bump"},
        "g": {"pool": "my_fickle.Pool", "bias": "my_fickle.bias"},
        "y": {"kind": "output"},
    },
    "edges": [
        {"source": "x", "target": "h", "map": "linear", "out": 3, "init": {"kind": "my_fickle.Ends"}},
        {"source": "h", "target": "g", "map": "my_fickle.Map", "lifting": {"kind": "my_fickle.Ring"}},
        {"source": "g", "target": "y", "map": "linear"},
    ],
}


def fickle(**changes) -> StudySpec:
    trainer = {"name": "target", "target": "my_fickle.Steps", "steps": 2}
    parts = {"base": FICKLE_BASE, "loss": "my_fickle.loss", "trainer": trainer, "study": "fickle"}
    return StudySpec.from_config(problems.study(**parts, lift=[4], seeds=1, results_dir="results") | changes)


def test_a_part_that_answers_otherwise_in_another_process_is_refused_by_name(folder):
    Path("my_fickle.py").write_text(FICKLE)
    said = Path("fickle.txt")
    said.write_text("")
    first = fickle()
    register(first)
    where = {"map": "of edge h->g", "lifting": "of edge h->g", "law": "of edge x->h"}
    where |= {"combine": "of vertex h", "norm": "of vertex h", "activation": "of vertex h"}
    where |= {"pool": "of vertex g", "bias": "of vertex g"}
    kinds = [*where, "loss", "optimiser"]
    assert len(first.answers) == len(kinds)
    # The plan says as well that such parts cannot be exported.
    assert [note.partition(":")[0] for note in first.notes] == ["export"]
    for kind in kinds:
        said.write_text(kind)
        message = rf"'fickle' at .*: {kind} my_fickle\.\w+ ?{where.get(kind, '')} answers otherwise"
        with pytest.raises(StoreError, match=message):
            make_plan(fickle())
    # As it was it goes on; rounding otherwise is no other answer.
    said.write_text("")
    make_plan(fickle())
    for share, same in ((1e-7, True), (1e-3, False)):
        answers = {what: [share * max(map(abs, ones)) + one for one in ones] for what, ones in first.answers.items()}
        with nullcontext() if same else pytest.raises(StoreError, match="answers otherwise"):
            refuse_changed(first.store, answers)


def test_torchs_optimisers_answer_and_studies_of_earlier_versions_are_asked_nothing(folder):
    Path("my_fickle.py").write_text(FICKLE)
    said = Path("fickle.txt")
    said.write_text("")
    trainer = {"name": "torch", "target": "my_fickle.Sgd", "steps": 2}
    config = {"base": problems.group("base", "mlp"), "loss": None, "trainer": trainer}
    first = fickle(**config)
    assert [*first.answers] == ["optimiser my_fickle.Sgd"]
    register(first)
    said.write_text("optimiser")
    with pytest.raises(StoreError, match=r"optimiser my_fickle\.Sgd answers otherwise than when the study was begun"):
        make_plan(fickle(**config))
    content = {key: value for key, value in first.store.read_study().items() if key != "answers"}
    write_json(first.store.study_file, content)
    assert len(make_plan(fickle(**config)).to_do) == 1


def test_what_was_trained_by_a_part_that_changed_on_the_way_is_not_kept(folder, capsys):
    Path("plug_tired.py").write_text(
        "import itertools\ncalls = itertools.count()\n"
        "def loss(out, y): return (1 + (next(calls) > 60)) * (out - y).square().sum(1)\n"
    )
    shown = one_line(capsys, with_words(SMALL, "loss=plug_tired.loss", "trainer.steps=100", "executor=local"))
    assert "loss plug_tired.loss answers otherwise than when the study was begun" in shown
    assert not list(Path("results/small/runs").rglob("record.json"))


@pytest.mark.slow
def test_a_part_that_goes_by_its_process_is_refused_in_the_workers(folder, capsys):
    """Text has another hash in each."""
    Path("plug_hash.py").write_text("def loss(out, y): return (1 + hash('loss') % 1000) * (out - y).square().sum(1)\n")
    words = ["lift=2,4", "seeds=2", "loss=plug_hash.loss", "executor=process", "executor.workers=2"]
    shown = one_line(capsys, with_words(SMALL, *words))
    assert "loss plug_hash.loss answers otherwise than when the study was begun" in shown
    assert not list(Path("results/small/runs").rglob("record.json"))


DATA = "import numpy as np\nx, y = np.zeros((20, 2)) + np.arange(20)[:, None], np.arange(20.0)\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "dataset.target=plug_bad.load: cannot import plug_bad: ModuleNotFoundError"),
        ("raise RuntimeError('no\\nluck')", "cannot import plug_bad: RuntimeError: no; it is looked for"),
        ("import sys; sys.exit(3)", "cannot import plug_bad: SystemExit: 3"),
        ("lode = 1", "plug_bad has no load; did you mean 'lode'?"),
        ("load = 3", "dataset.target=plug_bad.load: is no function"),
        ("def load(n): pass", "dataset plug_bad.load: fails with TypeError: load() missing 1 required"),
        ("def load(): raise ValueError('empty')", "dataset plug_bad.load: fails with ValueError: empty"),
        ("def load(): return 1, 2", "gives 2 parts (int64 (), int64 ()); accepted: x_train, y_train"),
        (DATA + "def load(): return x, y[:9], x, y", "20 training inputs and 9 targets"),
        (DATA + "def load(): return x, y, x[:, :1], y", "held-out inputs are float64 (20, 1); expected float64 (N, 2)"),
        (DATA + "def load(): return x * np.nan, y, x, y", "dataset plug_bad.load: inputs, row 1"),
        (DATA + "def load(): return x + 1j, y, x, y", "inputs: values of type complex128; accepted: integers, floats"),
        (DATA + "def load(): return x, y + 1j, x, y", "targets: values of type complex128"),
        (DATA + "def load(): return x, y.astype('M8[s]'), x, y", "targets: values of type"),
        (
            DATA + "import pandas as pd\ndef load(): return pd.DataFrame(x, columns=['a', 'b']), y, "
            "pd.DataFrame(x, columns=['b', 'a']), y",
            "training columns ['a', 'b'] and held-out ones ['b', 'a'] do not match",
        ),
        (DATA + "def load(): return x, np.random.rand(20), x, y", "gives other numbers when called again; draw from"),
        (DATA + "def load(): return x, y * 0, x, y * 0", "has the same value in every row"),
        ("def load(): exit(7)", "dataset plug_bad.load: fails with SystemExit: 7"),
        (
            OWN_DATA + "from rsl_cli.data.dataset import Reading\n"
            "def load(): return made(Dataset, reading=Reading(classes=(lambda: 3,)))",
            "no worker process can be sent it, ",
        ),
        (
            OWN_DATA + "def load(): return made(Dataset, notes=(3,))",
            "dataset plug_bad.load: notes=(3,); accepted: tuple[str, ...]",
        ),
        (
            OWN_DATA + "def load():\n    class Own(Dataset): pass\n    return made(Own)",
            "no worker process can be sent it",
        ),
    ],
)
def test_a_dataset_that_lies_is_one_line(folder, capsys, text, message):
    if text is not None:
        Path("plug_bad.py").write_text(text)
    shown = one_line(capsys, ["run", "dataset=target", "dataset.target=plug_bad.load", "lift=2", "seeds=1"])
    assert message in shown
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def loss(out, y): return (out - y).square().mean()", "gives shape () from 7 samples; wanted one number each"),
        ("def loss(out, y): return 3", "gives a int from 7 samples"),
        ("def loss(out): return out", "fails with TypeError: loss() takes 1 positional argument"),
        ("def loss(out, y): return (out - y).abs().log1p().sum(-1) * float('nan')", "numbers that are not finite"),
        ("import torch\ndef loss(out, y): return torch.rand(len(out))", "gives other numbers when asked again"),
        ("def loss(out, y): return (out - y.mean()).square().sum(-1)", "gives a sample another loss beside others"),
        ("def loss(out, y): return (out.detach() - y).square().sum(-1)", "has no derivative"),
        (
            "def loss(out, y): return ((2 * out - out.detach()) - y).square().sum(-1)",
            "its derivative is not what finite differences give",
        ),
        ("class loss: pass", "is no rsl_cli.Loss"),
        (
            "from rsl_cli import Loss\nclass loss(Loss):\n"
            "    def values(self, out, y): return (out - y).square().sum(-1)\n"
            "    def root(self, out, y): return Loss.root(self, out, y) * 2\n",
            "its root is no square root of its second derivative",
        ),
    ],
)
def test_a_loss_that_lies_is_one_line(folder, capsys, text, message):
    Path("plug_bad.py").write_text(text)
    shown = one_line(capsys, ["run", "loss=plug_bad.loss", "lift=2", "seeds=1"])
    assert message in shown and "loss" in shown
    assert not Path("results").exists()


@pytest.mark.parametrize("trainer", ["auto", "lm"])
def test_a_loss_of_straight_pieces_is_refused_by_what_steps_by_curvature(folder, capsys, trainer):
    """There the gradient jumps at the minimum, and no step of the flow is short enough."""
    Path("plug_straight.py").write_text(
        "def pinball(out, y): return (0.9 * (y - out)).maximum(0.1 * (out - y)).sum(-1)\n"
        "def bent(out, y): return pinball(out, y) + 0.1 * (out - y).square().sum(-1)\n"
    )
    shown = one_line(capsys, ["run", "loss=plug_straight.pinball", f"trainer={trainer}", "lift=2", "seeds=1"])
    name = "flow" if trainer == "auto" else trainer
    assert f"its gradient jumps; trainer={name} steps by curvature: use a smooth loss" in shown
    assert "or trainer=adam" in shown and not Path("results").exists()
    for words in (["loss=plug_straight.bent", f"trainer={trainer}"], ["loss=plug_straight.pinball", "trainer=adam"]):
        StudySpec.from_config(compose([*words, "lift=2", "seeds=1", "dataset.samples=32"]))


MAP = """
import numpy as np
from rsl_cli import EdgeMap, Stencil
class Map(EdgeMap):
    def output_space(self, space): return space
    def stencil(self, space):
        n = int(np.prod(space)); own = np.arange(n)
        return Stencil(n, n, n, own, own, own)
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Map = 3", "map 'plug_bad.Map': 3 is not a callable object"),
        ("def Map(): return 3", "makes a int; accepted: a subclass of rsl_cli.EdgeMap"),
        ("def Map(): return 1 / 0", "fails with ZeroDivisionError"),
        ("def Map(space): return space", "space is missing; add it, e.g. space: 8, or name a rsl_cli.EdgeMap"),
        (MAP.replace("return Stencil(", "return print("), "stencil is a NoneType; accepted: a rsl_cli.Stencil"),
        (MAP + "    def weight_shape(self, space): return (7,)", "taps 1, its spaces and weight (7,) want 7"),
        (MAP.replace("return space", "return (2,)"), "rows x width 1"),
        (MAP.replace("own, own, own)", "own + 1, own, own)"), "row holds 1..1; accepted: 0..0"),
        (MAP.replace("own, own, own)", "own + 0.0, own, own)"), "row is float64"),
        (MAP + "    def reference(self, weight, y): return 2 * weight * y", "does not compute what its reference"),
        (MAP + "    def fan_in(self, space): return 0", "fan_in is 0"),
    ],
)
def test_an_edge_map_that_lies_is_one_line(folder, capsys, text, message):
    Path("plug_bad.py").write_text(text)
    edges = [
        "{source: x, target: h1, map: linear}",
        "{source: h1, target: h2, map: plug_bad.Map}",
        "{source: h2, target: y, map: linear}",
    ]
    shown = one_line(capsys, ["run", f"base.edges=[{', '.join(edges)}]", "lift=2", "seeds=1"])
    assert message in shown and shown.startswith("rsl: edge h1->h2: map ")
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def act(z): return z.sum()", "gives shape () from"),
        ("def act(z): return z.float()", "gives torch.float32 from torch.float64; it must keep the type"),
        ("def act(z): return z - z.mean()", "beside others; copies and samples must be by themselves"),
        ("def act(z): return z / z.norm(dim=1, keepdim=True)", "gives a number another value beside other numbers"),
        ("def act(z): return z.detach()", "has no derivative"),
        ("def act(z): return 2 * z - z.detach()", "its derivative is not what finite differences give"),
        ("import torch\ndef act(z): return torch.nn.functional.dropout(z)", "gives other numbers when asked again"),
        ("def act(z): return z.log()", "gives numbers that are not finite"),
    ],
)
def test_an_activation_that_lies_is_one_line(folder, capsys, text, message):
    Path("plug_bad.py").write_text(text)
    shown = one_line(capsys, ["run", "base.vertices.h1.activation=plug_bad.act", "lift=2", "seeds=1"])
    assert message in shown and shown.startswith("rsl: vertex h1: activation plug_bad.act")


OPTIMIZER = """
import torch
from rsl_cli import Optimizer
class Own(Optimizer):
    states = ("kept",)
    def direction(self, gradient, theta, states, numbers):
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Own: pass", "trainer plug_bad.Own: is no rsl_cli.Optimizer"),
        ("def Own(): return 1 / 0", "plug_bad.Own: ZeroDivisionError"),
        (OPTIMIZER + "        return -gradient", "does not descend on half the sum of squares"),
        (OPTIMIZER + "        return gradient / gradient.norm()", "moves a number otherwise beside others"),
        (OPTIMIZER + "        return gradient.sum()", "its direction is not one finite number for each parameter"),
        (OPTIMIZER + "        return gradient / 0", "its direction is not one finite number for each parameter"),
        (OPTIMIZER + "        return gradient * torch.rand(())", "goes on otherwise when resumed"),
        (
            OPTIMIZER + "        self.taken = getattr(self, 'taken', 0) + 1\n        return gradient / self.taken",
            "goes on otherwise when resumed; keep all its state in `states`",
        ),
        (OPTIMIZER + "        return gradients", "fails with NameError"),
        (OPTIMIZER + "        exit(3)", "fails with SystemExit: 3"),
        ("def Own(x, y): return x", "trainer plug_bad.Own: is no rsl_cli.Optimizer; name a class of such, or use trai"),
        ("class Own:\n    def __init__(self, x): pass", "is no rsl_cli.Optimizer"),
    ],
)
def test_an_optimiser_that_lies_is_one_line(folder, capsys, text, message):
    Path("plug_bad.py").write_text(text)
    assert message in one_line(capsys, ["run", "trainer=target", "trainer.target=plug_bad.Own", "lift=2", "seeds=1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["trainer=target", "trainer.target=plug_own.Own", "trainer.arguments={gamma: 1}"],
            "fields of a @dataclass",
        ),
        (["trainer=target", "trainer.target=plug_own.Needy"], "trainer.arguments={rate_of_growth: ...}"),
        (["trainer=plug_own.Own"], "a part by its name is trainer=target trainer.target=plug_own.Own"),
        (["trainer=torch.optim.SGD"], "a part by its name is trainer=torch trainer.target=torch.optim.SGD"),
        (["dataset=plug_own.load"], "a part by its name is dataset=target dataset.target=plug_own.load"),
        (["base=plug_own.Net"], "a part by its name is base=module base.target=plug_own.Net"),
    ],
)
def test_how_a_part_is_named_is_said_where_it_is_not(folder, capsys, words, message):
    needy = "class Needy(Own):\n    def __init__(self, rate_of_growth): pass\n"
    Path("plug_own.py").write_text(OPTIMIZER + "        return gradient\n" + needy)
    assert message in one_line(capsys, ["run", *words, "lift=2", "seeds=1"])


@pytest.mark.slow
def test_a_part_that_exits_late_fails_its_runs_and_no_more(folder, capsys):
    Path("plug_late.py").write_text(
        "def loss(out, y):\n    if len(out) > 40: raise SystemExit(7)\n    return (out - y).square().sum(1)\n"
    )
    assert main([*SMALL, "loss=plug_late.loss", "executor=local"]) == 1
    shown = capsys.readouterr().err
    assert "1 of 1 runs failed" in shown or "failed; see" in shown
    (key,) = load_study("results/small").store.planned()
    record = load_study("results/small").store.record(key)
    assert record is not None and record.error == "SystemExit: 7"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def probe(run): return 3", "gives a int; accepted: a pandas.DataFrame, a mapping, None"),
        ("def probe(run): return run.losses", "fails with AttributeError"),
        ("import torch\ndef probe(run): return {'a': float(torch.rand(()))}", "gives another table when called again"),
        ("def probe(run):\n    run.result.state['weight_x__to__h1'].add_(1)", "changes the run's parameters"),
    ],
)
def test_a_probe_that_lies_is_one_line(folder, capsys, text, message):
    Path("plug_bad.py").write_text(text)
    shown = one_line(capsys, ["run", "theory=none", "theory.probes=[plug_bad.probe]", "lift=2", "seeds=1"])
    assert message in shown and shown.startswith("rsl: probe plug_bad.probe: ")


SMALL = [
    "run",
    "lift=2",
    "seeds=1",
    "trainer=gd",
    "trainer.steps=3",
    "dataset.samples=64",
    "theory=none",
    "study=small",
]
EXECUTOR = (
    "from rsl_cli import Executor\nclass Own(Executor):\n    def run(self, spec, items, progress, finished):\n        "
)
SAYS = "for one in items: finished(one, {key.directory: 'done' for key in one.keys})"
TRACKER = "from rsl_cli.track import Tracker\nclass Own(Tracker):\n    "


@pytest.mark.parametrize(
    ("words", "text", "status", "message"),
    [
        ("executor", "class Own: pass", 2, "accepted: a subclass of rsl_cli.Executor"),
        ("executor", EXECUTOR + "return", 1, "executor plug_bad.Own: ended without a word of 1 runs, n00002-s000-"),
        ("executor", EXECUTOR + SAYS, 1, "says that it trained 1 runs that are not there: n00002-s000-"),
        ("executor", EXECUTOR + "raise OSError('off')", 1, "executor plug_bad.Own: fails with OSError: off"),
        ("executor", EXECUTOR + "finished(3, 4)", 1, "executor plug_bad.Own: fails with AttributeError"),
        (
            "executor",
            EXECUTOR + "return\n    keys = {'a': 3}",
            2,
            "executor Own: keys={'a': 3}; accepted: collections.abc.Mapping",
        ),
        ("tracker", "Own = 3", 2, "accepted: a subclass of rsl_cli.track.Tracker"),
        (
            "tracker",
            TRACKER + "pass",
            2,
            "tracker=plug_bad.Own: module fails with AttributeError: ",
        ),
        ("tracker", TRACKER + "module = 'json'", 2, "tracker=plug_bad.Own: lacks send, sent; write them"),
    ],
)
def test_an_executor_or_a_tracker_that_lies_is_one_line(folder, capsys, words, text, status, message):
    Path("plug_bad.py").write_text(text)
    own = ["executor=target", "executor.target=plug_bad.Own"] if words == "executor" else ["tracker=plug_bad.Own"]
    capsys.readouterr()
    assert main([*SMALL, *own, *(["executor=local"] if words == "tracker" else [])]) == status
    shown = [line for line in capsys.readouterr().err.strip().splitlines() if not line.startswith("[")]
    assert len(shown) == 1 and message in shown[0]


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("norm", "def __call__(self, z): return z.detach()", "has no derivative"),
        ("norm", "def __call__(self, z): return z - z.mean()", "copies and samples must be by themselves"),
        ("norm", "def __call__(self, z): return z * float('nan')", "numbers that are not finite"),
        ("norm", "def __call__(self, z): return z[:, :1]", "gives shape"),
        ("pool", "def __call__(self, z): return z[:, 0]", "gives shape (3, 4) from [(3, 2, 4)]; wanted (3, 2, 4)"),
        (
            "pool",
            "def space(self, space): return None\n    def __call__(self, z): return z",
            "space of pool Own is None; accepted: a tup",
        ),
        (
            "pool",
            "def space(self, space): return 1 / 0\n    def __call__(self, z): return z",
            "vertex h1: fails with ZeroDivisionError",
        ),
    ],
)
def test_a_norm_or_a_pool_that_lies_is_one_line(folder, capsys, key, text, message):
    Path("plug_bad.py").write_text(f"from rsl_cli import Stage\nclass Own(Stage):\n    {text}\n")
    edges = "{source: x, target: h1, map: linear, out: 2}, {source: h1, target: h2, map: linear}"
    word = f"base.edges=[{edges}, {{source: h2, target: y, map: scale}}]"
    shown = one_line(capsys, ["run", word, f"+base.vertices.h1.{key}=plug_bad.Own", "lift=2", "seeds=1"])
    assert message in shown and shown.startswith("rsl: vertex h1: ")


def test_a_figure_that_cannot_be_drawn_keeps_no_report_from_being_written(folder, capsys):
    Path("plug_bad.py").write_text("def first(store): return 1 / 0\n")
    assert main([*SMALL, "executor=local", "figures=[plug_bad.first,my_figure.spread]"]) == 1
    assert "rsl: figure plug_bad.first: fails with ZeroDivisionError" in capsys.readouterr().err
    report = Path("results/small/report")
    assert (report / "spread.png").is_file() and "spread" in (report / "index.html").read_text()
    assert main(["report", "small"]) == 1
    Path("plug_bad.py").write_text("def first(store): return None\n")
    del sys.modules["plug_bad"]
    assert main(["report", "small"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plugins=[plug_none]"], "plugins=plug_none: cannot import plug_none: ModuleNotFoundError"),
        (["plugins=[3]"], "plugins=[3]; accepted: null or a list of modules"),
        (["loss={target: my_loss.pseudo_huber, arguments: {gamma: 1}}"], "unexpected keyword argument 'gamma'"),
        (["loss={target: mse, arguments: {a: 1}}"], "loss 'mse' has no arguments"),
        (["figures=[my_figure.sprea]"], "my_figure has no sprea; did you mean 'spread'?"),
        (["loss=my_loss.huber"], "loss=my_loss.huber: my_loss has no huber"),
        (["theory.probes=[my_probe.tangent]"], "table 'tangent' of my_probe.tangent is shipped"),
        (["theory.probes=[my_probe.ntk]"], "table 'ntk' of my_probe.ntk is shipped"),
        (["theory.probes=[ntkk]"], "theory.probes 'ntkk' is not known; accepted: drift, coverage, tangent, ntk"),
        (["dataset=target"], "dataset.target is not set; accepted: package.function"),
    ],
)
def test_mistakes_at_the_door_are_one_line(folder, capsys, words, message):
    assert message in one_line(capsys, ["run", "lift=2", "seeds=1", *words])


def test_names_are_not_taken_twice():
    from rsl_cli.errors import ConfigError
    from rsl_cli.maps import EDGE_MAPS

    with pytest.raises(ConfigError, match="map 'scale' of test_extension: accepted: a name without dots that is not"):
        EDGE_MAPS.add("scale")(lambda: None)


def test_tables_of_probes_are_plain(folder):
    """One row for a mapping, more for a frame."""
    from rsl_cli.diagnostics.probes import measure
    from rsl_cli.testing import finished_run

    table = measure("p", lambda run: pd.DataFrame({"a": [1, 2]}), finished_run(2), {})
    assert table is not None and table["a"].tolist() == [1, 2]
