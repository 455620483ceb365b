"""Scores by which token types are chosen; each takes totals of shape (..., types)."""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]


class Totals(NamedTuple):
    """Totals over some prompts; every field has shape (..., types).

    Attributes:
        n: Occurrences.
        x: Loss under the first checkpoint.
        square: Its square.
        last: Loss under the last checkpoint.
    """

    n: Floats
    x: Floats
    square: Floats
    last: Floats


def by_summed_loss(t: Totals, min_count: int) -> Floats:
    """Score by summed loss, R = n m; 0 for a type that does not occur.

    Source: arXiv 2605.09253.
    """
    return t.x


def by_frequency(t: Totals, min_count: int) -> Floats:
    """Score by occurrences alone: the control that knows no loss."""
    return t.n


def by_mean(t: Totals, min_count: int) -> Floats:
    """Score by mean loss, types of at least `min_count` occurrences."""
    return _where(t.n >= min_count, _mean(t))


def by_joint(t: Totals, min_count: int) -> Floats:
    """Score by the smaller R of the first and the last checkpoint."""
    return np.minimum(t.x, t.last)


def by_lower_bound(t: Totals, min_count: int) -> Floats:
    """Score by n times the lower 95 % bound of the mean, LCB = n max(m - t s / sqrt n, 0)."""
    able = t.n >= max(min_count, 2)
    n = np.where(able, t.n, 2)
    variance = np.maximum(t.square - t.n * _mean(t) ** 2, 0) / (n - 1)
    sizes, place = np.unique(n, return_inverse=True)
    quantile = np.asarray(stats.t.ppf(0.95, sizes - 1))[place].reshape(n.shape)
    return _where(able, n * np.maximum(_mean(t) - quantile * np.sqrt(variance / n), 0))


def by_shrunken_mean(t: Totals, min_count: int) -> Floats:
    """Score by the mean, drawn towards that of all types by empirical Bayes.

    The variances inside and between types are the moment estimates for unbalanced counts.

    Source: Searle, Casella and McCulloch 1992, section 3.6.
    """
    n = np.maximum(t.n.sum(axis=-1, keepdims=True), 1)
    groups = (t.n > 0).sum(axis=-1, keepdims=True)
    grand = t.x.sum(axis=-1, keepdims=True) / n
    inside = np.maximum(t.square - t.n * _mean(t) ** 2, 0).sum(axis=-1, keepdims=True)
    inside /= np.maximum(n - groups, 1)
    between = (t.n * (_mean(t) - grand) ** 2).sum(axis=-1, keepdims=True)
    between /= np.maximum(groups - 1, 1)
    size = (n - (t.n**2).sum(axis=-1, keepdims=True) / n) / np.maximum(groups - 1, 1)
    spread = np.maximum(between - inside, 0) / np.maximum(size, 1)
    weight = spread / np.maximum(spread + inside / np.maximum(t.n, 1), np.finfo(np.float64).tiny)
    # Without a difference between types there is nothing to choose by.
    return _where((t.n >= min_count) & (spread > 0), grand + weight * (_mean(t) - grand))


SELECTORS = {
    "R": by_summed_loss,
    "mean": by_mean,
    "frequency": by_frequency,
    "lower_bound": by_lower_bound,
    "empirical_bayes": by_shrunken_mean,
    "joint": by_joint,
}


def eligible_types(n: Floats, min_count: int, exclude_top_frequent: int) -> Mask:
    """Tell which types may be chosen: frequent enough, and not among the most frequent.

    Args:
        n: Occurrences of each type in the whole run. Shape (types,).
        min_count: Fewest occurrences.
        exclude_top_frequent: How many of the most frequent types to leave out.
    """
    allowed = n >= min_count
    allowed[np.argsort(-n, kind="stable")[:exclude_top_frequent]] = False
    return np.asarray(allowed)


def _mean(t: Totals) -> Floats:
    return np.asarray(t.x / np.maximum(t.n, 1))


def _where(able: Mask, score: Floats) -> Floats:
    return np.where(able, score, -np.inf)
