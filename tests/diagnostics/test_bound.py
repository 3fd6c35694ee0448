import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from rsl_cli.diagnostics.bound import kl_slack, length_bound, loss_bound
from rsl_cli.errors import ConfigError

LOSSES = st.floats(1e-12, 1e3)
KAPPAS = st.floats(1e-9, 1e9)
TIMES = np.concatenate([[0.0], np.geomspace(1e-3, 1e9, 60)])


CASES = [(0.5, 0.0, 0.3), (0.5, 1e-3, 7.0), (20.0, 1.0, 500.0)]


def extremal_flow(loss0, epsilon, kappa, times):
    """Loss and path length of a flow whose gradient is as small as the inequality allows."""

    def gradient(loss):
        return 2 * np.sqrt(loss) * (np.sqrt(loss) - np.sqrt(epsilon)) / np.sqrt(kappa)

    path = solve_ivp(
        lambda _, y: [-(gradient(y[0]) ** 2), gradient(y[0])],
        (0, times[-1]),
        [loss0, 0.0],
        method="LSODA",
        t_eval=times,
        rtol=1e-10,
        atol=1e-14,
    )
    return *path.y, gradient(path.y[0])


@pytest.mark.parametrize(("loss0", "epsilon", "kappa"), CASES)
def test_equality_in_the_inequality_gives_the_bounds(loss0, epsilon, kappa):
    times = np.geomspace(1e-2, 1e3, 12)
    loss, length, gradient = extremal_flow(loss0, epsilon, kappa, times)
    bound = loss_bound(loss0, epsilon, kappa, times)
    if epsilon == 0:
        np.testing.assert_allclose(bound, loss, rtol=1e-6)
    else:
        assert (loss < bound).all() and (bound < 2 * loss).all()
    np.testing.assert_allclose(length_bound(loss0, epsilon, kappa, loss), length, rtol=1e-6)
    np.testing.assert_allclose(kl_slack(loss, gradient, epsilon, kappa), 1.0, rtol=1e-12)


