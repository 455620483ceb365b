"""The table `score_groups`: what each group of rollouts holds of the tokens and of the KL."""

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses import reasons
from opd_diag.analyses.groups import Parts, parts_of
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.score_summary.sums import DIVERGENCES, Floats
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.tokens import TokenTable
from opd_diag.tables.columns.score_summary import SCORE_GROUPS
from opd_diag.tables.schema import empty_table

LENGTH, REWARD = "length", "reward"


def groups_table(checkpoint: str, tokens: TokenTable, prompts: Prompts) -> pl.DataFrame:
    """Compare every group with the rest of the rollouts, and what training dropped with the rest.

    Args:
        checkpoint: Name of the checkpoint.
        tokens: Tokens in the loss.
        prompts: Prompts of their rollouts.
    """
    values = rollout_values(tokens)
    tables = [
        result_table("score_groups", _rows(parts, values, prompts), checkpoint=checkpoint)
        for parts in parts_of(tokens.rollouts)
    ]
    return pl.concat(tables) if tables else empty_table(SCORE_GROUPS)


def rollout_values(tokens: TokenTable) -> dict[str, tuple[Floats, Floats]]:
    """Sum and count each quantity in each rollout; shapes (rollouts,)."""
    count = tokens.rollouts.height
    sums = {name: (np.zeros(count), np.zeros(count)) for name in DIVERGENCES}
    for batch in tokens.batches(DIVERGENCES):
        row = batch["row"].to_numpy()
        for name, (x, m) in sums.items():
            value = batch[name].cast(pl.Float64).to_numpy()
            there = np.isfinite(value)
            x += np.bincount(row[there], value[there], count)
            m += np.bincount(row[there], minlength=count)
    reward = tokens.rollouts[REWARD].to_numpy().astype(np.float64)
    known = np.isfinite(reward)
    sums[LENGTH] = tokens.lengths.astype(np.float64), np.ones(count)
    sums[REWARD] = np.where(known, reward, 0), known.astype(np.float64)
    return sums


def _rows(
    parts: Parts, values: dict[str, tuple[Floats, Floats]], prompts: Prompts
) -> dict[str, object]:
    members = parts.members()

    def inside(value: Floats) -> Floats:
        return prompts.sums(members * value[:, None])

    columns: dict[str, object] = {}
    intervals = []
    for name, (value, number) in values.items():
        x, m = inside(value), inside(number)
        x0, m0 = (side.sum(axis=1, keepdims=True) - side for side in (x, m))
        mean = prompts.ratio(x, m)
        columns |= interval_columns(name, mean)
        columns |= interval_columns(f"{name}_difference", prompts.difference(x, m, x0, m0))
        if name in (*DIVERGENCES, LENGTH):
            share = prompts.ratio(x, _whole(x))
            title = "token_share" if name == LENGTH else f"{name}_share"
            columns |= interval_columns(title, share, share=True)
        if name == DIVERGENCES[0]:
            columns |= interval_columns("lift", prompts.quotient(x, m, _whole(x), _whole(m)))
            intervals.append(mean)
    tokens = inside(values[LENGTH][0])
    known = values[DIVERGENCES[0]][1].any() or not values[LENGTH][0].any()
    return {
        "split": parts.split,
        "group": parts.names,
        "n_rollouts": members.sum(axis=0),
        "n": tokens.sum(axis=0),
        "n_prompts": (prompts.sums(members) > 0).sum(axis=0),
        **columns,
        "reason": reasons.first(*intervals) if known else reasons.UNKNOWN,
    }


def _whole(x: Floats) -> npt.NDArray[np.float64]:
    return np.broadcast_to(x.sum(axis=1, keepdims=True), x.shape)
