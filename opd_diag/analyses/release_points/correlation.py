"""Correlate what student and teacher say of the sampled tokens, early and late in a rollout."""

import polars as pl

from opd_diag.analyses.release_points.groups import as_table
from opd_diag.tables.columns.release_points import RELEASE_CORRELATION

FRACTION = 5  # a fifth of the response on each side
MIN_TOKENS = 32


def correlations(batch: pl.DataFrame) -> pl.DataFrame:
    """Correlate student_logp and teacher_logp in the first and last 20 % of each rollout.

    Args:
        batch: Tokens with `row`, `index`, `n_tokens` and both log-probs.

    Returns:
        One row per rollout: row, n_early, n_late, and Pearson's and Spearman's correlation of
        each side, null where it has fewer than 32 tokens or one of the two is constant.
    """
    both = batch.filter(pl.col("student_logp").is_not_null() & pl.col("teacher_logp").is_not_null())
    place = pl.col("index") * FRACTION
    size = pl.col("n_tokens")
    sides = {"early": place < size, "late": place >= (FRACTION - 1) * size}
    wanted = []
    for side, inside in sides.items():
        pair = (pl.col("student_logp").filter(inside), pl.col("teacher_logp").filter(inside))
        wanted.append(inside.sum().alias(f"n_{side}"))
        for method in ("pearson", "spearman"):
            found = pl.corr(*pair, method=method)
            wanted.append(pl.when(inside.sum() >= MIN_TOKENS).then(found).alias(f"{method}_{side}"))
    return both.group_by("row", maintain_order=True).agg(wanted)


def correlation_table(found: pl.DataFrame, rollouts: pl.DataFrame) -> pl.DataFrame:
    """Give every rollout its correlations, or the reason why it has none.

    Returns:
        `RELEASE_CORRELATION` without the checkpoint, in the order of `rollouts`.
    """
    table = (
        rollouts.select("rollout", "prompt_id")
        .with_row_index("row")
        .join(found, on="row", how="left", maintain_order="left")
        .with_columns(pl.col("n_early", "n_late").fill_null(0))
    )
    short = pl.min_horizontal("n_early", "n_late") < MIN_TOKENS
    measured = [f"{m}_{side}" for side in ("early", "late") for m in ("pearson", "spearman")]
    constant = pl.any_horizontal(~pl.col(measured).is_finite().fill_null(value=False))
    reason = (
        pl.when(short)
        .then(pl.lit(f"fewer than {MIN_TOKENS} tokens on a side"))
        .when(constant)
        .then(pl.lit("constant"))
    )
    table = table.with_columns(reason=reason).with_columns(
        pl.when(~short).then(pl.col(name)).alias(name) for name in measured
    )
    return as_table(table.to_dict(), RELEASE_CORRELATION[1:])
