"""Contracts hold for every part that ships, by the same checks that a user's part meets."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from rsl_cli.activations import ACTIVATIONS
from rsl_cli.diagnostics.probes import PROBES
from rsl_cli.diagnostics.tangent import TangentProbe
from rsl_cli.errors import ConfigError, GraphError, TrainingError
from rsl_cli.graph import BaseGraph
from rsl_cli.kernels.stencil import Stencil
from rsl_cli.laws import LAWS, Student
from rsl_cli.lift import sample_lift
from rsl_cli.liftings import LIFTINGS
from rsl_cli.maps import EDGE_MAPS, Conv, EdgeMap, Identity, Linear, Scale, TokenLinear
from rsl_cli.network import LiftedNetwork
from rsl_cli.portable import model
from rsl_cli.study.executor import EXECUTORS
from rsl_cli.testing import (
    _BASE,
    check_activation,
    check_bias,
    check_combine,
    check_edge_map,
    check_executor,
    check_law,
    check_lifting,
    check_loss,
    check_optimizer,
    check_probe,
    check_stage,
    check_tracker,
    finished_run,
)
from rsl_cli.track import Tracker
from rsl_cli.train.circuits import CircuitObjective
from rsl_cli.train.first_order import FirstOrder
from rsl_cli.train.gauss_newton import gauss_newton
from rsl_cli.train.losses import LOSSES, FunctionLoss, Loss
from rsl_cli.train.objective import Objective
from rsl_cli.train.optimizers import Gd, Optimizer, Sgd
from rsl_cli.vertex_maps import BIASES, COMBINES, NORMS, POOLS

MAPS: dict[str, list[tuple[EdgeMap, list[tuple[int, ...]]]]] = {
    "scale": [(Scale(), [(), (3,), (2, 3, 4)])],
    "identity": [(Identity(), [(), (3,), (2, 3, 4)])],
    "linear": [
        (Linear(), [(), (1,), (3,)]),
        (Linear(2), [(), (3,)]),
        (Linear(2, flatten=True), [(2, 3, 4)]),
        (Linear(2, token=2), [(3, 4)]),
    ],
    "conv": [(Conv(3), [(4, 6), (2, 4, 6)]), (Conv(3, stride=2), [(4, 6)]), (Conv(1, upsample=2), [(3, 2)])],
    "token_linear": [
        (TokenLinear(2), [(3, 4)]),
        (TokenLinear(2, over="tokens"), [(3, 4)]),
        (TokenLinear(2, patch=2), [(4, 6), (2, 4, 6)]),
    ],
}


class Compared(EdgeMap):
    """A map whose reference is the code that is exported for it."""

    def __init__(self, one: EdgeMap) -> None:
        self.one = one

    def output_space(self, space):
        return self.one.output_space(space)

    def stencil(self, space):
        return self.one.stencil(space)

    def weight_shape(self, space):
        return self.one.weight_shape(space)

    def reference(self, weight, y):
        kind = self.one.portable()
        weights = None if weight is None else torch.as_tensor(weight)[None]
        return model.MAPS[kind["name"]](kind, weights, torch.as_tensor(y)[None, None])[0, 0].numpy()


def test_every_map_has_cases():
    assert set(MAPS) == set(EDGE_MAPS)


@pytest.mark.parametrize("name", MAPS)
def test_edge_maps(name):
    for one, spaces in MAPS[name]:
        for space in spaces:
            check_edge_map(one, space)
            check_edge_map(Compared(one), space)
            # What a map says for the sake of speed is what its stencil says.
            assert one.fan_in(space) == EdgeMap.fan_in(one, space)


def test_a_stencil_that_is_not_the_reference_is_refused():
    class Doubled(Compared):
        def reference(self, weight, y):
            return 2 * super().reference(weight, y)

    with pytest.raises(GraphError, match=r"map Doubled on space \(4, 6\): its stencil does not compute what its refer"):
        check_edge_map(Doubled(Conv(3)), (4, 6))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    check_activation(ACTIVATIONS[name], name)


def test_combines_norms_and_pools():
    spaces = {"attention": {"q": (3, 2), "k": (4, 2), "v": (4, 5)}}
    for name, make in COMBINES.items():
        check_combine(make(), spaces.get(name, {"a": (2, 3), "b": (2, 3)}))
    check_combine(COMBINES["attention"](causal=True), {"q": (3, 2), "k": (3, 2), "v": (3, 5)})
    for name, make in NORMS.items():
        for over in ("last", "all"):
            check_stage(make(over=over), (3, 4))
        with pytest.raises(GraphError, match="norm of a scalar"):
            check_stage(NORMS[name](), ())
    for make in POOLS.values():
        check_stage(make(), (4, 6))


@pytest.mark.parametrize("name", sorted({*LIFTINGS} - {"target"}))
def test_liftings(name):
    make = LIFTINGS[name]
    in_degrees = [{"in_degree": k} for k in (1.0, 3.0, 20.0)] if make().bounded else [{}]
    for keys in in_degrees:
        for sizes in [(1, 1), (7, 7), (40, 40), *([] if name == "matching" else [(7, 5), (3, 9)])]:
            check_lifting(make(**keys), *sizes)


@pytest.mark.parametrize("name", LAWS)
def test_laws(name):
    check_law(LAWS[name]())


@pytest.mark.parametrize("name", BIASES)
def test_biases(name):
    for space in ((), (3,), (2, 3, 4)):
        check_bias(BIASES[name], space)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("outputs", [1, 4])
def test_losses(name, outputs):
    check_loss(LOSSES[name], outputs)


def test_probes():
    check_probe(PROBES["drift"])
    check_probe(PROBES["tangent"], settings=TangentProbe(epsilons=(1e-2,), probes=1))
    assert PROBES["coverage"](finished_run(1), etas=[0.5]) is None


@pytest.mark.parametrize("samples", [None, 20])
def test_curvature_of_a_function_is_that_of_the_loss_it_is(samples):
    run = finished_run(20)
    network = LiftedNetwork(run.lift, 1, torch.float64)
    objective = Objective(run_data(), "mse", dtype=torch.float64)
    own = Objective(run_data(), FunctionLoss(lambda o, y: ((o - y) ** 2).sum(-1) / 2, "own"), dtype=torch.float64)
    vector = np.random.default_rng(0).standard_normal(run.lift.parameter_count)
    for one, other in zip(*((gauss_newton(network, o, samples),) for o in (objective, own)), strict=True):
        np.testing.assert_allclose(one.times(vector), other.times(vector), rtol=1e-10)
    assert own.resolution() == pytest.approx(objective.resolution(), rel=1e-6)
    one, other = objective.evaluate(network), own.evaluate(network)
    assert torch.allclose(one.loss, other.loss, rtol=1e-14) and torch.allclose(one.grad_norm, other.grad_norm)


def test_curvature_of_a_linear_loss_is_none():
    loss = FunctionLoss(lambda out, y: (out - y).abs().sum(-1), "absolute")
    out, y = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    assert torch.equal(Loss.root(loss, out, y), torch.zeros(2, 5, 2, dtype=torch.float64))
    check_loss(loss)


def test_executors():
    class Twice(EXECUTORS["local"]):
        def run(self, spec, batches, progress, finished):
            super().run(spec, batches, progress, lambda *told: [finished(*told) for _ in range(2)])

    class Forgets(EXECUTORS["local"]):
        def run(self, spec, batches, progress, finished):
            super().run(spec, batches[1:], progress, finished)

    check_executor(EXECUTORS["local"])
    check_executor(EXECUTORS["process"], workers=1)
    with pytest.raises(TrainingError, match=r"executor .*Twice: told of run n00004-s000-\w+ 2 times"):
        check_executor(Twice)
    with pytest.raises(TrainingError, match=r"Forgets: ended without a word of \d runs, n00004-s000-"):
        check_executor(Forgets)
    with pytest.raises(ConfigError, match=r"executor\.arguments key 'worker' is not known"):
        check_executor(EXECUTORS["process"], worker=1)


def test_trackers():
    class Kept(Tracker):
        module, notes = "json", {}

        def sent(self, key):
            return self.notes.get(key)

        def send(self, note, since):
            self.notes[note.key] = note.mark, len(note.rows)

    class Forgets(Kept):
        def sent(self, key):
            return None

    check_tracker(Kept)
    with pytest.raises(ConfigError, match="of 4 runs again 4 were new to it, 0 changed and 0 known; wanted 0, 0 and 4"):
        check_tracker(Forgets)


def run_data():
    from rsl_cli.data import Dataset

    draw = np.random.default_rng(3)
    x = draw.uniform(-1, 1, (60, 2))
    return Dataset("made", "regression", x, np.sin(x[:, :1]), x[:9], np.sin(x[:9, :1]), 1)


def test_heavy_tails_have_variance_1_and_the_probabilities_of_student():
    from scipy.stats import kstest, t

    law = Student(5.0)
    draws = law.sample(np.random.default_rng(0), (200_000,))
    assert draws.std() == pytest.approx(1, rel=0.02) and abs(draws).max() > 8 and law.support == math.inf
    assert kstest(draws * math.sqrt(5 / 3), t(5).cdf).pvalue > 0.01
    z = np.array([-3.0, 0.0, 0.7])
    np.testing.assert_allclose(law.cdf(z), t(5).cdf(z * math.sqrt(5 / 3)), rtol=1e-12)
    for wrong in (2, -1.0, True, math.nan, "3"):
        with pytest.raises(GraphError, match="accepted: a number above 2"):
            Student(wrong)


class Smoothed(type(LOSSES["cross_entropy"])):
    """A child of a shipped loss whose curvature is its parent's, and whose values are its own."""

    def values(self, out, y):
        return torch.nn.functional.cross_entropy(out, y, reduction="none", label_smoothing=0.2)


