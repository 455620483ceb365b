"""Tables that a caller gives in memory: checked, in the schema's dtypes, tokens in order."""

from collections.abc import Sequence

import polars as pl

from opd_diag.errors import TableError, faults, first_line
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.columns.tokens import K_GRID, KEYS, token_columns
from opd_diag.tables.schema import Column
from opd_diag.tables.tokens import SAME_UNDER_EVERY_CHECKPOINT

Tokens = pl.LazyFrame | pl.DataFrame

_ORDER = ("rollout", "position")


class Frames:
    """A token table and a rollouts table in memory. They need only the columns that are used.

    The tokens may come in any row order. They are given out sorted by (rollout, position), each
    token once and the same tokens under every checkpoint, as a run on disk holds them.

    Args:
        tokens: Token table; columns that are in no schema pass as they are.
        rollouts: Rollouts table.
        k_grid: The K of the array columns; None where none of them is read.

    Attributes:
        checkpoints: Names of the checkpoints, in the order of their first rows.
        rollouts: One row per rollout.
        k_grid: The K of the array columns.

    Raises:
        TableError: If a table has no rows or no keys, a column has values of another dtype, a null
            where none may be, NaN or infinity, a key stands twice, or two checkpoints hold other
            tokens.
    """

    def __init__(
        self, tokens: Tokens, rollouts: pl.DataFrame, k_grid: Sequence[int] | None
    ) -> None:
        self._tokens = _typed_tokens(tokens.lazy(), k_grid)
        self.rollouts = _typed_rollouts(rollouts)
        self.k_grid = tuple(K_GRID if k_grid is None else k_grid)
        names = self._tokens.select(pl.col("checkpoint").unique(maintain_order=True)).collect()
        self.checkpoints: tuple[str, ...] = tuple(names["checkpoint"])
        self._sorted = dict.fromkeys(self.checkpoints, True)
        self._check_keys()

    def tokens(self, checkpoint: str | None = None) -> pl.LazyFrame:
        """Return the token table of one checkpoint, or of all in order."""
        if checkpoint is None:
            return pl.concat([self._rows(name) for name in self.checkpoints])
        if checkpoint not in self.checkpoints:
            raise TableError(
                f"tokens: no checkpoint {checkpoint!r}; expected one of "
                f"{', '.join(self.checkpoints)}"
            )
        return self._rows(checkpoint)

    def _rows(self, checkpoint: str) -> pl.LazyFrame:
        rows = self._tokens.filter(pl.col("checkpoint") == checkpoint)
        return rows if self._sorted[checkpoint] else rows.sort(_ORDER)

    def _check_keys(self) -> None:
        known = self._tokens.collect_schema()
        same = [name for name in SAME_UNDER_EVERY_CHECKPOINT if name in known]
        first: pl.DataFrame | None = None
        for name in self.checkpoints:
            keys = self._rows(name).select(same).collect()
            if not _rises(keys):
                self._sorted[name] = False
                keys = keys.sort(_ORDER)
                if not _rises(keys):
                    raise TableError(
                        "tokens: (rollout, position) occurs twice; expected each token once"
                    )
            if first is None:
                first = keys
            elif not keys.equals(first):
                raise TableError(
                    f"tokens: checkpoints {self.checkpoints[0]!r} and {name!r} differ in "
                    f"{_differing(first, keys)}; expected the same tokens, one to one"
                )


def _rises(keys: pl.DataFrame) -> bool:
    """Tell whether (rollout, position) rises from row to row."""
    rollout, position = map(pl.col, _ORDER)
    further = (rollout == rollout.shift()) & (position > position.shift())
    return bool(keys.select(((rollout > rollout.shift()) | further).slice(1).all()).item())


def _differing(first: pl.DataFrame, keys: pl.DataFrame) -> str:
    key = [name for name in (*_ORDER, "token_id") if name in first.columns]
    if not first.select(key).equals(keys.select(key)):
        return f"({', '.join(key)})"
    return ", ".join(name for name in first.columns if not first[name].equals(keys[name]))


def _typed_tokens(tokens: pl.LazyFrame, k_grid: Sequence[int] | None) -> pl.LazyFrame:
    columns = token_columns(k_grid or K_GRID)
    if k_grid is None:
        columns = tuple(column for column in columns if not isinstance(column.dtype, pl.Array))
    return _typed(tokens, columns, KEYS, "tokens")


def _typed_rollouts(rollouts: pl.DataFrame) -> pl.DataFrame:
    typed = _typed(rollouts.lazy(), ROLLOUTS, ("rollout",), "rollouts").collect()
    if typed["rollout"].is_duplicated().any():
        raise TableError("rollouts: a rollout occurs twice; expected each row once")
    return typed


def _typed(
    frame: pl.LazyFrame, columns: Sequence[Column], keys: Sequence[str], where: str
) -> pl.LazyFrame:
    schema = frame.collect_schema()
    missing = [f"no column {name!r}; expected it" for name in keys if name not in schema]
    if missing:
        raise TableError(faults(where, missing))
    known = [column for column in columns if column.name in schema]
    wrong = {
        column.name: column.dtype
        for column in known
        if schema[column.name] != column.dtype
        and not (schema[column.name].is_float() and column.dtype.is_float())
    }
    typed = frame.cast(wrong) if wrong else frame  # type: ignore[arg-type]
    try:
        height, *counts = typed.select(pl.len(), *map(_count_faults, known)).collect().row(0)
    except pl.exceptions.PolarsError as error:
        reason = first_line(error)
        raise TableError(
            f"{where}: other dtypes ({reason}); expected those of the schema"
        ) from None
    if not height:
        raise TableError(f"{where}: no rows; expected some")
    wrong_values = [
        f"column {column.name!r} has {count} values that are null, NaN or infinite; expected "
        + ("null where a value is missing" if column.nullable else "none")
        for column, count in zip(known, counts, strict=True)
        if count
    ]
    if wrong_values:
        raise TableError(faults(where, wrong_values))
    return typed


def _count_faults(column: Column) -> pl.Expr:
    """Count values that may not be there."""
    values = pl.col(column.name)
    bad = pl.lit(False) if column.nullable else values.is_null()
    if isinstance(column.dtype, pl.Array):
        bad = bad | ~values.arr.sum().is_finite().fill_null(True)
    elif not isinstance(column.dtype, pl.List) and column.dtype.is_float():
        bad = bad | ~values.is_finite().fill_null(True)
    return bad.sum().alias(column.name)
