"""The table `release_summary`: release points beside the controls that tell a drop from noise."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.prompts import Prompts, join
from opd_diag.analyses.release_points.budgets import WindowSums, own_minus_shuffled
from opd_diag.analyses.release_points.groups import SmallGroups, groups, no_interval
from opd_diag.analyses.release_points.options import Options
from opd_diag.analyses.release_points.points import IS_FLAT, NO_SPLIT, TOO_FEW_SEGMENTS
from opd_diag.analyses.release_points.positions import EARLY, LATE, Bins, Positions
from opd_diag.analyses.tables import interval_columns, ratio, result_table
from opd_diag.stats.bootstrap import Interval, effective_clusters, percentile
from opd_diag.stats.intervals import CONSTANT, FEWEST_CLUSTERS
from opd_diag.stats.p_values import sign_flip_p
from opd_diag.tables.columns.release_points import GAINS, LINE_SEGMENTS, MIN_TOKENS

Floats: TypeAlias = npt.NDArray[np.float64]

SIGNED = ("advantage", "teacher_top_logp")
SPREADS: list[tuple[str, str, int | None]] = [
    ("advantage_std_early", "nat", None),
    ("advantage_std_late", "nat", None),
    ("advantage_std_late_over_early", "ratio", None),
]

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
        kind: `mean`; `rate`, a share of rollouts; `difference` of two rates; `median`.
        threshold: What is exceeded, where it counts that.
        tested: Whether it is tested against 0 by flipping the signs of prompts.
    """

    name: str
    unit: str
    values: Floats
    k: int | None = None
    kind: str = "mean"
    threshold: float | None = None
    tested: bool = False


def summary_table(
    checkpoint: str,
    statistics: Sequence[Statistic],
    points: pl.DataFrame,
    positions: Positions,
    budgets: WindowSums,
) -> pl.DataFrame:
    """Average over all rollouts and over those of every group.

    Args:
        checkpoint: Name of the checkpoint.
        statistics: Numbers of each rollout; those of another K are averaged over all only.
        points: n_tokens and the columns of the splits of each rollout.
        positions: Sums over bins of position.
        budgets: Sums over windows.
    """
    frames = [
        *_averages(statistics, points, budgets.prompts),
        *_late_over_early(positions, points),
        _contrasts(budgets),
    ]
    return result_table("release_summary", pl.concat(frames), checkpoint=checkpoint)


def rollout_statistics(
    points: pl.DataFrame,
    shuffled: Floats,
    correlation: pl.DataFrame,
    budgets: WindowSums,
    options: Options,
) -> list[Statistic]:
    """List what is summarised.

    Args:
        points: Release points of all rollouts.
        shuffled: What the rule compares for each rollout after shuffling its segments, NaN where
            there is no shift. Shape (repeats, rollouts); a column of infinity: not shuffled.
        correlation: Correlations of all rollouts.
        budgets: Shares before own release points and those of others.
        options: The choices.
    """
    k, threshold = options.k, options.rule.threshold
    gain, gain_up = numbers(points["gain"]), numbers(points["gain_up"])
    reason = points["reason"].fill_null("").to_numpy()
    able = reason != TOO_FEW_SEGMENTS
    tried = able & ~np.isinf(shuffled).any(axis=0)
    down, up = (where(able, points[name].to_numpy()) for name in ("accepted", "accepted_up"))
    chance = where(tried, (shuffled > threshold).mean(axis=0))
    listed = [
        Statistic("accepted", "share", down, k, "rate", threshold),
        Statistic("accepted_up", "share", up, k, "rate", threshold),
        Statistic("accepted_shuffled", "share", chance, k, "rate", threshold),
        Statistic("accepted_minus_up", "share", down - up, k, "difference", threshold),
        Statistic("accepted_minus_shuffled", "share", down - chance, k, "difference", threshold),
        *_rates_of_gains(able, gain, k),
        Statistic("gain_mean", "nat", gain, k),
        Statistic("gain_minus_up", "nat", _or_0(gain, able) - _or_0(gain_up, able), k),
        Statistic("cusum_mean", "-", numbers(points["cusum"]), k),
        Statistic("release_frac_median", "share", numbers(points["release_frac"]), k, "median"),
        Statistic("autocorrelation", "correlation", numbers(points["autocorrelation"]), k),
    ]
    early, late = (numbers(points[f"margin_{end}"]) for end in ("early", "late"))
    listed += _against("margin_early", early, "margin_late", late, "log nat", k)
    beats = numbers(points["step_beats_line"])
    long_enough = points["accepted"].to_numpy() & (points["n_segments"].to_numpy() >= LINE_SEGMENTS)
    listed.append(Statistic("step_beats_line", "share", where(long_enough, beats), k, "rate"))
    line, turned = (numbers(points[f"gain_over_line{end}"]) for end in ("", "_reversed"))
    over, over_reversed, excess = _against(
        "gain_over_line", line, "gain_over_line_reversed", turned, "nat", k
    )
    listed += [over._replace(tested=True), over_reversed, excess]
    listed.append(Statistic("recovery", "log nat", numbers(points["recovery"]), k, tested=True))
    for j, quantity in enumerate(budgets.quantities):
        own, dealt = f"{quantity.name}_kept", f"{quantity.name}_kept_dealt"
        listed += _against(own, budgets.own[:, j], dealt, budgets.dealt[:, j], "share", quantity.k)
    for cause in (TOO_FEW_SEGMENTS, IS_FLAT, NO_SPLIT):
        share = (reason == cause) * 1.0
        listed.append(Statistic(cause.replace(" ", "_"), "share", share, kind="rate"))
    for method in ("pearson", "spearman"):
        early, late = (numbers(correlation[f"{method}_{side}"]) for side in ("early", "late"))
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
        gain = numbers(judged["gain"])
        fraction = numbers(judged["release_frac"])
        listed += [
            *_rates_of_gains(able, gain, k),
            Statistic("gain_mean", "nat", gain, k),
            Statistic("release_frac_median", "share", fraction, k, "median"),
        ]
    return listed


