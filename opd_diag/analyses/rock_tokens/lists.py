"""Measure lists of types: what they hold on other prompts, and whether two halves agree on them.

`rock_cutoff` has lists of many K, so how many types to list, `rock_selectors` a list by each score.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from opd_diag.analyses import reasons
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.rock_tokens.occurrences import Sums, per_prompt, total
from opd_diag.analyses.rock_tokens.options import Options
from opd_diag.analyses.rock_tokens.ranking import (
    SELECTORS,
    Mask,
    Ranking,
    Totals,
    half_totals,
    totals,
)
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.intervals import FEWEST_CLUSTERS
from opd_diag.stats.ranks import Agreement, descending_ranks, top_agreement
from opd_diag.tables.columns.rock_tokens import STABLE

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Lists: TypeAlias = Sequence[tuple[str, int]]  # selector and K

K_LIST = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)
JUDGED_FROM = 10  # smaller lists are suggested only if stable, but never rule out a larger one
CURVES = ("R", "frequency")  # selectors with a row for each K
SPLITS = 50
SPREAD = (0.05, 0.95)
TINY = np.finfo(np.float64).tiny
TOO_FEW_TYPES = "fewer types than twice K: that halves agree says little"
SIGNED = "the loss can be negative: no coverage, no lift"
NO_STABLE_LIST = "no stable list: too few prompts"
NOT_PAIRED = "needs two checkpoints on the same tokens"


class Shares(NamedTuple):
    """What lists of types hold; every field has one entry per list.

    Attributes:
        positions: Share of the occurrences.
        coverage: Share of the loss.
        lift: Mean loss over that of all occurrences.
        gradient: Share of the summed grad_logits.
        gradient_lift: That over the share of the occurrences.
    """

    positions: Interval
    coverage: Interval
    lift: Interval
    gradient: Interval
    gradient_lift: Interval


def split_totals(ranking: Ranking) -> tuple[Totals, Totals]:
    """Add up both sides of 50 random splits of the prompts. Arrays of shape (splits, types)."""
    sums, options = ranking.sums, ranking.options
    rng = np.random.default_rng(options.seed)
    prompts = len(sums.prompt_id)
    side = np.zeros((prompts, SPLITS))
    for column in side.T:
        column[rng.permutation(prompts)[: prompts // 2]] = 1
    matrices = (sums.n[0], sums.square, sums.x[0], sums.x[-1])
    one = [np.asarray(matrix.T @ side).T for matrix in matrices]
    other = [total(a) - b for a, b in zip(matrices, one, strict=True)]
    return Totals(options.rank_by, *one), Totals(options.rank_by, *other)


def ranks_by(selector: str, t: Totals, eligible: Mask, min_count: int) -> Integers:
    """Rank types by one of `SELECTORS`, those that may not be chosen last."""
    return descending_ranks(np.where(eligible, SELECTORS[selector](t, min_count), -np.inf))


def agreement(
    selector: str,
    splits: tuple[Totals, Totals],
    ks: Sequence[int],
    eligible: Mask,
    options: Options,
) -> Agreement:
    """Compare the top-K lists of the two sides of every split. Fields of shape (splits, K).

    Equal scores, such as the 0 of types that a side lacks, are ordered at random on each side: the
    order of ids must not look like agreement.
    """
    rng = np.random.default_rng(options.seed)
    first, second = (
        _rank_ties_at_random(selector, side, eligible, options.min_count, rng) for side in splits
    )
    return top_agreement(first, second, ks, max(int(eligible.sum()), 1))


def _rank_ties_at_random(
    selector: str, t: Totals, eligible: Mask, min_count: int, rng: np.random.Generator
) -> Integers:
    scores = np.where(eligible, SELECTORS[selector](t, min_count), -np.inf)
    order = rng.permuted(np.broadcast_to(np.arange(eligible.size), scores.shape), axis=1)
    ranks = np.empty(scores.shape, np.int64)
    shuffled = np.take_along_axis(scores, order, axis=1)
    np.put_along_axis(ranks, order, descending_ranks(shuffled), axis=1)
    return ranks


def same_rows(sums: Sums, lists: Lists, eligible: Mask, options: Options) -> Shares:
    """Measure lists on the rows that chose them: an optimistic figure."""
    member = _members(totals(sums, options.rank_by), lists, eligible, options.min_count)
    listed = [np.asarray(a @ member) for a in _measured(sums)]
    everything = [per_prompt(a)[:, None] for a in _measured(sums)]
    return _shares(listed, everything, sums.prompts(options.seed))


def other_half(sums: Sums, lists: Lists, eligible: Mask, options: Options) -> Shares:
    """Measure lists on the half of the prompts that did not choose them, both ways."""
    members = [
        _members(half_totals(sums, options.rank_by, half), lists, eligible, options.min_count)
        for half in (0, 1)
    ]
    second = (sums.half == 1)[:, None]
    listed, everything = [], []
    for matrix in _measured(sums):
        by_first, by_second = (np.asarray(matrix @ member) for member in members)
        each = per_prompt(matrix)
        # Divided by its half's total, a sum counts so that the ratio is the mean of both ways.
        whole = np.bincount(sums.half, each, 2)
        weight = np.where(whole > TINY, 1 / np.maximum(whole, TINY), 0)[sums.half][:, None]
        listed.append(weight * np.where(second, by_first, by_second))
        everything.append(weight * each[:, None])
    return _shares(listed, everything, sums.prompts(options.seed, by_half=True))


def _measured(sums: Sums) -> tuple[Any, Any, Any]:
    return sums.n[0], sums.x[sums.ranked], sums.gradient


def _members(t: Totals, lists: Lists, eligible: Mask, min_count: int) -> Floats:
    """Tell which types stand in each list, of those that occur. Shape (types, lists)."""
    able = eligible & (t.n > 0)
    ranks = {name: ranks_by(name, t, able, min_count) for name in dict(lists)}
    return np.column_stack([ranks[name] <= k for name, k in lists]).astype(np.float64)


def _shares(listed: Sequence[Floats], everything: Sequence[Floats], prompts: Prompts) -> Shares:
    """Estimate shares and lift from occurrences, loss and gradient of each prompt."""
    (n, x, g), (all_n, all_x, all_g) = listed, everything
    return Shares(
        positions=prompts.ratio(n, all_n),
        coverage=prompts.ratio(x, all_x),
        lift=prompts.quotient(x, n, all_x, all_n),
        gradient=prompts.ratio(g, all_g),
        gradient_lift=prompts.quotient(g, n, all_g, all_n),
    )


def list_rows(ranking: Ranking) -> pl.DataFrame:
    """Measure every list that a table shows, one row per selector and K.

    Returns:
        selector, K, n (types that may be chosen), suggested_K, and the figures of `rock_cutoff` and
        `rock_selectors`. R and frequency have a row for each K, the other selectors one.
    """
    options, types = ranking.options, int(ranking.eligible.sum())
    ks = sorted({options.top, *(k for k in K_LIST if k <= types)})
    splits = split_totals(ranking)
    frames = []
    for name in SELECTORS:
        agreements = agreement(name, splits, ks, ranking.eligible, options)
        k = suggested_k(ks, agreements.corrected, types) if enough_prompts(ranking) else None
        frame = pl.DataFrame(
            {
                "selector": [name] * len(ks),
                "K": ks,
                "n": [types] * len(ks),
                "suggested_K": pl.Series([k] * len(ks), dtype=pl.UInt32),
                **_agreement_columns(agreements, known=enough_prompts(ranking)),
                **_second_columns(ranking, name, ks),
            }
        )
        frames.append(frame if name in CURVES else frame.filter(pl.col("K") == options.top))
    rows = pl.concat(frames)
    return rows.hstack(pl.DataFrame(_share_columns(ranking, rows.select("selector", "K").rows())))


def cutoff_table(ranking: Ranking, lists: pl.DataFrame) -> pl.DataFrame:
    """Build `rock_cutoff`: one row per K, for R and for frequency.

    Args:
        ranking: The ranked types.
        lists: `list_rows` of them.
    """
    unstable = pl.col("suggested_K").is_null() & enough_prompts(ranking)
    table = lists.filter(pl.col("selector").is_in(CURVES)).with_columns(
        list_notes(ranking, reasons.note(NO_STABLE_LIST, unstable))
    )
    return result_table("rock_cutoff", table, **ranking.constants)


def selector_table(ranking: Ranking, lists: pl.DataFrame) -> pl.DataFrame:
    """Build `rock_selectors`: one row per selector, for lists of the size asked for.

    Args:
        ranking: The ranked types.
        lists: `list_rows` of them.
    """
    table = lists.filter(pl.col("K") == ranking.options.top).drop(
        "suggested_K", "J_second", "J_c_second"
    )
    table = table.with_columns(list_notes(ranking))
    if ranking.pairing != "paired":
        joint = pl.col("selector") == "joint"
        table = table.with_columns(
            pl.when(~joint).then(cs.float()),
            reason=pl.when(joint).then(pl.lit(NOT_PAIRED)).otherwise("reason"),
        )
    return result_table("rock_selectors", table, **ranking.constants)


def _share_columns(ranking: Ranking, lists: Lists) -> dict[str, Any]:
    """Measure lists on the rows that chose them and on others, as columns of a table."""
    options = ranking.options
    same, other = (
        measure(ranking.sums, lists, ranking.eligible, options)
        for measure in (same_rows, other_half)
    )
    shares = {
        "position_share": same.positions,
        "coverage": same.coverage,
        "cross_coverage": other.coverage,
        "lift": same.lift,
        "cross_lift": other.lift,
        "grad_share": same.gradient,
        "cross_grad_lift": other.gradient_lift,
    }
    if options.signed:
        shares = {
            name: shares[name] for name in ("position_share", "grad_share", "cross_grad_lift")
        }
    columns = [interval_columns(name, interval) for name, interval in shares.items()]
    return {name: values for one in columns for name, values in one.items()}


def _agreement_columns(agreements: Agreement, *, known: bool) -> dict[str, Any]:
    """Give mean and spread over splits of both indices, nothing from too few prompts."""
    values: dict[str, Any] = {}
    for name, splits in (("J", agreements.jaccard), ("J_c", agreements.corrected)):
        figures = splits if known else np.full(splits.shape, np.nan)
        low, high = np.quantile(figures, SPREAD, axis=0)
        values |= {name: figures.mean(axis=0), f"{name}_p05": low, f"{name}_p95": high}
    return values


def _second_columns(ranking: Ranking, selector: str, ks: Sequence[int]) -> dict[str, Any]:
    """Compare the lists of R, or of frequency, with those of the second run, if there is one."""
    panel = ranking.panel
    if panel.paired or selector not in CURVES:
        nothing = np.full(len(ks), np.nan)
        return {"J_second": nothing, "J_c_second": nothing}
    matrices = panel.x if selector == "R" else panel.n
    able = ranking.panel_eligible
    first, second = (descending_ranks(np.where(able, total(a), -np.inf))[None] for a in matrices)
    agreements = top_agreement(first, second, ks, max(int(able.sum()), 1))
    return {"J_second": agreements.jaccard[0], "J_c_second": agreements.corrected[0]}


def enough_prompts(ranking: Ranking) -> bool:
    """Tell whether there are enough prompts to compare two halves of them."""
    return len(ranking.sums.prompt_id) >= FEWEST_CLUSTERS


def list_notes(ranking: Ranking, *more: pl.Expr) -> pl.Expr:
    """Say what weakens each list, as the column `reason`."""
    return reasons.notes(
        reasons.note(reasons.TOO_FEW, pl.lit(not enough_prompts(ranking))),
        *more,
        reasons.note(TOO_FEW_TYPES, 2 * pl.col("K") > pl.col("n")),
        reasons.note(SIGNED, pl.lit(ranking.options.signed)),
    )


def suggested_k(ks: Sequence[int], corrected: Floats, types: int) -> int | None:
    """Suggest the largest K such that it and every smaller one from 10 on is stable.

    Args:
        ks: List sizes, rising. Only those of `K_LIST` up to half of the types are judged.
        corrected: Corrected Jaccard index of each split, shape (splits, number of K).
        types: Types that could be chosen.
    """
    judged = [i for i, k in enumerate(ks) if k in K_LIST and 2 * k <= types]
    stable = {ks[i]: bool(np.quantile(corrected[:, i], SPREAD[0]) >= STABLE) for i in judged}
    able = [
        k
        for k in stable
        if stable[k] and all(stable[smaller] for smaller in stable if JUDGED_FROM <= smaller <= k)
    ]
    return max(able, default=None)
