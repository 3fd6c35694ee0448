"""From the words of a command line to plain configurations: the one place that knows Hydra.

Hydra's grammar takes values apart at commas, brackets, quotes and letters it does not know. What a user names, a file
or a column, is handed to it in quotes, whatever it holds.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rsl_cli.errors import ConfigError, RslError, nearest

_OF_FILES = ("base.name", "base.target")
"""Keys that take text and that no declaration knows: a base graph says in its own file which it has."""
_VALUED = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c", "--package", "-p")
TARGETS = {"base": "module", "dataset": "target", "executor": "target", "lifting": "target", "trainer": "target"}
"""The option of each group that takes a user's own part."""
_MOST_ENTRIES = 100_000
_ITEMS = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,]+""")
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")
_ENVIRONMENT = re.compile(r"\s*\$\{oc\.env:([^}]*)\}\s*")


@dataclass(frozen=True)
class Composed:
    """One configuration and what its user should know about it.

    Args:
        config: a study's, plain.
        notes: lines for the plan.
        words: the overrides behind it, as typed, or of a multirun those that make this one.
        until: the goal, if the study is to go on by itself.
        budget: what it may spend on that.
        tracker: what is told of its runs.
        texts: for each key whose number came from the environment as text, what was written.
    """

    config: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    until: Any = None
    budget: Any = None
    tracker: Any = None
    texts: Mapping[str, str] = field(default_factory=dict)

    def explained(self, error: ConfigError) -> ConfigError:
        """The error, with the remedy where it is about a number that the environment gave as text."""
        for key, written in self.texts.items():
            if key in str(error):
                return ConfigError(f"{error}; {written} is text: write ${{oc.decode:{written}}} for a number")
        return error


def config_directory() -> Path:
    """Where the shipped configuration lies: in the wheel inside the package, in a checkout beside it."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def composed(overrides: Sequence[str], config_dir: Path | None = None) -> Composed:
    """Compose a study's configuration without running it.

    Args:
        overrides: as on the command line, ``["base=mlp", "lift=16..64"]``.
        config_dir: a folder of configuration groups that stand before the shipped ones.

    Returns:
        The configuration, with what its user should know about it.

    Raises:
        ConfigError: what Hydra could not compose, in one line.
    """
    return _once(overrides, config_dir)[0]


def _once(overrides: Sequence[str], config_dir: Path | None) -> tuple[Composed, bool]:
    """A configuration, and whether it asks for a multirun."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    _refuse_twice(overrides)
    with _first(config_dir), _in_one_line(), initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = hydra_compose("config", [quoted(word) for word in overrides], return_hydra_config=True)
        choices, several = dict(config.hydra.runtime.choices), config.hydra.mode == RunMode.MULTIRUN
        OmegaConf.set_struct(config, False)
        del config["hydra"]
        return _composed(config, choices, config_dir), several


def compose_line(arguments: Sequence[str]) -> list[Composed]:
    """Compose what a line of ``rsl run`` asks for, all of a multirun; Hydra answers ``--help`` and ``--cfg`` itself.

    Args:
        arguments: overrides and flags of Hydra, in any order.

    Returns:
        Each configuration that the line asks for, in the order of its values.

    Raises:
        ConfigError: what Hydra could not compose, in one line.
        SystemExit: Hydra's, from ``--help`` and wrong flags.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    overrides, flags = split_flags(arguments)
    _refuse_twice(overrides)
    config_dir, flags = _taken(flags, "--config-dir", "-cd")
    if not flags:
        # Hydra composes twice to find out whether a line is a multirun; and answers better what it cannot compose.
        with suppress(ConfigError):
            one, several = _once(overrides, config_dir)
            if not several:
                return [replace(one, words=list(overrides))]
    several = any(flag in ("-m", "--multirun") for flag in flags)
    found: list[Composed] = []

    def task(config: Any) -> None:
        settled = HydraConfig.get()
        one = _composed(config, settled.runtime.choices, config_dir)
        swept = settled.mode == RunMode.MULTIRUN
        found.append(replace(one, words=list(settled.overrides.task) if swept else list(overrides)))

    # A multirun writes its own notes somewhere; study.json says all that they say.
    with TemporaryDirectory() as scratch, _first(config_dir), _in_one_line():
        words = [*(quoted(word, several) for word in overrides), f"hydra.sweep.dir={scratch}", *flags]
        with _given(words):
            hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")(task)()
    return found


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part overrides from flags and their values: Hydra takes overrides in one run only."""
    overrides, flags, words = [], [], iter(arguments)
    for word in words:
        if word in _VALUED:
            flags += [word, *([following] if (following := next(words, None)) is not None else [])]
        elif not word.startswith("-") and ("=" in word or word.startswith("~")):
            overrides.append(word)
        else:
            flags.append(word)
    return overrides, flags


def own_part(group: str, name: str) -> tuple[str, str]:
    """The words that make ``package.attribute`` a study's base, dataset, lifting, trainer or executor."""
    option = "torch" if group == "trainer" and name.startswith("torch.") else TARGETS[group]
    return f"{group}={option}", f"{group}.target={name}"


