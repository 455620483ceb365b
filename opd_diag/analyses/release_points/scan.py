"""Read the tokens of one checkpoint once, and keep what the tables need of each rollout."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.release_points.batches import run_starts, segments_again, token_batches
from opd_diag.analyses.release_points.correlation import correlations
from opd_diag.analyses.release_points.options import Options
from opd_diag.analyses.release_points.quantities import Quantity, bin_sums, token_columns
from opd_diag.analyses.release_points.rule import (
    Segments,
    judge,
    score_segments,
    shuffled_gains,
)
from opd_diag.tables.source import Source, vocabulary

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Resegmented: TypeAlias = tuple[Integers, Integers]

SHUFFLES = 20
SHUFFLED_ROLLOUTS = 2_000


class Scan(NamedTuple):
    """What one pass over the tokens leaves.

    Attributes:
        judged: For each K the rule's verdict, with `row` and `n_tokens`, for the rollouts that
            have tokens in the loss.
        shuffled: Gains after shuffling segments, NaN without a downward split, infinity where
            the rollout was not drawn for it. Shape (shuffles, rollouts).
        sums: Sums over bins of position.
        correlations: Student against teacher, by rollout.
    """

    judged: dict[int, pl.DataFrame]
    shuffled: Floats
    sums: pl.DataFrame
    correlations: pl.DataFrame


def scan(
    source: Source,
    checkpoint: str,
    rollouts: pl.DataFrame,
    cell: pl.Series,
    listed: Sequence[Quantity],
    options: Options,
    *,
    width: int,
) -> Scan:
    """Read the tokens of one checkpoint.

    Args:
        source: Where they come from.
        checkpoint: Its name.
        rollouts: The rollouts wanted, sorted by `rollout`.
        cell: The cell of each rollout: a prompt and a value of every split.
        listed: The quantities of the curves.
        options: The choices.
        width: Tokens in a bin of absolute position.
    """
    rng = np.random.default_rng(options.seed)
    drawn = np.zeros(rollouts.height, np.bool_)
    drawn[rng.permutation(rollouts.height)[:SHUFFLED_ROLLOUTS]] = True
    shuffled = np.full((SHUFFLES, rollouts.height), np.inf)
    again = None
    if options.segmenter != "punkt":
        again = segments_again(rollouts, vocabulary(source), options.segmenter)
    columns: list[pl.Expr | str] = ["segment", "student_logp", "teacher_logp"]
    columns += token_columns(source.k_grid)
    judged: dict[int, list[pl.DataFrame]] = {k: [] for k in source.k_grid}
    sums, found = [], []
    for batch in token_batches(source, checkpoint, rollouts, columns):
        segments, heads = batch_segments(batch, source.k_grid, again)
        rows = heads["row"].to_numpy()
        for place, k in enumerate(source.k_grid):
            verdict = judge(segments, place, options.rule, token_weighted=options.token_weighted)
            judged[k].append(heads.hstack(verdict))
        ours = _only(segments, source.k_grid.index(options.k), drawn[rows])
        shuffled[:, rows[drawn[rows]]] = shuffled_gains(
            ours.score[:, 0],
            ours.lengths,
            ours.tokens.astype(np.float64) if options.token_weighted else None,
            options.rule,
            repeats=SHUFFLES,
            rng=rng,
        )
        sums.append(bin_sums(batch.with_columns(cell=cell[batch["row"]]), listed, width=width))
        found.append(correlations(batch))
    return Scan(
        {k: pl.concat(frames) for k, frames in judged.items()},
        shuffled,
        pl.concat(sums),
        pl.concat(found),
    )


def batch_segments(
    batch: pl.DataFrame, k_grid: Sequence[int], again: Resegmented | None
) -> tuple[Segments, pl.DataFrame]:
    """Score the segments of a batch.

    Returns:
        The segments, and `row` and `n_tokens` of their rollouts in the same order.
    """
    row = batch["row"].to_numpy().astype(np.int64)
    position = batch["position"].to_numpy().astype(np.int64)
    if again is None:
        segment = batch["segment"].to_numpy().astype(np.int64)
    else:
        segment = again[0][again[1][row] + position]
    margins = batch.select(f"margin_{k}" for k in k_grid).fill_null(float("nan")).to_numpy()
    starts = run_starts(row)
    local = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(row))))
    before = batch["index"].to_numpy()
    segments = score_segments(
        local, segment, position, before, margins.astype(np.float64), len(starts)
    )
    return segments, batch.select("row", "n_tokens")[starts]


def _only(segments: Segments, place: int, chosen: npt.NDArray[np.bool_]) -> Segments:
    """Keep the scores of one K and of some rollouts."""
    inside = np.repeat(chosen, segments.lengths)
    return Segments(
        segments.lengths[chosen],
        segments.score[inside, place : place + 1],
        segments.tokens[inside],
        segments.position[inside],
        segments.before[inside],
    )
