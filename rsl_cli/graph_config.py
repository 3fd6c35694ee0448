"""From the mapping of a base graph's YAML file to vertices and edges: keys checked, repetition written out.

Whether they form a graph at all is not known here.

A vertex or an edge may carry ``for: {i: "1..depth-1"}``: it stands for one vertex or edge per value of ``i``, with
``{i}`` and sums such as ``{i+1}`` in its names replaced. Other whole numbers beside ``vertices`` and ``edges`` (here
``depth``) are constants for it, and so keys a command line can set: ``base.depth=6``. Several indices nest, the later
ones may use the earlier: ``for: {j: "2..depth", i: "1..j-1"}`` joins every pair. Any value written ``"{...}"`` is the
whole number it stands for: ``kernel: "{kernel}"``.
"""

import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rsl_cli.contracts import check_activation
from rsl_cli.errors import GraphError, nearest, one_of
from rsl_cli.maps import EdgeMap, edge_map
from rsl_cli.registry import Origin, Registry
from rsl_cli.vertex_maps import ACTIVATIONS, BIASES, COMBINES, NORMS, POOLS, Combine, Stage, Sum, vertex_part

_MOST = 10_000
"""Vertices or edges one ``for`` may stand for: far beyond any base graph, small enough to stop a slip."""
_LARGEST = {"vertices": 1000, "edges": 10_000}
"""Of a base graph. It is what is multiplied, and no lift of a larger one would fit."""
_DIGITS = 9
_LEAST_IN_DEGREE, _MOST_IN_DEGREE = 1e-6, 2.0**31
"""Below it no lift there can be keeps an edge; beyond it none has so many copies."""


KINDS = ("input", "hidden", "output")
LIFTINGS = ("random", "regular", "dense", "matching")
INITS = ("normal", "uniform", "zeros")
_VERTEX_KEYS = ("kind", "activation", "combine", "bias", "width", "growth", "bias_init", "norm", "pool")
_EDGE_KEYS = ("source", "target", "map", "slot", "lifting", "init")


@dataclass(frozen=True)
class Init:
    """Law of the weights of one edge or of the biases of one vertex.

    Args:
        kind: ``normal``, ``uniform`` (of the same variance) or ``zeros``.
        gain: standard deviation of a bias; for weights it is divided by the square root of the fan-in.
    """

    kind: str = "normal"
    gain: float = 1.0


@dataclass(frozen=True)
class EdgeLifting:
    """How the copies of an edge's two ends are joined.

    Args:
        kind: ``random`` (Bernoulli, mean in-degree ``in_degree``), ``regular`` (exactly ``in_degree`` distinct sources,
            or all), ``dense`` or ``matching`` (a permutation).
        in_degree: lambda; None where the kind has none.
    """

    kind: str = "random"
    in_degree: float | None = 8.0


