"""Single bytes flipped and files cut short, over all kinds of files of a study: each is found, none is reported.

A sample is drawn here; ``python tests/study/test_damage.py 1000`` draws so many and prints what was found.
"""

import csv
import io
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import fake_diagnostics
import numpy as np
import pytest
from fake_study import make_study

from rsl_cli.errors import StoreError
from rsl_cli.report.read import read_runs
from rsl_cli.report.tables import RUN_COLUMNS, runs_csv
from rsl_cli.study.files import write_json
from rsl_cli.study.store import StudyStore
from rsl_cli.study.verify import verify, write_digests

NUMBERS = ("train_loss", "test_loss", "limit_low", "limit_high", "params", "steps")


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> StudyStore:
    return make_intact(tmp_path_factory.mktemp("intact") / "s")


def make_intact(root: Path) -> StudyStore:
    """A study of measured runs with a catalogue, something to go on from, and a report."""
    store = make_study(root, lambda params, lift: 1 / params, lifts=(16, 32), seeds=2, flow=True, measured=True)
    for key in store.planned():
        store.write_resume(key, {"w": np.arange(40.0)}, {"training": "{}"})
        store.note([key])
    texts = {"runs.csv": runs_csv(read_runs(store)), "summary.csv": "lift\n16\n", "index.html": "<p>falls</p>" * 9}
    for name, text in texts.items():
        (store.report_dir / name).parent.mkdir(exist_ok=True)
        (store.report_dir / name).write_text(text)
    write_json(store.report_dir / "verdict.json", {"verdict": "falls"})
    write_digests(store.report_dir, [*texts, "verdict.json"])
    assert verify(store).clean and fake_diagnostics.PROBES
    return store


def lines(store: StudyStore) -> set[tuple[str, ...]]:
    rows = list(csv.reader(io.StringIO(runs_csv(read_runs(store)))))[1:]
    return {tuple(row[RUN_COLUMNS.index(name)] for name in NUMBERS) for row in rows}


def damage(intact: StudyStore, root: Path, draw: random.Random) -> tuple[str, str]:
    """Damage one file of a copy of a study; returns its kind and how, after the checks."""
    shutil.copytree(intact.root, root)
    store = StudyStore(root)
    store.note(store.planned())  # A copy's files have times of their own.
    files = sorted(path for path in root.rglob("*") if path.is_file() and "locks" not in path.parts)
    path = draw.choice(files)
    content, how = bytearray(path.read_bytes()), draw.choice(["flip", "cut"])
    at = draw.randrange(len(content))
    if how == "flip":
        content[at] ^= 1 << draw.randrange(8)
    path.write_bytes(content if how == "flip" else content[:at])
    what = f"{path.relative_to(root)} {how} at {at}"
    try:
        reported = lines(store)
    except StoreError as error:
        assert path.name == "study.json" and str(path) in str(error), what
        return path.name, how
    assert reported <= lines(intact), what
    found = verify(store)
    assert any(str(path) in line for line in found.damaged), (what, found)
    # The catalogue is made anew at once, under the old name.
    assert not path.exists() or path.parent.name == "catalogue", what
    assert any((root / "damaged").rglob(path.name)), what
    # What a report lacks is said until it is written anew.
    assert all("missing" in line and "report" in line for line in verify(store).damaged), what
    name = path.name.partition("-")[0] if path.parent.name == "catalogue" else path.name
    return name, how


@pytest.mark.parametrize("seed", range(24))
def test_damage_is_found_and_shows_no_number(intact, tmp_path, seed):
    damage(intact, tmp_path / "s", random.Random(seed))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        first, tally = make_intact(Path(folder) / "s"), Counter()
        for number in range(int(sys.argv[1])):
            tally[damage(first, Path(folder) / "copy", random.Random(number))] += 1
            if not (number + 1) % 100:
                print(f"{number + 1} found", flush=True)
            shutil.rmtree(Path(folder) / "copy")
        print(*(f"{how:5} {name:22} {count}" for (name, how), count in sorted(tally.items())), sep="\n")
        print(f"{sum(tally.values())} of {sys.argv[1]} found by name, none reported; seeds 0..{int(sys.argv[1]) - 1}")
