"""The wheel of a clean build: what it holds, and that a study runs where nothing of the checkout is."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import rsl_cli

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what would be committed, without asking any index for anything."""
    folder = tmp_path_factory.mktemp("dist")
    script = f"import hatchling.build as build; print(build.build_wheel({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_what_a_user_needs(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"rsl_cli/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "rsl_cli").rglob("*.py")}
    assert wanted | {"rsl_cli/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "scripts", "results"))]


def compiled_before(place: Path) -> None:
    """Take over what Numba has compiled of the very same sources: it knows a source by its time and its size."""
    for source in (ROOT / "rsl_cli").rglob("*.py"):
        own = place / source.relative_to(ROOT)
        assert own.read_bytes() == source.read_bytes()
        os.utime(own, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
        for kept in (source.parent / "__pycache__").glob(f"{source.stem}.*.nb[ic]"):
            (own.parent / "__pycache__").mkdir(exist_ok=True)
            shutil.copy(kept, own.parent / "__pycache__")


@pytest.mark.slow
def test_a_study_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path):
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    compiled_before(place)
    line = ["run", "lift=2", "seeds=1", "trainer=adam", "trainer.steps=3", "dataset.samples=64", "executor=local"]
    # Isolated from the checkout, which may be installed here: only the wheel and what it depends on are found.
    paths = [str(place), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    script = (
        f"import sys; sys.path[:] = {paths!r} + [p for p in sys.path if 'site-packages' not in p]\n"
        "sys.meta_path[:] = [one for one in sys.meta_path if 'editable' not in type(one).__module__.lower()]\n"
        f"import rsl_cli, rsl_cli.cli; assert rsl_cli.__file__.startswith({str(place)!r}), rsl_cli.__file__\n"
        f"sys.exit(rsl_cli.cli.main({line!r}))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "VERDICT" in done.stdout, done.stderr
    assert (tmp_path / "results" / "mlp_sine2d_adam" / "report" / "index.html").is_file()


def test_dir_lists_the_public_names():
    public = {name for name in dir(rsl_cli) if not name.startswith("__")}
    assert public == set(rsl_cli.__all__)
    for name in public:
        assert getattr(rsl_cli, name) is not None
    assert set(dir(rsl_cli)) >= public
