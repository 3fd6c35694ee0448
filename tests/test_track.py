import importlib
import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from fake_study import key_of, make_study

import rsl_cli as rsl
from rsl_cli.cli import main
from rsl_cli.errors import ConfigError, StoreError
from rsl_cli.report import write_report
from rsl_cli.study.store import StudyStore
from rsl_cli.track import Note, Tracker, track

LIFTS = (4, 8, 16)


def falling(params: int, lift: int) -> float:
    return 1 / params


@pytest.fixture
def store(tmp_path, monkeypatch) -> StudyStore:
    monkeypatch.chdir(tmp_path)
    return make_study(tmp_path / "results" / "s", falling, lifts=LIFTS, seeds=2)


class Diary(Tracker):
    """Keeps in memory what it is told, by place."""

    module = "json"
    kept: ClassVar[dict] = {}

    def sent(self, key):
        return self.kept.get((self.folder, key), (None, None))[0]

    def send(self, note: Note, since: int) -> None:
        if note.name == os.environ.get("REFUSED"):
            raise OSError("the disk is full")
        _, rows = self.kept.get((self.folder, note.key), (None, []))
        self.kept[self.folder, note.key] = ((note.mark, len(note.rows)), [*rows, *note.rows[since:]])


DIARY = f"{__name__}.Diary"


def carry(store: StudyStore, lift: int, seed: int) -> int:
    """Write a run as one that has been carried further; returns its rows."""
    key = key_of(lift, seed)
    record, table = store.record(key), store.trajectory(key)
    last = table.iloc[[-1]].assign(step=table["step"].max() + 10, loss=table["loss"].min() / 2)
    longer = importlib.import_module("pandas").concat([table, last], ignore_index=True)
    store.write_run(key, replace(record, steps=int(longer["step"].max())), {"trajectory": longer}, store.state(key))
    return len(longer)


def test_a_run_is_sent_once_and_what_came_later_once_more(store):
    at = str(store.root)
    assert track(store, DIARY, at=at).text().startswith("6 runs sent, 0 brought up to date, 0 known already: ")
    before = {key: list(rows) for (place, key), (_, rows) in Diary.kept.items() if place == at}
    assert set(before) == {"study", *(key_of(lift, seed).run_id for lift in LIFTS for seed in range(2))}
    again = track(store, DIARY, at=at)
    assert (again.fresh, again.changed, again.known) == (0, 0, 6)
    rows = carry(store, 8, 1)
    later = track(store, DIARY, at=at)
    assert (later.fresh, later.changed, later.known) == (0, 1, 5)
    after = {key: rows for (place, key), (_, rows) in Diary.kept.items() if place == at}
    changed = key_of(8, 1).run_id
    assert {key: rows for key, rows in after.items() if key != changed} == {
        key: rows for key, rows in before.items() if key != changed
    }
    assert len(after[changed]) == rows and after[changed][:-1] == before[changed]


def test_what_a_tracker_refuses_is_one_line_and_stops_no_training(store, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("REFUSED", key_of(8, 0).directory)
    with pytest.raises(StoreError, match=r"tracker .*Diary at .*: OSError: the disk is full"):
        track(store, DIARY, at="refused")
    monkeypatch.setenv("REFUSED", "told")
    words = ["study=told", f"tracker={DIARY}", "lift=2,4", "seeds=1", "trainer=adam", "trainer.steps=3"]
    assert main(["run", *words, "dataset.samples=64", "dataset.test_samples=16", "executor=local"]) == 0
    told = capsys.readouterr()
    assert "VERDICT" in told.out and "the disk is full; `rsl track results/told --to" in told.err
    place = str(tmp_path / "results" / "diary")
    assert sum(at == place for at, _ in Diary.kept) == 2  # Both runs, as each had ended; not the study.
    assert "tracker" not in json.loads((tmp_path / "results/told/study.json").read_text())["config"]


def test_a_tracker_that_is_not_there_is_named_with_its_remedy(store, monkeypatch, capsys):
    with pytest.raises(ConfigError, match=r"tracker 'tensorbord' is not known; accepted: .*did you mean 'tensorboard'"):
        rsl.study(tracker="tensorbord")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["track", "s", "--to", "wandb"]) == 2
    assert "tracker=wandb needs wandb, which is not installed; pip install 'rsl-cli[wandb]'" in capsys.readouterr().err
    assert main(["track", "t", "--to", DIARY]) == 2


def runs_of_tensorboard(results: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in (results / "tensorboard" / "s").iterdir():
        if folder.is_dir():
            events = EventAccumulator(str(folder)).Reload()
            scalars = events.Tags()["scalars"]
            # Files of one second are read by name, not by age: the step orders points, here as on the screen.
            losses = sorted(events.Scalars("loss"), key=lambda event: event.step) if "loss" in scalars else []
            found[folder.name] = [event.value for event in losses]
    return found


def runs_of_mlflow(results: Path) -> dict[str, list[float]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("s")
    return {
        run.info.run_name: [point.value for point in client.get_metric_history(run.info.run_id, "loss")]
        for run in client.search_runs([experiment.experiment_id])
    }


def runs_of_trackio(results: Path) -> dict[str, list[float]]:
    from trackio.sqlite_storage import SQLiteStorage

    return {
        name: [row["loss"] for row in SQLiteStorage.get_logs("s", name) if "loss" in row]
        for name in SQLiteStorage.get_runs("s")
    }


def runs_of_wandb(results: Path) -> dict[str, list[float]]:
    records = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found: dict[str, list[float]] = {}
    for path in sorted((results / "wandb").glob("wandb/offline-run-*/*.wandb")):
        name, losses = "", []
        for data in log_records(path.read_bytes()):
            record = records.Record()
            record.ParseFromString(data)
            name = record.run.display_name or name
            items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            losses += [float(items["loss"])] if "loss" in items else []
        found.setdefault(name, []).extend(losses)
    return found


def log_records(content: bytes, block: int = 32768) -> Iterator[bytes]:
    """Records of a file in LevelDB's log format, after a head of seven bytes."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole, at = whole + content[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("tensorboard", runs_of_tensorboard),
        ("mlflow", runs_of_mlflow),
        ("trackio", runs_of_trackio),
        ("wandb", runs_of_wandb),
    ],
)
@pytest.mark.filterwarnings("ignore")  # Of libraries that are not ours.
def test_twice_to_the_real_one_doubles_nothing(name, read, store, capsys):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs the extra {name}")
    write_report(store, formats=["svg"])
    for _ in range(2):
        assert main(["track", "s", "--to", name]) == 0
    longer = carry(store, 16, 0)
    assert main(["track", "s", "--to", name]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("study s: ")]
    assert told[0].startswith("study s: 6 runs sent, 0 brought up to date, 0 known already: ")
    assert told[1].startswith("study s: 0 runs sent, 0 brought up to date, 6 known already: ")
    assert told[2].startswith("study s: 0 runs sent, 1 brought up to date, 5 known already: ")
    found = read(store.root.parent)
    expected = {key.directory: store.trajectory(key)["loss"].tolist() for key in store.planned()}
    assert len(expected[key_of(16, 0).directory]) == longer
    assert set(found) == {"s", *expected} and found["s"] == []
    for run, losses in expected.items():
        assert found[run] == pytest.approx(losses, rel=1e-6), run
