"""How a file is written and read: atomically, sealed by its own digest; what cannot be is said in one line.

It knows no study. Every file is written beside its place, synced, then moved over it, so a kill at any moment leaves
the old file or the new one.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from rsl_cli.errors import StoreError, first_line
from rsl_cli.study.integrity import DamageError, digest_of_arrays, seal, unseal

if TYPE_CHECKING:
    import pyarrow


def write_atomic(path: Path, content: bytes, *, new: bool = False) -> bool:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Args:
        path: which file.
        content: all of it.
        new: write it only where there is none.

    Returns:
        Whether it was written.

    Raises:
        StoreError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        if new:
            return _put_new(Path(temporary), path)
        Path(temporary).replace(path)
        return True
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise StoreError(cannot_write(path, error)) from error


def _put_new(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # A file system without hard links.
        if path.exists():
            return False
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as strict JSON with a digest: numbers that are not finite become null."""
    write_atomic(path, seal(content))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file written by `write_json`.

    Returns:
        The mapping, without its digest.

    Raises:
        StoreError: the file cannot be read, is not a JSON mapping, or its digest does not fit.
    """
    try:
        return unseal(path.read_bytes())
    except (OSError, DamageError) as error:
        raise StoreError(cannot_read(path, error)) from error


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write named arrays and text metadata, and a digest of both, as safetensors."""
    arrays, text = contiguous(tensors), dict(metadata or {})
    write_atomic(path, safetensors_numpy.save(arrays, {**text, "digest": digest_of_arrays(arrays, text)}))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read named arrays and metadata.

    Returns:
        Arrays by name, and the metadata.

    Raises:
        StoreError: the file is missing or damaged, or its digest does not fit.
        DamageError: its digest does not fit.
    """
    try:
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        arrays, text = safetensors_numpy.load(content), dict(header.get("__metadata__", {}))
        due = text.pop("digest", None)
        if due is None and any(re.fullmatch(r"[0-9a-f]{64}", value) for value in text.values()):
            raise DamageError("its digest is damaged")  # It has one, by another name.
        if due is not None and due != digest_of_arrays(arrays, text):
            raise DamageError("its content does not fit its digest")
        return arrays, text
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise StoreError(f"cannot read {path}: {first_line(error)}; {MENDED}") from error


def read_parquet(content: bytes, columns: Sequence[str] | None = None) -> "pyarrow.Table":
    """Read a table, in this thread alone.

    A thread of Arrow's own may hold a file's bytes for longer than its reading takes; a process that ends meanwhile is
    aborted.

    Args:
        content: of a Parquet file.
        columns: which to read; None: all.

    Returns:
        A table of Arrow.

    Raises:
        OSError: it is damaged.
        ValueError: the same.
    """
    import pyarrow as pa
    from pyarrow import parquet

    file = parquet.ParquetFile(pa.BufferReader(content), pre_buffer=False)
    return file.read(None if columns is None else list(columns), use_threads=False)


def user_cache() -> Path:
    """Where lies, of this user's, what can be had again."""
    home = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):
        return (Path(home) if home else Path.home() / ".cache") / "rsl"
    return Path(tempfile.gettempdir()) / "rsl"


MENDED = "`rsl verify STUDY` sets a damaged run aside, then the same `rsl run` line trains it anew"


def cannot_read(path: Path, error: Exception) -> str:
    """What to say of a file that cannot be read."""
    fault = (error.strerror or str(error)) if isinstance(error, OSError) else first_line(error)
    return f"cannot read {path}: {fault}; restore the file, or move its folder away"


def contiguous(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays, each in one block, as safetensors wants them."""
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def cannot_write(path: Path, error: OSError) -> str:
    """What to say of a path that cannot be written."""
    return (
        f"cannot write {path}: {error.strerror or error}; "
        "free space, mend the permissions or choose another folder with results_dir=PATH"
    )
