"""What every worker process needs, imported once: on Linux workers are copies of a process that has imported this.

Of the threads of a process its copy has one. Those that begin here, of OpenBLAS and of Arrow's allocator, provide for
that themselves; nothing is computed in parallel.
"""

import importlib

from rsl_cli.garbage import unswept

with unswept(for_good=True):
    for _module in ("rsl_cli.study.runner", "pandas", "pyarrow.parquet"):
        importlib.import_module(_module)
    # Numba sets itself up at the first call of any kernel.
    importlib.import_module("rsl_cli.kernels.circuit").group_bounds(1, importlib.import_module("numpy").zeros(1), 0)
