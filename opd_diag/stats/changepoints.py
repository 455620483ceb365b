"""Find the one place where a mean shifts, by exact search, for one series or for many at once.

RSS0 is the residual sum of squares around one mean, RSS1(tau) around one mean before and one from
`tau` on. With S the prefix sum of the centred values, RSS1(tau) = RSS0 - S² n / (tau (n - tau)):
one cumulative sum gives every split.

RSS1 weighs S² by n / (tau (n - tau)), so that the first and last few values reach far in noise. The
plain cumulative sum S, over the square root of RSS0, weighs all splits alike: at an equal rate of
false shifts it sees more of the small ones that do not stand at an end.
"""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.stats.ragged import index_in_sequence, starts_of

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

Statistic: TypeAlias = Literal["bic", "cusum"]

EPS = 1e-12
MOST_MEMORY = 0.98
LEAST_REACH = 6  # values on the shorter side of a drop whose recovery is measured

_CELLS = 1_000_000  # series x longest series in one block: 8 MB an array


class Shift(NamedTuple):
    """A mean shift.

    Attributes:
        tau: Number of values before it.
        gain: BIC without a shift minus BIC with it, in nat.
    """

    tau: int
    gain: float


class Shifts(NamedTuple):
    """Mean shifts of many series; every field has shape (series,).

    Attributes:
        tau: Number of values before the downward shift, -1 where there is none.
        gain: Its BIC gain in nat, NaN where there is none.
        gain_up: BIC gain of the best upward shift, NaN where there is none.
        cusum: Sum of the values before the downward shift, less their number times the mean of
            all, over the square root of the squares summed around that mean; NaN without a shift.
        cusum_up: The same of the upward shift, its sign changed.
        gain_over_line: BIC of a straight line minus that of the downward shift, or of none where
            there is none, in nat.
        mean_before: Mean before the downward shift.
        mean_after: Mean from it on.
        autocorrelation: Lag-1 autocorrelation of what the downward shift, or one mean where there
            is none, leaves over; NaN where nothing is left.
    """

    tau: Integers
    gain: Floats
    gain_up: Floats
    cusum: Floats
    cusum_up: Floats
    gain_over_line: Floats
    mean_before: Floats
    mean_after: Floats
    autocorrelation: Floats


def downward_shift(y: npt.ArrayLike, *, min_size: int = 3) -> Shift | None:
    """Find the one place where the mean of `y` drops most, or None if there is none.

    Args:
        y: Values in order. Shape (n,). Finite, any unit.
        min_size: Fewest values on each side.

    Returns:
        Size of the left part, and the gain in BIC (nat) over no change. The gain may be negative:
        what counts as a drop is the caller's threshold.

    Raises:
        ValueError: If `y` is not one-dimensional or not finite, or `min_size` is below 1.

    Source: arXiv 2605.13643, release rule; parameter counts 1 and 3.
    """
    values = np.asarray(y, np.float64)
    if values.ndim != 1:
        raise ValueError(f"y: shape {values.shape}; expected one dimension")
    shifts = scan_shifts(values, np.array([len(values)]), min_size=min_size)
    if shifts.tau[0] < 0:
        return None
    return Shift(int(shifts.tau[0]), float(shifts.gain[0]))


def scan_shifts(
    values: npt.ArrayLike,
    lengths: npt.ArrayLike,
    *,
    min_size: int = 3,
    weights: npt.ArrayLike | None = None,
    statistic: Statistic = "bic",
) -> Shifts:
    """Find the best downward and upward mean shift of many series, in time linear in their size.

    Args:
        values: All series, one after the other. Shape (sum of lengths,). Finite, any unit.
        lengths: Number of values of each series. Shape (series,).
        min_size: Fewest values on each side.
        weights: Weight of each value, shape (sum of lengths,), positive. Scaled to mean 1 in each
            series, so that n of the BIC stays the number of values. None: equal.
        statistic: What is largest at the shift: the BIC gain or the cumulative sum.

    Returns:
        One entry per series.

    Raises:
        ValueError: If values or weights do not fit, or `min_size` is below 1.

    Source: arXiv 2605.13643, release rule: BIC0 = n log((RSS0 + eps) / n) + log n,
        BIC1 = n log((RSS1 + eps) / n) + 3 log n; the line has 2 log n. Page 1955 (cumulative sum).
    """
    flat, sizes = np.asarray(values, np.float64), np.asarray(lengths, np.int64)
    weight = None if weights is None else np.asarray(weights, np.float64)
    check_series(flat, sizes, weight, min_size)
    starts = starts_of(sizes)
    order = np.argsort(sizes, kind="stable")
    shifts = Shifts(np.full(len(sizes), -1), *np.full((8, len(sizes)), np.nan))
    for block in blocks(sizes[order]):
        series = order[block]
        n = sizes[series]
        inside = np.arange(n.max()) < n[:, None]
        place = np.where(inside, starts[series, None] + np.arange(n.max()), 0)
        w = inside.astype(np.float64)
        if weight is not None:
            w *= weight[place]
            w *= (n / w.sum(axis=1))[:, None]
        results = _scan(flat[place], w, n, min_size, statistic)
        for column, result in zip(shifts, results, strict=True):
            column[series] = result
    return shifts


