import numpy as np
import pytest
import scipy.sparse
import scipy.stats

from opd_diag.stats.bootstrap import (
    cluster_counts,
    effective_clusters,
    mean,
    percentile,
    rate,
    ratio,
    ratio_difference,
    ratio_of_ratios,
)
from opd_diag.stats.intervals import CARRIED


def uneven_ratios(seed, clusters, statistics, spread):
    """Cluster sums whose true ratio is 1: sizes vary, and clusters differ in level."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(1, 1 + spread, (clusters, statistics))
    return size * rng.gamma(2.0, 0.5, size.shape), size


def test_draws_keep_the_size_of_every_stratum():
    strata = np.array([0] * 7 + [1] * 12)
    counts = cluster_counts(19, draws=50, seed=3, strata=strata)
    assert (counts[:, :7].sum(axis=1) == 7).all()
    assert (counts[:, 7:].sum(axis=1) == 12).all()
    assert (cluster_counts(19, draws=50, seed=3, strata=strata) == counts).all()
    assert (cluster_counts(19, draws=50, seed=4, strata=strata) != counts).any()


def test_mean_agrees_with_a_loop_over_resampled_values():
    values = np.random.default_rng(5).exponential(size=30)
    error = values.std(ddof=1) / np.sqrt(30)
    t = []
    for counts in cluster_counts(30, draws=400, seed=9):
        drawn = np.repeat(values, counts)
        t.append((drawn.mean() - values.mean()) / (drawn.std(ddof=1) / np.sqrt(30)))
    low, high = np.quantile(t, [0.025, 0.975])
    found = mean(values, draws=400, seed=9)
    assert found.estimate == pytest.approx(values.mean(), rel=1e-12)
    assert found.low == pytest.approx(values.mean() - high * error, rel=1e-9)
    assert found.high == pytest.approx(values.mean() - low * error, rel=1e-9)


def test_mean_of_many_normal_values_has_the_student_t_interval():
    values = np.random.default_rng(0).normal(3.0, 1.0, (600, 50))
    found = mean(values)
    low, high = scipy.stats.t.interval(
        0.95, 599, loc=values.mean(axis=0), scale=scipy.stats.sem(values, axis=0)
    )
    assert np.median((found.high - found.low) / (high - low)) == pytest.approx(1.0, abs=0.03)


def test_sparse_and_dense_sums_give_the_same_intervals():
    rng = np.random.default_rng(2)
    m = rng.poisson(0.6, (60, 40)).astype(float)
    x = m * rng.exponential(size=m.shape)
    total_x, total_m = x.sum(axis=1, keepdims=True), m.sum(axis=1, keepdims=True)
    csr = scipy.sparse.csr_array
    pairs = [
        (ratio(x, m), ratio(csr(x), csr(m))),
        (
            ratio_of_ratios(x, m, total_x, total_m),
            ratio_of_ratios(csr(x), csr(m), total_x, total_m),
        ),
    ]
    for dense, sparse in pairs:
        for left, right in zip(dense[:4], sparse[:4], strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-9)


def test_one_statistic_alone_is_the_same_as_among_many(monkeypatch):
    x, m = uneven_ratios(1, 30, 7, 1.0)
    together = ratio(x, m)
    monkeypatch.setattr("opd_diag.stats.studentised._CELLS", 2_000)
    in_blocks = ratio(x, m)
    for j in range(7):
        alone = ratio(x[:, j], m[:, j])
        assert alone.low.shape == ()
        for column in (together, in_blocks):
            assert column.low[j] == pytest.approx(float(alone.low), rel=1e-9)
            assert column.high[j] == pytest.approx(float(alone.high), rel=1e-9)


def test_units_of_numerator_and_denominator_do_not_matter():
    x, m = uneven_ratios(4, 25, 1, 2.0)
    base, scaled = ratio(x, m, log=True), ratio(1e6 * x, 1e-3 * m, log=True)
    for left, right in zip(base[:3], scaled[:3], strict=True):
        np.testing.assert_allclose(left * 1e9, right, rtol=1e-9)


def test_a_shift_between_strata_is_no_spread():
    rng = np.random.default_rng(6)
    strata = np.repeat([0, 1], 20)
    values = rng.normal(size=40)
    shifted = values + 100.0 * strata
    plain, moved = mean(values, strata=strata), mean(shifted, strata=strata)
    assert moved.high - moved.low == pytest.approx(float(plain.high - plain.low), rel=1e-6)
    assert mean(shifted).high - mean(shifted).low > 20 * (plain.high - plain.low)


def test_what_two_ratios_share_cancels_in_their_difference():
    rng = np.random.default_rng(7)
    level = rng.normal(0.0, 10.0, 50)
    noise = rng.normal(0.0, 0.1, 50)
    m = np.ones(50)
    found = ratio_difference(level + noise + 2.0, m, level, m)
    assert found.low < 2.0 < found.high
    assert found.high - found.low < 0.1


@pytest.mark.parametrize("clusters", [24, 96])
@pytest.mark.parametrize("log", [False, True])
def test_intervals_cover_a_ratio_at_their_level(clusters, log):
    x, m = uneven_ratios(11, clusters, 600, 1.0)
    found = ratio(x, m, log=log, draws=500)
    hits = int(((found.low <= 1) & (found.high >= 1)).sum())
    assert scipy.stats.binom.sf(hits, 600, 0.92) < 1 - 1e-4
    assert scipy.stats.binom.cdf(hits, 600, 0.97) < 1 - 1e-4


def test_intervals_cover_differences_and_lifts():
    x, m = uneven_ratios(12, 48, 400, 1.0)
    y, n = uneven_ratios(13, 48, 400, 1.0)
    for found, truth in (
        (ratio_difference(x, m, y, n, draws=500), 0.0),
        (ratio_of_ratios(x, m, y, n, draws=500), 1.0),
    ):
        hits = int(((found.low <= truth) & (found.high >= truth)).sum())
        assert 0.91 * 400 <= hits <= 0.985 * 400


def test_few_prompts_are_marked_and_too_few_give_no_interval():
    rng = np.random.default_rng(8)
    m = np.ones((24, 3))
    m[4:, 0] = 0
    m[23:, 1] = 0
    found = ratio(m * rng.exponential(size=m.shape), m)
    assert found.clusters.tolist() == [4, 23, 24]
    assert found.reason.tolist() == ["too few prompts", "few prompts", ""]
    assert np.isnan(found.low).tolist() == [True, False, False]
    assert np.isnan(found.high).tolist() == [True, False, False]
    assert np.isfinite(found.estimate).all()


def test_no_clusters_and_no_variation_say_so():
    assert ratio(np.zeros(0), np.zeros(0)).reason == "too few prompts"
    constant = ratio(np.full(30, 0.3), np.full(30, 3.0))
    assert constant.reason == "too little variation between prompts"
    assert constant.estimate == pytest.approx(0.1)
    assert np.isnan(constant.low)
    assert ratio(-np.ones(30), np.ones(30), log=True).reason == "not defined"


def test_an_event_in_one_to_three_clusters_has_no_interval():
    events = np.zeros((96, 5))
    for clusters in range(5):
        events[:clusters, clusters] = 1
    found = mean(events)
    assert np.isnan(found.high).tolist() == [True, True, True, True, False]
    assert found.reason[1] == "too little variation between prompts"
    assert found.low[4] < 4 / 96 < 0.08 < found.high[4]


def heavy_tailed(seed, clusters, statistics):
    """Values whose sum one cluster in a hundred may carry; their mean is exp(4.5)."""
    return np.exp(np.random.default_rng(seed).normal(0.0, 3.0, (clusters, statistics)))


def test_a_sum_that_one_cluster_carries_has_no_interval_on_the_log_scale():
    x = np.random.default_rng(15).gamma(2.0, 0.5, (96, 2))
    x[0, 0] = 20 * x[:, 0].sum()
    m = np.ones((96, 2))
    total = np.random.default_rng(16).gamma(2.0, 0.5, (96, 1))
    for found in (ratio(x, m, log=True), ratio_of_ratios(x, m, total, np.ones((96, 1)))):
        assert found.reason.tolist() == ["a few prompts carry it", ""]
        assert np.isnan(found.low).tolist() == np.isnan(found.high).tolist() == [True, False]
        assert np.isfinite(found.estimate).all()


@pytest.mark.parametrize("clusters", [8, 24, 96])
def test_intervals_of_heavy_tails_are_bounded_or_withheld(clusters):
    x = heavy_tailed(17, clusters, 300)
    found = ratio(x, np.ones_like(x), log=True, draws=500)
    given = found.reason != "a few prompts carry it"
    assert 0.05 < given.mean() < 0.95
    np.testing.assert_array_equal(given, np.isfinite(found.low))
    np.testing.assert_array_equal(given, np.isfinite(found.high))
    assert (found.high[given] <= 20 * found.estimate[given]).all()
    assert (found.low[given] >= found.estimate[given] / 20).all()


def test_no_interval_of_a_mild_skew_is_withheld():
    x, m = uneven_ratios(18, 24, 600, 1.0)
    assert np.isfinite(ratio(x, m, log=True, draws=500).low).all()


def test_effective_clusters_are_those_of_equal_size():
    m = np.zeros((12, 3))
    m[:, 0] = 7.0
    m[:6, 1] = [100, 1, 1, 1, 1, 1]
    expected = [12, 105**2 / (10_000 + 5), 0]
    np.testing.assert_allclose(effective_clusters(m), expected)
    np.testing.assert_allclose(effective_clusters(scipy.sparse.csr_array(m)), expected)
    assert effective_clusters(m[:, 1]) == pytest.approx(expected[1])


def test_one_large_cluster_among_many_small_ones_gives_no_interval():
    rng = np.random.default_rng(20)
    m = np.ones((40, 2))
    m[0, 0] = 200
    found = ratio(m * rng.gamma(2.0, 0.5, m.shape), m)
    assert found.clusters.tolist() == [40, 40]
    assert found.reason.tolist() == ["too few prompts", ""]
    assert np.isnan(found.low).tolist() == [True, False]


def test_intervals_where_few_clusters_are_large_cover_or_are_withheld():
    rng = np.random.default_rng(21)
    m = 1 + rng.pareto(1.0, (30, 800))
    found = ratio(m * rng.gamma(2.0, 0.5, m.shape), m, draws=500)
    given = np.isfinite(found.low)
    enough = effective_clusters(m) >= 5
    assert not given[~enough].any()
    assert (given | (found.reason == CARRIED))[enough].all()
    assert given[enough].mean() > 0.98
    hits = int(((found.low <= 1) & (found.high >= 1)).sum())
    assert scipy.stats.binom.cdf(hits, int(given.sum()), 0.86) > 1e-3


def test_an_interval_that_one_of_few_clusters_carries_is_withheld():
    x = np.array([[1.0, 1.1, 0.9, 1.0, 1.05, 60.0], [1.0, 2.1, 0.9, 1.5, 1.2, 0.4]]).T
    found = ratio(x, np.ones((6, 1)))
    assert found.reason.tolist() == [CARRIED, "few prompts"]
    assert np.isnan(found.low).tolist() == np.isnan(found.high).tolist() == [True, False]
    np.testing.assert_allclose(found.estimate, x.mean(axis=0))
    in_50 = ratio(np.tile(x[:, :1], (50, 1)), np.ones((300, 1)))
    assert np.isfinite(in_50.low).all()


@pytest.mark.parametrize("clusters", [8, 16])
def test_intervals_of_few_clusters_with_a_mild_skew_are_given(clusters):
    rng = np.random.default_rng(24)
    x = rng.gamma(2.0, 0.5, (clusters, 400))
    assert np.isfinite(ratio(x, np.ones_like(x), draws=500).low).mean() > 0.97


def test_a_log_scale_needs_five_clusters_with_events():
    x = np.zeros((96, 7))
    for clusters in range(7):
        x[:clusters, clusters] = 1
    found = ratio(x, np.ones_like(x), log=True)
    assert np.isfinite(found.high).tolist() == [False] * 5 + [True] * 2
    assert found.reason.tolist() == ["above 0 in too few prompts"] * 5 + [""] * 2
    assert found.estimate[0] == 0
    # Exact limits of a Poisson mean of 5 are 1.62 and 11.67.
    assert 1.0 < 96 * found.low[5] < 2.5
    assert 9.0 < 96 * found.high[5] < 13.0


def test_draws_without_an_event_are_kept_on_the_log_scale():
    rng = np.random.default_rng(22)
    hits = given = 0
    for events in (5, 8, 12):
        x = rng.poisson(events / 96, (96, 300)) * rng.gamma(2.0, 0.5, (96, 300))
        found = ratio(x, np.ones_like(x), log=True, draws=500)
        given += int(np.isfinite(found.low).sum())
        hits += int(((found.low <= events / 96) & (found.high >= events / 96)).sum())
    assert given > 600
    assert scipy.stats.binom.cdf(hits, given, 0.92) > 1e-3


def test_a_share_of_a_total_that_is_not_above_0_is_none():
    rng = np.random.default_rng(23)
    total = rng.normal([-0.2, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0], (48, 4))
    total[:, 0] -= total[:, 0].mean() + 0.2
    total[:, 1] -= total[:, 1].mean() - 0.001
    for found in (ratio(0.3 * total, total), ratio_difference(0.3 * total, total, total, total)):
        assert found.reason[:2].tolist() == ["the total is not above 0"] * 2
        assert np.isnan(found.estimate[:2]).all()
        assert np.isfinite(found.estimate[2:]).all()
        assert "total" not in "".join(found.reason[2:])


@pytest.mark.parametrize("clusters", [6, 40])
def test_a_rate_of_0_or_1_has_wilsons_interval(clusters):
    m = np.full((clusters, 2), 3.0)
    x = m * [0, 1]
    found = rate(x, m)
    wilson = scipy.stats.binomtest(0, clusters).proportion_ci(method="wilson")
    np.testing.assert_allclose(found.low, [0, 1 - wilson.high], atol=1e-12)
    np.testing.assert_allclose(found.high, [wilson.high, 1], atol=1e-12)
    assert found.reason.tolist() == ["few prompts" if clusters < 24 else ""] * 2
    assert rate(x[:4], m[:4]).reason.tolist() == ["too few prompts"] * 2


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_rates_are_covered_also_where_they_are_small(p):
    rng = np.random.default_rng(24)
    m = np.full((24, 600), 4.0)
    x = rng.binomial(4, rng.beta(5 * p, 5 * (1 - p), m.shape)).astype(float)
    found = rate(x, m, draws=500)
    assert np.isfinite(found.low).all()
    hits = int(((found.low <= p) & (found.high >= p)).sum())
    assert scipy.stats.binom.cdf(hits, 600, 0.93) > 1e-3


def test_groups_of_clusters_can_share_one_draw_of_all():
    x, m = uneven_ratios(25, 60, 3, 1.0)
    counts = cluster_counts(60, seed=4)
    np.testing.assert_array_equal(ratio(x, m, counts=counts).low, ratio(x, m, seed=4).low)
    part = slice(10, 40)
    shared, own = ratio(x[part], m[part], counts=counts[:, part]), ratio(x[part], m[part])
    np.testing.assert_allclose(shared.high - shared.low, own.high - own.low, rtol=0.25)


def test_percentile_takes_the_quantiles_of_the_draws_that_have_a_value():
    draws = np.column_stack([np.arange(101.0), np.arange(101.0), np.full(101, np.nan)])
    draws[60:, 1] = np.nan
    found = percentile(draws, [50.0, 29.5, 1.0], 30)
    np.testing.assert_allclose(found.low[:2], [2.5, 0.025 * 59])
    np.testing.assert_allclose(found.high[:2], [97.5, 0.975 * 59])
    assert found.reason.tolist() == ["", "", "too little variation between prompts"]


def test_bad_sums_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        ratio(np.array([1.0, np.nan]), np.ones(2))
    with pytest.raises(ValueError, match="expected equal numbers"):
        ratio(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="expected 1 or 3"):
        ratio(np.ones((9, 3)), np.ones((9, 2)))
    with pytest.raises(ValueError, match=r"expected \(9,\)"):
        ratio(np.ones(9), np.ones(9), strata=[0, 1])
