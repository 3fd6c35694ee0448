"""Pilots take what a study lacks from its folder; whoever comes, goes, dies or grows it, each run is done once."""

import errno
import importlib.util
import os
import platform
import shutil
import signal
import sys
import threading
import time
import types

import problems
import pytest
from apart import Script
from faults import snapshot

import rsl_cli as rsl
from rsl_cli.cli import main
from rsl_cli.errors import ConfigError, StoreError, TrainingError
from rsl_cli.study import pilots, ray_actors
from rsl_cli.study.api import run_study
from rsl_cli.study.executor import EXECUTORS, make_executor, read_executor
from rsl_cli.study.growth import register
from rsl_cli.study.leases import holders
from rsl_cli.study.pilots import pilot
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.verify import verify
from rsl_cli.train.first_order import FirstOrder

OWN = {"name": "target", "target": "test_pilots.Threads", "arguments": {"workers": 2}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_study(problems.study(results_dir=str(tmp_path_factory.mktemp("whole")))).store


def registered(folder, **changes):
    spec = StudySpec.from_config(problems.study(results_dir=str(folder), **changes))
    register(spec)
    return spec.store


class Threads(rsl.Pilots):
    """A cluster of threads, the first of which die as they start."""

    def __init__(self, settings):
        super().__init__(settings)
        self.started, self.leave = [], threading.Event()

    def alive(self, spec):
        return sum(thread.is_alive() for thread in self.started)

    def start(self, spec, count):
        for _ in range(count):
            dead = len(self.started) < self.workers
            target = (lambda: None) if dead else (lambda: pilot(spec.store, threads=1, leave=self.leave))
            self.started.append(threading.Thread(target=target))
            self.started[-1].start()

    def end(self, spec):
        self.leave.set()
        for thread in self.started:
            thread.join()


class Stillborn(rsl.Pilots):
    """A cluster where whatever starts dies."""

    def alive(self, spec):
        return 0


def test_a_pilot_gives_the_numbers_of_a_local_study(whole, tmp_path):
    store, seen = registered(tmp_path), []
    tally = pilot(store, finished=lambda item, outcome: seen.append(item.lift))
    assert sorted(tally.done) == sorted(key.directory for key in store.planned()) and not tally.failed
    assert seen == sorted(seen, reverse=True), "the largest first"
    assert snapshot(store) == snapshot(whole) and not list(store.lease_dir.iterdir())
    assert pilot(store).done == [] and verify(store).clean


def test_every_grid_is_done_the_latest_first_each_as_far_as_it_was_asked_for(tmp_path):
    trainer = problems.group("trainer", "gd", steps=20)
    store = registered(tmp_path, study="s", lift=[2, 8], seeds=1, trainer=trainer)
    registered(tmp_path, study="s", lift=[4], seeds=2, trainer=trainer | {"steps": 30})
    seen = []
    pilot(store, finished=lambda item, outcome: seen.append(item.lift))
    assert [lift for i, lift in enumerate(seen) if lift not in seen[:i]] == [4, 8, 2]
    assert {(record.lift, record.steps) for record in store.records()} == {(2, 20), (4, 30), (8, 20)}


def test_a_study_that_grows_meanwhile_is_done_too(tmp_path):
    store = registered(tmp_path, study="s", lift=[4, 2], seeds=1)
    grow = iter([lambda: registered(tmp_path, study="s", lift=[3], seeds=1)])
    seen = []

    def finished(item, _):
        seen.append(item.lift)
        next(grow, lambda: None)()

    pilot(store, finished=finished)
    assert seen == [4, 3, 2]


@pytest.mark.slow
def test_a_run_that_fails_is_tried_once(tmp_path, monkeypatch):
    store, train, tried = registered(tmp_path), FirstOrder.train, []

    def fragile(trainer, network, *rest, **options):
        if any((r.degree, r.seed) == (4, 1) for r in network.lift.replicas):
            tried.append(len(network.lift.replicas))
            raise MemoryError("no room")
        return train(trainer, network, *rest, **options)

    monkeypatch.setattr(FirstOrder, "train", fragile)
    tally = pilot(store)
    assert (len(tally.done), [name[:11] for name in tally.failed]) == (8, ["n00004-s001"]) and tried.count(1) == 1
    monkeypatch.undo()
    assert len(pilot(store).done) == 1


def test_told_to_leave_it_saves_and_another_goes_on(whole, tmp_path):
    store, leave, steps = registered(tmp_path), threading.Event(), []

    def progress(item, step, *_):
        steps.append(step)
        leave.set()

    assert pilot(store, leave=leave, progress=progress).done == [] and not list(store.lease_dir.iterdir())
    assert list(store.root.rglob("resume.safetensors"))
    pilot(store)
    assert snapshot(store) == snapshot(whole)


@pytest.mark.slow
def test_idle_it_waits_for_growth(tmp_path):
    store = registered(tmp_path, study="s", lift=[2], seeds=1)
    began, timer = time.monotonic(), threading.Timer(1.0, lambda: registered(tmp_path, study="s", lift=[3], seeds=1))
    timer.start()
    assert len(pilot(store, idle=3.0).done) == 2 and time.monotonic() - began > 3
    timer.join()


@pytest.mark.slow
def test_pilots_of_a_users_own_are_started_again_when_they_die(whole, tmp_path, capsys):
    seen = []
    config = problems.study(results_dir=str(tmp_path), executor=OWN)
    outcome = run_study(config, finished=lambda item, states: seen.append(states))
    assert (outcome.done, outcome.failed, len(seen)) == (9, [], 9)
    assert snapshot(outcome.store) == snapshot(whole)
    assert "2 pilots have ended; as many are started anew" in capsys.readouterr().err


def test_pilots_that_all_die_end_the_study_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(pilots, "_LOOK", 0.01)
    executor = OWN | {"target": "test_pilots.Stillborn"}
    with pytest.raises(TrainingError, match="12 pilots were started and ended, and none saved anything; see") as found:
        run_study(problems.study(results_dir=str(tmp_path), executor=executor))
    assert "\n" not in str(found.value)


class Doomed(Stillborn):
    """A cluster whose pilots take runs, and end before they have saved anything."""

    def start(self, spec, count):
        claim = spec.store.claim(spec.store.planned())
        claim.tell(step=1, steps=40, loss=1.0)
        threading.Timer(0.1, claim.release).start()  # Seen to be at work meanwhile.


def test_pilots_that_train_and_save_nothing_end_the_study_too(tmp_path, monkeypatch):
    monkeypatch.setattr(pilots, "_LOOK", 0.01)
    executor = OWN | {"target": "test_pilots.Doomed"}
    with pytest.raises(TrainingError, match="12 pilots were started and ended, and none saved anything"):
        run_study(problems.study(results_dir=str(tmp_path), executor=executor))


class Fateful(Stillborn):
    """A cluster where whatever starts meets with a fate."""

    fate = staticmethod(lambda store: None)

    def start(self, spec, count):
        self.fate(spec.store)


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        (lambda store, _: shutil.rmtree(store.root), r"study\.json is gone: the folder was moved or removed"),
        (lambda _, patch: patch.setattr(os, "fsync", no_space), r"cannot write .*: No space left on device; free"),
    ],
)
def test_a_folder_that_pilots_cannot_use_ends_the_study_at_once(tmp_path, monkeypatch, fate, words):
    monkeypatch.setattr(pilots, "_LOOK", 0.01)
    monkeypatch.setattr(Fateful, "fate", staticmethod(lambda store: fate(store, monkeypatch)))
    executor = OWN | {"target": "test_pilots.Fateful"}
    with pytest.raises(StoreError, match=words) as found:
        run_study(problems.study(results_dir=str(tmp_path), executor=executor))
    assert "\n" not in str(found.value) and not list(tmp_path.rglob(".room*"))


