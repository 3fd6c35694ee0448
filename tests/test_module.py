"""Torch modules as base graphs: the dense lift of degree 1 is the module; other layers are refused by name and line."""

import inspect
import json

import modules
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from rsl_cli.cli import compose, main
from rsl_cli.errors import ConfigError, GraphError
from rsl_cli.graph import BaseGraph
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.module import base_from_module, load_module, module_config
from rsl_cli.network import LiftedNetwork
from rsl_cli.study.spec import StudySpec

DENSE = {"kind": "dense"}


def lifted(module: nn.Module, shape: tuple[int, ...], seed: int = 3) -> LiftedNetwork:
    base = base_from_module(module, shape)
    return LiftedNetwork(sample_lift(base, 1, seed, DENSE), dtype=torch.float64)


@pytest.mark.parametrize(("make", "shape"), modules.EXAMPLES)
def test_the_dense_lift_of_degree_1_is_the_module(make, shape):
    torch.manual_seed(0)
    module = make().double()
    network = lifted(module, shape)
    load_module(network, module)
    x = torch.randn(7, *shape, dtype=torch.float64, requires_grad=True)
    outs, gradients, moved = [], [], []
    for net in (module, network):
        seen = x[:, None] if net is module and shape == (8, 8) else x
        out = net(seen)
        loss = out.square().sum()
        gradients.append(torch.autograd.grad(loss, [x, *net.parameters()]))
        outs.append(out)
        # A step of gradient descent: parameter by parameter the gradients are the same.
        with torch.no_grad():
            for parameter, gradient in zip(net.parameters(), gradients[-1][1:], strict=True):
                parameter -= 0.1 * gradient
        moved.append(net(seen).detach())
    torch.testing.assert_close(outs[1], outs[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients[1][0], gradients[0][0], rtol=1e-10, atol=1e-10)
    norms = [float(sum(g.square().sum() for g in per_net[1:])) for per_net in gradients]
    if not isinstance(module, modules.GPT):  # There a layer's bias and the positions are one bias of the lift.
        assert sum(p.numel() for p in module.parameters()) == network.lift.parameter_count
        assert norms[1] == pytest.approx(norms[0], rel=1e-10)
        torch.testing.assert_close(moved[1], moved[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("make", "shape"), modules.EXAMPLES)
def test_larger_lifts_are_sparse_lifts(make, shape):
    base = base_from_module(make(), shape)
    lift = sample_lift(base, 3, 0, {"kind": "random", "in_degree": 2})
    lift.check()
    out = LiftedNetwork(lift)(torch.zeros(2, *shape))
    assert out.shape == (2, base.output_size)


class Layers(nn.Module):
    """Runs a function of itself and x; `layers` are its attributes."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def config(module: nn.Module, shape: tuple[int, ...]) -> tuple[dict, list]:
    base = base_from_module(module, shape)
    edges = [(edge.name, edge.map_name, edge.lifting and edge.lifting.kind) for edge in base.edges]
    return {vertex.name: vertex for vertex in base.vertices}, edges


def test_vertices_and_edges_of_a_cnn():
    vertices, edges = config(modules.CNN(), (1, 8, 8))
    assert list(vertices) == ["x", "a", "b", "c", "y"]
    assert (vertices["a"].width, vertices["a"].bias, vertices["a"].activation) == (4, "copy", "relu")
    assert vertices["b"].pool is not None and vertices["c"].norm is not None
    assert edges == [
        ("x->a", "conv", None),
        ("a->b[1]", "identity", "matching"),
        ("a->b[2]", "conv", None),
        ("b->c", "conv", None),
        ("c->y", "linear", None),
    ]


def test_heads_are_copies():
    vertices, edges = config(modules.Attending(), (5, 3))
    assert [vertices[name].width for name in ("a.q", "a.k", "a.v", "a.heads")] == [2] * 4
    assert ("a.q->a.heads[q]", "identity", "matching") in edges and ("embed->a.q", "token_linear", None) in edges
    assert vertices["a.heads"].combine.causal and not vertices["b.heads"].combine.causal


def test_what_no_output_reads_is_left_out():
    module = Layers(lambda m, x: (m.a(x).sum(), m.b(x))[1], a=nn.Linear(3, 4), b=nn.Linear(3, 2))
    with pytest.raises(GraphError, match="method sum"):
        base_from_module(module, (3,))
    module = Layers(lambda m, x: (m.a(x).tanh(), m.b(x))[1], a=nn.Linear(3, 4), b=nn.Linear(3, 2))
    assert list(config(module, (3,))[0]) == ["x", "y"]


def test_a_batch_norm_folded_as_its_refusal_says_is_accepted():
    body = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)).eval()
    folded = nn.utils.fusion.fuse_conv_bn_eval(body[0], body[1])
    module = Layers(lambda m, x: m.b(m.a(x).tanh().flatten(1)), a=folded, b=nn.Linear(2 * 8 * 8, 2))
    assert list(config(module, (1, 8, 8))[0]) == ["x", "a", "y"]


PAIR = {"a": nn.Linear(3, 4), "b": nn.Linear(4, 1)}
conv = nn.Conv2d(1, 2, 3, padding=1)
flat, vector, image, tokens = nn.Linear(2 * 8 * 8, 2), (3,), (1, 8, 8), (4, 6)
REFUSED = [
    (lambda m, x: m.b(m.a(x).flatten(1)), {"a": nn.Sequential(conv, nn.BatchNorm2d(2)), "b": flat}, image,
     "layer 'a.1' (BatchNorm2d) at "),
    (lambda m, x: m.b(m.a(x)), {"a": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "b": nn.Linear(4, 1)}, vector,
     "train without it, or fold a trained one into the layer before: torch.nn.utils.fusion.fuse_conv_bn_eval"),
    (lambda m, x: m.b(torch.sigmoid(m.a(x))), PAIR, vector,
     "function sigmoid at "),
    (lambda m, x: m.b(m.a(x).exp()), PAIR, vector, "method exp at "),
    (lambda m, x: m.b(m.a(m.a(x).tanh())), {"a": nn.Linear(3, 3), "b": nn.Linear(3, 1)}, vector,
     "'a.weight' has been read by layer 'a' (Linear) at "),
    (lambda m, x: m.b(m.d(m.a(x))), {"a": nn.Linear(3, 4), "b": nn.Linear(4, 1), "d": nn.Dropout(0.1)}, vector,
     "layer 'd' (Dropout) at "),
    (lambda m, x: m.b(m.n(m.a(x))), {"a": nn.Linear(6, 5), "b": nn.Linear(5, 1), "n": nn.LayerNorm(5)}, tokens,
     "has gains; accepted: elementwise_affine=False"),
    (lambda m, x: m.b(m.n(m.a(x))), {"a": nn.Linear(3, 5), "b": nn.Linear(5, 1),
     "n": nn.LayerNorm(5, elementwise_affine=False)}, vector, "normalises over copies"),
    (lambda m, x: m.b(m.n(m.a(x))), {"a": nn.Linear(6, 5), "b": nn.Linear(5, 1),
     "n": nn.RMSNorm(5, elementwise_affine=False)}, tokens, "eps=None depends on the dtype"),
    (lambda m, x: m.b(m.a(x).flatten(1)), {"a": nn.Conv2d(1, 2, 4, padding=2), "b": nn.Linear(162, 1)}, image,
     "kernel_size=(4, 4)"),
    (lambda m, x: m.b(m.a(x).flatten(1)), {"a": nn.Conv2d(1, 2, 3), "b": nn.Linear(72, 1)}, image, "padding=(0, 0)"),
    (lambda m, x: m.b(m.a(m.c(x)).flatten(1)), {"c": conv, "a": nn.Conv2d(2, 2, 3, padding=1, groups=2), "b": flat},
     image, "groups=2"),
    (lambda m, x: m.b(functional.gelu(m.a(x), approximate="tanh")), PAIR, vector,
     "approximate='tanh'; accepted: 'none'"),
    (lambda m, x: m.b(functional.leaky_relu(m.a(x), 0.2)), PAIR, vector,
     "negative_slope=0.2; accepted: 0.01"),
    (lambda m, x: m.b(m.a(x)) * 2.0, PAIR, vector,
     "its second argument does not depend on the input"),
    (lambda m, x: m.b(m.a(x)).tanh(), PAIR, vector,
     "module Layers: returns something else, which layer 'b' (Linear) at "),
    (lambda m, x: (m.b(x), x), {"b": nn.Linear(3, 1)}, vector, "module Layers: returns something else; accepted: "),
    (lambda m, x: m.b(x) if x.sum() > 0 else x, {"b": nn.Linear(3, 1)}, vector,
     "module Layers: torch.fx cannot trace it at "),
    (lambda m, x: m.b((lambda h: h.tanh() + h)(m.a(x))), PAIR, vector,
     "'a' is read twice with no weights between"),
    (lambda m, x: m.b(m.a(x)), {"a": nn.Linear(3, 4), "b": nn.Linear(5, 1)}, vector, "samples are (3,)"),
    (lambda m, x: m.b(functional.max_pool2d(m.a(x), 3, 2, 1).flatten(1)), {"a": conv, "b": nn.Linear(32, 1)}, image,
     "accepted: stride = kernel_size, no padding"),
    (lambda m, x: m.b(m.a(x).reshape(-1, 4)), {"a": nn.Linear(3, 8), "b": nn.Linear(4, 1)}, vector,
     "changes the axis of samples"),
    (lambda m, x: m.b(m.a(x).reshape(-1, 2, 2).mean(1)), {"a": nn.Linear(3, 4), "b": nn.Linear(2, 1)}, vector,
     "cuts an axis of a"),
    (lambda m, x: m.b(m.a(x)) + m.s, {"a": nn.Linear(3, 4), "b": nn.Linear(4, 2), "s": nn.Buffer(torch.ones(2))},
     vector, "its second argument does not depend on the input"),
    (lambda m, x: m.b((lambda h: m.r(h) + m.c(h))(m.a(x))), {"a": nn.Linear(3, 4), "c": nn.Linear(4, 4),
     "r": nn.ReLU(inplace=True), "b": nn.Linear(4, 1)}, vector, "changes in place what is read again"),
    (lambda m, x: m.b(m.a(x, x, x)[0].mean(1)), {"a": nn.MultiheadAttention(6, 2), "b": nn.Linear(6, 1)}, tokens,
     "batch_first=False"),
    (lambda m, x: m.b(functional.interpolate(m.a(x), scale_factor=2).mean((2, 3))), {"a": conv, "b": flat}, image,
     "reads an upsampled map"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "layers", "shape", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_what_has_no_map_is_refused_by_name_and_line(function, layers, shape, text):
    with pytest.raises(GraphError) as caught:
        base_from_module(Layers(function, **layers), shape)
    message = str(caught.value)
    assert text in message and "\n" not in message
    if text.endswith(" at "):
        line = inspect.getsourcelines(function)[1]
        assert any(f"{__file__}:{line + more}" in message for more in range(2)), message


def test_a_module_that_cannot_run_fails_where_it_is_wrong():
    with pytest.raises(GraphError, match=r"^layer 'b' \(Linear\) at \S+: mat1 and mat2 shapes cannot be multiplied"):
        base_from_module(Layers(lambda m, x: m.b(m.a(x).flatten(1)), a=conv, b=nn.Linear(3, 1)), (8, 8))


def test_loading_into_other_lifts_is_refused():
    module = modules.Gated()
    base = base_from_module(module, (6,))
    with pytest.raises(ConfigError, match="a lift of degree 2; accepted: sample_lift"):
        load_module(LiftedNetwork(sample_lift(base, 2, 0, DENSE)), module)
    with pytest.raises(ConfigError, match="load_module: a lift of degree"):
        load_module(LiftedNetwork(disjoint_union([sample_lift(base, 1, 0, DENSE)])), module)
    with pytest.raises(ConfigError, match=r"edge d->\S+ keeps \d+ of|edge ab.0->\S+ keeps|keeps \d+ of"):
        load_module(LiftedNetwork(sample_lift(base, 1, 0, {"kind": "regular", "in_degree": 2})), module)
    with pytest.raises(ConfigError, match="is a lift of 'Gated', which is not what Sequential computes"):
        load_module(LiftedNetwork(sample_lift(base, 1, 0, DENSE)), nn.Sequential(nn.Linear(6, 2)))


SOURCE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width=4, outputs=10):
        super().__init__(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs))

class Conv(nn.Sequential):
    def __init__(self, channels=2):
        super().__init__(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(channels * 64, 10))

class Broken(nn.Module):
    def __init__(self):
        raise ValueError("no width")

def function():
    pass
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_nets_of_a_test.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    import sys

    sys.modules.pop("my_nets_of_a_test", None)


LINE = ["base=module", "dataset=digits", "trainer=adam", "base.target=my_nets_of_a_test.Net"]


def test_a_study_of_a_module_is_that_of_its_base_graph(here):
    spec = StudySpec.from_config(compose([*LINE, "base.arguments={width: 6}"]))
    assert spec.name == "Net_digits_adam" and spec.base.vertex("0").width == 6 and spec.base.input_shape == (64,)
    written = StudySpec.from_config({**spec.config, "base": json.loads(json.dumps(spec.config["base"]))})
    assert written.identity == spec.identity
    assert StudySpec.from_config(compose(LINE)).identity != spec.identity
    images = StudySpec.from_config(compose([*LINE[:2], "base.target=my_nets_of_a_test.Conv"]))
    assert images.base.input_shape == (8, 8)
    BaseGraph.from_config(images.config["base"], input_shape=(8, 8), output_size=10)


def test_run_and_show_take_modules(here, capsys):
    assert main(["show", *LINE, "lift=1..2"]) == 0
    assert "base graph Net: 4 vertices" in capsys.readouterr().out
    assert main(["run", *LINE, "lift=1,2", "seeds=1", "trainer.steps=2", "executor=local"]) == 0
    # The module is not needed any more: the study holds its base graph.
    study = json.loads((here / "results" / "Net_digits_adam" / "study.json").read_text())
    assert "target" not in study["config"]["base"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["base.target=null"], "base.target=None; accepted: package.attribute"),
        (["base.target=Net"], "base.target=Net; accepted: package.attribute"),
        (["base.target=nowhere.Net"], "base.target=nowhere.Net: cannot import nowhere: ModuleNotFoundError"),
        (["base.target=my_nets_of_a_test.Nat"], "my_nets_of_a_test has no Nat"),
        (["base.target=my_nets_of_a_test.function"], "is not a torch.nn.Module"),
        (["base.target=my_nets_of_a_test.Broken"], "Broken() fails: ValueError: no width; mend base.arguments"),
        (["base.arguments={with: 3}"], "Net(with=3) fails: TypeError"),
        (["base.arguments=3"], "base.arguments=3; accepted: a mapping"),
        (["base.arguments={outputs: 3}"], "gives 3 outputs, the data wants 10"),
    ],
)
def test_a_target_that_cannot_be_used_gets_one_line_and_status_2(here, capsys, line, text):
    given = {word.partition("=")[0] for word in line}
    assert main(["show", *(word for word in LINE if word.partition("=")[0] not in given), *line]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1 and text in shown[0]


def test_the_shape_that_the_module_takes_is_chosen():
    wanted = {"target": "modules.MLP"}
    assert module_config(wanted, [(1, 8, 8), (64,)], 10)["edges"][0]["flatten"]
    with pytest.raises(ConfigError, match="key of base=module 'depth' is not known; accepted: name, target, arguments"):
        module_config({**wanted, "depth": 3}, [(64,)], 10)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.inner(x))


def doubled(module, arguments, output):
    return 2 * output


def buffered(module: nn.Module) -> None:
    weight = module.head.weight.detach()
    del module.head.weight
    module.head.register_buffer("weight", weight)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda m: m.head.register_forward_hook(doubled),
            r"layer 'head' \(Linear\) at .*:\d+: has .* hooks \(doubled\)",
        ),
        (
            lambda m: m.head.register_forward_pre_hook(lambda *_: None),
            r"layer 'head' .*: has forward hooks \(<lambda>\)",
        ),
        (lambda m: m.inner.register_forward_hook(doubled), r"module 'inner' \(Sequential\) at .*: has forward hooks"),
        (lambda m: m.register_forward_hook(doubled), r"module Twice at .*test_module\.py:\d+: has forward hooks"),
        (
            lambda m: prune.l1_unstructured(m.head, "weight", 0.5),
            r"layer 'head' .*: has .*\(L1Unstructured\).*prune\.rem",
        ),
        (lambda m: old_weight_norm(m.head), r"layer 'head' .*: has forward hooks \(WeightNorm\)"),
        (lambda m: old_spectral_norm(m.head), r"layer 'head' .*: has forward hooks \(SpectralNorm\)"),
        (lambda m: parametrizations.weight_norm(m.head), r"'head' .*: computes its weight; accepted: plain Parameters"),
        (lambda m: parametrizations.orthogonal(m.head), r"'head' .*: computes its weight"),
        (lambda m: setattr(m.head, "forward", lambda x: x), r"'head' .*: its forward was replaced"),
        (lambda m: setattr(m, "forward", lambda x: x), r"module Twice .*: its forward was replaced"),
        (buffered, r"layer 'head' \(Linear\) at .*: reads a tensor that is no Parameter of the module"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_what_a_trace_does_not_see_is_refused_by_name_type_and_line(change, text):
    module = Twice()
    change(module)
    with pytest.raises(GraphError, match=text) as caught:
        base_from_module(module, (3,))
    assert "\n" not in str(caught.value)


def test_a_module_that_is_loaded_is_tried(monkeypatch):
    module = Twice()
    network = lifted(module, (3,))
    load_module(network, module)

    # What no check foresees: a layer of a known type that computes something else.
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: x)
    with pytest.raises(GraphError, match=r"load_module: outputs differ by .* on a scale of .* on random samples"):
        load_module(network, module)
