"""Runs that are carried on: the same as in one go, whatever happened on the way, and whenever their study was made."""

import json
import shutil
from pathlib import Path

import pandas as pd
import problems
import pytest

from rsl_cli import load_study
from rsl_cli.errors import ConfigError, StoreError
from rsl_cli.progress import Display
from rsl_cli.study import costs, lease_files, leases, run_files, runner, store
from rsl_cli.study.api import run_study
from rsl_cli.study.files import read_json, write_json
from rsl_cli.study.identity import run_id
from rsl_cli.study.plan import make_plan
from rsl_cli.study.record import Record
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import RunKey, StudyStore
from rsl_cli.train.flow import Flow

TRAINERS = {
    "flow": (problems.group("trainer", "flow"), [{"t_end": 1e1}, {"t_end": 3e1}, {"t_end": 1e3}]),
    "lm": (problems.group("trainer", "lm"), [{"max_steps": 3}, {"epsilon": 0.1, "max_steps": 9}, {"max_steps": 20}]),
    "adam": (
        problems.group("trainer", "adam", schedule="constant", batch_size=64),
        [{"steps": n} for n in (7, 20, 60)],
    ),
    "gd": (problems.group("trainer", "gd", stationary=0), [{"steps": n} for n in (0, 9, 60)]),
}


def config(tmp_path, name="flow", last=-1, **changes):
    trainer, rounds = TRAINERS[name]
    diagnostics = problems.group("theory", "path") if name == "flow" else {}
    return (
        problems.study(
            results_dir=str(tmp_path),
            study="s",
            trainer=trainer | rounds[last],
            lift=[2, 4],
            seeds=2,
            theory=diagnostics,
        )
        | changes
    )


