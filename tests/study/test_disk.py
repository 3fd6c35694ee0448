"""Whenever a disk fills, a study ends in one line, nothing half written is left, and the same line goes on."""

import errno
import itertools
import os

import problems
import pytest
from faults import snapshot

from rsl_cli.errors import StoreError
from rsl_cli.study.api import run_study
from rsl_cli.study.store import StudyStore
from rsl_cli.study.verify import verify


def study(folder):
    return problems.study(
        results_dir=str(folder),
        study="s",
        lift=[2],
        seeds=1,
        trainer=problems.group("trainer", "adam", steps=4, batch_size=64),
        executor={"name": "local", "checkpoint_seconds": 1e-3},
    )


def filling(folder, name, moment):
    """The system's function of that name, to open or to sync files, until so many of a folder's were written."""
    act, count = getattr(os, name), itertools.count()

    def acted(what, *rest, **more):
        writes = name == "fsync" or (str(what).startswith(str(folder)) and rest and rest[0] & os.O_CREAT)
        if writes and next(count) >= moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return act(what, *rest, **more)

    return acted


@pytest.mark.parametrize("name", ["fsync", "open"], ids=["no space", "no inodes"])
def test_a_disk_that_fills_at_any_moment(tmp_path, monkeypatch, name):
    whole, moment, ended = snapshot(run_study(study(tmp_path / "whole")).store), 0, False
    while not ended:
        folder = tmp_path / str(moment)
        store = StudyStore(folder / "s")
        with monkeypatch.context() as patch:
            patch.setattr(os, name, filling(folder, name, moment))
            try:
                run_study(study(folder))
                ended = True
            except StoreError as error:
                assert "No space left on device; free space" in str(error) and "\n" not in str(error)
        assert not [*folder.rglob("*.tmp"), *store.lease_dir.glob("*")]
        assert not store.exists() or verify(store).clean
        assert snapshot(run_study(study(folder)).store) == whole and verify(store).clean
        moment += 1
    assert moment > 6, "a study of one run makes some files, beside those that a clock asks for"
