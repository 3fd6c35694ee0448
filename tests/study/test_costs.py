import re
from contextlib import nullcontext

import problems
import pytest

from rsl_cli.errors import ConfigError
from rsl_cli.lift import expected_parameters
from rsl_cli.study import costs
from rsl_cli.study.executors import Local, Pilots
from rsl_cli.study.plan import pack
from rsl_cli.study.record import RunKey
from rsl_cli.study.spec import StudySpec

PROCESSES = {"name": "process", "workers": 2}


class Own(Local):
    """A user's executor on this machine."""


class Elsewhere(Pilots):
    """A user's executor on others."""


def by_autograd():
    """Convolutions that have no circuits."""
    base = problems.group("base", "cnn")
    base["vertices"]["c{depth}"]["pool"]["kind"] = "max"
    return base


def spec(tmp_path, base=None, **changes) -> StudySpec:
    config = {
        "base": problems.group("base", base) if base else by_autograd(),
        "dataset": problems.group("dataset", "digits"),
        "seeds": 6,
    }
    return StudySpec.from_config(problems.study(results_dir=str(tmp_path), executor=PROCESSES) | config | changes)


def test_circuits_go_alone_but_for_threads_of_one_process(tmp_path):
    assert costs.union_size(spec(tmp_path, "mlp"), 64, 6) == 1
    assert costs.union_size(spec(tmp_path, "mlp", executor={"name": "local"}), 64, 6) == 6


def test_small_products_share_their_calls_and_large_ones_do_not(tmp_path, monkeypatch):
    study = spec(tmp_path)
    sizes = [costs.union_size(study, degree, 6) for degree in (1, 2, 8, 64, 1024)]
    assert sizes[0] == 3 and sizes[-1] == 1 and sizes == sorted(sizes, reverse=True)
    alone = spec(tmp_path, executor={"name": "local"})
    assert costs.union_size(alone, 1, 6) > 3
    monkeypatch.setattr(costs, "_memory_there", lambda _: 5 * costs.memory(alone, 1))
    assert costs.union_size(alone, 1, 6) == 2
    monkeypatch.setattr(costs, "_memory_there", lambda _: 1.0)
    assert costs.union_size(alone, 1, 6) == 1


def test_small_degrees_share_a_union_and_leave_work_for_every_process(tmp_path, monkeypatch):
    study = spec(tmp_path, lift=[1, 2, 4, 64])
    keys = study.run_keys()

    def unions(keys):
        items = pack(
            keys,
            lambda lift, seeds: costs.union_size(study, lift, seeds),
            lambda lifts: costs.may_share(study, lifts, len(keys)),
        )
        assert sorted(key.directory for item in items for key in item.keys) == sorted(key.directory for key in keys)
        return [(item.lifts, len(item.keys)) for item in items]

    assert unions(keys)[:2] == [("1..2", 12), ("4", 6)]
    assert all(lifts == "64" for lifts, _ in unions(keys)[2:])
    assert unions([key for key in keys if key.lift < 4]) == [("1", 6), ("2", 6)]
    monkeypatch.setattr(costs, "_memory_there", lambda _: 15 * costs.memory(study, 1))
    assert max(count for _, count in unions(keys)) < 12


def test_degrees_stay_apart_where_rounding_or_the_number_of_steps_would_differ(tmp_path):
    study = spec(tmp_path, trainer=problems.group("trainer", "adam", batch_size=1))
    assert costs.may_share(study, [1, 16], 6)
    assert not costs.may_share(study, [1, 64], 6)
    assert not costs.may_share(spec(tmp_path, "mlp"), [1, 2], 6)
    lm = spec(tmp_path, trainer=problems.group("trainer", "lm"), loss="cross_entropy")
    assert not costs.may_share(lm, [1, 2], 6)


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_every_run_is_packed_once_whatever_the_size(tmp_path, size):
    study = spec(tmp_path, lift=[2, 4])
    items = pack(study.run_keys(), lambda lift, seeds: min(size, seeds), lambda lifts: False)
    packed = [key.directory for item in items for key in item.keys]
    assert sorted(packed) == sorted(key.directory for key in study.run_keys())
    assert max(len(item.keys) for item in items) == min(size, 6)
    assert all(len({key.lift for key in item.keys}) == 1 for item in items)


def test_a_matrix_that_memory_does_not_hold_is_refused_and_the_flow_forms_none_for_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "memory_limit", lambda: 4e8)
    flow, lm = (spec(tmp_path, "mlp", trainer=problems.group("trainer", name), lift=[1, 64]) for name in ("flow", "lm"))
    costs.check_affordable(flow, flow.run_keys())
    message = (
        r"0\.6\d+ GB at lift 64, where .* trainer=flow, which forms no matrix of P = 5,120 parameters, or begin with"
    )
    with pytest.raises(ConfigError, match=message):
        costs.check_affordable(lm, lm.run_keys())


@pytest.mark.parametrize(("kind", "here"), [("Own", True), ("Elsewhere", False)])
def test_a_users_executor_is_held_against_this_machines_memory_where_it_trains_here(tmp_path, monkeypatch, kind, here):
    executor = {"name": "target", "target": f"test_costs.{kind}"}
    lm = spec(tmp_path, "mlp", trainer=problems.group("trainer", "lm"), lift=[1, 64], executor=executor)
    monkeypatch.setattr(costs, "memory_limit", lambda: 4e8)
    with pytest.raises(ConfigError, match="GB at lift 64") if here else nullcontext():
        costs.check_affordable(lm, lm.run_keys())


def test_a_matrix_of_few_samples_is_kept_as_their_whole_jacobian(tmp_path, monkeypatch):
    lm = spec(tmp_path, "mlp", trainer=problems.group("trainer", "lm"), dataset=problems.group("dataset", "sine2d"))
    jacobian = 8 * lm.data.samples * expected_parameters(lm.base, 16384, lm.lifting)
    assert costs.memory(lm, 16384) > 2 * jacobian > 2**35
    monkeypatch.setattr(costs, "memory_limit", lambda: 2.0**35)
    with pytest.raises(ConfigError, match="trainer=adam, which forms no matrix"):
        costs.check_affordable(lm, [RunKey(16384, 0, "0" * 16)])


@pytest.mark.parametrize(("dataset", "part"), [("digits", "classes"), ("sine2d", "numbers")])
def test_auto_takes_the_flow_where_it_is_affordable_and_says_why(tmp_path, dataset, part):
    auto = {"name": "auto", "numbers": {"name": "lm"}, "classes": {"name": "lm"}, "dear": {"name": "adam"}}
    auto |= {part: {"name": "flow"}}
    data = problems.group("dataset", dataset)
    small, large = (spec(tmp_path, "mlp", trainer=auto, dataset=data, lift=lift) for lift in (64, 65536))
    assert (small.trainer.name, large.trainer.name) == ("flow", "adam")
    sizes = r"\(P = \S+, N = \S+, K = \d+, \S+ gradients\)"
    assert re.fullmatch(rf"trainer=auto: .* flow, about \d+ s of one core for a run of lift 64 {sizes}", small.notes[0])
    assert re.search(
        r"^trainer=auto: Adam, since the flow takes about \S+ minutes of one core .*; trainer=flow", large.notes[0]
    )
    other = spec(tmp_path, "mlp", trainer=auto | {part: {"name": "lm"}}, dataset=data, lift=65536)
    assert (other.trainer.name, other.notes) == ("lm", ())