def reverse_around_lines(values: npt.ArrayLike, lengths: npt.ArrayLike) -> Floats:
    """Turn round in time what a straight line leaves of each series, and keep the line.

    Noise that looks the same backwards, around a straight line, stays as likely as it was. A sudden
    fall becomes a sudden rise. The line is that of generalised least squares for AR(1) noise: the
    slope of ordinary least squares follows the noise's own shape where it has a long memory, and
    the two would turn round together.

    Args:
        values: All series, one after the other. Shape (sum of lengths,).
        lengths: Number of values of each series. Shape (series,).

    Source: Prais and Winsten 1954 (the line); Marriott and Pope 1954 (bias of the memory).
    """
    y, sizes = np.asarray(values, np.float64), np.asarray(lengths, np.int64)
    some = sizes > 0
    starts, n = starts_of(sizes)[some], sizes[some]
    if not starts.size:
        return y
    time = np.asarray(index_in_sequence(n) - np.repeat((n - 1) / 2, n), np.float64)
    first = np.zeros(y.size, np.bool_)
    first[starts] = True

    def total(terms: Floats) -> Floats:
        return np.asarray(np.add.reduceat(terms, starts))

    plain = total(y * time) / np.maximum(total(time**2), EPS)
    rest = y - np.repeat(total(y) / n, n) - np.repeat(plain, n) * time
    products = np.where(first, 0, rest * np.roll(rest, 1))
    memory = total(products) / np.maximum(total(rest**2), EPS)
    memory = np.clip(memory + (2 + 4 * memory) / n, 0, MOST_MEMORY)

    phi = np.repeat(memory, n)
    start = np.sqrt(1 - phi**2)

    def innovations(series: Floats) -> Floats:
        return np.where(first, start * series, series - phi * np.roll(series, 1))

    one, t, v = innovations(np.ones(y.size)), innovations(time), innovations(y)
    cross = total(one * t) / total(one * one)
    free = total(t * t) - cross * total(one * t)
    slope = (total(t * v) - cross * total(one * v)) / np.maximum(free, EPS)
    backwards = np.repeat(2 * starts + n - 1, n) - np.arange(y.size)
    return np.asarray(y[backwards] + 2 * np.repeat(slope, n) * time)


