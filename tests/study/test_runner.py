import json
import signal
import textwrap
import time

import problems
import pytest
from apart import Script
from faults import snapshot

from rsl_cli import load_study
from rsl_cli.errors import ConfigError, StoreError
from rsl_cli.study import costs
from rsl_cli.study.api import run_study
from rsl_cli.study.files import read_tensors, write_tensors
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import StudyStore
from rsl_cli.train.first_order import FirstOrder


def stamps(store):
    return {str(path): path.stat().st_mtime_ns for path in (store.root / "runs").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    config = problems.study(results_dir=str(tmp_path_factory.mktemp("whole")))
    outcome = run_study(config)
    assert outcome.done == 9 and not outcome.failed
    return config, outcome.store


def test_the_same_study_again_does_nothing(whole):
    config, store = whole
    before = stamps(store)
    assert run_study(config).done == 0
    assert stamps(store) == before


def test_records_hold_what_the_format_promises(whole):
    _, store = whole
    frame = load_study(store.root).runs
    assert list(frame["lift"]) == [2] * 3 + [4] * 3 + [8] * 3
    assert set(frame["status"]) == {"done"} and set(frame["stop_reason"]) == {"budget"}
    for record in store.records():
        last = load_study(store.root).trajectory(record.lift, record.seed).iloc[-1]
        assert (record.train_loss, record.test_loss, record.steps) == (last.loss, last.test_loss, last.step)
        assert record.params == sum(a.size for a in load_study(store.root).state(record.lift, record.seed).values())
        variance = StudySpec.from_config(whole[0]).data.target_variance
        assert record.loss_std == pytest.approx(record.test_loss / variance)


@pytest.mark.slow
def test_processes_give_the_same_numbers_as_one(whole, tmp_path):
    config, store = whole
    executor = {"name": "process", "workers": 2}
    other = run_study(config | {"results_dir": str(tmp_path), "executor": executor}).store
    assert snapshot(other) == snapshot(store)


def test_numbers_do_not_depend_on_which_degrees_share_a_union(tmp_path, monkeypatch):
    config = problems.study(
        base=problems.normalised(),
        dataset=problems.group("dataset", "digits"),
        trainer=problems.group("trainer", "adam", steps=8, batch_size=32),
        loss="cross_entropy",
        lift=[1, 2, 3],
        seeds=2,
    )
    unions = []
    store = run_study(
        config | {"results_dir": str(tmp_path / "together")}, finished=lambda item, _: unions.append(item.lifts)
    ).store
    assert unions == ["1..3"]
    monkeypatch.setattr(costs, "may_share", lambda *_: False)
    monkeypatch.setattr(costs, "union_size", lambda *_: 1)
    other = run_study(
        config | {"results_dir": str(tmp_path / "alone")}, finished=lambda item, _: unions.append(item.lifts)
    ).store
    assert len(unions) == 7
    assert snapshot(store) == snapshot(other)


def test_a_study_grows_and_finished_runs_are_not_touched(whole, tmp_path):
    config, store = whole
    small = config | {"results_dir": str(tmp_path), "lift": [2, 8], "seeds": [1]}
    grown = run_study(small).store
    before = stamps(grown)
    run_study(small | {"lift": [2, 4, 8], "seeds": 3})
    assert before.items() <= stamps(grown).items()
    assert snapshot(grown) == snapshot(store)


def test_another_configuration_under_the_same_name_is_refused(whole):
    config, store = whole
    before = stamps(store)
    other = config | {"trainer": config["trainer"] | {"steps": 41}, "lifting": {"kind": "dense"}, "study": store.name}
    with pytest.raises(
        StoreError, match=r"computes something else: .*lifting\.kind.*trainer\.steps \(40 there, 41 now\)"
    ):
        run_study(other)
    assert stamps(store) == before


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_is_the_uninterrupted_study(whole, tmp_path):
    config, store = whole
    config = config | {"results_dir": str(tmp_path), "executor": {"name": "local", "checkpoint_seconds": 1e-9}}
    script = textwrap.dedent(f"""
        import json
        from rsl_cli.study.api import run_study
        print("start", flush=True)
        run_study(json.loads({json.dumps(config)!r}), finished=lambda *_: print("item", flush=True))
    """)
    killed = StudyStore(tmp_path / store.name)
    for pause in (0.05, 0.3):
        process = Script(script)
        assert process.stdout.readline()
        process.stdout.readline()  # the first item, or the end
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = stamps(killed)
    done = [key for key in killed.planned() if killed.is_done(key)]
    assert done
    run_study(config)
    after = stamps(killed)
    for key in done:
        folder = str(killed.run_dir(key))
        assert {k: v for k, v in before.items() if k.startswith(folder)}.items() <= after.items()
    assert snapshot(killed) == snapshot(store)
    assert not list(killed.root.rglob("resume.safetensors"))


@pytest.mark.slow
def test_two_processes_on_one_study_do_each_run_once(whole, tmp_path):
    config, store = whole
    config = config | {"results_dir": str(tmp_path)}
    script = textwrap.dedent(f"""
        import json
        from rsl_cli.study.api import run_study
        print(run_study(json.loads({json.dumps(config)!r})).done)
    """)
    pair = [Script(script) for _ in range(2)]
    counts = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0] and all(int(count) <= 9 for count in counts)
    assert snapshot(StudyStore(tmp_path / store.name)) == snapshot(store)