def _rates_of_gains(able: npt.NDArray[np.bool_], gain: Floats, k: int) -> list[Statistic]:
    """Count the rollouts above fixed gains, which stand beside any rule."""
    return [
        Statistic(
            f"accepted_at_{least}", "share", where(able, gain > least), k, "rate", float(least)
        )
        for least in GAINS
    ]


def _against(
    name: str, value: Floats, other: str, control: Floats, unit: str, k: int | None
) -> list[Statistic]:
    """List a value of each rollout, its control, and their difference, which is tested."""
    both = np.isfinite(value) & np.isfinite(control)
    value, control = where(both, value), where(both, control)
    difference = f"{name}_minus_{other.rpartition('_')[2]}"
    return [
        Statistic(name, unit, value, k),
        Statistic(other, unit, control, k),
        Statistic(difference, unit, value - control, k, tested=True),
    ]


def _averages(
    statistics: Sequence[Statistic], points: pl.DataFrame, prompts: Prompts
) -> Iterator[pl.DataFrame]:
    k = next(s.k for s in statistics if s.name == "accepted")
    headline = [s for s in statistics if s.k in (None, k)]
    for group in groups(points, prompts.code):
        if isinstance(group, SmallGroups):
            yield _small_averages(headline, group)
            continue
        listed = statistics if group.split == "all" else headline
        values = np.column_stack([s.values[group.rows] for s in listed])
        part = prompts if group.split == "all" else prompts.part(group.rows)
        sums, counts = part.sums_and_counts(values)
        interval = part.ratio(sums, counts)
        interval = Interval(
            np.array(interval.estimate),
            np.array(interval.low),
            np.array(interval.high),
            np.array(interval.clusters),
            interval.reason.astype(object),
        )
        rates = np.flatnonzero([s.kind == "rate" for s in listed])
        _put(interval, rates, part.rate(sums[:, rates], counts[:, rates]))
        for j, statistic in enumerate(listed):
            if statistic.kind == "median":
                _put(interval, j, part.median(values[:, j]))
            elif statistic.kind == "difference" and interval.reason[j] == CONSTANT:
                _put(interval, j, _no_difference(part, values[:, j]))
        p = np.full(len(listed), np.nan)
        tested = np.flatnonzero([s.tested for s in listed])
        if group.split == "all" and len(points):
            enough = effective_clusters(counts[:, tested]) + 1e-9 >= FEWEST_CLUSTERS
            p[tested[enough]] = sign_flip_p(sums[:, tested[enough]], seed=part.seed)
        yield _rows(
            [(s.name, s.unit, s.k) for s in listed],
            interval,
            n=np.isfinite(values).sum(axis=0),
            split=group.split,
            group=group.name,
            threshold=[s.threshold for s in listed],
            p=p,
        )


def _small_averages(listed: Sequence[Statistic], small: SmallGroups) -> pl.DataFrame:
    """Average over groups without intervals, all groups at once."""
    values = np.column_stack([s.values for s in listed])
    there = np.isfinite(values)
    n = small.sums(there.astype(np.int64))
    estimate = ratio(small.sums(np.where(there, values, 0)), n)
    for j in (j for j, s in enumerate(listed) if s.kind == "median"):
        own = [values[rows, j] for rows in small.members()]
        known = [column[np.isfinite(column)] for column in own]
        estimate[:, j] = [np.median(column) if column.size else np.nan for column in known]
    return _rows(
        [(s.name, s.unit, s.k) for s in listed] * len(small.names),
        no_interval(estimate, small.prompts(there.astype(np.int64))),
        n=n.ravel(),
        split=small.split,
        group=np.repeat(small.names, len(listed)),
        threshold=[s.threshold for s in listed] * len(small.names),
    )


def _put(interval: Interval, which: int | npt.NDArray[np.intp], values: Interval) -> None:
    """Put other estimates in the place of some."""
    for field, value in zip(interval, values, strict=True):
        field[which] = value