def test_nobody_at_work_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pilots, "_LOOK", 0.01)
    monkeypatch.setattr(pilots, "_WORD", 0.1)
    config = problems.study(results_dir=str(tmp_path), executor={"name": "pilots"}, lift=[2], seeds=1)
    store = StudySpec.from_config(config).store
    by_hand = threading.Timer(1.0, lambda: pilot(store))
    by_hand.start()
    assert run_study(config).done == 1
    by_hand.join()
    word = f"rsl: 1 runs are missing, and no pilot is at work: `rsl work {store.root}` starts one"
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        ({"name": "cluster"}, "executor 'cluster' is not known; accepted: local, process, pilots, slurm, ray, target"),
        ({"name": "target"}, "executor.target=None; accepted: package.attribute"),
        ({"name": "target", "target": "test_pilots.pilot"}, "accepted: a subclass of rsl_cli.Executor"),
        (OWN | {"arguments": {"pilots": 2}}, "executor.arguments key 'pilots' is not known; accepted: workers"),
        (OWN | {"arguments": {"workers": 0}}, "executor.arguments.workers=0; accepted: a whole number from 1"),
        ({"name": "slurm", "workers": 1200}, "executor.workers=1200; accepted: a whole number from 1 to 1000"),
        ({"name": "slurm", "time": "1h"}, "executor.time='1h'; accepted: a whole number from 1"),
        ({"name": "ray", "options": "big"}, "executor.options='big'; accepted: null or a mapping"),
        ({"name": "local", "lease_seconds": 0}, "executor.lease_seconds=0; accepted: a number from 1 to 86400"),
    ],
)
def test_a_wrong_executor_is_one_line(executor, words):
    with pytest.raises(ConfigError) as found:
        read_executor(executor)
    assert words in str(found.value) and "\n" not in str(found.value)


