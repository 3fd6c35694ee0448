import json
from pathlib import Path

import matplotlib.image
import numpy as np
import problems
import pytest
import torch

import rsl_cli as rsl
from rsl_cli.cli import main
from rsl_cli.errors import ConfigError, StoreError

WORDS = {"lift": "2..8", "seeds": 3, "trainer": "adam", "executor": "local"}
SMALL = ["trainer.steps=20", "dataset.samples=256", "dataset.test_samples=64"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_notebook_and_the_command_line_go_on_with_each_other(tmp_path, capsys):
    study = rsl.study(*SMALL, base="mlp", **WORDS)
    assert "Nothing has been trained yet" in study._repr_html_()
    with pytest.raises(StoreError, match=r"study 'mlp_sine2d_adam' has nothing yet; its run\(\) trains it"):
        _ = study.runs
    assert study.run(first=True) is study
    shown = capsys.readouterr().out
    assert "1 of 9 runs to do" in shown and "8 runs are left for the same line without --first" in shown
    assert len(study.runs) == 1
    line = [*SMALL, *(f"{key}={value}" for key, value in WORDS.items())]
    assert main(["run", "base=mlp", *line]) == 0
    assert "8 of 9 runs to do" in capsys.readouterr().out
    study.run()
    assert "nothing to do: all 9 runs are done" in capsys.readouterr().out
    assert set(study.runs["lift"]) == {2, 4, 8} and not study.failed
    stored = json.loads((tmp_path / "results" / "mlp_sine2d_adam" / "study.json").read_text())
    assert "base=mlp" in stored["line"]
    assert study.verdict == rsl.judge("results/mlp_sine2d_adam")
    shown = study._repr_html_()
    assert study.verdict.headline in shown and shown.count("<tr") == 4


def test_first_on_the_command_line_trains_one_run_and_no_other(tmp_path, capsys):
    line = [*SMALL, *(f"{key}={value}" for key, value in WORDS.items())]
    assert main(["run", "--first", *line]) == 0
    assert ", when the steps ran out, at loss" in capsys.readouterr().out
    root = tmp_path / "results" / "mlp_sine2d_adam"
    assert len(list(root.glob("runs/**/record.json"))) == 1 and not (root / "report").exists()
    assert main(["list"]) == 0
    assert capsys.readouterr().out.split()[-6:] == ["1", "0", "8", "no", "report", "yet"]


def test_networks_and_figures_come_from_what_is_stored(tmp_path):
    study = rsl.study(*SMALL, **WORDS).run()
    network = rsl.load_study("results/mlp_sine2d_adam").network(8, 2)
    assert network.lift.degree == 8
    for name, value in study.state(8, 2).items():
        assert torch.equal(dict(network.named_parameters())[name].cpu(), torch.as_tensor(value))
    assert len(study.trajectory(8, 2)) > 2
    with pytest.raises(StoreError, match="has no run of lift 3, seed 0"):
        study.network(3, 0)
    figure = study.plot.loss(by="lift")
    (axes, *_) = figure.axes
    axes.set_title("as one likes it")
    figure.savefig(tmp_path / "own.png")
    assert matplotlib.image.imread(tmp_path / "own.png").shape[:2] == (736, 1344)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert set(dir(study.plot)) >= {"loss", "isochrones", "success", "trajectories"}
    assert study.plot.success().axes
    with pytest.raises(AttributeError, match="no figure 'lose'; there are loss, "):
        study.plot.lose()
    with pytest.raises(ConfigError, match=r"plot.loss\(by='n'\); accepted: params or lift"):
        study.plot.loss(by="n")
    assert not (tmp_path / "results" / "mlp_sine2d_adam" / "report").exists()
    page = study.report(formats=["svg"])
    assert page == Path("results/mlp_sine2d_adam/report/index.html") and page.is_file()


def test_a_mapping_stands_for_a_whole_group():
    base = problems.group("base", "shallow") | {"name": "mine"}
    trainer = {"name": "adam", "steps": 5, "batch_size": None}
    study = rsl.study(*SMALL[1:], base=base, trainer=trainer, lift=[2, 3], seeds=[4], executor="local").run()
    assert study.store.name == "mine_sine2d_adam"
    assert study.runs["steps"].tolist() == [5, 5] and study.runs["seed"].tolist() == [4, 4]
    again = rsl.load_study(study.store.root)
    assert again.config["base"]["name"] == "mine" and again.run().store.root.name == "mine_sine2d_adam"


def waves(n: int = 60):
    x = np.linspace(-1, 1, 2 * n)[:, None]
    return x[::2], np.sin(x[::2]), x[1::2], np.sin(x[1::2])


class Plain(rsl.Optimizer):
    def direction(self, gradient, theta, states, numbers):
        return gradient


def squares(outputs, targets):
    return (outputs - targets).square().sum(1)


class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def spread(store):
    return None


def test_functions_and_classes_of_a_module_stand_for_their_names(capsys):
    rest = {"lift": "2,4", "seeds": 1, "executor": "local"}
    study = rsl.study(dataset=waves, trainer=Plain, figures=[spread], loss=squares, **rest)
    named = [f"{key}.target=test_notebook.{name}" for key, name in (("dataset", "waves"), ("trainer", "Plain"))]
    words = ["dataset=target", "trainer=target", *named, "figures=[test_notebook.spread]", "loss=test_notebook.squares"]
    assert study.config == rsl.study(*words, **rest).config
    assert study.store.name == "mlp_waves_Plain"
    assert rsl.study(base=Net, trainer=torch.optim.SGD, lift=2, seeds=1).store.name == "Net_sine2d_SGD"


def test_a_group_that_is_left_out_is_told_in_words_of_python(tmp_path):
    with pytest.raises(ConfigError, match=r"base is not set; a group is needed: .* in rsl_cli\.study, which know"):
        rsl.run_study({"trainer": {"name": "adam"}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "keys", "text"),
    [
        (["-m"], {}, r"study\('-m'\); accepted: words key=value"),
        ([], {"base": "mpl"}, "there is no base=mpl; available: .*did you mean 'mlp'"),
        ([], {"lifts": 3}, "key 'lifts' is not known"),
        ([], {"until": "falls"}, "until=falls; accepted: verdict"),
        ([], {"loss": lambda outputs, targets: 0}, r"loss=<function .*: .* put it into a module and write loss='mod"),
        ([], {"base": torch.nn.Linear(2, 1)}, r"base=Linear\(.*: .* write base='module.name'"),
        ([], {"lift": {2, 4}}, r"lift={2, 4}: is a set; accepted: text, a number"),
        ([], {"figures": ["nope.spread"]}, r"figures=nope.spread: cannot import nope"),
        ([], {"lift": [0, 2]}, r"lift=\[0,2\]: degree 0 is out of range"),
    ],
)
def test_what_makes_no_study_is_refused_as_on_the_command_line(words, keys, text, tmp_path):
    with pytest.raises(ConfigError, match=text):
        rsl.study(*words, **keys)
    assert not list(tmp_path.iterdir())
