"""Find where in a rollout the teacher stops telling tokens apart, and whether that is real."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from opd_diag.analyses.release_points.checkpoint import of_checkpoint
from opd_diag.analyses.release_points.headlines import summary_lines
from opd_diag.analyses.release_points.options import Options
from opd_diag.analyses.release_points.rule import PRESETS, Rule
from opd_diag.errors import OptionError
from opd_diag.tables.columns.release_points import TABLES
from opd_diag.tables.columns.tokens import K_GRID
from opd_diag.tables.given import names_missing_columns
from opd_diag.tables.run import Run
from opd_diag.tables.source import Tokens, as_source, choose_checkpoints, choose_rollouts

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


@names_missing_columns
def release_points(
    run: Run | str | Path | Tokens,
    rollouts: pl.DataFrame | None = None,
    *,
    checkpoint: str | Sequence[str] | None = None,
    policy: str | None = None,
    step: int | None = None,
    preset: str = "opd-diag",
    min_size: int | None = None,
    min_segments: int | None = None,
    threshold: float | None = None,
    k: int = 4,
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
        preset: `opd-diag` (3 segments a side, 8 in all, gain above 6 nat) or `paper` (1, 4, 0).
        min_size: Fewest segments on each side; None: the preset's.
        min_segments: Fewest segments of a rollout; None: the preset's.
        threshold: Gain in nat that has to be exceeded; None: the preset's.
        k: K of the margin, one of the grid.
        segmenter: `punkt` (as stored by `score`), `newline` or `block:N`.
        token_weighted: Weigh each segment by its tokens.
        k_grid: The K of the array columns of a token table; a run knows its own.
        seed: Seed of the bootstrap and of every shuffle.

    Returns:
        Six tables.

    Raises:
        OptionError: If a preset, K or segmenter is unknown, or a segmenter has no text to read.
        TableError: If a checkpoint, policy or step is unknown, or the tables do not fit.

    Source: arXiv 2605.13643; defaults of `opd-diag` and all controls are ours.
    """
    source = as_source(run, rollouts, k_grid=k_grid)
    rule = _rule(preset, min_size, min_segments, threshold)
    if k not in source.k_grid:
        raise OptionError(f"k: {k}; expected one of {', '.join(map(str, source.k_grid))}")
    chosen = choose_rollouts(source.rollouts, policy, step)
    options = Options(rule, k, segmenter, token_weighted, seed)
    tables: dict[str, list[pl.DataFrame]] = {name: [] for name in TABLES}
    for name in choose_checkpoints(source, checkpoint):
        for table, frame in of_checkpoint(source, name, chosen, options).items():
            tables[table].append(frame.select(pl.lit(name).alias("checkpoint"), pl.all()))
    return ReleasePoints(**{name: pl.concat(frames) for name, frames in tables.items()})


def _rule(
    preset: str, min_size: int | None, min_segments: int | None, threshold: float | None
) -> Rule:
    if preset not in PRESETS:
        raise OptionError(f"preset: {preset!r}; expected {' or '.join(PRESETS)}")
    usual = PRESETS[preset]
    return Rule(
        usual.min_size if min_size is None else min_size,
        usual.min_segments if min_segments is None else min_segments,
        usual.threshold if threshold is None else threshold,
    )
