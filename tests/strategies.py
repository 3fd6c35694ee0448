"""Random base graphs for hypothesis: every map, combination and lifting, slots, skips, all kinds of growth."""

from hypothesis import strategies as st

from rsl_cli.activations import ACTIVATIONS
from rsl_cli.graph import BaseGraph

_SPACES = st.sampled_from([(), (), (1,), (2,), (3,)])
_FIBRES = st.sampled_from([(1, 1), (1, 1), (2, 1), (0.5, 1), (3, 0), (1, 0.5)])
_LIFTINGS = st.one_of(
    st.none(),
    st.just({"kind": "dense"}),
    st.builds(lambda k: {"kind": "regular", "in_degree": k}, st.integers(1, 4)),
    st.builds(lambda k: {"kind": "random", "in_degree": k}, st.sampled_from([0.5, 1, 2.5, 4])),
)
degrees = st.integers(1, 5)
default_liftings = st.sampled_from([{"kind": "random", "in_degree": 2}, {"kind": "regular", "in_degree": 2}])


@st.composite
def base_graphs(draw: st.DrawFn) -> BaseGraph:
    """A base graph of one to three hidden vertices, every one of them reached and read."""
    shape = draw(st.sampled_from([(1,), (2,), (3,)]))
    spaces, fibres = {"x": shape}, {"x": (1, 0)}
    vertices: dict[str, dict] = {"x": {"kind": "input"}}
    edges: list[dict] = []

    def join(source: str, target: str, slot: str | None) -> None:
        maps = [{"map": "linear", "out": spaces[target][0]} if spaces[target] else {"map": "linear"}]
        if spaces[source] == spaces[target]:
            maps += [{"map": "scale"}] * 2 + [{"map": "identity"}]
        edge = {"source": source, "target": target, **draw(st.sampled_from(maps))}
        if slot is not None:
            edge["slot"] = slot
        lifting = draw(_LIFTINGS)
        if target != "y" and source != "x" and fibres[source] == fibres[target] and draw(st.booleans()):
            lifting = {"kind": "matching"}
        if lifting is not None:
            edge["lifting"] = lifting
        init = draw(st.sampled_from([None, {"kind": "uniform"}, {"gain": 0.5}]))
        if init is not None:
            edge["init"] = init
        edges.append(edge)

    def feed(target: str, must: set[str]) -> None:
        earlier = [name for name in vertices if name != target]
        chosen = sorted(must) or [draw(st.sampled_from(earlier))]
        combine = draw(st.sampled_from(["sum", "sum", "product"]))
        if combine == "product" or draw(st.booleans()):
            # May choose a source again: parallel edges, told apart by their slots.
            chosen = [*chosen, draw(st.sampled_from(earlier))]
        vertices[target]["combine"] = combine
        named = combine == "product" or len(set(chosen)) < len(chosen) or draw(st.booleans())
        for number, source in enumerate(chosen):
            join(source, target, f"slot{number}" if named else None)

    for number in range(draw(st.integers(1, 3))):
        name = f"h{number}"
        spaces[name], fibres[name] = draw(_SPACES), draw(_FIBRES)
        vertices[name] = {
            "activation": draw(st.sampled_from(sorted(ACTIVATIONS))),
            "bias": draw(st.booleans()),
            "width": fibres[name][0],
            "growth": fibres[name][1],
        }
        feed(name, set())
    spaces["y"], fibres["y"] = (), (1, 0)
    vertices["y"] = {"kind": "output", "bias": draw(st.booleans())}
    unread = {name for name in vertices if name[0] == "h" and not any(edge["source"] == name for edge in edges)}
    feed("y", unread)
    config = {"name": "drawn", "vertices": vertices, "edges": edges}
    return BaseGraph.from_config(config, input_shape=shape, output_size=draw(st.integers(1, 3)))
