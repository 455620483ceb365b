"""The KL of all rollouts in bins, sorted by onset."""

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint
from opd_diag.analyses.tables import result_table
from opd_diag.stats.ragged import index_in_sequence, starts_of

MAP_ROLLOUTS = 300
MAP_BINS = 120


def trap_map(checkpoint: Checkpoint) -> pl.DataFrame:
    """Average KL in bins of tokens, one row of the map for each of at most 300 rollouts.

    Rollouts are sorted by the share of tokens before the cut, those without a cut last, and taken
    at equal distances where there are too many.

    Returns:
        The table `trap_map`.
    """
    lengths, fired = checkpoint.lengths, checkpoint.fired
    kept = np.where(checkpoint.eligible, checkpoint.cuts.kept, lengths)
    order = np.lexsort((lengths, kept, ~fired))
    order = order[lengths[order] > 0]
    some = order[np.linspace(0, order.size - 1, min(MAP_ROLLOUTS, order.size)).astype(np.int64)]
    n = lengths[some]
    width = max(1, -(-int(n.max(initial=1)) // MAP_BINS))
    bins = -(-n // width)
    place = index_in_sequence(n)
    cell = np.repeat(starts_of(bins), n) + place // width
    kl = checkpoint.kl[np.repeat(starts_of(lengths)[some], n) + place]
    count = np.bincount(cell, minlength=int(bins.sum()))
    start = index_in_sequence(bins) * width
    owner = np.repeat(np.arange(n.size), bins)
    return result_table(
        "trap_map",
        {
            "row": owner,
            "rollout": checkpoint.rollouts["rollout"].to_numpy()[some][owner],
            "start": start,
            "end": start + width,
            "n": count,
            "mean_kl": np.bincount(cell, kl, minlength=count.size) / count,
            "cut": np.where(fired, kept, np.nan)[some][owner],
        },
        checkpoint=checkpoint.name,
    )
