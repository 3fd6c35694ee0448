"""What ``rsl run --help`` prints: groups, options, and a line on every key, read from the configuration's own files."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_KEY = re.compile(r"( *)([\w.]+): *(.*?)(?: +# (.*))?")
_HEAD = """rsl run: train every lift of a study, then report. The same line again resumes it.

  rsl run base=mlp lift=16..1024 [group=option] [key=value] [-m ...]

Groups and their options (group=option):
"""
_TAIL = """
Parts of your own, wherever a name is asked for: package.attribute, imported from the current folder too.
Also: trainer=adam --help (the keys of a group's other options) | --cfg job | --info | --config-dir DIR |
  -m (one study for each value) | --debug (tracebacks)"""


def run_help(words: Sequence[str], directories: Sequence[Path]) -> str:
    """The help text.

    Args:
        words: of the line; ``group=option`` chooses whose keys are listed.
        directories: with configuration, the user's before the shipped one.
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


def _about(path: Path) -> str:
    """The comment at a file's head."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line[2:] for line in lines[: next((i for i, line in enumerate(lines) if line[:2] != "# "), len(lines))]]
    return " ".join(head)


def _lines(path: Path, prefix: str) -> Iterator[str]:
    """``key=value`` and what it means, for every key of a file."""
    parents: list[str] = []
    for line in path.read_text(encoding="utf-8").split("\nhydra:")[0].splitlines():
        more = re.fullmatch(r" {8,}# (.*)", line)
        match = _KEY.fullmatch(line)
        if more:
            yield f"  {'':<32} {more[1]}"
        elif match:
            indent, key, value, meaning = match.groups()
            parents = [*parents[: len(indent) // 2], key]
            if value and parents[0] not in ("defaults", "name", "vertices", "edges"):
                shown = f"{prefix}{'.'.join(parents)}={value}"
                yield f"  {shown:<32} {meaning or ''}".rstrip()
