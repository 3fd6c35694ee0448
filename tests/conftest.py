"""What holds for every test: shapes are checked as they run, hypothesis draws the same examples everywhere."""

import importlib
import warnings

from hypothesis import settings
from jaxtyping import install_import_hook

# Only modules whose public functions take tensors; Numba cannot compile what the hook has wrapped.
install_import_hook(["rsl_cli.network", "rsl_cli.kernels.autograd"], "beartype.beartype")

# torch compiles a few formulas at the first forward-mode derivative, by a function that it deprecates itself.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    importlib.import_module("torch._decomp.decompositions_for_jvp")

settings.register_profile("rsl", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("rsl")
