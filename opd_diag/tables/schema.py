"""Columns with dtype, unit and meaning, and the one check that every table passes."""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl
from polars.datatypes import DataTypeClass

from opd_diag.errors import TableError, faults

DType = pl.DataType | DataTypeClass


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        name: The name in the file.
        dtype: The polars dtype.
        unit: The unit, such as `nat`, `tokens`, `share`, or `-` for names, ids and flags.
        meaning: One sentence for a reader of the table.
        nullable: Whether a value may be missing. Missing is null, never NaN.
    """

    name: str
    dtype: DType
    unit: str
    meaning: str
    nullable: bool = True


def interval(
    name: str, unit: str, meaning: str, *, over: str = "prompts"
) -> tuple[Column, Column, Column]:
    """Return the columns of an estimate and of the two ends of its interval.

    Args:
        name: Name of the estimate; those of its ends have `_low` and `_high` behind it.
        unit: Unit of all three.
        meaning: What is estimated.
        over: What the interval is taken over.
    """
    low = f"Lower end of its 95 % interval over {over}."
    return (
        Column(name, pl.Float64, unit, meaning),
        Column(f"{name}_low", pl.Float64, unit, low),
        Column(f"{name}_high", pl.Float64, unit, "Upper end."),
    )


def polars_schema(columns: Sequence[Column]) -> pl.Schema:
    """Return the polars schema of `columns`."""
    return pl.Schema({column.name: column.dtype for column in columns})


def empty_table(columns: Sequence[Column]) -> pl.DataFrame:
    """Return a table of `columns` with no rows."""
    return pl.DataFrame(schema=polars_schema(columns))


def check_table(frame: pl.DataFrame, columns: Sequence[Column], where: str) -> pl.DataFrame:
    """Check a table against its columns, and return it with the columns in their order.

    Args:
        frame: The table.
        columns: What it must hold: these columns and no others.
        where: The file or table that a message names.

    Raises:
        TableError: If a column is missing, unknown or of another dtype, if a column that
            may not be null holds null, or if any value, inside lists and arrays too, is NaN.
    """
    messages = _schema_faults(frame, columns)
    if not messages:
        messages = _value_faults(frame, columns)
    if messages:
        raise TableError(faults(where, messages))
    return frame.select(column.name for column in columns)


def _schema_faults(frame: pl.DataFrame, columns: Sequence[Column]) -> list[str]:
    expected = polars_schema(columns)
    messages = [
        f"no column {name!r}; expected {dtype}"
        for name, dtype in expected.items()
        if name not in frame.schema
    ]
    messages += [
        f"column {name!r} is not in the schema; expected only known columns"
        for name in frame.columns
        if name not in expected
    ]
    messages += [
        f"column {name!r} is {frame.schema[name]}; expected {dtype}"
        for name, dtype in expected.items()
        if name in frame.schema and frame.schema[name] != dtype
    ]
    return messages


def _value_faults(frame: pl.DataFrame, columns: Sequence[Column]) -> list[str]:
    if frame.is_empty():
        return []
    required = [column.name for column in columns if not column.nullable]
    nulls = frame.select(pl.col(required).null_count()).row(0) if required else ()
    messages = [
        f"column {name!r} has {count} null values; expected none"
        for name, count in zip(required, nulls, strict=True)
        if count
    ]
    checks = {
        column.name: _count_nan(column) for column in columns if _innermost(column.dtype).is_float()
    }
    if checks:
        counts = frame.select(**checks).row(0, named=True)
        messages += [
            f"column {name!r} has {count} NaN values; expected null where a value is missing"
            for name, count in counts.items()
            if count
        ]
    return messages


def _innermost(dtype: DType) -> DType:
    while isinstance(dtype, pl.List | pl.Array):
        dtype = dtype.inner
    return dtype


def _count_nan(column: Column) -> pl.Expr:
    values = pl.col(column.name)
    if isinstance(column.dtype, pl.List):
        values = values.list.explode()
    elif isinstance(column.dtype, pl.Array):
        values = values.arr.explode()
    return values.is_nan().sum()


def describe(columns: Sequence[Column]) -> str:
    """Write `columns` as a Markdown table: name, dtype, unit, meaning."""
    lines = ["| column | dtype | unit | meaning |", "|---|---|---|---|"]
    for column in columns:
        dtype = (
            str(column.dtype) if isinstance(column.dtype, pl.DataType) else column.dtype.__name__
        )
        optional = "?" if column.nullable else ""
        lines.append(f"| `{column.name}` | {dtype}{optional} | {column.unit} | {column.meaning} |")
    return "\n".join(lines)
