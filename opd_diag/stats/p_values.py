"""p values that hold whatever the sizes: sign flips, exchange, strata, and Holm's adjustment."""

from functools import lru_cache
from math import comb

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import Floats

SMALL = 100  # members of a stratum up to which ways are counted; a library takes logarithms
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
    bound = total - _ROUNDING * np.abs(values).max(axis=1).sum()
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // clusters)
    row, count = np.arange(clusters), 0
    for first in range(0, draws, step):
        kind = rng.integers(kinds, size=(min(step, draws - first), clusters))
        totals: Floats = values[row, kind].sum(axis=1)
        count += int((totals >= bound).sum())
    return (1 + count) / (1 + draws)


def stratified_p(
    size: npt.ArrayLike, marked: npt.ArrayLike, having: npt.ArrayLike, both: npt.ArrayLike
) -> float:
    """Give the exact two-sided p that marks and a property go together inside strata.

    If they do not, marks could stand on any members of a stratum: how many of the marked have the
    property is hypergeometric in each, and the sum over strata has the convolution as its law.

    Args:
        size: Members of each stratum. Shape (strata,).
        marked: Those that are marked.
        having: Those that have the property.
        both: Those that are marked and have it.

    Returns:
        Twice the smaller tail, at most 1; 1 where no stratum has anything to tell.

    Source: conditional test of Mantel and Haenszel 1959 in its exact form (Mehta, Patel and
        Gray 1985).
    """
    strata = np.stack([np.asarray(a, np.int64) for a in (size, marked, having, both)], axis=1)
    law: Floats = np.ones(1)
    least, total = 0, 0
    for n, m, k, seen in strata.tolist():
        low, high = max(0, m + k - n), min(m, k)
        if low == high:
            continue
        law = np.convolve(law, _hypergeometric(n, m, k))
        least, total = least + low, total + seen
    place = total - least
    tails = law[: place + 1].sum(), law[place:].sum()
    return float(min(1.0, 2 * min(tails)))


@lru_cache(maxsize=10_000)
def _hypergeometric(n: int, m: int, k: int) -> Floats:
    """Give the law of how many of m marked have it, if k of n do, from the least to the most."""
    counts = range(max(0, m + k - n), min(m, k) + 1)
    if n > SMALL:
        # Few strata are so large, and scipy.stats takes long to import.
        from scipy.stats import hypergeom

        return np.asarray(hypergeom.pmf(counts, n, k, m))
    return np.array([comb(k, x) * comb(n - k, m - x) / comb(n, m) for x in counts])


def weighted_shares(
    size: npt.ArrayLike, marked: npt.ArrayLike, having: npt.ArrayLike, both: npt.ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """Give the share with the property among the marked and among the others, times a weight.

    The weight of a stratum is n1 n0 / (n1 + n0), with n1 marked and n0 others: 0 where it holds
    one kind only. Sums over strata, divided by the sum of the weights, are two shares that differ
    by what they differ inside strata. Arguments as for `stratified_p`.

    Returns:
        Weighted share of the marked, of the others, and the weight, each of shape (strata,).

    Source: Mantel and Haenszel 1959; Greenland and Robins 1985 for the difference of shares.
    """
    n, m, k, seen = (np.asarray(a, np.float64) for a in (size, marked, having, both))
    whole = np.maximum(n, 1)
    return seen * (n - m) / whole, (k - seen) * m / whole, m * (n - m) / whole


def holm(p: npt.ArrayLike) -> Floats:
    """Adjust p values such that all tests together err with the probability of one.

    Args:
        p: One p for each test; NaN: not tested, and counted as no test. Shape (tests,).

    Returns:
        Adjusted p, at most 1, NaN where p is.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    values = np.asarray(p, np.float64)
    adjusted = np.full(values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    rising = tested[np.argsort(values[tested], kind="stable")]
    left = np.arange(rising.size, 0, -1)
    adjusted[rising] = np.maximum.accumulate(np.minimum(left * values[rising], 1))
    return adjusted
