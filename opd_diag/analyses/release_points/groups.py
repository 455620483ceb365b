"""Split rollouts into the groups that users ask for, and put numbers into table form."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from opd_diag.stats.bootstrap import Interval
from opd_diag.tables.schema import Column, polars_schema

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

SPLITS = ("policy", "step", "correct", "finish_reason")


def groups(rollouts: pl.DataFrame) -> Iterator[tuple[str, str, npt.NDArray[np.bool_]]]:
    """Give all rollouts, then those of each value of each column that has two values or more.

    Yields:
        Split (`all` or the column), group (the value, `unknown` where it is missing), and which
        rollouts belong to it.
    """
    yield "all", "all", np.ones(rollouts.height, np.bool_)
    for split in SPLITS:
        labels = rollouts[split].cast(pl.String).fill_null("unknown")
        values = labels.unique().sort()
        if len(values) > 1:
            for value in values:
                yield split, value, (labels == value).to_numpy()


def cluster_codes(prompt_id: pl.Series) -> Integers:
    """Number the prompts from 0 without gaps."""
    return prompt_id.rank("dense").to_numpy().astype(np.int64) - 1


def cluster_sums(codes: Integers, values: Floats) -> tuple[Floats, Floats]:
    """Sum values and count those that are a number in each cluster.

    Args:
        codes: Cluster of each row, from 0 without gaps. Shape (rows,).
        values: Shape (rows, k), NaN where missing.

    Returns:
        Sums and counts, each of shape (clusters, k).
    """
    there = np.isfinite(values)
    clusters = int(codes.max(initial=-1)) + 1
    x, m = np.zeros((clusters, values.shape[1])), np.zeros((clusters, values.shape[1]))
    for j in range(values.shape[1]):
        x[:, j] = np.bincount(codes, np.where(there[:, j], values[:, j], 0), clusters)
        m[:, j] = np.bincount(codes, there[:, j], clusters)
    return x, m


def interval_columns(name: str, interval: Interval, *, share: bool = False) -> dict[str, Any]:
    """Name the fields of an interval as columns; a share stays between 0 and 1."""
    low, high = interval.low, interval.high
    if share:
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    return {name: interval.estimate, f"{name}_low": low, f"{name}_high": high}


def as_table(columns: dict[str, Any], schema: tuple[Column, ...]) -> pl.DataFrame:
    """Make a result table: what is not finite becomes null, and so does an empty reason."""
    types = polars_schema(schema)
    frame = pl.DataFrame(columns).with_columns(
        pl.when(cs.float().is_finite()).then(cs.float()),
        *(pl.col("reason").replace("", None) for _ in range("reason" in columns)),
    )
    return frame.select(pl.col(name).cast(dtype) for name, dtype in types.items())
