"""Read the columns of the token table: the one place where an analysis meets it.

What `read_tokens` gives is sorted by (rollout, position), holds each token once, and is the same
under all checkpoints, so that columns of two checkpoints can be subtracted row by row.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.errors import TableError, faults
from opd_diag.stats.ragged import blocks, index_in_sequence, run_lengths, run_starts, starts_of
from opd_diag.tables.rollouts import SHORTEST_TURN
from opd_diag.tables.source import Source

Mask: TypeAlias = npt.NDArray[np.bool_]

KEYS = ("rollout", "position", "token_id")
BATCH_TOKENS = 2_000_000
NARROWEST_BIN = 16  # tokens


class TokenTable:
    """Tokens of some rollouts under one or more checkpoints, read a column at a time.

    Attributes:
        checkpoints: Names of the checkpoints, the first of which is read by default.
        rollouts: One row per rollout, sorted by `rollout`.
        lengths: Tokens of each rollout. Shape (rollouts,).
    """

    def __init__(self, source: Source, rollouts: pl.DataFrame, checkpoints: Sequence[str]) -> None:
        self.checkpoints, self.rollouts = tuple(checkpoints), rollouts
        self._source = source
        self._tables: dict[str, pl.LazyFrame] = {}
        numbers, self._position, _ = self._read_keys(self.checkpoints[0])
        self._sizes = run_lengths(run_starts(numbers), numbers.size)
        self._wanted = _rows_of(numbers, rollouts, source.rollouts)
        self._keep(self._wanted >= 0)

    def _keep(self, kept: Mask) -> None:
        self._all = bool(kept.all())
        self._kept = kept
        self.lengths = np.bincount(self._wanted[kept], minlength=self.rollouts.height)

    @property
    def row(self) -> npt.NDArray[np.int32]:
        """Row in `rollouts` of each token's rollout. Shape (tokens,)."""
        return np.repeat(np.arange(self.lengths.size, dtype=np.int32), self.lengths)

    @property
    def position(self) -> npt.NDArray[np.uint32]:
        """Place of each token in its response, from 0. Shape (tokens,)."""
        return np.asarray(self._pick(self._position))

    @property
    def breaks(self) -> Mask | None:
        """Whether two tokens or more outside the table stand right before a token.

        In the loss of a response of several turns these are what users and tools wrote. The first
        token of a rollout has none before it. Shape (tokens,); None where there is no break.
        """
        position = self.position.astype(np.int64)
        breaks = np.zeros(position.size, np.bool_)
        breaks[1:] = position[1:] - position[:-1] > SHORTEST_TURN
        starts = starts_of(self.lengths)
        breaks[starts[self.lengths > 0]] = False
        return breaks if breaks.any() else None

    def column(self, name: str, checkpoint: str | None = None, *, k: int | None = None) -> Any:
        """Read one column. Null becomes NaN in a column of floats. Shape (tokens,).

        Args:
            name: Name of the column.
            checkpoint: The checkpoint to read it from; None: the first one.
            k: One of the K grid, for a column that holds one value per K; None: all of them,
                shape (tokens, K grid).

        Raises:
            TableError: If a checkpoint holds other tokens than the first one.
        """
        value = pl.col(name)
        if k is not None:
            value = value.arr.get(self._source.k_grid.index(k)).alias(name)
        table = self._table(checkpoint or self.checkpoints[0])
        return self._pick(table.select(value).collect()[name].to_numpy())

    def frame(
        self, columns: Iterable[str | pl.Expr], checkpoint: str | None = None
    ) -> pl.DataFrame:
        """Read several columns or expressions of columns, one row per token.

        Raises:
            TableError: If a checkpoint holds other tokens than the first one.
        """
        table = self._table(checkpoint or self.checkpoints[0]).select(*columns).collect()
        return table if self._all else table.filter(self._kept)

    def batches(
        self, columns: Iterable[str | pl.Expr], *, most: int = BATCH_TOKENS
    ) -> Iterator[pl.DataFrame]:
        """Read whole rollouts at a time, so that memory does not grow with the run.

        Args:
            columns: Columns or expressions of columns, of the first checkpoint.
            most: Most tokens of a batch, unless one rollout alone has more.

        Yields:
            row (in `rollouts`), position, index (0-based among the rollout's tokens here),
            n_tokens (number of these), and the columns. Batches without a token are left out.
        """
        table, wanted = self._table(self.checkpoints[0]), list(columns)
        for _, place in blocks(self._sizes, most=most):
            kept = self._kept[place]
            if not kept.any():
                continue
            part = table.slice(place.start, place.stop - place.start).select(*wanted).collect()
            row = self._wanted[place][kept]
            sizes = run_lengths(run_starts(row), row.size)
            yield part.filter(kept).with_columns(
                row=row,
                position=self._position[place][kept],
                index=index_in_sequence(sizes),
                n_tokens=np.repeat(sizes, sizes),
            )

    def where(self, mask: npt.NDArray[np.bool_]) -> "TokenTable":
        """Keep some of the tokens, such as those in the loss.

        Args:
            mask: Shape (tokens,).
        """
        part: TokenTable = object.__new__(TokenTable)
        part.__dict__.update(self.__dict__)
        kept = self._kept.copy()
        kept[self._kept] = mask
        part._keep(kept)
        return part

    def _pick(self, values: npt.NDArray[Any]) -> Any:
        return values if self._all else values[self._kept]

    def _table(self, checkpoint: str) -> pl.LazyFrame:
        """Return the table of a checkpoint, once it is known to hold the same tokens."""
        if checkpoint not in self._tables:
            first = self.checkpoints[0]
            ours, theirs = self._read_keys(first), self._read_keys(checkpoint)
            for name, one, other in zip(KEYS, ours, theirs, strict=True):
                if not np.array_equal(one, other):
                    raise TableError(
                        f"tokens: checkpoints {first!r} and {checkpoint!r} differ in {name}; "
                        "expected the same tokens, one to one"
                    )
        return self._tables[checkpoint]

    def _read_keys(self, checkpoint: str) -> tuple[npt.NDArray[Any], ...]:
        table = self._tables.get(checkpoint, self._source.tokens(checkpoint))
        keys = table.select(KEYS).collect()
        if not _rises(keys):
            table = table.sort("rollout", "position")
            keys = keys.sort("rollout", "position")
            if not _rises(keys):
                raise TableError(
                    f"tokens of {checkpoint!r}: (rollout, position) occurs twice; "
                    "expected each token once"
                )
        self._tables[checkpoint] = table
        return tuple(keys[name].to_numpy() for name in KEYS)


