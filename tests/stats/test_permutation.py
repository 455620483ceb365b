"""Permutation inside clusters against enumeration of every permutation."""

import itertools

import numpy as np
import pytest
import scipy.stats
from scipy.sparse import csr_array

from opd_diag.stats.permutation import drawn_p, permutation_moments, skewed_p

VALUES = [np.array([0.1, 2.0, 0.7, 0.4]), np.array([3.0, 0.2, 1.1])]
SIZE = np.array([4, 3])
PLACES = csr_array(np.array([[2, 1, 0], [1, 0, 3]]))


def every_sum(places):
    """Sums of all ways to choose so many values from each cluster."""
    chosen = [
        [sum(c) for c in itertools.combinations(values, k)]
        for values, k in zip(VALUES, places, strict=True)
    ]
    return np.array([sum(parts) for parts in itertools.product(*chosen)])


def moments():
    total = [v.sum() for v in VALUES]
    square = [(v**2).sum() for v in VALUES]
    return permutation_moments(PLACES, SIZE, total, square)


def test_moments_are_those_of_all_permutations():
    mean, variance = moments()
    for group, places in enumerate(PLACES.toarray().T):
        sums = every_sum(places)
        assert mean[group] == pytest.approx(sums.mean(), rel=1e-12)
        assert variance[group] == pytest.approx(sums.var(), rel=1e-12, abs=1e-14)


def harmonic_mean(p):
    """Of ps that are 10 over the draws that 10 hits took: their mean is unbiased."""
    return 1 / np.mean(1 / np.array(p), axis=0)


def test_drawn_p_is_the_exact_one():
    mean, _ = moments()
    observed = np.array([0.1 + 0.4 + 0.2, 2.0, 4.3])
    values = np.concatenate(VALUES)
    p = harmonic_mean(
        [drawn_p(PLACES, observed, mean, values, SIZE, seed=seed) for seed in range(300)]
    )
    for group, places in enumerate(PLACES.toarray().T):
        far = np.abs(every_sum(places) - mean[group]) >= abs(observed[group] - mean[group]) - 1e-9
        assert p[group] == pytest.approx(far.mean(), rel=0.1)
    assert p[2] == 1  # it holds the whole cluster: nothing can be permuted


def test_draws_do_not_depend_on_the_block_they_fall_in(monkeypatch):
    mean, _ = moments()
    arguments = (PLACES, mean + 0.3, mean, np.concatenate(VALUES), SIZE)
    together = harmonic_mean([drawn_p(*arguments, seed=seed) for seed in range(200)])
    monkeypatch.setattr("opd_diag.stats.permutation._CELLS", 50)
    apart = harmonic_mean([drawn_p(*arguments, seed=seed) for seed in range(200)])
    np.testing.assert_allclose(apart[:2], together[:2], rtol=0.15)
    assert (apart[2], together[2]) < (0.01, 0.01)  # no permutation goes there: it has one place


def test_a_group_is_drawn_until_its_p_must_pass_the_adjustment():
    # One cluster of 30 values; the group of four holds the four largest: exact p of 1 in 27,405.
    values = np.sort(np.random.default_rng(0).exponential(size=30))
    n = csr_array(np.array([[4]]))
    observed, mean = np.array([values[-4:].sum()]), np.array([4 * values.mean()])
    alone = drawn_p(n, observed, mean, values, [30], seed=1)
    assert 0.002 < alone[0] <= 0.05  # one test: a couple of hundred draws are enough
    many = drawn_p(n, observed, mean, values, [30], tests=2_000, seed=1)
    assert many[0] * 2_000 <= 0.1
    exact = 1 / 27_405
    hits = drawn_p(n, observed, mean, values, [30], tests=10**9, seed=1)  # as many as there are
    assert exact / 2 < hits[0] < exact * 2


def test_without_skewness_p_is_normal_and_two_sided_and_1_where_nothing_moves():
    variance = np.array([4.0, 4.0, 0.0])
    p = skewed_p(np.array([3.0, 1.0, 5.0]), np.array([1.0, 1.0, 5.0]), variance, np.zeros(3))
    assert p == pytest.approx([2 * scipy.stats.norm.sf(1.0), 1.0, 1.0])


def test_groups_chosen_at_random_are_called_different_at_the_level():
    rng = np.random.default_rng(3)
    size = np.full(30, 60)
    level = np.repeat(rng.exponential(size=30), size)
    values = (level * rng.gamma(0.7, 1.0, level.size)).astype(np.float32)
    cluster = np.repeat(np.arange(30), size)
    rejected = tested = 0
    for _ in range(20):
        group = rng.permutation(np.repeat(np.arange(75), level.size // 75))
        n = csr_array((np.ones(level.size), (cluster, group)), shape=(30, 75))
        sums = np.bincount(group, values)
        totals = np.bincount(cluster, values), np.bincount(cluster, values.astype(float) ** 2)
        mean, _ = permutation_moments(n, size, *totals)
        p = drawn_p(n, sums, mean, values, size, seed=4)
        rejected += int((p <= 0.05).sum())
        tested += 75
    assert scipy.stats.binomtest(rejected, tested, 0.05).pvalue > 1e-4
