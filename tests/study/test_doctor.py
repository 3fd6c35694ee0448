"""`rsl doctor` finds a file system that keeps no promise, and leaves nothing behind."""

import sys
from pathlib import Path

import pytest

from rsl_cli.cli import main
from rsl_cli.errors import StoreError
from rsl_cli.study import doctor
from rsl_cli.study.doctor import examine

ROWS = ("made by one process only", "replaced whole", "appending", "hard links", "the other sees", "clocks", "locks")


def test_a_local_disk_is_good_for_everything(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == len(ROWS) and all(line.startswith("ok    ") for line in out)
    assert all(row in line for row, line in zip(ROWS, out, strict=True)), out
    assert not list(tmp_path.iterdir())


def test_the_folder_by_another_way_and_a_command_in_between(tmp_path):
    folder, link = tmp_path / "there", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    assert not any(one.harms for one in examine(folder, link, f"{sys.executable} -c 'import os, sys; "
                   "os.execv(sys.argv[1], sys.argv[1:])'"))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fake", "words"),
    [
        ("_make", lambda folder, count: set(range(count)), "of 200 files 2"),
        (
            "_replace",
            lambda folder, letter: (folder / "whole").write_bytes(letter),
            "saw a file half written",
        ),
        ("_append", lambda folder, letter, count: (folder / "log").write_bytes(b"a" * 100), "no    appending"),
    ],
)
def test_what_is_not_kept_is_said(tmp_path, monkeypatch, name, fake, words):
    monkeypatch.setattr(doctor, name, fake)
    found = [one for one in examine(tmp_path, tmp_path) if words in one.text]
    assert len(found) == 1 and found[0].harms == (name != "_append")


def test_clocks_that_are_apart_are_said(tmp_path, monkeypatch):
    now = doctor.time.time
    monkeypatch.setattr(doctor.time, "time", lambda: now() + 100.0)
    found = [one.text for one in examine(tmp_path, tmp_path) if one.harms]
    assert any("clocks against the file system's: +100.0 s here" in text for text in found)
    assert any("executor.lease_seconds above 1000" in text for text in found)


@pytest.mark.parametrize(
    ("through", "words"),
    [("no-such-command", "no-such-command: No such file"), ("true", "the second process does not answer")],
)
def test_a_second_process_that_does_not_start_is_one_line(tmp_path, through, words):
    with pytest.raises(StoreError, match=words) as found:
        examine(tmp_path, tmp_path, through)
    assert "\n" not in str(found.value) and not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "a").mkdir()
    with pytest.raises(StoreError, match=r"the second process: .*No such file"):
        examine(tmp_path / "a", Path(tmp_path / "b"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
