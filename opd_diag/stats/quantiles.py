"""Find quantiles outside each group, in every bootstrap draw, and at tenths; compare thirds."""

from typing import Any

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import Floats
from opd_diag.stats.ragged import index_in_sequence

TENTHS = 10
_BINS = 256


def quantile_of_others(
    values: npt.ArrayLike, groups: npt.ArrayLike, *, share: float
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Find for each value the quantile of all values outside its group.

    Args:
        values: Shape (n,). Finite.
        groups: Number of the group of each value, from 0. Shape (n,).
        share: Share of the values below the quantile, 0 to 1; interpolated linearly.

    Returns:
        The quantile for each value, NaN where every value is of its group, and the number of
        values outside the group. Shapes (n,).

    Raises:
        ValueError: If shapes differ, a value is not finite or `share` is not between 0 and 1.
    """
    x, group = np.asarray(values, np.float64), np.asarray(groups, np.int64)
    if x.shape != group.shape or x.ndim != 1:
        raise ValueError(f"groups: shape {group.shape}; expected {x.shape}, one dimension")
    if not np.isfinite(x).all():
        raise ValueError("values: not finite; expected numbers only")
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share}; expected 0 to 1")
    order = np.argsort(x, kind="stable")
    ordered = x[order]
    sizes = np.bincount(group)
    others = x.size - sizes
    place = share * np.maximum(others - 1, 0)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(others - 1, 0))

    # A group's i-th value (from 0) at place p of all has p - i values of others before it, so it
    # pushes their j-th value one place up whenever p - i <= j.
    members = np.argsort(group[order], kind="stable")
    owner = group[order][members]
    within = index_in_sequence(sizes)
    before = members - within

    def at(rank: npt.NDArray[np.int64]) -> Floats:
        pushed = np.bincount(owner[before <= rank[owner]], minlength=sizes.size)
        return np.asarray(ordered[np.minimum(rank + pushed, x.size - 1)])

    below, above = at(low), at(high)
    quantile = np.where(others > 0, below + (place - low) * (above - below), np.nan)
    return quantile[group], others[group]


def tenths(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], Floats]:
    """Cut values at their tenths; equal values stay together, so tenths may be unequal or empty.

    Args:
        values: Shape (n,). Finite.

    Returns:
        Tenth of each value, from 0, shape (n,), and the borders, shape (11,).
    """
    n = len(values)
    places = np.ceil(np.arange(1, TENTHS) * n / TENTHS).astype(np.int64) - 1
    places = np.clip(places, 0, n - 1)
    inner = np.partition(values, places)[places]
    edges = np.concatenate([[values.min()], inner, [values.max()]]).astype(np.float64)
    return np.searchsorted(inner, values).astype(np.int64), edges


def quantile_in_draws(
    values: npt.NDArray[np.floating],
    cluster: npt.NDArray[np.integer],
    counts: npt.NDArray[np.integer],
    share: float,
) -> Floats:
    """Find a quantile in every draw: the smallest value with at least a share at or below it.

    Which of 256 bins holds it follows from per-cluster histograms; only rows in the few bins that
    hold it in some draw are looked at one by one. The answer is exact.

    Args:
        values: Shape (n,). Finite.
        cluster: Cluster of each row, from 0. Shape (n,).
        counts: How often each draw holds each cluster. Shape (B, clusters).
        share: Share of the rows of the draw, in (0, 1].

    Returns:
        Quantiles, shape (B,).
    """
    n, clusters = len(values), counts.shape[1]
    places = np.unique(np.linspace(0, n - 1, _BINS + 1).astype(np.int64)[1:-1])
    edges = np.unique(np.partition(values, places)[places])
    bins = np.searchsorted(edges, values)
    width = len(edges) + 1
    histogram = np.bincount(cluster * width + bins, minlength=clusters * width)
    below = np.cumsum(counts @ histogram.reshape(clusters, width).astype(np.float64), axis=1)
    wanted = np.ceil(share * below[:, -1] - 1e-9)
    holds = np.argmax(below >= wanted[:, None], axis=1)
    first, last = holds.min(), holds.max()
    near = np.flatnonzero((bins >= first) & (bins <= last))
    near = near[np.argsort(values[near], kind="stable")]
    ordered, owner = values[near], cluster[near]
    before = below[:, first - 1] if first else np.zeros(len(counts))
    drawn = np.empty(len(counts))
    for draw, (row, target, left) in enumerate(zip(counts, wanted, before, strict=True)):
        place = np.searchsorted(np.cumsum(row[owner], dtype=np.int64), np.int64(target - left))
        drawn[draw] = ordered[place]
    return drawn


def thirds_difference(values: Floats, weights: npt.NDArray[np.integer]) -> Floats:
    """Average the last third of weighted rows minus the first third.

    Args:
        values: Rows in the order that makes the thirds. Shape (n, k).
        weights: Times that each row counts. Shape (n,).

    Returns:
        Differences of weighted means, shape (k,); NaN where a third is empty.
    """
    place = np.cumsum(weights, dtype=np.int64)
    total = int(place[-1]) if len(place) else 0
    # Whole numbers: to look for a fraction would turn all places into floats first.
    stop = int(np.searchsorted(place, total // 3, side="right"))
    start = int(np.searchsorted(place, total * 2 // 3, side="right"))
    return _weighted_mean(values[start:], weights[start:]) - _weighted_mean(
        values[:stop], weights[:stop]
    )


def _weighted_mean(values: Floats, weights: npt.NDArray[np.integer]) -> Floats:
    parts = weights.astype(np.float64)
    total = parts.sum()
    return np.asarray(parts @ values / total if total else np.full(values.shape[1], np.nan))
