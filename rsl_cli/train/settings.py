"""Checks that all trainers' settings share."""

import math
from collections.abc import Mapping
from typing import Any

from rsl_cli.errors import ConfigError, one_of


def known_keys(config: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """The configuration of a trainer as keyword arguments of its settings class.

    Raises:
        ConfigError: a key the class does not have.
    """
    for key in config:
        if key not in cls.__dataclass_fields__:
            raise ConfigError(one_of("trainer key", key, cls.__dataclass_fields__))
    return dict(config)


def check_values(settings: object, rules: Mapping[str, tuple[bool, str]]) -> None:
    """Check each key's value, given whether it is accepted and what is.

    Raises:
        ConfigError: the first value out of range, with the key as ``trainer.KEY``.
    """
    for key, (accepted, what) in rules.items():
        if not accepted:
            raise ConfigError(f"trainer.{key}={getattr(settings, key)!r}; accepted: {what}")


def whole(value: object, least: int) -> bool:
    """Whether a value is a whole number from ``least`` on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def real(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
