"""p values against all patterns and the tests of scipy, their level, and how far they reach."""

from itertools import combinations, product

import numpy as np
import pytest
import scipy.stats

from opd_diag.stats.p_values import (
    exchange_p,
    holm,
    sign_flip_p,
    stratified_p,
    weighted_shares,
)

# --- Sign flips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_few_clusters_give_the_share_of_all_patterns(seed):
    x = np.random.default_rng(seed).standard_normal((8, 3)).round(1)
    totals = np.array([np.array(s) @ x for s in product((-1, 1), repeat=8)])
    expected = (np.abs(totals) >= np.abs(x.sum(axis=0)) - 1e-12).mean(axis=0)
    np.testing.assert_allclose(sign_flip_p(x), expected)
    assert sign_flip_p(x[:, 0]) == pytest.approx(expected[0])


def test_many_clusters_agree_with_the_test_of_scipy():
    x = np.random.default_rng(1).standard_normal(60) + 0.25
    expected = scipy.stats.permutation_test(
        (x,), np.sum, permutation_type="samples", n_resamples=20_000, rng=0
    ).pvalue
    assert sign_flip_p(x, draws=20_000) == pytest.approx(expected, abs=0.01)


def test_a_cluster_of_zero_changes_nothing_and_no_cluster_gives_one():
    x = np.array([1.0, 2.0, -0.5, 3.0, 1.5, 2.5])
    assert sign_flip_p(np.append(x, np.zeros(30))) == sign_flip_p(x)
    assert sign_flip_p(np.zeros((4, 2))).tolist() == [1, 1]
    assert sign_flip_p(np.empty(0)) == 1


def test_p_reaches_far_and_no_farther_than_the_draws_allow():
    x = np.random.default_rng(2).uniform(1, 2, 40)
    assert sign_flip_p(x) == pytest.approx(1e-4)
    assert sign_flip_p(-x) == pytest.approx(1e-4)
    assert sign_flip_p(x[:10]) == pytest.approx(2 / 2**10)


def test_heavy_tails_and_zeros_do_not_bend_the_level():
    rng = np.random.default_rng(3)
    shape = 30, 2_000
    x = np.exp(2.5 * rng.standard_normal(shape)) * rng.choice((-1, 1), shape)
    x *= rng.random(shape) < 0.4
    p = sign_flip_p(x, draws=999)
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).sum() <= scipy.stats.binom.ppf(1 - 1e-4, shape[1], level)
    assert (p <= 0.2).sum() >= scipy.stats.binom.ppf(1e-4, shape[1], 0.17)


# --- Exchange -------------------------------------------------------------------------------------


def test_exchange_counts_rearrangements() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(4, 3)).round(1)
    totals = [sum(values[i, kind[i]] for i in range(4)) for kind in product(range(3), repeat=4)]
    exact = np.mean(np.array(totals) >= values[:, 0].sum() - 1e-9)
    p = exchange_p(values[:, 0], values[:, 1:], draws=40_000, seed=1)
    assert p == pytest.approx(exact, abs=0.01)


def test_the_level_of_exchange_holds_on_heavy_tails_and_unequal_clusters() -> None:
    rng = np.random.default_rng(0)
    scale = np.exp(2 * rng.normal(size=(300, 30, 1)))
    values = scale * np.exp(1.5 * rng.normal(size=(300, 30, 9)))
    p = np.array([exchange_p(one[:, 0], one[:, 1:], draws=199, seed=7) for one in values])
    assert 1 <= (p <= 0.05).sum() <= 28  # 15 expected; the binomial leaves out 1 in 1,000
    assert 0.4 < p.mean() < 0.6


def test_a_few_draws_reach_far_where_clusters_are_many() -> None:
    rng = np.random.default_rng(0)
    nulls = rng.normal(size=(60, 5))
    assert exchange_p(nulls[:, 0] + 2, nulls[:, 1:], draws=999) == 1 / 1000
    assert exchange_p(nulls[:, 0] - 2, nulls[:, 1:], draws=999) == 1


def test_clusters_that_cannot_tell_give_1() -> None:
    assert exchange_p(np.zeros(4), np.zeros((4, 20))) == 1
    assert exchange_p(np.zeros(0), np.zeros((0, 20))) == 1


# --- Strata ---------------------------------------------------------------------------------------


