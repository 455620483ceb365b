"""Give cluster-bootstrap intervals from per-cluster sums.

Rollouts of one prompt resemble each other, so whole clusters (prompts) are drawn, and a statistic
enters only by what it sums to in each cluster: x (numerator) and m (denominator). One draw then is
a vector of counts, and all draws of all statistics are a few matrix products.

`ratio`, `mean`, `ratio_difference` and `ratio_of_ratios` give bootstrap-t intervals: each draw is
divided by its own linearised cluster standard error, which keeps the level where clusters are few
or skewed. `rate` is a ratio of counts, which has an interval at 0 and 1 too. `percentile` serves
statistics with cuts or rankings, of which only the draws are known.

A denominator may be a signed sum, such as a total gain. Where that is not above 0, or at most 0 in
more than 2.5 % of the draws, there is no ratio: "the total is not above 0".
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from opd_diag.stats.intervals import (
    ENOUGH_CLUSTERS,
    FEW,
    FEWEST_CLUSTERS,
    Floats,
    Interval,
    as_interval,
    cluster_counts,
    effective_clusters,
    percentile,
)
from opd_diag.stats.studentised import Studentised, Sums, bootstrap_t

Counts: TypeAlias = npt.NDArray[np.integer]

__all__ = [
    "Interval",
    "cluster_counts",
    "effective_clusters",
    "mean",
    "percentile",
    "rate",
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
    counts: Counts | None = None,
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
        counts: How often each draw holds each cluster, shape (draws, clusters), to use instead of
            new draws.

    Returns:
        Estimates and intervals, each field of shape () or (k,).

    Raises:
        ValueError: If shapes do not fit or a dense input is not finite.

    Source: Efron 1981 (bootstrap-t); Davison and Hinkley 1997, sections 2.4 and 5.2.
    """
    result = bootstrap_t(
        [(x, m)],
        _log if log else _same,
        draws=draws,
        seed=seed,
        level=level,
        strata=strata,
        counts=counts,
        eventful=log,
    )
    return _answer(result, x, log=log)


def rate(
    x: Sums,
    m: Sums,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    strata: npt.ArrayLike | None = None,
    counts: Counts | None = None,
) -> Interval:
    """Estimate a share of things counted, sum x / sum m, with an interval at 0 and 1 too.

    Where clusters agree, or too few differ for the bootstrap, the interval is Wilson's with the
    effective clusters as trials: wide, since each cluster counts as one.

    Args:
        x: Things of a kind in each cluster, shape (clusters,) or (clusters, k), from 0 to m.
        m: Things in each cluster, same shape or (clusters, 1).
        draws: Bootstrap draws.
        seed: Seed of the draws.
        level: Two-sided level of the interval.
        strata: Group of each cluster.
        counts: Draws to use instead of new ones.

    Returns:
        Shares and intervals inside [0, 1].

    Source: Wilson 1927.
    """
    share = ratio(x, m, draws=draws, seed=seed, level=level, strata=strata, counts=counts)
    low, high, reason = (np.array(field) for field in (share.low, share.high, share.reason))
    n = np.broadcast_to(effective_clusters(m), share.estimate.shape)
    alike = (n + 1e-9 >= FEWEST_CLUSTERS) & np.isnan(low) & np.isfinite(share.estimate)
    bottom, top = wilson(share.estimate, np.maximum(n, 1), level=level)
    few = np.where(n < ENOUGH_CLUSTERS, FEW, "")
    return Interval(
        share.estimate,
        np.where(alike, bottom, np.clip(low, 0, 1)),
        np.where(alike, top, np.clip(high, 0, 1)),
        share.clusters,
        np.where(alike, few, reason),
    )


def wilson(share: Floats, n: Floats, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Give the ends of the interval of a share of `n` independent trials.

    Source: Wilson 1927.
    """
    z2 = float(ndtri((1 + level) / 2)) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return np.clip(middle - half, 0, share), np.clip(middle + half, share, 1)


def mean(
    x: Sums,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    strata: npt.ArrayLike | None = None,
    counts: Counts | None = None,
) -> Interval:
    """Estimate means over clusters, each cluster counting once; arguments as for `ratio`."""
    ones = np.ones((x.shape[0], 1))
    return ratio(x, ones, draws=draws, seed=seed, level=level, strata=strata, counts=counts)


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
    counts: Counts | None = None,
) -> Interval:
    """Estimate sum x / sum m - sum x0 / sum m0, both ratios on the same clusters.

    The two are drawn together, so what a cluster has in common cancels. Arguments as for `ratio`;
    x0 and m0 may have shape (clusters, 1): one reference for all k.
    """
    pairs = [(x, m), (x0, m0)]
    result = bootstrap_t(
        pairs, _difference, draws=draws, seed=seed, level=level, strata=strata, counts=counts
    )
    return _answer(result, x)


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
    counts: Counts | None = None,
) -> Interval:
    """Estimate (sum x / sum m) / (sum x0 / sum m0), a lift, with the interval on the log scale.

    Arguments as for `ratio` with log=True; x0 and m0 may have shape (clusters, 1): one reference
    for all k.
    """
    pairs = [(x, m), (x0, m0)]
    result = bootstrap_t(
        pairs,
        _log_quotient,
        draws=draws,
        seed=seed,
        level=level,
        strata=strata,
        counts=counts,
        eventful=True,
    )
    return _answer(result, x, log=True)


def _answer(result: Studentised, x: Sums, *, log: bool = False) -> Interval:
    shape = np.shape(x)[1:] if x.ndim == 1 else result.estimate.shape
    values = {name: value.reshape(shape) for name, value in result._asdict().items()}
    events = values.pop("events")
    return as_interval(**values, events=events if log else None, log=log)


def _same(r: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    return r[0], [np.ones_like(r[0])]


def _log(r: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    """Take the logarithm; that of 0 is minus infinity, without a spread of its own."""
    known = np.where(r[0] < 0, np.nan, r[0])
    return np.log(known), [np.where(known == 0, 0, 1 / known)]


def _difference(r: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    return r[0] - r[1], [np.ones_like(r[0]), -np.ones_like(r[1])]


def _log_quotient(r: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    (above, (slope,)), (below, (slope0,)) = _log(r[:1]), _log(r[1:])
    return above - below, [slope, -slope0]
