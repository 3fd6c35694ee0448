import math
import re
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import problems
import pytest
import torch
from problems import trained

from rsl_cli.data import Dataset, load_dataset
from rsl_cli.errors import ConfigError, TrainingError
from rsl_cli.graph import BaseGraph
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.train.engines import AutogradEngine, Batches
from rsl_cli.train.first_order import FirstOrder
from rsl_cli.train.objective import Objective
from rsl_cli.train.optimizers import Adam, AdamW, Sgd
from rsl_cli.train.trajectory import COLUMNS, Row, Trajectory, log_grid_steps, log_spaced_steps

DATA = load_dataset(problems.group("dataset", "sine2d", samples=300, test_samples=50))
BASE = BaseGraph.from_config(problems.group("base", "mlp"), input_shape=(2,), output_size=1)
SETTINGS = {
    "adam": problems.first_order("adam", steps=60, batch_size=64, learning_rate=0.03, schedule="cosine"),
    "sgd": problems.first_order("sgd", steps=60, batch_size=64, learning_rate=0.05, options={"momentum": 0.9}),
    "gd": problems.first_order("gd", steps=60, learning_rate=0.05),
}


def union(seeds, degree=8, parametrization="mup"):
    lifts = [sample_lift(BASE, degree, seed, {"kind": "random", "in_degree": 4}) for seed in seeds]
    return LiftedNetwork(disjoint_union(lifts), parametrization=parametrization)


class Memory:
    """Keeps what is saved at one step; raises there if told to."""

    def __init__(self, step=0, interrupt=False, saved=()):
        self.step, self.interrupt, self.calls, self.saved = step, interrupt, 0, list(saved)

    def load(self):
        return self.saved

    def due(self):
        self.calls += 1
        return self.calls == self.step

    def save(self, replicas):
        self.saved = [({name: array.copy() for name, array in arrays.items()}, dict(text)) for arrays, text in replicas]
        if self.interrupt:
            raise KeyboardInterrupt


