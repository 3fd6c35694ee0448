"""From the mapping of a base graph's YAML file to plain vertices and edges: repetition written out.

A vertex or an edge may carry ``for: {i: "1..depth-1"}``: it stands for one vertex or edge per value of ``i``, with
``{i}`` and sums such as ``{i+1}`` in its names replaced. Other whole numbers beside ``vertices`` and ``edges`` (here
``depth``) are constants for it, and so keys a command line can set: ``base.depth=6``. Several indices nest, the later
ones may use the earlier: ``for: {j: "2..depth", i: "1..j-1"}`` joins every pair.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rsl_cli.errors import GraphError

_MOST = 10_000
"""Vertices or edges one ``for`` may stand for: far beyond any base graph, small enough to stop a slip."""


def expand(mapping: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[Any]]:
    """Write out every ``for`` of a base graph's configuration.

    Returns:
        name, vertices by name, list of edges; none has a ``for`` left.

    Raises:
        GraphError: no mapping, no vertices or edges, a doubled vertex, or a ``for`` that cannot be read.
    """
    if not isinstance(mapping, Mapping):
        raise GraphError(f"base graph: got {type(mapping).__name__}; write a mapping with name, vertices and edges")
    vertices, edges = mapping.get("vertices"), mapping.get("edges")
    if not isinstance(vertices, Mapping) or not vertices:
        raise GraphError("base graph: no vertices; write vertices: {x: {kind: input}, ...}")
    if not isinstance(edges, list | tuple) or not edges:
        raise GraphError("base graph: no edges; write edges: [{source: x, target: y, map: linear}, ...]")
    constants = _constants(mapping)
    written: dict[str, Any] = {}
    for pattern, config in vertices.items():
        for values in _each(config, constants, f"vertex {pattern}"):
            name = _fill(str(pattern), values, f"vertex {pattern}")
            if name in written:
                raise GraphError(f"vertex {name}: written twice; rename one of them or narrow its for")
            written[name] = _without_for(config)
    joined = []
    for config in edges:
        where = f"edge {config.get('source')}->{config.get('target')}" if isinstance(config, Mapping) else "edge"
        for values in _each(config, constants, where):
            edge = _without_for(config)
            if isinstance(edge, dict):
                for key in ("source", "target", "slot"):
                    if isinstance(edge.get(key), str):
                        edge[key] = _fill(edge[key], values, where)
            joined.append(edge)
    return str(mapping.get("name", "unnamed")), written, joined


def _constants(mapping: Mapping[str, Any]) -> dict[str, int]:
    constants = {key: value for key, value in mapping.items() if key not in ("name", "vertices", "edges")}
    for key, value in constants.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise GraphError(f"base.{key}={value!r}: accepted beside name, vertices and edges: whole numbers from 1")
    return constants


def _each(config: Any, constants: Mapping[str, int], where: str) -> Iterator[dict[str, int]]:
    ranges = config.get("for") if isinstance(config, Mapping) else None
    if ranges is None:
        yield dict(constants)
        return
    if not isinstance(ranges, Mapping) or not ranges:
        raise GraphError(f'{where}: for={ranges!r}; write for: {{i: "1..depth"}}')
    for count, values in enumerate(_nested(list(ranges.items()), dict(constants), where)):
        if count >= _MOST:
            raise GraphError(f"{where}: for={dict(ranges)} stands for more than {_MOST}; narrow it")
        yield values


def _nested(ranges: list[tuple[str, Any]], values: dict[str, int], where: str) -> Iterator[dict[str, int]]:
    if not ranges:
        yield values
        return
    (index, written), *inner = ranges
    parts = str(written).split("..")
    if len(parts) != 2 or not re.fullmatch(r"[A-Za-z_]\w*", str(index)):
        raise GraphError(f'{where}: for {index}={written!r}; write a range such as "1..depth-1"')
    first, last = (_value(part, values, where) for part in parts)
    for value in range(first, last + 1):
        yield from _nested(inner, values | {index: value}, where)


def _fill(pattern: str, values: Mapping[str, int], where: str) -> str:
    return re.sub(r"\{([^{}]*)\}", lambda match: str(_value(match[1], values, where)), pattern)


def _value(text: str, values: Mapping[str, int], where: str) -> int:
    terms = re.findall(r"([+-]?)\s*(\w+)", text)
    if not terms or re.sub(r"[\w\s+-]", "", text) or "".join("".join(term) for term in terms) != text.replace(" ", ""):
        raise GraphError(f"{where}: cannot read {text!r}; write whole numbers and names joined by + and -")
    total = 0
    for sign, term in terms:
        if not term.isdigit() and term not in values:
            raise GraphError(f"{where}: unknown name {term!r} in {text!r}; there are {', '.join(values) or 'none'}")
        number = int(term) if term.isdigit() else values[term]
        total += -number if sign == "-" else number
    return total


def _without_for(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    return {key: value for key, value in config.items() if key != "for"}
