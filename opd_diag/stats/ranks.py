"""Rank sums over clusters, see how sure the ranks are, and how well two halves agree on the top."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from opd_diag.stats.intervals import Floats, Interval, cluster_counts, percentile

Integers = npt.NDArray[np.int64]

_CELLS = 8_000_000  # draws x items in one block: 64 MB an array


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


def rank_intervals(
    x: Any,
    items: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Give percentile intervals of the rank of a sum among the sums of all items.

    Args:
        x: What each cluster adds to each item. Sparse, shape (clusters, all items).
        items: Columns whose rank is wanted. Shape (k,).
        clusters: Number of clusters behind each of these. Shape (k,).
        draws: Bootstrap draws.
        seed: Seed of the draws.
        level: Two-sided level.

    Returns:
        Ranks, 1 for the largest sum: 1 + the number of larger ones.
    """
    wanted = np.asarray(items, np.int64)
    rows = x.T.tocsr()
    estimate = _ranks_of(np.asarray(rows.sum(axis=1))[None], wanted)[0]
    counts = cluster_counts(x.shape[0], draws=draws, seed=seed)
    step = max(1, _CELLS // max(rows.shape[0], 1))
    drawn = [
        _ranks_of((rows @ counts[i : i + step].T.astype(np.float64)).T, wanted)
        for i in range(0, draws, step)
    ]
    return percentile(np.concatenate(drawn), estimate, clusters, level=level)


def _ranks_of(sums: Floats, items: Integers) -> Floats:
    """Count the larger sums of each row for some of its items."""
    ordered = np.sort(sums, axis=1)
    return np.stack(
        [
            1.0 + sums.shape[1] - np.searchsorted(ordered[i], row[items], side="right")
            for i, row in enumerate(sums)
        ]
    )
