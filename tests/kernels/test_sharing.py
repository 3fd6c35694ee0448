"""Work shared out among threads."""

import threading
import time

import pytest
import torch

from rsl_cli.kernels.threads import in_threads


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_parts_are_done_once_and_told_in_their_order(threads, count):
    done, names = [], set()

    def task(part: int) -> int:
        names.add(threading.current_thread().name)
        time.sleep(0.002 * (part % 3))
        done.append(part)
        return part * part

    assert list(in_threads(task, range(count))) == [part * part for part in range(count)]
    assert sorted(done) == list(range(count)) and len(names) <= threads
    assert count == 0 or threading.current_thread().name in names


@pytest.mark.parametrize("bad", [0, 1, 19])
def test_what_a_part_raises_is_raised(threads, bad):
    def task(part: int) -> int:
        if part == bad:
            raise ArithmeticError(part)
        return part

    with pytest.raises(ArithmeticError, match=str(bad)):
        list(in_threads(task, range(20)))
