"""Recompute cuts and thirds in every cluster-bootstrap draw, from columns sorted once."""

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import Floats

_BINS = 256


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
