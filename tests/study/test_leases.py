"""Runs are claimed by leases that a dead, stopped or cut off holder loses, and growth loses no update."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import problems
import pytest
from apart import Script

from rsl_cli.errors import StoreError
from rsl_cli.study import leases
from rsl_cli.study.api import run_study
from rsl_cli.study.growth import register
from rsl_cli.study.lease_files import FileLeases
from rsl_cli.study.leases import Claim, LeaseLostError, holders
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import StudyStore
from rsl_cli.study.verify import verify

NAMES = ["n1", "n2"]
HOLD = """
import sys, time
from pathlib import Path
from rsl_cli.study.lease_files import FileLeases
from rsl_cli.study.leases import Claim
with Claim(FileLeases(Path(sys.argv[1])), ["n1", "n2"], float(sys.argv[2])) as claim:
    print(*(name for name in ("n1", "n2") if name in claim), flush=True)
    time.sleep(60)
"""


def tokens(folder):
    """What tells the leases of a folder from others."""
    return {name: one.holder and one.holder.token for name, one in FileLeases(folder).every().items()}


def held(claim):
    return [name for name in NAMES if name in claim]


def other(folder, seconds):
    """Another process that holds both runs."""
    words = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "n1 n2\n"
    return process


def test_a_run_has_one_holder_until_it_lets_go(tmp_path):
    with Claim(FileLeases(tmp_path), NAMES) as first:
        assert held(first) == NAMES
        with Claim(FileLeases(tmp_path), ["n1", "n3"]) as second:
            assert held(second) == [] and "n3" in second
            assert {name: one.process for name, one in holders(FileLeases(tmp_path)).items()} == dict.fromkeys(
                ["n1", "n2", "n3"], os.getpid()
            )
        first.check(NAMES)
    assert not list(tmp_path.iterdir())


def test_a_killed_holder_is_known_to_be_dead_on_its_own_machine(tmp_path):
    process = other(tmp_path, 1000)
    with Claim(FileLeases(tmp_path), NAMES) as claim:
        assert not held(claim)
    process.kill()
    process.communicate()
    assert not holders(FileLeases(tmp_path))
    with Claim(FileLeases(tmp_path), NAMES) as claim:
        assert held(claim) == NAMES and claim.deaths("n1") == 1
    assert not list(tmp_path.iterdir())


def test_a_dead_holder_of_another_machine_is_given_the_time_it_promised(tmp_path, monkeypatch):
    process = other(tmp_path, 2)
    process.kill()
    process.communicate()
    monkeypatch.setattr(leases, "machine", lambda: "elsewhere/")
    with Claim(FileLeases(tmp_path), NAMES) as claim:
        assert not held(claim) and set(holders(FileLeases(tmp_path))) == set(NAMES)
    time.sleep(2.5)
    with Claim(FileLeases(tmp_path), NAMES) as claim:
        assert held(claim) == NAMES


@pytest.mark.slow
def test_a_stopped_holder_loses_its_runs_and_hears_of_it(tmp_path):
    process = other(tmp_path, 1)
    time.sleep(1.5)
    with Claim(FileLeases(tmp_path), NAMES) as claim:
        assert not held(claim), "a holder that lives keeps its runs, however long"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.5)
    with Claim(FileLeases(tmp_path), NAMES, 30) as claim:
        assert held(claim) == NAMES
        before = tokens(tmp_path)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.7)
        assert tokens(tmp_path) == before and set(before) == set(NAMES), "the one that came back writes nothing"
        claim.check(NAMES)
    process.kill()
    process.communicate()


def test_what_was_taken_over_is_noticed(tmp_path):
    with Claim(FileLeases(tmp_path), NAMES) as claim:
        (tmp_path / "n1").unlink()
        claim.check(["n2"])
        with pytest.raises(LeaseLostError, match="another process took over n1, since this one was silent for 60 s"):
            claim.check(NAMES)
        assert held(claim) == ["n2"]


def test_of_many_that_take_over_at_once_one_does(tmp_path):
    for _ in range(20):
        process_started = leases.Holder("dead", leases.machine(), 2**22 + 1, 1, 60.0)
        (tmp_path / "n1").write_text(json.dumps(leases.asdict(process_started)))
        with ThreadPoolExecutor(8) as pool:
            claims = list(pool.map(lambda _: Claim(FileLeases(tmp_path), ["n1"]), range(8)))
        assert sum("n1" in claim for claim in claims) == 1
        for claim in claims:
            claim.release()
    assert not list(tmp_path.iterdir())


def test_an_unreadable_lease_lasts_as_long_as_any(tmp_path):
    (tmp_path / "n1").write_text("")
    with Claim(FileLeases(tmp_path), ["n1"]) as claim:
        assert "n1" not in claim
    os.utime(tmp_path / "n1", (1, 1))
    with Claim(FileLeases(tmp_path), ["n1"]) as claim:
        assert "n1" in claim


def test_a_run_that_kills_whoever_trains_it_fails_in_the_end(tmp_path):
    config = problems.study(results_dir=str(tmp_path), lift=[2], seeds=2)
    spec = StudySpec.from_config(config)
    key, folder = spec.run_keys()[0], spec.store.lease_dir
    register(spec)
    folder.mkdir()
    dead = leases.Holder("dead", leases.machine(), 2**22 + 1, 1, 60.0, deaths=4)
    (folder / key.directory).write_text(json.dumps(leases.asdict(dead)))
    outcome = run_study(config)
    assert (outcome.done, outcome.failed) == (1, [key.directory])
    record = spec.store.record(key)
    assert record is not None and "5 processes that trained it died" in str(record.error)
    assert run_study(config).done == 1 and verify(spec.store).clean


def _grow(config):
    spec = StudySpec.from_config(config)
    register(spec, [f"seeds={config['seeds']}"])


def test_growth_at_once_loses_no_update(tmp_path):
    config = problems.study(results_dir=str(tmp_path), study="s")
    grids = [config | {"lift": [lift], "seeds": seeds} for lift in (2, 4, 8, 16) for seeds in ([0, 1], [2], [1, 3])]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_grow, grids))
    store = StudyStore(tmp_path / "s")
    assert [(key.lift, key.seed) for key in store.planned()] == [(n, s) for n in (2, 4, 8, 16) for s in range(4)]
    study = store.read_study()
    assert (study["plan"]["lifts"], study["plan"]["seeds"]) == ([2, 4, 8, 16], [0, 1, 2, 3])
    before = sorted(path.name for path in tmp_path.rglob("*.json"))
    _grow(grids[-1] | {"lift": study["plan"]["lifts"], "seeds": 4})
    files = {path.name: path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert len(files) == len(before) + 1
    _grow(grids[-1] | {"lift": study["plan"]["lifts"], "seeds": 4})
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*.json")} == files, "asked again, nothing is added"


def test_two_that_make_one_study_at_once_make_one(tmp_path):
    spec = StudySpec.from_config(problems.study(results_dir=str(tmp_path), study="s"))
    other = StudySpec.from_config(problems.study(results_dir=str(tmp_path), study="s", lifting={"kind": "dense"}))
    assert spec.store.create({"plan": {"runs": []}, "identity": other.identity, "config": {}})
    assert not spec.store.create({})
    with pytest.raises(StoreError, match="computes something else"):
        register(spec)


def test_a_damaged_growth_is_named(tmp_path):
    config = problems.study(results_dir=str(tmp_path), study="s")
    for seeds in (1, 2):
        _grow(config | {"seeds": seeds})
    (grown,) = (tmp_path / "s" / "growth").iterdir()
    grown.write_bytes(grown.read_bytes().replace(b'"seed": 1', b'"seed": 7'))
    with pytest.raises(StoreError, match=rf"cannot read .*{grown.name}: its content does not fit its digest"):
        StudyStore(tmp_path / "s").planned()


@pytest.mark.slow
def test_a_worker_that_was_stopped_and_comes_back_writes_nothing(tmp_path):
    config = problems.study(results_dir=str(tmp_path / "a"), lift=[2], seeds=1)
    config["executor"] = {"name": "local", "lease_seconds": 1, "checkpoint_seconds": 0.01}
    config["trainer"]["steps"] = 4000
    script = textwrap.dedent(f"""
        import json
        from rsl_cli.study.api import run_study
        done = run_study(json.loads({json.dumps(config)!r}), progress=lambda *_: print("at work", flush=True))
        print(done.done, done.failed)
    """)
    stopped = Script(script)
    assert stopped.stdout.readline() == "at work\n"
    os.kill(stopped.pid, signal.SIGSTOP)
    began = time.monotonic()
    outcome = run_study(config)
    assert outcome.done == 1 and time.monotonic() - began < 60
    (key,) = outcome.store.planned()
    files = {path: path.read_bytes() for path in outcome.store.run_dir(key).iterdir()}
    os.kill(stopped.pid, signal.SIGCONT)
    out, err = stopped.communicate(timeout=60)
    assert stopped.returncode == 0 and out.splitlines()[-1] == "1 []" and f"took over {key.directory}" in err
    assert {path: path.read_bytes() for path in outcome.store.run_dir(key).iterdir()} == files
    assert not list(outcome.store.lease_dir.iterdir())


def test_what_the_dead_left_is_swept(tmp_path):
    process = other(tmp_path, 60)
    process.kill()
    process.communicate()
    old, new = tmp_path / ".a.tmp", tmp_path / ".b.tmp"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    with Claim(FileLeases(tmp_path), ["mine"]):
        leases.sweep(FileLeases(tmp_path))
        assert {path.name for path in tmp_path.iterdir()} == {"mine", ".b.tmp"}
    leases.sweep(FileLeases(tmp_path / "nowhere"))
