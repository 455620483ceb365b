import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd_diag.stats.windows import minima, moving_means


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
)
def test_moving_means_equal_the_plain_means_of_every_window(lengths, size, seed):
    rng = np.random.default_rng(seed)
    series = [rng.normal(size=n) for n in lengths]
    found = moving_means(np.concatenate(series), lengths, size=size)
    plain = [[y[t : t + size].mean() for t in range(len(y) - size + 1)] for y in series]
    assert found.counts.tolist() == [len(means) for means in plain]
    np.testing.assert_allclose(found.means, np.concatenate([*plain, []]), rtol=1e-12, atol=1e-14)
    least = [min(means) if means else np.nan for means in plain]
    np.testing.assert_allclose(minima(found), least, rtol=1e-12, atol=1e-14)


def test_a_window_does_not_feel_what_stands_before_it():
    rng = np.random.default_rng(0)
    y = rng.gamma(0.5, size=300)
    alone = moving_means(y, [300], size=64).means
    after_giants = moving_means(np.concatenate([np.full(100, 1e12), y]), [100, 300], size=64).means
    assert np.array_equal(after_giants[37:], alone)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"values: shape \(3,\); expected \(4,\)"):
        moving_means(np.ones(3), [2, 2], size=2)
    with pytest.raises(ValueError, match="size: 0; expected 1 or more"):
        moving_means(np.ones(3), [3], size=0)
