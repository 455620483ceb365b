"""The table `loss_groups`: whether a loss is off in one domain and not in another."""

from collections.abc import Sequence

import polars as pl

from opd_diag.analyses import reasons
from opd_diag.analyses.groups import parts_of
from opd_diag.analyses.loss_audit.estimators import Estimator
from opd_diag.analyses.loss_audit.sums import Sums
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.tables.columns.loss_audit import LOSS_GROUPS
from opd_diag.tables.schema import empty_table


def groups_table(
    checkpoint: str,
    estimators: Sequence[Estimator],
    sums: Sequence[Sums],
    rollouts: pl.DataFrame,
    prompts: Prompts,
) -> pl.DataFrame:
    """Compare every estimator with the exact KL inside each group of rollouts."""
    tables = []
    for parts in parts_of(rollouts):
        members = parts.members()
        for estimator, one in zip(estimators, sums, strict=True):
            n, value, exact = (prompts.sums(members * x[:, None]) for x in one.rollout.T)
            bias = prompts.ratio(value - exact, n)
            values = {
                "estimator": estimator.name,
                "split": parts.split,
                "group": parts.names,
                "n_rollouts": ((one.rollout[:, :1] > 0) & members).sum(axis=0),
                "n": n.sum(axis=0),
                "n_prompts": (n > 0).sum(axis=0),
                "reason": reasons.first(bias),
            }
            for name, interval in (
                ("mean", prompts.ratio(value, n)),
                ("exact", prompts.ratio(exact, n)),
                ("bias", bias),
                ("relative", prompts.ratio(value, exact)),
            ):
                values |= interval_columns(name, interval)
            tables.append(result_table("loss_groups", values, checkpoint=checkpoint))
    if not tables:
        return empty_table(LOSS_GROUPS)
    return pl.concat(tables).filter(pl.col("n") > 0)