def _refuse_twice(overrides: Sequence[str]) -> None:
    """Hydra lets the last of several values of one key win without a word."""
    given: dict[str, str] = {}
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        if given.setdefault(key, value) != value:
            both = f"{given[key]},{value}"
            raise ConfigError(f"{key} is given twice, {both}; choose one, or write -m {key}={both} for a study each")


def quoted(override: str, several: bool = False) -> str:
    """An override as Hydra reads it to the very text that was written, where its key takes text.

    Args:
        override: ``key=value``; values in quotes of their own and interpolations mean what they mean to Hydra.
        several: whether commas part the values of a multirun.

    Returns:
        The override to hand to Hydra.
    """
    key, equals, value = override.partition("=")
    name = key.lstrip("+")
    if re.fullmatch(r"\$\{.*\}", value):
        return f"{key}={_quote(value)}"  # Outside of quotes Hydra reads no interpolation within another.
    kind = _text_keys().get(name)
    if not equals or kind is None or _QUOTED.fullmatch(value):
        return override
    if kind == "sweep":
        if re.fullmatch(r"[\w.-]+|[\[(].*|null", value) and value.isascii():
            return override
        parts = value.split(",")
        return f"{key}=[{','.join(map(_quote, parts))}]" if len(parts) > 1 else f"{key}={_quote(value)}"
    if kind == "list" and value != "null":
        inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
        return f"{key}=[{','.join(map(_item, _items(inner)))}]" if "],[" not in inner else override
    # A column may be called null; whatever else is, is nothing.
    bare = () if name == "dataset.target" else ("null",)
    values = _items(value) if several and "," in value else [value]
    return f"{key}={','.join(_item(one, bare) for one in values)}"


def _items(text: str) -> list[str]:
    return [item.strip() for item in _ITEMS.findall(text)]


def _item(text: str, bare: Sequence[str] = ()) -> str:
    return text if _QUOTED.fullmatch(text) or text in bare else _quote(text)


