"""The table `release_correlation`: student against teacher log-probs, early and late."""

import polars as pl

from opd_diag.analyses.tables import result_table

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
            value = pl.corr(*pair, method=method)
            wanted.append(pl.when(inside.sum() >= MIN_TOKENS).then(value).alias(f"{method}_{side}"))
    return both.group_by("row", maintain_order=True).agg(wanted)


def correlation_table(
    checkpoint: str, measured: pl.DataFrame, rollouts: pl.DataFrame
) -> pl.DataFrame:
    """Give every rollout its correlations, or the reason why it has none.

    Args:
        checkpoint: Name of the checkpoint.
        measured: Rows of `correlations`, of all batches.
        rollouts: All rollouts.
    """
    table = (
        rollouts.select("rollout", "prompt_id")
        .with_row_index("row")
        .join(measured, on="row", how="left", maintain_order="left")
        .drop("row")
        .with_columns(pl.col("n_early", "n_late").fill_null(0))
    )
    short = pl.min_horizontal("n_early", "n_late") < MIN_TOKENS
    names = [f"{m}_{side}" for side in ("early", "late") for m in ("pearson", "spearman")]
    constant = pl.any_horizontal(~pl.col(names).is_finite().fill_null(value=False))
    reason = (
        pl.when(short)
        .then(pl.lit(f"fewer than {MIN_TOKENS} tokens on a side"))
        .when(constant)
        .then(pl.lit("constant"))
    )
    return result_table(
        "release_correlation",
        table.with_columns(reason=reason).with_columns(
            pl.when(~short).then(pl.col(name)).alias(name) for name in names
        ),
        checkpoint=checkpoint,
    )
