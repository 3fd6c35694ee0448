"""Functions sampled at random points: a declaration for each over one engine. It knows no file and no network.

Every quantity of every part has a stream of its own, so the held-out part is fresh, no key shifts a draw that it does
not concern, and a larger set starts with the smaller one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rsl_cli.data.dataset import Dataset, Task
from rsl_cli.data.keys import DatasetBuilder, DatasetSettings, Teacher, count, seed, told
from rsl_cli.errors import ConfigError, DataError
from rsl_cli.keys import Key, real, whole
from rsl_cli.rng import generator

Part = Literal["train", "held-out"]
Stream = Callable[[str], np.random.Generator]
"""From the name of a quantity to the generator of its draws."""

SIZES: dict[str, Key] = {
    "samples": count(16384, low=2).about("training points N"),
    "test_samples": count(4096).about("held-out points, drawn afresh from a stream of their own"),
    "seed": seed(),
}
_CONSTANT = 1e-12
"""A teacher whose spread is below this share of its size is constant but for rounding."""


@dataclass(frozen=True)
class Function:
    """A law of (x, y): ``draw(settings, n, stream)`` returns float64 (n, *inputs) and the targets of the task.

    ``outputs`` is their number, or the name of the key that says it; ``inputs`` their number for a sample.
    """

    task: Task
    inputs: Callable[[DatasetSettings], int]
    outputs: int | str
    draw: Callable[[DatasetSettings, int, Stream], tuple[np.ndarray, np.ndarray]]
    keys: Mapping[str, Key] = field(default_factory=dict)
    check: Callable[[DatasetSettings], None] = lambda settings: None
    own_shape: str | None = None


def _sine2d(settings: DatasetSettings, n: int, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Sample sin(2 pi x1) cos(pi x2), x uniform on [-1, 1]^2."""
    x = stream("x").uniform(-1.0, 1.0, (n, 2))
    return x, (np.sin(2 * np.pi * x[:, 0]) * np.cos(np.pi * x[:, 1]))[:, None]


