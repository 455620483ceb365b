"""The table `loss_bins`: what estimators make of tokens of small and of large KL."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from opd_diag.analyses.loss_audit.estimators import Estimator
from opd_diag.analyses.loss_audit.sums import STARTS, Sums
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.tables import interval_columns, ratio, result_table


def bins_table(
    checkpoint: str, estimators: Sequence[Estimator], sums: Sequence[Sums], prompts: Prompts
) -> pl.DataFrame:
    """Average every estimator in bins of the exact KL; empty bins are left out."""
    parts = []
    for estimator, one in zip(estimators, sums, strict=True):
        n, e, x = np.moveaxis(one.bins, -1, 0)
        mean = prompts.ratio(e, n)
        values = {
            "estimator": estimator.name,
            "bin": np.arange(STARTS.size),
            "start": STARTS,
            "end": np.append(STARTS[1:], np.nan),
            "n": n.sum(axis=0),
            "n_prompts": (n > 0).sum(axis=0),
            "exact": ratio(x.sum(axis=0), n.sum(axis=0)),
            "reason": mean.reason,
        } | interval_columns("mean", mean)
        parts.append(result_table("loss_bins", values, checkpoint=checkpoint))
    return pl.concat(parts).filter(pl.col("n") > 0)
