"""Give cluster-bootstrap intervals from per-cluster sums.

Rollouts of one prompt resemble each other, so whole clusters (prompts) are drawn, and a statistic
enters only by what it sums to in each cluster: x (numerator) and m (denominator). One draw then is
a vector of counts, and all draws of all statistics are a few matrix products.

`ratio`, `mean`, `ratio_difference` and `ratio_of_ratios` give bootstrap-t intervals: each draw is
divided by its own linearised cluster standard error, which keeps the level where clusters are few
or skewed. `percentile` serves statistics with cuts or rankings, of which only the draws are known.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import Floats, Interval, as_interval, cluster_counts, percentile
from opd_diag.stats.studentised import Sums, bootstrap_t

__all__ = [
    "Interval",
    "cluster_counts",
    "mean",
    "percentile",
    "ratio",
    "ratio_difference",
    "ratio_of_ratios",
]


def ratio(
    x: Sums,
    m: Sums,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    log: bool = False,
    strata: npt.ArrayLike | None = None,
) -> Interval:
    """Estimate ratios of sums, sum x / sum m, with bootstrap-t intervals over clusters.

    Args:
        x: Numerator of each cluster, shape (clusters,) or (clusters, k), dense or scipy.sparse.
        m: Denominator, same shape or (clusters, 1); 0 where a cluster has no data.
        draws: Bootstrap draws.
        seed: Seed of the draws.
        level: Two-sided level of the interval.
        log: Build the interval on the log scale: for positive ratios with a skewed spread. None is
            given where an end is more than 20 times above or below the estimate.
        strata: Group of each cluster: clusters are drawn, and their spread is taken, inside it.

    Returns:
        Estimates and intervals, each field of shape () or (k,).

    Raises:
        ValueError: If shapes do not fit or a dense input is not finite.

    Source: Efron 1981 (bootstrap-t); Davison and Hinkley 1997, sections 2.4 and 5.2.
    """
    found = bootstrap_t(
        [(x, m)], _log if log else _same, draws=draws, seed=seed, level=level, strata=strata
    )
    return _answer(found, x, log=log)


def mean(
    x: Sums,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    strata: npt.ArrayLike | None = None,
) -> Interval:
    """Estimate means over clusters, each cluster counting once; arguments as for `ratio`."""
    ones = np.ones((x.shape[0], 1))
    return ratio(x, ones, draws=draws, seed=seed, level=level, strata=strata)


def ratio_difference(
    x: Sums,
    m: Sums,
    x0: Sums,
    m0: Sums,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    strata: npt.ArrayLike | None = None,
) -> Interval:
    """Estimate sum x / sum m - sum x0 / sum m0, both ratios on the same clusters.

    The two are drawn together, so what a cluster has in common cancels. Arguments as for `ratio`;
    x0 and m0 may have shape (clusters, 1): one reference for all k.
    """
    pairs = [(x, m), (x0, m0)]
    found = bootstrap_t(pairs, _difference, draws=draws, seed=seed, level=level, strata=strata)
    return _answer(found, x)


def ratio_of_ratios(
    x: Sums,
    m: Sums,
    x0: Sums,
    m0: Sums,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    strata: npt.ArrayLike | None = None,
) -> Interval:
    """Estimate (sum x / sum m) / (sum x0 / sum m0), a lift, with the interval on the log scale.

    Arguments as for `ratio` with log=True; x0 and m0 may have shape (clusters, 1): one reference
    for all k.
    """
    pairs = [(x, m), (x0, m0)]
    found = bootstrap_t(pairs, _log_quotient, draws=draws, seed=seed, level=level, strata=strata)
    return _answer(found, x, log=True)


def _answer(
    found: tuple[Floats, Floats, Floats, npt.NDArray[np.int64]], x: Sums, *, log: bool = False
) -> Interval:
    estimate, low, high, clusters = found
    shape = np.shape(x)[1:] if x.ndim == 1 else estimate.shape
    return as_interval(
        estimate.reshape(shape),
        low.reshape(shape),
        high.reshape(shape),
        clusters.reshape(shape),
        log=log,
    )


def _same(r: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    return r[0], [np.ones_like(r[0])]


def _log(r: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    positive = np.where(r[0] > 0, r[0], np.nan)
    return np.log(positive), [1 / positive]


def _difference(r: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    return r[0] - r[1], [np.ones_like(r[0]), -np.ones_like(r[1])]


def _log_quotient(r: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    (above, (slope,)), (below, (slope0,)) = _log(r[:1]), _log(r[1:])
    return above - below, [slope, -slope0]