def _lemniscate(settings: DatasetSettings, n: int, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Sample Bernoulli's lemniscate: u uniform on [-1, 1], t = pi u, y = (cos t, sin t cos t) / (1 + sin(t)^2).

    Toy example of Robin, Scaman and Lelarge, Convergence beyond the over-parameterized regime using Rayleigh
    quotients, NeurIPS 2022.

    Returns:
        x = u, (n, 1), and y, (n, 2).
    """
    u = stream("x").uniform(-1.0, 1.0, (n, 1))
    sine, cosine = np.sin(np.pi * u), np.cos(np.pi * u)
    return u, np.hstack([cosine, sine * cosine]) / (1 + sine**2)


def _spirals(settings: DatasetSettings, n: int, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Sample two Archimedean arms, half a turn apart; class c has angle 2 pi turns r + pi c at radius r.

    Radii start at 0.1: the arms meet at the origin, where no classifier could tell them apart.

    Returns:
        Points, (n, 2), and their arms, int64 (n,).
    """
    label = stream("y").integers(0, 2, n)
    radius = 0.1 + 0.9 * np.sqrt(stream("radius").uniform(0.0, 1.0, n))
    angle = 2 * np.pi * settings["turns"] * radius + np.pi * label
    arm = radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return arm + settings["noise"] * stream("noise").standard_normal((n, 2)), label


def _parity(settings: DatasetSettings, n: int, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Sample x uniform on {-1, 1}^bits; the class is 1 where an odd number of the first k entries is -1."""
    x = 2.0 * stream("x").integers(0, 2, (n, settings["bits"])) - 1.0
    return x, (x[:, : settings["k"]] < 0).sum(axis=1) % 2


def _check_parity(settings: DatasetSettings) -> None:
    if settings["k"] > settings["bits"]:
        raise ConfigError(
            f"dataset.k is {settings['k']}, more than dataset.bits, {settings['bits']}; "
            f"accepted: 1 to {settings['bits']}, or raise dataset.bits"
        )


_FUNCTIONS: dict[str, Function] = {
    "sine2d": Function("regression", lambda _: 2, 1, _sine2d),
    "spirals": Function(
        "classification",
        lambda _: 2,
        2,
        _spirals,
        {
            "noise": real(0.02, 0).about("standard deviation of each coordinate; the arms reach radius 1"),
            "turns": real(1.5, 0, 100).about("of each arm"),
        },
    ),
    "parity": Function(
        "classification",
        lambda settings: settings["bits"],
        2,
        _parity,
        {
            "bits": whole(20, 1, 4096).about("entries per input"),
            "k": whole(3, 1, 4096).about("entries that matter, at most bits"),
        },
        _check_parity,
    ),
    "lemniscate": Function("regression", lambda _: 1, 2, _lemniscate),
}


def _stream(settings: DatasetSettings, part: Part) -> Stream:
    return lambda quantity: generator(settings["seed"], f"data/{settings['name']}/{part}/{quantity}")


def sampled(function: Function) -> DatasetBuilder:
    """The dataset of a function: parts of ``samples`` and ``test_samples``, each from streams of its own."""
    target = np.float64 if function.task == "regression" else np.int64

    def build(settings: DatasetSettings, teacher: Teacher | None) -> Dataset:
        x_train, y_train = function.draw(settings, settings["samples"], _stream(settings, "train"))
        x_test, y_test = function.draw(settings, settings["test_samples"], _stream(settings, "held-out"))
        return Dataset(
            name=settings["name"],
            task=function.task,
            x_train=x_train,
            y_train=y_train.astype(target, copy=False),
            x_test=x_test,
            y_test=y_test.astype(target, copy=False),
            outputs=settings[function.outputs] if isinstance(function.outputs, str) else function.outputs,
        )

    return DatasetBuilder(
        {**function.keys, **SIZES}, build, function.check, own_shape=function.own_shape, inputs=function.inputs
    )


def _planted(settings: DatasetSettings, teacher: Teacher | None) -> Dataset:
    """Sample a planted function at x uniform on [-1, 1]^inputs.

    One constant divides all targets, of both parts: the function stays the network that was planted but for its
    readout, so its lift degree remains a bound on the approximation number.

    Returns:
        Both parts, targets of variance about 1.

    Raises:
        ConfigError: there is no base graph to plant.
        DataError: its outputs are not finite, or do not vary.
    """
    if teacher is None:
        raise ConfigError(
            "dataset.name is 'teacher', which needs a planted network, and none was given; "
            "pass `teacher` to load_dataset or choose another dataset, e.g. dataset=sine2d"
        )
    function = teacher(dict(settings))
    sizes: tuple[tuple[Part, int], ...] = (("train", settings["samples"]), ("held-out", settings["test_samples"]))
    x_train, x_test = (
        _stream(settings, part)("x").uniform(-1.0, 1.0, (size, settings["inputs"])) for part, size in sizes
    )
    y_train, y_test = (_taught(function, x, settings) for x in (x_train, x_test))
    with np.errstate(over="ignore", invalid="ignore"):
        constant = math.sqrt(y_train.var(axis=0).sum())
    if not constant > _CONSTANT * np.abs(y_train).max() or not math.isfinite(constant):
        raise DataError(
            f"dataset 'teacher': the standard deviation of the planted targets is {constant:.3g}, which cannot be "
            f"scaled to 1; use another dataset.seed or dataset.degree (now {settings['degree']})"
        )
    return Dataset(
        name=settings["name"],
        task="regression",
        x_train=x_train,
        y_train=y_train / constant,
        x_test=x_test,
        y_test=y_test / constant,
        outputs=settings["outputs"],
        witness_degree=settings["degree"],
    )


def _taught(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, settings: DatasetSettings) -> np.ndarray:
    y = np.array(function(x.copy()), dtype=np.float64)
    wanted = (len(x), settings["outputs"])
    if y.shape != wanted:
        raise DataError(
            f"dataset 'teacher': the planted network returned shape {y.shape}; expected {wanted}, "
            "as dataset.outputs says"
        )
    if not np.isfinite(y).all():
        raise DataError(
            "dataset 'teacher': the planted network returned numbers that are not finite; "
            f"use another dataset.seed or dataset.degree (now {settings['degree']})"
        )
    return y


BUILDERS: dict[str, DatasetBuilder] = {
    **{name: sampled(function) for name, function in _FUNCTIONS.items()},
    "teacher": DatasetBuilder(
        {
            "degree": whole(4, 1).about("lift degree n0 of the planted network, the witness"),
            "inputs": whole(2, 1, 65536).about("numbers per input"),
            "outputs": whole(1, 1, 65536).about("numbers per target"),
            **told(SIZES, seed="of the points, and of the planted graph and weights"),
        },
        _planted,
        planted=True,
        inputs=lambda settings: settings["inputs"],
    ),
}
