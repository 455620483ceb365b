"""Summarise the scores of a run: how far the student is from the teacher, where, in which tokens.

This describes and judges nothing: what it shows has no null beside it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from opd_diag.analyses.score_summary.first_tokens import first_tokens_table
from opd_diag.analyses.score_summary.groups import groups_table
from opd_diag.analyses.score_summary.histogram import histogram_table
from opd_diag.analyses.score_summary.positions import positions_table
from opd_diag.analyses.score_summary.report import summary_lines
from opd_diag.analyses.score_summary.sums import COLUMNS, Rollouts, summary_table
from opd_diag.analyses.tokens import read_tokens
from opd_diag.tables.arguments import at_least, public_analysis
from opd_diag.tables.run import Run
from opd_diag.tables.source import Tokens, as_source, choose_checkpoints, choose_rollouts

__all__ = ["ScoreSummary", "score_summary", "summary_lines"]


class ScoreSummary(NamedTuple):
    """The tables of `score_summary`.

    Attributes:
        score_summary: Means of divergences, entropies and gradient norms.
        score_positions: The divergences over relative and absolute position.
        score_histogram: How the divergences are spread over tokens, and how few tokens hold them.
        score_groups: What each group of the dump holds of the tokens and of the KL, and what
            training kept and dropped; empty where the dump tells neither.
        score_first_tokens: The first tokens of responses to prompts that the teacher reads
            otherwise; empty where it reads the student's.
    """

    score_summary: pl.DataFrame
    score_positions: pl.DataFrame
    score_histogram: pl.DataFrame
    score_groups: pl.DataFrame
    score_first_tokens: pl.DataFrame


@public_analysis
def score_summary(
    run: Run | str | Path | Tokens,
    rollouts: pl.DataFrame | None = None,
    *,
    checkpoint: str | Sequence[str] | None = None,
    policy: str | None = None,
    step: int | None = None,
    group: str | None = None,
    seed: int = 0,
) -> ScoreSummary:
    """Summarise the scores of tokens in the loss, for all rollouts, correct and wrong ones.

    Every token counts once, so long rollouts count more.

    Args:
        run: A run, its folder, or a token table.
        rollouts: The rollouts, with a token table only.
        checkpoint: Checkpoints wanted; None: all.
        policy: Only rollouts of this policy.
        step: Only rollouts of this training step.
        group: Only rollouts of this group, such as a domain or an environment.
        seed: Seed of the bootstrap.

    Returns:
        Five tables, one row for each checkpoint, group of rollouts, column and bin. The groups
        `correct` and `wrong` are there where the rollouts say which they are.

    Raises:
        OptionError: If the seed is negative.
        TableError: If a checkpoint, policy, step or group is unknown, or the tables do not fit.
    """
    at_least(0, seed=seed)
    source = as_source(run, rollouts)
    chosen = choose_rollouts(source.rollouts, policy, step, group)
    summarised = Rollouts(chosen, seed=seed)
    tables = []
    for name in choose_checkpoints(source, checkpoint):
        tokens = read_tokens(source, chosen, name, columns=("in_loss", *COLUMNS))
        longest = int(tokens.lengths.max(initial=0))
        tokens = tokens.where(tokens.column("in_loss"))
        tables.append(
            ScoreSummary(
                summary_table(name, tokens, summarised),
                positions_table(name, tokens, summarised, longest),
                histogram_table(name, tokens, summarised),
                groups_table(name, tokens, summarised.prompts),
                first_tokens_table(name, tokens, summarised),
            )
        )
    return ScoreSummary(*(pl.concat(parts) for parts in zip(*tables, strict=True)))
