"""Small files in the forms in which image sets are published."""

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
DRAWS = np.random.default_rng(0)
IMAGES, HELD_IMAGES = (DRAWS.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in (40, 12))
LABELS, HELD_LABELS = (DRAWS.integers(0, 10, n, dtype=np.uint8) for n in (40, 12))
ROWS = {name: DRAWS.integers(0, 256, (7, 3072), dtype=np.uint8) for name in BATCHES}
ROW_LABELS = {name: DRAWS.integers(0, 10, 7).tolist() for name in BATCHES}


def idx(values: np.ndarray) -> bytes:
    """An IDX file, written out by the format's description."""
    header = b"\x00\x00\x08" + bytes([values.ndim]) + b"".join(struct.pack(">I", size) for size in values.shape)
    return header + values.astype(np.uint8).tobytes()


IDX_FILES = dict(zip(IDX, map(idx, (IMAGES, LABELS, HELD_IMAGES, HELD_LABELS)), strict=True))


def write_idx(folder: Path, packed: bool = False, **changes: bytes) -> Path:
    """The four files, some with other content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in IDX_FILES.items():
        content = changes.get(name.split("-idx")[0].replace("-", "_"), content)
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def python2(data: np.ndarray, labels: list[int], fortran: bool = False) -> bytes:
    """A batch as Python 2's cPickle wrote it in protocol 2: every string a byte string, arrays by numpy.core."""

    def string(text: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(text)) + text

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + string(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + string(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + number(0) + b"\x85" + string(b"b") + b"tR"
    shape = b"".join(map(number, data.shape)) + b"\x86"
    content = string(data.tobytes(order="F" if fortran else "C"))
    array += b"(" + number(1) + shape + dtype + (b"\x88" if fortran else b"\x89") + content + b"tb"
    numbers = b"](" + b"".join(map(number, labels)) + b"e"
    fields = string(b"batch_label") + string(b"training batch 1 of 5") + string(b"labels") + numbers
    return b"\x80\x02}(" + fields + string(b"data") + array + b"u."


def python3(fields: Any, protocol: int = 4) -> bytes:
    """Any object, pickled."""
    return pickle.dumps(fields, protocol)


BATCH_FILES = {name: python2(ROWS[name], ROW_LABELS[name]) for name in BATCHES}


def write_batches(folder: Path, **changes: bytes) -> Path:
    """The six batches, some with other content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in BATCH_FILES.items():
        (folder / name).write_bytes(changes.get(name, content))
    return folder


def archive(files: dict[str, bytes] = BATCH_FILES, mode: str = "w:gz") -> bytes:
    """A tar archive of files in the published folder, with that folder's own entry and a file nobody asks for."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        folder = tarfile.TarInfo("cifar-10-batches-py")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in {"readme.html": b"hello", **files}.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
