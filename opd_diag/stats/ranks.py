"""Rank sums over clusters, see how sure the ranks are, and how well two halves agree on the top."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from opd_diag.stats.intervals import Floats, Interval, as_interval

Integers = npt.NDArray[np.int64]

_CELLS = 4_000_000  # pairs of items in one block: 32 MB an array


class Agreement(NamedTuple):
    """Agreement of pairs of top-K lists; both fields have shape (pairs, number of K).

    Attributes:
        jaccard: Shared items over items of either list.
        corrected: (J - E) / (1 - E), E being that of two random lists; 0 is chance, 1 is equal.
    """

    jaccard: Floats
    corrected: Floats


def descending_ranks(scores: npt.ArrayLike) -> Integers:
    """Rank scores along the last axis, 1 for the largest; equal ones keep their order.

    Items of score -inf stand in no list: their rank is larger than any K.
    """
    values = np.asarray(scores, np.float64)
    order = np.argsort(-values, axis=-1, kind="stable")
    ranks = np.empty(values.shape, np.int64)
    np.put_along_axis(ranks, order, np.arange(1, values.shape[-1] + 1), axis=-1)
    return np.where(np.isneginf(values), np.iinfo(np.int64).max, ranks)


def normal_scores(values: npt.ArrayLike) -> Floats:
    """Replace values by the normal quantiles of their ranks; equal values get one score.

    Args:
        values: Shape (n,). Finite.

    Returns:
        Phi^-1((rank - 1/2) / n) with average ranks from 1. Shape (n,).

    Source: van der Waerden 1952; Hazen's plotting position.
    """
    ranks = stats.rankdata(np.asarray(values, np.float64))
    return np.asarray(special.ndtri((ranks - 0.5) / max(len(ranks), 1)))


def top_agreement(
    first: npt.ArrayLike, second: npt.ArrayLike, ks: npt.ArrayLike, universe: int
) -> Agreement:
    """Compare the top-K lists of pairs of rankings.

    Args:
        first: Ranks from 1, shape (pairs, items).
        second: Ranks of the same items in the other half.
        ks: List sizes. Shape (number of K,).
        universe: Items that could stand in a list, U.

    Returns:
        Jaccard index, and its value corrected by E = m / (2 K - m), m = K² / U. NaN where K is
        above U: no two lists of that size could differ.
    """
    both = np.sort(np.maximum(np.asarray(first), np.asarray(second)), axis=-1)
    k = np.asarray(ks, np.float64)
    shared = np.stack([np.searchsorted(row, k, side="right") for row in both])
    jaccard = shared / (2 * k - shared)
    chance = k**2 / universe
    expected = chance / (2 * k - chance)
    corrected = np.full(jaccard.shape, np.nan)
    np.divide(jaccard - expected, 1 - expected, out=corrected, where=k < universe)
    return Agreement(np.where(k <= universe, jaccard, np.nan), corrected)


def rank_intervals(x: Any, items: npt.ArrayLike, clusters: npt.ArrayLike) -> Interval:
    """Give 95 % intervals of the rank of a sum among the sums of all items.

    An item ranks below those whose sum is larger by more than chance, and above those whose sum is
    smaller by more. Chance is t / sqrt(2) standard errors of the difference of the two sums: what
    one of two items that are as uncertain moves by in its own interval. Resampled ranks would not
    do: noise spreads the sums that are ranked, and drives every rank towards the middle.

    Args:
        x: What each cluster adds to each item. Sparse, shape (clusters, all items).
        items: Columns whose rank is wanted. Shape (k,).
        clusters: Effective clusters behind each of these, for t. Shape (k,).

    Returns:
        Ranks, 1 for the largest sum: 1 + the number of larger ones.

    Source: Goldstein and Healy 1995 (intervals for the comparison of pairs).
    """
    wanted, behind = np.asarray(items, np.int64), np.asarray(clusters, np.float64)
    rows = x.T.tocsr()
    count = x.shape[0]
    total = np.asarray(rows.sum(axis=1), np.float64).ravel()
    square = np.asarray(rows.multiply(rows).sum(axis=1), np.float64).ravel()
    factor = count / max(count - 1, 1)
    variance = factor * (square - total**2 / count)
    far = stats.t.ppf(0.975, np.maximum(behind - 1, 1)) / np.sqrt(2)
    estimate, low, high = np.empty((3, wanted.size))
    step = max(1, _CELLS // max(total.size, 1))
    for start in range(0, wanted.size, step):
        part = slice(start, start + step)
        own = wanted[part]
        product = np.asarray((rows @ rows[own].toarray().T).T)
        covariance = factor * (product - np.outer(total[own], total) / count)
        spread = np.maximum(variance[own, None] + variance - 2 * covariance, 0)
        above = total - total[own, None]
        bound = far[part, None] * np.sqrt(spread) + 1e-9 * (
            np.abs(total) + np.abs(total[own, None])
        )
        estimate[part] = 1 + (above > 0).sum(axis=1)
        low[part] = 1 + (above > bound).sum(axis=1)
        high[part] = total.size - (above < -bound).sum(axis=1)
    return as_interval(estimate, low, high, behind.astype(np.int64))
