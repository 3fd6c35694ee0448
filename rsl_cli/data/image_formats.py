"""From the bytes of the published image files to arrays of bytes: IDX, and the Python batches of CIFAR-10.

The batches are pickles, and a pickle is a program. The reader here runs none of it: it admits dictionaries, lists,
text, bytes and numbers, puts a stand-in for NumPy's arrays, and refuses any other object by its name. It knows no
dataset.
"""

import gzip
import io
import math
import pickle
import tarfile
import zlib
from collections.abc import Collection
from typing import Any

import numpy as np

from rsl_cli.errors import DataError
from rsl_cli.keys import shorten

DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError)
"""What the standard library raises on archives that are cut short or altered."""


def gunzipped(content: bytes, source: str) -> bytes:
    """Return what a gzip file holds; other bytes are returned as they are.

    Args:
        content: the file's bytes.
        source: names the file in an error.

    Raises:
        DataError: damaged, or cut short.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except DAMAGED as error:
        raise DataError(f"{source} is a damaged gzip file: {_reason(error)}; fetch it again") from None


def untarred(content: bytes, source: str, names: Collection[str]) -> dict[str, bytes]:
    """Return files of a tar archive by their names without folders; nothing is written to disk.

    Args:
        content: the archive's bytes, compressed or not.
        source: names the archive in an error.
        names: of the files to read.

    Raises:
        DataError: damaged, cut short, or without one of the files.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                file = archive.extractfile(member) if member.isfile() and name in names else None
                if file is not None:
                    found[name] = file.read()
    except DAMAGED as error:
        raise DataError(f"{source} is not a tar archive, or is damaged: {_reason(error)}; fetch it again") from None
    for name in names:
        if name not in found:
            raise DataError(f"{source} holds no file {name!r}, it may be cut short; fetch it again")
    return {name: found[name] for name in names}


def read_idx(content: bytes, source: str, axes: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes: two zero bytes, 0x08, the number of axes, big-endian sizes, the data.

    Args:
        content: the file's bytes, not compressed.
        source: names the file in an error.
        axes: how many there must be: 3 for images, 1 for labels.

    Returns:
        uint8, of the sizes that the header announces.

    Raises:
        DataError: another format, kind of number or number of axes; a header or data cut short or too long.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits.
    """
    magic = bytes([0, 0, 8, axes])
    if content[:4] != magic:
        raise DataError(
            f"{source} starts with bytes {content[:4].hex(' ') or 'none'}; an IDX file of unsigned bytes with {axes} "
            f"axes starts with {magic.hex(' ')}; fetch it again, or check that the names of the files are not swapped"
        )
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{source} is cut short: {len(content)} bytes, its header alone needs {start}; fetch it again")
    sizes = tuple(int(size) for size in np.frombuffer(content, ">u4", axes, 4))
    needed = start + math.prod(sizes)
    if len(content) != needed:
        problem = "is cut short" if len(content) < needed else "is too long"
        raise DataError(
            f"{source} {problem}: {len(content)} bytes, its header announces {needed} for shape {sizes}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def read_batch(content: bytes, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one batch of the Python version of CIFAR-10, pickled by Python 2 or 3.

    Args:
        content: the file's bytes.
        source: names the file in an error.

    Returns:
        ``data``, uint8 (N, 3072), and ``labels``, int64 (N,).

    Raises:
        DataError: not a pickle, a pickle of any other object, or not such a batch.

    Source: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except _ForeignError as error:
        raise DataError(
            f"{source} holds the Python object {error}, which rsl never loads; accepted: a dictionary of lists, bytes, "
            "text, numbers and NumPy arrays, as published; do not trust this file"
        ) from None
    except Exception as error:
        # A damaged pickle can fail in any way inside the parser, and ask for any amount of memory.
        raise DataError(
            f"{source} is not a batch of CIFAR-10, or is damaged: {_reason(error)}; fetch it again"
        ) from None
    fields = {_text(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
    data, labels = fields.get("data"), fields.get("labels")
    if not isinstance(data, _Array) or not isinstance(labels, list) or not all(map(_is_class, labels)):
        raise DataError(
            f"{source} is not a batch of CIFAR-10: 'data' must be an array and 'labels' a list of classes, "
            f"it holds {', '.join(map(shorten, fields)) or type(batch).__name__}"
        )
    images = data.read()
    if images is None or images.ndim != 2 or images.shape[1] != 3072 or len(images) != len(labels):
        raise DataError(
            f"{source}: 'data' must be {len(labels)} rows of 3072 unsigned bytes, one for each label; got {data}; "
            "fetch it again"
        )
    return images, np.array(labels, dtype=np.int64)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class _ForeignError(Exception):
    """An object that no batch holds, by its name."""


class _Encode:
    """Stands for codecs.encode, by which Python 3 writes bytes in protocols older than itself."""

    def __new__(cls, text: str, encoding: str) -> bytes:
        return text.encode(encoding)

    def __setstate__(self, state: Any) -> None:
        """Here so that no file can set attributes of the class; the same goes for the others."""


class _Dtype:
    """Stands for numpy.dtype: its first argument, such as ``u1``."""

    def __init__(self, *arguments: Any) -> None:
        self.name = _text(arguments[0]) if arguments else None

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields, of no account for bytes."""


class _Array:
    """Stands for numpy.ndarray: holds what a pickle says of one, makes one only of bytes."""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def read(self) -> np.ndarray | None:
        """Return uint8, or None if this is anything else."""
        match self.state:
            case (_, tuple() as shape, _Dtype(name="u1" | "|u1"), bool() | int() as fortran, bytes() as content):
                try:
                    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")
                except (ValueError, TypeError, OverflowError):
                    return None
        return None

    def __str__(self) -> str:
        match self.state:
            case (_, shape, _Dtype(name=name), _, content):
                size = f"{len(content)} bytes" if isinstance(content, bytes) else "no bytes"
                return f"type {shorten(name)}, shape {shorten(shape)}, {size}"
        return "an array without content"


def _is_class(label: Any) -> bool:
    return type(label) is int and 0 <= label < 256


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _Encode,
}


class _Unpickler(pickle._Unpickler):
    """Builds plain values and stand-ins; nothing that is named in the file is imported.

    It is the reader written in Python, whose memo is a dictionary: the other allots whatever a damaged file asks for.
    """

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _ForeignError(f"{module}.{name}") from None
