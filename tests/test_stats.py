"""Limits, trends, laws and shares against known curves, exact formulas and brute force."""

import itertools
import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from rsl_cli import stats

PARAMS = 13.0 * 2.0 ** np.arange(4, 11)
X = np.log(PARAMS)


def noisy(law: np.ndarray, seeds: int = 5, noise: float = 0.3, draw: int = 0) -> np.ndarray:
    random = np.random.default_rng(draw)
    return law * np.exp(noise * random.standard_normal((seeds, law.size)))


def groups_of(table: np.ndarray) -> list[np.ndarray]:
    """Log losses of each lift."""
    return list(np.log(table).T)


TIMES = 10.0 ** np.arange(-2, 8.01, 0.25)


class TestIntervalTrend:
    def test_exact_p_value_is_that_of_all_permutations(self) -> None:
        low = np.array([[3.0, 1.5, 1.0, 0.0], [3.0, 1.0, 2.0, 0.4], [2.0, 3.0, 1.0, 0.9]])
        high = np.array([[3.5, 3.2, 1.2, 0.5], [3.0, 2.5, 2.0, 0.6], [2.0, 3.0, 1.0, 1.0]])

        def score(seed: int, order: tuple[int, ...]) -> int:
            total = 0
            for i, j in itertools.combinations(order, 2):
                total += int(high[seed, j] < low[seed, i]) - int(low[seed, j] > high[seed, i])
            return total

        observed = sum(score(seed, (0, 1, 2, 3)) for seed in range(3))
        rows = [[score(seed, order) for order in itertools.permutations(range(4))] for seed in range(3)]
        sums = np.array([sum(choice) for choice in itertools.product(*rows)])
        trend = stats.interval_trend(low, high)
        assert trend is not None
        assert trend.statistic == observed
        assert trend.p_value == pytest.approx(np.mean(sums >= observed))
        assert trend.p_rising == pytest.approx(np.mean(sums <= observed))
        assert (trend.method, trend.seeds, trend.lifts, trend.pairs) == ("exact", 3, 4, 18)
        assert trend.comparable < trend.pairs

    def test_rising_is_the_mirror_of_falling(self) -> None:
        losses = noisy(PARAMS**-1.0)
        forward, backward = (stats.interval_trend(table, table) for table in (losses, losses[:, ::-1]))
        assert forward is not None
        assert backward is not None
        assert forward.p_value == pytest.approx(backward.p_rising, rel=1e-9)
        assert (forward.direction, backward.direction) == ("falling", "rising")

    def test_intervals_that_overlap_are_no_trend(self) -> None:
        trend = stats.interval_trend(np.zeros((5, 4)), noisy(PARAMS[:4] ** -1.0))
        assert trend is not None
        assert (trend.statistic, trend.comparable, trend.p_value, trend.p_rising) == (0, 0, 1.0, 1.0)

    def test_gaps_leave_the_rest_of_a_seed(self) -> None:
        losses = np.tile([4.0, 3.0, 2.0, 1.0, 0.5], (4, 1))
        losses[1:, 4] = math.nan
        trend = stats.interval_trend(losses, losses)
        assert trend is not None
        assert (trend.seeds, trend.lifts, trend.statistic) == (4, 5, 10 + 3 * 6)
        assert trend.p_value == pytest.approx(1 / math.factorial(5) / math.factorial(4) ** 3)

    @pytest.mark.parametrize("shape", [(2, 5), (5, 2), (0, 0), (1, 1)])
    def test_too_few(self, shape: tuple[int, int]) -> None:
        assert stats.interval_trend(np.ones(shape), np.ones(shape)) is None

    @pytest.mark.parametrize("lifts", [4, 10])
    def test_the_level_holds_without_a_trend(self, lifts: int) -> None:
        random = np.random.default_rng(1)
        tables = [random.random((4, lifts)) for _ in range(400)]
        found = [stats.interval_trend(table, table) for table in tables]
        assert {trend.method for trend in found if trend} == {"exact" if lifts == 4 else "Monte Carlo"}
        assert np.mean([trend.p_value < 0.05 for trend in found if trend]) < 0.08


