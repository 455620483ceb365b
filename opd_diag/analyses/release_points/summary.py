"""The table `release_summary`: release points beside the controls that tell a drop from noise."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.release_points.budgets import WindowSums, own_minus_shuffled
from opd_diag.analyses.release_points.groups import groups
from opd_diag.analyses.release_points.points import IS_FLAT, NO_SPLIT, TOO_FEW_SEGMENTS
from opd_diag.analyses.release_points.positions import EARLY, LATE, MIN_TOKENS, Bins, Cells
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.stats.bootstrap import Interval, percentile
from opd_diag.tables.columns.release_points import LINE_SEGMENTS, THRESHOLDS

Floats: TypeAlias = npt.NDArray[np.float64]

PAPER_K = 4
PAPER = {
    "accepted_at_6": 0.79,
    "gain_mean": 24.0,
    "release_frac_median": 0.13,
    "pearson_early": -0.09,
    "pearson_late": 0.93,
    "advantage_std_early": 2.08,
    "advantage_std_late": 0.61,
    "advantage_std_late_over_early": 0.61 / 2.08,
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


def summary_table(
    checkpoint: str,
    statistics: Sequence[Statistic],
    points: pl.DataFrame,
    positions: Cells,
    budgets: WindowSums,
    *,
    seed: int,
) -> pl.DataFrame:
    """Average over the rollouts of every group.

    Args:
        checkpoint: Name of the checkpoint.
        statistics: Numbers of each rollout.
        points: prompt_id, n_tokens and the columns of the splits of each rollout.
        positions: Sums over bins of position.
        budgets: Sums over windows.
        seed: Seed of the bootstrap.
    """
    frames = [
        *_averages(statistics, points, seed=seed),
        *_late_over_early(positions, points, seed=seed),
        _contrasts(budgets),
    ]
    return result_table("release_summary", pl.concat(frames), checkpoint=checkpoint)


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
    listed = [Statistic(name, "share", values, k) for name, values in rates.items()]
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


def _averages(
    statistics: Sequence[Statistic], points: pl.DataFrame, *, seed: int
) -> Iterator[pl.DataFrame]:
    values = np.column_stack([s.values for s in statistics])
    medians = [j for j, s in enumerate(statistics) if s.median]
    shares = np.array([s.unit == "share" and "_minus_" not in s.name for s in statistics])
    for group in groups(points):
        part = values[group.rows]
        prompts = Prompts(points["prompt_id"].filter(group.rows), seed=seed)
        means = prompts.ratio(*prompts.sums_and_counts(part))
        interval = means._replace(**{f: v.copy() for f, v in means._asdict().items()})
        for j in medians:
            for field, value in zip(interval, prompts.median(part[:, j]), strict=True):
                field[j] = value
        interval.low[shares] = interval.low[shares].clip(0, 1)
        interval.high[shares] = interval.high[shares].clip(0, 1)
        yield _rows(
            [(s.name, s.unit, s.k) for s in statistics],
            interval,
            n=np.isfinite(part).sum(axis=0),
            split=group.split,
            group=group.name,
        )


def _late_over_early(
    positions: Cells, points: pl.DataFrame, *, seed: int
) -> Iterator[pl.DataFrame]:
    """Give late over early for what is never negative, and for the spread of the advantage."""
    listed = positions.listed
    never_negative = [
        j for j, q in enumerate(listed) if q.name not in ("advantage", "teacher_top_logp")
    ]
    long_enough = points.filter(pl.col("n_tokens") >= MIN_TOKENS)
    sizes = {(g.split, g.name): int(g.rows.sum()) for g in groups(long_enough)}
    for group in groups(positions.cells):
        prompts = Prompts(positions.cells["prompt_id"].filter(group.rows), seed=seed)
        bins = positions.by_prompt(group.rows, "relative")
        early, late = bins.part(EARLY), bins.part(LATE)
        sums = [side[:, 0, never_negative] for half in (late, early) for side in (half.x, half.m)]
        named: dict[str, Any] = {
            "n": sizes.get((group.split, group.name), 0),
            "split": group.split,
            "group": group.name,
        }
        names = [
            (f"{listed[j].name}_late_over_early", "ratio", listed[j].k) for j in never_negative
        ]
        yield _rows(names, prompts.quotient(*sums), **named)
        for name, interval in _spreads(early, late, prompts).items():
            unit = "ratio" if "over" in name else "nat"
            yield _rows([(f"advantage_std_{name}", unit, None)], interval, **named)


def _spreads(early: Bins, late: Bins, prompts: Prompts) -> dict[str, Interval]:
    values = {"early": early.deviations(prompts), "late": late.deviations(prompts)}
    with np.errstate(divide="ignore", invalid="ignore"):
        values["late_over_early"] = values["late"] / values["early"]
    clusters = (late.m[..., late.advantage] > 0).sum(axis=0)
    return {name: percentile(value[1:], value[0], clusters) for name, value in values.items()}


def _contrasts(budgets: WindowSums) -> pl.DataFrame:
    names = [
        (f"{q.name}_release_minus_shuffled", f"{q.unit} per token kept", q.k)
        for q in budgets.quantities
    ]
    n = len(budgets.prompts.code)
    return _rows(names, own_minus_shuffled(budgets), n=n, split="all", group="all")


def _rows(
    named: Sequence[tuple[str, str, int | None]],
    interval: Interval,
    *,
    n: npt.NDArray[np.int64] | int,
    split: str,
    group: str,
) -> pl.DataFrame:
    """Make rows of the table from names, units and K."""
    paper = [PAPER.get(name) if k in (None, PAPER_K) else None for name, _, k in named]
    return pl.DataFrame(
        {
            "split": [split] * len(named),
            "group": [group] * len(named),
            "statistic": [name for name, _, _ in named],
            "k": pl.Series([k for _, _, k in named], dtype=pl.UInt32),
            "unit": [unit for _, unit, _ in named],
            "n": np.broadcast_to(n, len(named)).astype(np.int64),
            "n_prompts": interval.clusters,
            **interval_columns("value", interval),
            "paper": pl.Series(paper, dtype=pl.Float64),
            "reason": interval.reason.astype(np.str_),
        }
    )


def _numbers(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()


def _if(there: npt.NDArray[np.bool_], values: npt.NDArray[np.generic]) -> Floats:
    return np.where(there, values, np.nan)
