"""From the mapping of a base graph's YAML file to vertices and edges: keys checked, repetition written out.

Whether they form a graph at all is not known here.

A vertex or an edge may carry ``for: {i: "1..depth-1"}``: it stands for one vertex or edge per value of ``i``, with
``{i}`` and sums such as ``{i+1}`` in its names replaced. Other whole numbers beside ``vertices`` and ``edges`` (here
``depth``) are constants for it, and so keys a command line can set: ``base.depth=6``. Several indices nest, the later
ones may use the earlier: ``for: {j: "2..depth", i: "1..j-1"}`` joins every pair. Any value written ``"{...}"`` is the
whole number it stands for: ``kernel: "{kernel}"``.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rsl_cli.activations import ACTIVATIONS
from rsl_cli.contracts import check_activation, check_law
from rsl_cli.errors import GraphError, nearest
from rsl_cli.keys import Keys, choice, kept, read_keys, real
from rsl_cli.laws import LAWS, Law
from rsl_cli.liftings import edge_lifting
from rsl_cli.maps import edge_map
from rsl_cli.parts import make
from rsl_cli.registry import Origin, Registry
from rsl_cli.vertex_maps import BIASES, COMBINES, NORMS, POOLS, Combine, Stage, vertex_part
from rsl_cli.vertices import KINDS, Edge, Init, Vertex

_MOST = 10_000
"""Vertices or edges one ``for`` may stand for: far beyond any base graph, small enough to stop a slip."""
_LARGEST = {"vertices": 1000, "edges": 10_000}
"""Of a base graph. It is what is multiplied, and no lift of a larger one would fit."""
_DIGITS = 9


def read_graph(mapping: Mapping[str, Any]) -> tuple[str, dict[str, Vertex], tuple[Edge, ...]]:
    """Read the vertices and edges of a base graph's configuration.

    Returns:
        name, vertices by name, edges; both in the order written.

    Raises:
        GraphError: anything that cannot be read; the text names the vertex or the edge.
    """
    name, vertex_config, edge_config = expand(mapping)
    vertices = {key: _vertex(key, value) for key, value in vertex_config.items()}
    return name, vertices, tuple(_edge(value, vertices) for value in edge_config)


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
    if not isinstance(edges, Sequence) or isinstance(edges, str) or not edges:
        raise GraphError("base graph: no edges; write edges: [{source: x, target: y, map: linear}, ...]")
    constants = _constants(mapping)
    written: dict[str, Any] = {}
    for pattern, config in vertices.items():
        for values in _each(config, constants, f"vertex {pattern}"):
            name = _fill(_word("a vertex", pattern), values, f"vertex {pattern}")
            if name in written:
                raise GraphError(f"vertex {name}: written twice; rename one of them or narrow its for")
            written[name] = _numbers(_without_for(config), values, f"vertex {pattern}")
    joined = []
    for config in edges:
        where = f"edge {config.get('source')}->{config.get('target')}" if isinstance(config, Mapping) else "edge"
        for values in _each(config, constants, where):
            edge = _without_for(config)
            if isinstance(edge, dict):
                names = {key: edge.pop(key) for key in ("source", "target", "slot") if key in edge}
                filled = {k: _fill(v, values, where) if isinstance(v, str) else v for k, v in names.items()}
                edge = filled | _numbers(edge, values, where)
            joined.append(edge)
    for what, found in (("vertices", written), ("edges", joined)):
        if len(found) > _LARGEST[what]:
            raise GraphError(f"base graph: {len(found)} {what}; accepted: up to {_LARGEST[what]}")
    return str(mapping.get("name", "unnamed")), written, joined


def _vertex(name: str, config: Any) -> Vertex:
    where = f"vertex {name}"
    _name(where, "name", name)
    if not isinstance(config, Mapping):
        raise GraphError(f"{where}: got {config!r}; write a mapping such as {{kind: hidden, activation: tanh}}")
    read = read_keys(f"{where}: ", VERTEX, config, also=(), error=GraphError)
    kind, activation = read["kind"], read["activation"]
    origins: dict[str, Origin] = {}

    def part(key: str, known: Registry[Any], parent: type) -> Any:
        if read[key] is None and VERTEX[key].default is None:
            return None
        made, origin = vertex_part(key, read[key], known, parent)
        origins.update({key: origin} if origin is not None else {})
        return made

    try:
        function, origin = ACTIVATIONS.find(activation), ACTIVATIONS.origin(activation)
        if origin is not None:
            check_activation(function, activation)
            origins["activation"] = origin
        if isinstance(read["bias"], str) and BIASES.find(read["bias"]):
            origin = BIASES.origin(read["bias"])
            origins |= {} if origin is None else {"bias": origin}
        combine, norm, pool = part("combine", COMBINES, Combine), part("norm", NORMS, Stage), part("pool", POOLS, Stage)
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error
    if kind == "output" and activation != "identity":
        raise GraphError(
            f"{where}: activation '{activation}' on an output; the readout is linear, leave activation out"
        )
    if kind == "input" and len(config) > ("kind" in config):
        raise GraphError(f"{where}: an input vertex has only the key kind, got {', '.join(config)}")
    if kind != "hidden" and ("width" in config or "growth" in config):
        raise GraphError(f"{where}: width and growth belong to hidden vertices; an {kind} is not multiplied")
    if kind == "output" and (norm or pool):
        raise GraphError(f"{where}: norm and pool belong to hidden vertices; an output is a scalar")
    init = _init(where, "bias_init", read["bias_init"])
    return Vertex(
        name, kind, activation, combine, read["bias"], read["width"], read["growth"], init, norm, pool, origins
    )


def _edge(config: Any, vertices: Mapping[str, Vertex]) -> Edge:
    if not isinstance(config, Mapping) or "source" not in config or "target" not in config:
        raise GraphError(f"edge {config!r}: write a mapping with source, target and map")
    source, target = (_word(f"an edge's {end}", config[end]) for end in ("source", "target"))
    where = f"edge {source}->{target}"
    for end in (source, target):
        if end not in vertices:
            raise GraphError(
                f"{where}: unknown vertex '{end}'; there are {', '.join(vertices)}{nearest(end, vertices)}"
            )
    slot = config.get("slot")
    if slot is not None:
        _name(where, "slot", slot)
    options = {key: value for key, value in config.items() if key not in EDGE}
    if "map" not in config:
        slip = next((key for key in options if nearest(key, ["map"])), None)
        said = "no map; add one, e.g. map: scale" if slip is None else f"key '{slip}' is not known; did you mean 'map'?"
        raise GraphError(f"{where}: {said}")
    try:
        made, origin = edge_map(config["map"], options)
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error
    lifting = config.get("lifting")
    return Edge(
        source,
        target,
        config["map"],
        made,
        slot,
        None if lifting is None else edge_lifting(lifting, where),
        _init(where, "init", config.get("init")),
        origin,
    )


def _init(where: str, key: str, config: Any) -> Init:
    if config is None:
        return Init()
    if not isinstance(config, Mapping):
        raise GraphError(f"{where}: {key}={config!r}; write a mapping such as {{kind: normal, gain: 1.0}}")
    kind = config.get("kind", "normal")
    gain = read_keys(f"{where}: {key} ", INIT, {k: v for k, v in config.items() if k in INIT}, error=GraphError)["gain"]
    try:
        law, origin = make(
            f"{key} kind", LAWS, Law, kind, {k: v for k, v in config.items() if k not in ("kind", *INIT)}
        )
        if origin is not None:
            check_law(law)
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error
    return Init(kind, gain, law, origin)


def _check_bias(value: object) -> None:
    if not isinstance(value, bool | str):
        raise ValueError


VERTEX: Keys = {
    "kind": choice("hidden", *KINDS).about("input, hidden or output"),
    "activation": kept("identity", "an activation's name, or package.function", "tanh").about(
        "applied after combining the slots, the bias and the norm"
    ),
    "combine": kept("sum", "its name, or a mapping of kind and its own keys", "product").about(
        "what makes one sum of the slots"
    ),
    "bias": kept(False, f"true, false, {', '.join(BIASES)}, or package.function", "", _check_bias).about(
        "what each copy adds to its sums, trained; true: number"
    ),
    "width": real(1.0, 0, above=True).about("the fibre has width * degree^growth copies, rounded, at least one"),
    "growth": replace(real(1.0, 0), accepted="a number from 0 (a fixed fibre) upwards").about("see width"),
    "bias_init": kept(None, "null or a mapping", "{kind: normal, gain: 1.0}").about("law of the biases at the start"),
    "norm": kept(None, "null, its name, or a mapping of kind and its own keys", "rms")
    .of("changed")
    .about("applied before the activation"),
    "pool": kept(None, "null, its name, or a mapping of kind and its own keys", "max")
    .of("changed")
    .about("applied after the activation"),
}
"""Keys of a vertex."""

EDGE: Keys = {
    "source": kept(None, "a vertex", "x").about("needed: the vertex it comes from"),
    "target": kept(None, "a vertex", "h1").about("needed: the vertex it feeds"),
    "map": kept(None, "an edge map's name, or package.Class", "scale").about(
        "needed: how a copy acts on another; the map's own keys stand beside it"
    ),
    "slot": kept(None, "null or a name", "q").about("which argument of its target it feeds"),
    "lifting": kept(None, "null or a mapping", "{kind: dense}").about(
        "how its copies are joined; null: dense from the input and into the output, else the study's"
    ),
    "init": kept(None, "null or a mapping", "{kind: zeros}").about("law of its weights at the start"),
}
"""Keys of an edge beside its map's own."""

