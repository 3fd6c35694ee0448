"""Numba's compiler for the kernels, which keeps what it compiled wherever something can be written."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numba


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function on first use, with a cache on disk.

    Numba caches beside the source or in the user's home, and refuses a function where neither can be written, as in a
    read-only installation under a service's account. A folder of this process then serves, and its workers'.

    Args:
        options: of `numba.njit`.

    Returns:
        A decorator of the function to compile.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            _cache_elsewhere()
            return numba.njit(cache=True, **options)(function)

    return compiled


def _cache_elsewhere() -> None:
    folder = tempfile.mkdtemp(prefix="rsl-numba-")
    # Nobody else may put code there: the folder is new, and this user's alone. Workers inherit the variable.
    os.environ["NUMBA_CACHE_DIR"] = folder
    numba.config.reload_config()  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    print(
        "rsl: Numba can write neither beside rsl nor in the home folder, so kernels are compiled anew each time; "
        "set NUMBA_CACHE_DIR to a folder that can be written to keep them",
        file=sys.stderr,
    )
