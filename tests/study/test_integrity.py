"""A changed, truncated, missing or misplaced file is found, named, set aside, and reported as no number."""

import json
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rsl_cli.cli import main
from rsl_cli.errors import StoreError
from rsl_cli.study.files import read_json, read_tensors, write_json, write_tensors
from rsl_cli.study.integrity import DamageError, check_study, seal, unseal
from rsl_cli.study.record import Record
from rsl_cli.study.store import RunKey, StudyStore
from rsl_cli.study.verify import verify

KEYS = [RunKey(4, 0, "0" * 16), RunKey(4, 1, "1" * 16)]


def a_study(root):
    store = StudyStore(root)
    runs = [{"lift": k.lift, "seed": k.seed, "run_id": k.run_id, "directory": k.directory} for k in KEYS]
    store.create({"schema": 1, "identity": {}, "config": {}, "plan": {"runs": runs}})
    for key in KEYS:
        frame = pd.DataFrame({"step": [0, 1], "loss": [0.5, 0.25 + key.seed]})
        record = Record(lift=4, seed=key.seed, run_id=key.run_id, status="done", train_loss=0.25)
        store.write_run(key, record, {"trajectory": frame, "drift": frame}, {"w": frame["loss"].to_numpy()})
        store.write_resume(key, {"w": frame["loss"].to_numpy()}, {"training": "{}"})
    write_json(store.report_dir / "verdict.json", {"verdict": "falls"})
    return store


def test_an_intact_study_is_clean(tmp_path):
    found = verify(a_study(tmp_path / "s"))
    assert found.clean and (found.runs, found.unsealed) == (2, 0)


@pytest.mark.parametrize("kind", ["flip", "cut", "empty", "gone"])
@pytest.mark.parametrize("seed", range(12))
def test_every_change_of_a_run_is_found_and_the_run_set_aside(tmp_path, kind, seed):
    store = a_study(tmp_path / "s")
    draw = random.Random(seed)
    store.resume_file(KEYS[0]).unlink()
    path = draw.choice(
        [path for path in sorted(store.run_dir(KEYS[0]).iterdir()) if kind != "gone" or "rec" not in path.name]
    )
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content))
    if kind == "flip":
        content[at] ^= 1 << draw.randrange(8)
    path.write_bytes(b"" if kind == "empty" else content[:at] if kind == "cut" else content)
    if kind == "gone":
        path.unlink()
    if kind != "flip":
        assert not store.is_done(KEYS[0]), path
    found = verify(store)
    assert len(found.damaged) == 1 and str(path) in found.damaged[0], found
    assert not store.is_done(KEYS[0]) and store.is_done(KEYS[1]) and len(store.records()) == 1
    assert len(list((store.root / "damaged").iterdir())) == 1
    assert verify(store).clean


def test_every_flip_in_every_json_is_refused(tmp_path):
    text = seal({"schema": 1, "train_loss": 0.125, "name": "ä"})
    assert unseal(text) == {"schema": 1, "train_loss": 0.125, "name": "ä"}
    for at in range(len(text)):
        for bit in range(8):
            changed = bytearray(text)
            changed[at] ^= 1 << bit
            with pytest.raises(DamageError):
                unseal(bytes(changed))
    for at in range(len(text)):
        with pytest.raises(DamageError):
            unseal(text[:at])


def test_every_flip_in_the_numbers_of_a_checkpoint_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    write_tensors(path, {"w": pd.Series([0.5, 2.0]).to_numpy()}, {"members": "a b", "step": "7"})
    arrays, text = read_tensors(path)
    content = path.read_bytes()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 4
        path.write_bytes(changed)
        try:
            found, words = read_tensors(path)
        except StoreError:
            continue
        # What changes nothing that is read may stay: the digest's own name, blanks.
        assert list(found) == list(arrays) and (found["w"] == arrays["w"]).all() and words.items() >= text.items()


def test_every_flip_in_the_header_of_a_checkpoint_is_refused(tmp_path):
    path = tmp_path / "resume.safetensors"
    write_tensors(path, {"w": np.arange(3.0)}, {"training": "{}"})
    content = path.read_bytes()
    for at in range(8 + int.from_bytes(content[:8], "little")):
        for bit in range(8):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            with pytest.raises(StoreError):
                read_tensors(path)
    write_tensors(path, {"w": np.arange(3.0)})
    assert read_tensors(path)[1] == {}


def test_runs_in_each_others_places_are_found(tmp_path):
    store = a_study(tmp_path / "s")
    one, other = (store.run_dir(key) for key in KEYS)
    one.rename(tmp_path / "x")
    other.rename(one)
    (tmp_path / "x").rename(other)
    assert store.records() == [] and len(verify(store).damaged) == 2


def test_tables_in_each_others_places_show_no_number(tmp_path):
    store = a_study(tmp_path / "s")
    one, other = (store.run_dir(key) / "trajectory.parquet" for key in KEYS)
    shutil.copy(other, one)
    with pytest.raises(StoreError, match=r"trajectory\.parquet: its content does not fit .*`rsl verify STUDY`"):
        store.trajectory(KEYS[0])
    assert len(store.trajectory(KEYS[1])) == 2