INIT: Keys = {"gain": real(1.0, 0, above=True).about("standard deviation, before the fan-in divides it")}
"""Keys of a law beside its kind and its own."""


def _name(where: str, key: str, value: object) -> None:
    # Arrows and brackets would let two edges share a name, and so their random streams.
    if not isinstance(value, str) or not re.fullmatch(r"\w[\w.-]*", value):
        raise GraphError(f"{where}: {key}={value!r}; accepted: letters, digits, _, . and -")


def _word(what: str, value: object) -> str:
    """A name as it was written, unless YAML has made something else of it."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise GraphError(
            f"{what} is named {value!r}: YAML reads on, off, yes, no, true, false, null and decimals as something else "
            "than words; put the name in quotes, e.g. 'on'"
        )
    return str(value)


Constant = int | float | str
"""What a base graph's own key may be: a whole number counts; decimals and words only stand where they are written."""


def _constants(mapping: Mapping[str, Any]) -> dict[str, Constant]:
    constants = {key: value for key, value in mapping.items() if key not in ("name", "vertices", "edges")}
    for key, value in constants.items():
        word = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.]*", value)
        count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not (word or count or (isinstance(value, float) and 0 < value < math.inf)):
            raise GraphError(
                f"base.{key}={value!r}: accepted beside name, vertices and edges: whole numbers from 1, decimals above "
                "0 and words"
            )
    return constants