def snapshot(study: StudyStore):
    """Everything that a study computed, by lift and seed, but for the time it took."""
    runs = {}
    for key in study.planned():
        record = study.record(key)
        assert record is not None
        kept = {name: value for name, value in record.values().items() if name not in ("wall_seconds", "run_id")}
        state = {name: array.tobytes() for name, array in study.state(key).items()}
        tables = [study.table(key, name) for name in ("trajectory", "drift", "tangent")]
        texts = [None if one is None else one.to_csv(float_format="%.17g") for one in tables]
        runs[key.lift, key.seed] = (json.dumps(kept), texts, state)
    return runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The default study of each trainer, made in one go."""
    made: dict[str, StudyStore] = {}

    def make(name):
        if name not in made:
            made[name] = run_study(config(tmp_path_factory.mktemp(name), name)).store
        return made[name]

    return make


def plan_of(one):
    return make_plan(StudySpec.from_config(one))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_a_study_carried_on_in_rounds_is_the_one_made_in_one_go(name, whole, tmp_path, monkeypatch):
    for last in range(3):
        # Runs go on in whatever unions there are.
        monkeypatch.setattr(costs, "union_size", lambda *_, size=2 - last % 2: size)
        outcome = run_study(config(tmp_path, name, last))
        assert (outcome.done, outcome.failed) == (4, [])
    assert snapshot(outcome.store) == snapshot(whole(name))
    assert run_study(config(tmp_path, name)).done == 0
    assert all(path.suffix in (".json", ".parquet", ".safetensors") for path in outcome.store.root.glob("runs/*/*/*"))


def test_some_runs_go_on_while_others_begin(whole, tmp_path):
    run_study(config(tmp_path, "adam", 0, lift=[2], seeds=[1]))
    run_study(config(tmp_path, "adam", 1, lift=[2, 4], seeds=[0]))
    assert snapshot(run_study(config(tmp_path, "adam")).store) == snapshot(whole("adam"))


def test_less_than_there_is_computes_nothing_and_is_noted(whole, tmp_path, capsys):
    shutil.copytree(whole("flow").root, tmp_path / "s")
    before = snapshot(StudyStore(tmp_path / "s"))
    with Display() as display:
        assert run_study(config(tmp_path, last=0), planned=display.plan).done == 0
    assert "4 runs stand beyond t = 10, up to 1e3\nnothing to do: all 4 runs are done" in capsys.readouterr().out
    study = StudyStore(tmp_path / "s")
    assert snapshot(study) == before
    assert study.carried() == study.carried(4) == {"t_end": 10.0, "max_steps": 20000, "epsilon": None}


def test_lifts_with_a_horizon_of_their_own(whole, tmp_path, capsys):
    one = config(tmp_path, last=0, horizons={4: {"t_end": 1000}})
    study = run_study(one).store
    times = load_study(study.root).runs.groupby("lift")["flow_time"].unique()
    assert (list(times[2]), list(times[4])) == ([10.0], [1000.0])
    assert (study.carried()["t_end"], study.carried(2)["t_end"], study.carried(4)["t_end"]) == (10.0, 10.0, 1000.0)
    assert {key: value for key, value in snapshot(study).items() if key[0] == 4}.items() <= snapshot(
        whole("flow")
    ).items()
    with Display() as display:
        run_study(config(tmp_path), planned=display.plan)
    assert "continue 2 runs from t = 10 to 1e3\n2 of 4 runs to do" in capsys.readouterr().out
    assert snapshot(study) == snapshot(whole("flow"))
    # The file that a worker process and the next session read says the same.
    stored = study.read_study()["config"]
    assert StudySpec.from_config(stored).config["horizons"] == {}


@pytest.mark.slow
def test_processes_carry_runs_on_too(whole, tmp_path):
    run_study(config(tmp_path, last=0))
    executor = {"name": "process", "workers": 2}
    one = config(tmp_path, last=1, horizons={2: {"t_end": 1e3}, 4: {"t_end": 1e3}}, executor=executor)
    assert snapshot(run_study(one).store) == snapshot(whole("flow"))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("adam", [{"learning_rate": 1}, {"learning_rate": 1.0}, {"learning_rate": 1e0, "steps": 20.0}]),
        ("flow", [{"t_end": 1e2}, {"t_end": 100}, {"t_end": 100.0, "stationary": 1e-4}, {"max_steps": 2e4}]),
        ("lm", [{"stationary": 0, "epsilon": 1}, {"stationary": -0.0, "epsilon": 1.0}]),
    ],
)
def test_equal_numbers_written_differently_are_one(name, written, tmp_path):
    trainer = TRAINERS[name][0] | TRAINERS[name][1][1]
    for index, changes in enumerate(written):
        one = config(tmp_path, name, seeds=3, trainer=trainer | written[0] | changes)
        outcome = run_study(one)
        assert outcome.done == (0 if index else 6)
    assert len(load_study(outcome.store.root).runs) == 6


def test_a_norms_number_is_one_however_it_is_written():
    ids = set()
    for eps in (1, 1.0):
        base = problems.group("base", "cnn")
        vertex = next(name for name, facts in base["vertices"].items() if facts["kind"] == "hidden")
        base["vertices"][vertex]["norm"] = {"kind": "layer", "eps": eps, "over": "all"}
        one = problems.study(base=base, dataset=problems.group("dataset", "digits"))
        ids.add(StudySpec.from_config(one).run_keys()[0].run_id)
    assert len(ids) == 1


GOLDEN = {
    "adam": ("adam", {}, "ccd964a8c7119dff"),  # from before any run could be carried on
    "flow": ("flow", {}, "6ed5a0ade050cc65"),
    "lm": ("lm", {}, "1fc69df5bc5a0cdd"),
    "gd": ("gd", {}, "1bb75abfef6f278a"),
    "sgd": ("sgd", {}, "8ae73375f4284653"),
    "constant": ("adam", {"schedule": "constant"}, "3872cb0d62d78be5"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_hash_of_a_known_run_never_changes_silently(name):
    trainer, changes, expected = GOLDEN[name]
    one = {
        "base": problems.group("base", "mlp"),
        "lifting": {"kind": "random", "in_degree": 8},
        "dataset": {"name": "sine2d", "samples": 4096, "test_samples": 4096, "seed": 0},
        "trainer": problems.group("trainer", trainer) | changes,
        "theory": problems.group("theory", "path"),
    }
    assert StudySpec.from_config(one | {"lift": 4, "seeds": [0]}).run_keys()[0].run_id == expected


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("flow", "t_end", 7), ("flow", "epsilon", 0.5), ("lm", "max_steps", 1), ("gd", "steps", 1), ("adam", "steps", 1)],
)
def test_how_far_a_run_is_carried_is_no_part_of_what_it_is(name, key, value):
    trainer = TRAINERS[name][0]
    ids = {
        StudySpec.from_config(problems.study(trainer=one)).run_keys()[0].run_id
        for one in (trainer, trainer | {key: value})
    }
    assert len(ids) == 1


def age(study: StudyStore, trainer) -> StudyStore:
    """Make a study what it would be if made when names said how far, and nothing to go on from was kept."""
    shutil.rmtree(study.catalogue.root)
    content = read_json(study.study_file)
    content["identity"]["trainer"] = {**content["identity"]["trainer"], **trainer}
    del content["carried"], content["layout"], content["config"]["horizons"]
    aged = []
    for key in study.planned():
        old = RunKey(key.lift, key.seed, run_id(content["identity"], key.lift, key.seed))
        folder = study.run_dir(key).rename(study.root / "runs" / old.directory)
        (folder / "resume.safetensors").unlink()
        file = folder / "record.json"
        record = {k: v for k, v in read_json(file).items() if k not in ("restarted_at", "files")}
        write_json(file, record | {"schema": 1, "run_id": old.run_id})
        aged.append(old)
    content["plan"]["runs"] = [
        {"lift": key.lift, "seed": key.seed, "run_id": key.run_id, "directory": key.directory} for key in aged
    ]
    write_json(study.study_file, content)
    for shard in study.root.glob("runs/??"):
        shard.rmdir()
    return StudyStore(study.root)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow", "gd", "lm"])
def test_old_studies_are_recognised_and_carried_on(name, whole, tmp_path, capsys):
    first = run_study(config(tmp_path, name, 1)).store
    trainer = dict(StudySpec.from_config(config(tmp_path, name, 1)).carried)
    before = snapshot(first)
    first = age(first, trainer)
    assert first.carried() == trainer
    folders = {path.name for path in first.root.glob("runs/*")}
    assert run_study(config(tmp_path, name, 1)).done == 0 and run_study(config(tmp_path, name, 0)).done == 0
    assert {place: run[1:] for place, run in snapshot(first).items()} == {p: run[1:] for p, run in before.items()}
    with Display() as display:
        assert run_study(config(tmp_path, name), planned=display.plan).done == 4
    shown = capsys.readouterr().out
    assert {path.name for path in first.root.glob("runs/*")} == folders
    if name != "flow":
        assert snapshot(first) == snapshot(whole(name)) and "integrator" not in shown
        return
    assert "  4 of them have no saved state: their integrator begins anew where they stand" in shown
    for key in first.planned():
        record, path = first.record(key), first.trajectory(key)
        one = whole(name).trajectory(next(k for k in whole(name).planned() if (k.lift, k.seed) == (key.lift, key.seed)))
        assert record is not None and record.restarted_at == 30.0 and record.flow_time == 1000.0
        assert path["loss"].iloc[-1] == pytest.approx(one["loss"].iloc[-1], rel=1e-2)
        # Not a number is lost: the samples and the kappas of before are there, those of after join them.
        old = pd.read_csv(pd.io.common.StringIO(before[key.lift, key.seed][1][0]), index_col=0)
        pd.testing.assert_frame_equal(path.iloc[: len(old)], old, check_dtype=False)
        kappas = first.table(key, "tangent")
        assert kappas is not None
        assert kappas["place"].drop_duplicates().tolist() == ["start", "path"]
        times = kappas.query("place == 'path'")[["probe", "time"]].drop_duplicates().to_numpy().tolist()
        assert times == [[0, 1.0], [1, 10.0], [2, 30.0], [3, 100.0], [4, 1000.0]]
    # From there it goes on as any run does.
    assert run_study(config(tmp_path, name, trainer=TRAINERS["flow"][0] | {"t_end": 1e4})).done == 4
    assert {record.restarted_at for record in first.records()} == {30.0}
    kappas = first.table(first.planned()[0], "tangent")
    assert kappas is not None
    assert kappas.query("place == 'path'")["time"].drop_duplicates().tolist() == [1.0, 10.0, 30.0, 1e2, 1e3, 1e4]


def test_a_lift_and_seed_listed_twice_are_one_run(whole, tmp_path):
    shutil.copytree(whole("gd").root, tmp_path / "s")
    study = StudyStore(tmp_path / "s")
    keys, content = study.planned(), read_json(study.study_file)
    twins = [RunKey(key.lift, key.seed, key.run_id[::-1]) for key in keys]
    study.run_dir(twins[0]).parent.mkdir(exist_ok=True)
    study.run_dir(keys[0]).rename(study.run_dir(twins[0]))
    file = study.run_dir(twins[0]) / "record.json"
    write_json(file, read_json(file) | {"run_id": twins[0].run_id})
    content["plan"]["runs"] += [
        {"lift": key.lift, "seed": key.seed, "run_id": key.run_id, "directory": key.directory} for key in twins
    ]
    write_json(study.study_file, content)
    assert study.planned() == [twins[0], *keys[1:]]
    assert len(study.records()) == 4 and plan_of(config(tmp_path, "gd")).missing == ()
    run_study(config(tmp_path, "gd", lift=[2, 4, 8]))
    assert len(study.planned()) == 6 and len(load_study(study.root).runs) == 6


class Stop(BaseException):
    """A kill."""


def killed_at(monkeypatch, count):
    """Let a number of the store's operations on files happen, and then no more."""
    left = [count]

    def step(operation):
        def guarded(*rest, **options):
            if left[0] == 0:
                raise Stop
            left[0] -= 1
            return operation(*rest, **options)

        return guarded

    for module in (store, run_files):
        monkeypatch.setattr(module, "write_atomic", step(module.write_atomic))
    monkeypatch.setattr(Path, "replace", step(Path.replace))
    monkeypatch.setattr(Path, "unlink", step(Path.unlink))


