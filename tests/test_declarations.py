"""One declaration: checks, files, help, identities and the reference all say what the keys say."""

import re
from dataclasses import fields, replace

import problems
import pytest
import yaml

from rsl_cli.configuration import _text_keys, known_keys
from rsl_cli.data import content_identity
from rsl_cli.data.target import DATASETS
from rsl_cli.errors import ConfigError, GraphError
from rsl_cli.graph_config import EDGE, INIT, VERTEX
from rsl_cli.help import declared, keys_of_file, reference
from rsl_cli.keys import Key, flag, horizon_of, identity_of, read_keys, real, whole
from rsl_cli.laws import LAWS
from rsl_cli.liftings import LIFTINGS
from rsl_cli.maps import EDGE_MAPS
from rsl_cli.parts import TOLD, settings_of
from rsl_cli.readouts import PARAMETRIZATIONS
from rsl_cli.study.keys import GROUPS, LINE, STUDY
from rsl_cli.study.spec import StudySpec
from rsl_cli.track import TRACKERS
from rsl_cli.train.facts import facts_of_old
from rsl_cli.train.first_order import FirstOrder
from rsl_cli.train.flow import Flow
from rsl_cli.train.lm import LevenbergMarquardt
from rsl_cli.train.losses import LOSSES
from rsl_cli.train.optimizers import OPTIMIZERS
from rsl_cli.train.schedules import SCHEDULES
from rsl_cli.train.settings import AUTO
from rsl_cli.train.trainers import TRAINERS, trainer_settings
from rsl_cli.vertex_maps import COMBINES, NORMS, POOLS

CONF = problems.CONF
DECLARED = declared()
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent.name != "experiment")
NAMED = sorted({*TRAINERS} - {"torch", "target"})
"""Trainers that need nothing said."""


def file_of(group: str, option: str):
    return CONF / group / f"{option}.yaml" if group else CONF / "config.yaml"


@pytest.mark.parametrize(("group", "option"), DECLARED, ids=["/".join(pair) for pair in DECLARED])
def test_files_say_what_is_declared(group, option):
    keys, path = DECLARED[group, option], file_of(group, option)
    written = keys_of_file(path)
    meanings = {key: meaning for key, (_, meaning) in written.items()}
    # Of what is measured, files are choices, and what is left out of one keeps its default.
    expected = {key: spec.help for key, spec in keys.items() if group != "theory" or key in written}
    assert meanings == expected and all(expected.values())
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if group == "theory":
        assert read_keys("", {key: spec for key, spec in keys.items() if "." not in key}, values)
        return
    own = {key: value for key, value in values.items() if key not in ("name", "kind", "defaults", "hydra")}
    assert {key: (type(value), value) for key, value in own.items()} == {
        key: (type(spec.default), spec.default) for key, spec in keys.items()
    }


def test_a_line_takes_texts_to_the_letter_where_they_are_declared_as_such():
    told = _text_keys()
    for (group, _), keys in DECLARED.items():
        for key, spec in keys.items():
            # Another dataset may mean a number by the same name.
            assert spec.text in (None, told.get(f"{group}.{key}" if group else key)), key
    assert {told[key] for key in ("study", "results_dir", "tracker", "executor.partition", "base.target")} == {"text"}
    assert told["lift"] == told["seeds"] == "sweep" and told["dataset.drop"] == "list"


@pytest.mark.parametrize(
    ("key", "names"), [("loss", LOSSES), ("parametrization", PARAMETRIZATIONS), ("tracker", TRACKERS)]
)
def test_what_is_said_of_a_key_names_every_part_that_ships(key, names):
    said = {**STUDY, **LINE}[key].help.partition(":")[0].split(" | ")
    assert {word for word in said if "." not in word} == {*names}


def test_everything_that_has_a_file_is_declared():
    groups = {file.parent.name for file in FILES} - {"conf"}
    assert groups == set(GROUPS)
    for group in ("trainer", "dataset", "executor", "theory", "lifting"):
        options = {file.stem for file in FILES if file.parent.name == group} - {"auto"}
        assert options == {option for known, option in DECLARED if known == group}
    assert set(TRAINERS) == {"flow", "lm", *OPTIMIZERS}


