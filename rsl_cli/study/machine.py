"""What a process that trains asks of its machine: cores, and an allocator that keeps what it has."""

import ctypes
import os
import sys

import torch
from threadpoolctl import threadpool_limits

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = (1 << 30, 32 << 20)
"""Larger blocks are mapped anew each time. Older glibc takes no more than the second."""


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux alone says which.
        return os.cpu_count() or 1


def prepare(threads: int | None = None) -> None:
    """Set up this process for training.

    Activations are freed and asked for again at every step. By default glibc hands blocks of that size back to the
    system and faults them in again page by page, which costs more than computing them; kept, they stay in the heap.

    Args:
        threads: cores for torch and the sparse kernels; None leaves torch's choice.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # Absent from musl.
        if mallopt is not None:
            any(mallopt(_MMAP_THRESHOLD, kept) for kept in _KEPT_BYTES)
            mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    if threads is not None:
        torch.set_num_threads(max(1, threads))
        # SciPy and NumPy bring linear algebra of their own, with threads of its own.
        threadpool_limits(max(1, threads), "blas")
