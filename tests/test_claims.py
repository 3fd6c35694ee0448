"""What a part says of itself is held against what its base declares, for parts of every kind alike."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from rsl_cli import Combine, Dataset, EdgeMap, Executor, Law, Lifting, Loss, Optimizer, Pilots, Stage
from rsl_cli.claims import _declared, check_answer, check_claims
from rsl_cli.cli import main
from rsl_cli.errors import ConfigError
from rsl_cli.laws import Normal
from rsl_cli.liftings import Random
from rsl_cli.maps import Scale
from rsl_cli.study.executors import Local
from rsl_cli.testing import check_combine
from rsl_cli.track import Tracker
from rsl_cli.track.tracker import TRACKERS
from rsl_cli.train.losses import Squared
from rsl_cli.train.optimizers import Sgd
from rsl_cli.vertex_maps import Norm, Sum

X = np.zeros((4, 2))
PARTS: dict[type, Callable[[], object]] = {
    EdgeMap: Scale,
    Combine: Sum,
    Stage: lambda: Norm(True),
    Lifting: Random,
    Law: Normal,
    Loss: Squared,
    Optimizer: Sgd,
    Executor: lambda: Local({}),
    Pilots: lambda: Pilots({"workers": 2}),
    Dataset: lambda: Dataset("own", "regression", X, X, X, X, 2),
    Tracker: lambda: TRACKERS["tensorboard"],
}
CLAIMS = [(base, name) for base in PARTS for one in _declared(base) for name in one]


@pytest.mark.parametrize("base", PARTS, ids=lambda base: base.__name__)
def test_what_ships_is_what_its_base_declares(base):
    check_claims(PARTS[base](), base, "it")


@pytest.mark.parametrize(("base", "name"), CLAIMS, ids=[f"{base.__name__} {name}" for base, name in CLAIMS])
def test_every_declared_attribute_and_method_is_held_by_name(base, name):
    part = PARTS[base]()
    kind = part if isinstance(part, type) else type(part)
    for wrong, told in ((object(), "=<object object"), (property(lambda self: 1 / 0), " fails with ZeroDivisionError")):
        lie: Any = type("Own", (kind,), {name: wrong})
        if not isinstance(part, type):
            made = object.__new__(lie)
            vars(made).update({key: value for key, value in vars(part).items() if key != name})
        elif isinstance(wrong, property):
            continue  # Of a class itself it is not asked.
        else:
            made = lie
        with pytest.raises(ConfigError, match=f"^it: {name}{told}") as caught:
            check_claims(made, base, "it")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [2, np.int64(2)], [2.0, "2", True, None]),
        (float, [2, 2.5, np.float32(1)], ["2", False, None, 1j]),
        (bool, [True, np.bool_(False)], [0, "true", None]),
        (str, ["two"], [2, b"two", None]),
        (str | None, ["two", None], [2]),
        (Literal["a", "b"] | None, ["a", None], ["c", ["a"]]),
        (tuple[str, ...], [(), ("a",), ["a", "b"]], ["ab", ("a", 1), None, 3]),
        (tuple[str, Literal["solid"]], [("red", "solid")], [("red",), ("red", "dotted"), "rs"]),
        (Callable[[int], int], [len], [3]),
        (Mapping[str, int], [{}, {"a": 1}], [{"a": "b"}, {1: 1}, [("a", 1)]]),
        (np.ndarray | None, [X, None], [[1.0]]),
        (Any, [object()], []),
    ],
)
def test_values_of_declared_types(hint, right, wrong):
    for value in right:
        check_answer("x", value, hint, "it")
    for value in wrong:
        with pytest.raises(ConfigError, match=r"^it: x=.*; accepted: "):
            check_answer("x", value, hint, "it")


def test_a_combine_for_two_in_words_is_refused_by_its_contract_too():
    lie: Any = type("Own", (Combine,), {"least": "two", "__call__": Sum.__call__})
    with pytest.raises(Exception, match=re.escape("combine Own of spaces (): least='two'; accepted: int")):
        check_combine(lie(), {"a": ()})


OWN = {
    "combine": ("Combine", "def __call__(self, slots): return sum(slots.values())"),
    "norm": ("Stage", "def __call__(self, z): return z / (1 + z * z).sqrt()"),
    "lifting": (
        "Lifting",
        "def sample(self, draw, n_u, n_v): return draw.integers(n_u, size=n_v), draw.permutation(n_v).argsort() * 0\n"
        "    def mean_in_degree(self, n_u, n_v): return 1.0",
    ),
    "loss": ("Loss", "def values(self, out, y): return (out - y).square().sum(-1)"),
    "trainer": ("Optimizer", "def direction(self, gradient, theta, states, numbers): return gradient"),
    "executor": ("Executor", "def run(self, spec, batches, progress, finished): pass"),
    "tracker": ("Tracker", "module = 'json'\n    def sent(self, key): pass\n    def send(self, note, since): pass"),
}
WORDS = {
    "combine": ["+base.vertices.h1.combine=lies.Own"],
    "norm": ["+base.vertices.h1.norm=lies.Own"],
    "loss": ["loss=lies.Own"],
    "tracker": ["tracker=lies.Own"],
}


@pytest.mark.parametrize(
    ("kind", "lie", "message"),
    [
        ("combine", "least = 'two'", "vertex h1: combine 'lies.Own': least='two'; accepted: int"),
        ("combine", "slots = 3", "vertex h1: combine 'lies.Own': slots=3; accepted: tuple[str, ...] | None"),
        (
            "combine",
            "circuit = 'two'",
            "vertex h1: combine 'lies.Own': circuit='two'; accepted: 'sum' | 'product' | 'attention' | None",
        ),
        ("combine", "options = lambda self: 3", "vertex h1: combine 'lies.Own': options=3; accepted: dict["),
        ("combine", "flops = lambda self, spaces: 'few'", "flops='few'; accepted: float"),
        ("norm", "name = 3", "vertex h1: norm 'lies.Own': name=3; accepted: str"),
        ("norm", "groups = lambda self, space: 3", "groups=3; accepted: numpy.ndarray | None"),
        ("lifting", "complete = 'no'", "lifting.target 'lies.Own': complete='no'; accepted: bool"),
        ("lifting", "bounded = 'two'", "lifting.target 'lies.Own': bounded='two'; accepted: float | None"),
        ("loss", "labels = 'no'", "loss lies.Own: labels='no'; accepted: bool"),
        ("loss", "name = property(lambda self: 1 / 0)", "loss lies.Own: name fails with ZeroDivisionError"),
        ("loss", "losses = lambda self, out, y: 3", "its losses of replicas are not its values"),
        ("loss", "resolution = lambda self, y, dtype: 'fine'", "resolution='fine'; accepted: float"),
        ("trainer", "states = 'kept'", "optimiser Own: states='kept'; accepted: tuple[str, ...]"),
        ("trainer", "counted = 'no'", "optimiser Own: counted='no'; accepted: bool"),
        ("trainer", "over = lambda self, network: 3", "optimiser Own: over"),
        ("executor", "workers = 'two'", "executor Own: workers='two'; accepted: int"),
        ("executor", "workers = 0", "executor Own: workers=0, neighbours=0; accepted: numbers from 1"),
        ("executor", "beginning = lambda self, batches: 3", "executor Own: beginning=3; accepted: str"),
        ("tracker", "extra = 3", "tracker=lies.Own: extra=3; accepted: str | None"),
        ("tracker", "send = 3", "tracker=lies.Own: send=3; accepted: a method"),
    ],
)
def test_a_part_that_lies_of_itself_is_one_line_at_the_door(tmp_path, monkeypatch, capsys, kind, lie, message):
    base, good = OWN[kind]
    home = "rsl_cli.track" if base == "Tracker" else "rsl_cli"
    Path(tmp_path / "lies.py").write_text(f"from {home} import {base}\nclass Own({base}):\n    {good}\n    {lie}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    words = WORDS.get(kind, [f"{kind}=target", f"{kind}.target=lies.Own"])
    try:
        assert main(["run", "lift=2", "seeds=1", "dataset.samples=64", "theory=none", *words]) == 2
    finally:
        sys.modules.pop("lies", None)
    shown = [line for line in capsys.readouterr().err.strip().splitlines() if not re.match(r"\[\d+ s\] ", line)]
    assert len(shown) == 1 and message in shown[0]
    assert not Path("results").exists()
