"""Tables for two figures: the map of KL over all rollouts, and the windows of one."""

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.estimates import filled, nulls
from opd_diag.analyses.agreement_traps.phases import phase_sizes
from opd_diag.analyses.agreement_traps.study import Study
from opd_diag.analyses.agreement_traps.tokens import ranges
from opd_diag.stats.windows import moving_means

MAP_ROLLOUTS = 300
MAP_BINS = 120


def trap_map(study: Study) -> pl.DataFrame:
    """Average KL in bins of tokens, one row of the map for each of at most 300 rollouts.

    Rollouts are sorted by the share of tokens before the cut, those without a cut last, and taken
    at equal distances where there are too many.

    Returns:
        Rows of `TRAP_MAP` without `checkpoint`.
    """
    lengths, cuts = study.tokens.lengths, study.cuts
    kept = np.where(study.eligible, cuts.kept, lengths)
    order = np.lexsort((lengths, kept, ~(cuts.triggered & study.eligible)))
    order = order[lengths[order] > 0]
    some = order[np.linspace(0, order.size - 1, min(MAP_ROLLOUTS, order.size)).astype(np.int64)]
    n = lengths[some]
    width = max(1, -(-int(n.max(initial=1)) // MAP_BINS))
    bins = -(-n // width)
    starts = np.cumsum(lengths) - lengths
    place = ranges(np.zeros_like(n), n)
    cell = np.repeat(np.cumsum(bins) - bins, n) + place // width
    kl = study.tokens.kl[np.repeat(starts[some], n) + place]
    count = np.bincount(cell, minlength=int(bins.sum()))
    first = ranges(np.zeros_like(bins), bins) * width
    owner = np.repeat(np.arange(n.size), bins)
    cut = np.where(cuts.triggered & study.eligible, cuts.kept, -1)[some][owner]
    return pl.DataFrame(
        {
            "row": owner,
            "rollout": study.rollouts["rollout"].to_numpy()[some][owner],
            "start": first,
            "end": first + width,
            "n": count,
            "mean_kl": np.bincount(cell, kl, minlength=count.size) / count,
            "cut": filled(cut >= 0, cut),
        },
        strict=False,
    )


def trap_trace(study: Study) -> pl.DataFrame:
    """Write one rollout token by token: its KL, the mean of the window, the phase.

    Returns:
        Rows of `TRAP_TRACE` without `checkpoint`; none where no rollout is long enough.
    """
    row = _chosen(study)
    if row is None:
        return pl.DataFrame()
    lengths, window = study.tokens.lengths, study.options.rule.window
    start = int(lengths[:row].sum())
    n = int(lengths[row])
    kl = study.tokens.kl[start : start + n]
    mean = np.full(n, np.nan)
    mean[window - 1 :] = moving_means(kl, [n], size=window).means
    sizes = phase_sizes(study.cuts, lengths)[row]
    fired = bool(study.cuts.triggered[row] and study.eligible[row])
    names = ("pre", "agreement", "post") if fired else ("untriggered",) * 3
    threshold = study.threshold[row]
    return pl.DataFrame(
        {
            "rollout": [study.rollouts["rollout"][row]] * n,
            "position": study.tokens.position[start : start + n],
            "kl": nulls(kl),
            "mean_kl": nulls(mean),
            "threshold": nulls(np.full(n, threshold)),
            "phase": np.repeat(names, sizes).tolist(),
        },
        strict=False,
    )


def _chosen(study: Study) -> int | None:
    """Take the rollout asked for, or the one whose stretch is longest."""
    if study.options.trace is not None:
        return int(np.searchsorted(study.rollouts["rollout"].to_numpy(), study.options.trace))
    stretch = study.cuts.stretch_end - study.cuts.kept
    score = np.where(study.eligible, stretch, -1)
    return int(score.argmax()) if study.eligible.any() else None
