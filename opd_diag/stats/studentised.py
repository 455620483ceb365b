"""Draw ratios of cluster sums and divide each draw by its own linearised standard error.

With e = x - r m at the point estimate r, a draw with counts w has r* = r + (w.e) / (w.m): nothing
is lost to cancellation. Its residual is linear in the vectors e and m, so its square sums follow
from the products of these vectors, once for all draws.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import (
    FEWEST_CLUSTERS,
    Floats,
    cluster_counts,
    cluster_groups,
    draw_quantiles,
    effective_clusters,
)

Sums: TypeAlias = Any  # numpy (clusters,) or (clusters, k), or scipy.sparse (clusters, k)
Scale: TypeAlias = Callable[[Sequence[Floats]], tuple[Floats, list[Floats]]]

_CELLS = 1_000_000  # statistics x draws, or draws x clusters, in one block: 8 MB an array
_ROUNDING = 1e-12  # share of a ratio below which a draw of it is 0
_MOST_BELOW = 0.025  # share of the draws whose total may be 0 or less


class Studentised(NamedTuple):
    """Functions of ratios on their own scale; every field has shape (k,).

    Attributes:
        estimate: The function itself.
        low: Lower end of its interval.
        high: Upper end.
        span: Its width in standard errors.
        clusters: Clusters with data for every ratio.
        effective: Effective number of them, that of the ratio with the fewest.
        events: Clusters with a numerator above 0, of the ratio with the fewest.
        total: Whether all denominators are above 0, in nearly all draws too.
    """

    estimate: Floats
    low: Floats
    high: Floats
    span: Floats
    clusters: npt.NDArray[np.int64]
    effective: Floats
    events: npt.NDArray[np.int64]
    total: npt.NDArray[np.bool_]


def bootstrap_t(
    pairs: Sequence[tuple[Sums, Sums]],
    scale: Scale,
    *,
    draws: int,
    seed: int,
    level: float,
    strata: npt.ArrayLike | None,
    counts: npt.NDArray[np.integer] | None = None,
    eventful: bool = False,
) -> Studentised:
    """Find estimate, low and high of a function of ratios, on the function's own scale.

    Args:
        pairs: Numerators and denominators (x, m) of each ratio, see `opd_diag.stats.bootstrap`.
        scale: Takes the ratios, gives the statistic and its derivative in each of them.
        draws: Bootstrap draws, B.
        seed: Seed of the draws.
        level: Two-sided level.
        strata: Group of each cluster, or None.
        counts: How often each draw holds each cluster, shape (B, clusters), instead of draws of
            its own: groups of clusters can share one draw of all.
        eventful: Whether there is no interval without enough clusters with a numerator above 0.

    Returns:
        The estimates; no draw is made for those of too few effective clusters.
    """
    rows = [_rows(sums) for pair in pairs for sums in pair]
    clusters = rows[0].shape[1]
    if any(row.shape[1] != clusters for row in rows):
        raise ValueError(f"clusters: {[row.shape[1] for row in rows]}; expected equal numbers")
    width = max(row.shape[0] for row in rows)
    if any(row.shape[0] not in (1, width) for row in rows):
        raise ValueError(f"statistics: {[row.shape[0] for row in rows]}; expected 1 or {width}")
    groups = cluster_groups(clusters, strata)

    def least(values: Callable[[Any], Any], of: Sequence[Any]) -> Any:
        return np.min([np.broadcast_to(values(row), width) for row in of], axis=0)

    whole = least(_positive, rows[1::2])
    result = Studentised(
        _estimates(rows, scale, width),
        np.full(width, np.nan),
        np.full(width, np.nan),
        np.full(width, np.nan),
        least(_present, rows[1::2]),
        least(lambda row: effective_clusters(row.T), rows[1::2]),
        least(_events, rows[::2]),
        least(lambda row: _total_of(row) > 0, rows[1::2]) | whole,
    )
    able = result.effective + 1e-9 >= FEWEST_CLUSTERS
    if eventful:
        able &= result.events >= FEWEST_CLUSTERS
    places = np.flatnonzero(able)
    if not places.size:
        return result
    if counts is None:
        counts = cluster_counts(clusters, draws=draws, seed=seed, strata=strata)
    # Results fill statistics x draws, vectors and their products statistics x clusters.
    step = max(1, min(_CELLS // counts.shape[0], 8 * _CELLS // max(clusters, 1)))
    for start in range(0, places.size, step):
        some = places[start : start + step]
        part = [row if row.shape[0] == 1 else row[some] for row in rows]
        ends = _block(part, scale, counts, groups, level)
        result.low[some], result.high[some], result.span[some] = ends
    for row in rows[1::2]:
        signed = places[~np.broadcast_to(_positive(row), width)[places]]
        if signed.size:
            of_row = row if row.shape[0] == 1 else row[signed]
            below = np.asarray(_times(of_row, counts.T.astype(np.float64)) <= 0).mean(axis=1)
            result.total[signed] &= below <= _MOST_BELOW
    return result


def _estimates(rows: Sequence[Any], scale: Scale, width: int) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [_total_of(x) / _total_of(m) for x, m in zip(rows[::2], rows[1::2], strict=True)]
        return np.asarray(np.broadcast_to(scale(ratios)[0], width).copy())


def _block(
    rows: Sequence[Any],
    scale: Scale,
    counts: npt.NDArray[np.integer],
    groups: Sequence[npt.NDArray[np.intp]],
    level: float,
) -> tuple[Floats, Floats, Floats]:
    """Find low, high and span of so many statistics that all draws of them fit in memory."""
    with np.errstate(divide="ignore", invalid="ignore"):
        point = [
            (_total_of(x) / _total_of(m))[:, None]
            for x, m in zip(rows[::2], rows[1::2], strict=True)
        ]
    vectors: list[Any] = []
    for x, m, r in zip(rows[::2], rows[1::2], point, strict=True):
        vectors += [_minus(x, _scaled(m, np.nan_to_num(r))), m]
    moments = _split(vectors, groups)

    def statistic(weights: Floats) -> tuple[Floats, Floats, Floats]:
        return _statistic(moments, point, scale, weights, groups)

    clusters, draws = counts.shape[1], counts.shape[0]
    estimate, variance, size = (a[:, 0] for a in statistic(np.ones((clusters, 1))))
    step = max(1, _CELLS // max(clusters, 1))
    t = np.concatenate(
        [
            _studentise(
                estimate, variance, *statistic(counts[i : i + step].T.astype(np.float64))[:2]
            )
            for i in range(0, draws, step)
        ],
        axis=1,
    )
    # A spread below rounding is none: all clusters agree, and resampling them shows nothing.
    error = np.where(variance > 1e-24 * size, np.sqrt(np.maximum(variance, 0)), np.nan)
    low, high = draw_quantiles(t, level)
    with np.errstate(invalid="ignore"):
        return estimate - high * error, estimate - low * error, high - low


def _studentise(estimate: Floats, variance: Floats, values: Floats, variances: Floats) -> Floats:
    """Divide what the draws deviate by their own standard error.

    A draw without spread that misses the estimate is infinitely far off: dropping it would turn an
    event seen in one cluster into a narrow interval.
    """
    smallest = 1e-12 * variance[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        away = values - estimate[:, None]
        error = np.sqrt(np.where(variances > smallest, variances, 0))
        return np.where((error > 0) | (away**2 > smallest), away / error, np.nan)


def _statistic(
    moments: Sequence[tuple[list[Any], list[tuple[int, int, Any]]]],
    point: Sequence[Floats],
    scale: Scale,
    weights: Floats,
    groups: Sequence[npt.NDArray[np.intp]],
) -> tuple[Floats, Floats, Floats]:
    """Find value, squared standard error and squared size of the statistic in each draw.

    `weights` has shape (clusters, draws), what is returned (k, draws).
    """
    sums = [
        [_times(vector, weights[members]) for vector in vectors]
        for (vectors, _), members in zip(moments, groups, strict=True)
    ]
    totals = [_total(group[a] for group in sums) for a in range(2 * len(point))]
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = [totals[2 * i] / totals[2 * i + 1] for i in range(len(point))]
        ratios = [
            np.where(np.abs(r + d) <= _ROUNDING * np.abs(r), 0, r + d)
            for r, d in zip(point, moved, strict=True)
        ]
        value, slopes = scale(ratios)
        factors: list[Floats] = []
        for slope, d, m in zip(slopes, moved, totals[1::2], strict=True):
            factors += [slope / m, -slope / m * d]
        variance = np.zeros_like(value)
        for (_, products), group, members in zip(moments, sums, groups, strict=True):
            linear = _total(f * s for f, s in zip(factors, group, strict=True))
            square = -(linear**2) / len(members)
            for a, b, product in products:
                times = 1 if a == b else 2
                square = square + times * factors[a] * factors[b] * _times(
                    product, weights[members]
                )
            variance = variance + len(members) / max(len(members) - 1, 1) * square
        size = _total((g * r) ** 2 for g, r in zip(slopes, ratios, strict=True))
    return value, variance, size


def _split(
    vectors: list[Any], groups: Sequence[npt.NDArray[np.intp]]
) -> list[tuple[list[Any], list[tuple[int, int, Any]]]]:
    """Cut vectors and their pairwise products into the groups of clusters."""
    products = [
        (a, b, _product(vectors[a], vectors[b]))
        for a in range(len(vectors))
        for b in range(a, len(vectors))
    ]
    return [
        ([v[:, members] for v in vectors], [(a, b, p[:, members]) for a, b, p in products])
        for members in groups
    ]


def _rows(sums: Sums) -> Any:
    """Turn (clusters,) or (clusters, k) into (k, clusters): one statistic a row."""
    if hasattr(sums, "tocsr"):
        return sums.T.tocsr()
    dense = np.asarray(sums, np.float64)
    if not np.isfinite(dense).all():
        raise ValueError("sums: not finite; expected 0 where a cluster has no data")
    return dense[None] if dense.ndim == 1 else dense.T


def _total(terms: Iterable[Floats]) -> Floats:
    return np.asarray(sum(terms), np.float64)


def _times(rows: Any, weights: Floats) -> Floats:
    return np.asarray(rows @ weights)


def _product(a: Any, b: Any) -> Any:
    if hasattr(a, "tocsr"):
        return a.multiply(b).tocsr()
    return b.multiply(a).tocsr() if hasattr(b, "tocsr") else a * b


def _scaled(m: Any, r: Floats) -> Any:
    return m.multiply(r).tocsr() if hasattr(m, "tocsr") else m * r


def _minus(x: Any, y: Any) -> Any:
    return x - y if hasattr(x, "tocsr") == hasattr(y, "tocsr") else np.asarray(x - y)


def _total_of(rows: Any) -> Floats:
    return np.asarray(rows.sum(axis=1), np.float64).ravel()


def _present(m: Any) -> npt.NDArray[np.int64]:
    return np.asarray((m != 0).sum(axis=1)).ravel()


def _events(x: Any) -> npt.NDArray[np.int64]:
    return np.asarray((x > 0).sum(axis=1)).ravel()


def _positive(m: Any) -> npt.NDArray[np.bool_]:
    """Tell of which statistics no cluster is below 0."""
    return np.asarray((m < 0).sum(axis=1) == 0).ravel()
