"""Give moving means of many series at once, each window summed from its own values alone."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from opd_diag.stats.intervals import Floats
from opd_diag.stats.ragged import starts_of

Integers = npt.NDArray[np.int64]


class Windows(NamedTuple):
    """Moving means of many series, one series after the other.

    Attributes:
        means: Mean of every full window, NaN where it goes across a break. Shape (sum of counts,).
        counts: Number of full windows of each series. Shape (series,).
        size: Values in a window.
    """

    means: Floats
    counts: Integers
    size: int


def moving_means(
    values: npt.ArrayLike,
    lengths: npt.ArrayLike,
    *,
    size: int,
    breaks: npt.NDArray[np.bool_] | None = None,
) -> Windows:
    """Average every `size` consecutive values inside each series.

    A window is summed pairwise from its own values, so its mean depends neither on what stands
    before it nor on the other series: running sums would leave their rounding in later windows.

    Args:
        values: All series, one after the other. Shape (sum of lengths,).
        lengths: Number of values of each series. Shape (series,).
        size: Values in a window, 1 or more.
        breaks: Whether something stands between a value and the one before it, which no window
            goes across. Shape (sum of lengths,). None: nothing does.

    Returns:
        Means in order; a series shorter than `size` has no window.

    Raises:
        ValueError: If the lengths do not fit the values, or `size` is below 1.
    """
    flat, sizes = np.asarray(values), np.asarray(lengths, np.int64)
    if size < 1:
        raise ValueError(f"size: {size}; expected 1 or more")
    if flat.shape != (sizes.sum(),):
        raise ValueError(f"values: shape {flat.shape}; expected ({sizes.sum()},)")
    counts = np.maximum(sizes - size + 1, 0)
    sums = _moving_sums(flat.astype(np.float64), size)
    inside = alternate(counts, sizes - counts)[: sums.size]
    means = sums[inside] / size
    if breaks is not None and size > 1:
        before = np.concatenate([[0], np.cumsum(breaks)])
        first = np.flatnonzero(inside)
        means[before[first + size] > before[first + 1]] = np.nan
    return Windows(means, counts, size)


def alternate(trues: Integers, falses: Integers) -> npt.NDArray[np.bool_]:
    """Write for each series so many True, then so many False. Shape (sum of both,)."""
    times = np.stack([trues, falses], axis=1).ravel()
    return np.repeat(np.tile([True, False], len(trues)), times)


def minima(windows: Windows) -> Floats:
    """Return the least window mean of each series, NaN where it has none. Shape (series,)."""
    least = np.full(len(windows.counts), np.nan)
    some = windows.counts > 0
    if some.any():
        starts = starts_of(windows.counts)[some]
        least[some] = np.fmin.reduceat(windows.means, starts)
    return least


def _moving_sums(values: Floats, size: int) -> Floats:
    """Sum every `size` consecutive values from sums of 1, 2, 4 ... of them."""
    count = max(values.size - size + 1, 0)
    total = np.zeros(count)
    if not count:
        return total
    power, width, offset = values, 1, 0
    while True:
        if size & width:
            total += power[offset : offset + count]
            offset += width
        if 2 * width > size:
            return total
        power = power[:-width] + power[width:]
        width *= 2
