"""The stratified test against Fisher's, against all permutations, and against Mantel-Haenszel."""

from itertools import combinations, product

import numpy as np
import pytest
import scipy.stats

from opd_diag.stats.strata import stratified_p, weighted_shares


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
def test_it_equals_all_permutations(seed: int) -> None:
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
