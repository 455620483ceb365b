"""Give the mean of values that come in clusters, with an interval over the clusters."""

import numpy as np
import numpy.typing as npt

from opd_diag.stats.bootstrap import ratio
from opd_diag.stats.intervals import Interval


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
    y, labels = np.asarray(values, np.float64), np.asarray(clusters)
    if y.ndim != 1 or y.shape != labels.shape:
        raise ValueError(f"clusters: shape {labels.shape}; expected that of values, {y.shape}")
    there = np.isfinite(y)
    _, code = np.unique(labels[there], return_inverse=True)
    count = int(code.max(initial=-1)) + 1
    x, m = np.bincount(code, y[there], count), np.bincount(code, minlength=count)
    return ratio(x, m.astype(np.float64), draws=draws, seed=seed, level=level)
