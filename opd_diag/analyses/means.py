"""Means of the headline columns, the first look at a scored run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from opd_diag.stats.bootstrap import ratio
from opd_diag.tables.columns.tokens import TOKENS
from opd_diag.tables.run import Run
from opd_diag.tables.source import Tokens, as_source, choose_checkpoints

HEADLINE = ("reverse_kl", "forward_kl", "student_entropy", "teacher_entropy", "grad_logits")


def column_means(
    run: Run | str | Path | Tokens,
    rollouts: pl.DataFrame | None = None,
    *,
    checkpoint: str | Sequence[str] | None = None,
    columns: Sequence[str] = HEADLINE,
    seed: int = 0,
) -> pl.DataFrame:
    """Average columns over the tokens in the loss, with intervals over prompts.

    Args:
        run: A run, its folder, or a token table.
        rollouts: The rollouts, beside a token table.
        checkpoint: Checkpoints to look at; all by default.
        columns: Names of numeric columns of the token table.
        seed: Seed of the bootstrap.

    Returns:
        One row per checkpoint and column: checkpoint, column, unit, mean, mean_low, mean_high, n
        (tokens with a value), reason (why there is no interval, or what weakens it).

    Raises:
        TableError: If a checkpoint is unknown or its table is damaged.
    """
    source = as_source(run, rollouts)
    units = {column.name: column.unit for column in TOKENS}
    prompts = source.rollouts.lazy().select("rollout", "prompt_id")
    rows = []
    for name in choose_checkpoints(source, checkpoint):
        sums = (
            source.tokens(name)
            .filter("in_loss")
            .select("rollout", *columns)
            .join(prompts, on="rollout")
            .group_by("prompt_id")
            .agg(
                *(pl.col(c).cast(pl.Float64).sum().alias(f"{c}_sum") for c in columns),
                *(pl.col(c).count().cast(pl.Float64).alias(f"{c}_n") for c in columns),
            )
            .sort("prompt_id")
            .collect()
        )
        counts = sums.select(f"{c}_n" for c in columns).to_numpy()
        found = ratio(sums.select(f"{c}_sum" for c in columns).to_numpy(), counts, seed=seed)
        for i, column in enumerate(columns):
            ends = (found.estimate[i], found.low[i], found.high[i])
            values = [float(end) if np.isfinite(end) else None for end in ends]
            n = int(counts[:, i].sum())
            rows.append((name, column, units[column], *values, n, str(found.reason[i])))
    header = ("checkpoint", "column", "unit", "mean", "mean_low", "mean_high", "n", "reason")
    return pl.DataFrame(rows, schema=header, orient="row")
