import numpy as np
import pytest
import torch
from problems import group
from scipy.stats import ks_2samp, wasserstein_distance

from rsl_cli.diagnostics.drift import weight_drift
from rsl_cli.errors import ConfigError
from rsl_cli.graph import BaseGraph
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.network import LiftedNetwork

COLUMNS = ["group", "count", "std_start", "std_end", "ks", "wasserstein", "moved", "occupied", "expected_occupied"]


def network(degree=500, seed=0, kind="normal", base="mlp", **how):
    config = group("base", base)
    for edge in config["edges"][:-1]:
        edge["init"] = {"kind": kind, "gain": 2.0}
    graph = BaseGraph.from_config(config, input_shape=(2,), output_size=1)
    return LiftedNetwork(sample_lift(graph, degree, seed, {"kind": "random", "in_degree": 4}), seed, **how)


def state(net):
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def name_of(net, parameter):
    return next(name for name, other in net.named_parameters() if other is parameter)


def drift(net, end):
    return weight_drift(net, end).set_index("group")


def test_no_training_is_no_drift():
    net = network()
    table = weight_drift(net, state(net))
    assert list(table.columns) == COLUMNS
    assert table["group"].tolist() == [name for name, _ in net.named_parameters()]
    assert table["count"].tolist() == [parameter.numel() for parameter in net.parameters()]
    drawn = table[table["std_start"] > 0]
    assert len(drawn) == 4 and len(table) == 5
    assert (drawn[["ks", "wasserstein", "moved"]] == 0).all(axis=None)
    assert drawn["std_end"].to_numpy() == pytest.approx(drawn["std_start"].to_numpy(), rel=0.1)
    assert (drawn["occupied"] == 1).all()
    assert (drawn["expected_occupied"] > 0.99).all()


@pytest.mark.parametrize("parametrization", ["standard", "mup"])
@pytest.mark.parametrize("kind", ["normal", "uniform", "student"])
@pytest.mark.parametrize("base", ["mlp", "skip", "gated"])
def test_the_law_at_the_start_is_the_one_drawn_from(base, kind, parametrization):
    net = network(4000, kind=kind, base=base, parametrization=parametrization)
    for name, parameter in net.named_parameters():
        row = drift(net, state(net)).loc[name]
        assert row["std_start"] == pytest.approx(float(parameter.detach().std(correction=0)), rel=0.06, abs=1e-12)


def test_known_standard_deviations():
    net = network()
    table = drift(net, state(net))
    # Gain 2 over the square root of the fan-in: two inputs, mean in-degree 4.
    assert table.loc[name_of(net, net.weight("x", "h1")), "std_start"] == pytest.approx(2 / 2**0.5)
    assert table.loc[name_of(net, net.weight("h1", "h2")), "std_start"] == pytest.approx(1.0)
    assert table.loc[name_of(net, net.bias("h2")), "std_start"] == 1.0


def test_weights_twice_as_large():
    net = network(4000)
    table = drift(net, {name: 2 * value for name, value in state(net).items()})
    drawn = table[table["std_start"] > 0]
    ones = np.ones(len(drawn))
    assert drawn["std_end"].to_numpy() == pytest.approx(2 * drawn["std_start"].to_numpy(), rel=0.05)
    # E|2g - g| = sqrt(2/pi), and sup |Phi(z) - Phi(z/2)| = 0.1613 at z^2 = 8 ln(2) / 3.
    assert drawn["wasserstein"].to_numpy() == pytest.approx((2 / np.pi) ** 0.5 * ones, rel=0.05)
    assert drawn["moved"].to_numpy() == pytest.approx(ones, rel=0.05)
    assert drawn["ks"].to_numpy() == pytest.approx(0.1613 * ones, abs=0.03)
    assert (drawn["occupied"] == 1).all()


def test_distances_are_those_of_the_samples():
    net, other = network(50, 0, dtype=torch.float64), network(50, 0, "uniform", dtype=torch.float64)
    table, end = drift(net, state(other)), state(other)
    for name, start in state(net).items():
        one, two, std = start.ravel().numpy(), end[name].ravel().numpy(), table.loc[name, "std_start"]
        assert table.loc[name, "ks"] == pytest.approx(ks_2samp(one, two).statistic)
        if std > 0:
            assert table.loc[name, "wasserstein"] == pytest.approx(wasserstein_distance(one, two) / std)
            assert table.loc[name, "moved"] == pytest.approx(np.linalg.norm(two - one) / len(one) ** 0.5 / std)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_collapsed_law_occupies_one_bin(kind):
    net = network(kind=kind)
    table = drift(net, {name: torch.full_like(value, 0.01) for name, value in state(net).items()})
    drawn = table[table["std_start"] > 0]
    assert (drawn["occupied"] == 1 / 16).all()
    assert (drawn["expected_occupied"] > 0.99).all()
    assert drawn["std_end"].to_numpy() == pytest.approx(np.zeros(len(drawn)), abs=1e-6)
    assert (drawn["ks"] >= 0.45).all()


