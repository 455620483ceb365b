"""Ranks, agreement of lists and rank intervals against brute force."""

import numpy as np
import pytest
import scipy.stats
from scipy.sparse import csr_array

from opd_diag.stats.bootstrap import cluster_counts
from opd_diag.stats.ranks import descending_ranks, rank_intervals, top_agreement


def test_ranks_are_those_of_scipy_and_what_may_not_be_listed_is_last():
    scores = np.random.default_rng(0).normal(size=(4, 30))
    expected = scipy.stats.rankdata(-scores, axis=1)
    assert (descending_ranks(scores) == expected).all()
    assert descending_ranks([2.0, -np.inf, 2.0])[[0, 2]].tolist() == [1, 2]
    assert descending_ranks([2.0, -np.inf, 2.0])[1] > 10**9


def test_agreement_is_that_of_the_sets():
    rng = np.random.default_rng(1)
    one, other = (descending_ranks(rng.normal(size=(6, 40))) for _ in range(2))
    found = top_agreement(one, other, [5, 20, 40, 60], 40)
    for pair in range(6):
        for place, k in enumerate((5, 20)):
            a, b = (set(np.flatnonzero(ranks[pair] <= k)) for ranks in (one, other))
            jaccard = len(a & b) / len(a | b)
            chance = k * k / 40 / (2 * k - k * k / 40)
            assert found.jaccard[pair, place] == pytest.approx(jaccard)
            assert found.corrected[pair, place] == pytest.approx((jaccard - chance) / (1 - chance))
    assert (found.jaccard[:, 2] == 1).all()
    assert np.isnan(found.corrected[:, 2:]).all()
    assert np.isnan(found.jaccard[:, 3]).all()


def test_random_lists_agree_by_chance_and_equal_ones_fully():
    rng = np.random.default_rng(2)
    one, other = (descending_ranks(rng.normal(size=(400, 100))) for _ in range(2))
    found = top_agreement(one, other, [30], 100).corrected
    assert abs(found.mean()) < 0.02
    assert (top_agreement(one, one, [30], 100).corrected == 1).all()


def test_rank_intervals_are_quantiles_over_resampled_clusters():
    rng = np.random.default_rng(3)
    x = rng.gamma(0.5, 1.0, (12, 9)) * (rng.random((12, 9)) < 0.7)
    found = rank_intervals(csr_array(x), [4, 0], [12, 12], draws=300, seed=7)
    drawn = []
    for counts in cluster_counts(12, draws=300, seed=7):
        sums = np.repeat(x, counts, axis=0).sum(axis=0)
        drawn.append([1 + (sums > sums[item] + 1e-12).sum() for item in (4, 0)])
    assert found.low == pytest.approx(np.quantile(drawn, 0.025, axis=0))
    assert found.high == pytest.approx(np.quantile(drawn, 0.975, axis=0))
    total = x.sum(axis=0)
    assert found.estimate.tolist() == [1 + (total > total[item]).sum() for item in (4, 0)]
