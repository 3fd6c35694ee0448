"""Published image files: what is read, every damage that is named, and pickles that must not run."""

import builtins
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import BATCH_FILES, DRAWS, IMAGES, LABELS, archive, idx, python2, python3

from rsl_cli.data.image_formats import gunzipped, read_batch, read_idx, untarred
from rsl_cli.errors import DataError

DATA = DRAWS.integers(0, 256, (4, 3072), dtype=np.uint8)
CLASSES = [3, 0, 9, 1]
GOOD = {"data": DATA, "labels": CLASSES}


def refused(message: str, read, *arguments) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


# --- IDX ----------------------------------------------------------------------------------------------------------


def test_idx_holds_exactly_its_bytes():
    for values in (IMAGES, LABELS):
        back = read_idx(idx(values), "a", values.ndim)
        assert back.dtype == np.uint8 and np.array_equal(back, values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a starts with bytes none; an IDX file of unsigned bytes with 3 axes starts with 00 00 08 03; fetch"),
        (b"\x89PNG....", "a starts with bytes 89 50 4e 47"),
        (b"\x00\x00\x0d\x03" + idx(IMAGES)[4:], "starts with bytes 00 00 0d 03; .* of unsigned bytes"),
        (idx(LABELS), "starts with bytes 00 00 08 01; .* check that the names of the files are not swapped"),
        (idx(IMAGES)[:9], "is cut short: 9 bytes, its header alone needs 16"),
        (idx(IMAGES)[:-1], r"is cut short: 31375 bytes, its header announces 31376 for shape \(40, 28, 28\); fetch"),
        (idx(IMAGES) + b"\x00", "is too long: 31377 bytes, its header announces 31376"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, r"is cut short: 16 bytes, its header announces 79228162458924105385300"),
    ],
)
def test_damage_of_idx_is_named(content: bytes, message: str):
    refused(message, read_idx, content, "a", 3)


def test_every_prefix_of_an_idx_file_is_refused():
    content = idx(LABELS)
    for end in range(len(content)):
        refused("^a ", read_idx, content[:end], "a", 1)


def test_gzip_is_known_by_its_bytes_and_its_damage_is_named():
    import gzip

    packed = gzip.compress(b"hello" * 100)
    assert gunzipped(packed, "a") == gunzipped(b"hello" * 100, "a") == b"hello" * 100
    for end in range(2, len(packed)):
        refused("a is a damaged gzip file: .*; fetch it again", gunzipped, packed[:end], "a")
    for place in (12, len(packed) - 6):
        refused("damaged gzip", gunzipped, packed[:place] + b"\x55" + packed[place + 1 :], "a")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_tar_gives_the_files_asked_for(mode: str):
    assert untarred(archive(mode=mode), "a", tuple(BATCH_FILES)) == BATCH_FILES


def test_damage_of_tar_is_named():
    packed = archive()
    for end in (0, 1, 100, len(packed) // 2, len(packed) - 5000):
        refused("^a (is not a tar archive, or is damaged: |holds no file)", untarred, packed[:end], "a", BATCH_FILES)
    missing = archive({name: content for name, content in BATCH_FILES.items() if name != "data_batch_3"})
    refused("a holds no file 'data_batch_3', it may be cut short", untarred, missing, "a", BATCH_FILES)


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        python2(DATA, CLASSES),
        python2(DATA, CLASSES, fortran=True),
        *(python3(GOOD, protocol) for protocol in range(5)),
        *(python3({key.encode(): value for key, value in GOOD.items()}, protocol) for protocol in range(5)),
        python3({**GOOD, "filenames": ["ä.png"], "batch_label": "training batch 1 of 5"}),
    ],
)
def test_batches_of_python_2_and_3_are_read(content: bytes):
    data, labels = read_batch(content, "a")
    assert data.dtype == np.uint8 and np.array_equal(data, DATA)
    assert labels.dtype == np.int64 and labels.tolist() == CLASSES


def test_the_python_2_file_made_here_is_one():
    batch = pickle.loads(python2(DATA, CLASSES), encoding="bytes")
    assert np.array_equal(batch[b"data"], DATA) and batch[b"labels"] == CLASSES


