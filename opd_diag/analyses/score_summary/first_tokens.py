"""The table `score_first_tokens`: tokens after prompts that the teacher reads otherwise."""

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.tokens import TokenTable
from opd_diag.tables.columns.score_summary import ANOTHER_PROMPT, SAME_PROMPT, SCORE_FIRST_TOKENS
from opd_diag.tables.schema import empty_table

FIRST_TOKENS = 8
COLUMNS = ("reverse_kl", "forward_kl", "student_logp", "teacher_logp")


def first_tokens_table(checkpoint: str, tokens: TokenTable, prompts: Prompts) -> pl.DataFrame:
    """Average the scores of the first tokens of a response, one by one, and of the later ones.

    Args:
        checkpoint: Name of the checkpoint.
        tokens: Tokens in the loss.
        prompts: Prompts of their rollouts.

    Returns:
        No rows where the teacher reads the student's prompts.
    """
    rollouts = tokens.rollouts
    other = reads_another_prompt(rollouts)
    if not other.any():
        return empty_table(SCORE_FIRST_TOKENS)
    bins = FIRST_TOKENS + 1
    x, m = np.zeros((2, len(COLUMNS), 2, rollouts.height * bins))
    for batch in tokens.batches(COLUMNS):
        row = batch["row"].to_numpy()
        cell = row * bins + np.minimum(batch["index"].to_numpy().astype(np.int64), FIRST_TOKENS)
        for column, name in enumerate(COLUMNS):
            value = batch[name].cast(pl.Float64).to_numpy()
            there = np.isfinite(value)
            for group, members in enumerate((~other, other)):
                own = there & members[row]
                x[column, group] += np.bincount(cell[own], value[own], x.shape[-1])
                m[column, group] += np.bincount(cell[own], minlength=x.shape[-1])
    shared = shared_ends(rollouts)
    parts = []
    for group, name in enumerate((SAME_PROMPT, ANOTHER_PROMPT)):
        members = (other if group else ~other).astype(np.float64)
        values: dict[str, object] = {}
        for column, title in enumerate(COLUMNS):
            sums = [prompts.sums(side[column, group].reshape(-1, bins)) for side in (x, m)]
            interval = prompts.ratio(*sums)
            values |= interval_columns(title, interval)
            if column == 0:
                values |= {
                    "n": sums[1].sum(axis=0),
                    "n_prompts": interval.clusters,
                    "reason": interval.reason,
                }
        end = prompts.ratio(prompts.sums(shared * members), prompts.sums(members))
        values |= {
            key: np.full(bins, value) for key, value in interval_columns("shared_end", end).items()
        }
        values |= {
            "group": name,
            "n_rollouts": int(members.sum()),
            "place": [*map(str, range(FIRST_TOKENS)), "later"],
        }
        parts.append(result_table("score_first_tokens", values, checkpoint=checkpoint))
    return pl.concat(parts).filter(pl.col("n") > 0)


def reads_another_prompt(rollouts: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Tell in which rollouts the teacher's prompt differs from the student's."""
    theirs = pl.col("teacher_prompt_token_ids")
    differs = theirs.is_not_null() & (theirs != pl.col("prompt_token_ids"))
    return rollouts.select(differs.fill_null(value=False)).to_series().to_numpy()


def shared_ends(rollouts: pl.DataFrame) -> npt.NDArray[np.float64]:
    """Count the tokens at the end of both prompts that are the same. Shape (rollouts,)."""
    counts = np.zeros(rollouts.height)
    pairs = rollouts.select("prompt_token_ids", "teacher_prompt_token_ids").iter_rows()
    for row, (ours, theirs) in enumerate(pairs):
        size = min(len(ours), len(ours if theirs is None else theirs))
        own = np.array(ours[::-1][:size])
        differ = np.flatnonzero(own != np.array((ours if theirs is None else theirs)[::-1][:size]))
        counts[row] = differ[0] if differ.size else size
    return counts
