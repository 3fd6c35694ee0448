"""What all trainers' settings share: reading numbers in one canonical form, checks, and what of them is a horizon."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rsl_cli.data.keys import shorten
from rsl_cli.errors import ConfigError, one_of
from rsl_cli.parts import declared

MOST_STEPS = 10**9
MOST_PER_DECADE = 1000


def known_keys(config: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """The configuration of a trainer as keyword arguments of its settings class, each number as its field declares it.

    Raises:
        ConfigError: a key the class does not have.
    """
    for key in config:
        if key not in cls.__dataclass_fields__:
            raise ConfigError(one_of("trainer key", key, cls.__dataclass_fields__))
    return {key: declared(value, cls.__dataclass_fields__[key].type) for key, value in config.items()}


def check_values(settings: object, rules: Mapping[str, tuple[bool, str]]) -> None:
    """Check each key's value, given whether it is accepted and what is.

    Raises:
        ConfigError: the first value out of range, with the key as ``trainer.KEY``.
    """
    for key, (accepted, what) in rules.items():
        if not accepted:
            raise ConfigError(f"trainer.{key}={shorten(getattr(settings, key))}; accepted: {what}")


def whole(value: object, least: int, most: int = sys.maxsize) -> bool:
    """Whether a value is a whole number from ``least`` to ``most``."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def real(value: object, most: float = sys.float_info.max) -> bool:
    """Whether a value is a finite number, of a size up to ``most``."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most


def steps_rule(value: object) -> tuple[bool, str]:
    """The rule of a number of steps, for `check_values`."""
    return whole(value, 0, MOST_STEPS), f"a whole number from 0 to {MOST_STEPS}"


def samples_rule(value: object) -> tuple[bool, str]:
    """The rule of ``log_per_decade``."""
    return whole(value, 1, MOST_PER_DECADE), f"a whole number from 1 to {MOST_PER_DECADE}"


def stationary_rule(value: Any) -> tuple[bool, str]:
    """The rule of ``stationary``."""
    return real(value, 1e6) and value >= 0, "a number from 0 to 1e+06"


def epsilon_rule(value: Any) -> tuple[bool, str]:
    """The rule of ``epsilon``."""
    return value is None or (real(value, 1e100) and value > 0), "null or a number above 0, to 1e+100"


def identity_without(settings: Any, horizon: tuple[str, ...]) -> dict[str, Any]:
    """A trainer's settings but for those that say how far a run is carried."""
    return {key: value for key, value in asdict(settings).items() if key not in horizon}
