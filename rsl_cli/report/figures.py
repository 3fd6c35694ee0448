"""Figures of a user's own: functions from a stored study to a matplotlib figure."""

from collections.abc import Callable, Sequence
from typing import Any

from rsl_cli.errors import ConfigError, first_line
from rsl_cli.registry import Registry, load_plugins
from rsl_cli.study.store import StudyStore

Figure = Callable[[StudyStore], Any]
"""Reads what it draws (``store.records()``, ``store.trajectory(key)``, ``store.table(key, name)``) and returns a
matplotlib figure, or None where there is nothing to draw."""

FIGURES: Registry[Figure] = Registry("figure")
"""Figures by name, beside those that every report has."""


def own_figures(store: StudyStore, names: Sequence[str]) -> dict[str, Any]:
    """Draw figures by name.

    Args:
        store: a study; the modules that its configuration lists as plug-ins are imported first.
        names: in `FIGURES`, or ``package.attribute``.

    Returns:
        Matplotlib figures by the last part of their names, for a file each.

    Raises:
        ConfigError: one cannot be imported, fails, or gives something else, in one line.
    """
    load_plugins(store.read_study().get("config", {}).get("plugins"))
    drawn = {}
    for name in names:
        function = FIGURES.find(name)
        try:
            figure = function(store)
        except Exception as error:
            raise ConfigError(f"figure {name}: fails with {type(error).__name__}: {first_line(error)}") from error
        if figure is not None and not hasattr(figure, "savefig"):
            raise ConfigError(f"figure {name}: gives a {type(figure).__name__}; accepted: a matplotlib figure or None")
        if figure is not None:
            drawn[str(name).rpartition(".")[2]] = figure
    return drawn
