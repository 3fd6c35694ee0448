"""Figures of a user's own, by the key ``figures``: functions from a stored study to a matplotlib figure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rsl_cli.errors import ConfigError, first_line
from rsl_cli.registry import Registry, load_plugins
from rsl_cli.report.words import CAPTIONS
from rsl_cli.study.store import StudyStore

Figure = Callable[[StudyStore], Any]
"""Reads what it draws (``store.records()``, ``store.trajectory(key)``, ``store.table(key, name)``) and returns a
matplotlib figure, or None where there is nothing to draw."""

FIGURES: Registry[Figure] = Registry("figure")
"""Figures by name, beside those that every report has."""


def named_figures(config: Mapping[str, Any]) -> list[str]:
    """The names under a configuration's key ``figures``, each of which stands for a function.

    Args:
        config: of a study; the modules that it lists as plug-ins are imported first.

    Returns:
        The names as they are written, in their order.

    Raises:
        ConfigError: one is not known, or hides a figure that every report has.
    """
    load_plugins(config.get("plugins"))
    given = config.get("figures") or []
    names = [given] if isinstance(given, str) else list(given)
    for name in names:
        if not callable(FIGURES.find(name, "figures")):
            raise ConfigError(f"figures={name}: accepted: a function of a stored study that gives a matplotlib figure")
        if name.rpartition(".")[2] in CAPTIONS:
            raise ConfigError(f"figures={name}: every report has a figure of that name; accepted: another name")
    return names


def own_figures(store: StudyStore, names: Sequence[str]) -> dict[str, Any]:
    """Draw figures by name.

    Args:
        store: a study.
        names: in `FIGURES`, or ``package.attribute``; see `named_figures`.

    Returns:
        Matplotlib figures by the last part of their names, for a file each.

    Raises:
        ConfigError: one cannot be imported, fails, or gives something else, in one line.
    """
    figures = {str(name).rpartition(".")[2]: _drawn(str(name), FIGURES.find(name), store) for name in names}
    return {name: figure for name, figure in figures.items() if figure is not None}


def check_figure(name: str, figure: Figure, store: StudyStore) -> None:
    """The contract of a figure on a study: a matplotlib figure or None, and the same when it is drawn again.

    Args:
        name: of the figure, for errors.
        figure: the function.
        store: any study with finished runs.

    Raises:
        ConfigError: what it breaks, in one line.
    """
    from rsl_cli.report.canvas import encoded

    first, second = (_drawn(name, figure, store) for _ in range(2))
    if (first and encoded(first, ["png"])) != (second and encoded(second, ["png"])):
        raise ConfigError(f"figure {name}: is another one when drawn again; it must not depend on chance")


def _drawn(name: str, function: Figure, store: StudyStore) -> Any:
    try:
        figure = function(store)
    except Exception as error:
        raise ConfigError(f"figure {name}: fails with {type(error).__name__}: {first_line(error)}") from error
    if figure is not None and not hasattr(figure, "savefig"):
        raise ConfigError(f"figure {name}: gives a {type(figure).__name__}; accepted: a matplotlib figure or None")
    return figure