class TestNoise:
    def test_variances_that_scatter_as_samples_of_one_do_are_pooled(self) -> None:
        groups = [np.array([-1.0, 0.0, 1.0]) * scale for scale in (1, 1.1, 0.9, 1.05)]
        found = stats.noise(groups)
        assert found.variance == pytest.approx(np.full(4, np.mean([1, 1.21, 0.81, 1.1025])))
        assert set(found.freedom) == {8.0}

    def test_variances_that_scatter_more_stand_for_themselves(self) -> None:
        groups = [np.array([-1.0, 0.0, 1.0, 0.5]) * scale for scale in (1, 10, 100, 1000)]
        assert stats.noise(groups).variance == pytest.approx([group.var(ddof=1) for group in groups])
        assert stats.noise(groups[:3]).freedom.tolist() == [3, 3, 3], "and so do too few"
        flat = [*groups[:1], *groups[:1], *groups[:1], np.ones(4)]
        assert stats.noise(flat).variance[-1] == 0

    def test_the_common_variance_is_found_and_what_it_is_worth(self) -> None:
        """Variances drawn as the model says: 0.04 worth ten degrees of freedom."""
        random = np.random.default_rng(0)
        true = 0.04 * 10 / random.chisquare(10, size=4000)
        groups = list(np.sqrt(true)[:, None] * random.standard_normal((4000, 5)))
        found = stats.noise(groups)
        own = np.array([group.var(ddof=1) for group in groups])
        assert found.freedom[0] - 4 == pytest.approx(10, rel=0.2)
        assert found.variance == pytest.approx((10 * 0.04 + 4 * own) / 14, rel=0.2)
        assert np.mean((found.variance - true) ** 2) < 0.5 * np.mean((own - true) ** 2)

    def test_an_infinite_value_has_no_variance_and_keeps_the_others(self) -> None:
        groups = [np.array([0.0, 1.0, 0.5])] * 4 + [np.array([0.0, np.inf, 1.0])]
        assert np.isnan(stats.noise(groups).variance).tolist() == [False] * 4 + [True]


class TestContrast:
    def test_two_groups_are_welchs_test(self) -> None:
        random = np.random.default_rng(0)
        first, second = random.standard_normal(5), 0.3 + 3 * random.standard_normal(7)
        found = stats.contrast([first, second], np.array([-1.0, 1.0]))
        expected = scipy_stats.ttest_ind(second, first, equal_var=False, alternative="less")
        assert found.below(0.0) == pytest.approx(expected.pvalue)
        assert found.above(0.0) == pytest.approx(1 - expected.pvalue)
        whole = scipy_stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
        assert found.interval() == pytest.approx((whole.low, whole.high))

    @pytest.mark.parametrize("spread", [np.ones(6), np.geomspace(0.3, 3, 6)])
    def test_the_level_holds_whether_or_not_lifts_share_their_noise(self, spread: np.ndarray) -> None:
        random, weights = np.random.default_rng(4), np.array([0, 0, 0, 0, -1.0, 1.0])
        draws = [[scale * random.standard_normal(5) for scale in spread] for _ in range(1500)]
        found = np.array([stats.contrast(groups, weights).below(0.0) for groups in draws])
        assert 0.03 < np.mean(found < 0.05) < 0.065
        assert np.mean(found < 0.005) < 0.0085

    def test_an_open_end_proves_nothing(self) -> None:
        low = [np.array([0.0, -np.inf, 0.1]), np.full(3, -9.0)]
        high = [np.array([0.0, 0.1, 0.1]), np.array([-9.0, -8.0, -8.5])]
        least, most = stats.interval_contrast(low, high, np.array([-1.0, 1.0]))
        assert most.below(0.0) == 1.0
        assert least.above(-20.0) < 0.01
        least, most = stats.interval_contrast(high, high, np.array([-1.0, 1.0]))
        assert most.below(0.0) < 0.01

    def test_slope_weights_are_least_squares(self) -> None:
        x, y = np.array([0.0, 1.0, 2.5, 3.0]), np.array([1.0, 0.2, -1.0, -2.2])
        assert stats.slope_weights(x) @ y == pytest.approx(np.polyfit(x, y, 1)[0])


