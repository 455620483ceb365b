"""Put numbers into the form of result tables."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from opd_diag.stats.bootstrap import Interval
from opd_diag.tables.schema import Column, polars_schema


def interval_columns(name: str, interval: Interval, *, share: bool = False) -> dict[str, Any]:
    """Name the fields of an interval as columns; a share stays between 0 and 1."""
    low, high = interval.low, interval.high
    if share:
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    return {name: interval.estimate, f"{name}_low": low, f"{name}_high": high}


def as_table(columns: Mapping[str, Any], schema: tuple[Column, ...]) -> pl.DataFrame:
    """Make a result table: columns that are not given are null, and so is what is not finite.

    An empty reason is null too. A scalar stands in every row.
    """
    types = polars_schema(schema)
    height = max((len(v) for v in columns.values() if np.ndim(v) == 1), default=1)
    full = {
        name: np.broadcast_to(np.asarray(columns.get(name), object), height).tolist()
        for name in types
    }
    return pl.DataFrame(full, types, strict=False).with_columns(
        pl.when(cs.float().is_finite()).then(cs.float()), pl.col("reason").replace("", None)
    )
