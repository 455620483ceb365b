"""Average quantities over relative and absolute position, with intervals over prompts."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.release_points.groups import as_table, groups, interval_columns
from opd_diag.analyses.release_points.quantities import RELATIVE_BINS, Quantity
from opd_diag.stats.bootstrap import Interval, cluster_counts, percentile, ratio
from opd_diag.tables.columns.release_points import RELEASE_CURVES

Floats: TypeAlias = npt.NDArray[np.float64]

EARLY = slice(0, 4)  # bins: the first and last 20 % of the response
LATE = slice(16, 20)
SPREAD = "advantage_std"
SPREAD_RATIO = "advantage_std_over_early"


class Bins(NamedTuple):
    """Sums of one group and axis, by prompt and bin.

    Attributes:
        x: Sums, shape (prompts, bins, quantities).
        m: Counts, same shape.
        squares: Sum of the squared advantage, shape (prompts, bins).
    """

    x: Floats
    m: Floats
    squares: Floats


def gather(
    sums: pl.DataFrame, cells: pl.DataFrame, listed: Sequence[Quantity], axis: str, bins: int
) -> Bins:
    """Add the sums of the cells of a group up to its prompts.

    Args:
        sums: Rows of `bin_sums`.
        cells: The group's cells and their prompts (`cell`, `prompt_id`).
        listed: The quantities.
        axis: `relative` or `absolute`.
        bins: Number of bins.
    """
    codes = cells.with_columns(prompt=pl.col("prompt_id").rank("dense") - 1)
    added = (
        sums.filter(pl.col("axis") == axis)
        .join(codes.select("cell", "prompt"), on="cell", maintain_order="left")
        .group_by("prompt", "bin", maintain_order=True)
        .agg(pl.exclude("axis", "cell").sum())
    )
    shape = (cells["prompt_id"].n_unique(), bins)
    place = added["prompt"].to_numpy().astype(np.int64), added["bin"].to_numpy()

    def spread(columns: list[str]) -> Floats:
        filled = np.zeros((*shape, len(columns)))
        filled[place] = added.select(columns).cast(pl.Float64).to_numpy()
        return filled

    return Bins(
        spread([f"{q.column}_x" for q in listed]),
        spread([f"{q.column}_m" for q in listed]),
        spread(["advantage_squared_x"])[..., 0],
    )


def curve_table(
    sums: pl.DataFrame,
    cells: pl.DataFrame,
    listed: Sequence[Quantity],
    *,
    width: int,
    seed: int,
) -> pl.DataFrame:
    """Make the curves of every group.

    Args:
        sums: Rows of `bin_sums`, of all batches.
        cells: One row per cell: `cell`, `prompt_id` and the columns of the splits.
        listed: The quantities.
        width: Tokens in a bin of absolute position.
        seed: Seed of the bootstrap.

    Returns:
        `RELEASE_CURVES` without the checkpoint.
    """
    bins = sums.filter(pl.col("axis") == "absolute")["bin"].to_numpy()
    longest = int(bins.max(initial=-1)) + 1
    frames = []
    for split, group, chosen in groups(cells):
        for axis, number, size in (
            ("relative", RELATIVE_BINS, 1 / RELATIVE_BINS),
            ("absolute", longest, float(width)),
        ):
            found = gather(sums, cells.filter(chosen), listed, axis, number)
            curves = _curves(found, listed, relative=axis == "relative", seed=seed)
            start = pl.col("bin") * size
            named = {"split": split, "group": group, "axis": axis}
            frames.append(
                curves.with_columns(
                    start=start, end=start + size, **{k: pl.lit(v) for k, v in named.items()}
                )
            )
    table = pl.concat(frames).filter(pl.col("n") > 0)
    return as_table(table.to_dict(as_series=True), RELEASE_CURVES[1:])


def _curves(found: Bins, listed: Sequence[Quantity], *, relative: bool, seed: int) -> pl.DataFrame:
    prompts, bins, width = found.x.shape
    flat = (prompts, bins * width)
    means = ratio(found.x.reshape(flat), found.m.reshape(flat), seed=seed)
    counts = found.m.sum(axis=0)
    frames = [
        _rows(_column(means, (bins, width), j), counts[:, j], q) for j, q in enumerate(listed)
    ]
    place = [q.name for q in listed].index("advantage")
    for name, unit, interval in _spread_curves(found, place, relative=relative, seed=seed):
        quantity = Quantity("", name, None, unit)
        frames.append(_rows(interval, counts[:, place], quantity))
    return pl.concat(frames)


def _column(found: Interval, shape: tuple[int, int], j: int) -> Interval:
    estimate, low, high, clusters, reason = found
    return Interval(
        estimate.reshape(shape)[:, j],
        low.reshape(shape)[:, j],
        high.reshape(shape)[:, j],
        clusters.reshape(shape)[:, j],
        reason.reshape(shape)[:, j],
    )


def merged(found: Bins, part: slice) -> Bins:
    """Add some bins up to one."""
    x, m, squares = (field[:, part].sum(axis=1, keepdims=True) for field in found)
    return Bins(x, m, squares)


def deviations(found: Bins, place: int, *, seed: int) -> Floats:
    """Find the standard deviation of the advantage in each bin, as it is and in each draw.

    Args:
        found: Sums of a group.
        place: Place of the advantage among the quantities.
        seed: Seed of the bootstrap.

    Returns:
        Shape (1 + draws, bins), in nat; the first row is the estimate.
    """
    prompts = len(found.x)
    counts = np.vstack([np.ones((1, prompts)), cluster_counts(prompts, seed=seed)])
    n, first = counts @ found.m[..., place], counts @ found.x[..., place]
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (counts @ found.squares) / n - (first / n) ** 2
    return np.sqrt(np.maximum(variance, 0))


def _spread_curves(
    found: Bins, place: int, *, relative: bool, seed: int
) -> list[tuple[str, str, Interval]]:
    clusters = (found.m[..., place] > 0).sum(axis=0)
    value = deviations(found, place, seed=seed)
    answers = [(SPREAD, "nat", percentile(value[1:], value[0], clusters))]
    if relative:
        with np.errstate(divide="ignore", invalid="ignore"):
            share = value / deviations(merged(found, EARLY), place, seed=seed)
        answers.append((SPREAD_RATIO, "ratio", percentile(share[1:], share[0], clusters)))
    return answers


def _rows(interval: Interval, counts: Floats, quantity: Quantity) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "bin": np.arange(len(counts)),
            "quantity": [quantity.name] * len(counts),
            "k": pl.Series([quantity.k] * len(counts), dtype=pl.UInt32),
            "unit": [quantity.unit] * len(counts),
            "n": counts,
            "n_prompts": interval.clusters,
            **interval_columns("value", interval),
            "reason": interval.reason,
        }
    )
