import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd_diag.stats.bootstrap import cluster_counts
from opd_diag.stats.quantiles import (
    quantile_in_draws,
    quantile_of_others,
    tenths,
    thirds_difference,
)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_quantile_of_others_equals_numpy_on_the_others(pairs, share):
    values, groups = (np.array(column) for column in zip(*pairs, strict=True))
    found, others = quantile_of_others(values / 8, groups, share=share)
    for i, group in enumerate(groups):
        rest = values[groups != group] / 8
        assert others[i] == rest.size
        expected = np.quantile(rest, share) if rest.size else np.nan
        np.testing.assert_allclose(found[i], expected, rtol=1e-12)


def test_by_hand():
    # Outside group 0 stand 2, 4, 6: the 70 % point is at place 1.4 of 0..2, 4 + 0.4 x 2 = 4.8.
    found, others = quantile_of_others([1.0, 2.0, 4.0, 6.0], [0, 1, 2, 1], share=0.7)
    assert found[0] == pytest.approx(4.8)
    # Outside group 1 stand 1, 4: place 0.7, 1 + 0.7 x 3 = 3.1.
    assert found[[1, 3]] == pytest.approx([3.1, 3.1])
    assert others.tolist() == [3, 2, 3, 2]


@pytest.mark.parametrize(
    ("values", "groups", "share", "message"),
    [
        ([1.0, np.nan], [0, 1], 0.5, "values: not finite"),
        ([1.0], [0, 1], 0.5, r"groups: shape \(2,\); expected \(1,\)"),
        ([1.0, 2.0], [0, 1], 1.5, "share: 1.5; expected 0 to 1"),
    ],
)
def test_bad_input_is_refused(values, groups, share, message):
    with pytest.raises(ValueError, match=message):
        quantile_of_others(values, groups, share=share)


def test_equal_values_stay_in_one_tenth():
    bins, edges = tenths(np.repeat([0.0, 1.0, 5.0], [55, 25, 20]))
    assert [len(np.unique(bins[part])) for part in (slice(55), slice(55, 80), slice(80, 100))] == [
        1,
        1,
        1,
    ]
    assert edges[0] == 0
    assert edges[-1] == 5
    np.testing.assert_array_equal(tenths(np.arange(20.0))[0], np.arange(20) // 2)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("kinds", [3, 40, None])
def test_quantiles_in_draws_equal_those_of_the_rows_written_out(share, kinds):
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
