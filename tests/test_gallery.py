"""The gallery: every item composes, has a section of the manual, and says what its committed studies say."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from rsl_cli.cli import main
from rsl_cli.report import judge
from rsl_cli.report.read import read_runs
from rsl_cli.study.studies import open_study

ROOT = Path(__file__).parents[1]


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reproduce, _, gallery_facts = map(_script, ("reproduce", "gallery_numbers", "gallery_facts"))
GALLERY = reproduce.gallery()
PACKED = sorted(path.parent.name for path in reproduce.REFERENCE.glob("*/studies.tar.xz"))


def test_every_item_is_explained_and_every_packed_study_listed():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    for name in GALLERY:
        assert f"`make reproduce STUDY={name}`" in page, name
    assert set(PACKED) <= set(GALLERY)
    for path in reproduce.REFERENCE.glob("*/*.png"):
        assert f"results/reference/gallery/{path.parent.name}/{path.name}" in page, path


@pytest.mark.parametrize("name", GALLERY)
def test_every_line_composes_to_studies_of_its_own(name):
    item = GALLERY[name]
    experiment = ROOT / "conf" / "experiment" / f"{item.experiment or name}.yaml"
    assert yaml.safe_load(experiment.read_text(encoding="utf-8"))["study"]
    names = item.studies
    assert len(names) >= len(item.lines)
    assert set(item.names or {}) <= set(names) and {one.partition("/")[0] for one in item.figures} <= set(names)
    assert set(reproduce.committed(item)) <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKED)
def test_what_is_committed_is_what_its_runs_say(name, tmp_path):
    folder, item = reproduce.REFERENCE / name, GALLERY[name]
    reproduce.unpack(folder / "studies.tar.xz", tmp_path)
    said = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    found = {study: judge(tmp_path / study) for study in item.studies}
    studies = [read_runs(open_study(tmp_path / study)) for study in item.studies]
    assert not [fault for study in studies for fault in study.faults]
    assert reproduce.claims(item, studies, found) == said
    assert reproduce.table(item, studies, found) == (folder / "table.md").read_text(encoding="utf-8")
    page = gallery_facts.page()
    assert not [fact for fact in gallery_facts.facts(name, tmp_path) if fact not in page]


@pytest.mark.parametrize("name", sorted(set(GALLERY) - set(PACKED)))
def test_what_the_page_says_of_studies_committed_as_they_are(name, tmp_path):
    page = gallery_facts.page()
    assert not [fact for fact in gallery_facts.facts(name, tmp_path) if fact not in page]


@pytest.mark.parametrize(
    "folder", sorted(ROOT.glob("results/reference/*/study.json")), ids=lambda path: path.parent.name
)
def test_studies_that_are_committed_as_they_are_say_so_still(folder):
    said = json.loads((folder.parent / "report" / "verdict.json").read_text(encoding="utf-8"))
    assert judge(folder.parent).verdict == said["verdict"]


def test_a_figure_that_the_page_has_otherwise_is_marked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gallery_facts.py", "pac"])
    assert gallery_facts.main() == 0 and "not in the page" not in capsys.readouterr().out
    other = tmp_path / "gallery.md"
    other.write_text(gallery_facts.PAGE.read_text(encoding="utf-8").replace("0, 15, 70,", "0, 16, 70,"))
    monkeypatch.setattr(gallery_facts, "PAGE", other)
    assert gallery_facts.main() == 1
    marked = [line for line in capsys.readouterr().out.splitlines() if "not in the page" in line]
    assert len(marked) == 1 and "0, 15, 70, 99 and 100 of 100" in marked[0]


@pytest.mark.parametrize(
    ("value", "digits", "written"),
    [
        (4.82e-4, 2, "4.8e-4"),
        (3e-4, 2, "3e-4"),
        (0.0163, 2, "0.016"),
        (114.4, 3, "114"),
        (0.0, 2, "0"),
        (2e5, 1, "2e5"),
    ],
)
def test_numbers_are_written_as_the_page_has_them(value, digits, written):
    assert gallery_facts.number(value, digits) == written
    assert gallery_facts.listed(["a", value, 3]) == f"a, {gallery_facts.number(value)} and 3"


def test_another_verdict_than_the_committed_one_is_told(capsys):
    now = {"a": {"verdict": "falls", "success": "rises"}, "b": {"verdict": "rises"}, "c": {"verdict": "falls"}}
    before = {"a": {"verdict": "falls", "success": "none"}, "b": {"verdict": "rises"}}
    assert not reproduce.compare(before, now)
    assert capsys.readouterr().out.splitlines() == [
        "a: verdict falls (as committed)",
        "a: success rises (committed: none)",
        "b: verdict rises (as committed)",
        "c: verdict falls (new)",
    ]
    assert reproduce.compare({"a": {"verdict": "falls"}}, now)


@pytest.mark.slow
def test_an_item_is_run_judged_drawn_and_packed(tmp_path, monkeypatch, capsys):
    """From nothing to a reference, and from the reference back to the same verdict."""
    table = tmp_path / "gallery.yaml"
    small = "seeds=3 lift=4,6,8 dataset.samples=64 trainer.t_end=1 executor=local theory=coordinates"
    entry = {"experiment": "sizes", "epsilon": 1.0, "by_params": True, "lines": [f"study=small {small}"]}
    table.write_text(yaml.safe_dump({"one": entry | {"figures": ["small/coordinates"], "names": {"small": "two"}}}))
    monkeypatch.setattr(reproduce, "TABLE", table)
    monkeypatch.setattr(reproduce, "gallery", reproduce.gallery.__wrapped__)  # Which keeps what it has read.
    monkeypatch.setattr(reproduce, "REFERENCE", tmp_path / "reference" / "gallery")
    # In this process, and without the figures of the study's own report, which take the longest.
    here = SimpleNamespace(run=lambda words, check: main(words[3:]))
    monkeypatch.setattr(reproduce, "subprocess", here)
    monkeypatch.setattr("rsl_cli.report.figures.draw_all", lambda drawn, formats: {})
    results = tmp_path / "results"
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "one", "--keep", "--results-dir", str(results)])
    assert reproduce.main() == 0 and "(as committed)" in capsys.readouterr().out
    folder = tmp_path / "reference" / "gallery" / "one"
    files = {"figure.png", "small_coordinates.png", "table.md", "verdicts.json", "studies.tar.xz"}
    assert {path.name for path in folder.iterdir()} == files
    text = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(text) == 3 and text[2].startswith("| two |") and "4: 3/3, 6: 3/3, 8: 3/3" in text[2]
    before = (folder / "studies.tar.xz").read_bytes()
    reproduce.pack([results / "small"], folder / "studies.tar.xz")
    assert (folder / "studies.tar.xz").read_bytes() == before
    reproduce.unpack(folder / "studies.tar.xz", tmp_path / "again")
    study = json.loads((tmp_path / "again" / "small" / "study.json").read_text(encoding="utf-8"))
    assert study["config"]["results_dir"] == "results" and str(tmp_path) not in json.dumps(study)
    assert judge(tmp_path / "again" / "small").headline == judge(results / "small").headline
    # Another verdict than what was found.
    said = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    (folder / "verdicts.json").write_text(json.dumps({"small": said["small"] | {"verdict": "rises"}}))
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "one", "--results-dir", str(results)])
    assert reproduce.main() == 1 and "(committed: rises)" in capsys.readouterr().out
