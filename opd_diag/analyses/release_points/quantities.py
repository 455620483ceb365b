"""Name what curves average, and sum it over bins of relative and absolute position."""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

RELATIVE_BINS = 20
MIN_TOKENS = 64
OVERLAP_K = 16


class Quantity(NamedTuple):
    """A number of each token that curves average.

    Attributes:
        column: Its name among the columns of a batch.
        name: Its name in the table.
        k: Its K, or None.
        unit: Its unit.
    """

    column: str
    name: str
    k: int | None
    unit: str


def quantities(k_grid: Sequence[int]) -> list[Quantity]:
    """List what is averaged."""
    plain = [
        ("advantage", "nat"),
        ("student_entropy", "nat"),
        ("teacher_entropy", "nat"),
        ("teacher_top_logp", "nat"),
        ("advantage_var", "nat²"),
    ]
    listed = [Quantity(name, name, None, unit) for name, unit in plain]
    if OVERLAP_K in k_grid:
        listed.append(Quantity("overlap", "overlap", OVERLAP_K, "share"))
    for k in k_grid:
        listed.append(Quantity(f"margin_{k}", "margin", k, "nat"))
        listed.append(Quantity(f"log1p_margin_{k}", "log1p_margin", k, "log nat"))
    return listed


def token_columns(k_grid: Sequence[int]) -> list[pl.Expr]:
    """Give the columns of a batch that curves read."""
    advantage = pl.col("teacher_logp") - pl.col("student_logp")
    columns = [
        advantage.alias("advantage"),
        advantage.cast(pl.Float64).pow(2).alias("advantage_squared"),
        pl.col("student_entropy", "teacher_entropy", "teacher_top_logp", "advantage_var"),
    ]
    for place, k in enumerate(k_grid):
        margin = pl.col("margin").arr.get(place)
        columns += [margin.alias(f"margin_{k}"), margin.log1p().alias(f"log1p_margin_{k}")]
        if k == OVERLAP_K:
            columns.append(pl.col("overlap").arr.get(place).alias("overlap"))
    return columns


def bin_sums(batch: pl.DataFrame, listed: Sequence[Quantity], *, width: int) -> pl.DataFrame:
    """Sum a batch over the bins of both axes.

    Args:
        batch: Tokens with `cell`, `index`, `n_tokens`, `position` and the quantities.
        listed: What is summed.
        width: Tokens in a bin of absolute position.

    Returns:
        One row per (axis, cell, bin): the sum `<column>_x` and count `<column>_m` of each.
    """
    names = [q.column for q in listed]
    sums = [
        *(pl.col(name).cast(pl.Float64).sum().alias(f"{name}_x") for name in names),
        *(pl.col(name).count().alias(f"{name}_m") for name in names),
        pl.col("advantage_squared").sum().alias("advantage_squared_x"),
    ]
    long_enough = batch.filter(pl.col("n_tokens") >= MIN_TOKENS)
    relative = pl.col("index") * RELATIVE_BINS // pl.col("n_tokens")
    parts = [("relative", long_enough, relative), ("absolute", batch, pl.col("position") // width)]
    return pl.concat(
        frame.group_by("cell", place.cast(pl.Int64).alias("bin"), maintain_order=True)
        .agg(sums)
        .with_columns(axis=pl.lit(axis))
        for axis, frame, place in parts
    )