class Doubled(type(LOSSES["mse"])):
    """A child that says of itself what is not so."""

    quadratic = True

    def values(self, out, y):
        return (out - y).square().sum(-1)

    def root(self, out, y):
        return 2**0.5 * super().root(out, y)


def test_what_is_said_of_a_loss_is_not_said_of_its_children():
    check_loss(Smoothed())
    assert Smoothed.circuit is None and type(LOSSES["cross_entropy"]).circuit == "softmax"
    data = run_data()
    classes = [(y[:, 0] > 0).astype(np.int64) for y in (data.y_train, data.y_test)]
    data = replace(data, task="classification", y_train=classes[0], y_test=classes[1], outputs=2)
    smoothed, plain = (Objective(data, loss, dtype=torch.float64) for loss in (Smoothed(), "cross_entropy"))
    base = BaseGraph.from_config(_BASE, input_shape=(2,), output_size=2)
    network = LiftedNetwork(sample_lift(base, 4, 0), None, torch.float64)
    assert CircuitObjective.of(network, smoothed) is None and CircuitObjective.of(network, plain) is not None
    with pytest.raises(ConfigError, match="loss mse: says quadratic=True, and its values are not such a loss's"):
        check_loss(Doubled())


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"in_circuits": True}, "says in_circuits=True, and circuits have no loops for it"),
        ({"euler": True}, "says euler=True, and its steps are not those of gradient descent"),
        (
            {"direction": lambda self, gradient, theta, states, numbers: gradient.sign(), "follows_flow": True},
            "says follows_flow=True, and its steps lead elsewhere than the flow",
        ),
        ({"states": ("mean", "mean")}, r"states=\('mean', 'mean'\); accepted: names that differ"),
        ({"numbers": lambda self, step: (float(step),)}, "its step depends on how many there were; say so, counted"),
        ({"rate": lambda self, rate, step: rate / step}, "its step depends on how many there were; say so, counted"),
    ],
)
def test_what_an_optimiser_says_of_itself_is_held_against_it(members, message):
    direction = {"direction": lambda self, gradient, theta, states, numbers: 2 * gradient}
    with pytest.raises(ConfigError, match=f"optimiser Own: {message}"):
        check_optimizer(type("Own", (Optimizer,), direction | members)())


