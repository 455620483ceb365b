"""Build `rock_by_group`: what rocks hold of the tokens and the loss of each group of the dump."""

from typing import Any

import numpy as np
import polars as pl

from opd_diag.analyses import reasons
from opd_diag.analyses.groups import Parts, parts_of
from opd_diag.analyses.rock_tokens.changes import on_other_half, rocks_by_half
from opd_diag.analyses.rock_tokens.occurrences import Floats, Integers
from opd_diag.analyses.rock_tokens.outputs import SIGNED
from opd_diag.analyses.rock_tokens.ranking import Ranking
from opd_diag.analyses.tables import interval_columns, result_table


def group_share_table(ranking: Ranking, rollouts: pl.DataFrame) -> pl.DataFrame:
    """Build one row for all, for each group, and for what training kept and dropped.

    Rocks are the types that the other half of the prompts lists, so a group's share of the loss is
    no share of what chose them.

    Args:
        ranking: The ranked types.
        rollouts: The rollouts, with `group` and `trained`.
    """
    occurrences = ranking.occurrences
    rock = on_other_half(ranking, rocks_by_half(ranking._replace(panel=ranking.sums)))
    loss = occurrences.loss[occurrences.ranked].astype(np.float64)
    row = occurrences.rollout[occurrences.at]
    known = pl.DataFrame({"rollout": occurrences.rollout_id})
    own = known.join(rollouts, on="rollout", how="left", maintain_order="left")
    prompts = ranking.sums.prompts(ranking.options.seed, by_half=True)
    tables = []
    everything = Parts("all", ["all"], np.zeros(own.height, np.int64))
    for parts in (everything, *parts_of(own)):
        code, size = parts.code[row], len(parts.names)

        def sums(values: Floats, code: Integers = code, size: int = size) -> Floats:
            """Sum over the tokens of each prompt and part. Shape (prompts, parts)."""
            cell = occurrences.prompt * size + code
            counted = np.bincount(cell, values, prompts.count * size)
            return counted.reshape(prompts.count, size).astype(np.float64)

        n, n_rock = sums(np.ones(loss.size)), sums(rock.astype(np.float64))
        whole, of_rocks = sums(loss), sums(loss * rock)
        share = prompts.ratio(n_rock, n)
        values: dict[str, Any] = {
            "split": parts.split,
            "group": parts.names,
            "n": n.sum(axis=0),
            "n_prompts": (n > 0).sum(axis=0),
            **interval_columns("position_share", share, share=True),
            "reason": SIGNED,
        }
        if not ranking.options.signed:
            of_loss = prompts.ratio(of_rocks, whole)
            lift = prompts.quotient(of_rocks, n_rock, whole, n)
            values |= interval_columns("loss_share", of_loss, share=True)
            values |= interval_columns("lift", lift) | {"reason": reasons.first(of_loss, lift)}
        tables.append(result_table("rock_by_group", values, **ranking.constants))
    return pl.concat(tables)
