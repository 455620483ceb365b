"""Test whether the members of a group differ in value, by permuting values inside clusters.

Every group holds so many places of each cluster. If membership did not matter, its sum would be
that of so many values drawn without replacement from the cluster: mean, variance and third moment
are known in closed form, and small groups are drawn.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from opd_diag.stats.intervals import Floats
from opd_diag.stats.ragged import run_starts, starts_of

Integers = npt.NDArray[np.int64]

_STRAIGHT = 1e-4  # skewness below which the law is normal
_CELLS = 4_000_000  # picks in one block: 32 MB an array
_ENOUGH = 10  # draws as far as the observed sum after which a p is known well enough
_FIRST_DRAWS = 64
_MOST_DRAWS = 1_000_000


def permutation_moments(
    n: Any, size: npt.ArrayLike, total: npt.ArrayLike, square: npt.ArrayLike
) -> tuple[Floats, Floats]:
    """Give mean and variance of each group's sum under permutation inside clusters.

    Args:
        n: Places of each cluster that each group holds. Sparse, shape (clusters, groups).
        size: Values in each cluster. Shape (clusters,).
        total: Their sum.
        square: Sum of their squares.

    Returns:
        Mean and variance, each of shape (groups,).

    Source: sampling without replacement, summed over clusters (Hajek and Sidak 1967, II.3).
    """
    count, added, squared = (np.asarray(a, np.float64) for a in (size, total, square))
    average = added / np.maximum(count, 1)
    spread = np.maximum(squared - count * average**2, 0) / np.maximum(count * (count - 1), 1)
    mean = n.T @ average
    variance = n.T @ (spread * count) - n.multiply(n).T @ spread
    return np.asarray(mean), np.maximum(np.asarray(variance), 0)


def third_moment(n: Any, size: Floats, cubes: Floats) -> Floats:
    """Give the third central moment of each group's sum under permutation inside clusters.

    Args:
        n: Places of each cluster that each group holds. Sparse, shape (clusters, groups).
        size: Values in each cluster. Shape (clusters,).
        cubes: Sum over them of the cubed distance from the cluster's mean.

    Returns:
        Third moments of shape (groups,).

    Source: sampling without replacement: n (N - n) (N - 2 n) / ((N - 1) (N - 2)) times the
        third central moment, summed over clusters (Cochran 1977, section 2.15).
    """
    each = cubes / np.maximum(size * (size - 1) * (size - 2), 1)
    square = n.multiply(n)
    moment = n.T @ (each * size**2) - 3 * (square.T @ (each * size))
    return np.asarray(moment + 2 * (square.multiply(n).T @ each))


def skewed_p(observed: Floats, mean: Floats, variance: Floats, third: Floats) -> Floats:
    """Give the two-sided p of sums by a gamma law of their first three moments.

    Returns:
        Chance to lie at least as far from the mean; 1 where the permutation cannot move a sum.
    """
    moved = variance > 1e-20 * np.maximum(mean**2, observed**2)
    spread = np.sqrt(np.where(moved, variance, 1))
    skew = np.where(moved, third, 0) / spread**3
    away = np.abs(observed - mean) / spread
    skew = np.where(np.abs(skew) < _STRAIGHT, 0, skew)
    p = stats.pearson3.sf(away, skew) + stats.pearson3.cdf(-away, skew)
    return np.where(moved, np.minimum(p, 1), 1.0)


def drawn_p(
    n: Any,
    observed: Floats,
    mean: Floats,
    values: npt.NDArray[np.floating],
    size: npt.ArrayLike,
    *,
    tests: int | None = None,
    level: float = 0.05,
    seed: int = 0,
) -> Floats:
    """Give the two-sided p of sums by drawing them, as often as each group needs.

    A group is drawn until 10 draws lie at least as far from the mean as what was observed: p is
    10 over the number of draws that this took. The rest are drawn until their p must pass
    Benjamini and Hochberg's procedure at `level`, or a million times.

    Args:
        n: Places of each cluster that each group holds. Sparse, shape (clusters, groups).
        observed: Sum of each group. Shape (groups,).
        mean: Its mean under permutation.
        values: Values of all clusters, one cluster after the other. Shape (sum of size,).
        size: Values in each cluster. Shape (clusters,).
        tests: Tests among which p will be adjusted; None: the groups.
        level: Level of that adjustment.
        seed: Seed of the draws.

    Returns:
        p, never 0. Shape (groups,).

    Source: Besag and Clifford 1991 (sequential Monte Carlo p-values).
    """
    rng = np.random.default_rng(seed)
    cells = n.T.tocoo()
    order = np.lexsort((cells.col, cells.row))
    group, cluster = cells.row[order], cells.col[order]
    picks = cells.data[order].astype(np.int64)
    sizes = np.asarray(size, np.int64)
    start, length = starts_of(sizes)[cluster], sizes[cluster]
    # Rounding must not tell a draw of the very same values from what was observed.
    bound = np.abs(observed - mean) - 1e-9 * (np.abs(observed) + np.abs(mean))
    p, far = np.ones(n.shape[1]), np.zeros(n.shape[1], np.int64)
    alive, done = np.unique(group), 0
    while alive.size:
        needed = min(_ENOUGH * (tests or p.size) / (level * alive.size), _MOST_DRAWS)
        if done >= needed:
            p[alive] = (1 + far[alive]) / (1 + done)
            break
        inside = np.flatnonzero(np.isin(group, alive))
        width = max(1, min(max(done, _FIRST_DRAWS), _CELLS // max(int(picks[inside].sum()), 1)))
        sums = _drawn_sums(
            rng, group[inside], start[inside], length[inside], picks[inside], values, width
        )
        hits = far[alive, None] + np.cumsum(
            np.abs(sums - mean[alive, None]) >= bound[alive, None], axis=1
        )
        ready = hits[:, -1] >= _ENOUGH
        p[alive[ready]] = _ENOUGH / (done + 1 + np.argmax(hits[ready] >= _ENOUGH, axis=1))
        far[alive], done = hits[:, -1], done + width
        alive = alive[~ready]
    return p


def _drawn_sums(
    rng: np.random.Generator,
    group: Integers,
    start: Integers,
    length: Integers,
    picks: Integers,
    values: npt.NDArray[np.floating],
    width: int,
) -> Floats:
    """Draw the sum of each group `width` times, from its cells in the order of the groups."""
    sums = np.zeros((group.size, width))
    for count in np.unique(picks):
        rows = np.flatnonzero(picks == count)
        chosen = _without_replacement(rng, length[rows], int(count), width)
        chosen += start[rows, None]
        sums[rows] = values[chosen].sum(axis=0, dtype=np.float64)
    return np.asarray(np.add.reduceat(sums, run_starts(group), axis=0))


def _without_replacement(
    rng: np.random.Generator, length: Integers, count: int, width: int
) -> Integers:
    """Draw `count` different numbers below each length, `width` times; (count, rows, width).

    Source: Floyd's algorithm (Bentley and Floyd, CACM 30, 1987).
    """
    chosen = np.empty((count, length.size, width), np.int64)
    for i in range(count):
        top = (length - count + i)[:, None]
        drawn = (rng.random((length.size, width)) * (top + 1)).astype(np.int64)
        again = (chosen[:i] == drawn).any(axis=0)
        chosen[i] = np.where(again, top, drawn)
    return chosen
