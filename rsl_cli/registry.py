"""Parts by name: a registry for each kind, and one door for the parts that ship and for a user's own.

A configuration names a part by its name in the registry of its kind, or as ``package.attribute``, which is imported,
from the current folder too. Whoever wants short names for their own parts adds them, as the shipped ones are added::

    from rsl_cli import EDGE_MAPS

    @EDGE_MAPS.add("diagonal")
    class Diagonal(EdgeMap): ...

in a module that ``plugins: [module]`` lists, or that an entry point of the group ``rsl_cli.plugins`` names.
"""

import hashlib
import importlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from rsl_cli.errors import RAISED, ConfigError, RslError, first_line, nearest, one_of

T = TypeVar("T")
P = TypeVar("P")
_OURS = __name__.partition(".")[0]


@dataclass(frozen=True)
class Origin:
    """Where a user's part comes from: what names it in a run's identity.

    Args:
        target: its qualified name.
        source: fingerprint of the source it is made of, 16 hexadecimal digits.
        arguments: what it was made with.
    """

    target: str
    source: str
    arguments: Mapping[str, Any]

    def identity(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


class Registry(Mapping[str, T], Generic[T]):
    """The parts of one kind, by name.

    Args:
        kind: what one of them is called in an error.
        error: what is raised for a name that stands for none.
    """

    def __init__(self, kind: str, error: type[RslError] = ConfigError) -> None:
        self.kind, self._error = kind, error
        self._parts: dict[str, T] = {}
        self._homes: dict[str, str] = {}

    def __getitem__(self, name: str) -> T:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, name: str) -> Callable[[P], P]:
        """A decorator that gives a part its name; the module that calls it is the part's home.

        Returns:
            The decorator, which returns the part as it is.

        Raises:
            ConfigError: the name is another part's.
        """
        home = sys._getframe(1).f_globals["__name__"]

        def put(part: P) -> P:
            # A module that is loaded again puts its parts again.
            if self._homes.get(name, home) != home or "." in name:
                raise ConfigError(
                    f"{self.kind} {name!r} of {home}: accepted: a name without dots that is not taken "
                    f"({', '.join(self._parts)})"
                )
            self._parts[name], self._homes[name] = cast(T, part), home
            return part

        return put

    def find(self, name: object, what: str = "") -> T:
        """The part of a name.

        Args:
            name: a name in this registry, or ``package.attribute``.
            what: what to call it in an error, e.g. its key; the kind, if left out.

        Returns:
            The part, as it was added, or as its module has it.

        Raises:
            RslError: there is none, or it cannot be imported; of the registry's class.
        """
        if isinstance(name, str) and name in self._parts:
            return self._parts[name]
        if isinstance(name, str) and "." in name:
            return load(name, what or self.kind, self._error)
        raise self._error(one_of(what or self.kind, name, self._parts))

    def origin(self, name: str, arguments: Mapping[str, Any] | None = None) -> Origin | None:
        """Where the part of a name comes from; None if it ships.

        Args:
            name: of a part that `find` finds.
            arguments: what it is made with, numbers, texts, lists and mappings of them.

        Returns:
            Name, fingerprint and arguments, which make a run another when they change.

        Raises:
            ConfigError: its source cannot be read, or the arguments cannot be written down.
        """
        home = self._homes.get(name, name.rpartition(".")[0])
        if home.partition(".")[0] == _OURS:
            return None
        part = self.find(name)
        what = f"{self.kind} {name}"
        return Origin(
            qualified(part) or (name if "." in name else f"{home}:{name}"),
            _fingerprint(what, home, part),
            plain_arguments(what, arguments or {}),
        )


def is_ours(part: object) -> bool:
    """Whether a class, a function or an object of a class ships."""
    home = getattr(part, "__module__", None) or type(part).__module__
    return home.partition(".")[0] == _OURS


def plain_arguments(what: str, arguments: object) -> dict[str, Any]:
    """The arguments of a part, if they are a mapping that a file can hold and a worker can be sent.

    Returns:
        A copy that holds nothing but what JSON knows.

    Raises:
        ConfigError: they are not.
    """
    try:
        if isinstance(arguments, Mapping):
            return json.loads(json.dumps(dict(arguments), allow_nan=False))
    except (TypeError, ValueError):
        pass
    raise ConfigError(
        f"{what}: arguments {arguments!r}; accepted: a mapping of finite numbers, texts, lists and mappings, "
        "e.g. {n: 100}"
    )


