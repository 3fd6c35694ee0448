"""One declaration: files say the defaults that the code has, with a line on what each key means."""

import re
from pathlib import Path

import problems
import pytest
import yaml

from rsl_cli.study.spec import DEFAULTS, EXECUTORS, KEYS
from rsl_cli.theory.tangent import _KEYS as TANGENT
from rsl_cli.train.first_order import SCHEDULES, FirstOrder
from rsl_cli.train.optimizers import OPTIMIZERS
from rsl_cli.train.settings import SCHEDULES as SCHEDULE_NAMES
from rsl_cli.train.settings import TRAINERS
from rsl_cli.train.trainers import trainer_settings

CONF = problems.CONF
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent.name != "experiment")


def same(file: Path, keys) -> None:
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert written == {"name": file.stem, **{key: spec.default for key, spec in keys.items()}}
    kinds = {key: type(spec.default) for key, spec in keys.items()}
    assert {key: type(value) for key, value in written.items() if key != "name"} == kinds


@pytest.mark.parametrize("name", TRAINERS)
def test_trainers(name):
    same(CONF / "trainer" / f"{name}.yaml", TRAINERS[name])
    if name not in ("torch", "target"):
        assert trainer_settings({"name": name}) == trainer_settings(problems.group("trainer", name))


def test_every_trainer_is_declared():
    assert set(TRAINERS) == {"flow", "lm", *OPTIMIZERS}
    assert set(SCHEDULES) == set(SCHEDULE_NAMES)


@pytest.mark.parametrize("name", ["adam", "sgd", "gd", "adamw", "lion"])
def test_optimisers_have_the_defaults_of_their_trainers(name):
    settings = trainer_settings({"name": name})
    assert isinstance(settings, FirstOrder)
    if name != "sgd":
        assert settings.optimizer == OPTIMIZERS[name]()


def test_executors_theory_and_the_study_itself():
    for name, keys in EXECUTORS.items():
        same(CONF / "executor" / f"{name}.yaml", dict(sorted(keys.items(), reverse=True)))
    written = problems.group("theory", "tangent")["tangent"]
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in written.items()} == {
        key: spec.default for key, spec in TANGENT.items() if key != "largest"
    }
    study = yaml.safe_load((CONF / "config.yaml").read_text())
    known = {key for key in study if key not in ("defaults", "hydra", "until", "budget")}
    assert known == {key for key in KEYS if key not in ("base", "lifting", "dataset", "trainer", "executor", "theory")}
    assert {key: study[key] for key in known} == {key: DEFAULTS[key] for key in known}


@pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_key_has_a_line_on_what_it_means(file):
    for line in file.read_text(encoding="utf-8").split("\nhydra:")[0].split("\nvertices:")[0].splitlines():
        if re.match(r"[a-z_]+: *[^{ ]|  [a-z]+: ", line) and not re.match(r"(name|kind|defaults|tangent):|  - ", line):
            assert re.search(r"\S +# \S", line), line
