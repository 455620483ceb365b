"""Sum quantities of tokens over bins of relative and absolute position, by prompt."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.prompts import Prompts

Floats: TypeAlias = npt.NDArray[np.float64]

RELATIVE_BINS = 20
ABSOLUTE_BINS = 32
EARLY = slice(0, 4)  # relative bins: the first and last 20 % of the response
LATE = slice(16, 20)
MIN_TOKENS = 64
OVERLAP_K = 16


class Quantity(NamedTuple):
    """A number of each token that is averaged.

    Attributes:
        column: Its name among the columns of a batch.
        name: Its name in the tables.
        k: Its K, or None.
        unit: Its unit.
    """

    column: str
    name: str
    k: int | None
    unit: str


class Bins(NamedTuple):
    """Sums over bins of one axis.

    Attributes:
        x: Sums, shape (prompts, bins, quantities).
        m: Counts, same shape.
        squares: Sum of the squared advantage, shape (prompts, bins).
        advantage: Place of the advantage among the quantities.
    """

    x: Floats
    m: Floats
    squares: Floats
    advantage: int

    def part(self, bins: slice) -> "Bins":
        """Add some bins up to one."""
        x, m, squares = (sums[:, bins].sum(axis=1, keepdims=True) for sums in self[:3])
        return Bins(x, m, squares, self.advantage)

    def deviations(self, prompts: Prompts) -> Floats:
        """Find the standard deviation of the advantage in each bin, as it is and in each draw.

        Returns:
            Shape (1 + draws, bins), in nat; the first row is the estimate.
        """
        counts = np.vstack([np.ones((1, prompts.count)), prompts.draws])
        n = counts @ self.m[..., self.advantage]
        first = counts @ self.x[..., self.advantage]
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = (counts @ self.squares) / n - (first / n) ** 2
        return np.sqrt(np.maximum(variance, 0))


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
    """Give the columns of a batch that are averaged."""
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


def bin_width(longest: int) -> int:
    """Choose a power of two, at least 16 tokens, that covers the longest response in 32 bins."""
    return max(16, 1 << (max(0, longest - 1) // ABSOLUTE_BINS).bit_length())


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


class Cells(NamedTuple):
    """Sums of `bin_sums` by cell; a cell is a prompt and a value of every split.

    Attributes:
        sums: Rows of `bin_sums`, of all batches.
        cells: One row per cell: `cell`, `prompt_id` and the columns of the splits.
        listed: The quantities.
        width: Tokens in a bin of absolute position.
    """

    sums: pl.DataFrame
    cells: pl.DataFrame
    listed: Sequence[Quantity]
    width: int

    @property
    def absolute_bins(self) -> int:
        """Number of bins of absolute position up to the last with a token."""
        bins = self.sums.filter(pl.col("axis") == "absolute")["bin"].to_numpy()
        return int(bins.max(initial=-1)) + 1

    def by_prompt(self, rows: npt.NDArray[np.bool_], axis: str) -> Bins:
        """Add the sums of some cells up to their prompts, in the order of their labels.

        Args:
            rows: Which cells.
            axis: `relative` or `absolute`.
        """
        cells = self.cells.filter(rows)
        codes = cells.with_columns(prompt=pl.col("prompt_id").rank("dense") - 1)
        sums = (
            self.sums.filter(pl.col("axis") == axis)
            .join(codes.select("cell", "prompt"), on="cell", maintain_order="left")
            .group_by("prompt", "bin", maintain_order=True)
            .agg(pl.exclude("axis", "cell").sum())
        )
        bins = RELATIVE_BINS if axis == "relative" else self.absolute_bins
        shape = (cells["prompt_id"].n_unique(), bins)
        place = sums["prompt"].to_numpy().astype(np.int64), sums["bin"].to_numpy()

        def spread(columns: list[str]) -> Floats:
            filled = np.zeros((*shape, len(columns)))
            filled[place] = sums.select(columns).cast(pl.Float64).to_numpy()
            return filled

        return Bins(
            spread([f"{q.column}_x" for q in self.listed]),
            spread([f"{q.column}_m" for q in self.listed]),
            spread(["advantage_squared_x"])[..., 0],
            [q.name for q in self.listed].index("advantage"),
        )
