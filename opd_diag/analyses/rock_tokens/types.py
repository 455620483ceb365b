"""Build `rock_tokens`: the loss of each token type beside its frequency, change and context."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from opd_diag.analyses import reasons
from opd_diag.analyses.rock_tokens.changes import (
    changed_p,
    label,
    rocks_by_half,
    type_changes,
)
from opd_diag.analyses.rock_tokens.context import FEWEST_MEMBERS, MOST_MEMBERS, recurring_contexts
from opd_diag.analyses.rock_tokens.gradients import type_gradients
from opd_diag.analyses.rock_tokens.lift import Places, lift_p
from opd_diag.analyses.rock_tokens.occurrences import (
    FEWEST_OCCURRENCES,
    Sums,
    columns,
    per_prompt,
    total,
    trusted,
)
from opd_diag.analyses.rock_tokens.ranking import Mask, Ranking
from opd_diag.analyses.tables import interval_columns, ratio, result_table, spread
from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.intervals import (
    CARRIED,
    ENOUGH_CLUSTERS,
    FARTHEST,
    FEWEST_CLUSTERS,
    effective_clusters,
)
from opd_diag.stats.ranks import rank_intervals
from opd_diag.tables.gradients import GradientSums

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

FUNNEL = (0.1, 0.9)


def type_table(
    ranking: Ranking,
    places: Places,
    gradients: GradientSums | None,
    vocabulary: pl.DataFrame | None,
    noise: float | None,
) -> pl.DataFrame:
    """Build one row per type that occurs, by falling R.

    Args:
        ranking: The ranked types.
        places: Where the log loss is permuted.
        gradients: Gradient sums of the checkpoint that ranks, or None.
        vocabulary: What the types spell, or None.
        noise: Noise floor of the loss, nat, or None where it is not known.
    """
    token_id = ranking.sums.token_id
    detailed = np.flatnonzero(ranking.ranks <= ranking.options.detail)
    intervals = type_intervals(ranking, detailed)
    values = {"token_id": token_id} | _totals(ranking, places) | _contexts(ranking, detailed)
    usable = detailed[trusted(ranking.sums.n[0])[detailed]]
    values |= _ends(intervals, usable, token_id.size)
    values |= _controls(ranking)
    if gradients is not None:
        values |= type_gradients(gradients, token_id)._asdict()
    changes, change_intervals, rows = _changes(ranking, detailed)
    values |= changes
    carried = _carried(
        {name: (interval, usable) for name, interval in intervals.items()}
        | {name: (interval, rows) for name, interval in change_intervals.items()},
        token_id.size,
    )
    table = result_table("rock_tokens", values, **ranking.constants).with_columns(
        _reason(ranking, gradients is not None, noise, carried)
    )
    if vocabulary is not None:
        texts = vocabulary.select("token_id", "text")
        names = table.columns
        table = table.drop("text").join(texts, on="token_id", how="left").select(names)
    order = ["rank", "R", "token_id"]
    table = table.filter(pl.col("n") > 0)
    return table.sort(order, descending=[False, True, False], nulls_last=True)


def _totals(ranking: Ranking, places: Places) -> dict[str, Any]:
    """Give what needs no bootstrap: counts, shares, lift, its null and the funnel."""
    sums, signed = ranking.sums, ranking.options.signed
    n, x, g = (total(a) for a in (sums.n[0], sums.x[sums.ranked], sums.gradient))
    nothing = np.full(n.size, np.nan)
    low, high = funnel(sums, signed=signed)
    p, adjusted = lift_p(ranking.occurrences, places, ranking.options.seed)
    mean = ratio(x, n)
    return {
        "n": n,
        "n_prompts": np.bincount(sums.n[0].tocoo().col, minlength=n.size),
        "effective_prompts": effective_clusters(sums.n[0]),
        "position_share": n / n.sum(),
        "mean_loss": np.nan_to_num(mean),
        "mean_loss_p10": low,
        "mean_loss_p90": high,
        "R": x,
        "rank": np.where(ranking.eligible, ranking.ranks, np.nan),
        "is_rock": ranking.is_rock,
        "loss_share": nothing if signed else ratio(x, x.sum()),
        "lift": nothing if signed else ratio(mean, x.sum() / n.sum()),
        "lift_p": p,
        "lift_p_adjusted": adjusted,
        "grad_share": ratio(g, g.sum()),
    }


def funnel(sums: Sums, *, signed: bool) -> tuple[Floats, Floats]:
    """Give the 10-90 % range of the mean loss of as many tokens drawn from the whole run.

    Returns:
        Lower and upper end for each type, nat. A gamma law of the right mean and variance; a
        normal one where the loss can be negative. Shape (types,).
    """
    n = np.maximum(total(sums.n[0]), 1)
    everything = n.sum()
    mean = total(sums.x[sums.ranked]).sum() / everything
    variance = max(total(sums.square).sum() / everything - mean**2, 1e-300)
    sizes, place = np.unique(n, return_inverse=True)
    if signed:
        ends = [stats.norm.ppf(q, mean, np.sqrt(variance / sizes)) for q in FUNNEL]
    elif mean <= 0:  # no loss at all
        ends = [np.zeros(sizes.size)] * 2
    else:
        shape = sizes * mean**2 / variance
        ends = [stats.gamma.ppf(q, shape, scale=mean / np.maximum(shape, 1e-300)) for q in FUNNEL]
    return ends[0][place], ends[1][place]


def type_intervals(ranking: Ranking, detailed: Integers) -> dict[str, Interval]:
    """Bootstrap R, shares, lift and rank over prompts, of the types that occur often enough.

    Args:
        ranking: The ranked types.
        detailed: Types, each of them eligible.
    """
    sums, log = ranking.sums, not ranking.options.signed
    items = detailed[trusted(sums.n[0])[detailed]]
    if not items.size:
        return {}
    ranked = sums.x[sums.ranked]
    n, x, g = (columns(a, items) for a in (sums.n[0], ranked, sums.gradient))
    each = per_prompt(ranked)[:, None]
    count = len(sums.prompt_id)
    prompts = sums.prompts(ranking.options.seed)
    # A sum over prompts is their number times the mean: drawing prompts does not change it.
    R = prompts.ratio(x, np.ones((count, 1)), log=log)
    intervals = {
        "R": R._replace(low=R.low * count, high=R.high * count, estimate=R.estimate * count),
        "grad_share": prompts.ratio(g, per_prompt(sums.gradient)[:, None], log=True),
    }
    if ranking.options.rank_by != "joint":  # the smaller of two sums is no sum
        place = np.cumsum(ranking.eligible) - 1
        eligible = ranked[:, np.flatnonzero(ranking.eligible)]
        clusters = effective_clusters(sums.n[0])[items]
        intervals["rank"] = rank_intervals(eligible, place[items], clusters)
    if log:
        mean = total(ranked).sum() / total(sums.n[0]).sum()
        intervals["loss_share"] = prompts.ratio(x, each, log=True)
        intervals["lift"] = _above_zero(prompts.ratio(x, n * mean))
    return intervals


def _above_zero(interval: Interval) -> Interval:
    """Cut intervals of what cannot be negative at 0, and withhold those that reach far above it.

    Built on the raw scale: the mean of few heavy-tailed losses is below its expectation in most
    types, and the upper end of an interval on the log scale reaches less far.
    """
    with np.errstate(invalid="ignore"):
        far = interval.high > FARTHEST * interval.estimate
    return interval._replace(
        low=np.where(far, np.nan, np.maximum(interval.low, 0)),
        high=np.where(far, np.nan, interval.high),
        reason=np.where(far, CARRIED, interval.reason),
    )


def _ends(intervals: dict[str, Interval], rows: Integers, size: int) -> dict[str, Floats]:
    """Give the ends of intervals of some types, in columns of all types."""
    return {
        name: spread(values, rows, size)
        for what, interval in intervals.items()
        for name, values in interval_columns(what, interval).items()
        if name != what
    }


def _carried(intervals: dict[str, tuple[Interval, Integers]], size: int) -> pl.Series:
    """Say of each type which intervals are withheld as a few prompts carry them; null for none."""
    names: list[list[str]] = [[] for _ in range(size)]
    for name, (interval, rows) in intervals.items():
        for row in rows[interval.reason == CARRIED]:
            names[row].append(name)
    texts = [f"{CARRIED}: no interval of {', '.join(one)}" if one else None for one in names]
    return pl.Series(texts, dtype=pl.String)


def _contexts(ranking: Ranking, detailed: Integers) -> dict[str, Floats]:
    """Give the context stage; a second run has no loss of its own for the first one's tokens."""
    if ranking.pairing == "unpaired":
        return {}
    size = ranking.sums.token_id.size
    contexts = recurring_contexts(ranking.occurrences, detailed, ranking.options)
    sums = ranking.sums
    n, R = total(sums.n[0]), total(sums.x[sums.ranked])
    members = spread([c.members for c in contexts], detailed, size)
    kept = spread([c.kept for c in contexts], detailed, size)
    return {
        "n_persistent": members,
        "recurring_share": ratio(kept, members),
        "recurring_share_null": spread([c.null_share for c in contexts], detailed, size),
        "CCR": ratio(kept, n),
        "R_ctx": R * ratio(kept, n),
    }


