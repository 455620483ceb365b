"""Build `rock_example`: one rollout token by token."""

import numpy as np
import polars as pl

from opd_diag.analyses.rock_tokens.ranking import Ranking
from opd_diag.analyses.tables import result_table


def example_table(
    ranking: Ranking, outputs: pl.DataFrame, vocabulary: pl.DataFrame | None
) -> pl.DataFrame:
    """Build one row per token of the rollout whose share of rocks is nearest to the median.

    Args:
        ranking: The ranked types.
        outputs: The table of rollouts.
        vocabulary: What the types spell, or None.
    """
    occurrences = ranking.occurrences
    share = outputs["rock_share"]
    chosen = (share - share.median()).abs().arg_min()
    tokens = np.flatnonzero(occurrences.rollout == chosen)
    value = np.full(tokens.size, np.nan)
    inside = np.flatnonzero(occurrences.rollout[occurrences.at] == chosen)
    value[np.searchsorted(tokens, occurrences.at[inside])] = occurrences.loss[
        occurrences.ranked, inside
    ]
    kind = occurrences.kind[tokens]
    values = {
        "rollout": np.full(tokens.size, occurrences.rollout_id[chosen]),
        "position": occurrences.position[tokens],
        "token_id": occurrences.token_id[kind],
        "value": value,
        "is_rock": ranking.is_rock[kind],
    }
    frame = pl.DataFrame(values)
    if vocabulary is not None:
        texts = vocabulary.select("token_id", "text")
        frame = frame.join(texts, on="token_id", how="left", maintain_order="left")
    return result_table("rock_example", frame, **ranking.constants)
