"""Studies on machines that lack what Linux has, and from scripts as people write them."""

import ctypes
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import problems
import pytest

from rsl_cli.study import leases
from rsl_cli.study.machine import memory_limit

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = """
import builtins, ctypes, io, os, sys
for name in ("sched_getaffinity", "sched_setaffinity", "fork", "forkpty"):
    if hasattr(os, name):
        delattr(os, name)

class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "mallopt":
            raise AttributeError(name)
        return super().__getattr__(name)

ctypes.CDLL = Library
opened = io.open

def guarded(file, *arguments, **options):
    if str(file).startswith("/proc") and "rsl_cli" in sys._getframe(1).f_code.co_filename:
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return opened(file, *arguments, **options)

builtins.open = io.open = guarded
"""
SCRIPT = """
import json, sys
import rsl_cli as rsl
outcome = rsl.run_study(json.loads({config!r}))
print(outcome.done, len(outcome.failed))
"""


def config(tmp_path: Path) -> str:
    study = problems.study(results_dir=str(tmp_path / "results"), lift=[2, 64], seeds=2)
    study["trainer"]["steps"] = 5
    return json.dumps(study | {"executor": {"name": "process", "workers": 2}})


def python(words: list[str], tmp_path: Path, **options) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])} | options.pop("env", {})
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("start", ["file, without what only Linux has", "standard input"])
def test_a_script_without_a_guard_trains_once(start, tmp_path):
    script = SCRIPT.format(config=config(tmp_path))
    if start == "standard input":
        done = python(["-"], tmp_path, input=script)
    else:
        (tmp_path / "sitecustomize.py").write_text(HIDDEN)
        (tmp_path / "script.py").write_text("import os; assert not hasattr(os, 'fork')\n" + script)
        done = python(["script.py"], tmp_path)
    assert (done.returncode, done.stdout) == (0, "4 0\n"), done.stderr


def test_kernels_compile_where_no_cache_can_be_written(tmp_path):
    # As in a read-only installation with a home that is not there; root may write anywhere, so the answer is given.
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from numba.core import caching\n"
        "made = caching._CacheLocator.ensure_cache_path\n"
        "def refused(self):\n"
        "    if not os.environ.get('NUMBA_CACHE_DIR'):\n"
        "        raise OSError(30, 'Read-only file system')\n"
        "    made(self)\n"
        "caching._CacheLocator.ensure_cache_path = refused\n"
    )
    script = (
        "import os\nfrom pathlib import Path\nimport numpy as np\n"
        "from rsl_cli.kernels.circuit import group_bounds\n"
        "group_bounds(100, np.zeros(8), 0)\n"
        "print(len(list(Path(os.environ['NUMBA_CACHE_DIR']).rglob('*.nbi'))))\n"
    )
    done = python(["-c", script], tmp_path, env={"NUMBA_CACHE_DIR": ""})
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert done.stderr.count("set NUMBA_CACHE_DIR to a folder that can be written") == 1


def filled(status):
    assert status._obj[0] == 64
    status._obj[1] = 3 << 30


def still_active(handle, code):
    code._obj.value = 259


KERNEL = types.SimpleNamespace(
    GlobalMemoryStatusEx=filled,
    OpenProcess=lambda access, inherits, process: int(process == 7),
    GetExitCodeProcess=still_active,
    CloseHandle=lambda handle: None,
)
"""What of Windows is asked: 3 GiB, and of processes number 7 alone."""


def test_windows_is_asked_for_its_memory_and_processes_and_none_is_ended(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "windll", types.SimpleNamespace(kernel32=KERNEL), raising=False)
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a process was ended"))
    monkeypatch.setattr(Path, "exists", lambda _: False)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))
    assert memory_limit() == 3 << 30
    assert leases._started(7) == 0 and leases._started(8) is None
