"""Watch series value by value, and say when the values so far show a downward shift of the mean.

What is compared with the threshold after i values is what `changepoints.scan_shifts` gives for a
series that ends there. Looking again and again, noise passes a threshold more often than at the one
look at the whole series.
"""

import numpy as np
import numpy.typing as npt

from opd_diag.stats.changepoints import EPS, Floats, Integers, Statistic, blocks, check_series
from opd_diag.stats.ragged import starts_of

LOOKS = 256  # at a series, at most


def first_alarms(
    values: npt.ArrayLike,
    lengths: npt.ArrayLike,
    *,
    threshold: float,
    min_size: int = 3,
    min_length: int = 8,
    weights: npt.ArrayLike | None = None,
    statistic: Statistic = "bic",
) -> Integers:
    """Find after how many values each series first shows a downward shift above a threshold.

    Series of more than 256 values are looked at 256 times, at equal distances and at their end.

    Args:
        values: All series, one after the other. Shape (sum of lengths,). Finite, any unit.
        lengths: Number of values of each series. Shape (series,).
        threshold: What has to be exceeded: a BIC gain in nat, or a cumulative sum.
        min_size: Fewest values on each side of the shift.
        min_length: Fewest values before the first look.
        weights: Weight of each value, shape (sum of lengths,), positive. None: equal.
        statistic: What is compared with the threshold.

    Returns:
        Values seen at the first alarm, -1 where there is none. Shape (series,).

    Raises:
        ValueError: If values or weights do not fit, or `min_size` is below 1.

    Source: opd-diag's own, after the release rule of arXiv 2605.13643.
    """
    y, sizes = np.asarray(values, np.float64), np.asarray(lengths, np.int64)
    weight = None if weights is None else np.asarray(weights, np.float64)
    check_series(y, sizes, weight, min_size)
    starts = starts_of(sizes)
    alarms = np.full(len(sizes), -1)
    order = np.argsort(sizes, kind="stable")
    for block in blocks(sizes[order]):
        series = order[block]
        n = sizes[series]
        inside = np.arange(n.max()) < n[:, None]
        place = np.where(inside, starts[series, None] + np.arange(n.max()), 0)
        w = inside.astype(np.float64) if weight is None else inside * weight[place]
        alarms[series] = _watch(y[place], w, n, threshold, min_size, min_length, statistic)
    return alarms


def _watch(
    y: Floats,
    w: Floats,
    n: Integers,
    threshold: float,
    min_size: int,
    min_length: int,
    statistic: Statistic,
) -> Integers:
    """Look at padded series, shape (series, longest), until each has an alarm or ends."""
    # Around the mean of the whole, squares keep their digits.
    y = y - ((w * y).sum(axis=1) / w.sum(axis=1))[:, None]
    left = np.cumsum(w, axis=1)
    total = np.cumsum(w * y, axis=1)
    squares = np.cumsum(w * y * y, axis=1)
    alarms = np.full(len(n), -1)
    every = np.maximum(1, -(-n // LOOKS))
    running = np.arange(len(n))
    for i in range(max(min_length, 2 * min_size), y.shape[1] + 1):
        running = running[(n[running] >= i) & (alarms[running] < 0)]
        if not running.size:
            break
        # The last look is at the end of the series, wherever the distance leads.
        looked = running[(n[running] - i) % every[running] == 0]
        if looked.size:
            size = left[looked, i - 1]
            mean = total[looked, i - 1] / size
            part = slice(min_size - 1, i - min_size)
            prefix = total[looked, part] - mean[:, None] * left[looked, part]
            rss0 = np.maximum(squares[looked, i - 1] - size * mean**2, 0)
            scale = i / size  # weights of mean 1
            if statistic == "bic":
                rest = left[looked, part] * (size[:, None] - left[looked, part])
                fall = np.where(prefix > 0, prefix**2 / rest, 0).max(axis=1)
                rss1 = np.maximum(rss0 - fall * size, 0)
                gain = i * np.log((scale * rss0 + EPS) / (scale * rss1 + EPS)) - 2 * np.log(i)
                value = np.where(fall > 0, gain, -np.inf)
            else:
                value = scale * prefix.max(axis=1) / np.sqrt(np.maximum(scale * rss0, EPS))
            alarms[looked[value > threshold]] = i
    return alarms
