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
    """What a task makes of each part, in their order."""
    threads = min(torch.get_num_threads(), len(parts))
    return map(task, parts) if threads < 2 else _pool(torch.get_num_threads()).map(task, parts)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="rsl")