def carried(make, objective, settings):
    """Results of training in several rounds, each going on from what the one before saved, alone or united anew."""
    results = []
    for one in settings:
        saved = [result.saved for result in results]
        results = trained(make(), objective, one, checkpointer=Memory(saved=saved))
    return results


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_resumed_training_is_the_uninterrupted_one_bit_for_bit(settings):
    objective = Objective(DATA, "mse", dtype=torch.float32)
    whole = trained(union([0, 1]), objective, settings)
    checkpointer = Memory(8, interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        trained(union([0, 1]), objective, settings, checkpointer=checkpointer)
    resumed = trained(union([0, 1]), objective, settings, checkpointer=checkpointer)
    for one, other in zip(whole, resumed, strict=True):
        problems.assert_same_training(one, other)


@pytest.mark.parametrize(("name", "base"), [("adam", "mlp"), ("sgd", "mlp"), ("gd", "mlp"), ("adam", "normalised")])
def test_a_constant_rate_is_carried_on_as_if_in_one_go_whatever_the_union(name, base):
    settings = replace(SETTINGS[name], schedule="constant", stationary=0.0)
    x, y = (np.random.default_rng(0).standard_normal((100, *shape)) for shape in ((4, 4), (1,)))
    data = DATA if base == "mlp" else Dataset("made", "regression", x, y, x[:5], y[:5], 1)
    config = problems.normalised() if base == "normalised" else problems.group("base", base)
    graph = BaseGraph.from_config(config, input_shape=data.input_shape, output_size=1)
    objective = Objective(data, "mse", dtype=torch.float32)

    def make(*seeds):
        lifts = [sample_lift(graph, 3, seed, {"kind": "random", "in_degree": 2}) for seed in seeds]
        return LiftedNetwork(disjoint_union(lifts), parametrization="mup")

    whole = trained(make(0, 1, 2), objective, replace(settings, steps=20))
    # 5 and 11 are no steps of the grid: the samples taken there do not stay.
    rounds = [replace(settings, steps=steps) for steps in (0, 5, 11)]
    parts = carried(lambda: make(0, 1, 2), objective, rounds)
    assert [row[0] for row in parts[0].trajectory.rows[-2:]] == [10, 11]
    for seeds in ([2], [0, 1]):
        checkpointer = Memory(saved=[parts[seed].saved for seed in seeds])
        ends = trained(make(*seeds), objective, replace(settings, steps=20), checkpointer=checkpointer)
        for seed, end in zip(seeds, ends, strict=True):
            problems.assert_same_training(end, whole[seed])


def test_less_than_what_is_saved_ends_where_it_stands():
    objective = Objective(DATA, "mse", dtype=torch.float32)
    checkpointer = Memory(6, interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        trained(union([0]), objective, SETTINGS["gd"], checkpointer=checkpointer)
    (less,) = trained(union([0]), objective, replace(SETTINGS["gd"], steps=2), checkpointer=checkpointer)
    assert less.stop_reason == "budget" and 2 < less.trajectory.last["step"] < 60
    more = trained(union([0]), objective, SETTINGS["gd"], checkpointer=Memory(saved=[less.saved]))
    problems.assert_same_training(more[0], trained(union([0]), objective, SETTINGS["gd"])[0])


def test_what_ended_for_good_goes_no_further():
    data, _ = problems.least_squares()
    objective = Objective(data, "mse", dtype=torch.float64)
    rounds = [problems.first_order("gd", steps, 0.3, dtype="float64", stationary=1e-6) for steps in (5000, 9000)]

    def make():
        return LiftedNetwork(sample_lift(problems.linear_base(3), 1), dtype=torch.float64)

    once, twice = (carried(make, objective, rounds[:count])[0] for count in (1, 2))
    assert twice.stop_reason == "stationary"
    problems.assert_same_training(once, twice)


def test_states_of_several_steps_are_refused():
    objective = Objective(DATA, "mse", dtype=torch.float32)
    saved = [trained(union([seed]), objective, replace(SETTINGS["gd"], steps=seed + 1))[0].saved for seed in (0, 1)]
    with pytest.raises(TrainingError, match=r"another network"):
        trained(union([0, 1]), objective, SETTINGS["gd"], checkpointer=Memory(saved=saved))


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.1, 0.01]),
        (
            "cosine",
            [1, (1 + 0.5**0.5) / 2, 0.5, 0.5 * (1 + math.cos(0.9 * math.pi)), 0.5 * (1 - math.cos(0.01 * math.pi))],
        ),
        ("wsd", [0.2, 1, 1, 0.5, 0.05]),
    ],
)
def test_schedules(schedule, factors):
    settings = problems.first_order("adam", steps=100, schedule=schedule)
    computed = settings.factors(range(100))
    np.testing.assert_allclose(computed[[0, 25, 50, 90, 99]], factors, rtol=1e-9)
    assert computed.max() <= 1 and computed.min() > 0
    assert (settings.identity()["name"], "steps" in settings.identity()) == ("adam", schedule != "constant")