def test_a_run_that_fails_stops_no_other_and_is_tried_again(whole, tmp_path, monkeypatch):
    config, store = whole
    config = config | {"results_dir": str(tmp_path)}
    train = FirstOrder.train

    def fragile(trainer, network, *rest, **options):
        if any((r.degree, r.seed) == (4, 1) for r in network.lift.replicas):
            raise MemoryError("no room for seed 1\nsecond line")
        return train(trainer, network, *rest, **options)

    monkeypatch.setattr(FirstOrder, "train", fragile)
    outcome = run_study(config)
    assert outcome.done == 8 and len(outcome.failed) == 1 and outcome.failed[0].startswith("n00004-s001-")
    failed = next(key for key in outcome.store.planned() if (key.lift, key.seed) == (4, 1))
    assert outcome.store.record(failed).error == "MemoryError: no room for seed 1"
    assert "second line" in (outcome.store.run_dir(failed) / "error.txt").read_text()
    monkeypatch.undo()
    assert run_study(config).done == 1
    assert snapshot(outcome.store) == snapshot(store)


def test_a_damaged_checkpoint_is_thrown_away(whole, tmp_path):
    config, store = whole
    config = config | {"results_dir": str(tmp_path)}
    damaged = StudyStore(tmp_path / store.name)
    for key in StudySpec.from_config(config).run_keys():
        damaged.run_dir(key).mkdir(parents=True)
        (damaged.run_dir(key) / "resume.safetensors").write_bytes(b"rubbish")
    assert snapshot(run_study(config).store) == snapshot(store)


def _of_another_network(path):
    arrays, text = read_tensors(path)
    write_tensors(path, {name: array[:1] for name, array in arrays.items()}, text)


def _without_an_array(path):
    arrays, text = read_tensors(path)
    gone = next(name for name in arrays if name.startswith("parameter/"))
    write_tensors(path, {name: array for name, array in arrays.items() if name != gone}, text)


def _without_text(path):
    arrays, text = read_tensors(path)
    write_tensors(path, arrays, text | {"training": json.dumps({"step": json.loads(text["training"])["step"]})})


def _flipped(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def _a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_of_another_network, _without_an_array, _without_text, _flipped, _a_folder])
def test_no_number_comes_from_a_damaged_checkpoint_and_none_blocks(whole, tmp_path, damage):
    config, store = whole
    config = config | {"results_dir": str(tmp_path), "executor": {"name": "local", "checkpoint_seconds": 1e-9}}

    def stop(_, step, *__):
        if step > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(config, progress=stop)
    path, *_ = sorted((tmp_path / store.name / "runs").rglob("resume.safetensors"))
    damage(path)
    again = run_study(config)
    assert again.done == 9 and snapshot(again.store) == snapshot(store)
    assert [file.name for file in (again.store.root / "damaged").iterdir()] == [path.name]


def test_identity_is_what_determines_the_numbers_and_nothing_else():
    def identify(**changes):
        return StudySpec.from_config(problems.study(**changes)).run_keys()[0].run_id

    mine = identify()
    base = problems.group("base", "mlp")
    same = [
        {"executor": {"name": "process"}}, {"device": "cpu"}, {"results_dir": "/elsewhere"}, {"study": "other"},
        {"base": base | {"name": "renamed"}}, {"lift": [2, 16]}, {"seeds": 1}, {"loss": "mse"},
    ]  # fmt: skip
    other = [
        {"trainer": problems.group("trainer", "adam", steps=41, batch_size=64)}, {"lifting": {"kind": "dense"}},
        {"parametrization": "ntk"}, {"base": problems.group("base", "skip")}, {"lift": [3]}, {"seeds": [1]},
        {"dataset": problems.group("dataset", "sine2d", samples=257, test_samples=64)},
    ]  # fmt: skip
    assert {identify(**change) for change in same} == {mine}
    assert len({mine, *(identify(**change) for change in other)}) == 1 + len(other)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"foo": 1}, "key 'foo' is not known"),
        ({"base": "mlp"}, "base='mlp'; a group is needed: base=NAME"),
        ({"loss": "mae"}, "loss 'mae' is not known; accepted: mse, cross_entropy"),
        ({"loss": "cross_entropy"}, "needs classes, dataset 'sine2d' has numbers; use loss=mse"),
        ({"device": "tpu"}, "device='tpu'; accepted: auto, cpu or cuda"),
        ({"study": "a/b"}, "study='a/b'; accepted: letters, digits"),
        ({"executor": {"name": "pbs"}}, "executor 'pbs' is not known; accepted: local, process"),
        ({"executor": {"name": "local", "workers": 2}}, "executor key 'workers' is not known"),
        ({"executor": {"name": "process", "workers": 0}}, "executor.workers=0; accepted: null"),
        ({"executor": {"name": "local", "checkpoint_seconds": 0}}, "executor.checkpoint_seconds=0; accepted: a number"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_writes_nothing(change, text, tmp_path):
    with pytest.raises(ConfigError) as caught:
        run_study(problems.study(results_dir=str(tmp_path / "r")) | change)
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_teacher_study_runs_and_names_its_witness(tmp_path):
    data = problems.group("dataset", "teacher", degree=2, samples=128, test_samples=64)
    config = problems.study(dataset=data, lift=[2], seeds=2, results_dir=str(tmp_path))
    store = run_study(config).store
    assert {record.witness_degree for record in store.records()} == {2}
    assert StudySpec.from_config(config).data.target_variance == pytest.approx(1)


def test_unknown_runs_and_studies_are_one_line(whole, tmp_path):
    with pytest.raises(StoreError, match="no study at"):
        load_study(tmp_path / "none")
    with pytest.raises(StoreError, match="no run of lift 2, seed 99"):
        load_study(whole[1].root).state(2, 99)