def _controls(ranking: Ranking) -> dict[str, Floats]:
    controls, token_id = ranking.controls, ranking.sums.token_id
    control = np.where(controls.control >= 0, token_id[controls.control], np.nan)
    return {
        "control_token_id": spread(control, controls.rock, token_id.size),
        "match_distance": spread(controls.distance, controls.rock, token_id.size),
    }


def _changes(
    ranking: Ranking, detailed: Integers
) -> tuple[dict[str, Any], dict[str, Interval], Integers]:
    """Give the change from first to last of the detailed types and of all that a half chose.

    Returns:
        Columns, the intervals behind them, and the types that these are of.
    """
    if ranking.pairing == "one checkpoint":
        return {}, {}, np.empty(0, np.int64)
    panel, token_id = ranking.panel, ranking.sums.token_id
    rock_by_half = rocks_by_half(ranking)
    wanted = np.isin(panel.token_id, token_id[detailed]) | rock_by_half.any(axis=0)
    items = np.flatnonzero(wanted)
    change = type_changes(ranking, items, rock_by_half)
    rows = np.searchsorted(token_id, panel.token_id[items])
    one_half = rock_by_half[:, items].sum(axis=0) == 1
    p, adjusted = changed_p(change, ranking.is_rock[rows], ranking.options.seed)
    named = {
        "mean_first": change.first,
        "mean_last": change.last,
        "relative_change": change.relative,
    }
    intervals = {name: _only(interval, change.usable) for name, interval in named.items()}
    numbers = {"n_measured": change.n, "change_p": p, "change_p_adjusted": adjusted}
    for what, interval in intervals.items():
        numbers |= interval_columns(what, interval)
    values: dict[str, Any] = {
        name: spread(column, rows, token_id.size) for name, column in numbers.items()
    }
    texts = {
        "measured_on": np.where(one_half, "other half", "both halves").tolist(),
        "label": label(change, adjusted),
    }
    for name, words in texts.items():
        whole: list[str | None] = [None] * token_id.size
        for row, word in zip(rows.tolist(), words, strict=True):
            whole[row] = word
        values[name] = whole
    return values, intervals, rows