@pytest.mark.parametrize("parametrization", ["standard", "ntk", "mup"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_union_trains_each_replica_as_if_alone(settings, parametrization):
    objective = Objective(DATA, "mse", dtype=torch.float32)
    together = trained(union([0, 3, 5], parametrization=parametrization), objective, settings)
    for seed, result in zip([0, 3, 5], together, strict=True):
        (alone,) = trained(union([seed], parametrization=parametrization), objective, settings)
        np.testing.assert_array_equal(np.array(result.trajectory.rows), np.array(alone.trajectory.rows))
        assert all(torch.equal(result.state[name], alone.state[name]) for name in alone.state)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_union_of_several_degrees_trains_each_as_if_alone(settings):
    objective = Objective(DATA, "mse", dtype=torch.float32)
    lifts = [sample_lift(BASE, degree, degree, {"kind": "random", "in_degree": 4}) for degree in (3, 16, 8)]
    together = trained(LiftedNetwork(disjoint_union(lifts), parametrization="mup"), objective, settings)
    for lift, result in zip(lifts, together, strict=True):
        network = LiftedNetwork(lift, None, parametrization="mup")
        (alone,) = trained(network, objective, settings)
        problems.assert_same_training(result, alone)
        state = torch.cat([part.reshape(-1) for part in result.state.values()])
        assert torch.equal(torch.nn.utils.parameters_to_vector(network.parameters()), state)


def test_gradient_descent_reaches_the_least_squares_solution_and_says_so():
    data, least = problems.least_squares()
    network = LiftedNetwork(sample_lift(problems.linear_base(3), 1), dtype=torch.float64)
    settings = problems.first_order("gd", steps=5000, learning_rate=0.3, dtype="float64", stationary=1e-6)
    (result,) = trained(network, Objective(data, "mse", dtype=torch.float64), settings)
    assert result.stop_reason == "stationary"
    assert result.trajectory.last["loss"] == pytest.approx(least, rel=1e-9)
    assert result.trajectory.last["time"] == pytest.approx(0.3 * result.trajectory.last["step"])


def test_gradient_descent_follows_the_flow_with_first_order_accuracy():
    data, _ = problems.least_squares()
    errors = []
    x, y = data.x_train, data.y_train
    for rate in (0.02, 0.01):
        network = LiftedNetwork(sample_lift(problems.linear_base(3), 1), dtype=torch.float64)
        start = network.weight("x", "y").detach().numpy().copy().ravel()
        settings = problems.first_order("gd", steps=round(1 / rate), learning_rate=rate, dtype="float64")
        trained(network, Objective(data, "mse", dtype=torch.float64), settings)
        covariance, target = x.T @ x / len(x), (x.T @ y / len(x)).ravel()
        values, vectors = np.linalg.eigh(covariance)
        best = np.linalg.solve(covariance, target)
        exact = best + vectors @ (np.exp(-values) * (vectors.T @ (start - best)))
        errors.append(np.linalg.norm(network.weight("x", "y").detach().numpy().ravel() - exact))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_divergence_of_one_replica_is_caught_and_leaves_the_others_alone():
    objective = Objective(DATA, "mse", dtype=torch.float32)
    settings = problems.first_order("gd", steps=50, learning_rate=0.05)
    network = union([0, 1, 2])
    with torch.no_grad():
        network.replica_tensors(dict(network.named_parameters()), 1)[next(iter(network.segments()))].fill_(torch.nan)
    results = trained(network, objective, settings)
    assert [result.stop_reason for result in results] == ["budget", "diverged", "budget"]
    (alone,) = trained(union([2]), objective, settings)
    assert results[2].trajectory == alone.trajectory


def test_a_rate_too_large_ends_as_diverged():
    data, _ = problems.least_squares()
    network = LiftedNetwork(sample_lift(problems.linear_base(3), 1))
    (result,) = trained(
        network, Objective(data, "mse", dtype=torch.float32), problems.first_order("gd", steps=2000, learning_rate=50.0)
    )
    assert result.stop_reason == "diverged"
    assert result.trajectory.last["step"] < 2000


def test_no_steps_still_gives_the_start():
    (result,) = trained(union([0]), Objective(DATA, "mse", dtype=torch.float32), problems.first_order("gd", steps=0))
    assert result.stop_reason == "budget"
    assert [row[0] for row in result.trajectory.rows] == [0]
    assert result.trajectory.last["distance"] == 0


def test_a_checkpoint_of_another_network_is_refused():
    objective = Objective(DATA, "mse", dtype=torch.float32)
    checkpointer = Memory(3, interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        trained(union([0]), objective, SETTINGS["adam"], checkpointer=checkpointer)
    with pytest.raises(TrainingError, match="another network"):
        trained(union([0], degree=16), objective, SETTINGS["adam"], checkpointer=checkpointer)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_losses_and_accuracy_against_a_loop(loss):
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((31, 2)), draw.integers(3, size=31)
    data = Dataset("made", "classification", x, y, x[:9], y[:9], 3)
    base = BaseGraph.from_config(problems.group("base", "shallow"), input_shape=(2,), output_size=3)
    network = LiftedNetwork(sample_lift(base, 5), dtype=torch.float64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.as_tensor(draw.standard_normal(tuple(parameter.shape))))
    evaluation = Objective(data, loss, dtype=torch.float64).evaluate(network)
    out = network(torch.as_tensor(x)).detach().numpy()
    expected = 0.0
    for row, label in zip(out, y, strict=True):
        if loss == "mse":
            expected += 0.5 * np.sum((row - np.eye(3)[label]) ** 2) / len(y)
        else:
            expected += (np.log(np.exp(row).sum()) - row[label]) / len(y)
    assert evaluation.loss.item() == pytest.approx(expected, rel=1e-12)
    assert evaluation.accuracy.item() == pytest.approx(np.mean(out[:9].argmax(1) == y[:9]))


def test_every_sample_is_seen_once_an_epoch_and_each_seed_has_its_own_order():
    from rsl_cli.train.engines import Batches

    objective = Objective(DATA, "mse", dtype=torch.float32)
    batches = Batches(objective, [0, 1], 50)
    seen = np.concatenate([batches.at(step) for step in range(6)], axis=1)
    assert np.sort(seen, axis=1).tolist() == [list(range(300))] * 2
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(batches.at(6), batches.at(0))


def test_trajectory_table_and_slope():
    rows = tuple(Row(step, math.nan, 4.0 / step, 1.0, 0.5, 2.0) for step in (1, 10, 50, 100))
    trajectory = Trajectory(rows)
    assert tuple(trajectory.to_frame().columns) == COLUMNS
    assert trajectory.log_slope() == pytest.approx(-1)
    assert math.isnan(Trajectory(rows[:1]).log_slope())


def test_the_grid_of_a_longer_run_has_that_of_a_shorter_one():
    for per_decade in (1, 3, 8, 1000):
        grids = [log_grid_steps(total, per_decade) for total in (0, 1, 7, 10, 999, 1000, 123456)]
        assert grids[0] == [0] and {0, 1, 10, 100, 1000, 10000, 100000} <= set(grids[-1])
        for (shorter, longer), total in zip(pairwise(grids), (0, 1, 7, 10, 999, 1000), strict=True):
            assert shorter == [step for step in longer if step <= total]


def test_log_spaced_steps():
    assert log_spaced_steps(0, 8) == [0]
    assert log_spaced_steps(1, 8) == [0, 1]
    steps = log_spaced_steps(1000, 4)
    assert steps[0] == 0 and steps[-1] == 1000 and len(steps) <= 14
    assert steps == sorted(set(steps))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steps": -1}, "trainer.steps=-1; accepted: a whole number from 0"),
        ({"steps": True}, "trainer.steps=True; accepted: a whole number from 0"),
        ({"steps": 10**20}, "trainer.steps=100000000000000000000; accepted: a whole number from 0 to 1000000000"),
        ({"steps": 10**400}, "trainer.steps=1000000000"),
        ({"steps": 2.5}, "trainer.steps=2.5; accepted: a whole number from 0"),
        ({"log_per_decade": 10**9}, "trainer.log_per_decade=1000000000; accepted: a whole number from 1 to 1000"),
        ({"batch_size": 10**24}, "accepted: null or a whole number from 1 to 1000000000"),
        ({"learning_rate": 1e308}, "accepted: a number above 0, to 1e+38"),
        ({"learning_rate": 10**400}, "accepted: a number above 0, to 1e+38"),
        ({"stationary": math.inf}, "trainer.stationary=inf; accepted: a number from 0 to 1e+06"),
        ({"schedule": "step"}, "trainer.schedule='step'; accepted: constant, cosine, linear or wsd"),
        ({"learning_rate": 0}, "trainer.learning_rate=0; accepted: a number above 0"),
        ({"learning_rate": math.nan}, "trainer.learning_rate=nan; accepted: a number above 0"),
        ({"momentum": 1.0, "name": "sgd"}, "trainer.momentum=1.0; accepted: a number from 0 to below 1"),
        ({"momentum": 0.5}, "trainer key 'momentum' is not known"),
        ({"name": "gd", "batch_size": 5}, "trainer key 'batch_size' is not known"),
        ({"name": "adm"}, "trainer.name 'adm' is not known; accepted: adam, sgd, gd"),
        ({"stepz": 5}, "trainer key 'stepz' is not known; accepted: .*did you mean 'steps'?"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(change, text):
    with pytest.raises(ConfigError, match=re.escape(text).replace(r"\.\*", ".*")) as caught:
        FirstOrder.from_config({"name": "adam"} | change)
    assert "\n" not in str(caught.value)


def test_cross_entropy_of_numbers_is_refused():
    with pytest.raises(ConfigError, match="needs classes"):
        Objective(DATA, "cross_entropy", dtype=torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: steps are captured as its graph")
def test_captured_steps_are_those_launched_one_by_one():
    base = problems.linear_base(3)
    data, _ = problems.least_squares()
    results = []
    for device in ("cuda", "cpu"):
        lifts = [sample_lift(base, 1, seed) for seed in range(2)]
        network = LiftedNetwork(disjoint_union(lifts), dtype=torch.float64).to(device)
        objective = Objective(data, "mse", dtype=torch.float64, device=device)
        batches = Batches(objective, [0, 1], 8)
        engine = AutogradEngine(network, objective, batches, Adam())
        assert (engine.captured is not None) == (device == "cuda")
        assert engine.advance([0, 1], range(0, 20), np.linspace(0.1, 0.01, 20)) == {}
        # A checkpoint on the way, into which a captured graph must not go on writing.
        engine.resume({name: tensor.clone() for name, tensor in engine.state().items()})
        engine.advance([0, 1], range(20, 40), np.full(20, 0.01))
        results.append(torch.cat([p.detach().cpu().reshape(-1) for p in network.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("optimizer", "torchs"),
    [
        (Adam(), torch.optim.Adam),
        (Sgd(0.0), torch.optim.SGD),
        (Sgd(0.9), partial(torch.optim.SGD, momentum=0.9)),
        (Sgd(0.9, nesterov=True), partial(torch.optim.SGD, momentum=0.9, nesterov=True)),
        (AdamW(0.3, 0.8, 0.95), partial(torch.optim.AdamW, weight_decay=0.3, betas=(0.8, 0.95))),
    ],
)
def test_a_union_of_degrees_steps_as_torchs_optimisers_do_each_alone(optimizer, torchs):
    base = BaseGraph.from_config(problems.group("base", "cnn"), input_shape=(4, 4), output_size=1)
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((30, 4, 4)), draw.standard_normal((30, 1))
    objective = Objective(Dataset("made", "regression", x, y, x[:5], y[:5], 1), "mse", dtype=torch.float64)
    lifts = [sample_lift(base, degree, seed) for seed, degree in enumerate((3, 5, 3))]
    union = LiftedNetwork(disjoint_union(lifts), None, torch.float64, "mup")
    rates, batches = np.linspace(0.03, 0.01, 20), Batches(objective, [0, 1, 2], 8)
    engine = AutogradEngine(union, objective, batches, optimizer)
    engine.advance(range(3), range(10), rates[:10])
    # What it goes on from need not be its own.
    other = AutogradEngine(
        LiftedNetwork(disjoint_union(lifts), [7, 7, 7], torch.float64, "mup"), objective, batches, optimizer
    )
    other.resume(engine.state())
    other.advance(range(3), range(10, 20), rates[10:])
    for replica, lift in enumerate(lifts):
        alone = LiftedNetwork(lift, None, torch.float64, "mup")
        scales = alone.learning_rate_scales(adaptive=optimizer.adaptive)
        groups = [{"params": [p], "scale": scales[name]} for name, p in alone.named_parameters()]
        theirs = torchs(groups, lr=1.0)
        for step, rate in enumerate(rates):
            for group in theirs.param_groups:
                group["lr"] = rate * group["scale"]
            chosen = batches.at(step)[replica]
            theirs.zero_grad()
            (0.5 * (alone(objective.x[chosen]) - objective.y[chosen]).square().mean()).backward()
            theirs.step()
        for name, part in other.parameters(replica).items():
            torch.testing.assert_close(part, alone.get_parameter(name).detach(), rtol=1e-9, atol=1e-12)


def test_the_step_of_each_divergence_is_told():
    data, _ = problems.least_squares()
    network = LiftedNetwork(disjoint_union([sample_lift(problems.linear_base(3), 1, seed) for seed in range(2)]))
    objective = Objective(data, "mse", dtype=torch.float32)
    engine = AutogradEngine(network, objective, Batches(objective, [0, 1], 8), Sgd())
    with torch.no_grad():
        next(network.parameters())[1] = 1e18
    diverged = engine.advance([0, 1], range(5, 25), np.full(20, 1e3))
    # Errors grow by about 1e3 a step; float32 ends at 3e38, and the loss is a square.
    assert diverged[1] in (5, 6) and 5 + 4 < diverged[0] < 25
    assert engine.advance([0], range(25, 27), np.ones(2)) == {0: 25}
