"""The grammar of sweeps: lift degrees and seeds as they are written on a command line. It knows no configuration."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from rsl_cli.errors import ConfigError

_MOST_DEGREE = 1 << 24
_FORMS = "accepted: 64, 16..1024 (doubling), 16..1024@2 (two per octave) or [16,48,256]"


def lift_degrees(value: Any) -> tuple[int, ...]:
    """Expand a sweep of lift degrees.

    Args:
        value: ``64``; ``"16..1024"``, doubling, the upper end included where it is hit; ``"16..1024@2"``, that many per
            octave, rounded, without repeats; a list, or its items joined by commas.

    Returns:
        Degrees, ascending, each once.

    Raises:
        ConfigError: anything else; the text names the value and the accepted forms.
    """
    if isinstance(value, str) and "," in value:
        value = value.split(",")
    if isinstance(value, list | tuple):
        if not value:
            raise ConfigError(f"lift={value!r} is empty; {_FORMS}")
        degrees = [_degree(item, value) for item in value]
    elif isinstance(value, str) and ".." in value:
        degrees = _range(value)
    else:
        degrees = [_degree(value, value)]
    return tuple(sorted(set(degrees)))


def seed_list(value: Any) -> tuple[int, ...]:
    """Expand seeds: a count (``5`` is 0..4), or a list such as ``[0,7]`` or ``0,7``.

    Returns:
        Seeds, ascending, each once.

    Raises:
        ConfigError: anything else.
    """
    accepted = "accepted: a count from 1 (seeds=5 is 0..4) or a list of whole numbers from 0 such as [0,7]"
    if isinstance(value, str) and "," in value:
        value = value.split(",")
    if isinstance(value, list | tuple):
        seeds = [_integer(item) for item in value]
        if not seeds or any(seed is None or seed < 0 for seed in seeds):
            raise ConfigError(f"seeds={_plain(value)}; {accepted}")
        return tuple(sorted({seed for seed in seeds if seed is not None}))
    count = _integer(value)
    if count is None or not 1 <= count <= 100_000:
        raise ConfigError(f"seeds={_plain(value)}; {accepted}")
    return tuple(range(count))


SWEEPS: Mapping[str, Callable[[Any], tuple[int, ...]]] = {"lift": lift_degrees, "seeds": seed_list}
"""Keys of this grammar, and what reads them."""


def _range(text: str) -> list[int]:
    match = re.fullmatch(r"\s*(\d+)\.\.(\d+)(?:@(\d+))?\s*", text)
    if match is None:
        raise ConfigError(f"lift={text} is not a sweep; {_FORMS}")
    first, last = (_degree(match[i], text) for i in (1, 2))
    per_octave = int(match[3] or 1)
    if last < first:
        raise ConfigError(f"lift={text} runs downwards; write the smaller end first, lift={last}..{first}; {_FORMS}")
    if not 1 <= per_octave <= 64:
        raise ConfigError(f"lift={text} asks for {per_octave} per octave; accepted: 1 to 64")
    degrees, step = [], 0
    while (degree := round(first * 2 ** (step / per_octave))) <= last:
        degrees.append(degree)
        step += 1
    return degrees


def _degree(item: Any, whole: Any) -> int:
    degree = _integer(item)
    if degree is None:
        raise ConfigError(f"lift={_plain(whole)} is not a sweep; {_FORMS}")
    if not 1 <= degree <= _MOST_DEGREE:
        raise ConfigError(f"lift={_plain(whole)}: degree {degree} is out of range 1..{_MOST_DEGREE}; {_FORMS}")
    return degree


def _integer(item: Any) -> int | None:
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    return int(item) if isinstance(item, str) and re.fullmatch(r"\s*-?\d+\s*", item) else None


def _plain(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
