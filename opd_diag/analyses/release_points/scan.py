"""Read the tokens of one checkpoint once, and keep what the tables need of each rollout."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.release_points.correlation import correlations
from opd_diag.analyses.release_points.online import online_stops
from opd_diag.analyses.release_points.options import Options
from opd_diag.analyses.release_points.points import judge, shuffled_shifts
from opd_diag.analyses.release_points.positions import (
    Positions,
    Summing,
    quantities,
    token_columns,
)
from opd_diag.analyses.release_points.segments import Segmentation, batch_segments
from opd_diag.analyses.tokens import TokenTable
from opd_diag.tables.columns.release_points import MIN_TOKENS

Floats: TypeAlias = npt.NDArray[np.float64]

COLUMNS = (
    *("segment", "in_loss", "student_logp", "teacher_logp", "teacher_top_logp", "margin"),
    *("student_entropy", "teacher_entropy", "advantage_var", "reverse_kl", "grad_logits"),
)
PLACES = ("row", "position", "index", "n_tokens")  # what `TokenTable.batches` adds

SHUFFLES = 20
SHUFFLED_ROLLOUTS = 2_000


class Scan(NamedTuple):
    """What one pass over the tokens leaves.

    Attributes:
        judged: For each K the rule's verdict, with `row` and `n_tokens`, for the rollouts that
            have tokens in the loss.
        shuffled: What the rule compares with its threshold after shuffling segments, NaN without
            a downward split, infinity where the rollout was not drawn for it. Shape (shuffles,
            rollouts).
        watched: `row`, where the rule would have stopped each rollout (see `online_stops`), and
            its margin_early and margin_late.
        positions: Sums over bins of position.
        correlations: Student against teacher, by rollout.
    """

    judged: dict[int, pl.DataFrame]
    shuffled: Floats
    watched: pl.DataFrame
    positions: Positions
    correlations: pl.DataFrame


def scan(
    tokens: TokenTable,
    prompts: Prompts,
    k_grid: Sequence[int],
    cut: Segmentation | None,
    options: Options,
    *,
    longest: int,
) -> Scan:
    """Read the tokens of one checkpoint.

    Args:
        tokens: The tokens in the loss.
        prompts: Prompt of each rollout.
        k_grid: The K of the margins.
        cut: Segments to use instead of those stored.
        options: The choices.
        longest: Tokens of the longest response.
    """
    count = tokens.rollouts.height
    summing = Summing(tokens.rollouts, prompts, quantities(k_grid), options.k, longest=longest)
    rng = np.random.default_rng(options.seed)
    rng_online = np.random.default_rng([options.seed, 1])
    drawn = np.zeros(count, np.bool_)
    drawn[rng.permutation(count)[:SHUFFLED_ROLLOUTS]] = True
    shuffled = np.full((SHUFFLES, count), np.inf)
    judged: dict[int, list[pl.DataFrame]] = {k: [] for k in k_grid}
    ends, stops, correlated = [], [], []
    columns: list[pl.Expr | str] = ["segment", "student_logp", "teacher_logp"]
    columns += token_columns(k_grid)
    for batch in _batches(tokens, columns):
        segments, heads = batch_segments(batch, k_grid, cut)
        rows = heads["row"].to_numpy()
        for place, k in enumerate(k_grid):
            verdict = judge(segments, place, options.rule, token_weighted=options.token_weighted)
            judged[k].append(heads.hstack(verdict))
        own = segments.only(k_grid.index(options.k), np.ones(rows.size, np.bool_))
        online = online_stops(own, options.rule, rng_online, token_weighted=options.token_weighted)
        stops.append(heads.select("row").hstack(online))
        ours = own.only(0, drawn[rows])
        shuffled[:, rows[drawn[rows]]] = shuffled_shifts(
            ours.score[:, 0],
            ours.spans,
            ours.tokens.astype(np.float64) if options.token_weighted else None,
            options.rule,
            repeats=SHUFFLES,
            rng=rng,
            owner=ours.owner,
        )
        ends.append(margin_ends(batch, f"log1p_margin_{options.k}"))
        summing.add(batch)
        correlated.append(correlations(batch))
    return Scan(
        {k: pl.concat(frames) for k, frames in judged.items()},
        shuffled,
        pl.concat(stops).join(pl.concat(ends), on="row", how="left", maintain_order="left"),
        summing.positions(),
        pl.concat(correlated),
    )


def margin_ends(batch: pl.DataFrame, score: str) -> pl.DataFrame:
    """Average a column over the first and last 20 % of each rollout of enough tokens.

    Tokens count alike, whatever segment they stand in: the score of a segment is concave in its
    mean margin, so that segments that grow or shrink along the response would bend it.
    """
    place, size, value = pl.col("index") * 5, pl.col("n_tokens"), pl.col(score).cast(pl.Float64)
    return (
        batch.filter(size >= MIN_TOKENS)
        .group_by("row", maintain_order=True)
        .agg(
            margin_early=value.filter(place < size).mean(),
            margin_late=value.filter(place >= 4 * size).mean(),
        )
    )


def _batches(tokens: TokenTable, columns: Sequence[pl.Expr | str]) -> Iterator[pl.DataFrame]:
    """Give the batches of tokens, and an empty one where there is no token."""
    if tokens.lengths.any():
        yield from tokens.batches(columns)
    else:
        none = {name: pl.Series([], dtype=pl.Int64) for name in PLACES}
        yield tokens.frame(columns).with_columns(**none)
