"""The table `release_curves`: quantities over relative and absolute position."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from opd_diag.analyses.prompts import Prompts, select
from opd_diag.analyses.release_points.groups import groups
from opd_diag.analyses.release_points.positions import (
    EARLY,
    RELATIVE_BINS,
    Bins,
    Cells,
    Floats,
    Quantity,
)
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.stats.bootstrap import Interval, percentile

SPREAD = "advantage_std"
SPREAD_RATIO = "advantage_std_over_early"


def curves_table(checkpoint: str, positions: Cells, *, seed: int) -> pl.DataFrame:
    """Make the curves of every group.

    Args:
        checkpoint: Name of the checkpoint.
        positions: Sums over bins of position.
        seed: Seed of the bootstrap.
    """
    frames = []
    for group in groups(positions.cells):
        prompts = Prompts(positions.cells["prompt_id"].filter(group.rows), seed=seed)
        for axis, size in (("relative", 1 / RELATIVE_BINS), ("absolute", float(positions.width))):
            bins = positions.by_prompt(group.rows, axis)
            start = pl.col("bin") * size
            frames += [
                pl.DataFrame(rows).with_columns(
                    start=start,
                    end=start + size,
                    split=pl.lit(group.split),
                    group=pl.lit(group.name),
                    axis=pl.lit(axis),
                )
                for rows in _curves(bins, positions, prompts, relative=axis == "relative")
            ]
    table = pl.concat(frames).filter(pl.col("n") > 0)
    return result_table("release_curves", table, checkpoint=checkpoint)


def _curves(
    bins: Bins, positions: Cells, prompts: Prompts, *, relative: bool
) -> Iterator[dict[str, Any]]:
    count, width = bins.x.shape[1:]
    flat = (prompts.count, count * width)
    means = prompts.ratio(bins.x.reshape(flat), bins.m.reshape(flat))
    n = bins.m.sum(axis=0)
    for j, quantity in enumerate(positions.listed):
        yield _rows(select(means, slice(j, None, width)), n[:, j], quantity)
    for quantity, interval in _spreads(bins, prompts, relative=relative):
        yield _rows(interval, n[:, bins.advantage], quantity)


def _spreads(
    bins: Bins, prompts: Prompts, *, relative: bool
) -> Iterator[tuple[Quantity, Interval]]:
    clusters = (bins.m[..., bins.advantage] > 0).sum(axis=0)
    value = bins.deviations(prompts)
    yield Quantity("", SPREAD, None, "nat"), percentile(value[1:], value[0], clusters)
    if relative:
        with np.errstate(divide="ignore", invalid="ignore"):
            share = value / bins.part(EARLY).deviations(prompts)
        yield Quantity("", SPREAD_RATIO, None, "ratio"), percentile(share[1:], share[0], clusters)


def _rows(interval: Interval, n: Floats, quantity: Quantity) -> dict[str, Any]:
    return {
        "bin": np.arange(len(n)),
        "quantity": [quantity.name] * len(n),
        "k": pl.Series([quantity.k] * len(n), dtype=pl.UInt32),
        "unit": [quantity.unit] * len(n),
        "n": n,
        "n_prompts": interval.clusters,
        **interval_columns("value", interval),
        "reason": interval.reason,
    }