class TestTailLimit:
    """Curves whose limits are known."""

    TIMES = 10.0 ** np.arange(-2, 8.01, 0.25)

    @pytest.mark.parametrize("scale", [1.0, 1e-9])
    @pytest.mark.parametrize(("floor", "p"), [(1e-3, 1.0), (1e-5, 1.0), (1e-2, 0.5), (1e-2, 2.0)])
    def test_a_floor_is_bounded_from_both_sides(self, floor: float, p: float, scale: float) -> None:
        limit = stats.tail_limit(self.TIMES, scale * (floor + (1 + self.TIMES) ** -p))
        assert limit.finished
        assert 0.9 * floor * scale < limit.low <= floor * scale <= limit.high

    @pytest.mark.parametrize("end", [1e3, 1e5, 1e8])
    @pytest.mark.parametrize(
        "curve",
        [
            lambda t: 1 / (1 + t),
            lambda t: (1 + t) ** -0.5,
            lambda t: (1 + t) ** -0.1,
            lambda t: 1 / np.log(t + math.e),
            lambda t: np.log(t + math.e) ** -2.0,
            lambda t: 1 / (1 + t / 1e9),
        ],
    )
    def test_a_loss_that_falls_to_zero_has_no_lower_bound(self, curve: Callable[..., np.ndarray], end: float) -> None:
        times = self.TIMES[end * 1.01 >= self.TIMES]
        limit = stats.tail_limit(times, curve(times))
        assert limit.low == 0
        assert limit.high == pytest.approx(curve(times)[-1])

    def test_a_plateau_before_a_fall_is_no_floor_while_its_end_shows(self) -> None:
        # Loss 0.05 from t = 100 on, left along an unstable direction that grows like t.
        curve = 0.05 / (1 + (self.TIMES / 3e6) ** 2) + 1 / (1 + self.TIMES) ** 2
        for end in (1e6, 1e7, 1e8):
            times = self.TIMES[end * 1.01 >= self.TIMES]
            assert stats.tail_limit(times, curve[: times.size]).low == 0

    def test_too_short_a_tail_tells_nothing(self) -> None:
        times = self.TIMES[self.TIMES <= 5]
        assert stats.tail_limit(times, 1e-3 + 1 / (1 + times)).low == 0
        assert stats.tail_limit([], []) == stats.Limit(0.0, math.inf)
        assert stats.tail_limit([0.0], [1.0]) == stats.Limit(0.0, math.inf)
        assert stats.tail_limit([1.0], [0.5]).high == 0.5

    def test_a_loss_that_rises_at_its_end_is_bounded_above(self) -> None:
        curve = 1e-2 - 5e-3 / (1 + self.TIMES / 10) + 1 / (1 + self.TIMES) ** 2
        limit = stats.tail_limit(self.TIMES[self.TIMES < 2e5], curve[self.TIMES < 2e5])
        assert limit.low <= 1e-2 <= limit.high < 1.2e-2
        assert stats.tail_limit(self.TIMES, 1e-3 * (1 + self.TIMES) ** 0.1).high == math.inf

    def test_noise_widens_and_never_shifts(self) -> None:
        random = np.random.default_rng(0)
        for _ in range(50):
            noise = np.exp(3e-3 * random.standard_normal(self.TIMES.size))
            limit = stats.tail_limit(self.TIMES, (1e-3 + 1 / (1 + self.TIMES)) * noise)
            assert limit.low <= 1e-3 * 1.01
            assert stats.tail_limit(self.TIMES, noise / (1 + self.TIMES)).low == 0


@pytest.mark.parametrize(
    ("least", "found"),
    [
        (-1e-3 * TIMES / TIMES[-1] * 20, True),  # An eigenvalue that stays, seen before it tells.
        (np.full(TIMES.size, -0.05), False),  # One that goes to 0 like 1 / t.
        (np.full(TIMES.size, -0.5), True),
        (np.where(TIMES < 1e7, -1.0, 0.0), False),  # Left behind.
        (np.where(TIMES < 1e9, np.nan, -1.0), False),
        (np.full(TIMES.size, np.nan), False),
        (np.full(TIMES.size, 3.0), False),
    ],
)
def test_a_saddle_shows_by_an_eigenvalue_that_lasts(least: np.ndarray, found: bool) -> None:
    assert stats.at_saddle(TIMES, least) is found


