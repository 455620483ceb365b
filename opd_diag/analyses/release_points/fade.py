"""Compare the first with the last fifth of the responses: how much of each quantity is left."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from opd_diag.analyses.release_points.curves import (
    EARLY,
    LATE,
    SPREAD,
    Bins,
    deviations,
    gather,
    merged,
)
from opd_diag.analyses.release_points.groups import as_table, groups, interval_columns
from opd_diag.analyses.release_points.quantities import MIN_TOKENS, RELATIVE_BINS, Quantity
from opd_diag.stats.bootstrap import Interval, percentile, ratio_of_ratios
from opd_diag.tables.columns.release_points import RELEASE_SUMMARY

PAPER = {"early": 2.08, "late": 0.61, "late_over_early": 0.61 / 2.08}


def fade_table(
    sums: pl.DataFrame,
    cells: pl.DataFrame,
    listed: Sequence[Quantity],
    rollouts: pl.DataFrame,
    *,
    seed: int,
) -> pl.DataFrame:
    """Give late over early for every quantity that is never negative, and the advantage's spread.

    Args:
        sums: Rows of `bin_sums`, of all batches.
        cells: One row per cell: `cell`, `prompt_id` and the columns of the splits.
        listed: The quantities.
        rollouts: n_tokens and the columns of the splits.
        seed: Seed of the bootstrap.

    Returns:
        Rows of `RELEASE_SUMMARY` without the checkpoint.
    """
    frames = []
    used = rollouts.filter(pl.col("n_tokens") >= MIN_TOKENS)
    sizes = {(split, group): int(chosen.sum()) for split, group, chosen in groups(used)}
    for split, group, chosen in groups(cells):
        found = gather(sums, cells.filter(chosen), listed, "relative", RELATIVE_BINS)
        rows = pl.concat([_ratios(found, listed, seed=seed), _spreads(found, listed, seed=seed)])
        n = sizes.get((split, group), 0)
        frames.append(rows.with_columns(split=pl.lit(split), group=pl.lit(group), n=pl.lit(n)))
    return as_table(pl.concat(frames).to_dict(), RELEASE_SUMMARY[1:])


def _ratios(found: Bins, listed: Sequence[Quantity], *, seed: int) -> pl.DataFrame:
    positive = [j for j, q in enumerate(listed) if q.name not in ("advantage", "teacher_top_logp")]
    early, late = merged(found, EARLY), merged(found, LATE)
    interval = ratio_of_ratios(
        late.x[:, 0, positive],
        late.m[:, 0, positive],
        early.x[:, 0, positive],
        early.m[:, 0, positive],
        seed=seed,
    )
    names = [f"{listed[j].name}_late_over_early" for j in positive]
    return _rows(names, "ratio", [listed[j].k for j in positive], interval, None)


def _spreads(found: Bins, listed: Sequence[Quantity], *, seed: int) -> pl.DataFrame:
    place = [q.name for q in listed].index("advantage")
    sides = {"early": merged(found, EARLY), "late": merged(found, LATE)}
    values = {name: deviations(side, place, seed=seed) for name, side in sides.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        values["late_over_early"] = values["late"] / values["early"]
    clusters = (sides["late"].m[..., place] > 0).sum(axis=0)
    return pl.concat(
        _rows(
            [f"{SPREAD}_{name}"],
            "ratio" if "over" in name else "nat",
            [None],
            percentile(value[1:], value[0], clusters),
            PAPER[name],
        )
        for name, value in values.items()
    )


def _rows(
    names: Sequence[str],
    unit: str,
    k: Sequence[int | None],
    interval: Interval,
    paper: float | None,
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "statistic": names,
            "k": pl.Series(k, dtype=pl.UInt32),
            "unit": [unit] * len(names),
            "n_prompts": interval.clusters,
            **interval_columns("value", interval),
            "paper": pl.Series([paper] * len(names), dtype=pl.Float64),
            "reason": interval.reason,
        }
    )
