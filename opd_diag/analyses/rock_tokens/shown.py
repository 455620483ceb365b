"""Build the tables of rollouts: one row for each, and one rollout token by token."""

import numpy as np
import polars as pl

from opd_diag.analyses.rock_tokens.frames import as_table
from opd_diag.analyses.rock_tokens.outputs import OutputCounts, choose_example
from opd_diag.analyses.rock_tokens.question import Question
from opd_diag.tables.columns.rock_tokens import ROCK_EXAMPLE, ROCK_OUTPUTS


def output_table(asked: Question, counts: OutputCounts) -> pl.DataFrame:
    """Build one row per rollout."""
    occurrences = asked.occurrences
    share = np.divide(
        counts.rocks, counts.n, out=np.full(counts.n.size, np.nan), where=counts.n > 0
    )
    able = (counts.loss > 0) & (not asked.options.signed)
    loss_share = np.divide(
        counts.rock_loss, counts.loss, out=np.full(counts.n.size, np.nan), where=able
    )
    values = {
        "rollout": occurrences.rollout_id,
        "prompt_id": [occurrences.prompt_id[i] for i in occurrences.rollout_prompt],
        "n": counts.n,
        "n_rock": counts.rocks,
        "rock_share": share,
        "rock_loss_share": loss_share,
        "n_events": counts.events,
        "n_events_not_rock": counts.other_events,
        "n_dropped": occurrences.dropped,
        "reason": np.select(
            [counts.n == 0, np.full(counts.n.size, asked.options.signed), counts.loss <= 0],
            ["no token in the loss", "the loss can be negative: no share of it", "no loss"],
            "",
        ),
    }
    table = as_table(values, ROCK_OUTPUTS, "rock_outputs", **asked.common)
    return table.with_columns(pl.col("reason").replace("", None))


def example_table(
    asked: Question, counts: OutputCounts, vocabulary: pl.DataFrame | None
) -> pl.DataFrame:
    """Build one row per token of the rollout whose share of rocks is nearest to the median."""
    occurrences = asked.occurrences
    chosen = choose_example(counts)
    tokens = np.flatnonzero(occurrences.rollout == chosen)
    value = np.full(tokens.size, np.nan)
    inside = np.flatnonzero(occurrences.rollout[occurrences.at] == chosen)
    value[np.searchsorted(tokens, occurrences.at[inside])] = occurrences.loss[0, inside]
    kind = occurrences.kind[tokens]
    values = {
        "rollout": np.full(tokens.size, occurrences.rollout_id[chosen]),
        "position": occurrences.position[tokens],
        "token_id": occurrences.token_id[kind],
        "value": value,
        "is_rock": asked.is_rock[kind],
    }
    table = as_table(values, ROCK_EXAMPLE, "rock_example", **asked.common)
    if vocabulary is not None:
        texts = vocabulary.select("token_id", "text")
        table = table.drop("text").join(texts, on="token_id", how="left", maintain_order="left")
    return table.select(column.name for column in ROCK_EXAMPLE)
