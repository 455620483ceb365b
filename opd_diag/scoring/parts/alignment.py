"""Whether the generator's own log-probs agree with the student's: they must, if it generated."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opd_diag.tables.source import FEWEST_ALIGNED, MEDIAN_ALIGNED, P95_ALIGNED

# Shift s compares the generator's value at a token with the student's s tokens later.
SHIFTS = (0, 1, -1)
# Edges of a histogram of |difference|, 10 % apart: histograms of parts add up exactly.
EDGES = np.geomspace(1e-6, 1e2, 201)
# A confident model lies within these under any temperature: then what fits far better is meant.
FAR_BETTER = 1 / 3
# Dumps round to so many decimals; what a value could have been before counts as no difference.
DECIMALS = (2, 3, 4)

Values = NDArray[np.float32]
Counts = dict[int, NDArray[np.int64]]


class Alignment(NamedTuple):
    """How far the generator's log-probs lie from the student's.

    Attributes:
        n: Number of tokens compared.
        median: Median of |difference|, nat; None if there is none.
        p95: 95th percentile of |difference|, nat; None if there is none.
        diagnosis: `aligned`, `shifted by one`, `other temperature`, `other checkpoint`, or
            `too few tokens`.
        detail: One clause that says what was seen.
    """

    n: int
    median: float | None
    p95: float | None
    diagnosis: str
    detail: str


def count_differences(sampled: Values, student: Values, response: NDArray[np.integer]) -> Counts:
    """Count |sampled - student| in a histogram, for each shift.

    Where the generator's log-probs were rounded, a student's value that rounds to one differs by 0.

    Args:
        sampled: The generator's log-probs, NaN where there is none. Shape (tokens,).
        student: The student's, NaN where there is none. Shape (tokens,).
        response: Which response each token belongs to. Shape (tokens,).

    Returns:
        Counts by shift. Shape (len(EDGES) + 1,) each.
    """
    counts = {}
    half_unit = rounding(sampled)
    for shift in SHIFTS:
        ahead, behind = max(shift, 0), max(-shift, 0)
        stop = len(sampled)
        ours, theirs = slice(behind, stop - ahead), slice(ahead, stop - behind)
        difference = np.maximum(np.abs(sampled[ours] - student[theirs]) - half_unit, 0)
        compared = (response[ours] == response[theirs]) & np.isfinite(difference)
        places = np.searchsorted(EDGES, difference[compared])
        counts[shift] = np.bincount(places, minlength=len(EDGES) + 1)
    return counts


def rounding(values: Values) -> float:
    """Find the largest change that rounding made to values, 0 where they were not rounded.

    Args:
        values: Log-probs (nat), NaN where there is none. Shape (tokens,).
    """
    known = values[np.isfinite(values) & (values != 0)].astype(np.float64)
    if len(known) < FEWEST_ALIGNED:
        return 0.0
    # Float32 keeps seven digits, so that the value of a decimal is known up to this.
    near = 1e-6 * np.abs(known) + 1e-9
    for decimals in DECIMALS:
        if (np.abs(known - np.round(known, decimals)) <= near).all():
            return 0.5 * 10.0**-decimals
    return 0.0


def diagnose(counts: Counts, tempered: Mapping[float, Counts] | None = None) -> Alignment:
    """Tell from the differences what kind of generator wrote the rollouts.

    Args:
        counts: Histograms of the student at the run's temperature, by shift.
        tempered: The same at other temperatures, where they were computed.
    """
    plain = counts[0]
    n = int(plain.sum())
    if n < FEWEST_ALIGNED:
        have = f"{n} tokens with a log-prob" if n else "no token in the loss has a log-prob"
        detail = f"{have}, so the fit of models and tokens cannot be checked"
        return Alignment(n, None, None, "too few tokens", detail)
    median, p95 = quantile(plain, 0.5), quantile(plain, 0.95)
    seen = f"median |difference| {median:.2g} nat, 95th percentile {p95:.2g} nat"
    for shift in SHIFTS[1:]:
        if fits_instead(counts[shift], plain):
            where = "after" if shift > 0 else "before"
            detail = f"{seen}; they fit the student's at the token {where}"
            return Alignment(n, median, p95, "shifted by one", detail)
    for temperature, others in (tempered or {}).items():
        if fits_instead(others[0], plain):
            detail = f"{seen}; they fit temperature {temperature:g}"
            return Alignment(n, median, p95, "other temperature", detail)
    if is_aligned(plain):
        return Alignment(n, median, p95, "aligned", seen)
    return Alignment(n, median, p95, "other checkpoint", seen)


def fits_instead(rival: NDArray[np.int64], plain: NDArray[np.int64]) -> bool:
    """Tell whether differences from something else are small, and far smaller than the plain."""
    if not is_aligned(rival):
        return False
    far_better = quantile(rival, 0.95) < FAR_BETTER * quantile(plain, 0.95)
    return far_better or not is_aligned(plain)


def is_aligned(counts: NDArray[np.int64]) -> bool:
    """Tell whether differences are as small as those between two engines of one model."""
    if counts.sum() < FEWEST_ALIGNED:
        return False
    return quantile(counts, 0.5) <= MEDIAN_ALIGNED and quantile(counts, 0.95) <= P95_ALIGNED


def quantile(counts: NDArray[np.int64], share: float) -> float:
    """Return the upper edge of the bin that holds a quantile."""
    place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
    return float(EDGES[min(place, len(EDGES) - 1)])


def pack(counts: Counts) -> dict[str, list[list[int]]]:
    """Write histograms as JSON values: [bin, count] of every bin that holds something."""
    return {
        str(shift): [[int(place), int(bins[place])] for place in np.flatnonzero(bins)]
        for shift, bins in counts.items()
    }


def add_packed(packed: Iterable[Mapping[str, list[list[int]]]]) -> Counts:
    """Add histograms that `pack` wrote."""
    counts = {shift: np.zeros(len(EDGES) + 1, np.int64) for shift in SHIFTS}
    for one in packed:
        for shift, bins in one.items():
            for place, count in bins:
                counts[int(shift)][place] += count
    return counts
