"""Modules import only from those before them, and what need not know torch does not load it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rsl_cli"
ORDER = [
    "errors",
    "waiting",
    "garbage",
    "registry",
    "keys",
    "rng",
    "kernels",
    "parts",
    "activations",
    "laws",
    "liftings",
    "maps",
    "vertex_maps",
    "contracts",
    "vertices",
    "graph_config",
    "graph",
    "lift",
    "parametrization",
    "circuits",
    "circuit_node",
    "edge_steps",
    "network",
    "module",
    "portable",
    "linearization",
    "data",
    "train",
    "diagnostics",
    "study",
    "stats",
    "report",
    "track",
    "testing",
    "show",
    "progress",
    "adaptive",
    "configuration",
    "notebook",
    "help",
    "commands",
    "cli",
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer(dotted: str) -> str | None:
    """The first name below the package, None for the package itself."""
    return dotted.split(".")[1] if "." in dotted else None


def imported(path: Path) -> set[str]:
    """Dotted names of the package's modules that a file imports anywhere, in functions too."""
    here = ["rsl_cli", *path.relative_to(PACKAGE).with_suffix("").parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = here[: -node.level] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            # `from rsl_cli import graph` imports a module as well.
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "rsl_cli" else {module}
    return {name for name in found if name.split(".")[0] == "rsl_cli"}


# The package's front may name everything.
@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if path.parent != PACKAGE or path.stem != "__init__"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_go_upwards_only(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert own in ORDER, f"{own} has no place in the order of imports; give it one"
    for name in imported(path):
        other = layer(name)
        if other is not None and other in ORDER:
            assert ORDER.index(other) <= ORDER.index(own), f"{own} imports {name}, which comes later"


def test_the_walk_sees_imports_inside_functions(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    path = tmp_path / "lift.py"
    path.write_text(
        "def late():\n    from rsl_cli.report import page\n    from . import cli\n    import rsl_cli.study\n"
    )
    assert imported(path) == {"rsl_cli.report", "rsl_cli.cli", "rsl_cli.study"}


@pytest.mark.parametrize("module", ["rsl_cli", "rsl_cli.report", "rsl_cli.study.store", "rsl_cli.stats"])
def test_modules_that_load_nothing_heavy(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'scipy.stats'}} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
