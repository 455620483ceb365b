"""From arrays to result tables: the one builder of all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from opd_diag.stats.bootstrap import Interval
from opd_diag.tables.columns import RESULTS
from opd_diag.tables.schema import check_table, polars_schema


def interval_columns(name: str, interval: Interval, *, share: bool = False) -> dict[str, Any]:
    """Name an estimate and its two ends `<name>`, `<name>_low`, `<name>_high`.

    Args:
        name: Name of the estimate.
        interval: Estimates with intervals.
        share: Whether the ends are cut at 0 and 1.
    """
    low, high = interval.low, interval.high
    if share:
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    return {name: interval.estimate, f"{name}_low": low, f"{name}_high": high}


def result_table(
    name: str,
    values: Mapping[str, Any] | pl.DataFrame | Sequence[Mapping[str, Any]],
    **constants: object,
) -> pl.DataFrame:
    """Build a result table and check it against its schema.

    What is not finite becomes null, and so does an empty text in `reason`. A column that is not
    given is null throughout, if the schema lets it be.

    Args:
        name: Name of the table, one of `opd_diag.tables.columns.RESULTS`.
        values: Arrays, lists or series by column; or a frame; or several such parts of the table,
            one below the other. A single value stands in every row.
        **constants: Values that are the same in every row, such as `checkpoint`.

    Raises:
        TableError: If a column is missing, unknown, or cannot be what the schema says.
    """
    columns = RESULTS[name]
    types = polars_schema(columns)
    if isinstance(values, pl.DataFrame):
        frame = values
    elif isinstance(values, Mapping):
        frame = _frame(values)
    else:
        frame = pl.concat(map(_frame, values), how="diagonal_relaxed")
    frame = frame.with_columns(pl.lit(value).alias(key) for key, value in constants.items())
    frame = frame.with_columns(
        pl.when(cs.float().is_finite()).then(cs.float()),
        *(pl.lit(None, dtype).alias(key) for key, dtype in types.items() if key not in frame),
    )
    if frame.schema.get("reason") == pl.String:
        frame = frame.with_columns(pl.col("reason").replace("", None))
    known = {key: dtype for key, dtype in types.items() if frame.schema[key] != dtype}
    return check_table(frame.cast(known), columns, name)  # type: ignore[arg-type]


def _frame(values: Mapping[str, Any]) -> pl.DataFrame:
    """Make a frame; a value that is no sequence stands in every row."""
    height = max((len(v) for v in values.values() if np.ndim(v) > 0), default=1)
    full: dict[str, Any] = {}
    for name, value in values.items():
        if np.ndim(value) == 0:
            value = value.item() if isinstance(value, np.generic | np.ndarray) else value
            full[name] = [None if _is_nan(value) else value] * height
        else:  # an array of Python objects is a list to polars
            full[name] = value.tolist() if getattr(value, "dtype", "") == "object" else value
    return pl.DataFrame(full, strict=False)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and bool(np.isnan(value))


def spread(
    values: npt.ArrayLike, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_], size: int
) -> npt.NDArray[np.float64]:
    """Put values of some rows into an array of all rows, NaN elsewhere. Shape (size,)."""
    whole = np.full(size, np.nan)
    whole[rows] = values
    return whole


def ratio(over: npt.ArrayLike, under: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Divide, NaN where the divisor is 0."""
    above, below = np.broadcast_arrays(np.asarray(over, np.float64), np.asarray(under, np.float64))
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0))
