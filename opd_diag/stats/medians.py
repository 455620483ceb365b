"""Medians of rows that come in clusters."""

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import Floats, Interval, cluster_counts, percentile

_CELLS = 4_000_000  # draws x rows in one block: 32 MB


def cluster_median(
    values: npt.ArrayLike,
    codes: npt.ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Estimate the median over rows, with a percentile interval over whole clusters.

    Args:
        values: Shape (rows,). Finite.
        codes: Cluster of each row. Shape (rows,).
        draws: Bootstrap draws.
        seed: Seed of the draws.
        level: Two-sided level.

    Returns:
        The median, each field of shape ().
    """
    y = np.asarray(values, np.float64)
    names, place = np.unique(np.asarray(codes), return_inverse=True)
    if not len(y):
        return percentile(np.full(draws, np.nan), np.nan, 0)
    order = np.argsort(y)
    y, place = y[order], place[order]
    counts = cluster_counts(len(names), draws=draws, seed=seed)
    step = max(1, _CELLS // len(y))
    medians = [_medians(y, counts[i : i + step][:, place]) for i in range(0, draws, step)]
    (point,) = _medians(y, np.ones((1, len(y)), np.uint16))
    return percentile(np.concatenate(medians), point, len(names), level=level)


def _medians(rising: Floats, weights: npt.NDArray[np.uint16]) -> Floats:
    """Find the medians of sorted values that occur `weights` times. Shape (draws,)."""
    below = np.cumsum(weights, axis=1, dtype=np.int64)
    half = below[:, -1:] / 2
    lower, upper = (below < half).sum(axis=1), (below <= half).sum(axis=1)
    return np.asarray((rising[lower] + rising[upper]) / 2)
