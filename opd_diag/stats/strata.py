"""Test whether marked members of strata have a property more or less often than the others."""

from functools import lru_cache
from math import comb

import numpy as np
import numpy.typing as npt
from scipy.stats import hypergeom

from opd_diag.stats.intervals import Floats

SMALL = 100  # members of a stratum up to which ways are counted; a library takes logarithms


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