def test_an_optimiser_that_keeps_state_in_itself_is_told_so():
    class Own(Optimizer):
        mean: torch.Tensor | float = 0.0

        def direction(self, gradient, theta, states, numbers):
            self.mean = 0.9 * self.mean + gradient
            return self.mean

    with pytest.raises(ConfigError, match="optimiser Own: goes on otherwise when resumed; keep all its state in"):
        check_optimizer(Own())


def _exits(*_):
    raise SystemExit(3)


def _single(out, y):
    return (out - y).square().sum(1).float()


@pytest.mark.parametrize(
    ("check", "part", "message"),
    [
        (check_loss, lambda out, y: (out - y).square().sum(), r"loss <lambda>: gives shape \(\) from 7 samples"),
        (check_loss, _single, "loss _single: gives torch.float32 from torch.float64; it must keep the type"),
        (check_loss, _exits, "loss _exits: fails with SystemExit: 3"),
        (check_loss, type(LOSSES["mse"]), "loss Squared; accepted: a function of outputs and targets, or an object"),
        (check_loss, 3, "loss 3; accepted: a function of outputs and targets"),
        (partial(check_edge_map, space=(4,)), Scale, r"map Scale is a class; accepted: what it makes, e.g. Scale\(\)"),
        (partial(check_edge_map, space=(4,)), 3, "map: got a int; accepted: a rsl_cli.EdgeMap"),
        (check_optimizer, Gd, "optimiser Gd; accepted: an object of a rsl_cli.Optimizer"),
        (check_activation, _exits, "activation _exits: fails with SystemExit: 3"),
    ],
)
def test_what_is_no_such_part_is_told_what_is_wanted(check, part, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        check(part)


def test_a_plain_function_is_checked_as_the_loss_it_is():
    check_loss(lambda out, y: functional.huber_loss(out, y, reduction="none").sum(1))


def test_a_stencil_of_lists_is_told_what_it_is_to_be_of():
    class Listed(Scale):
        def stencil(self, space):
            own = list(range(math.prod(space)))
            return Stencil(len(own), len(own), 1, own, own, [0] * len(own))  # pyright: ignore[reportArgumentType]

    with pytest.raises(GraphError, match=r"map Listed on space \(4,\): row is a list; accepted: int64"):
        check_edge_map(Listed(), (4,))


def test_what_is_said_of_an_optimiser_is_not_said_of_its_children():
    class Halved(Gd):
        def direction(self, gradient, theta, states, numbers):
            return gradient / 2

    check_optimizer(Halved())
    # What it has from a parent that ships was never its own to say.
    check_optimizer(type("Child", (Sgd,), {})(momentum=0.999))
    claims = ("in_circuits", "euler", "follows_flow")
    assert all(getattr(Gd(), claim) for claim in claims) and not any(getattr(Halved(), claim) for claim in claims)
    data = Objective(run_data(), "mse", dtype=torch.float64)
    base = BaseGraph.from_config(_BASE, input_shape=(2,), output_size=1)
    ends = []
    for optimizer, rate in ((Gd(), 0.05), (Halved(), 0.1)):
        settings = FirstOrder.from_config(
            {"name": "gd", "steps": 7, "learning_rate": rate, "dtype": "float64", "log_per_decade": 1}
        )
        vars(settings)["optimizer"] = optimizer
        ends.append(settings.train(LiftedNetwork(sample_lift(base, 4, 0), None, torch.float64), data)[0].state)
    assert all(torch.allclose(one, other, rtol=1e-9) for one, other in zip(*(e.values() for e in ends), strict=True))
