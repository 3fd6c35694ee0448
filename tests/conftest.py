"""What holds for every test: shapes are checked as they run, hypothesis draws the same examples everywhere."""

from hypothesis import settings
from jaxtyping import install_import_hook

# Only modules whose public functions take tensors; Numba cannot compile what the hook has wrapped.
install_import_hook(["rsl_cli.network", "rsl_cli.kernels.autograd"], "beartype.beartype")

settings.register_profile("rsl", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("rsl")