@pytest.mark.parametrize(("loss0", "epsilon", "kappa"), CASES)
def test_the_loss_bound_solves_its_own_equation(loss0, epsilon, kappa):
    """The gap g = s - se to the target's root obeys g' = -2 g^3 / kappa."""
    times = np.geomspace(1e-2, 1e3, 12)
    start = np.sqrt(loss0) - np.sqrt(epsilon)
    path = solve_ivp(lambda _, g: -2 * g**3 / kappa, (0, 1e3), [start], "LSODA", times, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(loss_bound(loss0, epsilon, kappa, times), (path.y[0] + np.sqrt(epsilon)) ** 2, rtol=1e-6)


def test_quadratic_in_one_direction_has_no_slack():
    slope, residual0, epsilon = 0.7, 1.3, 0.02
    times = np.linspace(0, 5, 50)
    residual = residual0 * np.exp(-(slope**2) * times)
    loss = residual**2 / 2
    kappa = np.maximum(residual - np.sqrt(2 * epsilon), 0) ** 2 / slope**2
    slack = kl_slack(loss, slope * residual, epsilon, kappa)
    above = loss > epsilon
    assert 5 < above.sum() < 50 and np.isnan(slack[~above]).all()
    np.testing.assert_allclose(slack[above], 1.0, rtol=1e-9)
    assert (loss[above] <= loss_bound(loss[0], epsilon, kappa[0], times)[above] * (1 + 1e-12)).all()
    moved = (residual0 - residual) / slope
    assert (moved[above] <= length_bound(loss[0], epsilon, kappa[0], loss[above]) * (1 + 1e-12)).all()


def test_stiff_quadratic_stays_under_its_bounds():
    slopes, start = np.array([2.0, 0.5, 0.05]), np.array([1.0, -0.7, 0.2])
    times = np.concatenate([[0.0], np.geomspace(1e-2, 1e4, 200)])
    residual = start * np.exp(-np.outer(times, slopes**2))
    loss, kappa = (residual**2).sum(axis=1) / 2, ((residual / slopes) ** 2).sum(axis=1)
    positive = loss > 1e-100
    gradient = np.sqrt(((slopes * residual) ** 2).sum(axis=1))
    assert np.nanmin(kl_slack(loss, gradient, 0.0, kappa)) >= 1 - 1e-12
    assert (loss <= loss_bound(loss[0], 0.0, kappa[0], times) * (1 + 1e-12)).all()
    moved = np.sqrt((((start - residual) / slopes) ** 2).sum(axis=1))
    assert (moved[positive] <= length_bound(loss[0], 0.0, kappa[0], loss[positive]) * (1 + 1e-12) + 1e-12).all()


def test_limits():
    late = np.array([1e8, 1e12])
    np.testing.assert_allclose(loss_bound(0.5, 0.0, 3.0, late), 3.0 / (4 * late), rtol=1e-7)
    np.testing.assert_allclose(loss_bound(0.5, 1e-30, 3.0, late), 3.0 / (4 * late), rtol=1e-7)
    np.testing.assert_array_equal(loss_bound(0.5, 1e-3, np.inf, TIMES), 0.5)
    np.testing.assert_array_equal(loss_bound(0.5, 0.5, 3.0, TIMES), 0.5)
    np.testing.assert_array_equal(loss_bound(0.5, 2.0, 3.0, TIMES), 0.5)
    np.testing.assert_array_equal(loss_bound(0.5, 1e-3, 0.0, [0.0, 1e-9, np.inf]), [0.5, 1e-3, 1e-3])
    assert loss_bound(0.3, 1e-3, 2.0, 0.0) == 0.3
    assert loss_bound(0.3, 1e-3, 2.0, np.inf) == pytest.approx(1e-3)
    np.testing.assert_array_equal(length_bound(0.5, 1e-3, 3.0, [1e-3, 1e-4, 0.0]), np.inf)
    np.testing.assert_array_equal(length_bound(0.5, 1e-3, np.inf, [0.5, 0.1]), np.inf)
    np.testing.assert_array_equal(length_bound(0.5, 1e-3, 3.0, [0.5, 0.6, np.inf]), 0.0)
    np.testing.assert_array_equal(length_bound(0.5, 0.7, 3.0, [0.5, 0.1]), np.inf)
    np.testing.assert_array_equal(kl_slack(0.1, 1.0, [0.1, 0.2, 0.01, 0.01], [1.0, 1.0, np.inf, 0.0]), np.nan)


@given(LOSSES, LOSSES, KAPPAS)
def test_the_loss_bound_falls_from_the_start_to_epsilon(loss0, epsilon, kappa):
    bound = loss_bound(loss0, epsilon, kappa, TIMES)
    assert bound[0] == loss0
    assert (np.diff(bound) <= 0).all()
    assert (bound >= min(epsilon, loss0)).all()


@given(LOSSES, LOSSES, KAPPAS, st.floats(1, 1e6))
def test_a_larger_kappa_promises_less(loss0, epsilon, kappa, factor):
    tight, loose = (loss_bound(loss0, epsilon, number, TIMES) for number in (kappa, kappa * factor))
    assert (tight <= loose * (1 + 1e-12)).all()
    losses = np.geomspace(loss0, loss0 * 1e-6, 20)
    short, long = (length_bound(loss0, epsilon, number, losses) for number in (kappa, kappa * factor))
    assert (short <= long).all()
    assert (np.diff(short[np.isfinite(short)]) >= 0).all()


@given(LOSSES, KAPPAS, st.floats(0, 0.99))
def test_the_length_bound_is_the_length_at_the_loss_bound(loss0, kappa, share):
    """On the curve of the loss bound the length bound is an explicit function of time."""
    epsilon = share * loss0
    gap0 = (loss0 - epsilon) / (np.sqrt(loss0) + np.sqrt(epsilon))
    times = kappa / gap0**2 * np.array([0.1, 1.0, 10.0])
    expected = np.sqrt(kappa) / 2 * np.log1p(4 * times * gap0**2 / kappa)
    lengths = length_bound(loss0, epsilon, kappa, loss_bound(loss0, epsilon, kappa, times))
    np.testing.assert_allclose(lengths, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss_bound(-1.0, 0.0, 1.0, [1.0]), "loss0 is -1.0, expected numbers >= 0"),
        (lambda: loss_bound(1.0, np.nan, 1.0, [1.0]), "epsilon is nan"),
        (lambda: loss_bound(1.0, 0.0, -2.0, [1.0]), "kappa is -2.0"),
        (lambda: loss_bound(1.0, 0.0, 2.0, [1.0, -3.0]), "times is -3.0"),
        (lambda: loss_bound(np.inf, 0.0, 2.0, [1.0]), "loss0 is inf, expected a finite loss"),
        (lambda: length_bound(1.0, 0.0, np.nan, [1.0]), "kappa is nan"),
        (lambda: length_bound(1.0, 0.0, 1.0, [np.nan]), "loss is nan"),
        (lambda: kl_slack([1.0, -1.0], 1.0, 0.0, 1.0), "loss is -1.0"),
        (lambda: kl_slack(1.0, np.nan, 0.0, 1.0), "grad_norm is nan"),
    ],
)
def test_what_is_no_number_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_the_bounds_load_no_torch():
    code = "import sys, rsl_cli.diagnostics.bound; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
