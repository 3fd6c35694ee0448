"""Work shared out among as many threads as torch uses, for compiled code that releases the interpreter's lock."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

WORK_OF_THREAD = 1 << 22
"""Multiply-adds below which waking a second thread costs more than it saves."""
_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def worth_threads(work: float) -> bool:
    """Whether so many multiply-adds are worth sharing out."""
    return torch.get_num_threads() > 1 and work >= WORK_OF_THREAD


def in_threads(task: Callable[[_Part], _Result], parts: Sequence[_Part]) -> Iterable[_Result]:
    """What a task makes of each part, in their order; the caller's thread takes its share, too."""
    threads = min(torch.get_num_threads(), len(parts))
    if threads < 2:
        return map(task, parts)
    pool = _pool(torch.get_num_threads() - 1)
    others = [pool.submit(task, part) for part in parts[1:]]
    results = {0: task(parts[0])}
    for place in range(len(others), 0, -1):
        # What no other thread has begun with is the caller's.
        if others[place - 1].cancel():
            results[place] = task(parts[place])
    return [results[place] if place in results else others[place - 1].result() for place in range(len(parts))]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="rsl")