def test_a_kill_between_any_two_files_leaves_the_old_run_or_the_new_one(tmp_path, monkeypatch):
    key, count, seen = RunKey(4, 0, "0" * 16), 0, set()
    frames = [pd.DataFrame({"step": [0, round_]}) for round_ in (1, 2, 3)]

    def write(round_):
        tables = {"trajectory": frames[round_], "drift": frames[round_]}
        one.write_run(
            key,
            Record(run_id=key.run_id, lift=4, seed=0, status="done", steps=round_),
            tables,
            {"w": frames[round_]["step"].to_numpy()},
        )

    def check():
        record = one.record(key)
        assert record is not None and isinstance(record.steps, int)
        round_ = record.steps
        for name in ("trajectory", "drift"):
            pd.testing.assert_frame_equal(one.table(key, name), frames[round_])
        assert one.state(key)["w"].tolist() == [0, round_ + 1]
        return round_

    finished = False
    while not finished:
        one = StudyStore(tmp_path / str(count))
        write(0)
        for round_ in (1, 2):
            with monkeypatch.context() as patch:
                killed_at(patch, count)
                try:
                    write(round_)
                    finished = round_ == 2
                except Stop:
                    pass
            seen.add((round_, check()))
        write(2)
        assert check() == 2
        assert not [path for path in one.run_dir(key).iterdir() if path.suffix.lstrip(".").isdigit()]
        count += 1
    assert seen == {(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)} and count > 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow", "adam"])
