"""The exchange test against all rearrangements, its level, and its reach."""

from itertools import product

import numpy as np
import pytest

from opd_diag.stats.exchange import exchange_p


def test_it_counts_rearrangements() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(4, 3)).round(1)
    totals = [sum(values[i, kind[i]] for i in range(4)) for kind in product(range(3), repeat=4)]
    exact = np.mean(np.array(totals) >= values[:, 0].sum() - 1e-9)
    p = exchange_p(values[:, 0], values[:, 1:], draws=40_000, seed=1)
    assert p == pytest.approx(exact, abs=0.01)


def test_the_level_holds_on_heavy_tails_and_unequal_clusters() -> None:
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
