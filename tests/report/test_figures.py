"""Figures of a user's own."""

import sys

import pytest

from rsl_cli.errors import ConfigError
from rsl_cli.report.figures import own_figures
from rsl_cli.study.store import StudyStore

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

def broken(store):
    return store.losses
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    (tmp_path / "my_figures.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    store = StudyStore(tmp_path / "study")
    store.write_study({"config": {}, "identity": {}, "plan": {"runs": []}})
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
