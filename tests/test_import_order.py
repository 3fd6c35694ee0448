"""Modules import only from those before them, and what need not know torch does not load it."""

import ast
import subprocess
import sys
from collections.abc import Container
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rsl_cli"
ORDER = [
    "errors",
    "waiting",
    "garbage",
    "registry",
    "keys",
    "readouts",
    "claims",
    "rng",
    "kernels",
    "parts",
    "own_code",
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


def loaded(path: Path, modules: Container[str]) -> set[str]:
    """Modules that a file imports when it runs, in functions too, or names in full; not what types alone need."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    skipped = {id(inner) for node in typing for body in node.body for inner in ast.walk(body)}
    named = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written in full"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= {name if name in modules else str(node.module) for name in inner}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named.add(node.value)
    return {name for name in named if name in modules}


def rings(package: Path) -> list[list[str]]:
    """Modules that import one another."""
    files = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in package.rglob("*.py")
    }
    graph = networkx.DiGraph()
    for name, path in files.items():
        graph.add_edges_from((name, other) for other in loaded(path, files))
    return [sorted(ring) for ring in networkx.strongly_connected_components(graph) if len(ring) > 1]


def test_no_modules_import_one_another():
    assert rings(PACKAGE) == []


@pytest.mark.parametrize(
    "late",
    ["from rsl_cli.study import spec", "import rsl_cli.study.spec", "load('rsl_cli.study.spec')"],
)
def test_a_ring_closed_within_a_function_is_seen(tmp_path, late):
    folder = tmp_path / "rsl_cli" / "study"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from rsl_cli.study import pool\n")
    (folder / "spec.py").write_text("from rsl_cli.study.pool import Pool\n")
    (folder / "pool.py").write_text("if TYPE_CHECKING:\n    from rsl_cli.study.spec import Spec\n")
    assert rings(tmp_path / "rsl_cli") == []
    (folder / "pool.py").write_text(f"def work():\n    {late}\n")
    assert rings(tmp_path / "rsl_cli") == [["rsl_cli.study.pool", "rsl_cli.study.spec"]]


def test_shipped_executors_are_there_for_whoever_reads_a_study():
    code = "from rsl_cli.study.executor import EXECUTORS; print(*EXECUTORS)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {*done.stdout.split()} == {"local", "process", "pilots", "slurm", "ray", "target"}


def test_the_walk_sees_imports_inside_functions(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    path = tmp_path / "lift.py"
    path.write_text(
        "def late():\n    from rsl_cli.report import page\n    from . import cli\n    import rsl_cli.study\n"
    )
    assert imported(path) == {"rsl_cli.report", "rsl_cli.cli", "rsl_cli.study"}


@pytest.mark.parametrize(
    "module", ["rsl_cli", "rsl_cli.report", "rsl_cli.study.store", "rsl_cli.stats", "rsl_cli.study.keys"]
)
def test_modules_that_load_nothing_heavy(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'scipy.stats'}} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
