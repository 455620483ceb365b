"""Tables that a caller gives in memory: brought to the schema's dtypes, and checked, before use."""

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import polars as pl

from opd_diag.errors import TableError, faults, first_line
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.columns.tokens import K_GRID, KEYS, token_columns
from opd_diag.tables.schema import Column

P = ParamSpec("P")
T = TypeVar("T")


def names_missing_columns(analysis: Callable[P, T]) -> Callable[P, T]:
    """Let an analysis raise a TableError where its tables lack a column that it reads."""

    @functools.wraps(analysis)
    def told(*args: P.args, **options: P.kwargs) -> T:
        try:
            return analysis(*args, **options)
        except pl.exceptions.ColumnNotFoundError as error:
            reason = first_line(error).split(";")[0]
            raise TableError(f"tables: {reason}; expected it for this analysis") from error

    return told


def given_tokens(tokens: pl.LazyFrame, k_grid: Sequence[int] | None) -> pl.LazyFrame:
    """Check a token table of which only some columns need be there.

    Args:
        tokens: Rows in any order; columns that are in no schema pass as they are.
        k_grid: The K of the array columns; None where none of them is read.

    Returns:
        The table in the schema's dtypes.

    Raises:
        TableError: If there are no rows or no keys, a column has values of another dtype, a null
            where none may be, NaN or infinity, or a key stands twice.
    """
    columns = token_columns(k_grid or K_GRID)
    if k_grid is None:
        columns = tuple(column for column in columns if not isinstance(column.dtype, pl.Array))
    typed = _typed(tokens, columns, KEYS, "tokens")
    checkpoint, rollout, position = map(pl.col, KEYS)
    further = (rollout == rollout.shift()) & (position > position.shift())
    falls = (checkpoint == checkpoint.shift()) & ~((rollout > rollout.shift()) | further)
    keys = typed.select(KEYS)
    # Sorted rows, the usual case, need no look at all pairs of them.
    if keys.select(falls.any()).collect().item() and keys.collect().is_duplicated().any():
        raise TableError("tokens: (rollout, position) occurs twice; expected each token once")
    return typed


def given_rollouts(rollouts: pl.DataFrame) -> pl.DataFrame:
    """Check a rollouts table of which only some columns need be there.

    Raises:
        TableError: As `given_tokens` does.
    """
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
    found = [
        f"column {column.name!r} has {count} values that are null, NaN or infinite; expected "
        + ("null where a value is missing" if column.nullable else "none")
        for column, count in zip(known, counts, strict=True)
        if count
    ]
    if found:
        raise TableError(faults(where, found))
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
