"""Test a total over clusters against draws from a null of each cluster."""

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import Floats

_CELLS = 4_000_000  # draws x clusters in one block: 32 MB


def exchange_p(
    observed: npt.ArrayLike, nulls: npt.ArrayLike, *, draws: int = 9_999, seed: int = 0
) -> float:
    """Give the p that the observed total is as high as it is.

    If nothing is there, what was observed in a cluster is one more draw from its null, so any of
    its values could have been the observed one. A rearrangement takes one of them at random in
    every cluster; p is the share of rearrangements whose total is as high as the observed one.
    Clusters multiply the patterns: few draws in each still reach far into the tail.

    Args:
        observed: Value of each cluster. Shape (clusters,). Finite.
        nulls: Its values under the null. Shape (clusters, draws from the null).
        draws: Rearrangements.
        seed: Seed of the rearrangements.

    Returns:
        p, at least 1 / (1 + draws).

    Source: Fisher 1935, section 21; Phipson and Smyth 2010 (1 + count).
    """
    values = np.column_stack([np.asarray(observed, np.float64), np.asarray(nulls, np.float64)])
    values = values[np.ptp(values, axis=1) > 0]
    clusters, kinds = values.shape
    if not clusters:
        return 1.0
    total = values[:, 0].sum()
    bound = total - 1e-9 * np.abs(values).max(axis=1).sum()
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // clusters)
    row, count = np.arange(clusters), 0
    for first in range(0, draws, step):
        kind = rng.integers(kinds, size=(min(step, draws - first), clusters))
        totals: Floats = values[row, kind].sum(axis=1)
        count += int((totals >= bound).sum())
    return (1 + count) / (1 + draws)
