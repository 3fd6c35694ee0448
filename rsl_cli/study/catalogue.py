"""Tables of what a study's runs say, beside them, so that a command need not open a hundred thousand files.

The runs are the truth, the catalogue is a copy: a row also says what its run's files were, and whoever reads it
believes it only while they are that still. It is at once the study's manifest, the digests of all records and files.

A shard is a Parquet file that is written once, under the digest of its content; a damaged one is known by that. Of rows
for one run the last counts. Shards are merged by reading them, writing one, and removing those that were read, so that
a death or another process in between costs nothing but space. What is larger than all that is smaller together is left
as it is: a study that grows by a little has little to write, and its shards are never more than a few.
"""

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rsl_cli.study.files import read_parquet, write_atomic
from rsl_cli.study.integrity import digest

if TYPE_CHECKING:
    import pyarrow

Kind = Literal["records", "paths"]
"""Records of runs; trajectories of runs."""
KINDS: tuple[Kind, ...] = ("records", "paths")

MOST_SHARDS = 64
"""So many shards of a kind may lie side by side before one that adds to them merges them."""


@dataclass(frozen=True)
class Catalogue:
    """The shards in one folder.

    Args:
        root: the folder; it need not exist.
    """

    root: Path

    def shards(self, kind: Kind) -> list[Path]:
        """The shards of a kind, the oldest first."""
        found = []
        for path in self.root.glob(f"{kind}-*.parquet"):
            with suppress(FileNotFoundError):  # Merged by another process meanwhile.
                found.append((path.stat().st_mtime_ns, path.name, path))
        return [path for *_, path in sorted(found)]

    def read(self, kind: Kind, columns: Sequence[str] | None = None) -> "pyarrow.Table | None":
        """All rows of a kind, the oldest first; None where there are none. Damaged shards are passed over.

        Args:
            kind: of rows.
            columns: which to read; None: all.

        Returns:
            A table of Arrow, the shards' rows one after the other.
        """
        parts = self._contents(self.shards(kind))
        return self._read([(path, content) for path, content in parts if content is not None], columns)

    def damaged(self) -> list[Path]:
        """The shards that are not what was written."""
        return [path for kind in KINDS for path, content in self._contents(self.shards(kind)) if content is None]

    def merge(self, kinds: Sequence[Kind] = KINDS) -> None:
        """Make few shards of many; of rows for one run only the last is kept. Damaged shards are left."""
        for kind in kinds:
            small = _small(self.shards(kind))
            parts = [(path, content) for path, content in self._contents(small) if content is not None]
            if len(parts) > 1:
                self.replace(kind, latest(self._read(parts)), [path for path, _ in parts])

    def replace(self, kind: Kind, table: "pyarrow.Table", old: Sequence[Path] = ()) -> None:
        """Add rows, in a shard of their own, and remove shards in whose place they are.

        Raises:
            StoreError: the folder cannot be written.
        """
        from pyarrow import parquet

        buffer = io.BytesIO()
        parquet.write_table(table, buffer, compression="zstd")
        target = self._path(kind, buffer.getvalue())
        write_atomic(target, buffer.getvalue())
        for path in old:
            if path != target:
                path.unlink(missing_ok=True)

    def tidy(self, kind: Kind) -> None:
        """Merge the shards of a kind if they are many."""
        if len(self.shards(kind)) > MOST_SHARDS:
            self.merge([kind])

    def _path(self, kind: Kind, content: bytes) -> Path:
        return self.root / f"{kind}-{digest(content)[:32]}.parquet"

    def _contents(self, shards: Sequence[Path]) -> list[tuple[Path, bytes | None]]:
        """Each shard with what it holds, None if that is not what was written."""
        found: list[tuple[Path, bytes | None]] = []
        for path in shards:
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue  # Merged by another process meanwhile; what it lacks is read from the runs.
            except OSError:
                content = b""
            found.append((path, content if digest(content)[:32] == path.stem.rpartition("-")[2] else None))
        return found

    def _read(self, parts: Sequence[tuple[Path, bytes]], columns: Sequence[str] | None = None) -> Any:
        import pyarrow as pa

        tables = [read_parquet(content, columns) for _, content in parts]
        return pa.concat_tables(tables, promote_options="default") if tables else None


def _small(shards: Sequence[Path]) -> list[Path]:
    """Of shards, in their order, those to merge: all but such as are each larger than all smaller ones together."""
    sizes = {}
    for path in shards:
        with suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    ordered, total, last = sorted(sizes, key=lambda path: sizes[path]), 0, -1
    for i, path in enumerate(ordered):
        last = i if sizes[path] <= total else last
        total += sizes[path]
    chosen = set(ordered[: last + 1])
    return [path for path in shards if path in chosen]


def latest(table: "pyarrow.Table") -> "pyarrow.Table":
    """Of the rows for each run (column ``run``) the last."""
    last = {name: row for row, name in enumerate(table["run"].to_pylist())}
    return table if len(last) == table.num_rows else table.take(sorted(last.values()))
