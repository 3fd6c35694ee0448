"""What holds for every test: shapes are checked as they run, hypothesis draws the same examples everywhere.

Drawing takes most of a report's time, so figures are drawn where they are the subject, in tests marked ``drawn``;
anywhere else a report has one dot in place of each.
"""

import base64
import gc
import importlib
import inspect
import os
import warnings
from collections import Counter

import pytest
from beartype import beartype
from hypothesis import settings
from jaxtyping import AbstractArray, jaxtyped

# Read when torch is loaded. Several processes test beside each other: threads that spin while they wait for one another
# took most of the cores' time from those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# What is imported and collected lasts; looking through it for cycles again and again took a fifth of the tests' time.
gc.disable()


def check_shapes(owner, module):
    """Hold the functions of a module, or of a class there, whose annotations name shapes to these as they run.

    The others are left alone: what a wrapped call costs is several times what a small product does.
    """
    for name, value in list(vars(owner).items()):
        if getattr(value, "__module__", None) == module:
            if inspect.isclass(value):
                check_shapes(value, module)
            elif inspect.isfunction(value) and any(map(names_shapes, inspect.get_annotations(value).values())):
                setattr(owner, name, jaxtyped(value, typechecker=beartype))


def names_shapes(annotation):
    return inspect.isclass(annotation) and issubclass(annotation, AbstractArray)


# In the order of their imports, so that each sees what is checked of those below it.
for _module in ("rsl_cli.kernels.autograd", "rsl_cli.network"):
    check_shapes(importlib.import_module(_module), _module)

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
    # What a GPU is for draws nothing, and in a process of its own would import all of Matplotlib for this.
    if not any(map(request.node.get_closest_marker, ("drawn", "gpu"))):
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