def permuted(strata: list[tuple[list[int], list[int]]]) -> float:
    """Count all ways to move the marks inside strata: twice the smaller tail."""
    ways = [
        [sum(having[i] for i in marks) for marks in combinations(range(len(having)), sum(mark))]
        for mark, having in strata
    ]
    seen = sum(m * h for mark, having in strata for m, h in zip(mark, having, strict=True))
    totals = np.array([sum(one) for one in product(*ways)])
    return float(min(1.0, 2 * min((totals >= seen).mean(), (totals <= seen).mean())))


def counts(strata: list[tuple[list[int], list[int]]]) -> np.ndarray:
    return np.array(
        [(len(m), sum(m), sum(h), sum(a * b for a, b in zip(m, h, strict=True))) for m, h in strata]
    ).T


@pytest.mark.parametrize("seed", range(6))
def test_strata_equal_all_permutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    strata = [
        (rng.integers(2, size=n).tolist(), rng.integers(2, size=n).tolist()) for n in (4, 5, 3, 1)
    ]
    assert stratified_p(*counts(strata)) == pytest.approx(permuted(strata))


def test_one_stratum_is_the_test_of_fisher() -> None:
    table = [[9, 2], [3, 11]]
    tails = [scipy.stats.fisher_exact(table, alternative=a).pvalue for a in ("less", "greater")]
    assert stratified_p([25], [11], [12], [9]) == pytest.approx(2 * min(tails))


def test_large_strata_follow_the_normal_law() -> None:
    size, marked, having, both = 2000, 800, 500, 230
    law = scipy.stats.hypergeom(size, having, marked)
    z = (both - law.mean() - 0.5) / law.std()
    p = stratified_p([size, 3], [marked, 3], [having, 1], [both, 1])
    assert p == pytest.approx(2 * scipy.stats.norm.sf(z), rel=0.05)


def test_strata_of_one_kind_tell_nothing() -> None:
    assert stratified_p([4, 5], [4, 0], [2, 3], [2, 0]) == 1
    assert stratified_p([], [], [], []) == 1
    base = stratified_p([6], [3], [3], [3])
    assert stratified_p([6, 9], [3, 9], [3, 4], [3, 4]) == pytest.approx(base)


def test_the_far_tail_is_reached() -> None:
    # Ten strata of two, the marked one always has it: 2 / 2^10.
    ones = np.ones(10, int)
    assert stratified_p(2 * ones, ones, ones, ones) == pytest.approx(2 / 1024)


def test_weighted_shares_give_the_difference_of_mantel_and_haenszel() -> None:
    size, marked, having, both = np.array([[10, 6], [4, 3], [5, 2], [3, 2]])
    fired, others, weight = weighted_shares(size, marked, having, both)
    rates = both / marked - (having - both) / (size - marked)
    w = marked * (size - marked) / size
    assert (fired - others).sum() / weight.sum() == pytest.approx((w * rates).sum() / w.sum())
    assert [a.tolist() for a in weighted_shares([3], [3], [1], [1])] == [[0], [0], [0]]


# --- Holm -----------------------------------------------------------------------------------------


def by_steps(p, level):
    """Holm's procedure as it is told: reject the smallest while it is small enough."""
    rejected = np.zeros(len(p), bool)
    for step, test in enumerate(np.argsort(p)):
        if p[test] > level / (len(p) - step):
            break
        rejected[test] = True
    return rejected


@pytest.mark.parametrize("seed", range(20))
def test_adjusted_p_reject_what_the_steps_reject(seed):
    p = np.random.default_rng(seed).random(9) ** 4
    for level in (0.01, 0.05, 0.2):
        assert ((holm(p) <= level) == by_steps(p, level)).all()


def test_golden_values_and_what_was_not_tested():
    # Holm's steps by hand: 3 * 0.01, 2 * 0.03, then never below an earlier one.
    np.testing.assert_allclose(holm([0.03, np.nan, 0.01, 0.04]), [0.06, np.nan, 0.03, 0.06])
    assert holm([]).size == 0
    assert holm([0.7, 0.9]).tolist() == [1, 1]


def test_no_more_than_the_level_errs_when_nothing_is_there():
    p = np.random.default_rng(1).random((20_000, 7))
    rate = np.mean([(holm(row) <= 0.05).any() for row in p])
    assert rate == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 20_000))
