"""Sequences against a reader that decodes them symbol by symbol."""

from pathlib import Path

import numpy as np
import pytest

from rsl_cli.data import Dataset, content_identity, load_dataset
from rsl_cli.errors import ConfigError, DataError

SMALL = {"samples": 400, "test_samples": 100}
TASKS = ("copy", "reverse", "recall")


def tokens(task: str, **keys) -> Dataset:
    return load_dataset({"name": "tokens", "task": task, "length": 5, "vocabulary": 6, **SMALL, **keys})


def decoded(row: np.ndarray) -> int:
    (where,) = np.flatnonzero(row)
    assert row[where] == 1
    return int(where)


def answer(x: np.ndarray, task: str, length: int, vocabulary: int) -> int:
    """What a person would answer, from the one-hot rows alone."""
    if task == "recall":
        pairs = {decoded(row[:vocabulary]): decoded(row[vocabulary:]) for row in x[:length]}
        assert len(pairs) == length and not x[length, vocabulary:].any()
        return pairs[decoded(x[length, :vocabulary])]
    symbols = [decoded(row) for row in x]
    written = [symbol for symbol in symbols[:length] if symbol < vocabulary]
    assert symbols[len(written) : length] == [vocabulary] * (length - len(written))
    place = symbols[length] - vocabulary
    assert 1 <= place <= len(written)
    return written[place - 1] if task == "copy" else written[-place]


@pytest.mark.parametrize("task", TASKS)
def test_every_sequence_has_the_one_answer_that_its_symbols_give(task: str):
    data = tokens(task, length=4)
    assert data.input_shape == (5, 6 + 6 if task == "recall" else 6 + 1 + 4)
    assert (data.task, data.outputs, data.y_train.dtype) == ("classification", 6, np.int64)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert [answer(sequence, task, 4, 6) for sequence in x] == y.tolist()


@pytest.mark.parametrize("task", TASKS)
def test_classes_lengths_and_places_are_spread_as_documented(task: str):
    data = tokens(task, samples=20000)
    assert np.allclose(np.bincount(data.y_train) / 20000, 1 / 6, atol=0.015)
    if task == "recall":
        asked, keys = data.x_train[:, 5, :6].argmax(1), data.x_train[:, :5, :6].argmax(2)
        assert np.allclose(np.bincount((keys == asked[:, None]).argmax(1)) / 20000, 1 / 5, atol=0.015)
    else:
        used = (data.x_train[:, :5, 6] == 0).sum(1)
        assert np.allclose(np.bincount(used)[1:] / 20000, 1 / 5, atol=0.015)
        place = data.x_train[:, 5].argmax(1) - 6
        assert np.allclose(np.bincount(place[used == 4])[1:] / (used == 4).sum(), 1 / 4, atol=0.03)


def test_copy_and_reverse_ask_of_the_same_sequences():
    one, other = tokens("copy"), tokens("reverse")
    assert np.array_equal(one.x_train, other.x_train) and not np.array_equal(one.y_train, other.y_train)


@pytest.mark.parametrize("task", TASKS)
def test_larger_sets_start_with_smaller_ones_and_parts_are_fresh(task: str):
    few, more, other = tokens(task, samples=100), tokens(task), tokens(task, seed=1)
    assert np.array_equal(few.x_train, more.x_train[:100]) and np.array_equal(few.x_test, more.x_test)
    assert not np.array_equal(more.x_train, other.x_train)
    assert not np.array_equal(more.x_train[:100], more.x_test)


def test_the_flat_form_has_the_same_numbers():
    whole, flat, auto = tokens("recall"), tokens("recall", shape="flat"), {"name": "tokens", **SMALL}
    assert flat.input_shape == (6 * 12,) and np.array_equal(flat.x_train, whole.x_train.reshape(400, -1))
    assert load_dataset(auto, flat=True).input_shape == (5 * 16,)
    assert content_identity(auto)["shape"] == "sequence"


def test_recall_needs_as_many_keys_as_pairs():
    assert tokens("recall", length=6).outputs == 6 and tokens("copy", length=7).outputs == 6
    with pytest.raises(
        ConfigError, match=r"dataset\.length is 7, more than the 6 keys there are, .*; accepted: 1 to 6"
    ):
        tokens("recall", length=7)


# --- text ---------------------------------------------------------------------------------------------------------

FIRST, SECOND = "the quick brown fox jumps over the lazy dog. " * 8, "pack my box with five dozen liquor jugs äß\n" * 9
TEXT = FIRST + SECOND[: len(FIRST)]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def text(path: Path, **keys) -> Dataset:
    return load_dataset({"name": "text", "path": str(path), "length": 6, "samples": 200, "test_samples": 80, **keys})


def windows(x: np.ndarray, y: np.ndarray) -> list[str]:
    alphabet = sorted(set(TEXT))
    return ["".join(alphabet[decoded(row)] for row in window) + alphabet[c] for window, c in zip(x, y, strict=True)]


def test_text_gives_windows_and_the_character_after_them(book: Path):
    data = text(book)
    kinds = len(set(TEXT))
    assert (data.task, data.outputs, data.input_shape, data.samples) == ("classification", kinds, (6, kinds), 200)
    trained, held = windows(data.x_train, data.y_train), windows(data.x_test, data.y_test)
    assert all(window in FIRST for window in trained) and all(window in SECOND for window in held)
    assert len(held) == 80


def test_every_window_of_a_half_is_drawn_once_and_none_spans_both(book: Path):
    every = len(FIRST) - 6
    data = text(book, samples=every, test_samples=every)
    for half, x, y in ((FIRST, data.x_train, data.y_train), (TEXT[len(FIRST) :], data.x_test, data.y_test)):
        assert sorted(windows(x, y)) == sorted(half[i : i + 7] for i in range(every))
    with pytest.raises(
        ConfigError, match=rf"dataset\.samples is {every + 1}, but a half of .* has {every} windows of 6"
    ):
        text(book, samples=every + 1)
    with pytest.raises(ConfigError, match=r"has 0 windows of 1000 and the next; lower it, or give a longer text"):
        text(book, length=1000)


def test_text_is_drawn_by_its_seed_and_named_by_its_content(book: Path, tmp_path: Path):
    one, again, other = text(book), text(book), text(book, seed=1)
    assert np.array_equal(one.x_train, again.x_train) and not np.array_equal(one.x_train, other.x_train)
    copy = tmp_path / "copy.txt"
    copy.write_bytes(book.read_bytes())
    assert content_identity({"name": "text", "path": str(book)}) == content_identity(
        {"name": "text", "path": str(copy)}
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00\x00", "is not text in UTF-8: .*; save it as such"),
        (b"", "is an empty file"),
        (b"a" * 1000, "the training part holds one class only"),
    ],
)
def test_texts_that_cannot_be_learnt(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        text(path)
    assert "\n" not in str(caught.value)
