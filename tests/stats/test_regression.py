import numpy as np
import pytest
import scipy.stats

from opd_diag.stats.explained_variance import added_r2, added_r2_jointly, permuted_r2, remainder
from opd_diag.stats.regression import least_squares, moments, without


def rows(seed, clusters=20, size=30, slope=0.0):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(clusters), size)
    a = rng.exponential(size=owner.size) + 50.0
    b = rng.standard_normal(owner.size) + 0.5 * rng.standard_normal(clusters)[owner]
    noise = rng.standard_normal(owner.size) + 0.7 * rng.standard_normal(clusters)[owner]
    return owner, a, b, 3.0 + 0.2 * a + slope * b + noise


def test_coefficients_and_errors_equal_the_textbook_sandwich():
    owner, a, b, y = rows(1, slope=0.5)
    starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    fit = least_squares(moments([a, b, y], starts), [0, 1], 2)
    X = np.column_stack([np.ones_like(a), a, b])
    beta, *_ = np.linalg.lstsq(X, y, rcond=None)
    e = y - X @ beta
    meat = sum(np.outer(s, s) for c in range(20) for s in [X[owner == c].T @ e[owner == c]])
    bread = np.linalg.inv(X.T @ X)
    error = np.sqrt(np.diag(20 / 19 * bread @ meat @ bread))
    np.testing.assert_allclose(fit.raw, beta, rtol=1e-8)
    np.testing.assert_allclose(fit.raw_error, error, rtol=1e-8)
    np.testing.assert_allclose(fit.standard[1:], beta[1:] * X[:, 1:].std(axis=0) / y.std())
    np.testing.assert_allclose(fit.standard_error[1:], error[1:] * X[:, 1:].std(axis=0) / y.std())
    assert fit.r2 == pytest.approx(1 - (e**2).sum() / ((y - y.mean()) ** 2).sum())
    assert fit.df == 19


def test_blocks_of_rows_do_not_matter(monkeypatch):
    owner, a, b, y = rows(2)
    starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    whole = moments([a, b, y], starts)
    monkeypatch.setattr("opd_diag.stats.regression._ROWS", 70)
    for left, right in zip(whole, moments([a, b, y], starts), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


def test_rows_can_be_left_out_afterwards():
    owner, a, b, y = rows(3)
    starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    gone = np.sort(np.random.default_rng(0).choice(owner.size, 25, replace=False))
    found = moments([a, b, y], starts)
    first = np.flatnonzero(np.append(True, np.diff(owner[gone]) > 0))
    out = moments([v[gone] for v in (a, b, y)], first, centre=found.centre, scale=found.scale)
    fit = least_squares(without(found, out, owner[gone][first]), [0, 1], 2)
    kept = np.delete(np.column_stack([np.ones_like(a), a, b]), gone, axis=0)
    np.testing.assert_allclose(
        fit.raw, np.linalg.lstsq(kept, np.delete(y, gone), rcond=None)[0], rtol=1e-8
    )


def test_intervals_hold_their_level_with_clustered_noise():
    hits = 0
    for seed in range(400):
        owner, a, b, y = rows(seed, size=8)
        fit = least_squares(moments([a, b, y], np.arange(0, owner.size, 8)), [0, 1], 2)
        hits += abs(fit.raw[2]) <= scipy.stats.t.ppf(0.975, fit.df) * fit.raw_error[2]
    assert 0.89 * 400 <= hits <= 0.985 * 400


def test_what_cannot_be_solved_is_none():
    owner, a, b, y = rows(4)
    starts = np.arange(0, owner.size, 30)
    for columns in ([a, 2 * a, y], [a, np.ones_like(a), y], [a, b, np.ones_like(a)]):
        assert least_squares(moments(columns, starts), [0, 1], 2) is None
    few = least_squares(moments([a, b, y], np.array([0, 300])), [0, 1], 2)
    assert np.isfinite(few.raw).all()
    assert np.isnan(few.raw_error).all()


def r2(columns, y):
    X = np.column_stack([np.ones(len(y)), *columns])
    e = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    return 1 - e @ e / ((y - y.mean()) @ (y - y.mean()))


def test_added_variance_is_the_difference_of_two_fits():
    owner, a, b, y = rows(5, slope=0.3)
    c = 0.5 * b + np.random.default_rng(1).standard_normal(owner.size)
    left = remainder(np.column_stack([a, 2 * a]), np.column_stack([y, -y]))
    both = np.column_stack([b, c])
    each = added_r2(left, both)
    base = r2([a], y)
    np.testing.assert_allclose(each[:, 0], [r2([a, b], y) - base, r2([a, c], y) - base], rtol=1e-8)
    np.testing.assert_allclose(each[:, 1], each[:, 0], rtol=1e-10)
    joint = added_r2_jointly(left, both)
    np.testing.assert_allclose(joint, r2([a, b, c], y) - base, rtol=1e-8)
    assert added_r2(left, a[:, None])[0] == pytest.approx([0, 0])
    constant = remainder(a[:, None], np.ones((len(a), 1)))
    assert added_r2(constant, both).tolist() == [[0], [0]]


def test_the_null_of_added_variance_equals_its_permutations():
    rng = np.random.default_rng(6)
    n = 3_000
    cell = rng.integers(0, 9, n)
    base = cell + rng.standard_normal(n)
    column = 0.3 * cell**2 + rng.standard_normal(n)
    y = base + 0.1 * cell**2 + rng.exponential(size=n)
    left = remainder(base[:, None], y[:, None])
    draws = np.empty(1_500)
    fixed = np.argsort(cell, kind="stable")
    for draw in range(draws.size):
        shuffled = np.empty(n)
        shuffled[fixed] = column[np.lexsort((rng.random(n), cell))]
        draws[draw] = added_r2(left, shuffled[:, None])[0, 0]
    for level in (0.5, 0.95):
        expected = permuted_r2(left, column[:, None], cell, level=level)[0, 0]
        assert expected == pytest.approx(np.quantile(draws, level), rel=0.05)
