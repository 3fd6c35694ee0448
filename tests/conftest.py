"""What holds for every test: shapes are checked as they run, hypothesis draws the same examples everywhere.

Drawing takes most of a report's time, so figures are drawn where they are the subject: in tests/report, and in tests
marked ``drawn``; anywhere else a report has one dot in place of each.
"""

import base64
import gc
import importlib
import warnings
from collections import Counter

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# What is imported and collected lasts; looking through it for cycles again and again took a fifth of the tests' time.
gc.disable()

CHECKED = ["rsl_cli.network", "rsl_cli.kernels.autograd"]
"""Modules whose calls are checked: those whose public functions take tensors. Numba cannot compile what is wrapped."""
install_import_hook(CHECKED, "beartype.beartype")

# torch compiles a few formulas at the first forward-mode derivative, by a function that it deprecates itself.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    importlib.import_module("torch._decomp.decompositions_for_jvp")

_DOT = {
    "png": base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    ),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>',
    "pdf": b"%PDF-1.4\n%%EOF\n",
}


@pytest.fixture(autouse=True)
def figures(request, monkeypatch):
    """Leave a dot in place of each figure, where figures are not the subject."""
    drawn = request.path.parent.name == "report" or request.node.get_closest_marker("drawn") is not None
    if not drawn:
        monkeypatch.setattr(
            "rsl_cli.report.canvas.render", lambda drawing, formats: {form: _DOT[form] for form in formats}
        )


settings.register_profile("rsl", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("rsl")


def pytest_collection_finish():
    """Look for cycles among what tests make, and seldom: nothing here runs for long."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


def pytest_collection_modifyitems(items):
    """Put the files of slow tests first, so that no process is left with one of them while the other has nothing."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
