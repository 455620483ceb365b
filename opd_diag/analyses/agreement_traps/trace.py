"""One rollout token by token: its KL, the mean of the window, the phase."""

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint
from opd_diag.analyses.agreement_traps.rule import PHASES, part, phase_sizes
from opd_diag.analyses.tables import result_table
from opd_diag.stats.ragged import starts_of
from opd_diag.stats.windows import moving_means
from opd_diag.tables.columns.agreement_traps import TRAP_TRACE
from opd_diag.tables.schema import empty_table

SIDE = 0.1  # share of a rollout that is enough to see what stands before and after a stretch


def trap_trace(checkpoint: Checkpoint) -> pl.DataFrame:
    """Write one rollout token by token.

    Returns:
        The table `trap_trace`, without rows where no rollout is long enough.
    """
    row = _chosen(checkpoint)
    if row is None:
        return empty_table(TRAP_TRACE)
    window, n = checkpoint.options.window, int(checkpoint.lengths[row])
    start = int(starts_of(checkpoint.lengths)[row])
    kl = checkpoint.kl[start : start + n]
    mean = np.full(n, np.nan)
    mean[window - 1 :] = moving_means(
        kl, [n], size=window, breaks=part(checkpoint.breaks, slice(start, start + n))
    ).means
    sizes = phase_sizes(checkpoint.cuts, checkpoint.lengths)[row]
    names = PHASES[:3] if checkpoint.fired[row] else ("untriggered",) * 3
    return result_table(
        "trap_trace",
        {
            "position": checkpoint.position[start : start + n],
            "kl": kl,
            "mean_kl": mean,
            "phase": np.repeat(names, sizes),
        },
        checkpoint=checkpoint.name,
        rollout=checkpoint.rollouts["rollout"][row],
        threshold=float(checkpoint.threshold[row]),
    )


def _chosen(checkpoint: Checkpoint) -> int | None:
    """Take the rollout asked for, or the longest stretch with tokens on both sides of it."""
    if checkpoint.options.trace is not None:
        rollouts = checkpoint.rollouts["rollout"].to_numpy()
        return int(np.searchsorted(rollouts, checkpoint.options.trace))
    if not checkpoint.eligible.any():
        return None
    cuts, side = checkpoint.cuts, SIDE * checkpoint.lengths
    before, after = cuts.kept >= side, checkpoint.lengths - cuts.stretch_end >= side
    stretch = cuts.stretch_end - cuts.kept
    keys = (stretch, before & after, before, checkpoint.fired, checkpoint.eligible)
    return int(np.lexsort(keys)[-1])
