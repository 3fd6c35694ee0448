"""The files of one run, in its folder: read as its record says they are, written so that no kill leaves a half.

It knows no study. ``record.json`` is the last file a run writes. One that is carried further writes its files beside
the old ones, under names that end in how often it was, ``.1``, ``.2``: its record, replaced, says which are its own,
and they then take the old ones' places.
"""

import io
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import numpy as safetensors_numpy

from rsl_cli.errors import StoreError, first_line
from rsl_cli.study.files import MENDED, contiguous, read_parquet, read_tensors, write_atomic, write_json
from rsl_cli.study.integrity import DamageError, digest, is_sealed, unseal
from rsl_cli.study.record import RECORD_SCHEMA, Record, RunKey, Written

if TYPE_CHECKING:
    import pandas as pd

_ABANDONED = 3600.0
"""Seconds after which a temporary file is nobody's."""
_STATE = "state.safetensors"


def read_record(folder: Path, key: RunKey) -> Record | None:
    """A run's record.

    Returns:
        What it says; None if there is none.

    Raises:
        DamageError: it, or the size of a file that it names, is not what was written.
    """
    path = folder / "record.json"
    try:
        if not path.exists():
            return None
        content = path.read_bytes()
        record = Record.read(unseal(content), key, sealed=is_sealed(content))
    except (OSError, DamageError) as error:
        raise DamageError(f"{path}: {first_line(error)}") from error
    for name, due in record.files.items():
        file = _located(folder, name, record)
        size = file.stat().st_size if file.is_file() else None
        if size != due.bytes:
            raise DamageError(f"{file}: {'missing' if size is None else f'{size} bytes'}; {due.bytes} were written")
    return record


def files_of(folder: Path, record: Record) -> dict[str, Path]:
    """A run's record and the files that it names, by the names they have at present."""
    found = [_located(folder, name, record) for name in record.files]
    return {path.name: path for path in [folder / "record.json", *found]}


def read_content(folder: Path, name: str, record: Record | None) -> bytes | None:
    """A file of a run as its record says it is, or None if the run has none of that name.

    Returns:
        Its bytes.

    Raises:
        DamageError: it is another.
    """
    # What a record with digests does not name is no file of the run's.
    named = record is None or not record.files or name in record.files
    return check_content(folder, name, record) if named and _located(folder, name, record).exists() else None


def check_content(folder: Path, name: str, record: Record | None) -> bytes:
    """A file of a run, as its record says it is; what has no digest is taken as it is.

    Returns:
        Its bytes.

    Raises:
        DamageError: it is another, or there is none.
    """
    path, due = _located(folder, name, record), record and record.files.get(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamageError(f"{path}: {error.strerror}") from error
    if due is not None and digest(content) != due.sha256:
        raise DamageError(f"{path}: its content does not fit the digest in its record")
    return content


def read_table(folder: Path, key: RunKey, name: str) -> "pd.DataFrame | None":
    """One of a run's tables by name, or None if the run has no such table.

    Returns:
        As the run's probe made it.

    Raises:
        StoreError: the table is damaged.
    """
    path = folder / f"{name}.parquet"
    try:
        content = read_content(folder, path.name, read_record(folder, key))
        return None if content is None else read_parquet(content).to_pandas(use_threads=False)
    except DamageError as error:
        raise StoreError(f"cannot read {error}; {MENDED}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {first_line(error)}; {MENDED}") from error


def read_state(folder: Path, key: RunKey) -> dict[str, np.ndarray]:
    """A run's final parameters by name.

    Returns:
        Arrays, of one replica.

    Raises:
        StoreError: there are none, or they are damaged.
    """
    try:
        record = read_record(folder, key)
        check_content(folder, _STATE, record)
    except DamageError as error:
        raise StoreError(f"cannot read {error}; {MENDED}") from error
    return read_tensors(_located(folder, _STATE, record))[0]


def write_run(
    folder: Path,
    before: Record | None,
    record: Record,
    tables: Mapping[str, "pd.DataFrame"],
    state: Mapping[str, np.ndarray],
) -> None:
    """Write a finished run, or one that was and has been carried further, its record last.

    Args:
        folder: the run's.
        before: its record until now.
        record: its record from now on.
        tables: by name; ``trajectory`` must be among them. Tables of an earlier attempt that are not are removed,
            so that a record never stands beside a table it does not belong to.
        state: final parameters by name.

    Raises:
        StoreError: the folder cannot be written.
    """
    assert "trajectory" in tables
    times = before.continued + 1 if before and before.done else 0
    _take_places(folder, times - 1)
    for left in folder.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:  # By a process that was killed.
                left.unlink()
    if not times:
        _remove_other_tables(folder, tables)
    files = {_STATE: safetensors_numpy.save(contiguous(state))}
    for name, table in tables.items():
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        files[f"{name}.parquet"] = buffer.getvalue()
    for name, content in files.items():
        write_atomic(folder / beside(name, times), content)
    written = {name: Written(len(content), digest(content)) for name, content in files.items()}
    record = replace(record, schema=RECORD_SCHEMA, continued=times, files=written)
    write_json(folder / "record.json", record.plain())
    _take_places(folder, times)
    _remove_other_tables(folder, tables)
    (folder / "error.txt").unlink(missing_ok=True)


def beside(name: str, times: int) -> str:
    """A file's name when its run had been carried further a number of times, until it takes the old one's place."""
    return f"{name}.{times}" if times else name


def _located(folder: Path, name: str, record: Record | None) -> Path:
    own = folder / beside(name, record.continued if record else 0)
    return own if own.is_file() else folder / name


def _take_places(folder: Path, times: int) -> None:
    for path in folder.glob(f"*.{times}") if times > 0 else ():
        path.replace(path.with_suffix(""))


def _remove_other_tables(folder: Path, tables: Mapping[str, "pd.DataFrame"]) -> None:
    for path in folder.glob("*.parquet"):
        if path.stem not in tables:
            path.unlink(missing_ok=True)
