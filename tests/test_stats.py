"""Trend, fit and intervals against known laws, exact formulas and brute force."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from rsl_cli import stats

PARAMS = 13.0 * 2.0 ** np.arange(4, 11)


def noisy(law: np.ndarray, seeds: int = 5, noise: float = 0.3, draw: int = 0) -> np.ndarray:
    random = np.random.default_rng(draw)
    return law * np.exp(noise * random.standard_normal((seeds, law.size)))


class TestPageTrend:
    def test_exact_p_value_is_that_of_all_permutations(self) -> None:
        losses = np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [2.0, 3.0, 1.0]])
        weights = np.arange(3, 0, -1)
        ranks = scipy_stats.rankdata(losses, axis=1)
        observed = float((ranks * weights).sum())
        rows = [float(np.dot(row, weights)) for row in itertools.permutations((1, 2, 3))]
        sums = [sum(choice) for choice in itertools.product(rows, repeat=3)]
        trend = stats.page_trend(losses)
        assert trend is not None
        assert trend.statistic == observed
        assert trend.p_value == pytest.approx(np.mean([value >= observed for value in sums]))
        assert (trend.direction, trend.method, trend.seeds, trend.lifts) == ("falling", "exact", 3, 3)

    def test_rising_is_the_mirror_of_falling(self) -> None:
        losses = noisy(PARAMS**-1.0)
        forward, backward = stats.page_trend(losses), stats.page_trend(losses[:, ::-1])
        assert forward is not None
        assert backward is not None
        assert forward.p_value == pytest.approx(backward.p_rising, rel=1e-6)
        assert (forward.direction, backward.direction) == ("falling", "rising")

    @pytest.mark.parametrize("bad", [math.inf, math.nan])
    def test_a_diverged_run_ranks_worst(self, bad: float) -> None:
        losses = np.tile([4.0, 3.0, 2.0, 1.0], (4, 1))
        worst = losses.copy()
        worst[0, 3], losses[0, 3] = bad, 100.0
        assert stats.page_trend(worst) == stats.page_trend(losses)

    def test_ties_are_no_trend(self) -> None:
        trend = stats.page_trend(np.ones((5, 4)))
        assert trend is not None
        assert trend.p_value > 0.4
        assert trend.p_rising > 0.4

    @pytest.mark.parametrize("shape", [(2, 5), (5, 2), (0, 0), (1, 1)])
    def test_too_few(self, shape: tuple[int, int]) -> None:
        assert stats.page_trend(np.ones(shape)) is None

    def test_a_lift_with_gaps_is_left_out_before_seeds_are(self) -> None:
        losses = np.tile([4.0, 3.0, 2.0, 1.0, 0.5], (4, 1))
        present = np.ones_like(losses, dtype=bool)
        present[1:, 4] = False
        trend = stats.page_trend(losses, present)
        assert trend is not None
        assert (trend.seeds, trend.lifts) == (4, 4)

    @pytest.mark.parametrize("shape", [(3, 9), (12, 10)])
    def test_the_asymptotic_level_holds_without_a_trend(self, shape: tuple[int, int]) -> None:
        random = np.random.default_rng(1)
        trends = [stats.page_trend(random.random(shape)) for _ in range(1500)]
        assert {trend.method for trend in trends if trend} == {"asymptotic"}
        rejected = np.mean([trend.p_value < 0.05 for trend in trends if trend])
        assert 0.03 < rejected < 0.07


class TestTailRise:
    def test_a_turn_is_found(self) -> None:
        tail = stats.tail_rise(noisy(np.array([8.0, 4.0, 2.0, 1.0, 5.0]), noise=0.1))
        assert tail is not None
        assert tail.lowest == 3
        assert tail.ratio == pytest.approx(5, rel=0.3)
        assert tail.p_value < 0.05

    def test_none_if_the_last_lift_is_the_lowest(self) -> None:
        assert stats.tail_rise(noisy(PARAMS**-1.0)) is None
        assert stats.tail_rise(np.zeros((5, 4))) is None
        assert stats.tail_rise(np.ones((5, 1))) is None

    def test_a_diverged_last_lift_is_infinitely_worse(self) -> None:
        losses = noisy(PARAMS**-1.0)
        losses[:, -1] = math.nan
        tail = stats.tail_rise(losses)
        assert tail is not None
        assert tail.ratio == math.inf
        assert tail.p_value < 0.05

    def test_flat_noise_seldom_looks_like_a_turn(self) -> None:
        found = [stats.tail_rise(noisy(np.ones(6), draw=draw)) for draw in range(200)]
        assert sum(tail is not None and tail.p_value < 0.05 for tail in found) <= 10


class TestFit:
    @pytest.mark.parametrize("exponent", [0.3, 1.0, 8.0])
    @pytest.mark.parametrize("draw", range(3))
    def test_a_pure_power_law_has_its_exponent_and_no_floor(self, exponent: float, draw: int) -> None:
        fit = stats.fit_power_law(PARAMS, noisy(0.1 * (PARAMS / 100) ** -exponent, draw=draw))
        assert fit is not None
        assert not fit.floor_visible
        assert fit.exponent == pytest.approx(exponent, abs=0.15)
        assert fit.exponent_ci[0] - 0.05 <= exponent <= fit.exponent_ci[1] + 0.05
        assert 0.2 < fit.sigma < 0.4

    @pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-14])
    @pytest.mark.parametrize("draw", range(3))
    def test_a_floor_is_recovered_at_any_scale(self, scale: float, draw: int) -> None:
        law = scale * (2e-3 + 10 * (PARAMS / 100) ** -2.5)
        fit = stats.fit_power_law(PARAMS, noisy(law, draw=draw))
        assert fit is not None
        assert fit.floor_visible
        assert fit.floor == pytest.approx(2e-3 * scale, rel=0.35)
        assert fit.floor_ci[0] <= fit.floor <= fit.floor_ci[1]
        assert fit.exponent == pytest.approx(2.5, abs=0.35)
        np.testing.assert_allclose(fit.predict(PARAMS), law, rtol=0.6)

    def test_a_floor_at_a_single_lift_is_only_suspected(self) -> None:
        fit = stats.fit_power_law(PARAMS, noisy(2e-3 + 2e-3 * (PARAMS[-1] / 1.3 / PARAMS) ** 2, noise=0.05))
        assert fit is not None
        assert fit.floor_suspected
        assert not fit.floor_visible
        assert fit.floor == pytest.approx(2e-3, rel=0.2)

    def test_without_noise_the_law_is_exact(self) -> None:
        law = 1e-3 + 5 * (PARAMS / 100) ** -2.5
        fit = stats.fit_power_law(PARAMS, np.tile(law, (3, 1)))
        assert fit is not None
        assert fit.floor_visible
        assert fit.exponent == pytest.approx(2.5, rel=1e-4)
        assert fit.floor == pytest.approx(1e-3, rel=1e-3)
        np.testing.assert_allclose(fit.predict(PARAMS), law, rtol=1e-3)

    @pytest.mark.parametrize("draw", range(4))
    def test_flat_losses_have_exponent_zero(self, draw: int) -> None:
        fit = stats.fit_power_law(PARAMS, noisy(np.full(7, 0.1), draw=draw, seeds=8))
        assert fit is not None
        assert fit.exponent_ci[0] <= 0 <= fit.exponent_ci[1]
        assert not fit.floor_visible

    def test_rising_losses_have_a_negative_exponent(self) -> None:
        fit = stats.fit_power_law(PARAMS, noisy(1e-3 * PARAMS**0.4))
        assert fit is not None
        assert fit.exponent_ci[1] < 0
        assert not fit.floor_visible

    def test_a_bend_that_goes_on_falling_is_no_floor(self) -> None:
        law = np.array([1e-3, 7e-6, 2e-7, 5e-8, 2e-8, 4e-9])
        fit = stats.fit_power_law(13 * np.array([4, 8, 16, 32, 64, 96]), noisy(law))
        assert fit is not None
        assert fit.floor_p_value < 0.05
        assert not fit.floor_visible

    def test_what_the_arithmetic_cannot_resolve_is_no_floor(self) -> None:
        law = noisy(1e-3 * (PARAMS / 200) ** -12.0)
        clamped = np.maximum(law, 1e-17)
        naive, censored = stats.fit_power_law(PARAMS, clamped), stats.fit_power_law(PARAMS, clamped, 1.01e-17)
        assert naive is not None
        assert censored is not None
        assert naive.floor_visible
        assert not censored.floor_visible
        assert censored.exponent == pytest.approx(12, abs=0.5)

    def test_diverged_runs_and_gaps_are_left_out(self) -> None:
        losses = noisy(50 / PARAMS)
        losses[0, 2], losses[1, 5], losses[3, 3] = math.inf, math.nan, 0.0
        fit = stats.fit_power_law(PARAMS, losses, np.where(losses == 0, 1.0, 1e-30))
        assert fit is not None
        assert fit.exponent == pytest.approx(1.0, abs=0.2)

    def test_params_may_differ_by_seed(self) -> None:
        random = np.random.default_rng(3)
        params = PARAMS * random.uniform(0.8, 1.2, (5, 7))
        fit = stats.fit_power_law(params, 50 / params)
        assert fit is not None
        assert fit.exponent == pytest.approx(1.0, abs=1e-6)
        assert fit.exponent_ci == pytest.approx((1.0, 1.0), abs=1e-5)

    @pytest.mark.parametrize("losses", [np.ones((2, 5)), np.ones((5, 2)), np.full((5, 5), np.inf), np.zeros((5, 5))])
    def test_too_little_to_fit(self, losses: np.ndarray) -> None:
        assert stats.fit_power_law(np.arange(1.0, losses.shape[1] + 1), losses) is None

    def test_is_the_same_each_time(self) -> None:
        losses = noisy(50 / PARAMS)
        assert stats.fit_power_law(PARAMS, losses) == stats.fit_power_law(PARAMS, losses)

    def test_the_interval_covers(self) -> None:
        fits = [stats.fit_power_law(PARAMS, noisy(50 / PARAMS, draw=draw), resamples=100) for draw in range(40)]
        covered = sum(fit is not None and fit.exponent_ci[0] <= 1 <= fit.exponent_ci[1] for fit in fits)
        assert covered >= 34
        assert sum(fit is not None and fit.floor_visible for fit in fits) <= 3


class TestSuccess:
    @given(st.integers(1, 60).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))), st.floats(0.5, 0.999))
    @settings(max_examples=60, deadline=None)
    def test_clopper_pearson_is_the_beta_formula(self, counts: tuple[int, int], confidence: float) -> None:
        k, m = counts
        share = stats.clopper_pearson(k, m, confidence)
        tail = (1 - confidence) / 2
        low = 0.0 if k == 0 else scipy_stats.beta.ppf(tail, k, m - k + 1)
        high = 1.0 if k == m else scipy_stats.beta.ppf(1 - tail, k + 1, m - k)
        assert share.low == pytest.approx(low, abs=1e-8)
        assert share.high == pytest.approx(high, abs=1e-8)
        assert share.low <= k / m <= share.high

    def test_no_run_says_nothing(self) -> None:
        assert stats.clopper_pearson(0, 0) == stats.Proportion(0, 0, 0.0, 1.0)

    @given(
        st.dictionaries(
            st.sampled_from([4, 8, 16, 32, 64]), st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1
        ),
        st.sampled_from([0.05, 0.1, 0.3, 0.5]),
    )
    @settings(max_examples=100, deadline=None)
    def test_learning_number_by_brute_force(self, counts: dict[int, tuple[int, int]], delta: float) -> None:
        row = {lift: stats.clopper_pearson(min(k, m), m) for lift, (k, m) in counts.items()}
        found = stats.learning_number(row, delta)
        for name, value in (
            ("point", lambda share: share.successes / share.runs),
            ("low", lambda share: share.high),
            ("high", lambda share: share.low),
        ):
            good = [n for n in row if all(value(row[k]) >= 1 - delta - 1e-12 for k in row if k >= n)]
            assert getattr(found, name) == min(good, default=None)
        if found.point is not None:
            assert found.low is not None
            assert found.low <= found.point
        if found.high is not None:
            assert found.point is not None
            assert found.point <= found.high
        reached = [n for n in row if row[n].successes]
        assert stats.approximation_number(row) == min(reached, default=None)

    def test_table_counts_diverged_runs_as_failures(self) -> None:
        table = stats.success_table([4, 4, 8, 8], [1e-3, math.inf, 1e-5, 1e-3], [1e-4, 1e-3])
        counts = {eps: {n: (s.successes, s.runs) for n, s in row.items()} for eps, row in table.items()}
        assert counts == {1e-4: {4: (0, 2), 8: (1, 2)}, 1e-3: {4: (1, 2), 8: (2, 2)}}

    @given(st.lists(st.floats(1e-31, 1e3), min_size=1, max_size=30))
    @settings(max_examples=100, deadline=None)
    def test_grid_surrounds_the_losses(self, losses: list[float]) -> None:
        grid = stats.epsilon_grid(losses)
        assert 1 <= len(grid) <= 25
        assert grid == sorted(set(grid))
        assert grid[-1] >= max(losses)
        assert all(float(f"{eps:.0e}") == eps for eps in grid)
        if max(losses) / min(losses) < 1e7:
            assert grid[0] <= min(losses)

    def test_grid_of_nothing_and_of_zeros(self) -> None:
        assert stats.epsilon_grid([math.inf]) == []
        assert stats.epsilon_grid([3e-3, 0.04]) == [2e-3, 5e-3, 1e-2, 2e-2, 5e-2]
        assert stats.epsilon_grid([0.0])[0] <= stats.ZERO_LOSS


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], math.nan),
        ([1.0, 2.0], 1.5),
        ([1.0, math.inf], math.inf),
        ([1.0, 2.0, math.inf], 2.0),
        ([math.inf] * 2, math.inf),
    ],
)
def test_quantile_bears_infinities(values: list[float], expected: float) -> None:
    assert stats.quantile(values, 0.5) == pytest.approx(expected, nan_ok=True)


def test_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, rsl_cli.stats; sys.exit(bool({'torch', 'matplotlib', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
