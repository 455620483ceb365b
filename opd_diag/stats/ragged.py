"""Array idioms for values of many sequences of unequal length, laid end to end.

A ragged array is a flat array of values and the `lengths` of the sequences that tile it.
"""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

BLOCK = 100_000  # values that stay in the cache of a core


def starts_of(lengths: npt.ArrayLike) -> Integers:
    """Return the index of the first value of each sequence. Shape (sequences,)."""
    sizes = np.asarray(lengths, np.int64)
    return np.asarray(np.cumsum(sizes) - sizes)


def run_starts(*keys: npt.NDArray[Any]) -> Integers:
    """Return where each run of equal keys starts.

    Args:
        keys: Arrays of one shape, (n,); a run ends where any of them changes.
    """
    new = np.zeros(len(keys[0]), np.bool_)
    new[:1] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(new)


def run_lengths(starts: Integers, n: int) -> Integers:
    """Return the length of each run, from where the runs start and the number of values."""
    return np.diff(np.append(starts, n))


def index_in_sequence(lengths: npt.ArrayLike) -> Integers:
    """Return 0, 1, 2 ... for the values of each sequence. Shape (values,)."""
    sizes = np.asarray(lengths, np.int64)
    return np.arange(sizes.sum()) - np.repeat(starts_of(sizes), sizes)


def ranges(starts: npt.ArrayLike, lengths: npt.ArrayLike) -> Integers:
    """Return start, start + 1 ... for each start and length, one after the other."""
    first, sizes = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
    return np.repeat(first - starts_of(sizes), sizes) + np.arange(sizes.sum())


def sequence_sums(
    values: npt.NDArray[np.generic], lengths: npt.NDArray[np.integer]
) -> tuple[Floats, Integers]:
    """Sum the values of each sequence in float64, NaN left out.

    Args:
        values: Shape (values,).
        lengths: Values of each sequence, 0 allowed; any shape, read in C order.

    Returns:
        Sums, and how many values each is made of, in the shape of `lengths`.
    """
    tiles = lengths.reshape(len(lengths), math.prod(lengths.shape[1:])).astype(np.int64)
    sums, counts = np.zeros(tiles.shape), tiles.copy()
    for rows, place in blocks(tiles.sum(axis=1)):
        part, sizes = values[place], tiles[rows].ravel()
        some = sizes > 0
        starts = starts_of(sizes)[some]
        if not starts.size:
            continue
        missing = np.isnan(part)
        if missing.any():
            part = np.where(missing, 0, part)
            lost = np.zeros(some.size, np.int64)
            lost[some] = np.add.reduceat(missing, starts, dtype=np.int64)
            counts[rows] -= lost.reshape(counts[rows].shape)
        total = np.zeros(some.size)
        total[some] = np.add.reduceat(part.astype(np.float64), starts)
        sums[rows] = total.reshape(sums[rows].shape)
    return sums.reshape(lengths.shape), counts.reshape(lengths.shape)


def blocks(lengths: npt.ArrayLike, *, most: int = BLOCK) -> Iterator[tuple[slice, slice]]:
    """Cut sequences into blocks of few enough values: a slice of sequences, one of values.

    A sequence is never cut. There is always a block, an empty one where there is no sequence.

    Args:
        lengths: Values of each sequence. Shape (sequences,).
        most: Most values of a block, unless one sequence alone has more.
    """
    ends = np.concatenate([[0], np.cumsum(lengths)])
    start = 0
    while True:
        last = int(np.searchsorted(ends, ends[start] + most, side="right")) - 1
        stop = min(max(start + 1, last), ends.size - 1)
        yield slice(start, stop), slice(int(ends[start]), int(ends[stop]))
        if stop == ends.size - 1:
            return
        start = stop
