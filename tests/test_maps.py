"""Edge maps and vertex maps: their shapes agree with what they do."""

import math

import numpy as np
import oracles
import pytest
import torch

from rsl_cli.activations import ACTIVATIONS
from rsl_cli.errors import GraphError
from rsl_cli.maps import EDGE_MAPS, Conv, Identity, Linear, Scale, TokenLinear, edge_map
from rsl_cli.vertex_maps import COMBINES

SPACES = [(), (1,), (3,)]


@pytest.mark.parametrize("made", [Scale(), Identity(), Linear(), Linear(1), Linear(2)])
@pytest.mark.parametrize("space", SPACES)
def test_shapes_agree(made, space):
    stencil, weight = made.stencil(space), made.weight_shape(space)
    assert stencil.columns * stencil.width == math.prod(space)
    assert stencil.rows * stencil.width == math.prod(made.output_space(space))
    assert stencil.taps == math.prod(weight or ())
    assert made.fan_in(space) == np.bincount(stencil.row).max()


def test_scale_and_identity_take_any_space():
    for made in (Scale(), Identity()):
        assert made.output_space((3, 8, 8)) == (3, 8, 8)
        assert made.stencil((3, 8, 8)).width == 192
    assert Identity().weight_shape((3,)) is None and Scale().weight_shape((3,)) == ()


@pytest.mark.parametrize("out", [0, -1, 2.5, "2", True])
def test_sizes_of_linear(out):
    with pytest.raises(GraphError) as caught:
        edge_map("linear", {"out": out})
    assert str(caught.value) == f"map 'linear': out={out!r}; accepted: null for a scalar, or a whole number from 1"


def test_a_number_has_one_form():
    made = edge_map("linear", {"out": 2.0})[0]
    assert made == Linear(2) and type(made.identity()["out"]) is int


def test_maps_by_name():
    assert edge_map("linear", {"out": 3}) == (Linear(3), None) and edge_map("linear", {"out": None}) == (Linear(), None)
    needed = {"token_linear": {"out": 2}}
    made = [type(edge_map(name, needed.get(name, {}))[0]) for name in EDGE_MAPS]
    assert set(made) == {Linear, Scale, Conv, TokenLinear, Identity}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    z = torch.linspace(-5, 5, 101, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](z), oracles.ACTIVATIONS[name](z), rtol=1e-12, atol=1e-14)


def test_activations_are_all_compared():
    assert set(ACTIVATIONS) == set(oracles.ACTIVATIONS)


def test_combines():
    a, b, c = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    assert torch.equal(COMBINES["sum"]()({"a": a}), a)
    assert torch.equal(COMBINES["sum"]()({"a": a, "b": b, "c": c}), a + b + c)
    assert torch.equal(COMBINES["product"]()({"a": a, "b": b, "c": c}), a * b * c)