class Runs:
    """Calls something when it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["alone", "field", "label", "key", "inside an array"])
def test_foreign_objects_are_named_and_not_run(protocol: int, place: str, tmp_path: Path):
    mark = tmp_path / "mark"
    bad = Runs(os.system, f"touch {mark}")
    batch = {
        "alone": bad,
        "field": {**GOOD, "extra": bad},
        "label": {**GOOD, "labels": [3, 0, bad, 1]},
        "key": {(bad,): 1, **GOOD},
        "inside an array": {**GOOD, "extra": np.array([bad, bad], dtype=object)},
    }[place]
    # Protocol 5 writes arrays by a function that no published file names; it may be the first that is met.
    wanted = "posix.system" if protocol < 5 else r"(posix\.system|numpy\._core\.numeric\._frombuffer)"
    message = f"a holds the Python object {wanted}, which rsl never loads; accepted: a dict"
    refused(message, read_batch, python3(batch, protocol), "a")
    assert not mark.exists()
    pickle.loads(python3(bad, protocol))
    assert mark.exists(), "the trap is live"


@pytest.mark.parametrize(
    ("call", "arguments", "name"),
    [
        (builtins.eval, ("1 + 1",), "builtins.eval"),
        (builtins.getattr, (1, "real"), "builtins.getattr"),
        (subprocess.check_output, (["true"],), "subprocess.check_output"),
        (np.dtype("f8").type, (1.0,), "numpy.float64"),
        (np.load, ("x.npy",), "numpy.load"),
    ],
)
def test_nothing_beside_arrays_is_admitted(call: Any, arguments: tuple, name: str):
    refused(f"the Python object {name}, which", read_batch, python3({**GOOD, "extra": Runs(call, *arguments)}), "a")


def test_names_are_not_looked_up_by_their_parts():
    for module, name in ((b"numpy", b"dtype.__init__"), (b"os", b"path"), (b"numpy.core", b"multiarray._reconstruct")):
        content = b"\x80\x04\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93."
        refused(f"the Python object {module.decode()}.{name.decode()}, which", read_batch, content, "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a is not a batch of CIFAR-10, or is damaged: EOFError; fetch it again"),
        (b"hello", "is not a batch of CIFAR-10, or is damaged"),
        (b"\x80\x02Pid\n.", "is not a batch of CIFAR-10, or is damaged"),
        (b"\x80\x02\x82\x01.", "is not a batch of CIFAR-10, or is damaged: unregistered extension code 1"),
        (python3([1, 2]), "is not a batch of CIFAR-10: .* it holds list"),
        (python3({}), "it holds dict"),
        (python3({"data": DATA, "fine_labels": CLASSES}), "it holds 'data', 'fine_labels'"),
        (python3({"data": DATA.tolist(), "labels": CLASSES}), "'data' must be an array"),
        (python3({"data": DATA, "labels": ["cat"] * 4}), "'labels' a list of classes"),
        (python3({"data": DATA, "labels": [True] * 4}), "'labels' a list of classes"),
        (python3({"data": DATA, "labels": [2**80] * 4}), "'labels' a list of classes"),
        (python3({"data": DATA, "labels": CLASSES[:3]}), "must be 3 rows of 3072 unsigned bytes"),
        (python3({"data": DATA[:, :100], "labels": CLASSES}), r"got type 'u1', shape \(4, 100\), 400 bytes"),
        (python3({"data": DATA[0], "labels": CLASSES}), r"got type 'u1', shape \(3072,\), 3072 bytes"),
        (python3({"data": DATA.astype(float), "labels": CLASSES}), "got type 'f8'"),
        (python3({"data": DATA.astype(object), "labels": CLASSES}), "got type 'O8', .* no bytes"),
        (python3({"data": np.zeros(4, "u1,u1"), "labels": CLASSES}), "got type 'V2'"),
        (python2(DATA[:, :-1], CLASSES).replace(b"J\xff\x0b\x00\x00", b"J\x00\x0c\x00\x00"), "12284 bytes"),
        (b"\x80\x02}(U\x04datacnumpy\nndarray\n)RU\x06labels]u.", "got an array without content"),
    ],
)  # fmt: skip
def test_other_pickles_are_one_line(content: bytes, message: str):
    refused(message, read_batch, content, "a")


def test_damage_anywhere_is_one_line_or_does_no_harm():
    content = python2(DATA[:1], [3])
    header = len(content) - 3072
    for end in range(0, len(content), 7):
        refused("^a ", read_batch, content[:end], "a")
    for _ in range(2000):
        damaged = bytearray(content)
        for place in DRAWS.integers(0, header, 2):
            damaged[place] = DRAWS.integers(0, 256)
        try:
            read_batch(bytes(damaged), "a")
        except DataError as error:
            assert "\n" not in str(error)
