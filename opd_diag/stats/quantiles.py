"""Find the quantile that each group would see if its own values were not there; cut at tenths."""

from typing import Any

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import Floats
from opd_diag.stats.ragged import index_in_sequence

TENTHS = 10


def quantile_of_others(
    values: npt.ArrayLike, groups: npt.ArrayLike, *, share: float
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Find for each value the quantile of all values outside its group.

    Args:
        values: Shape (n,). Finite.
        groups: Number of the group of each value, from 0. Shape (n,).
        share: Share of the values below the quantile, 0 to 1; interpolated linearly.

    Returns:
        The quantile for each value, NaN where every value is of its group, and the number of
        values outside the group. Shapes (n,).

    Raises:
        ValueError: If shapes differ, a value is not finite or `share` is not between 0 and 1.
    """
    x, group = np.asarray(values, np.float64), np.asarray(groups, np.int64)
    if x.shape != group.shape or x.ndim != 1:
        raise ValueError(f"groups: shape {group.shape}; expected {x.shape}, one dimension")
    if not np.isfinite(x).all():
        raise ValueError("values: not finite; expected numbers only")
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share}; expected 0 to 1")
    order = np.argsort(x, kind="stable")
    ordered = x[order]
    sizes = np.bincount(group)
    others = x.size - sizes
    place = share * np.maximum(others - 1, 0)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(others - 1, 0))

    # A group's i-th value (from 0) at place p of all has p - i values of others before it, so it
    # pushes their j-th value one place up whenever p - i <= j.
    members = np.argsort(group[order], kind="stable")
    owner = group[order][members]
    within = index_in_sequence(sizes)
    before = members - within

    def at(rank: npt.NDArray[np.int64]) -> Floats:
        pushed = np.bincount(owner[before <= rank[owner]], minlength=sizes.size)
        return np.asarray(ordered[np.minimum(rank + pushed, x.size - 1)])

    below, above = at(low), at(high)
    quantile = np.where(others > 0, below + (place - low) * (above - below), np.nan)
    return quantile[group], others[group]


def tenths(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], Floats]:
    """Cut values at their tenths; equal values stay together, so tenths may be unequal or empty.

    Args:
        values: Shape (n,). Finite.

    Returns:
        Tenth of each value, from 0, shape (n,), and the borders, shape (11,).
    """
    n = len(values)
    places = np.ceil(np.arange(1, TENTHS) * n / TENTHS).astype(np.int64) - 1
    places = np.clip(places, 0, n - 1)
    inner = np.partition(values, places)[places]
    edges = np.concatenate([[values.min()], inner, [values.max()]]).astype(np.float64)
    return np.searchsorted(inner, values).astype(np.int64), edges