def recoveries(values: npt.ArrayLike, lengths: npt.ArrayLike, tau: npt.ArrayLike) -> Floats:
    """Give what each series recovers by after its drop, less what it rose by before it.

    Both sides are looked at as far from the drop as the shorter one reaches: the mean of the far
    half minus that of the nearest sixth after the drop, minus the mean of the nearest sixth and
    that of the far half before it. A drop that lasts, an even decline, and noise whose dips are as
    steep on either side give 0 on average; noise that drops at once and recovers slowly gives more.

    Args:
        values: All series, one after the other. Shape (sum of lengths,).
        lengths: Number of values of each series. Shape (series,).
        tau: Number of values before each drop; below 1: there is none. Shape (series,).

    Returns:
        Shape (series,), in the unit of the values; NaN without a drop, or with fewer than 6 values
        before or after it.

    Source: opd-diag's own.
    """
    sizes, at = np.asarray(lengths, np.int64), np.asarray(tau, np.int64)
    reach = np.minimum(at, sizes - at)
    there = np.flatnonzero(reach >= LEAST_REACH)
    drop, reach = (starts_of(sizes) + at)[there], reach[there]
    near, half = np.maximum(reach // 6, LEAST_REACH // 2), reach // 2
    total = np.append(0.0, np.cumsum(np.asarray(values, np.float64)))

    def mean(first: Integers, end: Integers) -> Floats:
        return np.asarray((total[end] - total[first]) / (end - first))

    after = mean(drop + half, drop + reach) - mean(drop, drop + near)
    before = mean(drop - near, drop) - mean(drop - reach, drop - half)
    recovered = np.full(sizes.size, np.nan)
    recovered[there] = after - before
    return recovered


def check_series(values: Floats, sizes: Integers, weights: Floats | None, min_size: int) -> None:
    """Check that series, their lengths and weights fit together; ValueError if not."""
    if min_size < 1:
        raise ValueError(f"min_size: {min_size}; expected 1 or more")
    if values.shape != (sizes.sum(),):
        raise ValueError(f"values: shape {values.shape}; expected ({sizes.sum()},)")
    if not np.isfinite(values).all():
        raise ValueError("values: not finite; expected numbers only")
    if weights is not None and (weights.shape != values.shape or not (weights > 0).all()):
        raise ValueError("weights: expected one positive number for each value")


def blocks(rising: Integers) -> list[slice]:
    """Cut series, sorted by length, into runs that fit in memory when padded; empty ones go."""
    runs = []
    start = int(np.searchsorted(rising, 1))
    while start < len(rising):
        # Padded to the last one, `count` rows take count x its length cells.
        cells = np.arange(1, len(rising) - start + 1) * rising[start:]
        stop = start + max(1, int(np.searchsorted(cells, _CELLS, side="right")))
        runs.append(slice(start, stop))
        start = stop
    return runs


def _scan(
    y: Floats, w: Floats, n: Integers, min_size: int, statistic: Statistic
) -> tuple[npt.NDArray[np.generic], ...]:
    """Scan padded series, shape (series, longest); weights are 0 in the padding."""
    size = n.astype(np.float64)
    mean = (w * y).sum(axis=1) / size
    centred = y - mean[:, None]
    moved = w * centred
    rss0 = (moved * centred).sum(axis=1)
    prefix = np.cumsum(moved, axis=1)
    left = np.cumsum(w, axis=1)
    right = size[:, None] - left
    tau = np.arange(1, y.shape[1] + 1)
    allowed = (tau >= min_size) & (tau <= n[:, None] - min_size)
    part = np.where(allowed, left * right, 1.0)
    rss1 = np.maximum(rss0[:, None] - prefix**2 * size[:, None] / part, 0)
    bic0 = _bic(rss0, size, 1)

    rounding = 1e-12 * np.sqrt(rss0 * size)[:, None]  # equal means leave no more than this
    row = np.arange(len(n))
    sides = []
    for sign in (1, -1):
        candidates = allowed & (sign * prefix > rounding)
        if statistic == "bic":
            at = _best(rss1, candidates, 1e-12 * rss0)
        else:
            at = _best(-sign * prefix, candidates, rounding[:, 0])
        left_over = np.where(at > 0, rss1[row, at - 1], np.nan)
        largest = np.where(candidates, sign * prefix, -np.inf).max(axis=1)
        cusum = np.where(at > 0, largest / np.sqrt(np.maximum(rss0, EPS)), np.nan)
        sides.append((at, left_over, cusum))
    (down, rss_down, cusum_down), (_, rss_up, cusum_up) = sides
    bic_down = _bic(rss_down, size, 3)
    fall = np.where(down > 0, prefix[row, down - 1], np.nan)
    before = mean + fall / left[row, down - 1]
    after = mean - fall / right[row, down - 1]

    time = np.arange(y.shape[1]) - ((w * np.arange(y.shape[1])).sum(axis=1) / size)[:, None]
    slope_part = (moved * time).sum(axis=1) ** 2 / np.maximum((w * time**2).sum(axis=1), EPS)
    bic_line = _bic(np.maximum(rss0 - slope_part, 0), size, 2)

    fitted = np.where(tau <= down[:, None], before[:, None], after[:, None])
    rest = np.where(w > 0, y - np.where(down[:, None] > 0, fitted, mean[:, None]), 0)
    spread = (rest**2).sum(axis=1)
    products = (rest[:, 1:] * rest[:, :-1]).sum(axis=1)
    autocorrelation = np.full(len(n), np.nan)
    np.divide(products, spread, out=autocorrelation, where=spread > EPS)
    return (
        np.where(down > 0, down, -1),
        bic0 - bic_down,
        bic0 - _bic(rss_up, size, 3),
        cusum_down,
        cusum_up,
        bic_line - _bic(np.where(down > 0, rss_down, rss0), size, 3),
        before,
        after,
        autocorrelation,
    )


def _best(values: Floats, candidates: npt.NDArray[np.bool_], slack: Floats) -> Integers:
    """Find the largest tau among the candidates whose value is the least; 0 without any."""
    among = np.where(candidates, values, np.inf)
    tied = candidates & (among <= (among.min(axis=1) + slack)[:, None])
    last = values.shape[1] - np.argmax(tied[:, ::-1], axis=1)
    return np.where(tied.any(axis=1), last, 0)


def _bic(rss: Floats, n: Floats, parameters: int) -> Floats:
    return np.asarray(n * np.log((rss + EPS) / n) + parameters * np.log(n))