def _no_difference(prompts: Prompts, values: Floats) -> Interval:
    """Give the difference of two rates that no rollout shows the interval of a rate of 0."""
    differs = np.where(np.isnan(values), np.nan, values != 0)
    rate = prompts.rate(*prompts.sums_and_counts(differs))
    return (
        rate._replace(low=-rate.high)
        if rate.estimate == 0
        else prompts.ratio(*prompts.sums_and_counts(values))
    )


def _late_over_early(positions: Positions, points: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Give late over early for what is never negative, and for the spread of the advantage."""
    long_enough = points["n_tokens"].to_numpy() >= MIN_TOKENS
    sizes = {}
    for group in groups(points, positions.prompts.code):
        members = group.members() if isinstance(group, SmallGroups) else [group.rows]
        names = group.names if isinstance(group, SmallGroups) else [group.name]
        for name, rows in zip(names, members, strict=True):
            sizes[group.split, str(name)] = int(long_enough[rows].sum())
    for group, bins, prompts in positions.groups():
        places, named = _never_negative(bins)
        early, late = bins.part(EARLY), bins.part(LATE)
        sums = [side[:, 0, places] for half in (late, early) for side in (half.x, half.m)]
        interval = join([prompts.quotient(*sums), *_spreads(early, late, prompts)])
        n = sizes[group.split, group.name]
        yield _rows([*named, *SPREADS], interval, n=n, split=group.split, group=group.name)
    for small, bins in positions.small_groups():
        places, named = _never_negative(bins)
        early, late = bins.part(EARLY), bins.part(LATE)
        ends = [ratio(side.x[:, 0, places], side.m[:, 0, places]) for side in (late, early)]
        spread = [side.row_deviations() for side in (early, late)]
        values = np.column_stack([ratio(*ends), *spread, ratio(spread[1], spread[0])])
        m = positions.by_cell.part(LATE).m[:, 0]
        prompts_of = small.prompts(m)[:, [*places, *[bins.advantage] * len(SPREADS)]]
        listed = [*named, *SPREADS]
        yield _rows(
            listed * len(small.names),
            no_interval(values, prompts_of),
            n=np.repeat([sizes[small.split, str(name)] for name in small.names], len(listed)),
            split=small.split,
            group=np.repeat(small.names, len(listed)),
        )


def _never_negative(bins: Bins) -> tuple[list[int], list[tuple[str, str, int | None]]]:
    """Name the quantities of which late over early means something, and their places."""
    kept = [(j, q) for j, q in enumerate(bins.listed) if q.name not in SIGNED]
    return [j for j, _ in kept], [(f"{q.name}_late_over_early", "ratio", q.k) for _, q in kept]


def _spreads(early: Bins, late: Bins, prompts: Prompts) -> list[Interval]:
    m = late.m[..., late.advantage]
    clusters, effective = (m > 0).sum(axis=0), effective_clusters(m)
    draws = bool((effective + 1e-9 >= FEWEST_CLUSTERS).any())
    values = {
        name: side.deviations(prompts, draws=draws)
        for name, side in (("early", early), ("late", late))
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        values["late_over_early"] = values["late"] / values["early"]
    return [
        percentile(value[1:], value[0], clusters, effective=effective) for value in values.values()
    ]


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
    group: str | npt.NDArray[np.str_],
    threshold: Sequence[float | None] | None = None,
    p: Floats | None = None,
) -> pl.DataFrame:
    """Make rows of the table from names, units and K."""
    paper = [PAPER.get(name) if k in (None, PAPER_K) else None for name, _, k in named]
    nothing = [None] * len(named)
    return pl.DataFrame(
        {
            "split": [split] * len(named),
            "group": np.broadcast_to(group, len(named)).tolist(),
            "statistic": [name for name, _, _ in named],
            "k": pl.Series([k for _, _, k in named], dtype=pl.UInt32),
            "threshold": pl.Series(threshold or nothing, dtype=pl.Float64),
            "unit": [unit for _, unit, _ in named],
            "n": np.broadcast_to(n, len(named)).astype(np.int64),
            "n_prompts": interval.clusters,
            **interval_columns("value", interval),
            "p": pl.Series(nothing if p is None else p, dtype=pl.Float64),
            "paper": pl.Series(paper, dtype=pl.Float64),
            "reason": interval.reason.astype(np.str_),
        }
    )


def numbers(column: pl.Series) -> Floats:
    """Give a column as float64, NaN where it is null."""
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()


def where(there: npt.NDArray[np.bool_], values: npt.NDArray[np.generic]) -> Floats:
    """Give the values where they are, else NaN."""
    return np.where(there, values, np.nan)


def _or_0(gain: Floats, able: npt.NDArray[np.bool_]) -> Floats:
    """Take the gain above 0, and 0 where there is no shift, of the rollouts that were scanned."""
    return where(able, np.maximum(np.nan_to_num(gain), 0))
