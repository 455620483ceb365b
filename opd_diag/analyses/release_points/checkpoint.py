"""Make all tables of one checkpoint, in two passes over its tokens."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.release_points.batches import segments_again, token_batches
from opd_diag.analyses.release_points.budgets import (
    Window,
    budget_table,
    contrast_table,
    window_sums,
    windows,
)
from opd_diag.analyses.release_points.correlation import correlation_table
from opd_diag.analyses.release_points.curves import curve_table
from opd_diag.analyses.release_points.example import choose_example, example_table
from opd_diag.analyses.release_points.fade import fade_table
from opd_diag.analyses.release_points.groups import SPLITS, as_table
from opd_diag.analyses.release_points.options import Options
from opd_diag.analyses.release_points.quantities import Quantity, quantities, token_columns
from opd_diag.analyses.release_points.rule import TOO_FEW_SEGMENTS
from opd_diag.analyses.release_points.scan import batch_segments, scan
from opd_diag.analyses.release_points.summary import (
    other_k_statistics,
    rollout_statistics,
    summary_table,
)
from opd_diag.tables.columns.release_points import RELEASE_EXAMPLE, RELEASE_POINTS
from opd_diag.tables.schema import empty_table
from opd_diag.tables.source import Source, vocabulary

Integers: TypeAlias = npt.NDArray[np.int64]

ABSOLUTE_BINS = 32


def of_checkpoint(
    source: Source, checkpoint: str, rollouts: pl.DataFrame, options: Options
) -> dict[str, pl.DataFrame]:
    """Make the tables of one checkpoint, without its name.

    Args:
        source: Where the tokens come from.
        checkpoint: Its name.
        rollouts: The rollouts wanted, sorted by `rollout`, with the columns of the splits.
        options: The choices.
    """
    seed, listed = options.seed, quantities(source.k_grid)
    keys = ["prompt_id", *SPLITS]
    cells = rollouts.select(keys).unique(maintain_order=True).with_row_index("cell")
    cell = rollouts.join(cells, on=keys, nulls_equal=True, maintain_order="left")["cell"]
    width = _bin_width(source, checkpoint)
    found = scan(source, checkpoint, rollouts, cell, listed, options, width=width)
    verdicts = {k: _complete(judged, rollouts) for k, judged in found.judged.items()}
    points = verdicts.pop(options.k)
    correlation = correlation_table(found.correlations, rollouts)
    statistics = [
        *rollout_statistics(points, found.shuffled, correlation, options.k),
        *other_k_statistics(verdicts),
    ]
    budgets, contrast = _budgets(source, checkpoint, rollouts, points, options)
    return {
        "release_points": points.select(column.name for column in RELEASE_POINTS[1:]),
        "release_summary": pl.concat(
            [
                summary_table(statistics, rollouts, seed=seed),
                fade_table(found.sums, cells, listed, points, seed=seed),
                contrast,
            ]
        ),
        "release_curves": curve_table(found.sums, cells, listed, width=width, seed=seed),
        "release_correlation": correlation,
        "release_budgets": budgets,
        "release_example": _example(source, checkpoint, rollouts, points, options),
    }


def _bin_width(source: Source, checkpoint: str) -> int:
    """Choose a power of two, at least 16 tokens, that covers the longest response in 32 bins."""
    last = source.tokens(checkpoint).select(pl.col("position").max()).collect().item()
    return max(16, 1 << (max(0, last or 0) // ABSOLUTE_BINS).bit_length())


def _complete(judged: pl.DataFrame, rollouts: pl.DataFrame) -> pl.DataFrame:
    """Give every rollout its row, also those without a token in the loss."""
    known = rollouts.select("rollout", "prompt_id", *SPLITS).with_row_index("row")
    frame = known.join(judged, on="row", how="left", maintain_order="left")
    none = pl.col("n_tokens").is_null()
    frame = frame.with_columns(
        pl.col("n_tokens", "n_segments").fill_null(0),
        pl.col("accepted").fill_null(value=False),
        reason=pl.when(none).then(pl.lit(TOO_FEW_SEGMENTS)).otherwise("reason"),
        release_frac=pl.col("release_index") / pl.col("n_tokens"),
        scale=(pl.col("n_tokens") / pl.col("release_index")).fill_null(1.0),
        kept=pl.coalesce("release_index", "n_tokens").fill_null(0),
    )
    points = as_table(frame.to_dict(), RELEASE_POINTS[1:])
    return points.with_columns(kept=frame["kept"])


def _budgets(
    source: Source,
    checkpoint: str,
    rollouts: pl.DataFrame,
    points: pl.DataFrame,
    options: Options,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Compare the release windows with others: the budgets, and the contrast for the summary."""
    n_tokens = points["n_tokens"].to_numpy().astype(np.int64)
    kept = points["kept"].to_numpy().astype(np.int64)
    listed = windows(n_tokens, kept, np.random.default_rng(options.seed))
    whole = Window("", np.zeros_like(n_tokens), n_tokens)
    margin = pl.col("margin").arr.get(source.k_grid.index(options.k)).alias("margin")
    columns = ["reverse_kl", "grad_logits", "margin"]
    batches = token_batches(source, checkpoint, rollouts, [*columns[:2], margin])
    sums = window_sums(batches, columns, [*listed, whole])
    named = [
        Quantity("reverse_kl", "reverse_kl", None, "nat"),
        Quantity("grad_logits", "grad_logits", None, "nat/logit"),
        Quantity("margin", "margin", options.k, "nat"),
    ]
    prompts = rollouts["prompt_id"]
    return (
        budget_table(sums, listed, n_tokens, named, prompts, seed=options.seed),
        contrast_table(sums, listed, named, prompts, seed=options.seed),
    )


def _example(
    source: Source,
    checkpoint: str,
    rollouts: pl.DataFrame,
    points: pl.DataFrame,
    options: Options,
) -> pl.DataFrame:
    row = choose_example(points)
    if row is None:
        return empty_table(RELEASE_EXAMPLE[1:])
    one = rollouts[row : row + 1]
    words = vocabulary(source)
    again = None
    if options.segmenter != "punkt":
        again = segments_again(one, words, options.segmenter)
    columns: list[pl.Expr | str] = ["segment", *token_columns(source.k_grid)]
    (batch,) = token_batches(source, checkpoint, one, columns)
    segments, _ = batch_segments(batch, source.k_grid, again)
    spelled = None
    if words is not None:
        spelled = words["bytes"].gather(one["response_token_ids"][0]).to_list()
    place = source.k_grid.index(options.k)
    return example_table(points.row(row, named=True), segments, place, spelled)