def test_records_without_digests_stay_valid_and_are_counted(tmp_path):
    store = a_study(tmp_path / "s")
    record = {"schema": 1, "lift": 4, "seed": 0, "run_id": "0" * 16, "status": "done"}
    (store.run_dir(KEYS[0]) / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    found = verify(store)
    assert store.is_done(KEYS[0]) and found.clean and (found.runs, found.unsealed) == (2, 1)


def test_foreign_files_and_damage_beside_runs(tmp_path):
    store = a_study(tmp_path / "s")
    strange = [store.root / "notes.txt", store.root / "runs" / "n9", store.run_dir(KEYS[0]) / ".x.tmp"]
    for path in strange:
        path.write_text("?")
    (store.report_dir / "verdict.json").write_text("[]")
    store.resume_file(KEYS[1]).write_bytes(b"x")
    for place in (store.root / "study.json", store.resume_file(KEYS[0])):  # Left by writers that were killed.
        tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.", suffix=".tmp")
    found = verify(store)
    assert found.foreign == tuple(sorted(strange)) and len(found.damaged) == 2


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"status": None}, "status is None"),
        ({"status": "don"}, "accepted: done or failed"),
        ({"schema": 99}, "another version"),
        ({"train_loss": "0.5"}, "train_loss is '0.5', a str"),
        ({"params": 1.5}, "params is 1.5, a float"),
        ({"test_loss": True}, "test_loss is True, a bool"),
        ({"lift": 8}, "lift is 8, its folder's is 4"),
        ({"files": []}, "files is \\[\\], a list"),
        ({"schema": 2, "files": {}}, "its digests are missing"),
        ({"run_id": None}, "run_id is None, its folder's is"),
        ({"files": {"a": 1}}, "files is no mapping"),
    ],
)
def test_records_of_a_wrong_shape(tmp_path, change, fault):
    with pytest.raises(DamageError, match=fault):
        Record.read({"status": "done"} | change, KEYS[0])
    store = a_study(tmp_path / "s")
    path = store.run_dir(KEYS[0]) / "record.json"
    path.write_text(json.dumps({"status": "done"} | change))
    assert not store.is_done(KEYS[0]) and str(path) in (store.fault(KEYS[0]) or "")


SHAPES = [
    *("[]", "{}", "3", "null", "{", "", "[" * 100_000),
    *('{"plan": []}', '{"plan": {"runs": [3]}}', '{"schema": 99, "plan": {"runs": []}}'),
    '{"plan": {"runs": [{"lift": "4", "seed": 0, "run_id": "0000000000000000"}]}}',
    '{"plan": {"runs": [{"lift": 4, "seed": 0, "run_id": "../../../../x"}]}}',
]


@pytest.mark.parametrize("content", SHAPES, ids=range(len(SHAPES)))
def test_one_damaged_study_hides_no_other(tmp_path, capsys, content):
    a_study(tmp_path / "good")
    a_study(tmp_path / "bad").study_file.write_text(content)
    assert main(["list", "--results-dir", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "good       2      0       0  falls" in out and "damaged" in out
    assert err.count("\n") == 1 and str(tmp_path / "bad" / "study.json") in err
    assert main(["verify", "--results-dir", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "study good: 2 runs; 0 damaged, 0 foreign" in out and err.count("\n") == 1


@pytest.mark.parametrize("content", ["[]", "{}", '{"verdict": 3', '"falls"', '{"verdict": [1]}'])
def test_a_damaged_verdict_is_no_verdict(tmp_path, capsys, content):
    store = a_study(tmp_path / "s")
    (store.report_dir / "verdict.json").write_text(content)
    status = main(["list", "--results-dir", str(tmp_path)])
    out, err = capsys.readouterr()
    assert "falls" not in out and "Traceback" not in err and status == 1 and "verdict.json" in err


def test_a_damaged_run_is_not_deleted_when_it_is_written_again(tmp_path):
    store = a_study(tmp_path / "s")
    (store.run_dir(KEYS[0]) / "trajectory.parquet").write_bytes(b"half")
    assert not store.is_done(KEYS[0])
    store.mend(KEYS[0])
    store.write_run(
        KEYS[0], Record(lift=4, seed=0, run_id="0" * 16, status="done"), {"trajectory": pd.DataFrame({"step": [0]})}, {}
    )
    assert store.is_done(KEYS[0]) and verify(store).clean
    assert (store.root / "damaged" / KEYS[0].directory / "trajectory.parquet").read_bytes() == b"half"


def test_studies_of_the_shipped_reference_are_readable():
    for name in ("witness", "versus_flow"):
        store = StudyStore(Path(__file__).parents[2] / "results" / "reference" / name)
        assert len(store.records()) == len(store.planned()) > 0


def test_study_checks():
    check_study({"plan": {"runs": []}})
    with pytest.raises(DamageError, match="identity is no mapping"):
        check_study({"plan": {"runs": []}, "identity": 3})


def test_read_json_names_the_file(tmp_path):
    (tmp_path / "f.json").write_text("3")
    with pytest.raises(StoreError, match=r"cannot read .*f\.json: int where a mapping is due; restore"):
        read_json(tmp_path / "f.json")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root, to mount")
def test_a_study_that_may_be_read_only_is_verified_and_left_as_it_is(tmp_path):
    store = a_study(tmp_path / "s")
    store.note(KEYS)
    record = store.run_dir(KEYS[0]) / "record.json"
    record.write_bytes(record.read_bytes().replace(b"0.25", b"0.24"))
    place = tmp_path / "mounted"
    place.mkdir()
    bind = ["mount", "--bind", str(store.root), str(place)]
    if subprocess.run(bind, check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        before = sorted(place.rglob("*"))
        found = verify(StudyStore(place))
        assert [line.partition(":")[0] for line in found.damaged] == [str(place / record.relative_to(store.root))]
        assert "left there, since it cannot be set aside: cannot write" in found.damaged[0]
        assert sorted(place.rglob("*")) == before and not StudyStore(place).is_done(KEYS[0])
    finally:
        subprocess.run(["umount", str(place)], check=True)