def test_executors_by_name_have_what_they_declare():
    for name, kind in EXECUTORS.items():
        if name != "target":
            made = make_executor(read_executor({"name": name}))
            assert isinstance(made, kind) and made.workers >= 1 and made.neighbours in (1, made.workers)


@pytest.mark.parametrize(("name", "extra"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_engine_that_is_not_there_is_one_line_and_nothing_is_written(name, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(ConfigError, match=rf"executor={name} needs .* not installed: pip install 'rsl-cli\[{name}\]'"):
        run_study(problems.study(results_dir=str(tmp_path), executor={"name": name}))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
@pytest.mark.parametrize(
    ("address", "words"), [("127.0.0.1:1", "Connection refused"), ("head", "accepted: auto, or host:port of its head")]
)
def test_a_cluster_that_does_not_answer_is_one_line_at_once(address, words, capfd):
    began = time.monotonic()
    with pytest.raises(ConfigError, match=rf"executor\.address={address}: no Ray cluster answers \(.*{words}\); `ray"):
        make_executor(read_executor({"name": "ray", "address": address})).check()
    assert time.monotonic() - began < 20 and capfd.readouterr() == ("", "")


def test_a_head_that_falls_silent_is_said(tmp_path, monkeypatch, capsys):
    store, pauses = registered(tmp_path), iter([0.0, 0.5])

    def list_named_actors():
        time.sleep(next(pauses))
        return [f"{store.pilot_name}-0", "another's"]

    monkeypatch.setitem(sys.modules, "ray.util", types.SimpleNamespace(list_named_actors=list_named_actors))
    monkeypatch.setattr(ray_actors, "_SILENT", 0.1)
    for word in ("", "rsl: Ray's head does not answer; if that lasts, Ray ends this process with status 1; "):
        assert ray_actors.alive(store) == 1
        time.sleep(0.2)
        err = capsys.readouterr().err
        assert err.startswith(word) and err.count("\n") == bool(word)


@pytest.mark.slow
def test_rsl_work_hears_sigterm_saves_and_gives_back(tmp_path):
    trainer = problems.group("trainer", "adam", steps=1_000_000, batch_size=64)
    store = registered(tmp_path, study="s", lift=[2], seeds=1, trainer=trainer)
    worker = Script(f"import sys; from rsl_cli.cli import main; sys.exit(main(['work', {str(store.root)!r}]))")
    end = time.monotonic() + 120
    while not any(one.note for one in holders(store.leases).values()) and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(worker.pid, signal.SIGTERM)
    out, err = worker.communicate(timeout=60)
    assert worker.returncode == 0 and not err
    assert out.endswith("0 runs done here, 0 failed; told to leave; what was being trained is saved and given back\n")
    assert not list(store.lease_dir.iterdir()) and list(store.root.rglob("resume.safetensors"))


def test_list_watch_says_who_trains_what(tmp_path, monkeypatch, capsys):
    store, rounds = registered(tmp_path, study="s"), []

    def sleep(seconds):
        rounds.append(seconds)
        if len(rounds) == 2:
            raise KeyboardInterrupt

    with store.claim(store.planned()[:2]) as claim:
        claim.tell(step=5, steps=40, loss=0.25)
        claim.check(key.directory for key in store.planned()[:2])
        monkeypatch.setattr(time, "sleep", sleep)
        assert main(["list", f"results_dir={tmp_path}", "--watch", "3"]) == 130
    out = capsys.readouterr().out
    line = f"  process {os.getpid()} on {platform.node()} trains n00002-s000 and 1 more: step 5 of 40, loss 2.50e-01"
    assert rounds == [3.0, 3.0] and out.count(line) == 2
    assert main(["list", f"results_dir={tmp_path}", "--watch", "0"]) == 2
