import numpy as np
import pytest

from opd_diag.stats.bootstrap import cluster_counts
from opd_diag.stats.bootstrap_quantiles import quantile_in_draws, thirds_difference


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("kinds", [3, 40, None])
def test_quantiles_equal_those_of_the_rows_written_out(share, kinds):
    rng = np.random.default_rng(1)
    n = 2_000
    values = rng.exponential(size=n) if kinds is None else rng.integers(0, kinds, n) * 0.5
    values = values.astype(np.float32)
    cluster = rng.integers(0, 12, n)
    counts = cluster_counts(12, draws=30, seed=4)
    found = quantile_in_draws(values, cluster, counts, share)
    for row, value in zip(counts, found, strict=True):
        written = np.repeat(values, row[cluster])
        assert value == np.quantile(written, share, method="inverted_cdf")


def test_thirds_equal_those_taken_row_by_row():
    rng = np.random.default_rng(2)
    values = rng.standard_normal((50, 2))
    weights = rng.integers(0, 4, 50)
    low, high, place = [], [], 0
    for value, weight in zip(values, weights, strict=True):
        place += weight
        low += [value] * weight if 3 * place <= weights.sum() else []
        high += [value] * weight if 3 * place > 2 * weights.sum() else []
    expected = np.mean(high, axis=0) - np.mean(low, axis=0)
    np.testing.assert_allclose(thirds_difference(values, weights), expected, rtol=1e-12)


def test_an_empty_third_has_no_difference():
    assert np.isnan(thirds_difference(np.ones((2, 1)), np.zeros(2, int))).all()
    assert np.isnan(thirds_difference(np.empty((0, 3)), np.zeros(0, int))).all()