class TestLaws:
    @pytest.mark.parametrize("exponent", [0.3, 1.0, 8.0])
    def test_a_power_law_has_its_exponent_and_no_floor(self, exponent: float) -> None:
        laws = [
            stats.fit_law(X, groups_of(noisy(0.1 * (PARAMS / 100) ** -exponent, draw=draw)))[0] for draw in range(60)
        ]
        kept = [law for law in laws if law is not None and law.floor is None]
        assert len(kept) >= 50
        covered = [law.exponent_ci[0] <= exponent <= law.exponent_ci[1] for law in kept]
        assert np.mean(covered) >= 0.88
        assert kept[0].predict(PARAMS) == pytest.approx(0.1 * (PARAMS / 100) ** -exponent, rel=0.5)

    @pytest.mark.parametrize("scale", [1.0, 1e-14])
    def test_a_floor_is_recovered_at_any_scale(self, scale: float) -> None:
        true = scale * (2e-3 + 10 * (PARAMS / 100) ** -2.5)
        laws = [stats.fit_law(X, groups_of(noisy(true, noise=0.1, draw=draw)))[0] for draw in range(40)]
        kept = [law for law in laws if law is not None]
        assert len(kept) >= 30
        assert all(law.floor is not None and law.floor_ci is not None for law in kept)
        covered = [law.floor_ci[0] <= 2e-3 * scale <= law.floor_ci[1] for law in kept if law.floor_ci]
        assert np.mean(covered) >= 0.85

    @pytest.mark.parametrize(
        ("law", "shape"),
        [
            (0.1 * np.exp(-0.3 * (X - X[0]) - 0.3 * (X - X[0]) ** 2), "steeper than a power law"),
            (np.where(PARAMS < 1664, PARAMS**-2.0, 1664**-1.5 * PARAMS**-0.5), "two regimes"),
            (X**-6.0, "bends"),
        ],
    )
    def test_what_no_law_fits_is_said_in_words(self, law: np.ndarray, shape: str) -> None:
        found = [stats.fit_law(X, groups_of(noisy(law, noise=0.02, draw=draw))) for draw in range(10)]
        assert all(fit is None or fit.floor is None for fit, _ in found)
        assert sum(fit is None for fit, _ in found) >= 9
        assert sum(name == shape for _, name in found) >= 7

    def test_lack_of_fit_is_not_read_as_noise(self) -> None:
        # Fourfold at each step after a first drop of 250: no floor, and no power law either.
        losses = np.outer([1, 1.05, 0.95], [0.1, 3.98e-4, 9.98e-5, 2.5e-5])
        x = np.log([209.0, 417.0, 833.0, 1665.0])
        assert stats.fit_law(x, groups_of(losses))[0] is None

    def test_too_little_to_fit(self) -> None:
        assert stats.fit_law(X[:2], groups_of(np.ones((5, 2)))) == (None, "none")
        assert stats.fit_law(X, groups_of(np.ones((2, PARAMS.size)))) == (None, "none")

    def test_local_exponents(self) -> None:
        found = stats.local_exponents([1, 2, 4], X[:3], groups_of(noisy(PARAMS[:3] ** -2.0, noise=0.01)))
        assert [one.between for one in found] == [(1, 2), (2, 4)]
        assert all(one.interval[0] <= 2 <= one.interval[1] for one in found)
        assert found[0].exponent == pytest.approx(2, abs=0.05)


