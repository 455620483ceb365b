"""Summarise release points beside the controls that tell a collapse from noise or a smooth fade."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.release_points.groups import (
    as_table,
    cluster_codes,
    cluster_sums,
    groups,
    interval_columns,
)
from opd_diag.analyses.release_points.rule import IS_FLAT, NO_SPLIT, TOO_FEW_SEGMENTS
from opd_diag.stats.bootstrap import Interval, ratio
from opd_diag.stats.medians import cluster_median
from opd_diag.tables.columns.release_points import RELEASE_SUMMARY

Floats: TypeAlias = npt.NDArray[np.float64]

THRESHOLDS = (0, 6)
LINE_SEGMENTS = 100  # below, a step beats even a true line too often to mean anything

PAPER_K = 4
PAPER = {
    "accepted_at_6": 0.79,
    "gain_mean": 24.0,
    "release_frac_median": 0.13,
    "pearson_early": -0.09,
    "pearson_late": 0.93,
}


class Statistic(NamedTuple):
    """A number of each rollout that is averaged, or of which the median is taken.

    Attributes:
        name: Its name in the table.
        unit: Its unit.
        values: Shape (rollouts,), NaN where the rollout has none.
        k: K of the margin, or None.
        median: Whether the median is wanted.
    """

    name: str
    unit: str
    values: Floats
    k: int | None = None
    median: bool = False


def rollout_statistics(
    points: pl.DataFrame, shuffled: Floats, correlation: pl.DataFrame, k: int
) -> list[Statistic]:
    """List what is summarised.

    Args:
        points: Release points of all rollouts.
        shuffled: Downward gains of each rollout after shuffling its segments, NaN where there is
            none. Shape (repeats, rollouts); a column of infinity: not shuffled.
        correlation: Correlations of all rollouts.
        k: K of the margin.
    """
    gain, gain_up = _numbers(points["gain"]), _numbers(points["gain_up"])
    reason = points["reason"].fill_null("").to_numpy()
    able = reason != TOO_FEW_SEGMENTS
    tried = able & ~np.isinf(shuffled).any(axis=0)
    listed = []
    rates: dict[str, Floats] = {}
    for threshold in THRESHOLDS:
        down, up = _if(able, gain > threshold), _if(able, gain_up > threshold)
        chance = _if(tried, (shuffled > threshold).mean(axis=0))
        rates |= {
            f"accepted_at_{threshold}": down,
            f"accepted_up_at_{threshold}": up,
            f"accepted_shuffled_at_{threshold}": chance,
            f"accepted_minus_up_at_{threshold}": down - up,
            f"accepted_minus_shuffled_at_{threshold}": down - chance,
        }
    listed += [Statistic(name, "share", values, k) for name, values in rates.items()]
    accepted = points["accepted"].to_numpy()
    beats = _numbers(points["step_beats_line"])
    long_enough = points["n_segments"].to_numpy() >= LINE_SEGMENTS
    listed += [
        Statistic("gain_mean", "nat", gain, k),
        Statistic("release_frac_median", "share", _numbers(points["release_frac"]), k, median=True),
        Statistic("step_beats_line", "share", _if(accepted & long_enough, beats), k),
        Statistic("autocorrelation", "correlation", _numbers(points["autocorrelation"]), k),
    ]
    for cause in (TOO_FEW_SEGMENTS, IS_FLAT, NO_SPLIT):
        listed.append(Statistic(cause.replace(" ", "_"), "share", (reason == cause) * 1.0))
    for method in ("pearson", "spearman"):
        early, late = (_numbers(correlation[f"{method}_{side}"]) for side in ("early", "late"))
        listed += [
            Statistic(f"{method}_early", "correlation", early),
            Statistic(f"{method}_late", "correlation", late),
            Statistic(f"{method}_late_minus_early", "correlation", late - early),
        ]
    return listed


def other_k_statistics(others: Mapping[int, pl.DataFrame]) -> list[Statistic]:
    """List the headline figures for the other K, from the rule applied to each."""
    listed = []
    for k, judged in others.items():
        able = judged["reason"].fill_null("").to_numpy() != TOO_FEW_SEGMENTS
        gain = _numbers(judged["gain"])
        fraction = _numbers(judged["release_frac"])
        listed += [
            *(
                Statistic(f"accepted_at_{threshold}", "share", _if(able, gain > threshold), k)
                for threshold in THRESHOLDS
            ),
            Statistic("gain_mean", "nat", gain, k),
            Statistic("release_frac_median", "share", fraction, k, median=True),
        ]
    return listed


def summary_table(
    listed: Sequence[Statistic], rollouts: pl.DataFrame, *, seed: int
) -> pl.DataFrame:
    """Average every statistic over the rollouts of every group.

    Args:
        listed: The statistics.
        rollouts: prompt_id and the columns of the splits.
        seed: Seed of the bootstrap.

    Returns:
        `RELEASE_SUMMARY` without the checkpoint.
    """
    values = np.column_stack([s.values for s in listed])
    medians = [j for j, s in enumerate(listed) if s.median]
    frames = []
    for split, group, chosen in groups(rollouts):
        part = values[chosen]
        codes = cluster_codes(rollouts["prompt_id"].filter(pl.Series(chosen)))
        means = ratio(*cluster_sums(codes, part), seed=seed)
        found = (means.estimate.copy(), means.low.copy(), means.high.copy())
        clusters, reason = means.clusters.copy(), means.reason.copy()
        for j in medians:
            there = np.isfinite(part[:, j])
            middle = cluster_median(part[there, j], codes[there], seed=seed)
            for field, value in zip((*found, clusters, reason), middle, strict=True):
                field[j] = value
        rows = _rows(listed, part, Interval(*found, clusters, reason))
        frames.append(rows.with_columns(split=pl.lit(split), group=pl.lit(group)))
    return as_table(pl.concat(frames).to_dict(), RELEASE_SUMMARY[1:])


def _rows(listed: Sequence[Statistic], values: Floats, found: Interval) -> pl.DataFrame:
    low, high = found.low, found.high
    for j, s in enumerate(listed):
        if s.unit == "share" and "_minus_" not in s.name:
            low[j], high[j] = np.clip([low[j], high[j]], 0, 1)
    k = [s.k for s in listed]
    return pl.DataFrame(
        {
            "statistic": [s.name for s in listed],
            "k": pl.Series(k, dtype=pl.UInt32),
            "unit": [s.unit for s in listed],
            "n": np.isfinite(values).sum(axis=0),
            "n_prompts": found.clusters,
            **interval_columns("value", Interval(found.estimate, low, high, *found[3:])),
            "paper": pl.Series(
                [PAPER.get(s.name) if s.k in (None, PAPER_K) else None for s in listed],
                dtype=pl.Float64,
            ),
            "reason": found.reason,
        }
    )


def _numbers(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()


def _if(there: npt.NDArray[np.bool_], values: npt.NDArray[np.generic]) -> Floats:
    return np.where(there, values, np.nan)
