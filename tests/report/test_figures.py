"""Figures of a user's own."""

import shutil
import sys

import pytest
from fake_study import make_study
from matplotlib.figure import Figure

from rsl_cli.errors import ConfigError
from rsl_cli.report import write_report
from rsl_cli.report.figures import named_figures, own_figures
from rsl_cli.report.watch import SECONDS, watch
from rsl_cli.study.files import write_json
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import StudyStore
from rsl_cli.testing import check_figure

MINE = """
import matplotlib.figure

def spread(store):
    figure = matplotlib.figure.Figure()
    figure.subplots().set_title(store.name)
    return figure

def nothing(store):
    return None

def number(store):
    return 3

def kappa(store):
    return None

def broken(store):
    return store.losses
"""


TINY = {
    "name": "tiny",
    "vertices": {"x": {"kind": "input"}, "h": {"kind": "hidden", "activation": "tanh"}, "y": {"kind": "output"}},
    "edges": [{"source": "x", "target": "h", "map": "linear"}, {"source": "h", "target": "y", "map": "scale"}],
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    (tmp_path / "my_figures.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    store = StudyStore(tmp_path / "study")
    store.create({"config": {}, "identity": {}, "plan": {"runs": []}})
    yield store
    sys.modules.pop("my_figures", None)


def test_figures_are_drawn_by_name(study):
    drawn = own_figures(study, ["my_figures.spread", "my_figures.nothing"])
    assert list(drawn) == ["spread"] and drawn["spread"].axes[0].get_title() == "study"
    assert own_figures(study, []) == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_figures.number", "figure my_figures.number: gives a int; accepted: a matplotlib figure or None"),
        ("my_figures.broken", "figure my_figures.broken: fails with AttributeError"),
        ("my_figures.none", "figure=my_figures.none: my_figures has no none"),
        ("my_none.figure", "figure=my_none.figure: cannot import my_none: ModuleNotFoundError"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_one_line(study, name, message):
    with pytest.raises(ConfigError) as caught:
        own_figures(study, [name])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_contract_of_a_figure(tmp_path):
    asked = []

    def spread(store):
        asked.append([record.lift for record in store.records()])
        figure = Figure()
        figure.subplots().plot(asked[-1])
        return figure

    check_figure(spread)
    assert asked == 2 * [[4, 4, 8, 8]]
    # Of a study that is there already: none needs to be trained again.
    made = make_study(tmp_path / "made", lambda params, lift: 50 / params, lifts=(16, 32), seeds=1).root
    check_figure(lambda store: None, made)
    with pytest.raises(ConfigError, match="another one when drawn again; it must not depend on chance"):
        check_figure(lambda store: spread(store) if len(asked) < 3 else None, made)
    with pytest.raises(ConfigError, match="gives a int; accepted: a matplotlib figure or None"):
        check_figure(lambda store: 3, made)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spraed", "figures 'spraed' is not known"),
        ("my_figures.none", "figures=my_figures.none: my_figures has no none"),
        ("my_figures.matplotlib", "figures=my_figures.matplotlib: accepted: a function of a stored study"),
        ("my_figures.kappa", "figures=my_figures.kappa: every report has a figure of that name"),
    ],
)
def test_a_name_is_known_before_anything_trains(study, name, message):
    with pytest.raises(ConfigError) as caught:
        named_figures({"figures": [name]})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_key_is_a_list_of_names_and_no_part_of_a_run(study):
    small = {"base": TINY, "lift": 2, "seeds": 1, "dataset": {"name": "sine2d", "samples": 8, "test_samples": 8}}
    small |= {"lifting": {"kind": "random", "in_degree": 2}, "trainer": {"name": "flow"}}
    plain = StudySpec.from_config(small)
    drawn = StudySpec.from_config({**small, "figures": "my_figures.spread"})
    assert named_figures(drawn.config) == ["my_figures.spread"] and drawn.identity == plain.identity
    with pytest.raises(ConfigError, match=r"figures=3; accepted: null or a list of names"):
        StudySpec.from_config({**small, "figures": 3})


def test_own_figures_stand_in_the_page_and_beside_it(tmp_path, study):
    store = make_study(tmp_path / "made", lambda params, lift: 50 / params, lifts=(16, 32, 64), seeds=3)
    whole = store.read_study()
    write_json(store.study_file, {**whole, "config": {**whole["config"], "figures": ["my_figures.spread"]}})
    write_report(store, formats=("pdf",))
    assert (store.report_dir / "spread.pdf").read_bytes().startswith(b"%PDF")
    page = (store.report_dir / "index.html").read_text()
    assert '<img src="data:image/png;base64,' in page and 'alt="spread' in page


def test_a_running_study_is_watched_until_its_last_run(tmp_path):
    whole = make_study(tmp_path / "whole", lambda params, lift: 50 / params, lifts=(16, 32, 64), seeds=3)
    absent = [(64, seed) for seed in range(3)]
    running = make_study(tmp_path / "s", lambda params, lift: 50 / params, lifts=(16, 32, 64), seeds=3, missing=absent)
    lines, waits = [], []

    def pause(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            for key in whole.planned():
                shutil.copytree(whole.run_dir(key), running.run_dir(key), dirs_exist_ok=True)

    watch(running, lines.append, pause=pause)
    assert [line.partition(":")[0] for line in lines] == ["6 of 9 runs", "9 of 9 runs"]
    assert waits == [SECONDS] * 3
    page = (running.report_dir / "index.html").read_text()
    assert f'"refresh":{SECONDS}' in page and not list(running.report_dir.glob("*.png"))
    write_report(running, formats=())
    assert '"refresh":null' in (running.report_dir / "index.html").read_text()
