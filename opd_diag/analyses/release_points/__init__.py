"""Find where in a rollout the teacher stops telling tokens apart, and whether that is real."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.release_points.budgets import (
    WindowSums,
    budgets_table,
    carried,
    window_sums,
    windows,
)
from opd_diag.analyses.release_points.correlation import correlation_table
from opd_diag.analyses.release_points.curves import curves_table
from opd_diag.analyses.release_points.example import choose_example, example_table
from opd_diag.analyses.release_points.online import online_statistics
from opd_diag.analyses.release_points.options import Options, choose_k, choose_rule
from opd_diag.analyses.release_points.points import complete, points_table
from opd_diag.analyses.release_points.positions import token_columns
from opd_diag.analyses.release_points.report import summary_lines
from opd_diag.analyses.release_points.scan import COLUMNS, scan
from opd_diag.analyses.release_points.segments import batch_segments, segmentation
from opd_diag.analyses.release_points.summary import (
    other_k_statistics,
    rollout_statistics,
    summary_table,
)
from opd_diag.analyses.tokens import TokenTable, read_tokens
from opd_diag.tables.arguments import public_analysis
from opd_diag.tables.columns.release_points import RELEASE_EXAMPLE
from opd_diag.tables.columns.tokens import K_GRID
from opd_diag.tables.run import Run
from opd_diag.tables.schema import empty_table
from opd_diag.tables.source import (
    Source,
    Tokens,
    as_source,
    choose_checkpoints,
    choose_rollouts,
    vocabulary,
)

__all__ = ["ReleasePoints", "release_points", "summary_lines"]


class ReleasePoints(NamedTuple):
    """The tables of `release_points`.

    Attributes:
        release_points: One row per rollout: the shift, its gain, the release token.
        release_summary: Rates, medians and controls of every group of rollouts.
        release_curves: Quantities over relative and absolute position.
        release_correlation: One row per rollout: student against teacher, early and late.
        release_budgets: What the kept tokens carry, against other windows of the same budget.
        release_example: One rollout segment by segment.
    """

    release_points: pl.DataFrame
    release_summary: pl.DataFrame
    release_curves: pl.DataFrame
    release_correlation: pl.DataFrame
    release_budgets: pl.DataFrame
    release_example: pl.DataFrame


@public_analysis
def release_points(
    run: Run | str | Path | Tokens,
    rollouts: pl.DataFrame | None = None,
    *,
    checkpoint: str | Sequence[str] | None = None,
    policy: str | None = None,
    step: int | None = None,
    group: str | None = None,
    preset: str = "opd-diag",
    statistic: str = "bic",
    min_size: int | None = None,
    min_segments: int | None = None,
    threshold: float | None = None,
    k: int | None = None,
    segmenter: str = "punkt",
    token_weighted: bool = False,
    k_grid: Sequence[int] = K_GRID,
    seed: int = 0,
) -> ReleasePoints:
    """Find the release point of every rollout, with the controls that tell it from noise.

    A segment's score is log(1 + the mean margin of its tokens), the margin being the teacher's
    log-prob gap between its two likeliest tokens among the student's K. A release point is one
    downward shift of the mean of these scores, accepted if its BIC gain exceeds a threshold.
    Acceptance is no evidence of an abrupt collapse: noise with memory and a smooth fade are
    accepted too, so read it beside the same scan upward, under shuffled segments and against a
    straight line, all in `release_summary`.

    Args:
        run: A run, its folder, or a token table.
        rollouts: The rollouts, with a token table only.
        checkpoint: Checkpoints wanted; None: all.
        policy: Only rollouts of this policy; `teacher` gives the curves on the teacher's own
            prefixes where a run holds such rollouts.
        step: Only rollouts of this training step.
        group: Only rollouts of this group, such as a domain or an environment.
        preset: `opd-diag` (3 segments a side, 8 in all, gain above 6 nat) or `paper` (1, 4, 0).
        statistic: What is compared with the threshold, `bic` (the gain) or `cusum` (the largest
            cumulative sum, which sees more small drops in the middle of a response and fewer near
            its ends).
        min_size: Fewest segments on each side; None: the preset's.
        min_segments: Fewest segments of a rollout; None: the preset's.
        threshold: What has to be exceeded; None: the preset's gain in nat, or 1.6 for `cusum`.
        k: K of the margin, one of the grid; None: 4, or the smallest of a grid without 4.
        segmenter: `punkt` (as stored by `score`), `newline` or `block:N`.
        token_weighted: Weigh each segment by its tokens.
        k_grid: The K of the array columns of a token table; a run knows its own.
        seed: Seed of the bootstrap and of every shuffle.

    Returns:
        Six tables.

    Raises:
        OptionError: If a preset, statistic, K or segmenter is unknown, a number is out of range,
            or a segmenter has no text to read.
        TableError: If a checkpoint, policy, step or group is unknown, or the tables do not fit.

    Source: arXiv 2605.13643; defaults of `opd-diag` and all controls are ours.
    """
    source = as_source(run, rollouts, k_grid=k_grid)
    rule = choose_rule(preset, statistic, min_size, min_segments, threshold)
    k = choose_k(k, source.k_grid)
    options = Options(rule, k, segmenter, token_weighted, seed)
    chosen = choose_rollouts(source.rollouts, policy, step, group)
    cut = segmentation(source, chosen, segmenter)
    prompts = Prompts(chosen["prompt_id"], seed=seed)
    tables = []
    for name in choose_checkpoints(source, checkpoint):
        tokens = read_tokens(source, chosen, name, columns=COLUMNS)
        longest = int(tokens.lengths.max(initial=0))
        tokens = tokens.where(tokens.column("in_loss"))
        passed = scan(tokens, prompts, source.k_grid, cut, options, longest=longest)
        points = complete(passed.judged.pop(k), chosen, passed.watched)
        others = {each: complete(judged, chosen) for each, judged in passed.judged.items()}
        correlation = correlation_table(name, passed.correlations, chosen)
        kept = _windows(tokens, source, points, prompts, options)
        statistics = rollout_statistics(points, passed.shuffled, correlation, kept, options)
        statistics += online_statistics(points, options)
        statistics += other_k_statistics(others)
        tables.append(
            ReleasePoints(
                points_table(name, points),
                summary_table(name, statistics, points, passed.positions, kept),
                curves_table(name, passed.positions),
                correlation,
                budgets_table(name, kept),
                _example(name, source, chosen, points, options),
            )
        )
    return ReleasePoints(*map(pl.concat, zip(*tables, strict=True)))


def _windows(
    tokens: TokenTable, source: Source, points: pl.DataFrame, prompts: Prompts, options: Options
) -> WindowSums:
    """Sum over the release windows and their controls."""
    n_tokens = points["n_tokens"].to_numpy().astype(np.int64)
    kept = points["kept"].to_numpy().astype(np.int64)
    listed = windows(n_tokens, kept, np.random.default_rng(options.seed))
    margin = pl.col("margin").arr.get(source.k_grid.index(options.k)).alias("margin")
    batches = tokens.batches(["reverse_kl", "grad_logits", margin])
    return window_sums(batches, carried(options.k), listed, n_tokens, prompts)


def _example(
    checkpoint: str,
    source: Source,
    rollouts: pl.DataFrame,
    points: pl.DataFrame,
    options: Options,
) -> pl.DataFrame:
    row = choose_example(points)
    if row is None:
        return empty_table(RELEASE_EXAMPLE)
    one = rollouts[row : row + 1]
    tokens = read_tokens(source, one, checkpoint)
    tokens = tokens.where(tokens.column("in_loss"))
    (batch,) = tokens.batches(["segment", *token_columns(source.k_grid)])
    segments, _ = batch_segments(batch, source.k_grid, segmentation(source, one, options.segmenter))
    words, spelled = vocabulary(source), None
    if words is not None:
        spelled = words["bytes"].gather(one["response_token_ids"][0]).to_list()
    place = source.k_grid.index(options.k)
    return example_table(checkpoint, points.row(row, named=True), segments, place, spelled)
