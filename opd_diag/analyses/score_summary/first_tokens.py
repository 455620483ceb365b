"""The table `score_first_tokens`: tokens after prompts that the teacher reads otherwise."""

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.score_summary.sums import Rollouts
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.tokens import TokenTable
from opd_diag.tables.columns.score_summary import ANOTHER_PROMPT, SAME_PROMPT, SCORE_FIRST_TOKENS
from opd_diag.tables.schema import empty_table

FIRST_TOKENS = 8
PLACES = [*map(str, range(FIRST_TOKENS)), "later"]
COLUMNS = ("reverse_kl", "forward_kl", "student_logp", "teacher_logp")


def first_tokens_table(checkpoint: str, tokens: TokenTable, rollouts: Rollouts) -> pl.DataFrame:
    """Average the scores of the first tokens of a response, one by one, and of the later ones.

    Args:
        checkpoint: Name of the checkpoint.
        tokens: Tokens in the loss.
        rollouts: Their rollouts.

    Returns:
        No rows where the teacher reads the student's prompts.
    """
    other = reads_another_prompt(tokens.rollouts)
    if not other.any():
        return empty_table(SCORE_FIRST_TOKENS)

    def place(batch: pl.DataFrame) -> npt.NDArray[np.int64]:
        index = batch["index"].to_numpy().astype(np.int64)
        group = other[batch["row"].to_numpy()]
        return np.asarray(group * len(PLACES) + np.minimum(index, FIRST_TOKENS))

    prompts = rollouts.prompts
    values: dict[str, object] = {}
    for column in COLUMNS:
        sums = next(rollouts.sums(tokens, column, 2 * len(PLACES), place))
        interval = prompts.ratio(sums.x, sums.m)
        values |= interval_columns(column, interval)
        if column == COLUMNS[0]:
            values |= {
                "n": sums.m.sum(axis=0),
                "n_prompts": interval.clusters,
                "reason": interval.reason,
            }
    members = np.stack([~other, other], axis=1).astype(np.float64)
    shared = members * shared_ends(tokens.rollouts)[:, None]
    ends = interval_columns("shared_end", prompts.ratio(*map(prompts.sums, (shared, members))))
    by_group = {
        "group": [SAME_PROMPT, ANOTHER_PROMPT],
        "n_rollouts": members.sum(axis=0),
        **ends,
    }
    values |= {name: np.repeat(value, len(PLACES)) for name, value in by_group.items()}
    values["place"] = 2 * PLACES
    table = result_table("score_first_tokens", values, checkpoint=checkpoint)
    return table.filter(pl.col("n") > 0)


def reads_another_prompt(rollouts: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Tell in which rollouts the teacher's prompt differs from the student's."""
    differs = pl.col("teacher_prompt_token_ids") != pl.col("prompt_token_ids")
    return rollouts.select(differs.fill_null(value=False)).to_series().to_numpy()


def shared_ends(rollouts: pl.DataFrame) -> npt.NDArray[np.float64]:
    """Count the tokens at the end of both prompts that are the same. Shape (rollouts,)."""
    ours = pl.col("prompt_token_ids")
    theirs = pl.coalesce("teacher_prompt_token_ids", ours)
    counts = np.zeros(rollouts.height)
    for row, prompts in enumerate(rollouts.select(ours, theirs.alias("theirs")).iter_rows()):
        size = min(map(len, prompts))
        differ = np.flatnonzero(np.not_equal(*(ids[len(ids) - size :] for ids in prompts)))
        counts[row] = size - 1 - differ[-1] if differ.size else size
    return counts
