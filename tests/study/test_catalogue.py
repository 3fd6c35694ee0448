"""The catalogue's shards: few, whatever adds to them, and what is large is not written again for what is small."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from rsl_cli.study.catalogue import MOST_SHARDS, Catalogue


def add(catalogue, rows, size=400):
    """Rows of incompressible text, the last column of which says when they were added."""
    text = [os.urandom(size // 2).hex() for _ in rows]
    catalogue.replace("records", pa.table({"run": [str(row) for row in rows], "text": text}))


def test_shards_stay_few_and_growth_writes_little(tmp_path, monkeypatch):
    catalogue, written, replace = Catalogue(tmp_path), [], Catalogue.replace

    def counted(self, kind, table, old=()):
        replace(self, kind, table, old)
        written.append(max(self.shards(kind), key=lambda path: path.stat().st_mtime_ns).stat().st_size)

    add(catalogue, range(20_000))
    large = catalogue.shards("records")
    monkeypatch.setattr(Catalogue, "replace", counted)
    for item in range(20_000, 23_000, 10):
        add(catalogue, range(item, item + 10))
        catalogue.tidy("records")
        assert len(catalogue.shards("records")) <= MOST_SHARDS
    assert large[0] in catalogue.shards("records"), "what was large is as it was"
    assert max(written) < large[0].stat().st_size / 4
    # Each row is written once, and again in merges: as often as there are shards of doubling size, not of any size.
    assert sum(written) < 6 * 3_000 * 500
    catalogue.merge()
    assert len(catalogue.shards("records")) <= 3
    assert {int(name) for name in catalogue.read("records")["run"].to_pylist()} == set(range(23_000))


def test_of_rows_for_one_run_the_last_stays(tmp_path):
    catalogue = Catalogue(tmp_path)
    for version in range(5):
        catalogue.replace("records", pa.table({"run": ["a", f"b{version}"], "version": [version] * 2}))
    catalogue.merge()
    assert len(catalogue.shards("records")) == 1
    rows = catalogue.read("records").to_pylist()
    assert {row["run"]: row["version"] for row in rows} == {"a": 4, **{f"b{i}": i for i in range(5)}}
    assert len(rows) == 6


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_reading_starts_no_thread_which_could_abort_a_process_that_ends(tmp_path):
    add(Catalogue(tmp_path), range(5_000))
    program = f"""
import os
from pathlib import Path
from pyarrow import parquet
from rsl_cli.study.catalogue import Catalogue
before = len(os.listdir("/proc/self/task"))
assert Catalogue(Path({str(tmp_path)!r})).read("records").num_rows == 5_000
assert len(os.listdir("/proc/self/task")) == before
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
