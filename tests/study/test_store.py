import json
import math
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rsl_cli.errors import StoreError
from rsl_cli.study import files
from rsl_cli.study.files import read_json, read_tensors, write_atomic, write_json
from rsl_cli.study.record import Record
from rsl_cli.study.store import RunKey, StudyStore
from rsl_cli.study.studies import find_studies, reference_studies

KEY = RunKey(64, 3, "0123456789abcdef")
DONE = Record(run_id=KEY.run_id, lift=64, seed=3, status="done")


def test_folder_names():
    assert KEY.directory == "n00064-s003-0123456789abcdef"
    assert StudyStore(Path("a/b")).run_dir(KEY) == Path("a/b/runs/01/n00064-s003-0123456789abcdef")


def test_a_run_comes_back_as_it_was_written(tmp_path):
    store = StudyStore(tmp_path / "s")
    frame = pd.DataFrame(
        {"step": [0, 1], "loss": [0.5, math.nan], "dissipation": [math.nan, 1.0], "least_curvature": [math.nan, 0.1]}
    )
    state = {"w": np.arange(6.0).reshape(2, 3)[:, ::2]}
    store.write_run(KEY, replace(DONE, train_loss=np.float64(0.5), distance=math.inf), {"trajectory": frame}, state)
    record = store.record(KEY)
    assert store.is_done(KEY) and record is not None and record.values() == replace(DONE, train_loss=0.5).values()
    assert record.files.keys() == {"trajectory.parquet", "state.safetensors"}
    pd.testing.assert_frame_equal(store.trajectory(KEY), frame)
    np.testing.assert_array_equal(store.state(KEY)["w"], state["w"])


def test_tables_beside_the_trajectory(tmp_path):
    store = StudyStore(tmp_path / "s")
    steps, kappa = pd.DataFrame({"step": [0]}), pd.DataFrame({"place": ["start", "ball"], "kappa": [2.0, math.inf]})
    with pytest.raises(StoreError, match=r"cannot read .*trajectory\.parquet: No such file; `rsl verify STUDY` sets"):
        store.trajectory(KEY)
    store.write_run(KEY, DONE, {"trajectory": steps, "tangent": kappa}, {})
    pd.testing.assert_frame_equal(store.table(KEY, "tangent"), kappa)
    pd.testing.assert_frame_equal(store.table(KEY, "trajectory"), steps)
    pd.testing.assert_frame_equal(store.trajectory(KEY), steps.assign(dissipation=math.nan, least_curvature=math.nan))
    assert store.table(KEY, "coverage") is None
    (store.run_dir(KEY) / "tangent.parquet").write_bytes(b"half a file")
    with pytest.raises(StoreError, match=r"cannot read .*tangent\.parquet: .*; `rsl verify STUDY` sets") as caught:
        store.table(KEY, "tangent")
    assert "\n" not in str(caught.value)


def test_a_run_written_again_keeps_no_table_of_before(tmp_path):
    store = StudyStore(tmp_path / "s")
    steps = pd.DataFrame({"step": [0]})
    store.write_run(KEY, DONE, {"trajectory": steps, "tangent": steps}, {})
    store.write_run(KEY, DONE, {"trajectory": steps}, {})
    assert store.table(KEY, "tangent") is None and len(store.trajectory(KEY)) == 1


def test_a_failed_run_is_not_done_and_success_removes_its_error(tmp_path):
    store = StudyStore(tmp_path / "s")
    store.write_failure(KEY, replace(DONE, status="failed"), "why")
    assert not store.is_done(KEY) and (store.run_dir(KEY) / "error.txt").read_text() == "why"
    store.write_run(KEY, DONE, {"trajectory": pd.DataFrame({"step": [0]})}, {})
    assert store.is_done(KEY) and not (store.run_dir(KEY) / "error.txt").exists()


@pytest.mark.parametrize("victim", ["fdopen", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, victim):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, victim, full)
    with pytest.raises(StoreError, match="No space left on device; free space") as caught:
        write_json(path, {"a": 2})
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert read_json(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_kill_while_writing_leaves_old_or_new(tmp_path):
    path = tmp_path / "big.json"
    script = textwrap.dedent(f"""
        from pathlib import Path
        from rsl_cli.study.files import write_json
        i = 0
        while True:
            i += 1
            write_json(Path({str(path)!r}), {{"i": i, "pad": [i] * 20000}})
            print(i, flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.kill()
    process.communicate()
    content = json.loads(path.read_text())
    assert content["pad"] == [content["i"]] * 20000


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*results_dir=PATH"):
        write_atomic(tmp_path / "file" / "below" / "x", b"")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2"])
def test_damaged_files_are_one_line(tmp_path, content):
    path = tmp_path / "study.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot read") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="cannot read"):
        read_tensors(path)


def test_studies_are_found_latest_first_and_the_reference_ones_apart(tmp_path):
    for i, name in enumerate(["a", "b", "reference/c"]):
        write_json(tmp_path / name / "study.json", {})
        os.utime(tmp_path / name / "study.json", (i, i))
    assert [store.name for store in find_studies(tmp_path)] == ["b", "a"]
    assert [store.name for store in reference_studies(tmp_path)] == ["c"]
    with pytest.raises(StoreError, match="no study at"):
        StudyStore(tmp_path / "d").read_study()
