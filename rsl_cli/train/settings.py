"""Keys of trainers, executors and probes as data: types, ranges and defaults, and the one reader of them all.

The files of ``conf/`` say the same defaults, with a line on what each key means; a test holds them equal.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from rsl_cli.data.keys import MOST_SAMPLES, Key, flag, shorten
from rsl_cli.errors import ConfigError, one_of

MOST_STEPS = 10**9
SCHEDULES = ("constant", "cosine", "linear", "wsd")


def read_declared(
    where: str, keys: Mapping[str, Key], config: Mapping[str, Any], also: Iterable[str] = ("name",)
) -> dict[str, Any]:
    """Check a configuration and fill in its defaults.

    Args:
        where: what it configures, the first part of every key.
        keys: the declaration.
        config: keys and values.
        also: keys that it may have beside them, which are left out.

    Returns:
        Every declared key, in the order of the declaration, each value in its one canonical form.

    Raises:
        ConfigError: an unknown key, or a value out of range, as ``where.KEY``.
    """
    for key in config:
        if key not in keys and key not in also:
            raise ConfigError(one_of(f"{where} key", key, [*also, *keys]))
    settings = {}
    for key, spec in keys.items():
        value = config.get(key, spec.default)
        try:
            settings[key] = spec.read(value)
        except (ValueError, OverflowError):
            raise ConfigError(f"{where}.{key}={shorten(value)}; accepted: {spec.accepted}") from None
    return settings


def whole(default: int | None, least: int, most: int = sys.maxsize) -> Key:
    """A whole number from ``least`` to ``most``; 2.0 is one."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError
        if value != int(value):
            raise ValueError
        return int(value)

    accepted = f"a whole number from {least}" + (f" to {most}" if most < sys.maxsize else "")
    return Key(default, accepted, str(default), read)


def real(default: float | None, least: float, most: float = sys.float_info.max, *, above: bool = False) -> Key:
    """A number from ``least``, or ``above`` it, to ``most``."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError
        if above and value == least:
            raise ValueError
        return float(value) + 0.0  # Adding makes -0.0 a zero like any other.

    accepted = f"a number above {least:g}" if above else f"a number from {least:g}"
    accepted += ("," if above else "") + f" to {most:g}" if most < sys.float_info.max else ""
    return Key(default, accepted, str(default), read)


def share(default: float) -> Key:
    """A number from 0 to below 1."""
    inner = real(default, 0, 1)

    def read(value: Any) -> float:
        if value == 1:
            raise ValueError
        return inner.read(value)

    return Key(default, "a number from 0 to below 1", str(default), read)


def nullable(key: Key, means: str = "") -> Key:
    """The same key, null by default."""
    meaning = f" ({means})" if means else ""
    return replace(
        key,
        default=None,
        accepted=f"null{meaning} or {key.accepted}",
        read=lambda value: None if value is None else key.read(value),
    )


def one_word(default: str, words: Iterable[str]) -> Key:
    """One word of a closed set."""
    known = tuple(words)

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError
        return value

    return Key(default, " or ".join(known), default, read)


def _as_it_is(default: Any, accepted: str, example: str) -> Key:
    """What the trainer itself reads."""
    return Key(default, accepted, example, lambda value: value)


_BATCH = whole(256, 1, MOST_SAMPLES)
_EPSILON = nullable(real(None, 0, 1e100, above=True))
_STATIONARY = real(1e-4, 0, 1e6)
_PER_DECADE = whole(8, 1, 1000)


def _first_order(
    steps: int, rate: float, own: Mapping[str, Key] | None = None, *, schedule: str = "cosine", per_decade: int = 3
) -> dict[str, Key]:
    return {
        "steps": whole(steps, 0, MOST_STEPS),
        "learning_rate": real(rate, 0, 1e38, above=True),
        "batch_size": replace(nullable(_BATCH), default=256),
        **(own or {}),
        "schedule": one_word(schedule, SCHEDULES),
        "stationary": _STATIONARY,
        "log_per_decade": replace(_PER_DECADE, default=per_decade),
        "dtype": one_word("float32", ("float32", "float64")),
    }


_DECAY = real(0.01, 0, 1e6)
_TARGET = {
    "target": _as_it_is(None, "package.Class", "mine.Own"),
    "arguments": _as_it_is(None, "null or a mapping", "{beta: 0.9}"),
}
TRAINERS: Mapping[str, Mapping[str, Key]] = {
    "flow": {
        "t_end": real(1e8, 0, 1e100),
        "rtol": real(1e-3, 1e-12, 0.1),
        "atol": real(1e-6, 0, 1e6, above=True),
        "epsilon": _EPSILON,
        "stationary": _STATIONARY,
        "max_steps": whole(20000, 0, MOST_STEPS),
        "log_per_decade": replace(_PER_DECADE, default=4),
    },
    "lm": {
        "max_steps": whole(300, 0, MOST_STEPS),
        "epsilon": _EPSILON,
        "stationary": _STATIONARY,
        "log_per_decade": _PER_DECADE,
    },
    "adam": _first_order(2000, 0.03),
    "sgd": _first_order(
        4000,
        0.01,
        {"batch_size": replace(nullable(_BATCH), default=128), "momentum": share(0.9), "nesterov": flag(False)},
        per_decade=8,
    ),
    "gd": {
        key: value
        for key, value in _first_order(1000, 0.05, schedule="constant", per_decade=8).items()
        if key != "batch_size"
    },
    "adamw": _first_order(2000, 0.03, {"weight_decay": _DECAY, "beta1": share(0.9), "beta2": share(0.999)}),
    "lion": _first_order(
        2000, 0.003, {"weight_decay": replace(_DECAY, default=0.0), "beta1": share(0.9), "beta2": share(0.99)}
    ),
    "torch": _first_order(2000, 0.01, {**_TARGET, "divides": flag(True)}),
    "target": _first_order(2000, 0.01, _TARGET),
}
"""Every trainer's keys beside its name."""


def identity_without(settings: Any, horizon: tuple[str, ...]) -> dict[str, Any]:
    """A trainer's settings but for those that say how far a run is carried."""
    return {key: value for key, value in asdict(settings).items() if key not in horizon}