def load(target: object, what: str, error: type[RslError] = ConfigError) -> Any:
    """What ``package.attribute`` stands for, imported from the current folder or from where Python looks.

    Args:
        target: the name.
        what: what to call it in an error, e.g. its key.
        error: class of what is raised.

    Returns:
        Whatever the attribute is.

    Raises:
        RslError: of that class; it cannot be imported, or has no such attribute.
    """
    home, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    if not home or not name:
        raise error(f"{what}={target}; accepted: package.attribute, e.g. mine.part")
    module = _imported(home, f"{what}={target}", error)
    if not hasattr(module, name):
        raise error(f"{what}={target}: {home} has no {name}{_near(name, module)}")
    return getattr(module, name)


def load_plugins(modules: object) -> None:
    """Import the modules that hold a user's parts: those listed, and those of installed entry points.

    Args:
        modules: names, or None.

    Raises:
        ConfigError: not a list of names, or one that cannot be imported.
    """
    names = [] if modules is None else [modules] if isinstance(modules, str) else modules
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"plugins={modules!r}; accepted: null or a list of modules, e.g. plugins=[mine]")
    for name, module in _entries(tuple((place, _changed(place)) for place in sys.path)):
        _imported(module, f"entry point {name} of group rsl_cli.plugins", ConfigError)
    for name in names:
        _imported(name, f"plugins={name}", ConfigError)


@lru_cache(maxsize=1)
def _entries(_: tuple[tuple[str, int], ...]) -> list[tuple[str, str]]:
    """Name and module of installed entry points; looked up again when something was installed where Python looks."""
    return [(entry.name, entry.module) for entry in metadata.entry_points(group="rsl_cli.plugins")]


def _changed(place: str) -> int:
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:
        return 0


def _imported(name: str, where: str, error: type[RslError]) -> ModuleType:
    # Last, so that nothing there hides what is installed; kept, since parts may import more when they are called.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    except RslError as found:
        raise error(f"{where}: {found}") from found
    except RAISED as found:
        raise error(
            f"{where}: cannot import {name}: {type(found).__name__}: {first_line(found)}; it is looked for in the "
            "current folder and where Python looks"
        ) from found


def qualified(part: object) -> str | None:
    """The one name that a class or a function has wherever it is named from, if it leads back to it."""
    home, name = getattr(part, "__module__", None), getattr(part, "__qualname__", "")
    return f"{home}.{name}" if name and getattr(sys.modules.get(str(home)), name, None) is part else None


def _near(name: str, module: ModuleType) -> str:
    public = [key for key, value in vars(module).items() if not key.startswith("_") and not inspect.ismodule(value)]
    return nearest(name, public) or (f"; it has {', '.join(public[:8])}" if public else "")


_sources: dict[str, tuple[object, bytes]] = {}
"""What was read of a module when it was first asked for, and its spec then: a module loaded again has another."""


def _source(module: ModuleType) -> bytes | None:
    name, spec = module.__name__, module.__spec__
    if name not in _sources or _sources[name][0] is not spec:
        try:
            content = Path(getattr(spec, "origin", None) or "").read_bytes()
        except OSError:
            return None
        # A checkout may end its lines otherwise on another machine.
        _sources[name] = (spec, content.replace(b"\r\n", b"\n"))
    return _sources[name][1]


def _fingerprint(what: str, home: str, part: object) -> str:
    """Hash a part's module and those of the user's own that it reaches; of what is installed, that module alone."""
    names = [home, getattr(part, "__module__", None) or type(part).__module__]
    todo = [sys.modules[name] for name in dict.fromkeys(names) if name in sys.modules]
    seen: dict[str, bytes] = {}
    while todo:
        module = todo.pop()
        if module.__name__ in seen or module.__name__.partition(".")[0] == _OURS:
            continue
        content = _source(module)
        if content is None:
            if module.__name__ == home:
                raise ConfigError(f"{what}: {home} has no source file to tell versions apart; put it into a module")
            continue
        seen[module.__name__] = content
        todo += [one for one in _named_in(module) if _is_own(one) and _is_own(module)]
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(name.encode() + b"\0" + seen[name] + b"\0")
    return digest.hexdigest()[:16]


def _named_in(module: ModuleType) -> list[ModuleType]:
    """Modules that a module's names stand for or come from."""
    names = {
        value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        for value in list(vars(module).values())
    }
    return [sys.modules[name] for name in names if isinstance(name, str) and name in sys.modules]


def _is_own(module: ModuleType) -> bool:
    """Whether a module is the user's: neither Python's nor installed."""
    origin = getattr(module.__spec__, "origin", None)
    return bool(origin) and Path(origin).is_file() and not _is_installed(origin)


@cache
def _is_installed(origin: str) -> bool:
    paths = sysconfig.get_paths()
    places = [Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    parents = Path(origin).resolve().parents
    names = {parent.name for parent in parents}
    return any(place in parents for place in places) or bool({"site-packages", "dist-packages"} & names)