def read_tokens(
    source: Source,
    rollouts: pl.DataFrame,
    checkpoints: str | Sequence[str],
    *,
    columns: Sequence[str] = (),
) -> TokenTable:
    """Read the tokens of some rollouts, verified one to one between checkpoints.

    Args:
        source: Where the tokens come from.
        rollouts: The rollouts wanted, sorted by `rollout`.
        checkpoints: Checkpoints that will be read; the first is the default of every column.
        columns: Columns that will be read, so that a missing one is named at once.

    Raises:
        TableError: If a column is missing, a token occurs twice, or belongs to no rollout.
    """
    names = (checkpoints,) if isinstance(checkpoints, str) else tuple(checkpoints)
    require_columns(source, columns)
    return TokenTable(source, rollouts, names)


def require_columns(source: Source, columns: Sequence[str]) -> None:
    """Check that the token table has the columns that an analysis reads.

    Raises:
        TableError: If some are missing; all are named.
    """
    there = source.tokens(source.checkpoints[0]).collect_schema().names()
    absent = [name for name in dict.fromkeys((*KEYS, *columns)) if name not in there]
    if absent:
        expected = (f"no column {name!r}; expected it for this analysis" for name in absent)
        raise TableError(faults("tokens", list(expected)))


def bin_width(longest: int, bins: int) -> int:
    """Choose a power of two, at least 16 tokens, that covers the longest response in some bins."""
    return max(NARROWEST_BIN, 1 << (max(0, longest - 1) // bins).bit_length())


def _rises(keys: pl.DataFrame) -> bool:
    """Tell whether (rollout, position) rises from row to row."""
    rollout, position = (keys[name].to_numpy() for name in KEYS[:2])
    later = rollout[1:] > rollout[:-1]
    return bool((later | ((rollout[1:] == rollout[:-1]) & (position[1:] > position[:-1]))).all())


def _rows_of(
    numbers: npt.NDArray[Any], rollouts: pl.DataFrame, everything: pl.DataFrame
) -> npt.NDArray[np.int32]:
    """Find the row in `rollouts` of each token, -1 where its rollout is not wanted."""
    starts = run_starts(numbers)
    present = numbers[starts]
    strangers = np.setdiff1d(present, everything["rollout"].to_numpy())
    if strangers.size:
        raise TableError(
            f"tokens: rollout {strangers[0]} is not in the rollouts table; expected a row for each"
        )
    wanted = rollouts["rollout"].to_numpy()
    row = np.full(present.size, -1, np.int32)
    if wanted.size:
        place = np.minimum(np.searchsorted(wanted, present), wanted.size - 1)
        row = np.where(wanted[place] == present, place, -1).astype(np.int32)
    return np.repeat(row, run_lengths(starts, numbers.size))
