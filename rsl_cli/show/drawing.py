"""A base graph and one of its lifts as a drawing: by Graphviz where it is installed, by Matplotlib elsewhere."""

import io
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from rsl_cli.errors import ConfigError
from rsl_cli.graph import BaseGraph, Edge
from rsl_cli.lift import Lift, lifting_of, sample_lift
from rsl_cli.liftings import Line
from rsl_cli.study.files import write_atomic
from rsl_cli.study.spec import StudySpec

ENGINES = ("graphviz", "matplotlib")
_FORMATS = ("png", "pdf", "svg", "dot")
_DOT_SECONDS = 60
"""Graphviz places some thousand edges in that time; a drawing with more is Matplotlib's."""
_MOST_DRAWN = 48
"""Copies of a vertex a drawing shows: beyond it edges are a grey smear."""


def draw(spec: StudySpec, path: Path, engine: str | None = None) -> None:
    """Draw the base graph and its smallest lift, fibres as columns.

    Args:
        spec: the study.
        path: ``.png``, ``.pdf``, ``.svg``; or ``.dot``, Graphviz's own text, which needs no Graphviz.
        engine: ``graphviz`` or ``matplotlib``; None takes Graphviz where the program ``dot`` is found.

    Raises:
        ConfigError: another ending, or Graphviz asked for and not found.
        StoreError: the file cannot be written.
    """
    form = path.suffix.lstrip(".").lower()
    if form not in _FORMATS:
        raise ConfigError(
            f"--save {path}: the ending says the format; accepted: {', '.join('.' + f for f in _FORMATS)}"
        )
    dot = shutil.which("dot")
    if engine == "graphviz" and dot is None and form != "dot":
        raise ConfigError("--engine graphviz: no program dot on the PATH; install Graphviz or leave --engine out")
    lift = sample_lift(spec.base, spec.lifts[0], spec.seeds[0], spec.lifting)
    content = to_dot(lift).encode() if form == "dot" else None
    if content is None and dot is not None and engine != "matplotlib":
        content = _by_graphviz(dot, lift, form)
    write_atomic(path, _by_matplotlib(lift, form) if content is None else content)


def _by_graphviz(dot: str, lift: Lift, form: str) -> bytes | None:
    command = [dot, f"-T{form}", *(["-Gdpi=120"] if form == "png" else [])]
    text = to_dot(lift).encode()
    try:
        return subprocess.run(command, input=text, capture_output=True, check=True, timeout=_DOT_SECONDS).stdout
    except subprocess.TimeoutExpired:
        return None


def to_dot(lift: Lift) -> str:
    """Base graph and lift in Graphviz's language, left to right, one column for each fibre."""
    base = lift.base
    lines = [
        "digraph lift {",
        '  rankdir=LR; newrank=true; splines=line; fontname="Helvetica"; nodesep=0.08; ranksep=0.9;',
        '  node [fontname="Helvetica", fontsize=10]; edge [fontname="Helvetica", fontsize=8];',
    ]
    lines += [f'  subgraph cluster_lift {{ label="{_title(lift)}"; color=none;']
    for vertex in base.vertices:
        shown = min(_MOST_DRAWN, lift.fibre(vertex.name))
        lines.append(
            f'    subgraph "cluster {vertex.name}" {{ label="{_fibre_label(lift, vertex.name)}"; color="#dddddd";'
        )
        for copy in range(shown):
            lines.append(f'      "{vertex.name} {copy}" [label="", shape=circle, width=0.11, fixedsize=true];')
        lines.append("    }")
    for edge, (sources, targets) in zip(base.edges, lift.lists, strict=True):
        for a, b in zip(sources.tolist(), targets.tolist(), strict=True):
            if max(a, b) < _MOST_DRAWN:
                style = _dot_style(edge, lift)
                lines.append(f'    "{edge.source} {a}" -> "{edge.target} {b}" [arrowhead=none, penwidth=0.5, {style}];')
    # Last, since from left to right Graphviz puts later ones on top.
    lines += ["  }", f'  subgraph cluster_base {{ label="base graph {base.name}"; color=none;']
    for vertex in base.vertices:
        space = " x ".join(map(str, base.space(vertex.name))) or "scalar"
        lines.append(f'    "base {vertex.name}" [label="{vertex.name}\\n{space}", shape=box, style=rounded];')
    for (source, target), edges in _parallel(base).items():
        style = _dot_style(edges[0], lift)
        lines.append(f'    "base {source}" -> "base {target}" [label="{_label(edges)}", {style}];')
    return "\n".join([*lines, "  }", "}", ""])


def _dot_style(edge: Edge, lift: Lift) -> str:
    colour, dash = _style(edge, lift)
    return f'color="{colour}", style={dash}'


def _style(edge: Edge, lift: Lift) -> tuple[str, Line]:
    return lifting_of(edge, lift.base, lift.lifting).law.style


def _parallel(base: BaseGraph) -> dict[tuple[str, str], list[Edge]]:
    """Edges by their two ends."""
    parallel: dict[tuple[str, str], list[Edge]] = {}
    for edge in base.edges:
        parallel.setdefault((edge.source, edge.target), []).append(edge)
    return parallel


def _label(edges: list[Edge]) -> str:
    return edges[0].map_name + "".join(f" {edge.slot}" for edge in edges if edge.slot)


