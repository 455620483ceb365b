"""Ranks, agreement of lists and rank intervals against brute force."""

import numpy as np
import pytest
import scipy.stats
from scipy.sparse import csr_array

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


def test_rank_intervals_compare_every_pair_of_items(monkeypatch):
    rng = np.random.default_rng(3)
    x = rng.gamma(0.5, 1.0, (12, 9)) * (rng.random((12, 9)) < 0.7) * np.arange(1, 10)
    items, clusters = [8, 4, 0], np.array([9.5, 8.0, 3.0])
    for cells in (10**6, 9):  # all at once, and one by one
        monkeypatch.setattr("opd_diag.stats.ranks._CELLS", cells)
        found = rank_intervals(csr_array(x), items, clusters)
        total = x.sum(axis=0)
        for place, item in enumerate(items):
            reach = scipy.stats.t.ppf(0.975, clusters[place] - 1) / np.sqrt(2)
            low, high = 1, 9
            for other in range(9):
                difference = x[:, other] - x[:, item]
                bound = reach * difference.std(ddof=1) * np.sqrt(12)
                low += difference.sum() > bound
                high -= difference.sum() < -bound
            assert found.estimate[place] == 1 + (total > total[item]).sum()
            if clusters[place] >= 5:
                assert (found.low[place], found.high[place]) == (low, high)
            else:
                assert np.isnan(found.low[place])
                assert found.reason[place] == "too few prompts"


def test_rank_intervals_hold_the_true_ranks():
    covered = asked = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        mean = np.exp(rng.normal(size=150)) / np.arange(1, 151)
        n = rng.poisson(20 / np.arange(1, 151), (40, 150))
        x = n * mean * np.exp(1.5 * rng.standard_normal((40, 150)) - 1.125)
        truth = descending_ranks(mean * 20 / np.arange(1, 151))
        items = np.flatnonzero(n.sum(axis=0) >= 10)
        found = rank_intervals(csr_array(x), items, np.full(items.size, 40))
        covered += ((found.low <= truth[items]) & (truth[items] <= found.high)).sum()
        asked += items.size
    assert covered / asked > 0.92
