"""Figures of a user's own."""

import itertools
import json
import re
import shutil
import sys
from pathlib import Path

import altair as alt
import pytest
from fake_study import make_study
from matplotlib.figure import Figure

from rsl_cli.errors import ConfigError
from rsl_cli.report import write_report
from rsl_cli.report.evidence import Evidence
from rsl_cli.report.figures import FIGURES, SHIPPED, ReportFigure, made_figures, named_figures
from rsl_cli.report.read import read_runs
from rsl_cli.report.watch import SECONDS, watch
from rsl_cli.study.files import write_json
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import StudyStore
from rsl_cli.study.studies import open_study
from rsl_cli.testing import check_figure

MINE = """
import altair
import matplotlib.figure
from rsl_cli.report.figures import ReportFigure

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

def leaves(store):
    raise SystemExit(3)

def points(found):
    rows = [{"size": run.params, "end": run.train_loss} for run in found.runs.done]
    return altair.layer(altair.Chart(altair.InlineData(rows)).mark_point().encode(x="size:Q", y="end:Q"))

def fill(figure, title, found):
    figure.subplots().set_title(f"{title} {found.store.name}")

whole = ReportFigure("How far apart?", "Every run's end.", fill, points, table="points")
never = ReportFigure("Never?", "", fill, when=lambda found: False)
lost = ReportFigure("Lost?", "", fill, lambda found: found.losses)
wrong = ReportFigure("Wrong?", "", lambda figure, title, found: figure.none)
chart = ReportFigure("A chart alone?", "", chart=points)
"""