def test_bins_are_equally_probable():
    net = network(4000, kind="uniform", dtype=torch.float64)
    name = name_of(net, net.weight("h1", "h2"))
    end = state(net)
    width = 2 * 3**0.5
    # The lower half of the support, whose standard deviation is 1 here, is 8 bins of 16.
    end[name] = -(end[name].abs() + 1e-9)
    assert drift(net, end).loc[name, "occupied"] == 0.5
    end[name] = (torch.arange(end[name].numel()) % 3 + 0.5) / 16 * width - width / 2
    assert drift(net, end).loc[name, "occupied"] == 3 / 16


def test_what_leaves_a_bounded_support_is_in_no_bin():
    for kind, occupied in (("uniform", 0), ("normal", 1 / 16)):
        net = network(kind=kind)
        name = name_of(net, net.weight("h1", "h2"))
        end = state(net)
        end[name] = torch.full_like(end[name], 100.0)
        assert drift(net, end).loc[name, "occupied"] == occupied


def test_fresh_draws_occupy_what_is_expected():
    net = network(3)
    name = name_of(net, net.bias("h1"))
    found = []
    for seed in range(100):
        end = state(net) | {name: np.random.default_rng(seed).standard_normal(3)}
        found.append(drift(net, end).loc[name, ["occupied", "expected_occupied"]].to_numpy())
    occupied, expected = np.array(found, dtype=float).T
    assert expected[0] == pytest.approx(1 - (15 / 16) ** 3)
    assert abs(occupied.mean() - expected[0]) < 4 * occupied.std() / 10


def test_a_start_at_zero_has_no_unit():
    net = network()
    name = name_of(net, net.weight("h2", "y"))
    row = drift(net, state(net)).loc[name]
    assert (row["std_start"], row["std_end"], row["ks"]) == (0, 0, 0)
    end = state(net)
    end[name] = torch.linspace(0.1, 1.0, 500)
    row = drift(net, end).loc[name]
    assert (row["count"], row["ks"]) == (500, 1)
    assert row["std_end"] == pytest.approx(float(end[name].std(correction=0)))
    assert row[["wasserstein", "moved", "occupied", "expected_occupied"]].isna().all()


def test_a_group_without_numbers():
    config = group("base", "mlp")
    graph = BaseGraph.from_config(config, input_shape=(2,), output_size=1)
    lifts = (sample_lift(graph, 2, seed, {"kind": "random", "in_degree": 0.1}) for seed in range(100))
    net = LiftedNetwork(next(lift for lift in lifts if not len(lift.edges("h1", "h2")[0])))
    row = drift(net, state(net)).loc[name_of(net, net.weight("h1", "h2"))]
    assert row["count"] == 0
    assert row[COLUMNS[3:]].isna().all()


def test_groups_of_one_number():
    graph = BaseGraph.from_config(group("base", "mlp"), input_shape=(2,), output_size=1)
    net = LiftedNetwork(sample_lift(graph, 1, 0))
    end = state(net)
    for tensor in end.values():
        tensor += 1
    rows = drift(net, end)
    assert 1 in rows["count"].to_numpy() and (rows["ks"] > 0).all()
    assert (rows.loc[rows["count"] == 1, "ks"] == 1).all()


def test_diverged_weights_are_reported_as_they_are():
    net = network()
    name = name_of(net, net.weight("h1", "h2"))
    for value in (float("inf"), float("nan")):
        end = state(net)
        end[name] = torch.full_like(end[name], value)
        row = drift(net, end).loc[name]
        assert not np.isfinite(row[["std_end", "wasserstein", "moved"]].to_numpy(float)).any()


def test_wrong_states_are_refused():
    net = network(3)
    end, name = state(net), name_of(net, net.bias("h1"))
    with pytest.raises(ConfigError, match=f"^end lacks parameter {name}; accepted: "):
        weight_drift(net, {key: value for key, value in end.items() if key != name})
    with pytest.raises(ConfigError, match=r"^start lacks parameter momentum; accepted: "):
        weight_drift(net, end | {"momentum": end[name]})
    with pytest.raises(ConfigError, match=rf"^parameter {name}: shape \(2,\) at the end; accepted: \(3,\)"):
        weight_drift(net, end | {name: end[name][:2]})
    union = LiftedNetwork(disjoint_union([net.lift, net.lift]))
    with pytest.raises(ConfigError, match=r"^start: a union of 2 lifts; accepted: one lift"):
        weight_drift(union, state(union))
