"""Every command and snippet of the README and the manual runs, a page at a time; studies are shrunk."""

import contextlib
import importlib.util
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

import object_store
import pytest
import yaml

import rsl_cli as rsl
import rsl_cli.track
from rsl_cli.cli import main
from rsl_cli.configuration import compose_line
from rsl_cli.notebook import Study
from rsl_cli.train.trajectory import COLUMNS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_generated" not in path.parts)]
TOC = re.compile(r"^```\{toctree\}\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OF = Study.of
OTHERS = ("python3.11 -m venv ", "pip install ")
"""What a page may say beside `rsl`, and what is not run here."""
OWN_WORDS = (
    "lift",
    "seeds",
    "dataset.samples",
    "trainer.t_end",
    "trainer.numbers.t_end",
    "until",
    "budget",
    "trainer.steps",
    "horizons",
)


def blocks(page: Path) -> list[tuple[str, str]]:
    return [
        (kind, text)
        for kind, text in BLOCK.findall(page.read_text(encoding="utf-8"))
        if kind in ("sh", "python", "yaml")
    ]


def shrunk(words: list[str]) -> list[str]:
    """A line that trains next to nothing, in a study of the name that the whole line gives it."""
    flags = [word for word in words if word.startswith("-") or word in ("my_conf",)]
    kept = [word for word in words if word not in flags and word.partition("=")[0] not in OWN_WORDS]
    lifts = next((word for word in words if word.startswith("lift=")), "lift=4..16")
    asked = compose_line([*(flag for flag in flags if flag != "--first"), *kept])
    trainers = {one.config["trainer"]["name"] for one in asked}
    small = ["seeds=1", "executor=local", lifts if "4..16" in lifts or "4..32" in lifts else "lift=2,4"]
    if any(one.config["dataset"]["name"] in ("sine2d", "teacher") for one in asked):
        small.append("dataset.samples=96")
    if len(trainers) > 1:
        small.append("trainer.stationary=10")
    else:
        short = {
            "flow": ["trainer.t_end=1"],
            "lm": ["trainer.max_steps=2"],
            "auto": ["trainer.numbers.t_end=1", "trainer.classes.t_end=1"],
        }
        small += short.get(trainers.pop(), ["trainer.steps=2"])
    return [*flags, *kept, *small]


def said(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def run(line: str) -> None:
    command, *words = said(line)[1:]
    if command == "run":
        compose_line([word for word in words if word != "--first"])  # The whole line is one, too.
        words = shrunk(words)
    status = main([command, *words])
    assert status == 0 or (command == "report" and status == 1), line


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mine", "parts"):  # Several pages write one.
        monkeypatch.delitem(sys.modules, name, raising=False)
    # What a page adds by name is of that page alone.
    for registry in (rsl.ACTIVATIONS, rsl.COMBINES, rsl.NORMS, rsl.POOLS, rsl.EDGE_MAPS, rsl.LOSSES, rsl.DATASETS):
        for held in ("_parts", "_homes"):
            monkeypatch.setattr(registry, held, dict(getattr(registry, held)))
    monkeypatch.setattr("rsl_cli.notebook.Study.of", small_study)
    # Drawing is the dearest part of a line, and tested elsewhere.
    monkeypatch.setattr("rsl_cli.report.figures.draw_all", lambda drawn, formats: {}, raising=False)
    monkeypatch.setattr("rsl_cli.report.write_comparison", lambda *_, **__: "not drawn")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    return tmp_path


PLAIN = "rooms,price\n" + "".join(f"{i},{i % 5}.5\n" for i in range(60))
RICH = "id,rooms,colour,price\n" + "".join(
    f"{i},{i % 7 or ''},{'red' if i % 3 else 'blue'},{i % 11}.5\n" for i in range(60)
)


@pytest.fixture
def bucket():
    """What pages call ``s3://bucket``, where it can be had."""
    with object_store.served() if object_store.HERE else contextlib.nullcontext():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_runs(page, folder, monkeypatch, request):
    if any("s3://" in text for _, text in blocks(page)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        request.getfixturevalue("bucket")
    names: dict[str, object] = {"__name__": "page"}
    for kind, text in blocks(page):
        title = re.match(r"# ([\w/]+\.(?:py|yaml))\n", text)
        if title:
            path = folder / title[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if kind == "yaml":
                assert yaml.safe_load(text)
        elif kind == "python":
            if "s3://" in text and not object_store.HERE:
                continue
            exec(compile(text, str(page), "exec"), names)
        else:
            for line in text.splitlines():
                (folder / "houses.csv").write_text(RICH if "dataset.drop" in line else PLAIN)
                if "s3://" in line and not object_store.HERE:
                    continue
                if "tensorboard" in line and importlib.util.find_spec("tensorboard") is None:
                    continue
                if line.startswith("rsl "):
                    run(line)
                else:
                    assert not line or line.startswith(OTHERS), line


def small_study(*words, **keys):
    """What `rsl.study` gives, to train next to nothing; of a long sweep, the lifts that pages look at."""
    assert OF(*words, **keys).store.name
    keys |= {"lift": "16,64"} if keys.get("lift") == "16..256" else {}
    kept = [word for word in words if word.partition("=")[0] not in OWN_WORDS]
    keys = {key: value for key, value in keys.items() if key not in ("seeds", "until", "budget")}
    short = [] if "trainer" in keys else ["trainer.numbers.t_end=1"]
    return OF(*kept, *short, "seeds=1", "executor=local", "dataset.samples=96", **keys)


def test_there_is_one_version_and_the_readme_is_short():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    head = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert head is not None and head[1] == version
    assert len((ROOT / "README.md").read_bytes()) <= 5000


def test_every_page_is_in_the_site_and_every_link_leads_somewhere():
    listed = {line for page in PAGES for block in TOC.findall(page.read_text()) for line in block.split("\n") if line}
    for page in PAGES[1:]:
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name == "index" or name.removeprefix("howto/") in listed or name in listed, name
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+?)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_python_reference_promises_what_there_is():
    shown = re.findall(r"^\.\. auto(?:class|function):: (\S+)", (ROOT / "docs/python.md").read_text(), re.MULTILINE)
    beside = {"Plots", "ReportFigure", "Evidence", "track", "Tracker", "Note", "of"}
    assert {name.rpartition(".")[2] for name in shown} - {*dir(rsl)} == beside
    assert {"track", "Tracker", "Note"} <= {*rsl_cli.track.__all__}
    columns = (ROOT / "docs/howto/notebook.md").read_text().partition("study.trajectory(")[2].partition("# ")[2]
    assert tuple(columns.partition("\n")[0].split(", ")) == COLUMNS
    assert Study.trajectory.__doc__ and ", ".join(COLUMNS) in Study.trajectory.__doc__
