"""Hostile values and files: one line, the right status, nothing left behind, soon."""

import itertools
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rsl_cli.cli import compose, main
from rsl_cli.errors import ConfigError, GraphError
from rsl_cli.graph_config import read_graph
from rsl_cli.study.spec import StudySpec


def refusal(capsys, tmp_path, *words):
    began = time.monotonic()
    status = main(["run", "theory=none", "executor=local", f"results_dir={tmp_path / 'r'}", *words])
    assert time.monotonic() - began < 30
    err = capsys.readouterr().err
    assert status == 2 and err.count("\n") == 1 and "Traceback" not in err, err
    assert not (tmp_path / "r").exists()
    return err


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("parametrization=[mup]", "parametrization"),
        ("lifting.in_degree=1e-300", "in_degree=1e-300; accepted: 1e-06 to"),
        ("lifting.in_degree=1e300", "accepted: 1e-06 to"),
        ("base.name=/abs/x", "base.name='/abs/x'; accepted: letters"),
        ("base.name=../../x", "or set study=NAME"),
        ("base.name=a/b", "base.name='a/b'"),
        ("base.name=${oc.env:HOME}", "base.name="),
        ("base.name=" + "a" * 300, "at most 100 of them"),
        ("study=../x", "study='../x'"),
        ("lift=1..16777216", "GB at lift 16777216, where this machine has"),
        ("lift=4..16777216@2", "or begin with force=true"),
        ("force=maybe", "force='maybe'"),
    ],
)
def test_values_are_refused_before_anything_is_written(capsys, tmp_path, word, answer):
    assert answer in refusal(capsys, tmp_path, word)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            "dataset.samples=100000000",
            "the data of dataset=sine2d are expected to take 4.47 GB, where this machine has",
        ),
        ("dataset=teacher dataset.degree=100000000", "the data of dataset=teacher are expected to take"),
        ("dataset=tokens dataset.length=1024 dataset.vocabulary=1024 dataset.samples=4096", "expected to take"),
        ("base=module base.target=torch.nn.Linear dataset.samples=1000000000", "s before anything is trained; lower"),
    ],
)
def test_data_that_cost_too_much_are_not_begun(capsys, tmp_path, monkeypatch, words, answer):
    monkeypatch.setattr("rsl_cli.study.resolve.load_dataset", lambda *_, **__: pytest.fail("data are drawn"))
    monkeypatch.setattr("rsl_cli.study.resolve.memory_limit", lambda: 16 * 2**30)
    assert answer in refusal(capsys, tmp_path, *words.split(" "))
    with pytest.raises(pytest.fail.Exception, match="data are drawn"):
        StudySpec.from_config(compose(["theory=none", "dataset.samples=100000000", "force=true"]))


@pytest.mark.parametrize("value", ["", "  ", None, 3, "a\0b"])
def test_a_results_folder_needs_a_name(value):
    with pytest.raises(ConfigError, match=r"results_dir( is not set|=.*); accepted: the path of a folder, .*; e.g."):
        StudySpec.from_config(compose(["dataset.samples=32", "theory=none"]) | {"results_dir": value})


def test_a_group_given_twice_drops_none_without_a_word(capsys, tmp_path):
    assert "base is given twice, mlp,deep; choose one, or write -m base=mlp,deep" in refusal(
        capsys, tmp_path, "base=mlp", "base=deep"
    )
    with pytest.raises(ConfigError, match="lift is given twice"):
        compose(["lift=2", "lift=4"])
    assert compose(["lift=2", "lift=2"])["lift"] == 2


def test_force_replaces_exports_only(capsys, tmp_path):
    words = ["run", "dataset.samples=32", "trainer=adam", "trainer.steps=5", "theory=none", "lift=2", "seeds=1"]
    assert main([*words, "executor=local", "study=s", f"results_dir={tmp_path}"]) == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    export = ["export", "s", "--results-dir", str(tmp_path), "--force", "--to"]
    capsys.readouterr()
    assert main([*export, str(mine)]) == 2
    assert "holds thesis.tex, which no export wrote" in capsys.readouterr().err
    assert (mine / "thesis.tex").read_text() == "years of work"
    (tmp_path / "link").symlink_to(mine)
    (tmp_path / "file").write_text("x")
    assert main([*export, str(tmp_path / "link")]) == 2 and main([*export, str(tmp_path / "file")]) == 2
    assert main([*export, str(tmp_path / "out")]) == 0 and main([*export, str(tmp_path / "out")]) == 0


def graph_of(edges, **rest):
    vertices = {"x": {"kind": "input"}, "y": {"kind": "output"}, **rest}
    return {"name": "g", "vertices": vertices, "edges": edges}


def test_graphs_that_would_hang_are_refused_soon():
    began = time.monotonic()
    nested = {"for": {"a": "1..9999", "b": "1..9999", "c": "2..1"}}
    with pytest.raises(GraphError, match=r"vertex h\{a\}: its for stands for more than 10000, or tries as many"):
        read_graph(graph_of([{"source": "x", "target": "y", "map": "linear"}], **{"h{a}": nested}))
    chain = {f"h{i}": {"kind": "hidden"} for i in range(9000)}
    names = ["x", *chain, "y"]
    edges = [{"source": a, "target": b, "map": "linear"} for a, b in itertools.pairwise(names)]
    with pytest.raises(GraphError, match="9002 vertices; accepted: up to 1000"):
        read_graph(graph_of(edges, **chain))
    with pytest.raises(GraphError, match="a number of 5000 digits"):
        read_graph(graph_of([], **{"h": {"for": {"i": "1.." + "9" * 5000}}}) | {"edges": edges[:1]})
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "class Net:\n    pass\nraise SystemExit(0)"])
def test_a_module_that_leaves_python_is_refused(tmp_path, monkeypatch, capsys, code):
    monkeypatch.chdir(tmp_path)
    name = f"leaver{abs(hash(code))}"
    Path(f"{name}.py").write_text(code)
    err = refusal(capsys, tmp_path, "base=module", f"base.target={name}.Net", "dataset=digits")
    assert "SystemExit" in err


def test_a_missing_config_folder_is_named(capsys, tmp_path):
    assert main(["show", "--config-dir", str(tmp_path / "nowhere")]) == 2
    assert "nowhere': there is no such folder" in capsys.readouterr().err


def test_an_alias_bomb_is_refused(capsys, tmp_path):
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 10)]
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "bomb.yaml").write_text("\n".join(levels) + "\n")
    assert main(["show", "base=bomb", "--config-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "bomb.yaml: its aliases make over 100,000 entries" in error


def test_a_name_longer_than_the_system_takes(capsys, tmp_path):
    assert main(["report", "x" * 5000, "--results-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_standard_output(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rsl_cli.cli", "list", "--results-dir", str(tmp_path)],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1 and done.stderr == "rsl: No space left on device\n"


@pytest.mark.parametrize("seconds", [1e-3, 30])
def test_a_folder_removed_while_it_is_computed_into_is_not_made_again(tmp_path, capsys, seconds):
    from rsl_cli.errors import StoreError
    from rsl_cli.study.api import run_study

    config = compose(["dataset.samples=32", "trainer=adam", "theory=none", "lift=2,4", "seeds=1", "executor=local"])
    config["executor"]["checkpoint_seconds"] = seconds

    def remove(*_):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)

    with pytest.raises(StoreError, match=r"study\.json is gone: the folder was moved or removed"):
        run_study(config | {"results_dir": str(tmp_path), "study": "s"}, progress=remove)
    assert not (tmp_path / "s" / "runs").exists() and not capsys.readouterr().err
