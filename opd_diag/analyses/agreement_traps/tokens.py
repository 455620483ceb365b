"""The tokens that count, read one column at a time: 30 million of them fit in little memory."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.agreement_traps.blocks import blocks
from opd_diag.errors import TableError
from opd_diag.tables.source import Source

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

KEYS = ("rollout", "position", "token_id")


class CountedTokens:
    """The tokens of one checkpoint that count: in the loss, with a measured reverse_kl.

    Attributes:
        lengths: Tokens of each rollout. Shape (rollouts,).
        missing: Tokens in the loss without a measured reverse_kl, left out. Shape (rollouts,).
        position: Place of each token in its response. Shape (tokens,).
        kl: Its reverse_kl, nat. Shape (tokens,).
    """

    def __init__(self, source: Source, checkpoint: str, rollouts: pl.Series) -> None:
        """Read what the rule needs.

        Args:
            source: Where the tokens come from.
            checkpoint: Name of the checkpoint.
            rollouts: Numbers of the rollouts to read, rising.

        Raises:
            TableError: If a token occurs twice, or belongs to no rollout.
        """
        self._source, self._checkpoint = source, checkpoint
        self._orders: dict[str, Integers | None] = {}
        self._keep: npt.NDArray[np.bool_] | None = None
        numbers, position = (self._read(name, checkpoint) for name in ("rollout", "position"))
        _check_rollouts(numbers, source.rollouts["rollout"])
        kl = self._read("reverse_kl", checkpoint)
        wanted = rollouts.to_numpy()
        # Rows are sorted by rollout: the tokens of one are a slice, found without a look at each.
        start, stop = (np.searchsorted(numbers, wanted, side=side) for side in ("left", "right"))
        row = np.full(numbers.size, -1, np.int32)
        row[ranges(start, stop - start)] = np.repeat(
            np.arange(wanted.size, dtype=np.int32), stop - start
        )
        counted = (row >= 0) & self._read("in_loss", checkpoint)
        measured = counted & ~np.isnan(kl)
        self.missing = np.bincount(row[counted & ~measured], minlength=wanted.size)
        self.lengths = np.bincount(row[measured], minlength=wanted.size)
        self.position, self.kl = position[measured], kl[measured]
        self._keep = None if measured.all() else measured

    def column(
        self, name: str, checkpoint: str | None = None, *, place: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Read a column of these tokens, NaN where it is null. Shape (tokens,).

        Args:
            name: Name of the column.
            checkpoint: The checkpoint to read it from; None: the tokens' own.
            place: Place in the K grid, for a column that holds one value per K.
        """
        values = self._read(name, checkpoint or self._checkpoint, place)
        kept = values if self._keep is None else values[self._keep]
        return np.asarray(kept, np.float32)

    def same_as(self, checkpoint: str) -> None:
        """Check that another checkpoint holds the same tokens in the same rows.

        Raises:
            TableError: If it does not.
        """
        for name in KEYS:
            if not np.array_equal(self._read(name, self._checkpoint), self._read(name, checkpoint)):
                raise TableError(
                    f"tokens: checkpoints {self._checkpoint!r} and {checkpoint!r} differ in "
                    f"{name}; expected the same tokens, one to one"
                )

    def _read(self, name: str, checkpoint: str, place: int | None = None) -> Any:
        if checkpoint not in self._orders:
            self._orders[checkpoint] = self._find_order(checkpoint)
        order = self._orders[checkpoint]
        values = self._unsorted(name, checkpoint, place)
        return values if order is None else values[order]

    def _unsorted(self, name: str, checkpoint: str, place: int | None = None) -> Any:
        value = pl.col(name) if place is None else pl.col(name).arr.get(place).alias(name)
        return self._source.tokens(checkpoint).select(value).collect()[name].to_numpy()

    def _find_order(self, checkpoint: str) -> Integers | None:
        """Return what sorts a checkpoint's rows by (rollout, position), None if they are sorted."""
        numbers, position = (self._unsorted(name, checkpoint) for name in ("rollout", "position"))
        if _is_sorted(numbers, position):
            return None
        order = np.lexsort((position, numbers))
        if not _is_sorted(numbers[order], position[order]):
            raise TableError(
                f"tokens of {checkpoint!r}: (rollout, position) occurs twice; "
                "expected each token once"
            )
        return order


def ranges(starts: Integers, counts: Integers) -> Integers:
    """Write start, start + 1 ... for each start and count, one after the other."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def require(source: Source, columns: Sequence[str]) -> None:
    """Check that the token table has the columns.

    Raises:
        TableError: If one is missing.
    """
    names = source.tokens().collect_schema().names()
    missing = [name for name in columns if name not in names]
    if missing:
        raise TableError(f"tokens: no column {', '.join(missing)}; expected them for this analysis")


def tiled_sums(values: npt.NDArray[np.generic], sizes: Integers) -> tuple[Floats, Integers]:
    """Sum consecutive segments that tile the values, NaN left out, in float64.

    Args:
        values: Shape (tokens,).
        sizes: Values of each segment, 0 allowed, any shape; read in C order.

    Returns:
        Sums, and how many values each is made of, in the shape of `sizes`.
    """
    tiles = sizes.reshape(len(sizes), math.prod(sizes.shape[1:])).astype(np.int64)
    sums, counts = np.zeros(tiles.shape), tiles.copy()
    for rows, place in blocks(tiles.sum(axis=1)):
        part, segments = values[place], tiles[rows].ravel()
        some = segments > 0
        starts = (np.cumsum(segments) - segments)[some]
        if not starts.size:
            continue
        missing = np.isnan(part)
        if missing.any():
            part = np.where(missing, 0, part)
            lost = np.add.reduceat(missing, starts, dtype=np.int64)
            counts[rows] -= _spread(lost, some).reshape(counts[rows].shape)
        sums[rows] = _spread(np.add.reduceat(part.astype(np.float64), starts), some).reshape(
            sums[rows].shape
        )
    return sums.reshape(sizes.shape), counts.reshape(sizes.shape)


def _spread(values: npt.NDArray[Any], places: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Put values at the places that are true, 0 elsewhere."""
    found = np.zeros(places.size, values.dtype)
    found[places] = values
    return found


def _is_sorted(numbers: npt.NDArray[Any], position: npt.NDArray[Any]) -> bool:
    later = numbers[1:] > numbers[:-1]
    return bool((later | ((numbers[1:] == numbers[:-1]) & (position[1:] > position[:-1]))).all())


def _check_rollouts(numbers: npt.NDArray[Any], known: pl.Series) -> None:
    """Check that sorted numbers of rollouts are all known."""
    last = np.append(numbers[1:] != numbers[:-1], True)[: numbers.size]
    strangers = np.setdiff1d(numbers[last], known.to_numpy())
    if strangers.size:
        raise TableError(
            f"tokens: rollout {strangers[0]} is not in the rollouts table; expected a row for each"
        )
