"""What ``rsl run --help`` prints, from the configuration's own files, and the reference, from the declarations.

That both say the same is tested.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsl_cli.configuration import config_directory

if TYPE_CHECKING:
    from rsl_cli.keys import Keys
    from rsl_cli.registry import Registry

_KEY = re.compile(r"( *)([\w.]+): *(.*?)(?: +# (.*))?")
_HEAD = """rsl run: train every lift of a study, then report. The same line again resumes it.

  rsl run base=mlp lift=16..1024 [group=option] [key=value] [--first] [-m ...]

Groups and their options (group=option):
"""
_TAIL = """
Parts of your own, wherever a name is asked for: package.attribute, imported from the current folder too.
Also: --first (one run alone, to see that it works) | trainer=adam --help (the keys of a group's other options) |
  --cfg job | --info | --config-dir DIR | -m (one study for each value) | --debug (tracebacks)"""


def run_help(words: Sequence[str], directories: Sequence[Path]) -> str:
    """The help text.

    Args:
        words: of the line; ``group=option`` chooses whose keys are listed.
        directories: with configuration, the user's before the shipped one.

    Returns:
        Lines without a final newline.
    """
    options: dict[str, dict[str, Path]] = {}
    for directory in reversed(directories):
        for path in sorted(directory.glob("*/*.yaml")):
            options.setdefault(path.parent.name, {})[path.stem] = path
    root = directories[-1] / "config.yaml"
    chosen = dict(re.findall(r"^  - (\w+): (\w+)", root.read_text(encoding="utf-8"), re.MULTILINE))
    chosen |= {key: value for key, _, value in (word.partition("=") for word in words) if value in options.get(key, {})}
    lines = [_HEAD.rstrip("\n")]
    lines += [f"  {group}: {', '.join(known)}" for group, known in sorted(options.items())]
    lines += ["", "Keys, with their defaults (key=value):", *_lines(root, "")]
    for group, option in chosen.items():
        if option in options.get(group, {}):
            about = _about(options[group][option])
            lines += ["", f"{group}={option}" + (f": {about}" if about else "")]
            lines += _lines(options[group][option], f"{group}.")
    return "\n".join([*lines, _TAIL])


def keys_of_file(path: Path) -> dict[str, tuple[str, str]]:
    """What a file of the configuration says of each key: its value as it is written, and what it means."""
    found: dict[str, tuple[str, str]] = {}
    parents: list[str] = []
    last = ""
    for line in path.read_text(encoding="utf-8").split("\nhydra:")[0].splitlines():
        more = re.fullmatch(r" {8,}# (.*)", line)
        match = _KEY.fullmatch(line)
        if more and last:
            found[last] = (found[last][0], f"{found[last][1]} {more[1]}")
        elif match:
            indent, key, value, meaning = match.groups()
            parents = [*parents[: len(indent) // 2], key]
            if value and parents[0] not in ("defaults", "name", "kind", "vertices", "edges"):
                last = ".".join(parents)
                found[last] = (value, meaning or "")
    return found


def _about(path: Path) -> str:
    """The comment at a file's head."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line[2:] for line in lines[: next((i for i, line in enumerate(lines) if line[:2] != "# "), len(lines))]]
    return " ".join(head)


def _lines(path: Path, prefix: str) -> Iterator[str]:
    """``key=value`` and what it means, for every key of a file."""
    for key, (value, meaning) in keys_of_file(path).items():
        yield f"  {f'{prefix}{key}={value}':<32} {meaning}".rstrip()


def declared() -> "dict[tuple[str, str], Keys]":
    """Every declaration of keys by group and option; those of a study itself by two empty texts."""
    from rsl_cli.data.load import declared_datasets
    from rsl_cli.diagnostics.tangent import TANGENT
    from rsl_cli.liftings import LIFTINGS, OWN
    from rsl_cli.parts import settings_of
    from rsl_cli.study.diagnostics import DIAGNOSTICS
    from rsl_cli.study.executor import EXECUTORS
    from rsl_cli.study.keys import LINE, STUDY
    from rsl_cli.train.trainers import TRAINERS

    tangent = {f"tangent.{key}": spec for key, spec in TANGENT.items()}
    diagnostics = {
        path.stem: {**DIAGNOSTICS, **tangent} for path in sorted((config_directory() / "theory").glob("*.yaml"))
    }
    laws = {name: settings_of(part) if isinstance(part, type) else OWN for name, part in LIFTINGS.items()}
    groups: dict[str, Mapping[str, Keys]] = {
        "lifting": laws,
        "dataset": declared_datasets(),
        "trainer": TRAINERS,
        "executor": {name: kind.declared() for name, kind in EXECUTORS.items()},
        "theory": diagnostics,
    }
    study: dict[tuple[str, str], Keys] = {("", ""): {**STUDY, **LINE}}
    return study | {(group, option): keys for group, options in groups.items() for option, keys in options.items()}


_SAID = {
    "always": "yes",
    "changed": "unless at its default",
    "horizon": "no: says how far runs are carried",
    "never": "no",
}


def reference() -> str:
    """The configuration's reference in Markdown: every key with its type, range, default and meaning; every part.

    A key that belongs to a run's identity makes other runs when it changes; others do not.

    Returns:
        A page of Markdown.
    """
    from rsl_cli.graph_config import EDGE, INIT, VERTEX
    from rsl_cli.parts import settings_of

    lines = ["# Configuration reference", "", "Every key can be set on a line of `rsl run`, as `key=value`.", ""]
    seen = ""
    for (group, option), keys in declared().items():
        if group != seen:
            lines += [f"## `{group}`", ""]
            seen = group
        path = config_directory() / group / f"{option}.yaml" if group else config_directory() / "config.yaml"
        lines += [f"### `{group}={option}`" if group else "## A study", "", _about(path), ""]
        written = keys_of_file(path)
        lines += ["| key | default | accepted | meaning | part of a run's identity |", "|---|---|---|---|---|"]
        for key, spec in keys.items():
            default = written[key][0] if key in written else _shown(spec.default)
            cells = (f"`{f'{group}.' * bool(group)}{key}`", f"`{default}`", spec.accepted, spec.help)
            lines.append(_row(*cells, _SAID[spec.identity]))
        lines.append("")
    for title, keys in {
        "Keys of a vertex": VERTEX,
        "Keys of an edge": EDGE,
        "Keys of `init`, `bias_init`": INIT,
    }.items():
        lines += [f"## {title}", "", "| key | default | accepted | meaning |", "|---|---|---|---|"]
        lines += [_row(f"`{key}`", f"`{_shown(spec.default)}`", spec.accepted, spec.help) for key, spec in keys.items()]
        lines.append("")
    for title, registry in _registries().items():
        lines += [f"## {title}", "", "| name | what it is | its keys |", "|---|---|---|"]
        lines += [_row(f"`{name}`", _first_line(part), _fields(part)) for name, part in registry.items()]
        lines.append("")
        keys = [(name, *item) for name, part in registry.items() for item in settings_of(part).items()]
        lines += ["| of | key | default | accepted | meaning |", "|---|---|---|---|---|"] if keys else []
        for name, key, spec in keys:
            lines.append(_row(f"`{name}`", f"`{key}`", f"`{_shown(spec.default)}`", spec.accepted, spec.help))
        lines.append("")
    return "\n".join(lines)


def _registries() -> "dict[str, Registry[Any]]":
    from rsl_cli.activations import ACTIVATIONS
    from rsl_cli.diagnostics.probes import PROBES
    from rsl_cli.laws import LAWS
    from rsl_cli.liftings import LIFTINGS
    from rsl_cli.maps import EDGE_MAPS
    from rsl_cli.report.figures import FIGURES
    from rsl_cli.train.losses import LOSSES
    from rsl_cli.train.optimizers import OPTIMIZERS
    from rsl_cli.vertex_maps import BIASES, COMBINES, NORMS, POOLS

    return {
        "Edge maps (`map`)": EDGE_MAPS,
        "Activations (`activation`)": ACTIVATIONS,
        "Combinations of slots (`combine`)": COMBINES,
        "Biases (`bias`; `true` is `number`)": BIASES,
        "Laws at the start (`init`, `bias_init`)": LAWS,
        "Liftings (`lifting`)": LIFTINGS,
        "Norms (`norm`)": NORMS,
        "Pools (`pool`)": POOLS,
        "Losses (`loss`)": LOSSES,
        "Optimisers (`trainer.name`)": OPTIMIZERS,
        "Probes (`theory.probes`)": PROBES,
        "Figures (`figures`, of your own)": FIGURES,
    }


def _row(*cells: str) -> str:
    # Outside of code, what stands in angles would be taken for a tag of HTML.
    kept = [cell if cell.startswith("`") else cell.replace("<", "&lt;") for cell in cells]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in kept) + " |"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list | tuple) else str(value)


def _made(part: Any) -> Any:
    """The class behind a factory that has some of its arguments already."""
    return getattr(part, "func", part)


def _first_line(part: Any) -> str:
    """A part's title, or the first line of its docstring, of its class where it is an object; torch's say nothing."""
    if hasattr(part, "title"):
        return part.title
    made = _made(part)
    kind = made if hasattr(made, "__name__") else type(made)
    ours = (kind.__module__ or "").startswith("rsl_cli")
    return (kind.__doc__ or "").strip().partition("\n")[0] if ours else ""


def _fields(part: Any) -> str:
    """The keys of a part, with their defaults; what is made already has none."""
    made, given = _made(part), len(getattr(part, "args", ()))
    if not isinstance(made, type) or not is_dataclass(made):
        return ""
    known = fields(made)[given:]
    return ", ".join(f"{one.name}" + ("" if one.default is MISSING else f"={_shown(one.default)}") for one in known)
