import json
import math
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import problems
import pytest
import yaml

from rsl_cli import load_study
from rsl_cli.cli import compose, main
from rsl_cli.lift import is_dense
from rsl_cli.study.files import write_json
from rsl_cli.study.spec import StudySpec

BASES = ", ".join(sorted(path.stem for path in (problems.CONF / "base").glob("*.yaml")))
QUICK = [
    "seeds=3",
    "lift=2..8",
    "trainer=adam",
    "trainer.steps=20",
    "dataset.samples=256",
    "dataset.test_samples=64",
    "executor=local",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_run_again_list_report_and_check(tmp_path, capsys):
    assert main(["run", *QUICK]) == 0
    shown = capsys.readouterr()
    assert "9 of 9 runs to do" in shown.out and "VERDICT: " in shown.out and "[9/9 runs" in shown.err
    root = tmp_path / "results" / "mlp_sine2d_adam"
    before = {path: path.stat().st_mtime_ns for path in root.glob("runs/*/*/*")}
    assert main(["run", *QUICK]) == 0
    assert "nothing to do: all 9 runs are done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.glob("runs/*/*/*")} == before
    verdict = json.loads((root / "report" / "verdict.json").read_text())["verdict"]
    assert main(["list"]) == 0
    assert verdict in capsys.readouterr().out
    assert main(["report", "--check", "--format", "png"]) == (0 if verdict == "falls" else 1)
    assert main(["report", str(root)]) == 0
    for name in ("runs.csv", "summary.csv", "summary.md", "summary.tex", "index.html", "loss_vs_params.pdf"):
        assert (root / "report" / name).stat().st_size > 0


def test_by_default_the_flow_learns_numbers_and_classes_that_it_can_afford(tmp_path):
    small = ["lift=2,4", "seeds=1", "executor=local"]
    assert main(["run", *small, "dataset.samples=64", "trainer.numbers.t_end=1"]) == 0
    assert main(["run", *small, "dataset=breast_cancer", "trainer.classes.t_end=1"]) == 0
    dear = ["base=cnn", "dataset=digits", "lift=1,128", "trainer.dear.steps=3"]
    assert main(["run", *small[1:], *dear]) == 0
    made = {path.name for path in (tmp_path / "results").iterdir()}
    assert made == {"mlp_sine2d_flow", "mlp_breast_cancer_flow", "cnn_digits_adam"}
    stored = json.loads((tmp_path / "results" / "mlp_sine2d_flow" / "study.json").read_text())["config"]["trainer"]
    assert stored["name"] == "flow" and stored["t_end"] == 1


def test_multirun_is_one_study_each(tmp_path):
    assert main(["run", "-m", "base=shallow,mlp", "seeds=1", "lift=2,4", *QUICK[2:]]) == 0
    made = sorted(path.name for path in (tmp_path / "results").iterdir())
    both = "comparison_shallow_sine2d_adam_vs_mlp_sine2d_adam"
    assert made == [*(f"{both}.{form}" for form in ("html", "pdf", "png")), "mlp_sine2d_adam", "shallow_sine2d_adam"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_csv_and_a_base_of_ones_own(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "base").mkdir()
    base = problems.group("base", "shallow") | {"name": "mine"}
    (tmp_path / "mine" / "base" / "mine.yaml").write_text(yaml.safe_dump(base))
    rows = "\n".join(f"{i},{i % 7},{(i * i) % 11}" for i in range(60))
    (tmp_path / "my data.csv").write_text("a,b,target value\n" + rows + "\n")
    line = ["base=mine", "dataset=csv", "dataset.path=my data.csv", "dataset.target=target value", "seeds=1", "lift=2"]
    assert main(["run", "--config-dir", "mine", *line, "trainer=adam", "trainer.steps=5", "executor=local"]) == 0
    assert (tmp_path / "results" / "mine_csv_adam" / "study.json").is_file()
    assert main(["show", "--config-dir", "mine", *line, "--save", "drawn.png"]) == 0
    assert (tmp_path / "drawn.png").stat().st_size > 1000
    assert "base graph mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("run lift=1024..16", "lift=1024..16 runs downwards"),
        ("run lift=0..8", "lift=0..8: degree 0 is out of range"),
        ("run lift=16...64", "lift=16...64 is not a sweep"),
        ("run lift=abc", "lift=abc is not a sweep"),
        ("run lift=", "lift= is not a sweep"),
        ("run -m lift=8..4", "lift=8..4 runs downwards"),
        ("run seeds=0", "seeds=0; accepted"),
        ("show base=a/b.yaml", "there is no base=a/b.yaml; available: attention, "),
        ("show base=a/b.yaml", "; base=b --config-dir=DIR takes a file DIR/base/b.yaml"),
        ("show dataset=./my.csv", "; a file is dataset=csv dataset.path=./my.csv"),
        ("run base=mpl", f"there is no base=mpl; available: {BASES}; did you mean 'mlp'?"),
        (
            "run trainer=flow trainer.steps=9",
            "key 'trainer.steps' does not belong to the chosen trainer; it belongs to",
        ),
        ("run trainer.stepz=1", "key 'trainer.stepz' is not known; accepted: trainer."),
        ("run trainer.numbers.tend=1", "key 'trainer.numbers.tend' is not known; `rsl run --cfg job` shows the keys"),
        ("run trainer.classes=3", "trainer.classes=3; accepted: a trainer's keys, e.g. {name: flow, t_end: 1e5}"),
        ("run +trainer.foo=1", "trainer key 'foo' is not known; accepted: numbers, classes, dear"),
        (
            "run trainer.t_end=9",
            "key 'trainer.t_end' does not belong to the chosen trainer; it belongs to trainer=flow",
        ),
        ("run trainer=gd horizons={16:{t_end:1}}", "horizons.16={'t_end': 1}; accepted are keys of trainer gd: steps"),
        ("run +foo=1", "key 'foo' is not known"),
        ("run trainer=adam trainer.steps=abc", "trainer.steps='abc'; accepted"),
        ("run dataset=csv dataset.path=no.csv dataset.target=y", "dataset.path 'no.csv' is not there"),
        ("run results_dir=/proc/none", "cannot write /proc/none"),
        ("run loss=cross_entropy", "needs classes"),
        ("run trainer=lm dataset=digits lift=10000000", " h; ask for fewer or smaller lifts, or steps, or begin with"),
        ("run base.depth=0 base=deep", "base.depth=0"),
        ("run lift=[16", "cannot read 'lift=[16'"),
        ("report nothing", "no study 'nothing' in results; there are: none"),
        ("report", "no study in results"),
        ("show lift=x", "lift=x is not a sweep"),
        ("show base=nope", "there is no base=nope"),
        ("show --save a.gif", "--save a.gif: the ending says the format"),
    ],
)
def test_malformed_lines_get_one_line_and_status_2(line, text, capsys, tmp_path):
    assert main(line.split()) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1 and shown[0].startswith("rsl: ") and text in shown[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", [["frob"], ["run", "--frob"], []])
def test_unknown_commands_and_flags_end_with_status_2(line, capsys):
    with pytest.raises(SystemExit) as caught:
        main(line)
    assert caught.value.code == 2 and "usage" in capsys.readouterr().err


def test_hydra_is_all_there(capsys):
    for line in (
        ["lift=16,48", "--cfg", "job"],
        ["--cfg", "job", "lift=16,48"],
        ["seeds=1", "-c", "job", "lift=16,48"],
    ):
        assert main(["run", *line]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["lift"] == ["16", "48"]


def test_help_says_what_every_key_means(capsys, tmp_path):
    own = tmp_path / "trainer" / "own.yaml"
    own.parent.mkdir()
    own.write_text("# Mine.\nname: own\nrate: 0.5   # of mine\n")
    assert main(["run", "trainer=adam", "--help"]) == 0
    out = capsys.readouterr().out
    assert f"base: {BASES}" in out
    assert "trainer=adam: Adam on minibatches" in out and "trainer.numbers" not in out
    keys = [line for line in out.splitlines() if re.match(r"  [\w.]+=", line)]
    assert len(keys) > 25
    assert [line for line in keys if not re.search(r"\S +\S+ \S", line)] == []
    assert main(["run", "--config-dir", str(tmp_path), "trainer=own", "-h"]) == 0
    assert re.search(r"trainer=own: Mine\.\n +trainer.rate=0.5 +of mine\n", capsys.readouterr().out)


@cache
def made_by(*words):
    """The configuration that words make, composed once; not to be changed."""
    return compose(words)


@pytest.mark.parametrize(
    "path", sorted(problems.CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}={path.stem}"
)
def test_every_shipped_option_composes(path):
    """A line with an option is the defaults but for that group; an experiment is its file over the groups it names."""
    group, option = path.parent.name, path.stem
    config, plain = made_by(f"{group}={option}"), made_by()
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    if group != "experiment":
        assert {key: value for key, value in config.items() if key != group} == {
            key: value for key, value in plain.items() if key != group
        }
        composed_of = written.pop("defaults", None)
        assert composed_of is not None or config[group] == written
        return
    expected = dict(plain)
    for one in written["defaults"]:
        ((name, chosen),) = one.items()
        key = name.rpartition("/")[2]
        expected[key] = made_by(f"{key}={chosen}")[key]
    for key, value in written.items():
        if key in expected and isinstance(value, dict):
            expected[key] = expected[key] | value
        elif key in expected and "${" not in str(value):
            expected[key] = value
    named = {"study"} if "${" in str(written["study"]) else set()
    assert {key: value for key, value in config.items() if key not in named} == {
        key: value for key, value in expected.items() if key not in named
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in problems.CONF.glob("experiment/*.yaml")))
def test_every_experiment_runs_shrunk(name, tmp_path, capsys, monkeypatch):
    """Every run of every study is done, by what the file says, and the verdict is of all of them."""
    # Drawing is the dearest part of a report, and tested elsewhere.
    monkeypatch.setattr("rsl_cli.report.figures.draw_all", lambda drawn, formats: {})
    line = [f"experiment={name}", "lift=2,4,8", "seeds=3"]
    written = yaml.safe_load((problems.CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8"))
    swept = (written.get("hydra") or {}).get("sweeper", {}).get("params", {})
    asked = compose(line)
    trainer = asked["trainer"]["name"]
    # A trainer that stops at the first chance, under the one key they all have where there are several.
    short = {"flow": "trainer.t_end=1e-2", "lm": "trainer.max_steps=5"}.get(trainer, "trainer.steps=5")
    short = "trainer.stationary=10" if name == "adam_versus_flow" else short
    assert main(["run", *line, short, "executor=local"]) == 0
    assert "VERDICT" in capsys.readouterr().out
    studies = sorted((tmp_path / "results").glob("*/study.json"))
    assert len(studies) == math.prod(len(values.split(",")) for values in swept.values())
    for file in studies:
        study, store = json.loads(file.read_text()), load_study(file.parent).store
        for group in ("base", "dataset", "trainer"):
            wanted = asked[group]["name"]
            assert study["config"][group]["name"] in ([wanted] if group not in swept else swept[group].split(","))
        runs = load_study(file.parent).runs
        assert sorted(zip(runs["lift"], runs["seed"], strict=True)) == [(n, s) for n in (2, 4, 8) for s in range(3)]
        assert (runs["status"] == "done").all()
        assert (runs[["train_loss", "test_loss"]] > 0).all(axis=None)
        params = runs.groupby("lift")["params"].mean()
        assert params.is_monotonic_increasing and params.is_unique
        ended = {"lm": "budget", "flow": "time"}.get(study["config"]["trainer"]["name"], "budget")
        assert set(runs["stop_reason"]) <= {ended, "stationary", "target", "stalled"}
        for key in store.planned():
            assert np.isfinite(store.trajectory(key)["loss"]).all()
        verdict = json.loads((file.parent / "report" / "verdict.json").read_text())
        assert verdict["verdict"] in ("falls", "plateaus", "rises", "unfinished", "inconclusive")
        assert verdict["reasons"] and verdict["headline"]
        assert len(pd.read_csv(file.parent / "report" / "runs.csv")) == 9


@pytest.mark.parametrize("name", sorted(path.stem for path in problems.CONF.glob("experiment/*.yaml")))
def test_no_experiment_begins_with_dense_lifts(name):
    spec = StudySpec.from_config(compose([f"experiment={name}"]))
    assert [lift for lift in spec.lifts if is_dense(spec.base, lift, spec.lifting)] == []


@pytest.mark.drawn
def test_a_multirun_and_a_report_on_several_studies_draw_them_together(tmp_path, capsys, monkeypatch):
    # Each study's own figures are tested elsewhere.
    monkeypatch.setattr("rsl_cli.report.figures.draw_all", lambda drawn, formats: {})
    small = ["experiment=adam_versus_flow", "lift=2,4", "seeds=2", "trainer.stationary=10", "dataset.samples=64"]
    assert main(["run", *small, "executor=local"]) == 0
    said = "comparison: results/comparison_versus_adam_vs_versus_flow.html"
    assert f"{said}\n" in capsys.readouterr().out
    picture = tmp_path / "results" / "comparison_versus_adam_vs_versus_flow.png"
    before = picture.read_bytes()
    picture.unlink()
    assert main(["report", "versus_adam", "versus_flow"]) == 0
    assert f"{said}, in place of the one that was there of the same studies\n" in capsys.readouterr().out
    assert picture.read_bytes() == before


def test_help_and_lines_that_are_plainly_wrong_need_no_torch():
    script = (
        "import sys\nfrom rsl_cli.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code in (0, None)\n"
        "assert not {'torch', 'hydra', 'numba', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert [main(['run', word]) for word in ('base=mpl', 'lifts=3', 'lift=abc', 'seeds=0')] == [2] * 4\n"
        "assert not {'torch', 'numba', 'matplotlib', 'pandas'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "COMMAND" in done.stdout, done.stderr


def test_loss_falls_from_small_lifts_to_larger_ones(tmp_path):
    line = [
        "study=falling",
        "lift=2..32",
        "seeds=3",
        "trainer=adam",
        "trainer.steps=300",
        "dataset.samples=2048",
        "executor=local",
    ]
    assert main(["run", *line]) == 0
    verdict = json.loads((tmp_path / "results" / "falling" / "report" / "verdict.json").read_text())
    # Adam shows no limit, so the fall of the losses reached is no verdict; it is there all the same.
    assert verdict["verdict"] == "unfinished"
    steps = [step["exponent"] for step in verdict["local_exponents"]]
    assert len(steps) == 4 and sum(steps) > 4 * 0.5
    assert verdict["fit"]["exponent"] is None
    study = json.loads((tmp_path / "results" / "falling" / "study.json").read_text())
    assert study["line"] == line
    assert any("rsl run" in reason and "trainer=flow" in reason for reason in verdict["reasons"])


@pytest.mark.parametrize("words", [["until=maybe"], ["until=verdict", "budget=soon"], ["budget=15m"]])
def test_a_goal_that_cannot_be_read_is_refused_before_anything_is_written(tmp_path, capsys, words):
    assert main(["run", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words[-1].partition("=")[0] in error
    assert not (tmp_path / "results").exists()


TINY = ["lift=2", "seeds=1", "trainer=adam", "trainer.steps=3", "dataset.samples=64", "executor=local", "theory=none"]


def test_names_that_are_not_ascii(tmp_path):
    rows = "\n".join(f"{i},{i % 7},{(i * i) % 11}" for i in range(60))
    (tmp_path / "häuser.csv").write_text("größe,l'age,true\n" + rows + "\n")
    line = ["dataset=csv", "dataset.path=häuser.csv", "dataset.target=true", "dataset.features=[größe,l'age]"]
    assert main(["run", *line, *TINY[:4], "executor=local", "results_dir=résultats"]) == 0
    assert (tmp_path / "résultats" / "mlp_csv_adam" / "report" / "index.html").is_file()


def test_flags_may_stand_anywhere(tmp_path, capsys):
    assert main(["run", *TINY[:2], "--config-dir", ".", *TINY[2:], "study=s"]) == 0
    assert main(["show", "base=mlp", "--save", "a.svg", "lift=4"]) == 0 and (tmp_path / "a.svg").is_file()
    assert main(["export", "s", "--to", "out", "lift=2", "seed=0"]) == 0
    assert main(["report", "s", "--format", "png", "s"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("words", [["results_dir=there"], ["--results-dir", "there"], ["--results-dir=there"]])
def test_every_command_takes_the_results_folder_both_ways(words, tmp_path, capsys):
    assert main(["run", *TINY, "study=s", *words]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    for line in (["list"], ["report", "s"], ["export", "s", "--to", "there/out"], ["show", *TINY]):
        assert main([*line, *words]) == 0
        assert main([line[0], *words, *line[1:], *(["--force"] if line[0] == "export" else [])]) == 0
    assert "no study" not in capsys.readouterr().out


def test_a_multirun_is_checked_whole_before_anything_trains(tmp_path, capsys):
    assert main(["run", "-m", "lifting.in_degree=2,-8", *TINY]) == 2
    assert list(tmp_path.iterdir()) == [] and "in_degree" in capsys.readouterr().err
    assert main(["run", "-m", "lifting.in_degree=2,4", "study=same", *TINY]) == 2
    assert "study=same is given to studies that differ in lifting.in_degree" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("until=null,foo", "until=foo; accepted: verdict"),
        ("tracker=null,nope", "tracker 'nope' is not known"),
        ("figures=null,[nope.spread]", "figures=nope.spread: cannot import nope"),
        ("executor=local,slurm", "executor=slurm"),
    ],
)
def test_what_is_asked_beside_each_study_of_a_multirun_is_known_first(word, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert main(["run", "-m", word, *(own for own in TINY if not own.startswith("executor"))]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_default_names_carry_what_differs_and_equal_lines_go_on(tmp_path, capsys):
    line = ["run", "-m", "lifting.in_degree=2,4", *TINY]
    assert main(line) == 0
    names = {path.name for path in (tmp_path / "results").glob("*/")}
    assert {"mlp_sine2d_adam", "mlp_sine2d_adam_in_degree4"} <= names
    out = capsys.readouterr().out
    assert "named apart from study mlp_sine2d_adam, which differs in lifting.in_degree" in out
    assert main(line) == 0
    assert capsys.readouterr().out.count("nothing to do") == 2
    assert main(["run", "lift=2,4", *TINY[1:], "lifting.in_degree=4"]) == 0, "a study grows under the name it has"
    assert "1 of 2 runs to do" in capsys.readouterr().out
    assert main(["run", *TINY, "trainer.learning_rate=0.5", "lifting.in_degree=2"]) == 0
    assert (tmp_path / "results" / "mlp_sine2d_adam_learning_rate0.5" / "study.json").is_file()


def test_a_report_that_fails_leaves_word_of_the_runs(tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise OverflowError(34, "Numerical result out of range")

    with monkeypatch.context() as patch:
        patch.setattr("rsl_cli.report.write_report", broken)
        assert main(["run", *TINY, "study=s"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert "the runs are kept, but not reported" in lines[-1] and "`rsl report results/s` reports again" in lines[-1]
    assert main(["report", "results/s"]) == 0


def test_a_fault_of_rsl_ends_with_70_and_keeps_its_traceback(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise TypeError("two\nlines")

    monkeypatch.setattr("rsl_cli.study.studies.find_studies", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["list"]) == 70
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("rsl: TypeError: two lines: a fault of rsl, not of your input; its traceback is in ")
    [kept] = tmp_path.glob("rsl-fault-*.txt")
    assert str(kept) in line and "in broken" in kept.read_text()


def test_references_go_by_name_but_are_nobodys_own(tmp_path, capsys):
    write_json(tmp_path / "results" / "reference" / "known" / "study.json", {})
    assert main(["list"]) == 0
    assert "no study in results;" in (shown := capsys.readouterr().out) and "known (`rsl list results_dir=" in shown
    assert main(["report"]) == 2 and "no study in results;" in capsys.readouterr().err
    assert main(["report", "knwn"]) == 2 and "did you mean 'known'?" in capsys.readouterr().err
    assert main(["list", "results_dir=results/reference"]) == 1 and "known" in capsys.readouterr().out


@pytest.mark.slow
def test_what_happens_around_a_line_is_not_its_configuration(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"import os, sys; os.rmdir({str(gone)!r}); from rsl_cli.cli import main; sys.exit(main(['run']))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=gone, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("rsl: the current folder is not there"), done.stderr
    # A closed standard error, a reader that leaves after a line, and a notebook's backend.
    (tmp_path / "undrawn.py").write_text(
        "import sys\nfrom rsl_cli.report import canvas\n"
        "canvas.render = lambda drawing, formats: dict.fromkeys(formats, b'')\n"
        "from rsl_cli.cli import main\nsys.exit(main())\n"
    )
    shell = f"{sys.executable} undrawn.py run {' '.join(TINY)}"
    notebook = environment | {"MPLBACKEND": "module://not_here.backend_inline"}
    for study, ending in (("closed", "2>&-"), ("piped", "| head -1"), ("full", ">/dev/full")):
        line = f"set -o pipefail; {shell} study={study} {ending}"
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=notebook, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "results" / study / "report" / "index.html").is_file()
