"""Edge maps and vertex maps: their shapes agree with what they do."""

import math

import oracles
import pytest
import torch

from rsl_cli.errors import GraphError
from rsl_cli.maps import ACTIVATIONS, COMBINES, EDGE_MAPS, Identity, Linear, Scale, edge_map

SPACES = [(), (1,), (3,)]


@pytest.mark.parametrize("made", [Scale(), Identity(), Linear(), Linear(1), Linear(2)])
@pytest.mark.parametrize("space", SPACES)
def test_shapes_agree(made, space):
    block, weight = made.block(space), made.weight_shape(space)
    assert block.columns * block.width == math.prod(space)
    assert block.rows * block.width == math.prod(made.output_space(space))
    assert weight is None or math.prod(weight) == block.rows * block.columns
    assert made.fan_in(space) == block.columns


def test_scale_and_identity_take_any_space():
    for made in (Scale(), Identity()):
        assert made.output_space((3, 8, 8)) == (3, 8, 8)
        assert made.block((3, 8, 8)).width == 192
    assert Identity().weight_shape((3,)) is None and Scale().weight_shape((3,)) == ()


@pytest.mark.parametrize("out", [0, -1, 2.0, "2", True])
def test_sizes_of_linear(out):
    with pytest.raises(GraphError) as caught:
        edge_map("linear", {"out": out})
    assert str(caught.value) == f"map 'linear': out={out!r}; accepted: a whole number from 1, or nothing for a scalar"


def test_maps_by_name():
    assert edge_map("linear", {"out": 3}) == Linear(3) and edge_map("linear", {"out": None}) == Linear()
    assert [type(edge_map(name, {})) for name in EDGE_MAPS] == [Linear, Scale, Identity]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    z = torch.linspace(-5, 5, 101, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](z), oracles.ACTIVATIONS[name](z), rtol=1e-12, atol=1e-14)


def test_activations_are_all_compared():
    assert set(ACTIVATIONS) == set(oracles.ACTIVATIONS)


def test_combines():
    a, b, c = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    assert torch.equal(COMBINES["sum"]({"a": a}), a)
    assert torch.equal(COMBINES["sum"]({"a": a, "b": b, "c": c}), a + b + c)
    assert torch.equal(COMBINES["product"]({"a": a, "b": b, "c": c}), a * b * c)