def _each(config: Any, constants: Mapping[str, Constant], where: str) -> Iterator[dict[str, Constant]]:
    ranges = config.get("for") if isinstance(config, Mapping) else None
    if ranges is None:
        yield dict(constants)
        return
    if not isinstance(ranges, Mapping) or not ranges:
        raise GraphError(f'{where}: for={ranges!r}; write for: {{i: "1..depth"}}')
    yield from _nested(list(ranges.items()), dict(constants), where, itertools.count())


def _nested(
    ranges: list[tuple[str, Any]], values: dict[str, Constant], where: str, tried: Iterator[int]
) -> Iterator[dict[str, Constant]]:
    # Counted where nothing comes of it too: an empty range inside others is gone through as often as they say.
    if next(tried) > 2 * _MOST:
        raise GraphError(f"{where}: its for stands for more than {_MOST}, or tries as many; narrow it")
    if not ranges:
        yield values
        return
    (index, written), *inner = ranges
    parts = str(written).split("..")
    if len(parts) != 2 or not re.fullmatch(r"[A-Za-z_]\w*", str(index)):
        raise GraphError(f'{where}: for {index}={written!r}; write a range such as "1..depth-1"')
    first, last = (_value(part, values, where) for part in parts)
    if last - first >= _MOST:
        raise GraphError(f"{where}: for {index}={written!r} stands for more than {_MOST}; narrow it")
    for value in range(first, last + 1):
        yield from _nested(inner, values | {index: value}, where, tried)


def _fill(pattern: str, values: Mapping[str, Constant], where: str) -> str:
    return re.sub(r"\{([^{}]*)\}", lambda match: str(_value(match[1], values, where)), pattern)


def _numbers(config: Any, values: Mapping[str, Constant], where: str) -> Any:
    """The configuration with every value written ``"{...}"`` replaced by its number, or by the word of that name."""
    if isinstance(config, Mapping):
        return {key: _numbers(value, values, where) for key, value in config.items()}
    if isinstance(config, str) and config.startswith("{") and config.endswith("}"):
        alone = values.get(config[1:-1].strip())
        if isinstance(alone, float | str):
            return alone
        return _value(config[1:-1], values, where)
    return config


def _value(text: str, values: Mapping[str, Constant], where: str) -> int:
    if not re.fullmatch(r"\s*[+-]?\s*\w+(\s*[+-]\s*\w+)*\s*", text, re.ASCII):
        raise GraphError(f"{where}: cannot read {text!r}; write whole numbers and names joined by + and -")
    total = 0
    for sign, term in re.findall(r"([+-]?)\s*(\w+)", text):
        if not term.isdigit() and term not in values:
            raise GraphError(f"{where}: unknown name {term!r} in {text!r}; there are {', '.join(values) or 'none'}")
        if len(term) > _DIGITS and term.isdigit():
            raise GraphError(f"{where}: a number of {len(term)} digits; accepted: at most {_DIGITS}")
        number = int(term) if term.isdigit() else values[term]
        if not isinstance(number, int):
            raise GraphError(f"{where}: {term}={number!r} in {text!r}; accepted where it counts: a whole number")
        total += -number if sign == "-" else number
    return total


def _without_for(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    return {key: value for key, value in config.items() if key != "for"}
