"""The table `score_summary`: means over all tokens of a group."""

import polars as pl

from opd_diag.analyses.score_summary.groups import COLUMNS, Rollouts, means
from opd_diag.analyses.tables import result_table
from opd_diag.analyses.tokens import TokenTable


def summary_table(checkpoint: str, tokens: TokenTable, rollouts: Rollouts) -> pl.DataFrame:
    """Average every column, for every group of rollouts."""
    parts = [
        result_table("score_summary", means(sums, column, rollouts.prompts), checkpoint=checkpoint)
        for column in COLUMNS
        for sums in rollouts.sums(tokens, column)
    ]
    return pl.concat(parts)
