"""Means and medians of rows that come in clusters, with intervals over the clusters."""

import numpy as np
import numpy.typing as npt

from opd_diag.stats.bootstrap import ratio
from opd_diag.stats.intervals import (
    FEWEST_CLUSTERS,
    Floats,
    Interval,
    cluster_counts,
    effective_clusters,
    percentile,
)

_CELLS = 4_000_000  # draws x rows in one block: 32 MB


def cluster_mean(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Average values, each counting once, with a bootstrap-t interval over whole clusters.

        cluster_mean(tokens["reverse_kl"], tokens["prompt_id"])

    Args:
        values: One number per row, any unit; what is not finite is left out. Shape (rows,).
        clusters: Label of the cluster of each row, such as its prompt. Shape (rows,).
        draws: Bootstrap draws.
        seed: Seed of the draws.
        level: Two-sided level of the interval.

    Returns:
        The mean and its interval, each field of shape (); `reason` says why there is none.

    Raises:
        ValueError: If the shapes differ.
    """
    y, code = _known(values, clusters)
    count = int(code.max(initial=-1)) + 1
    x, m = np.bincount(code, y, count), np.bincount(code, minlength=count)
    return ratio(x, m.astype(np.float64), draws=draws, seed=seed, level=level)


def cluster_median(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    counts: npt.NDArray[np.integer] | None = None,
) -> Interval:
    """Estimate the median over rows, with a percentile interval over whole clusters.

    Args:
        values: One number per row, any unit; what is not finite is left out. Shape (rows,).
        clusters: Label of the cluster of each row, such as its prompt. Shape (rows,).
        draws: Bootstrap draws.
        seed: Seed of the draws.
        level: Two-sided level.
        counts: How often each draw holds each cluster that has a value, in the order of their
            labels, shape (draws, clusters), to use instead of new draws.

    Returns:
        The median and its interval, each field of shape (); `reason` says why there is none.

    Raises:
        ValueError: If the shapes differ.
    """
    y, place = _known(values, clusters)
    size = int(place.max(initial=-1)) + 1
    if not len(y):
        return percentile(np.full(draws, np.nan), np.nan, 0)
    order = np.argsort(y)
    y, place = y[order], place[order]
    (point,) = _medians(y, np.ones((1, len(y)), np.uint16))
    effective = effective_clusters(np.bincount(place))
    if effective + 1e-9 < FEWEST_CLUSTERS:
        return percentile(np.full(1, np.nan), point, size, effective=effective)
    if counts is None:
        counts = cluster_counts(size, draws=draws, seed=seed)
    step = max(1, _CELLS // len(y))
    medians = [_medians(y, counts[i : i + step][:, place]) for i in range(0, len(counts), step)]
    drawn = np.concatenate(medians)
    return percentile(drawn, point, size, effective=effective, level=level)


def _known(values: npt.ArrayLike, clusters: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Give the finite values, and the number of the cluster of each."""
    y, labels = np.asarray(values, np.float64), np.asarray(clusters)
    if y.ndim != 1 or y.shape != labels.shape:
        raise ValueError(f"clusters: shape {labels.shape}; expected that of values, {y.shape}")
    there = np.isfinite(y)
    return y[there], np.unique(labels[there], return_inverse=True)[1]


def _medians(rising: Floats, weights: npt.NDArray[np.integer]) -> Floats:
    """Find the medians of sorted values that occur `weights` times, NaN if none does."""
    below = np.cumsum(weights, axis=1, dtype=np.int64)
    half = below[:, -1:] / 2
    last = len(rising) - 1
    lower = np.minimum((below < half).sum(axis=1), last)
    upper = np.minimum((below <= half).sum(axis=1), last)
    return np.where(half[:, 0] > 0, (rising[lower] + rising[upper]) / 2, np.nan)
