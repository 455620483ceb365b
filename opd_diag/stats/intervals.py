"""Hold what every cluster bootstrap shares: the draws, the quantiles and the form of the answer."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

TOO_FEW = "too few prompts"
FEW = "few prompts"
CONSTANT = "too little variation between prompts"
CARRIED = "a few prompts carry it"
UNDEFINED = "not defined"
NO_EVENTS = "above 0 in too few prompts"
NO_TOTAL = "the total is not above 0"

FEWEST_CLUSTERS = 5
ENOUGH_CLUSTERS = 24
FARTHEST = 20.0

_CELLS = 1_000_000  # draws x clusters in one block: 8 MB


class Interval(NamedTuple):
    """Estimates with intervals; every field has one entry per statistic.

    `low` and `high` are NaN where there is no interval, and `reason` says why. `clusters` counts
    those with data. What is asked for are **effective** clusters, (sum m)^2 / sum m^2 for the
    denominators m: those of equal size that would be as many. Below 5 there is no interval ("too
    few prompts"), below 24 it is marked "few prompts". An interval on the log scale needs 5
    clusters with a numerator above 0, and is withheld with an end more than 20 times above or below
    the estimate ("a few prompts carry it").
    """

    estimate: Floats
    low: Floats
    high: Floats
    clusters: npt.NDArray[np.int64]
    reason: npt.NDArray[np.str_]


def cluster_groups(clusters: int, strata: npt.ArrayLike | None) -> list[npt.NDArray[np.intp]]:
    """List the cluster numbers of each stratum, all of them in one list without strata."""
    labels = np.zeros(clusters, np.int64) if strata is None else np.asarray(strata)
    if labels.shape != (clusters,):
        raise ValueError(f"strata: shape {labels.shape}; expected ({clusters},)")
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def cluster_counts(
    clusters: int, *, draws: int = 1000, seed: int = 0, strata: npt.ArrayLike | None = None
) -> npt.NDArray[np.uint16]:
    """Count how often each cluster occurs in each bootstrap draw.

    Args:
        clusters: Number of clusters, C.
        draws: Number of draws, B.
        seed: Seed; equal seeds give equal counts, so statistics can be compared draw by draw.
        strata: Group of each cluster, shape (C,): clusters are drawn inside it. None: one group.

    Returns:
        Counts, shape (B, C). Each row sums to C, and to the group's size inside each group.
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros((draws, clusters), np.uint16)
    for members in cluster_groups(clusters, strata):
        size = len(members)
        step = max(1, _CELLS // max(size, 1))
        for start in range(0, draws, step):
            rows = min(step, draws - start)
            drawn = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
            drawn_counts = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
            counts[start : start + rows, members] = drawn_counts
    return counts


def effective_clusters(m: Any) -> Floats:
    """Count the clusters of equal size that would be as many: (sum m)^2 / sum m^2.

    Args:
        m: Size of each cluster, its data or its weight. Shape (clusters,) or (clusters, k), dense
            or scipy.sparse.

    Returns:
        Shape () or (k,); 0 where all are 0.

    Source: Kish 1965 (effective sample size).
    """
    size = abs(m) if hasattr(m, "tocsr") else np.abs(np.asarray(m, np.float64))
    squares = np.asarray((size * size).sum(axis=0), np.float64)
    total = np.asarray(size.sum(axis=0), np.float64)
    return np.divide(total**2, squares, out=np.zeros_like(squares), where=squares > 0)


def percentile(
    draws: npt.ArrayLike,
    estimate: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    effective: npt.ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """Give percentile intervals for statistics of which only bootstrap draws are known.

    Args:
        draws: The statistic in each draw, shape (B,) or (B, k); NaN where a draw has no value.
        estimate: The statistic itself, shape () or (k,).
        clusters: Number of clusters behind each statistic, shape () or (k,).
        effective: Effective number of them (see `effective_clusters`); None: all of one size.
        level: Two-sided level.

    Returns:
        Estimates and intervals; no interval where fewer than half of the draws have a value.
    """
    low, high = draw_quantiles(np.moveaxis(np.asarray(draws, np.float64), 0, -1), level)
    count = np.asarray(clusters, np.int64)
    return as_interval(np.asarray(estimate, np.float64), low, high, count, effective=effective)


def draw_quantiles(draws: Floats, level: float) -> tuple[Floats, Floats]:
    """Find the two quantiles of a level along the last axis, NaN left out.

    Where fewer than half of the draws are a number both are NaN. Interpolated linearly.
    """
    ordered = np.sort(draws, axis=-1)  # NaN last
    valid = (~np.isnan(ordered)).sum(axis=-1)
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        place = share * np.maximum(valid - 1, 0)
        below = np.floor(place).astype(np.int64)
        above = np.minimum(below + 1, np.maximum(valid - 1, 0))
        left = np.take_along_axis(ordered, below[..., None], -1)[..., 0]
        right = np.take_along_axis(ordered, above[..., None], -1)[..., 0]
        with np.errstate(invalid="ignore"):
            end = np.where(left == right, left, left + (place - below) * (right - left))
        ends.append(np.where(valid * 2 >= draws.shape[-1], end, np.nan))
    return ends[0], ends[1]


def as_interval(
    estimate: Floats,
    low: Floats,
    high: Floats,
    clusters: npt.NDArray[np.int64],
    *,
    effective: npt.ArrayLike | None = None,
    span: npt.ArrayLike = 0.0,
    events: npt.ArrayLike | None = None,
    total: npt.ArrayLike = True,
    log: bool = False,
) -> Interval:
    """Withhold intervals that tell nothing and give every statistic its reason.

    Args:
        estimate: Estimates, shape () or (k,).
        low: Lower ends, NaN or infinite where there is none.
        high: Upper ends.
        clusters: Clusters with data.
        effective: Effective number of them; None: all of one size.
        span: Width of the interval in standard errors, where these are known. Draws that miss the
            few clusters which carry a sum lie off the estimate with next to no spread of their own;
            that puts an end anywhere, and a width of 20 is where it is withheld.
        events: Clusters with a numerator above 0, where the interval needs some; None: it does not.
        total: Whether the denominator is a total above 0; where it is not there is no ratio.
        log: Whether these are logarithms. Then it is an end 20 times above or below the estimate
            that is withheld; such draws put it up to 1e60 times away.
    """
    clusters = np.broadcast_to(clusters, estimate.shape)
    size = clusters if effective is None else np.broadcast_to(effective, estimate.shape) + 1e-9
    enough = size >= FEWEST_CLUSTERS
    eventful = np.broadcast_to(
        True if events is None else np.asarray(events) >= FEWEST_CLUSTERS, estimate.shape
    )
    above = np.broadcast_to(total, estimate.shape)
    bounded = enough & eventful & above & np.isfinite(low) & np.isfinite(high)
    carried = bounded & (np.broadcast_to(span, estimate.shape) > FARTHEST)
    if log:
        with np.errstate(invalid="ignore", over="ignore"):
            carried = bounded & (np.maximum(high - estimate, estimate - low) > np.log(FARTHEST))
            estimate, low, high = np.exp(estimate), np.exp(low), np.exp(high)
    estimate = np.where(above, estimate, np.nan)
    given = bounded & ~carried
    low, high = np.where(given, low, np.nan), np.where(given, high, np.nan)
    reason = np.select(
        [~above, ~enough, np.isnan(estimate), ~eventful, carried, ~given, size < ENOUGH_CLUSTERS],
        [NO_TOTAL, TOO_FEW, UNDEFINED, NO_EVENTS, CARRIED, CONSTANT, FEW],
        "",
    )
    return Interval(estimate, low, high, clusters, reason)
