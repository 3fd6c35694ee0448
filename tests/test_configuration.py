"""Words of a command line against what they mean, whatever they hold."""

from dataclasses import replace

import problems
import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from rsl_cli.cli import main
from rsl_cli.configuration import compose_line, composed, quoted, split_flags
from rsl_cli.errors import ConfigError

# An interpolation is not text, and quotes around the whole are the user's own quoting.
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="$"), min_size=1).filter(
    lambda text: text[0] not in "'\"" and text != "null"
)


def understood(word):
    """The key and the value that Hydra's grammar reads from a word, without the cost of composing."""
    read = OverridesParser.create().parse_override(quoted(word))
    return read.key_or_group, read.value()


@given(WORDS)
@example("häuser.csv")
@example("l'age")
@example("(a)")
@example("[a]")
@example("true")
@example("1e3")
@example("a\\")
@example("a\\'b\\\\'")
@example("x=y, z")
@example("  padded ")
@example("-")
def test_text_arrives_to_the_letter(text):
    for key in ("dataset.path", "dataset.target", "results_dir"):
        assert understood(f"{key}={text}") == (key, text)


@given(st.lists(WORDS.filter(lambda text: "," not in text and text == text.strip()), min_size=1, max_size=4))
@example(["größe", "l'age", "1e3", "null", "(a)"])
def test_lists_of_text_arrive_to_the_letter(names):
    assert understood(f"dataset.features=[{','.join(names)}]") == ("dataset.features", names)


def test_a_line_without_flags_is_composed_once(monkeypatch):
    load, asked = ConfigLoaderImpl.load_configuration, []

    def counted(*given, **options):
        asked.append(given)
        return load(*given, **options)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    words = ["base=shallow", "lift=2,4", "experiment=sizes"]
    (one,) = compose_line(words)
    assert one == replace(composed(words), words=words) and len(asked) == 2


def test_what_is_understood_is_what_is_composed():
    text, names = "a\\'b\\\\', x=y (ü)", ["größe", "l'age", "1e3", "null", "(a)"]
    words = [f"{key}={text}" for key in ("dataset.path", "dataset.target", "results_dir")]
    config = composed(["dataset=csv", *words, f"dataset.features=[{','.join(names)}]"]).config
    assert (config["dataset"]["path"], config["dataset"]["target"], config["results_dir"]) == (text, text, text)
    assert config["dataset"]["features"] == names


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("dataset.target=null", "target", "null"),
        ("dataset.features=null", "features", None),
        ("dataset.features=age", "features", ["age"]),
        ("dataset.features=['a,b',c]", "features", ["a,b", "c"]),
        ("dataset.target='a b'", "target", "a b"),
    ],
)
def test_what_has_a_meaning_of_its_own_keeps_it(word, key, value):
    assert composed(["dataset=csv", word]).config["dataset"][key] == value


def test_interpolations_are_followed_and_numbers_from_the_environment_explained(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACE", "/data")
    monkeypatch.setenv("N", "64")
    assert composed(["results_dir=${oc.env:PLACE}/x"]).config["results_dir"] == "/data/x"
    assert main(["run", "dataset.samples=${oc.env:N}"]) == 2
    assert "write ${oc.decode:${oc.env:N}} for a number" in capsys.readouterr().err
    assert composed(["dataset.samples=${oc.decode:${oc.env:N}}"]).config["dataset"]["samples"] == 64


def test_flags_and_overrides_are_parted_with_the_flags_values():
    line = ["--config-dir", "my=conf", "base=mlp", "-m", "--cfg", "job", "~theory", "lift=4"]
    assert split_flags(line) == (["base=mlp", "~theory", "lift=4"], ["--config-dir", "my=conf", "-m", "--cfg", "job"])


@pytest.mark.parametrize(
    ("group", "option", "changes", "key", "value"),
    [
        ("base", "mlp", {"name": "mine"}, "name", "mine"),
        ("trainer", "adam", {"steps": 7}, "steps", 7),
        ("experiment", "digits", {}, "lift", 3),
    ],
)
def test_a_users_configuration_stands_before_the_shipped_one_and_the_plan_says_so(
    group, option, changes, key, value, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "my conf" / group / f"{option}.yaml"
    own.parent.mkdir(parents=True)
    if group == "experiment":
        own.write_text("# @package _global_\nlift: 3\nstudy: own\n")
    else:
        own.write_text(yaml.safe_dump(problems.group(group, option) | changes))
    config = composed([f"{group}={option}"], tmp_path / "my conf").config
    assert (config if group == "experiment" else config[group])[key] == value
    assert composed([f"{group}={option}"]).config != config, "the folder is forgotten with its line"
    line = ["run", "--config-dir", "my conf", f"{group}={option}", "lift=3", "seeds=1", "executor=local"]
    short = [] if group == "experiment" else ["trainer=adam"]
    short += [] if group == "trainer" else [] if group == "experiment" else ["trainer.steps=3"]
    short += ["trainer.numbers.t_end=1"] if group == "experiment" else []
    assert main([*line, *short, "dataset.samples=64"]) == 0
    said = f"{group}={option} is my conf/{group}/{option}.yaml, which stands before the shipped one"
    assert said in capsys.readouterr().out


def test_refusals_of_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"--config-dir 'none': there is no such folder"):
        composed([], tmp_path.relative_to(tmp_path) / "none")
    with pytest.raises(ConfigError, match=r"there is no hydra/launcher=joblib; .*executor=process"):
        composed(["hydra/launcher=joblib"])