def _quote(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


@cache
def _text_keys() -> dict[str, str]:
    """Keys whose values are text, lists of it or sweeps, by their declarations."""
    from rsl_cli.data.load import declared_datasets
    from rsl_cli.study.executor import EXECUTORS
    from rsl_cli.study.keys import LINE, STUDY

    parts = [("", {**STUDY, **LINE}), *(("executor.", kind.keys) for kind in EXECUTORS.values())]
    parts += [("dataset.", keys) for keys in declared_datasets().values()]
    told = {f"{group}{key}": spec.text for group, keys in parts for key, spec in keys.items() if spec.text}
    return {**dict.fromkeys(_OF_FILES, "text"), **told}


def _composed(config: Any, choices: Mapping[str, Any], config_dir: Path | None) -> Composed:
    from omegaconf import OmegaConf

    from rsl_cli.study.keys import LINE

    raw, plain = (OmegaConf.to_container(config, resolve=resolve) for resolve in (False, True))
    assert isinstance(raw, dict) and isinstance(plain, dict)
    orders: dict[str, Any] = {key: plain.get(key) for key in LINE}
    kept = {str(key): value for key, value in plain.items() if key not in ("experiment", *LINE)}
    notes, texts = list(_shadowing(choices, config_dir)), dict(_numbers_as_text(raw, kept))
    return replace(Composed(kept, notes, texts=texts), **orders)


def _shadowing(choices: Mapping[str, Any], config_dir: Path | None) -> Iterator[str]:
    """What of a user's folder stands before something shipped."""
    if config_dir is None:
        return
    for words, name in [
        ("the keys are those of", "config"),
        *((f"{g}={o} is", f"{g}/{o}") for g, o in choices.items()),
    ]:
        own = config_dir / f"{name}.yaml"
        if own.is_file() and (config_directory() / f"{name}.yaml").is_file():
            yield f"{words} {own}, which stands before the shipped one"


def _numbers_as_text(raw: Any, plain: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(raw, dict) and isinstance(plain, dict):
        for key, value in plain.items():
            yield from _numbers_as_text(raw.get(key), value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(raw, str) and isinstance(plain, str) and _ENVIRONMENT.fullmatch(raw):
        yield prefix, raw.strip()


def _taken(flags: Sequence[str], *names: str) -> tuple[Path | None, list[str]]:
    """Take a flag that names a folder out of a line.

    Returns:
        The folder, None if no flag names one; and the other flags.

    Raises:
        ConfigError: there is no such folder.
    """
    kept, folder, words = [], None, iter(flags)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in names:
            kept.append(word)
            continue
        folder = Path(value if equals else next(words, ""))
        if not folder.is_dir():
            raise ConfigError(f"{name} {str(folder)!r}: there is no such folder")
    return folder, kept


@contextmanager
def _first(folder: Path | None) -> Iterator[None]:
    """Let a user's folder stand before the shipped configuration."""
    from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    if folder is None:
        yield
        return
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {str(folder)!r}: there is no such folder")
    for path in folder.rglob("*.yaml"):
        _refuse_bomb(path)
    wanted: list[Path] = [folder.resolve()]

    class UsersFirst(SearchPathPlugin):
        """Hydra never forgets a plugin: this one does nothing once its line has been read."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for path in wanted:
                search_path.prepend("user", f"file://{path}", SearchPathQuery(provider="main"))

    Plugins.instance().register(UsersFirst)
    try:
        yield
    finally:
        wanted.clear()


def _refuse_bomb(path: Path) -> None:
    """Refuse a file whose aliases make more entries than any configuration has: OmegaConf writes each of them out."""
    import yaml

    sizes: dict[int, int] = {}

    def entries(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = _MOST_ENTRIES + 1  # One that holds itself never ends.
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            inner = 0 if isinstance(node, yaml.ScalarNode) else sum(map(entries, parts))
            sizes[id(node)] = min(1 + inner, _MOST_ENTRIES + 1)
        return sizes[id(node)]

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return  # Hydra names what it cannot read, if it is asked for at all.
    if root is not None and entries(root) > _MOST_ENTRIES:
        raise ConfigError(f"{path}: its aliases make over {_MOST_ENTRIES:,} entries; write out what is meant")


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Make what Hydra refuses an error of one line; what nobody expected passes."""
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except RslError:
        raise
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise ConfigError(_hydra_line(error)) from error


@contextmanager
def _given(argv: list[str]) -> Iterator[None]:
    """Give Hydra, which reads sys.argv, the arguments of this call, and its exceptions to us."""
    before, flag = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["rsl run", *argv], "1"
    try:
        yield
    finally:
        sys.argv = before
        if flag is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = flag


def _hydra_line(error: Exception) -> str:
    """Hydra's message as one line, with the nearest name that would have been accepted."""
    text = re.sub(r"\s*\n\s*", "; ", str(error).strip())
    text = re.sub(r";? ?(See https\S+.*|Config search path:.*|Set the environment variable.*)", "", text)
    options = getattr(error, "options", None)
    missing = getattr(error, "missing_cfg_file", None)
    if missing:
        launcher = str(missing).startswith("hydra/launcher/")
        group, _, name = str(missing).rpartition("/") if launcher else str(missing).partition("/")
        listed = f"; available: {', '.join(options)}" if options else ""
        remedy = "; rsl has processes of its own: executor=process" if launcher else ""
        if group == "dataset" and name.endswith((".csv", ".parquet", ".npz")):
            remedy = f"; a file is dataset={Path(name).suffix[1:]} dataset.path={name}"
        elif group in TARGETS and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
            remedy = f"; a part by its name is {' '.join(own_part(group, name))}"
        elif "/" in name or name.endswith((".yaml", ".yml")):
            remedy = f"; {group}={Path(name).stem} --config-dir=DIR takes a file DIR/{group}/{Path(name).stem}.yaml"
        return f"there is no {group}={name}{listed}{nearest(name, options or [])}{remedy}"
    key = re.search(r"Could not (?:override|append|delete)[^']*'([^']+)'", text)
    if not key:
        override = getattr(error, "override", None)
        return f"cannot read '{override}': {text}" if override else text
    prefix, _, name = key[1].rpartition(".")
    owners = [path.stem for path in sorted((config_directory() / prefix).glob("*.yaml")) if name in _content(path)]
    if prefix and owners:
        return f"key '{key[1]}' does not belong to the chosen {prefix}; it belongs to {prefix}={', '.join(owners)}"
    known = [full for full in known_keys() if full.rpartition(".")[0] == prefix]
    if not known:
        return f"key '{key[1]}' is not known; `rsl run --cfg job` shows the keys there are"
    return f"key '{key[1]}' is not known; accepted: {', '.join(known)}{nearest(key[1], known)}"


def _content(path: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def known_keys() -> list[str]:
    """Every key of the shipped configuration, groups among them, sorted."""
    root = config_directory()
    known = {path.name for path in root.iterdir() if path.is_dir()}
    for path in root.rglob("*.yaml"):
        prefix = "" if path.parent == root else f"{path.parent.name}."
        known |= {f"{prefix}{key}" for key in _content(path) if key not in ("defaults", "hydra")}
    return sorted(known)