def test_a_continuation_killed_at_any_write_is_one_that_was_not(name, whole, tmp_path, monkeypatch):
    executor = {"name": "local", "checkpoint_seconds": 1e-9, "lease_seconds": 1}
    # What a kill leaves of a takeover is waited out.
    for module in (leases, lease_files):
        monkeypatch.setattr(module, "SECONDS", 0.5)
    monkeypatch.setattr(runner, "_LOOK", 0.1)
    old = snapshot(run_study(config(tmp_path, name, 0)).store)
    study, new = StudyStore(tmp_path / "s"), snapshot(whole(name))
    for count in (1, 2, 4, 7, 11, 12, 13):
        with monkeypatch.context() as patch:
            killed_at(patch, count)
            with pytest.raises(Stop):
                run_study(config(tmp_path, name, executor=executor))
        now = snapshot(study)
        assert all(run in (old[place], new[place]) for place, run in now.items())
    run_study(config(tmp_path, name, executor=executor))
    assert snapshot(study) == new


def test_a_continuation_that_fails_leaves_what_there_was(whole, tmp_path, monkeypatch):
    study = run_study(config(tmp_path, last=0)).store
    before = snapshot(study)

    def broken(*_, **__):
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Flow, "train", broken)
        outcome = run_study(config(tmp_path))
    assert (outcome.done, len(outcome.failed)) == (0, 4)
    assert snapshot(study) == before
    assert "no room" in (study.run_dir(study.planned()[0]) / "error.txt").read_text()
    run_study(config(tmp_path))
    assert snapshot(study) == snapshot(whole("flow")) and not list(study.root.rglob("error.txt"))