def _title(lift: Lift) -> str:
    return f"its lift of degree {lift.degree}, {lift.parameter_count} parameters"


def _fibre_label(lift: Lift, vertex: str) -> str:
    size = lift.fibre(vertex)
    return f"{vertex}: {size}" + (f", {_MOST_DRAWN} drawn" if size > _MOST_DRAWN else "")


def _by_matplotlib(lift: Lift, form: str) -> bytes:
    columns = _columns(lift.base)
    count = 1 + max(columns.values())
    figure = Figure(figsize=(max(6.5, 1.5 * count), 7.5), layout="constrained")
    small, large = figure.subplots(2, 1, gridspec_kw={"height_ratios": [1, 1.8]})
    _draw_base(small, lift, columns)
    _draw_lift(large, lift, columns)
    kinds = {lifting.kind: lifting.law for lifting in (lifting_of(e, lift.base, lift.lifting) for e in lift.base.edges)}
    styles = {kind: law.style for kind, law in kinds.items()}
    handles = [Line2D([], [], color=colour, linestyle=line, label=kind) for kind, (colour, line) in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=160)
    return buffer.getvalue()


def _columns(base: BaseGraph) -> dict[str, int]:
    columns: dict[str, int] = {}
    for vertex in base.vertices:
        columns[vertex.name] = max((columns[edge.source] + 1 for edge in base.in_edges(vertex.name)), default=0)
    return columns


def _shares(columns: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """Lowest and highest place of every vertex in its column."""
    shared = {column: [name for name, c in columns.items() if c == column] for column in columns.values()}
    shares = {}
    for name, column in columns.items():
        place, size = shared[column].index(name), len(shared[column])
        shares[name] = (1 - (place + 1) / size, 1 - place / size)
    return shares


def _font(name: str) -> float:
    """Points at which a vertex's name leaves room for its arrows."""
    return max(4.0, min(8.0, 60 / len(name)))


def _reach(name: str) -> float:
    """Points from the middle of a vertex to beyond its border."""
    return max(13.0, 0.32 * _font(name) * len(name) + 7)


def _draw_base(axes: Axes, lift: Lift, columns: Mapping[str, int]) -> None:
    shares = _shares(columns)
    places = {name: (float(column), sum(shares[name]) / 2) for name, column in columns.items()}
    for (source, target), edges in _parallel(lift.base).items():
        span = columns[target] - columns[source]
        colour, dash = _style(edges[0], lift)
        # Longer skips bow, so that they do not hide behind what they skip.
        bow = -0.28 if span > 1 else 0.0
        arrow = FancyArrowPatch(
            places[source],
            places[target],
            arrowstyle="-|>",
            mutation_scale=9,
            color=colour,
            linestyle=dash,
            connectionstyle=f"arc3,rad={bow}",
            shrinkA=_reach(source),
            shrinkB=_reach(target),
        )
        axes.add_patch(arrow)
        (x0, y0), (x1, y1) = places[source], places[target]
        # The middle of the arc: half of its bow off the chord's middle, to the chord's left.
        middle = ((x0 + x1) / 2 + bow / 2 * (y1 - y0), (y0 + y1) / 2 - bow / 2 * span * _ASPECT)
        axes.annotate(
            _label(edges), middle, (0, 4), textcoords="offset points", ha="center", fontsize=6.5, color="#444444"
        )
    for name, place in places.items():
        box = {"boxstyle": "round,pad=0.5,rounding_size=1.1", "facecolor": "white", "edgecolor": "#222222"}
        axes.annotate(name, place, ha="center", va="center", fontsize=_font(name), bbox=box, zorder=4)
    axes.set_title(f"base graph {lift.base.name}")
    _frame(axes, columns)


_ASPECT = 0.42
"""Height of a bow in places of the vertical axis, for a chord of one column."""


def _draw_lift(axes: Axes, lift: Lift, columns: Mapping[str, int]) -> None:
    shares, places = _shares(columns), {}
    for name, (low, high) in shares.items():
        count = min(_MOST_DRAWN, lift.fibre(name))
        top = high - 0.1 * (high - low)
        places[name] = [(float(columns[name]), top - (top - low) * (i + 0.5) / count) for i in range(count)]
    for edge, (sources, targets) in zip(lift.base.edges, lift.lists, strict=True):
        pairs = [(a, b) for a, b in zip(sources.tolist(), targets.tolist(), strict=True) if max(a, b) < _MOST_DRAWN]
        colour, dash = _style(edge, lift)
        segments = [(places[edge.source][a], places[edge.target][b]) for a, b in pairs]
        alpha = max(0.15, min(0.9, 60 / max(len(pairs), 1)))
        axes.add_collection(LineCollection(segments, colors=colour, linestyles=dash, linewidths=0.8, alpha=alpha))
    for name, points in places.items():
        xs, ys = zip(*points, strict=True)
        axes.scatter(xs, ys, s=18, color="white", edgecolor="#222222", zorder=3)
        axes.annotate(
            _fibre_label(lift, name), (xs[0], max(ys)), (0, 7), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_title(_title(lift))
    _frame(axes, columns)


def _frame(axes: Axes, columns: Mapping[str, int]) -> None:
    axes.set_xlim(-0.5, max(columns.values()) + 0.5)
    axes.set_ylim(-0.08, 1.12)
    axes.axis("off")
