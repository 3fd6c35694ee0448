"""Worker processes end with their parent, and one that dies or hangs costs what it held and nothing else."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from multiprocessing import forkserver
from pathlib import Path

import problems
import pytest

from rsl_cli.cli import compose, main
from rsl_cli.errors import StoreError
from rsl_cli.study import pool, processes
from rsl_cli.study.api import run_study
from rsl_cli.study.machine import memory_limit
from rsl_cli.study.plan import RunBatch, make_plan
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.verify import verify

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks processes up in /proc")

WORDS = ("base=mlp", "dataset.samples=64", "trainer=adam", "theory=none", "lift=2,4,8", "seeds=2", "executor.workers=2")


def config_in(folder, *words):
    return compose([*WORDS, "trainer.steps=200", "study=s", f"results_dir={folder}", *words])


def marked(mark):
    """Processes that carry a mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "signal_sent"),
    [("starting", signal.SIGKILL), ("importing", signal.SIGTERM), ("training", signal.SIGKILL)],
)
def test_no_worker_outlives_its_parent(tmp_path, stage, signal_sent):
    mark = uuid.uuid4().hex
    words = [*WORDS, "trainer.steps=10000000", "executor.checkpoint_seconds=0.1", f"results_dir={tmp_path}"]
    parent = subprocess.Popen(
        [sys.executable, "-m", "rsl_cli.cli", "run", *words],
        env=os.environ | {"MARK": mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        # The resource tracker of multiprocessing is one of them.
        wait_until(lambda: len(marked(mark)) >= 3, 120)
        if stage == "importing":
            time.sleep(0.5)
        elif stage == "training":
            wait_until(lambda: any(tmp_path.rglob("resume.safetensors")), 120)
        parent.send_signal(signal_sent)
        parent.wait(30)
        wait_until(lambda: not marked(mark), 60)
    finally:
        for process in marked(mark):
            os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_dies_costs_no_run(tmp_path, capfd):
    killed = []

    def progress(item, *_):
        if not killed:
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    outcome = run_study(config_in(tmp_path), progress=progress)
    assert (outcome.done, outcome.failed) == (6, []) and verify(outcome.store).clean
    assert "died by signal 9 (out of memory?), training lift" in capfd.readouterr().err
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_run_that_is_deadly_fails_by_name_and_the_others_finish(tmp_path):
    def progress(item, *_):
        if item.lift == 8:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    outcome = run_study(config_in(tmp_path), progress=progress)
    assert outcome.done == 4 and {name[:6] for name in outcome.failed} == {"n00008"} and len(outcome.failed) == 2
    text = (outcome.store.folder_of(outcome.failed[0]) / "error.txt").read_text()
    assert "worker process died by signal 9 (out of memory?), with no other beside it" in text


@pytest.mark.slow
def test_a_stopped_worker_is_named_and_ended_and_its_runs_are_done_again(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(pool, "_SILENT", 4.0)
    monkeypatch.setattr(pool, "_GIVEN_UP", 8.0)
    monkeypatch.setattr(pool, "_TURN", 0.5)
    stopped = []

    def progress(item, *_):
        if not stopped:
            stopped.append(multiprocessing.active_children()[0].pid)
            os.kill(stopped[0], signal.SIGSTOP)

    outcome = run_study(config_in(tmp_path), progress=progress)
    assert (outcome.done, outcome.failed) == (6, [])
    assert f"kill -CONT {stopped[0]}` lets it go on" in capfd.readouterr().err


@pytest.mark.slow
def test_leaving_waits_for_no_stopped_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_FAREWELL", 1.0)

    def progress(*_):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGSTOP)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(config_in(tmp_path), progress=progress)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_an_error_in_a_worker_comes_out_of_the_study(tmp_path):
    def planned(spec, plan):
        (spec.store.root / "runs").parent.mkdir(parents=True)
        (spec.store.root / "runs").write_text("in the way")

    with pytest.raises(StoreError, match=r"cannot write .*runs"):
        run_study(config_in(tmp_path), planned=planned)
    assert not multiprocessing.active_children()


def test_a_worker_has_the_variables_that_its_parent_has_by_then(tmp_path, monkeypatch):
    executor, theory = {"name": "process", "workers": 2}, {"probes": [{"target": "apart.told"}]}
    for number in (1, 2):
        monkeypatch.setenv("TOLD", str(number))
        place = {"results_dir": str(tmp_path / str(number))}
        store = run_study(problems.study(**place, lift=[2], seeds=2, executor=executor, theory=theory)).store
        assert [store.table(key, "told")["told"].tolist() for key in store.planned()] == [[number]] * 2


def test_workers_are_copies_where_that_is_safe(monkeypatch):
    def begun():
        return processes.context().get_start_method()

    assert begun() == ("forkserver" if sys.platform == "linux" else "spawn")

    def fail():
        raise OSError("AF_UNIX path too long")

    with monkeypatch.context() as patch:
        patch.setattr(forkserver, "ensure_running", fail)
        assert begun() == "spawn"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, Path("no text")])
        assert begun() == "spawn"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert begun() == "spawn"


def test_a_process_begins_anew_where_the_one_to_be_copied_is_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(forkserver, "connect_to_new_process", lambda _: (_ for _ in ()).throw(EOFError))
    process = processes.start(shutil.copy, __file__, str(tmp_path / "copied"))
    process.join(60)
    assert process.exitcode == 0 and (tmp_path / "copied").read_bytes() == Path(__file__).read_bytes()


@pytest.mark.parametrize(("words", "begun"), [((), 1), (("executor.workers=1",), 0), (("executor=local",), 0)])
def test_what_workers_need_is_imported_while_the_line_is_read(words, begun, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(processes, "context", lambda: asked.append(1))
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert main(["run", "lifting.in_degree=-1", f"results_dir={tmp_path}", *words]) == 2
    assert len(asked) == (begun if sys.platform == "linux" else 0)


def test_items_that_do_not_fit_beside_others_go_alone_and_last(tmp_path, monkeypatch):
    spec = StudySpec.from_config(config_in(tmp_path))
    sizes = {2: 1.0, 4: 5.0, 8: 50.0}
    monkeypatch.setattr(pool, "memory", lambda _, lift: sizes[lift])
    workers = pool._Pool(spec, 2, lambda *_: None, lambda *_: None)
    workers.room = 6.0
    keys = make_plan(spec).keys
    waiting = [RunBatch((key,)) for key in reversed(keys) if key.seed == 0]
    assert [item.lift for item in waiting] == [8, 4, 2]
    assert workers._fitting(waiting) is waiting[1]

    class Running:
        batch = waiting[1]

    workers.busy = [Running()]  # pyright: ignore[reportAttributeAccessIssue]
    assert workers._fitting(waiting) is waiting[2] and workers._fitting(waiting[:1]) is None
    workers.busy = []
    assert workers._fitting(waiting[:1]) is waiting[0]


def test_the_memory_there_is():
    assert 1 << 28 < memory_limit() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
