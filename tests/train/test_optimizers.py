"""Optimisers: contracts, torch's own by their name, and a rule written out by hand."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import problems
import pytest
import torch

from rsl_cli import load_study
from rsl_cli.errors import ConfigError
from rsl_cli.graph import BaseGraph
from rsl_cli.keys import real
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.parts import setting
from rsl_cli.progress import Display
from rsl_cli.study.api import run_study
from rsl_cli.study.spec import StudySpec
from rsl_cli.testing import check_optimizer
from rsl_cli.train.first_order import FirstOrder
from rsl_cli.train.objective import Objective
from rsl_cli.train.optimizers import OPTIMIZERS, Adam, AdamW, Gd, Lion, Sgd, trainer_keys
from rsl_cli.train.trainers import TRAINERS, trainer_settings

CONF = problems.CONF / "trainer"
OWN = [Adam(), Sgd(0.0), Sgd(), Sgd(0.9, nesterov=True), Gd(), AdamW(), AdamW(0.5, 0.5, 0.5), Lion(), Lion(0.5)]


@pytest.mark.parametrize("optimizer", OWN, ids=repr)
def test_contracts(optimizer):
    check_optimizer(optimizer)


def test_every_optimiser_ships_with_a_file_and_is_tested():
    names = {path.stem for path in CONF.glob("*.yaml")}
    assert set(OPTIMIZERS) == names - {"auto", "flow", "lm"}
    assert {type(one).__name__.lower() for one in OWN} | {"torch", "target"} == set(OPTIMIZERS)


@pytest.mark.parametrize("name", ["adam", "sgd", "gd", "adamw", "lion"])
def test_files_say_every_setting_and_no_other(name):
    config = problems.group("trainer", name)
    settings = trainer_settings(config)
    assert isinstance(settings, FirstOrder)
    own = {one.name for one in fields(settings.optimizer)}  # pyright: ignore[reportArgumentType]
    common = {one.name for one in fields(FirstOrder)} - {"options", "momentum"}
    optional = {"batch_size", "momentum", "nesterov"} if name == "gd" else set()
    assert common | own == set(config) | optional


def test_lion_is_its_rule():
    draw = np.random.default_rng(0)
    theta, kept = draw.standard_normal(5), np.zeros(5)
    tensor, state = torch.as_tensor(theta.copy()), [torch.zeros(5, dtype=torch.float64)]
    rule = Lion(weight_decay=0.2)
    for _ in range(7):
        gradient = draw.standard_normal(5)
        move = np.sign(0.9 * kept + 0.1 * gradient) + 0.2 * theta
        kept = 0.99 * kept + 0.01 * gradient
        theta = theta - 0.1 * move
        tensor = tensor - 0.1 * rule.direction(torch.as_tensor(gradient), tensor, state, [])
        np.testing.assert_allclose(tensor.numpy(), theta, rtol=1e-12)


TORCH = {"name": "torch", "steps": 25, "learning_rate": 0.01, "batch_size": 16, "dtype": "float64"}


def trained(config, seeds=(3,)):
    data, _ = problems.least_squares()
    base = BaseGraph.from_config(problems.group("base", "mlp"), input_shape=(3,), output_size=1)
    lifts = [sample_lift(base, 4, seed) for seed in seeds]
    network = LiftedNetwork(disjoint_union(lifts) if len(lifts) > 1 else lifts[0], None, torch.float64, "mup")
    settings = trainer_settings(config)
    assert isinstance(settings, FirstOrder)
    return problems.trained(network, Objective(data, "mse", dtype=torch.float64), settings)[0]


@pytest.mark.parametrize(
    ("ours", "target", "arguments", "divides"),
    [
        ({"name": "adam"}, "torch.optim.Adam", None, True),
        ({"name": "sgd", "momentum": 0.8}, "torch.optim.SGD", {"momentum": 0.8}, False),
        (
            {"name": "sgd", "momentum": 0.8, "nesterov": True},
            "torch.optim.SGD",
            {"momentum": 0.8, "nesterov": True},
            False,
        ),
        ({"name": "adamw", "weight_decay": 0.2}, "torch.optim.AdamW", {"weight_decay": 0.2}, True),
    ],
)
def test_torchs_own_classes_train_as_ours_do(ours, target, arguments, divides):
    theirs = trained(TORCH | {"target": target, "arguments": arguments, "divides": divides})
    mine = trained(TORCH | ours)
    for name, part in mine.state.items():
        torch.testing.assert_close(theirs.state[name], part, rtol=1e-8, atol=1e-10)


def test_a_study_by_rmsprop_says_how_it_trains_and_is_stored(tmp_path, capsys):
    trainer = problems.group("trainer", "torch", target="torch.optim.RMSprop", steps=30, batch_size=64)
    config = problems.study(trainer=trainer, lift=[2], seeds=2, results_dir=str(tmp_path))
    with Display() as display:
        store = run_study(config, planned=display.plan).store
    assert "trainer torch.optim.RMSprop, by autograd, a run at a time, parametrization mup" in capsys.readouterr().out
    with Display() as display:
        run_study(problems.study(lift=[2], seeds=1, results_dir=str(tmp_path)), planned=display.plan)
    assert "trainer adam, parametrization mup" in capsys.readouterr().out
    assert [record.status for record in store.records()] == ["done", "done"]
    assert load_study(store.root).runs["train_loss"].notna().all()
    identity = StudySpec.from_config(config).identity["trainer"]
    assert (identity["name"], identity["target"]) == ("torch", "torch.optim.rmsprop.RMSprop")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "adam", "weight_decay": 0.1}, "trainer key 'weight_decay' is not known; accepted: name, steps"),
        ({"name": "adam", "momentum": 0.5}, "trainer key 'momentum' is not known; accepted: name, steps"),
        ({"name": "gd", "momentum": 0.5}, "trainer key 'momentum' is not known"),
        ({"name": "adamw", "beta1": 1.0}, "trainer.beta1=1.0; accepted: a number from 0 to below 1"),
        ({"name": "adamw", "weight_decay": -1}, "trainer.weight_decay=-1; accepted: a number from 0"),
        ({"name": "sgd", "momentum": 0, "nesterov": True}, "set trainer.momentum above 0"),
        ({"name": "muon"}, "trainer.name 'muon' is not known; accepted: flow, lm, adam, sgd, gd, adamw, lion"),
        ({"name": "torch"}, "trainer.target is not set; trainer torch needs it"),
        ({"name": "torch", "target": "torch.optim.RMSProp"}, "torch.optim has no RMSProp; did you mean 'RMSprop'?"),
        ({"name": "torch", "target": "torch.nn.Linear"}, "is no torch.optim.Optimizer; for one of your own"),
        (
            {"name": "torch", "target": "torch.optim.LBFGS"},
            "trainer.target=torch.optim.LBFGS: its step needs a",
        ),
        (
            {"name": "torch", "target": "torch.optim.SGD", "arguments": {"alpha": 1}},
            "trainer.target=torch.optim.SGD: TypeError: ",
        ),
        ({"name": "target", "target": "torch.optim.SGD"}, "trainer torch.optim.SGD: is no rsl_cli.Optimizer"),
    ],
)
def test_mistakes_are_one_line(config, message):
    with pytest.raises(ConfigError) as caught:
        trainer_settings(config)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_optimisers_class_says_its_keys_and_its_defaults():
    @dataclass(frozen=True)
    class Damped(Sgd):
        damping: float = setting(real(0.5, 0).about("of every step"))
        usual: ClassVar[Mapping[str, Any]] = {"steps": 7, "batch_size": None}

    keys = trainer_keys(Damped)
    assert [*keys][:5] == ["steps", "learning_rate", "momentum", "nesterov", "damping"] and "batch_size" not in keys
    assert (keys["steps"].default, keys["damping"].default, keys["learning_rate"].default) == (
        7,
        Damped().damping,
        0.01,
    )
    assert {name: TRAINERS[name]["beta1"].default for name in ("adamw", "lion")} == {
        "adamw": AdamW().beta1,
        "lion": Lion().beta1,
    }