def _only(interval: Interval, usable: Mask) -> Interval:
    """Withhold the ends of an interval where there are too few occurrences for one."""
    low, high = (np.where(usable, end, np.nan) for end in (interval.low, interval.high))
    return interval._replace(low=low, high=high, reason=np.where(usable, interval.reason, ""))


def _reason(
    ranking: Ranking, has_gradients: bool, noise: float | None, carried: pl.Series
) -> pl.Expr:
    """Say of every row what is missing or weak; `carried` names intervals that are withheld."""
    options = ranking.options
    n, prompts, members = (pl.col(c) for c in ("n", "effective_prompts", "n_persistent"))
    ranked = pl.col("rank").is_not_null()
    detailed = ranked & (pl.col("rank") <= options.detail)
    everywhere = pl.lit(True)
    rare = n < FEWEST_OCCURRENCES
    few = prompts.is_between(FEWEST_CLUSTERS, ENOUGH_CLUSTERS, closed="left")
    parts = {
        f"fewer than {options.min_count} occurrences: not ranked": n < options.min_count,
        f"among the {options.left_out} most frequent types: left out": ~ranked
        & (n >= options.min_count),
        f"not among the top {options.detail} by R: no intervals": ranked & ~detailed,
        "too few occurrences for a test": ~detailed & rare,
        "too few occurrences for a test or intervals": detailed & rare,
        reasons.TOO_FEW: detailed & ~rare & (prompts < FEWEST_CLUSTERS),
        reasons.FEW: detailed & few,
    }
    later = {
        "too few persistent occurrences": members < FEWEST_MEMBERS,
        f"context on a sample of {MOST_MEMBERS:,}": members > MOST_MEMBERS,
        "no type as frequent is left as control": pl.col("is_rock")
        & pl.col("control_token_id").is_null(),
    }
    if options.signed:
        later["the loss can be negative: no share of it, no lift"] = everywhere
    if noise is not None:
        later["mean loss below the noise floor"] = pl.col("mean_loss") < noise
    if options.rank_by == "joint":
        later["joint rank: no interval of it"] = detailed
    if ranking.pairing == "one checkpoint":
        later["one checkpoint: persistent under it alone, no change"] = everywhere
    if ranking.pairing == "unpaired":
        later["unpaired: no context stage, no test of change"] = everywhere
    if has_gradients:
        known = pl.col("norm2_cross").is_not_null()
        later["too few occurrences in a half for gradients"] = ~known
        later["halves do not share a direction: no contribution share"] = (
            known & pl.col("contribution_share").is_null()
        )
    else:
        later["no gradient sums of these rollouts"] = everywhere
    return reasons.notes(
        *(reasons.note(text, where) for text, where in parts.items()),
        pl.lit(carried),
        *(reasons.note(text, where) for text, where in later.items()),
    )
