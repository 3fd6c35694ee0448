"""What every worker process needs, imported once: on Linux workers are copies of a process that has imported this.

Of the threads of a process its copy has one. Those that begin here, of OpenBLAS and of Arrow's allocator, provide for
that themselves; nothing is computed in parallel.
"""

import importlib

import numpy as np

from rsl_cli.kernels.circuit import group_bounds

for _module in ("rsl_cli.study.runner", "pandas", "pyarrow.parquet"):
    importlib.import_module(_module)
group_bounds(1, np.zeros(1), 0)  # Numba sets itself up at the first call of any kernel.
