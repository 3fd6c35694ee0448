"""Sums to one number, and dense products, whose terms torch shares out among threads: by one thread.

Where a sum is cut decides how it is rounded, so that what is shared out depends on how many threads there are. Sparse
products, sums along an axis and what acts on each number by itself do not, and keep all threads.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute by one thread inside; to be told so costs it less than a microsecond."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def norm(x: Tensor) -> float:
    """Euclidean norm of all numbers of a tensor of any shape."""
    with one_thread():
        return float(torch.linalg.vector_norm(x))
