"""Build `rock_outputs`: rocks in every rollout, and the hard tokens that are none."""

import numpy as np
import polars as pl

from opd_diag.analyses.rock_tokens.occurrences import Floats
from opd_diag.analyses.rock_tokens.ranking import Ranking
from opd_diag.analyses.tables import ratio, result_table

EVENT = 0.95
NO_TOKEN, NO_LOSS = "no token in the loss", "no loss"
SIGNED = "the loss can be negative: no share of it"


def output_table(ranking: Ranking) -> pl.DataFrame:
    """Build one row per rollout."""
    occurrences = ranking.occurrences
    rollouts = occurrences.rollout_id.size
    rollout = occurrences.rollout[occurrences.at]
    rock = ranking.is_rock[occurrences.kind[occurrences.at]]
    loss = occurrences.loss[occurrences.ranked].astype(np.float64)
    event = loss >= np.quantile(loss, EVENT)

    def sums(values: Floats | None = None) -> Floats:
        return np.bincount(rollout, values, rollouts).astype(np.float64)

    n, all_loss, rocks = sums(), sums(loss), sums(rock.astype(np.float64))
    able = (all_loss > 0) & (not ranking.options.signed)
    values = {
        "rollout": occurrences.rollout_id,
        "prompt_id": [occurrences.prompt_id[i] for i in occurrences.rollout_prompt],
        "n": n,
        "n_rock": rocks,
        "rock_share": ratio(rocks, n),
        "rock_loss_share": ratio(sums(loss * rock), np.where(able, all_loss, 0)),
        "n_events": sums(event.astype(np.float64)),
        "n_events_not_rock": sums((event & ~rock).astype(np.float64)),
        "n_dropped": occurrences.dropped,
        "reason": np.select(
            [n == 0, np.full(rollouts, ranking.options.signed), all_loss <= 0],
            [NO_TOKEN, SIGNED, NO_LOSS],
            "",
        ),
    }
    return result_table("rock_outputs", values, **ranking.constants)
