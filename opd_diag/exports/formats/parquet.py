"""Parquet in our own keys: for a loader of one's own, and for reading an export back."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from opd_diag.exports.samples import Sample
from opd_diag.tables.parquet import write_table

BINARY = False
LOADED_BY = "a loader of your own"

SCHEMA = pl.Schema(
    {
        "rollout_id": pl.String(),
        "prompt_id": pl.String(),
        "prompt_token_ids": pl.List(pl.Int32),
        "response_token_ids": pl.List(pl.Int32),
        "weights": pl.List(pl.Float32),
        "kept": pl.List(pl.Boolean),
    }
)


def write(samples: Iterable[Sample], folder: Path) -> Path:
    """Write `rollouts.parquet`: ids, weights, and which tokens have a weight above 0."""
    rows = [
        (
            sample.row["rollout_id"],
            sample.row["prompt_id"],
            sample.prompt,
            sample.response,
            sample.weights,
            [weight > 0 for weight in sample.weights],
        )
        for sample in samples
    ]
    path = folder / "rollouts.parquet"
    write_table(pl.DataFrame(rows, schema=SCHEMA, orient="row"), path)
    return path
