import itertools

import numpy as np
import pytest
import scipy.stats

from opd_diag.stats.sign_flips import sign_flip_p


@pytest.mark.parametrize("seed", range(5))
def test_few_clusters_give_the_share_of_all_patterns(seed):
    x = np.random.default_rng(seed).standard_normal((8, 3)).round(1)
    totals = np.array([np.array(s) @ x for s in itertools.product((-1, 1), repeat=8)])
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
