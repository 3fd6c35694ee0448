"""What a process that trains asks of its machine: cores, and an allocator that keeps what it has."""

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = (1 << 30, 32 << 20)
"""Larger blocks are mapped anew each time. Older glibc takes no more than the second."""


def memory_limit() -> float:
    """Bytes that this process and its children may use: the machine's, or less where a limit is set."""
    limits = [_installed()]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # No such file; "max".
            limits.append(float(Path(file).read_text()))
    if sys.platform != "win32":
        import resource

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits += [float(soft)] if soft != resource.RLIM_INFINITY else []
    return min(limits)


def _installed() -> float:
    if sys.platform == "win32":
        status = (ctypes.c_ulonglong * 8)(64)  # A MEMORYSTATUSEX, which begins with its size.
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return float(status[1])
    return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")


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
        threads: cores for torch and the sparse kernels; None leaves torch's choice. Results do not depend on it.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # Absent from musl.
        if mallopt is not None:
            any(mallopt(_MMAP_THRESHOLD, kept) for kept in _KEPT_BYTES)
            mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    # SciPy and NumPy bring linear algebra of their own, which rounds as its threads share the work out.
    threadpool_limits(1, "blas")
