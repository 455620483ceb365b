"""Put arrays into result tables, null where a value is missing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from opd_diag.stats.bootstrap import Interval
from opd_diag.tables.schema import Column, check_table, polars_schema


def as_table(
    values: Mapping[str, Any], columns: Sequence[Column], where: str, **common: str
) -> pl.DataFrame:
    """Build a table; what is not finite becomes null, an absent column is null throughout.

    Args:
        values: Arrays or lists by column.
        columns: Columns of the table.
        where: Its name, for a message.
        common: Values that are the same in every row.
    """
    frame = pl.DataFrame(dict(values))
    frame = frame.with_columns(
        pl.when(cs.float().is_finite()).then(cs.float()),
        *(pl.lit(value).alias(name) for name, value in common.items()),
    )
    schema = polars_schema(columns)
    frame = frame.with_columns(
        *(pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in frame)
    )
    return check_table(frame.cast(dict(schema)), columns, where)  # type: ignore[arg-type]


def interval_columns(name: str, found: Interval) -> dict[str, Any]:
    """Name an estimate and its interval `<name>`, `<name>_low`, `<name>_high`."""
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def spread(values: Any, shape: int, rows: Any) -> Any:
    """Put values of some types into an array of all types, NaN elsewhere."""
    whole = np.full(shape, np.nan)
    whole[rows] = values
    return whole


def reasons(*parts: pl.Expr) -> pl.Expr:
    """Join what is said of a row with semicolons; null where nothing is."""
    joined = pl.concat_str(parts, separator="; ", ignore_nulls=True)
    return pl.when(joined != "").then(joined).alias("reason")


def said(text: str, where: pl.Expr) -> pl.Expr:
    """Say something of some rows, for `reasons`."""
    return pl.when(where).then(pl.lit(text))
