"""Keys of trainers, declared once: checks, identities, defaults and the reference are derived from here.

What an optimiser has of its own, and where its defaults are others, is said by its class.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rsl_cli.data.keys import MOST_SAMPLES
from rsl_cli.keys import Key, Keys, choice, kept, nullable, real, whole
from rsl_cli.train.schedules import SCHEDULES

MOST_STEPS = 10**9

_STEPS = whole(2000, 0, MOST_STEPS).of("horizon").about("steps to take; at a constant rate, how far: raise it to go on")
_BATCH = nullable(whole(256, 1, MOST_SAMPLES), default=256).about("samples a step, of each seed's own order; null: all")
_EPSILON = nullable(real(None, 0, 1e100, above=True)).of("horizon").about("stop at a loss at or below this")
_STATIONARY = real(1e-4, 0, 1e6).about("stop below this share of the loss left to gain: sum_p |g_p| reach_p / L")
_PER_DECADE = whole(8, 1, 1000).about("samples of the trajectory per decade of steps")


def _with(key: Key, default: Any) -> Key:
    """The same key of another default."""
    return replace(key, default=default)


def first_order_keys(own: Keys, usual: Mapping[str, Any]) -> Keys:
    """The keys of a first-order trainer beside its name.

    Args:
        own: of its optimiser.
        usual: defaults where they are others than most optimisers'; None for a key that it has not.

    Returns:
        Keys in the order in which they are shown.
    """
    keys = {
        "steps": _STEPS,
        "learning_rate": real(0.01, 0, 1e38, above=True).about(
            "before the factors by which the parametrization makes it go with the degree"
        ),
        "batch_size": _BATCH,
        **own,
        "schedule": choice("cosine", *SCHEDULES).about(
            "constant | cosine | linear | wsd (warm-up, stable, decay); all but constant end at `steps`"
        ),
        "stationary": _STATIONARY,
        "log_per_decade": _with(_PER_DECADE, 3),
        "dtype": choice("float32", "float32", "float64").about("float32 or float64"),
    }
    told = {key: _with(spec, usual.get(key, spec.default)) for key, spec in keys.items()}
    return {key: spec for key, spec in told.items() if usual.get(key, key) is not None}


DECAY = real(0.01, 0, 1e6).about("share of a weight that a step of unit rate takes away")
TARGET: Keys = {
    "target": kept(None, "package.Class", "mine.Own").about("needed: package.Class"),
    "arguments": kept(None, "null or a mapping", "{beta: 0.9}").about("of its constructor; null: none"),
}


def share(default: float) -> Key:
    """A number from 0 to below 1."""
    return real(default, 0, 1, below=True)


FLOW: Keys = {
    "t_end": real(1e8, 0, 1e100)
    .of("horizon")
    .about("flow time at which to stop: L(t) falls like kappa / (4 t); raise it and the same line goes on"),
    "rtol": real(1e-3, 1e-12, 0.1).about("local error of each parameter, relative to its size"),
    "atol": real(1e-6, 0, 1e6, above=True).about("and absolute"),
    "epsilon": _EPSILON,
    "stationary": _STATIONARY,
    "max_steps": whole(20000, 0, MOST_STEPS).of("horizon").about("steps after which to give up"),
    "log_per_decade": _with(_PER_DECADE, 4).about("samples of the trajectory per decade of time"),
}
LM: Keys = {
    "max_steps": whole(300, 0, MOST_STEPS)
    .of("horizon")
    .about("this and epsilon say how far; raise them and the same line carries every run on"),
    "epsilon": _EPSILON,
    "stationary": _STATIONARY,
    "log_per_decade": _PER_DECADE,
}

AUTO: Mapping[str, Mapping[str, Any]] = {
    "numbers": {"name": "flow", "t_end": 1e5},
    "classes": {"name": "flow", "t_end": 1e5, "epsilon": 1e-3},
    "dear": {"name": "adam"},
}
"""What ``auto`` takes: for numbers, for classes, and for either where a run by the flow would take long."""
