import numpy as np
import pytest

from opd_diag.stats.holm import holm


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
