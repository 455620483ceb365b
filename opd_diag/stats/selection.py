"""Choose the largest scores at several budgets at once, ties broken by a given order."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import Floats
from opd_diag.stats.ragged import index_in_sequence, run_lengths, run_starts


class Choice(NamedTuple):
    """Rows chosen at rising budgets; what a budget chooses, every larger one chooses too.

    Attributes:
        level: Index of the smallest budget that chooses the row, or the number of budgets where
            none does. Shape (n,).
        tied: For each budget, rows chosen by `order` among equal scores of which not all fit.
            Shape (budgets,).
    """

    level: npt.NDArray[np.uint8]
    tied: npt.NDArray[np.int64]


def rounded_budget(share: float, n: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Give the number of rows in a share of n, rounded half up."""
    return np.floor(share * np.asarray(n) + 0.5).astype(np.int64)


def ties_by_value(
    values: npt.NDArray[np.floating], order: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Make an order for `choose`: larger values first, and among equal ones by another order.

    Args:
        values: Not negative; read as float32. Shape (n,). Finite.
        order: The other order, of which the higher 32 bits count. Shape (n,).
    """
    # The bits of a float that is not negative rise with it.
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return np.asarray(((np.uint64(2**32 - 1) - bits) << np.uint64(32)) | (order >> np.uint64(32)))


def choose(
    score: Floats,
    budgets: Sequence[float],
    order: npt.NDArray[np.uint64],
    groups: npt.NDArray[np.integer] | None = None,
) -> Choice:
    """Choose the rows of largest score.

    Args:
        score: Shape (n,). -inf: never chosen. No NaN.
        budgets: Shares of the rows, rising.
        order: Among equal scores smaller ones are chosen first. Shape (n,).
        groups: Group of each row: the share is of its group. None: of all rows.
    """
    if groups is None:
        return _choose_over_all(score, budgets, order)
    return _choose_in_groups(score, budgets, order, groups)


def _choose_over_all(
    score: Floats, budgets: Sequence[float], order: npt.NDArray[np.uint64]
) -> Choice:
    n = len(score)
    sizes = [int(rounded_budget(share, n)) for share in budgets]
    level = np.full(n, len(sizes), np.uint8)
    tied = np.zeros(len(sizes), np.int64)
    places = [n - size for size in sizes if size]
    ordered = np.partition(score, places) if places else score
    for i in range(len(sizes) - 1, -1, -1):
        threshold = ordered[n - sizes[i]] if sizes[i] else np.inf
        above = score > threshold
        level[above] = i
        equal = np.flatnonzero((score == threshold) & np.isfinite(score))
        left = sizes[i] - int(np.count_nonzero(above))
        if 0 < left < len(equal):
            first = np.argsort(order[equal], kind="stable")[:left]
            level[equal[first]] = i
            tied[i] = left
        elif left:
            level[equal] = i
    return Choice(level, tied)


def _choose_in_groups(
    score: Floats,
    budgets: Sequence[float],
    order: npt.NDArray[np.uint64],
    groups: npt.NDArray[np.integer],
) -> Choice:
    rows = np.lexsort((order, -score, groups))
    s, g = score[rows], groups[rows]
    size = run_lengths(run_starts(g), len(g))
    place = index_in_sequence(size)
    allowed = np.isfinite(s)
    in_run = run_lengths(run_starts(s, g), len(g))
    run = np.repeat(np.arange(in_run.size), in_run)
    level = np.full(len(score), len(budgets), np.uint8)
    tied = np.zeros(len(budgets), np.int64)
    for i in range(len(budgets) - 1, -1, -1):
        chosen = allowed & (place < np.repeat(rounded_budget(budgets[i], size), size))
        level[rows[chosen]] = i
        taken = np.bincount(run[chosen], minlength=len(in_run))
        tied[i] = taken[(taken > 0) & (taken < in_run)].sum()
    return Choice(level, tied)