def test_the_reference_names_every_key_and_every_part():
    text = reference()
    for key in known_keys():
        if key.partition(".")[0] not in ("base", "experiment") and "." in key and not key.endswith((".name", ".kind")):
            assert f"`{key}`" in text or key.startswith(("trainer.numbers", "trainer.classes", "trainer.dear")), key
    for keys in (*DECLARED.values(), VERTEX, EDGE, INIT):
        for spec in keys.values():
            assert spec.help.replace("|", "\\|").replace("<", "&lt;") in text
    assert "<" not in re.sub(r"`[^`\n]*`", "", text)
    for name in [*OPTIMIZERS, *DATASETS, "conv", "attention", "token_avg", "cross_entropy", "feature", "zeros"]:
        assert f"{name}`" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows if "`trainer." in row}) == 1


@pytest.mark.parametrize("name", NAMED)
def test_a_trainer_by_its_name_is_the_one_of_its_file(name):
    assert trainer_settings({"name": name}) == trainer_settings(problems.group("trainer", name))
    by_name, by_file = (
        StudySpec.from_config(problems.study(lift=2, seeds=1, trainer=trainer)).run_keys()
        for trainer in ({"name": name}, problems.group("trainer", name))
    )
    assert by_name == by_file


def test_auto_by_its_name_is_the_one_of_its_file():
    written = problems.group("trainer", "auto")
    files = dict(reversed(line.split("@")) for line in written.pop("defaults") if line != "_self_")
    assert {key: {"name": name} | written.get(key, {}) for key, name in files.items()} == AUTO
    for data in ("sine2d", "digits"):
        by_name, changed, by_file = (
            StudySpec.from_config(problems.study(lift=2, dataset=problems.group("dataset", data), trainer=trainer))
            for trainer in (
                {"name": "auto"},
                {"name": "auto", "numbers": {"t_end": 10.0}, "classes": {"name": "lm"}},
                AUTO["classes" if data == "digits" else "numbers"],
            )
        )
        assert by_name.trainer == by_file.trainer and by_name.run_keys() == by_file.run_keys()
        assert changed.trainer == (LevenbergMarquardt() if data == "digits" else Flow(t_end=10.0))


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("own", [{}, {"schedule": "constant"}, {"schedule": "constant", "batch_size": None}])
def test_a_study_whose_plan_says_nothing_of_its_trainer_reads_as_one_of_today(name, own):
    config = {"name": name, **{key: value for key, value in own.items() if key in TRAINERS[name]}}
    settings = trainer_settings(config)
    written = config | {key: spec.default for key, spec in TRAINERS[name].items() if key not in config}
    assert facts_of_old(written) == settings.facts
    assert settings.facts.carried_by in (settings.horizon or ("",))
    steady = name in ("gd", "sgd") and written.get("batch_size") is None and written["schedule"] == "constant"
    assert settings.facts.clock == ("time" if name == "flow" else "step" if steady else None)


def test_classes_have_the_declared_defaults():
    assert Flow() == trainer_settings({"name": "flow"})
    assert LevenbergMarquardt() == trainer_settings({"name": "lm"})
    for name in ("adam", "sgd", "gd", "adamw", "lion"):
        settings = trainer_settings({"name": name})
        assert isinstance(settings, FirstOrder) and settings.optimizer == OPTIMIZERS[name]()


REFERENCE = reference().splitlines()
PARTS = [
    (registry.kind, name, part)
    for registry in (EDGE_MAPS, COMBINES, NORMS, POOLS, LAWS, LIFTINGS)
    for name, part in registry.items()
    if name != "target"
]


