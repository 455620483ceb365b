"""Test sums over clusters against 0 by flipping the sign of whole clusters."""

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import Floats

_CELLS = 4_000_000  # draws x clusters in one block: 32 MB
_ROUNDING = 1e-9  # share of the largest sum within which two sums are equal


def sign_flip_p(sums: npt.ArrayLike, *, draws: int = 9_999, seed: int = 0) -> Floats:
    """Give the two-sided p that the total of all clusters lies as far from 0 as it does.

    If nothing is there, what each cluster adds is as often positive as negative by the same
    amount, whatever its size: heavy tails, zeros and unequal clusters do not bend the level. With
    at most 13 clusters that are not 0 all patterns of signs are counted; else some are drawn.

    Args:
        sums: What each cluster adds under the hypothesis of 0. Shape (clusters,) or (clusters, k).
            Finite.
        draws: Patterns of signs to draw.
        seed: Seed of the draws.

    Returns:
        p, of shape () or (k,); at least 1 / (1 + draws), and 1 where no cluster adds anything.

    Source: Fisher 1935, section 21 (randomisation of signs); Phipson and Smyth 2010 (1 + count).
    """
    values = np.asarray(sums, np.float64)
    columns = values[:, None] if values.ndim == 1 else values
    columns = columns[(columns != 0).any(axis=1)]
    clusters = len(columns)
    observed = np.abs(columns.sum(axis=0))
    bound = observed - _ROUNDING * np.abs(columns).sum(axis=0)
    if 2**clusters <= draws + 1:
        patterns = (np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1
        far = (np.abs((1.0 - 2.0 * patterns) @ columns) >= bound).mean(axis=0)
    else:
        rng = np.random.default_rng(seed)
        count = np.zeros(columns.shape[1], np.int64)
        step = max(1, _CELLS // clusters)
        for first in range(0, draws, step):
            shape = min(step, draws - first), clusters
            signs = 1.0 - 2.0 * rng.integers(2, size=shape, dtype=np.int8)
            count += (np.abs(signs @ columns) >= bound).sum(axis=0)
        far = (1 + count) / (1 + draws)
    return np.asarray(far.reshape(values.shape[1:]))