@dataclass(frozen=True)
class Vertex:
    """One vertex v of a base graph.

    Args:
        name: its name.
        kind: ``input``, ``hidden`` or ``output``.
        activation: name of the activation, applied after combining the slots, the bias and the norm.
        combine: what makes one sum of the slots.
        bias: whether each copy adds a trained bias, and of which shape; a key of `maps.BIASES`, or False.
        width: the fibre has ``round(width * degree ** growth)`` copies, at least one.
        growth: see ``width``.
        bias_init: law of the biases.
        norm: applied before the activation, if any.
        pool: applied after it, if any.
        origins: of those parts that are a user's, by key.
    """

    name: str
    kind: str
    activation: str = "identity"
    combine: Combine = field(default_factory=Sum)
    bias: bool | str = False
    width: float = 1.0
    growth: float = 1.0
    bias_init: Init = field(default_factory=Init)
    norm: Stage | None = None
    pool: Stage | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Edge:
    """One edge e = (source, target) of a base graph, feeding one slot of its target.

    Args:
        source: a vertex.
        target: another.
        map_name: what the configuration calls the map.
        map: M_e.
        slot: of the target, if it has names.
        lifting: its own, if any.
        init: law of its weights.
        origin: where the map comes from, if it is a user's.
    """

    source: str
    target: str
    map_name: str
    map: EdgeMap
    slot: str | None = None
    lifting: EdgeLifting | None = None
    init: Init = field(default_factory=Init)
    origin: Origin | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """``source->target``, with the slot in brackets if it has one."""
        return f"{self.source}->{self.target}" + (f"[{self.slot}]" if self.slot else "")


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
    _known(where, config, _VERTEX_KEYS)
    kind = config.get("kind", "hidden")
    _member(where, "kind", kind, KINDS)
    activation = config.get("activation", "identity")
    parts: dict[str, Any] = {}
    origins: dict[str, Origin] = {}

    def read(key: str, known: Registry[Any], kind: type) -> None:
        parts[key], origin = vertex_part(key, config[key], known, kind) if key in config else (None, None)
        origins.update({key: origin} if origin is not None else {})

    try:
        function, origin = ACTIVATIONS.find(activation), ACTIVATIONS.origin(activation)
        if origin is not None:
            check_activation(function, activation)
            origins["activation"] = origin
        read("combine", COMBINES, Combine)
        read("norm", NORMS, Stage)
        read("pool", POOLS, Stage)
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error
    bias = config.get("bias", False)
    if not isinstance(bias, bool | str) or (bias and bias not in BIASES):
        raise GraphError(f"{where}: bias={bias!r}; accepted: true, false, copy or feature")
    width = _positive(where, "width", config.get("width", 1))
    growth = _number(where, "growth", config.get("growth", 1))
    if growth < 0:
        raise GraphError(f"{where}: growth={growth}; accepted: a number from 0 (a fixed fibre) upwards")
    if kind == "output" and activation != "identity":
        raise GraphError(
            f"{where}: activation '{activation}' on an output; the readout is linear, leave activation out"
        )
    if kind == "input" and len(config) > ("kind" in config):
        raise GraphError(f"{where}: an input vertex has only the key kind, got {', '.join(config)}")
    if kind != "hidden" and ("width" in config or "growth" in config):
        raise GraphError(f"{where}: width and growth belong to hidden vertices; an {kind} is not multiplied")
    if kind == "output" and (parts["norm"] or parts["pool"]):
        raise GraphError(f"{where}: norm and pool belong to hidden vertices; an output is a scalar")
    return Vertex(
        name,
        kind,
        activation,
        parts["combine"] or Sum(),
        bias,
        width,
        growth,
        _init(where, "bias_init", config.get("bias_init")),
        parts["norm"],
        parts["pool"],
        origins,
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
    options = {key: value for key, value in config.items() if key not in _EDGE_KEYS}
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


def edge_lifting(config: Any, where: str = "lifting") -> EdgeLifting:
    """Read a lifting ``{kind, in_degree}``.

    Args:
        config: a mapping, or an `EdgeLifting` that is returned as it is.
        where: what to name in an error.

    Raises:
        GraphError: unknown kind, or an in-degree that is missing, too many or not positive.
    """
    if isinstance(config, EdgeLifting):
        return config
    if not isinstance(config, Mapping) or "kind" not in config:
        raise GraphError(f"{where}: lifting {config!r}; write a mapping such as {{kind: random, in_degree: 8}}")
    _known(f"{where}: lifting", config, ("kind", "in_degree"))
    kind = config["kind"]
    _member(where, "lifting kind", kind, LIFTINGS)
    if kind in ("dense", "matching"):
        if config.get("in_degree") is not None:
            raise GraphError(f"{where}: lifting '{kind}' has no in_degree; leave it out")
        return EdgeLifting(kind, None)
    if config.get("in_degree") is None:
        raise GraphError(f"{where}: lifting '{kind}' needs an in_degree, e.g. in_degree: 8")
    in_degree = _positive(where, "in_degree", config["in_degree"])
    if not _LEAST_IN_DEGREE <= in_degree <= _MOST_IN_DEGREE:
        raise GraphError(f"{where}: in_degree={in_degree!r}; accepted: {_LEAST_IN_DEGREE:g} to {_MOST_IN_DEGREE:.0f}")
    if kind == "regular" and in_degree != int(in_degree):
        raise GraphError(f"{where}: in_degree={in_degree}; lifting 'regular' needs a whole number")
    return EdgeLifting(kind, in_degree)


def _init(where: str, key: str, config: Any) -> Init:
    if config is None:
        return Init()
    if not isinstance(config, Mapping):
        raise GraphError(f"{where}: {key}={config!r}; write a mapping such as {{kind: normal, gain: 1.0}}")
    _known(f"{where}: {key}", config, ("kind", "gain"))
    kind = config.get("kind", "normal")
    _member(where, f"{key} kind", kind, INITS)
    return Init(kind, _positive(where, f"{key} gain", config.get("gain", 1.0)))


def _known(where: str, config: Mapping[str, Any], accepted: Sequence[str]) -> None:
    for key in config:
        if key not in accepted:
            raise GraphError(f"{where}: {one_of('key', key, accepted)}")


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


def _member(where: str, key: str, value: object, accepted: Iterable[str]) -> None:
    if not isinstance(value, str) or value not in accepted:
        raise GraphError(f"{where}: {one_of(key, value, accepted)}")


def _number(where: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise GraphError(f"{where}: {key}={value!r}; accepted: a finite number")
    return float(value)


def _positive(where: str, key: str, value: Any) -> float:
    number = _number(where, key, value)
    if number <= 0:
        raise GraphError(f"{where}: {key}={value!r}; accepted: a number above 0")
    return number


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
    yield from _nested(list(ranges.items()), dict(constants), where, itertools.count())


def _nested(
    ranges: list[tuple[str, Any]], values: dict[str, int], where: str, tried: Iterator[int]
) -> Iterator[dict[str, int]]:
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


def _fill(pattern: str, values: Mapping[str, int], where: str) -> str:
    return re.sub(r"\{([^{}]*)\}", lambda match: str(_value(match[1], values, where)), pattern)


def _numbers(config: Any, values: Mapping[str, int], where: str) -> Any:
    """The configuration with every value written ``"{...}"`` replaced by its number."""
    if isinstance(config, Mapping):
        return {key: _numbers(value, values, where) for key, value in config.items()}
    if isinstance(config, str) and config.startswith("{") and config.endswith("}"):
        return _value(config[1:-1], values, where)
    return config


def _value(text: str, values: Mapping[str, int], where: str) -> int:
    if not re.fullmatch(r"\s*[+-]?\s*\w+(\s*[+-]\s*\w+)*\s*", text, re.ASCII):
        raise GraphError(f"{where}: cannot read {text!r}; write whole numbers and names joined by + and -")
    total = 0
    for sign, term in re.findall(r"([+-]?)\s*(\w+)", text):
        if not term.isdigit() and term not in values:
            raise GraphError(f"{where}: unknown name {term!r} in {text!r}; there are {', '.join(values) or 'none'}")
        if len(term) > _DIGITS and term.isdigit():
            raise GraphError(f"{where}: a number of {len(term)} digits; accepted: at most {_DIGITS}")
        number = int(term) if term.isdigit() else values[term]
        total += -number if sign == "-" else number
    return total


def _without_for(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    return {key: value for key, value in config.items() if key != "for"}
