import problems
import pytest

from rsl_cli.study import costs
from rsl_cli.study.runner import pack, register
from rsl_cli.study.spec import StudySpec

PROCESSES = {"name": "process", "workers": 2}


def spec(tmp_path, base="cnn", **changes) -> StudySpec:
    config = {"base": problems.group("base", base), "dataset": problems.group("dataset", "digits"), "seeds": 6}
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


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_every_run_is_packed_once_whatever_the_size(tmp_path, size):
    study = spec(tmp_path, lift=[2, 4])
    register(study)
    items = pack(study.store, study.run_keys(), lambda lift, seeds: min(size, seeds))
    packed = [key.directory for item in items for key in item.keys]
    assert sorted(packed) == sorted(key.directory for key in study.run_keys())
    assert max(len(item.keys) for item in items) == min(size, 6)
    assert all(len({key.lift for key in item.keys}) == 1 for item in items)