@pytest.mark.parametrize(("kind", "name", "part"), PARTS, ids=[f"{kind} {name}" for kind, name, _ in PARTS])
def test_every_key_of_a_part_is_declared_and_read(kind, name, part):
    made, keys = getattr(part, "func", part), settings_of(part)
    own = {one.name for one in fields(made) if one.metadata != TOLD}
    assert own == {*keys} and all(spec.help for spec in keys.values())
    needed = {key: 2 for key, spec in keys.items() if spec.help.startswith("needed")}
    plain = part(**needed)
    for key, spec in keys.items():
        if key not in needed:
            assert getattr(plain, key) == spec.read(spec.default)
        with pytest.raises(GraphError, match=re.escape(f"{key}='?'; accepted: {spec.accepted}")):
            part(**{**needed, key: "?"})
        value = 6 if key in needed else another(spec, {}, key)
        assert getattr(part(**{**needed, key: value}), key) == spec.read(value)
        row = [line for line in REFERENCE if line.startswith(f"| `{name}` | `{key}` |")]
        assert len(row) == 1 and spec.help in row[0]


def another(spec: Key, settings: dict, key: str):
    """A value that a key takes, other than its default."""
    for value in (6, 1, 2, 0.5, 0.05, True, False, *SCHEDULES, "float64", "flat", "copy", "drop", 3, "all", "tokens"):
        try:
            if spec.read(value) != spec.read(spec.default) and value != settings.get(key):
                return value
        except ValueError:
            continue
    raise AssertionError(key)


@pytest.mark.parametrize("name", NAMED)
def test_what_belongs_to_a_trainers_identity_is_what_is_declared(name):
    plain = {"name": name} | ({"schedule": "constant"} if "schedule" in TRAINERS[name] else {})
    before = trainer_settings(plain).identity()
    assert trainer_settings(plain).horizon == horizon_of(TRAINERS[name]) != ()
    for key, spec in TRAINERS[name].items():
        changed = trainer_settings(plain | {key: another(spec, plain, key)}).identity()
        assert (changed != before) == (spec.identity in ("always", "changed")), key
    if "schedule" in TRAINERS[name]:  # A run that its schedule ends cannot be carried on: another is another.
        ended = [trainer_settings(plain | {"schedule": "linear", "steps": steps}).identity() for steps in (5, 6)]
        assert ended[0] != ended[1]


@pytest.mark.parametrize("name", ["sine2d", "spirals", "parity", "tokens", "digits", "diabetes"])
def test_what_belongs_to_a_datasets_identity_is_what_is_declared(name):
    before = content_identity({"name": name})
    for key, spec in DATASETS[name].keys.items():
        assert content_identity({"name": name, key: another(spec, {}, key)}) != before, key


@pytest.mark.parametrize(("identity", "same"), [("changed", True), ("always", False), ("never", True)])
def test_a_new_key_at_its_default_renames_no_run(monkeypatch, identity, same):
    def run(**changes):
        dataset = {"name": "sine2d", "samples": 64, "test_samples": 16, **changes}
        return StudySpec.from_config(problems.study(lift=2, seeds=1, dataset=dataset)).run_keys()[0].run_id

    before = run()
    builder = DATASETS["sine2d"]
    new = flag(False).of(identity).about("new")
    monkeypatch.setitem(DATASETS._parts, "sine2d", replace(builder, keys={**builder.keys, "new": new}))
    assert (run() == before) == same
    assert (run(new=True) == before) == (identity == "never")


def test_readers_and_identities():
    keys = {
        "a": whole(1, 0, 9),
        "b": real(0.5, 0, 1, above=True, below=True).of("changed"),
        "c": flag(True).of("never"),
    }
    read = read_keys("x.", keys, {"a": 2.0, "name": "n"})
    assert read == {"a": 2, "b": 0.5, "c": True} and type(read["a"]) is int
    assert identity_of(keys, read) == {"a": 2}
    assert identity_of(keys, {**read, "b": 0.25}) == {"a": 2, "b": 0.25}
    for config, message in (
        ({"a": 10}, "x.a=10; accepted: a whole number from 0 to 9"),
        ({"a": float("inf")}, "x.a=inf; accepted: a whole number from 0 to 9"),
        ({"b": 1}, "x.b=1; accepted: a number above 0 to below 1"),
        ({"b": 10**400}, "x.b=1"),
        ({"c": 1}, "x.c=1; accepted: true or false"),
        ({"d": 1}, "x key 'd' is not known; accepted: name, a, b, c"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            read_keys("x.", keys, config)