def test_what_cannot_be_carried_on_is_one_line(tmp_path):
    cosine = config(tmp_path, "adam", trainer=problems.group("trainer", "adam", steps=20, batch_size=64))
    study = run_study(cosine).store
    assert study.carried() == {} and not list(study.root.rglob("resume.safetensors"))
    with pytest.raises(StoreError) as caught:
        run_study(cosine | {"trainer": cosine["trainer"] | {"steps": 40}})
    assert str(caught.value).endswith(
        "computes something else: trainer.steps (20 there, 40 now); runs of schedule=cosine end at trainer.steps and "
        "cannot be carried on, those of schedule=constant can; choose another study=NAME, or set it as it was"
    )


def test_runs_that_ended_for_good_are_not_tried_again(tmp_path, capsys):
    trainer = problems.group("trainer", "flow", stationary=10)
    run_study(config(tmp_path, trainer=trainer | {"t_end": 1e2}))
    with Display() as display:
        assert run_study(config(tmp_path, trainer=trainer | {"t_end": 1e3}), planned=display.plan).done == 0
    shown = capsys.readouterr().out
    assert "4 runs ended before t = 1e3 for good: stationary, stalled or diverged\nnothing to do" in shown


@pytest.mark.parametrize(
    ("name", "horizons", "text"),
    [
        ("flow", {64: {"t_end": 1}}, "horizons.64: the study's lifts are 2, 4; add it to lift="),
        ("flow", {4: {"steps": 1}}, "horizons.4={'steps': 1}; accepted are keys of trainer flow: t_end, epsilon"),
        ("flow", {4: 1e9}, "horizons.4=1000000000.0; accepted are keys of trainer flow"),
        ("flow", {4: {"t_end": -1}}, "trainer.t_end=-1; accepted: a number from 0"),
        ("flow", 3, "horizons=3; accepted: null, or horizons by lift, e.g. {64: {t_end: 1e10}}"),
        ("cosine", {4: {"steps": 9}}, "accepted are keys of trainer adam: none, since its schedule ends its runs"),
    ],
)  # fmt: skip
def test_bad_horizons_are_one_line_and_write_nothing(name, horizons, text, tmp_path):
    one = config(tmp_path / "r", "adam" if name == "cosine" else name, horizons=horizons)
    one["trainer"] |= {"schedule": "cosine"} if name == "cosine" else {}
    with pytest.raises(ConfigError) as caught:
        run_study(one)
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()
