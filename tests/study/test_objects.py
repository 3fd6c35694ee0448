"""Studies in an object store: a real S3 server, several caches as several machines."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import object_store
import problems
import pytest
from apart import Script
from faults import snapshot, wait_until

import rsl_cli as rsl
from rsl_cli.cli import main
from rsl_cli.errors import ConfigError, StoreError
from rsl_cli.study import leases, objects
from rsl_cli.study.api import run_study
from rsl_cli.study.growth import register
from rsl_cli.study.leases import Claim, Holder, LeaseLostError, holders
from rsl_cli.study.object_leases import ObjectLeases
from rsl_cli.study.objects import Objects
from rsl_cli.study.pilots import pilot
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.studies import open_study, study_at
from rsl_cli.track import Tracker

pytestmark = pytest.mark.skipif(not object_store.HERE, reason="needs s3fs and moto, which the extra dev brings")
KINDS = ("record.json", "trajectory.parquet", "state.safetensors")


@pytest.fixture(scope="module")
def server():
    with object_store.served() as found:
        yield found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return snapshot(run_study(problems.study(results_dir=str(tmp_path_factory.mktemp("whole")), lift=[2, 4])).store)


@pytest.fixture
def move(tmp_path, monkeypatch):
    """Go to another machine: to a cache of that name."""

    def to(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    to("first")
    return to


def study(place, **changes):
    return problems.study(results_dir=f"s3://bucket/{place}", study="s", lift=[2, 4]) | changes


def registered(place, **changes):
    spec = StudySpec.from_config(study(place, **changes))
    register(spec)
    return spec.store


@pytest.mark.slow
def test_a_study_in_a_bucket_is_one_on_disk_for_every_command(server, whole, move, tmp_path, capsys):
    assert run_study(study("a")).done == 6
    assert not [name for name in server.names("bucket", "a/s/") if "leases" in name or "resume" in name]
    move("second")
    again = run_study(study("a"))
    assert again.done == 0 and snapshot(again.store) == whole
    at, words = "s3://bucket/a/s", "results_dir=s3://bucket/a"
    assert main(["report", "s", words, "--format", "png"]) == 0 and main(["report", at]) == 0
    page = server.client().get_object(Bucket="bucket", Key="a/s/report/index.html")["Body"].read()
    assert page == (again.store.report_dir / "index.html").read_bytes()
    move("third")
    capsys.readouterr()
    assert main(["list", words]) == 0
    done = capsys.readouterr().out.splitlines()[1].split()
    assert done[:4] == ["s", "6", "0", "0"] and done[4] == rsl.judge(at).verdict
    assert main(["verify", "--results-dir", "s3://bucket/a/"]) == 0
    assert main(["export", at, "lift=4", "--to", str(tmp_path / "net")]) == 0
    assert main(["track", at, "--to", "test_objects.Diary"]) == 0
    loaded = rsl.load_study(at)
    assert len(loaded.runs) == 6 and len(loaded.trajectory(4, 1)) > 2 and loaded.run().store.address == at
    assert pilot(open_study(at)).done == [] and snapshot(open_study(at)) == whole
    names = [name.removeprefix("/bucket/") for name in server.written if "/a/s/runs/" in name]
    assert len([name for name in names if name.endswith("record.json")]) == 6
    assert {server.written[f"/bucket/{name}"] for name in names} == {1}, "nothing was written twice"


class Diary(Tracker):
    """Takes everything, keeps nothing."""

    module = "json"

    def sent(self, key):
        return None

    def send(self, note, since):
        assert note.rows or note.key == "study"


def test_the_command_line_makes_one_with_workers(server, move, capsys):
    words = ["study=line", "base=mlp", "trainer=adam", "trainer.steps=20", "lift=2,4", "seeds=1", "theory=none"]
    assert main(["run", *words, "dataset.samples=64", "executor.workers=2", "results_dir=s3://bucket/line"]) == 0
    said = capsys.readouterr().out
    assert "study line in s3://bucket/line/line\n" in said and "2 of 2 runs to do" in said
    assert "line/line/report/verdict.json" in server.names("bucket", "line/")


def test_what_was_stopped_goes_on_on_another_machine(server, whole, move):
    slow = {"name": "local", "checkpoint_seconds": 0.001}
    store, leave, shares = registered("stopped", executor=slow), threading.Event(), []
    tally = pilot(store, leave=leave, progress=lambda _, done, of, loss: leave.set() if done else None)
    assert tally.done == [] and not server.names("bucket", "stopped/s/leases")
    left = [name for name in server.names("bucket", "stopped/s/runs") if name.endswith("resume.safetensors")]
    assert left
    move("second")
    store = study_at("s3://bucket/stopped/s")
    tally = pilot(store, progress=lambda item, done, of, loss: shares.append(done))
    assert len(tally.done) == 6 and snapshot(store) == whole
    assert shares[0] > 0, "it went on"


def test_a_run_carried_further_elsewhere_is_the_one_made_in_one_go(server, move, tmp_path):
    def config(place, steps, lift):
        trainer = problems.group("trainer", "adam", steps=steps, batch_size=64, schedule="constant")
        return study("far", results_dir=place, lift=lift, seeds=2, trainer=trainer)

    for name, steps in (("first", 10), ("second", 20), ("first", 30)):
        move(name)
        assert run_study(config("s3://bucket/far", steps, [2])).done == 2
    here = run_study(config(str(tmp_path / "r"), 30, [2])).store
    move("third")
    there = open_study("s3://bucket/far/s")
    records = [there.record(key) for key in there.planned()]
    assert [record and record.continued for record in records] == [2, 2]
    assert {k: v[1:] for k, v in snapshot(there).items()} == {k: v[1:] for k, v in snapshot(here).items()}
    assert main(["verify", there.address]) == 0


@pytest.mark.slow
def test_workers_of_one_bucket_do_each_run_once_and_a_killed_one_is_replaced(server, move, tmp_path):
    changes = {"seeds": 4, "trainer": problems.group("trainer", "adam", steps=4000, batch_size=64)}
    store = registered("many", executor={"name": "pilots", "workers": 4}, **changes)
    line = f"import sys; from rsl_cli.cli import main; sys.exit(main(['work', {store.address!r}, '--threads', '1']))"
    workers = {one.pid: one for one in (Script(line, XDG_CACHE_HOME=str(tmp_path / str(i))) for i in range(3))}
    wait_until(lambda: [one for one in holders(store.leases).values() if one.note])
    victim = next(one.process for one in holders(store.leases).values() if one.note)
    os.kill(victim, signal.SIGKILL)
    said = {pid: worker.communicate(timeout=120)[0] for pid, worker in workers.items()}
    assert {pid: worker.returncode for pid, worker in workers.items()} == {pid: -9 * (pid == victim) for pid in workers}
    done = [int(text.splitlines()[-1].split()[2]) for pid, text in said.items() if pid != victim]
    records = [name for name in server.written if "/many/s/runs/" in name and name.endswith("record.json")]
    assert len(records) == 8 and {server.written[name] for name in records} == {1}, "each run is recorded once"
    assert 6 <= sum(done) <= 8 and not server.names("bucket", "many/s/leases/")
    here = run_study(study("x", results_dir=str(tmp_path / "r"), **changes)).store
    assert snapshot(open_study(store.address)) == snapshot(here)


def test_growth_at_once_loses_no_update(server, move):
    def grow(grid):
        register(StudySpec.from_config(study("grown", lift=[grid[0]], seeds=grid[1])))

    grids = [(lift, seeds) for lift in (2, 4) for seeds in ([0, 1], [2], [1, 3])]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(grow, grids))
    keys = open_study("s3://bucket/grown/s").planned()
    assert [(key.lift, key.seed) for key in keys] == [(n, s) for n in (2, 4) for s in range(4)]


@pytest.mark.slow
def test_a_flipped_byte_in_the_bucket_is_found_and_never_reported(server, whole, move, capsys):
    store = run_study(study("flipped")).store
    for number, kind in enumerate(KINDS):
        key = store.planned()[number]
        name = f"flipped/s/runs/{key.run_id[:2]}/{key.directory}/{kind}"
        server.flip("bucket", name, 40 + 7 * number)
        capsys.readouterr()
        assert main(["report", store.address, "--format", "png"]) == 0
        assert f"{key.directory}/{kind}" in capsys.readouterr().err
        kept = server.client().get_object(Bucket="bucket", Key="flipped/s/report/runs.csv")["Body"].read().decode()
        assert key.run_id not in [line.split(",")[0] for line in kept.splitlines() if ",done" in line]
        assert main(["verify", store.address]) == 1
        assert f"{key.directory}/{kind}" in capsys.readouterr().out
        assert [one for one in server.names("bucket", "flipped/s/damaged/") if key.directory in one]
        assert main(["verify", store.address]) == 0
        assert run_study(study("flipped")).done == 1
    assert snapshot(open_study(store.address)) == whole
    server.flip("bucket", "flipped/s/study.json", 99)
    move("second")
    assert main(["list", "results_dir=s3://bucket/flipped"]) == 1
    assert "study.json: " in capsys.readouterr().err


def test_an_upload_that_breaks_off_leaves_a_run_missing_and_is_made_up_for(server, whole, move, monkeypatch):
    put, broken = Objects.put, []

    def break_off(self, name, content):
        if name.endswith("state.safetensors") and not broken:
            broken.append(name)
            raise StoreError("the network is gone")
        put(self, name, content)

    monkeypatch.setattr(Objects, "put", break_off)
    with pytest.raises(StoreError, match="the network is gone"):
        run_study(study("torn"))
    move("second")
    assert run_study(study("torn")).done == 6
    assert snapshot(open_study("s3://bucket/torn/s")) == whole and main(["verify", "s3://bucket/torn/s"]) == 0


def test_a_lease_has_one_holder_until_it_is_let_go_or_over(server, monkeypatch):
    place = ObjectLeases(Objects("s3://bucket/leases"))
    with Claim(place, ["n1", "n2"]) as first:
        with Claim(place, ["n1", "n3"]) as second:
            assert "n1" in first and "n1" not in second and "n3" in second and set(holders(place)) == {"n1", "n2", "n3"}
        first.check(["n1"])
    assert not server.names("bucket", "leases/")
    elsewhere = Holder("dead", "elsewhere/", 1, 1, 2.0)
    for machine in ("elsewhere/", leases.machine()):
        server.client().put_object(Bucket="bucket", Key="leases/n1.000001", Body=elsewhere.content().replace(
            b"elsewhere/", machine.encode()))  # fmt: skip
        if machine == "elsewhere/":
            assert "n1" not in Claim(place, ["n1"]), "it is given the time it promised"
            time.sleep(3.1)
        with ThreadPoolExecutor(8) as pool:
            claims = list(pool.map(lambda _: Claim(place, ["n1"]), range(8)))
        (own,) = [claim for claim in claims if "n1" in claim]
        assert own.deaths("n1") == 1
        server.client().put_object(Bucket="bucket", Key="leases/n1.000003", Body=elsewhere.content())
        with pytest.raises(LeaseLostError, match="another process took over n1"):
            own.check(["n1"])
        own.release()
        for name in server.names("bucket", "leases/"):
            server.client().delete_object(Bucket="bucket", Key=name)


def test_a_clock_that_is_wrong_here_takes_nothing_over(server, monkeypatch):
    place = ObjectLeases(Objects("s3://bucket/clock"))
    now = time.time
    with Claim(place, ["n1"]):
        monkeypatch.setattr("rsl_cli.study.objects.time.time", lambda: now() + 1000.0)
        other = ObjectLeases(place.objects)
        assert -1002 < other.objects.skew() < -998
        assert not other.is_over(other.every()["n1"])


def test_doctor_says_whether_conditions_are_kept(server, capsys, monkeypatch):
    assert main(["doctor", "s3://bucket/results"]) == 0
    good = capsys.readouterr().out.splitlines()
    rows = ("conditional writes", "listed at once", "MD5", "an object is written in", "clock against this machine's")
    assert all(row in line and line.startswith("ok    ") for row, line in zip(rows, good, strict=True)), good
    monkeypatch.setattr(server, "careless", True)
    assert main(["doctor", "s3://bucket/results"]) == 1
    assert "FAILS of 12 objects 12 were made by several processes at once" in capsys.readouterr().out
    assert not [name for name in server.names("bucket") if "doctor" in name]
    assert main(["doctor", "s3://bucket/results", "/tmp"]) == 2


@pytest.fixture
def silent():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "surroundings", "words"),
    [
        ("s3://no-such-bucket/r", {}, "there is no bucket 'no-such-bucket'"),
        ("s3://bucket1/r", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials"),
        ("s3://bucket2/r", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "the store does not answer"),
        ("s3://bucket3/r", {"AWS_ENDPOINT_URL": "silent"}, "the store does not answer"),
        ("ftp://bucket/r", {}, "accepted: the path of a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"),
        ("s3://", {}, "accepted: the path of a folder, s3://BUCKET/PREFIX"),
        ("s3:///r", {}, "accepted: the path of a folder, s3://BUCKET/PREFIX"),
        ("s3://bucket/../r", {}, "accepted: the path of a folder, s3://BUCKET/PREFIX"),
    ],
)
def test_a_place_that_cannot_be_had_is_one_line(
    server, move, silent, tmp_path, monkeypatch, capsys, address, surroundings, words
):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in surroundings.items():
        monkeypatch.setenv(name, silent if value == "silent" else value)
        if not value:
            monkeypatch.delenv(name)
    began = time.monotonic()
    for line in (["list"], ["run", "dataset.samples=32", "theory=none", "lift=2", "seeds=1"]):
        assert main([*line, f"results_dir={address}"]) == 2
        out = capsys.readouterr()
        assert words in out.err and len(out.err.splitlines()) == 1 and not out.out
    assert main(["doctor", address]) == 2 and words in capsys.readouterr().err
    assert time.monotonic() - began < 15, "three commands, each within 5 s"
    assert not (tmp_path / "first").exists()


def test_what_is_not_installed_is_said(monkeypatch, capsys):
    monkeypatch.setattr(objects.importlib.util, "find_spec", lambda name: None)
    for scheme, module in (("s3", "s3fs"), ("gs", "gcsfs")):
        assert main(["list", f"results_dir={scheme}://bucket/r"]) == 2
        remedy = f"needs {module}, which is not installed: pip install 'rsl-cli[{scheme}]'"
        assert remedy in capsys.readouterr().err


def test_no_object_is_kept_outside_the_copy(server, move, tmp_path):
    store = registered("evil")
    for name in ("runs/../../../../evil", "runs/aa/.hidden/x", "runs//x", "runs/aa/b\\c"):
        assert not objects.is_safe(name)
    server.client().put_object(Bucket="bucket", Key="evil/s/runs/aa/b\\c", Body=b"x")
    server.client().put_object(Bucket="bucket", Key="evil/s/runs/aa/strange", Body=b"x")
    assert not run_study(study("evil")).failed
    here = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert "strange" in here and not [name for name in here if "\\" in name]
    assert main(["verify", store.address]) == 1, "what is foreign is named"


def test_a_study_needs_a_name():
    with pytest.raises(ConfigError, match="study s3://bucket; accepted: s3://BUCKET/PREFIX/STUDY"):
        study_at("s3://bucket")
