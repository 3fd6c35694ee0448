"""Sequences of symbols, for token maps and attention: tasks of memory, sampled, and the next character of a text.

A sequence of T symbols is an input of shape (T, d) whose rows are one-hot. They do not say where a token stands: that
is the base graph's to add, as a bias for each token does.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from rsl_cli.data.dataset import Dataset
from rsl_cli.data.files import by_content, read_bytes
from rsl_cli.data.keys import DatasetBuilder, DatasetSettings, Teacher, path, shaped, told
from rsl_cli.data.synthetic import SIZES, Function, Stream, sampled
from rsl_cli.errors import ConfigError, DataError
from rsl_cli.keys import choice, whole
from rsl_cli.rng import generator


def _one_hot(symbols: np.ndarray, kinds: int) -> np.ndarray:
    """From symbols (n, T) in 0..kinds-1 to float64 (n, T, kinds)."""
    x = np.zeros((*symbols.shape, kinds))
    np.put_along_axis(x, symbols[:, :, None], 1.0, axis=2)
    return x


def _recollect(settings: DatasetSettings, n: int, stream: Stream, *, backwards: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sample which token stood at the place asked for, counted from the start, or from the end.

    The copy and reversal tasks of Graves, Wayne and Danihelka, Neural Turing machines, 2014, one place at a time: m
    uniform in 1..length; s_1..s_m uniform in 0..vocabulary-1; blanks up to ``length``; last the question j, uniform in
    1..m. The class is s_j, or s_(m+1-j). Lengths vary, or both tasks would be one up to the names of the questions.

    Symbols, in this order: the vocabulary, the blank, the questions 1..length.

    Returns:
        Symbols one-hot, float64 (n, length + 1, vocabulary + 1 + length), and classes, int64 (n,).
    """
    length, vocabulary = settings["length"], settings["vocabulary"]
    tokens = stream("tokens").integers(0, vocabulary, (n, length))
    used = stream("used").integers(1, length + 1, n)
    asked = stream("asked").integers(0, used)
    place = used - 1 - asked if backwards else asked
    answer = tokens[np.arange(n), place]
    tokens[np.arange(length) >= used[:, None]] = vocabulary
    symbols = np.column_stack([tokens, vocabulary + 1 + asked])
    return _one_hot(symbols, vocabulary + 1 + length), answer


def _recall(settings: DatasetSettings, n: int, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Sample associative recall: which value went with the key asked for.

    Graves, Wayne and Danihelka, Neural Turing machines, 2014, section 4.3, with a key and its value in one token, as
    (x_i, y_i) share one in studies of in-context learning, so that one attention layer can solve it: ``length`` pairs
    of distinct keys and of values uniform in 0..vocabulary-1, then one of the keys alone.

    Symbols: the keys, as many as values, and in columns after them the values; a token has one of each, the last a key.

    Returns:
        Tokens, float64 (n, length + 1, 2 vocabulary), of zeros and ones, and classes, int64 (n,).
    """
    length, vocabulary = settings["length"], settings["vocabulary"]
    keys = stream("keys").permuted(np.tile(np.arange(vocabulary), (n, 1)), axis=1)[:, :length]
    values = stream("values").integers(0, vocabulary, (n, length))
    rows, asked = np.arange(n), stream("asked").integers(0, length, n)
    x = _one_hot(np.column_stack([keys, keys[rows, asked]]), 2 * vocabulary)
    np.put_along_axis(x[:, :length], vocabulary + values[:, :, None], 1.0, axis=2)
    return x, values[rows, asked]


_TASKS: dict[str, Callable[[DatasetSettings, int, Stream], tuple[np.ndarray, np.ndarray]]] = {
    "recall": _recall,
    "copy": partial(_recollect, backwards=False),
    "reverse": partial(_recollect, backwards=True),
}


def _draw(settings: DatasetSettings, n: int, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    return _TASKS[settings["task"]](settings, n, stream)


def _check(settings: DatasetSettings) -> None:
    if settings["task"] == "recall" and settings["length"] > settings["vocabulary"]:
        raise ConfigError(
            f"dataset.length is {settings['length']}, more than the {settings['vocabulary']} keys there are, which "
            f"are distinct; accepted: 1 to {settings['vocabulary']}, or raise dataset.vocabulary"
        )


def _text(settings: DatasetSettings, teacher: Teacher | None) -> Dataset:
    """Read a text: its first half to train on, its second to hold out, windows drawn from each without repetition."""
    source, length = settings["path"], settings["length"]
    try:
        text = read_bytes(source).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not text in UTF-8: {error}; save it as such") from None
    alphabet, codes = np.unique(np.array(list(text)), return_inverse=True)
    half = len(codes) // 2
    parts = []
    for key, part in (("samples", codes[:half]), ("test_samples", codes[half:])):
        windows = np.lib.stride_tricks.sliding_window_view(part, length + 1) if len(part) > length else part[:0, None]
        if settings[key] > len(windows):
            raise ConfigError(
                f"dataset.{key} is {settings[key]}, but a half of {source}, {len(part)} characters, has {len(windows)} "
                f"windows of {length} and the next; lower it, or give a longer text"
            )
        chosen = generator(settings["seed"], f"data/text/{key}").permutation(len(windows))[: settings[key]]
        parts += [_one_hot(windows[chosen, :-1], len(alphabet)), windows[chosen, -1]]
    x_train, y_train, x_test, y_test = parts
    return Dataset(
        name=settings["name"],
        task="classification",
        x_train=x_train,
        y_train=y_train.astype(np.int64),
        x_test=x_test,
        y_test=y_test.astype(np.int64),
        outputs=len(alphabet),
    )


BUILDERS: dict[str, DatasetBuilder] = {
    "tokens": sampled(
        Function(
            "classification",
            lambda settings: 2 * (settings["length"] + 1) * settings["vocabulary"],
            "vocabulary",
            _draw,
            {
                "task": choice("recall", *_TASKS).about("recall, copy or reverse"),
                "length": whole(4, 1, 1024).about("tokens, or pairs, at most"),
                "vocabulary": whole(8, 2, 1024).about("values of a token; keys"),
                **shaped("sequence"),
            },
            _check,
            own_shape="sequence",
        )
    ),
    "text": DatasetBuilder(
        {
            "path": path("data/book.txt").about("needed, e.g. dataset.path=data/book.txt"),
            "length": whole(8, 1, 1024).about("characters read"),
            **shaped("sequence"),
            **told(
                SIZES,
                samples="windows of the first half to train on, drawn without repetition",
                test_samples="windows of the second half",
                seed="of the draws; runs have their own seeds",
            ),
        },
        _text,
        content=by_content,
        own_shape="sequence",
    ),
}