class TestJointLaw:
    PARAMS = 13.0 * 2.0 ** np.arange(3, 8) + 1
    TIMES = 10.0 ** np.arange(2, 8.1, 0.5)

    def curves(self, law: Callable[[float, np.ndarray], np.ndarray], draw: int = 0) -> list[np.ndarray]:
        random = np.random.default_rng(draw)
        shape = (5, self.TIMES.size)
        noise = [0.1 * random.standard_normal((5, 1)) + 0.02 * random.standard_normal(shape) for _ in self.PARAMS]
        return [np.log(law(p, self.TIMES)) + part for p, part in zip(self.PARAMS, noise, strict=True)]

    def fit(self, law: Callable[[float, np.ndarray], np.ndarray], draw: int = 0) -> stats.JointLaw | None:
        return stats.fit_joint_law(np.log(self.PARAMS), self.TIMES, self.curves(law, draw))

    def test_the_limits_law_and_the_clocks_come_apart(self) -> None:
        found = [self.fit(lambda p, t: 1e-2 * (p / 105) ** -2 + 5 * (p / 105) ** -0.5 / t, draw) for draw in range(20)]
        assert all(law is not None and law.floor is None for law in found)
        for true, name in ((2.0, "limit_exponent_ci"), (0.5, "clock_params_ci"), (1.0, "clock_time_ci")):
            intervals = [getattr(law, name) for law in found]
            assert sum(low <= true <= high for low, high in intervals) >= 17, name

    def test_lifts_that_did_not_get_so_far_are_left_out(self) -> None:
        curves = self.curves(lambda p, t: 5 * (p / 105) ** -0.5 * t**-0.8)
        curves[0][:] = np.nan
        curves[1][:, 6:] = np.nan
        law = stats.fit_joint_law(np.log(self.PARAMS), self.TIMES, curves)
        assert law is not None
        assert law.clock_time == pytest.approx(0.8, abs=0.01)
        assert stats.fit_joint_law(np.log(self.PARAMS[:3]), self.TIMES, curves[:3]) is None

    def test_curves_that_show_no_limit_get_none(self) -> None:
        law = self.fit(lambda p, t: 5 * (p / 105) ** -0.5 * t**-0.8)
        assert law is not None
        assert law.limit_exponent is None
        assert law.clock_time == pytest.approx(0.8, abs=0.01)

    def test_a_floor_is_found_beside_a_power(self) -> None:
        law = self.fit(lambda p, t: 1e-5 + 1e-2 * (p / 105) ** -3 + 5 / t)
        assert law is not None
        assert law.floor_ci is not None
        assert law.floor_ci[0] <= 1e-5 <= law.floor_ci[1]

    def test_no_law_where_none_holds(self) -> None:
        assert self.fit(lambda p, t: 1e-2 * (p / 105) ** -1 / np.log(t)) is None
        assert self.fit(lambda p, t: np.where(t < 1e5, 1e-1, 1e-6) * np.where(p < 500, 1, 1e-3)) is None
        assert stats.fit_joint_law(np.log(self.PARAMS[:2]), self.TIMES, [np.zeros((5, self.TIMES.size))] * 2) is None


class TestSuccess:
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=2, max_size=4))
    @settings(max_examples=40, deadline=None)
    def test_cochran_armitage_by_all_assignments(self, counts: list[tuple[int, int]]) -> None:
        runs = [m for _, m in counts]
        successes = [min(k, m) for k, m in counts]
        places = [place for place, m in enumerate(runs) for _ in range(m)]
        observed = sum(place * k for place, k in enumerate(successes))
        chosen = [sum(draw) for draw in itertools.combinations(places, sum(successes))]
        assert stats.cochran_armitage(successes, runs) == pytest.approx(
            np.mean([value >= observed for value in chosen])
        )

    def test_seeds_to_decide_is_the_first_that_does(self) -> None:
        assert stats.seeds_to_decide(0.1) == 36
        assert stats.clopper_pearson(36, 36).low >= 0.9 > stats.clopper_pearson(35, 35).low

    def test_runs_that_may_still_succeed_widen_the_share_upwards(self) -> None:
        share = stats.success_table([4, 4, 4], [1e-3, 1.0, 1.0], [1e-2], least=[0.0, 0.0, 0.5])[1e-2][4]
        assert (share.successes, share.runs, share.open) == (1, 3, 1)
        assert share.low == pytest.approx(stats.clopper_pearson(1, 3).low)
        assert share.high == pytest.approx(stats.clopper_pearson(2, 3).high)

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
        ([math.nan, 1.0, math.nan], math.nan),
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


def test_large_studies_are_tested_as_small_ones_are(monkeypatch):
    from rsl_cli.stats import success, trend

    count, size = [110, 118, 131], [200, 200, 200]
    large = success.cochran_armitage(count, size)
    monkeypatch.setattr(success, "MOST_EXACT", 10**6)
    assert large == pytest.approx(success.cochran_armitage(count, size), rel=0.02)
    rare = success.cochran_armitage([0, 2, 5], [9000, 9000, 9000])
    assert rare == pytest.approx(success.cochran_armitage([0, 2, 5], [8000, 8000, 8000]), rel=0.01) and 0 < rare < 0.1
    draw = np.random.default_rng(0)
    low = draw.random((200, 5)) - 0.02 * np.arange(5)
    low[::7, 2] = math.nan
    one = trend.interval_trend(low, low + 0.1)
    monkeypatch.setattr(trend, "_MANY", 3)
    other = trend.interval_trend(low, low + 0.1)
    assert one is not None and other is not None and (one.method, other.method) == ("exact", "normal law of")
    assert other.p_value == pytest.approx(one.p_value, rel=0.02) and 1e-4 < one.p_value < 0.1
    assert other.p_rising == pytest.approx(one.p_rising, rel=0.02)