TINY = {
    "name": "tiny",
    "vertices": {"x": {"kind": "input"}, "h": {"kind": "hidden", "activation": "tanh"}, "y": {"kind": "output"}},
    "edges": [{"source": "x", "target": "h", "map": "linear"}, {"source": "h", "target": "y", "map": "scale"}],
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    root = tmp_path_factory.mktemp("results") / "flow"
    return make_study(root, lambda params, lift: 50 / params, lifts=(8, 16, 32), seeds=2, flow=True, measured=True).root


@pytest.fixture
def study(tmp_path, monkeypatch):
    (tmp_path / "my_figures.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    store = StudyStore(tmp_path / "study")
    store.create({"config": {}, "identity": {}, "plan": {"runs": []}})
    yield store
    sys.modules.pop("my_figures", None)


def own(store, *names):
    """The figures of those names on a study, and a line for each that cannot be drawn."""
    made, undrawn = made_figures(Evidence(store, read_runs(store), {}), {"figures": names})
    assert [one.name for one in made[: len(SHIPPED)]] == list(SHIPPED)
    return made[len(SHIPPED) :], undrawn


def test_figures_are_drawn_by_name(study):
    (spread, nothing), undrawn = own(study, "my_figures.spread", "my_figures.nothing")
    assert (spread.name, spread.figure.title, nothing.name) == ("spread", "spread", "nothing")
    assert spread.drawing.axes[0].get_title() == "study" and nothing.drawing is None and undrawn == []
    assert own(study) == ([], [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_figures.number", "figure my_figures.number: gives a int; accepted: a matplotlib figure or None"),
        ("my_figures.broken", "figure my_figures.broken: fails with AttributeError"),
        ("my_figures.leaves", "figure my_figures.leaves: fails with SystemExit: 3"),
        ("my_figures.none", "figures=my_figures.none: my_figures has no none"),
        ("my_none.figure", "figures=my_none.figure: cannot import my_none: ModuleNotFoundError"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_one_line(study, name, message):
    made, (line,) = own(study, name)
    assert made == [] and message in line and "\n" not in line


@pytest.mark.drawn
def test_a_figure_that_cannot_be_written_keeps_no_other_from_it(study, measured):
    Path("bad_figures.py").write_text(
        "import altair\nfrom my_figures import ReportFigure, fill\n"
        "def title(store):\n    from matplotlib.figure import Figure\n"
        "    figure = Figure()\n    figure.suptitle(r'$\\frac{$')\n    return figure\n"
        "def points(found): return altair.Chart(altair.InlineData([{'a': float('nan')}])).mark_point()\n"
        "nan = ReportFigure('A?', 'b', chart=points)\nuntold = ReportFigure('A?', None, fill)\n"
    )
    made, undrawn = made_figures(
        Evidence.of(StudyStore(measured)), {"figures": [f"bad_figures.{name}" for name in ("title", "nan", "untold")]}
    )
    assert [one.name for one in made] == list(SHIPPED) and len(undrawn) == 3
    told = (
        "fails with ValueError: ",
        "fails with ValueError: Out of range float",
        "title, text and table are to be texts",
    )
    assert all(message in line and "\n" not in line for message, line in zip(told, undrawn, strict=True))
    sys.modules.pop("bad_figures")


@pytest.mark.drawn
def test_the_contract_of_a_figure(tmp_path):
    asked, count = [], itertools.count()

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

    def counting(found):
        return alt.Chart(alt.InlineData([{"x": next(count)}])).mark_point().encode(x="x:Q")

    changing = (
        ReportFigure("Which?", "", lambda figure, title, found: figure.subplots().set_title(next(count))),
        ReportFigure("Which?", "", chart=counting),
    )
    for figure in changing:
        with pytest.raises(ConfigError, match=r"figure Which\?: is another one when drawn again"):
            check_figure(figure, made)


@pytest.mark.drawn
@pytest.mark.parametrize("name", SHIPPED)
def test_every_figure_that_ships_keeps_the_contract(measured, name):
    assert SHIPPED[name] is FIGURES[name] and SHIPPED[name].title.endswith("?") and SHIPPED[name].text
    assert SHIPPED[name].drawing(Evidence.of(open_study(measured))) is not None
    check_figure(FIGURES[name], measured)


def test_a_figure_of_ones_own_has_a_caption_and_a_chart_too(tmp_path, study):
    store = make_study(tmp_path / "made", lambda params, lift: 50 / params, lifts=(16, 32, 64), seeds=3)
    whole = store.read_study()
    names = [f"my_figures.{name}" for name in ("whole", "never", "lost", "wrong", "chart", "spread")]
    write_json(store.study_file, {**whole, "config": {**whole["config"], "figures": names}})
    undrawn = write_report(store, formats=("pdf",))["undrawn"]
    assert [line.partition(":")[0] for line in undrawn] == ["figure my_figures.lost", "figure my_figures.wrong"]
    assert all("fails with AttributeError" in line for line in undrawn)
    page = (store.report_dir / "index.html").read_text()
    payload = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    for name in ("whole", "chart"):
        spec = payload["charts"][name]
        alt.LayerChart.from_dict(spec)
        assert [list(row) for row in spec["datasets"][spec["data"]["name"]]] == 9 * [["size", "end"]]
        assert f'data-chart="{name}"' in page
    assert "<h3>How far apart?</h3>" in page and "<figcaption>Every run&#39;s end.</figcaption>" in page
    assert page.count('<img src="data:image/png') == 1 and 'alt="spread' in page and 'id="never"' not in page
    files = {path.name for path in store.report_dir.glob("*.pdf")}
    assert {"whole.pdf", "spread.pdf"} <= files and not {"never.pdf", "lost.pdf", "chart.pdf"} & files


def test_what_a_plugin_names_as_a_shipped_figure_is_one_line(study, tmp_path):
    (tmp_path / "my_kappa.py").write_text("import rsl_cli\n\n@rsl_cli.FIGURES.add('kappa')\ndef mine(store): ...\n")
    with pytest.raises(ConfigError, match="plugins=my_kappa: figure 'kappa' of my_kappa: accepted: a name "):
        named_figures({"plugins": ["my_kappa"]})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kappa", "figures=kappa: every report has a figure of that name"),
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


@pytest.mark.drawn
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
