"""Axolotl: rows with input_ids, attention_mask and labels count as tokenised and pass through.

`datasets: [{path: train.parquet, ds_type: parquet}]`. Weights have to be 0 or 1.
"""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from opd_diag.exports.samples import Sample
from opd_diag.tables.parquet import write_table

BINARY = True
LOADED_BY = "datasets: [{path: train.parquet, ds_type: parquet}]"

COLUMNS = ("input_ids", "attention_mask", "labels")


def tokenised_rows(samples: Iterable[Sample]) -> pl.DataFrame:
    """Return one row per rollout with the three columns of a tokenised dataset."""
    rows = [(sample.whole, [1] * len(sample.whole), sample.labels()) for sample in samples]
    schema = dict.fromkeys(COLUMNS, pl.List(pl.Int64))
    return pl.DataFrame(rows, schema=schema, orient="row")


def write(samples: Iterable[Sample], folder: Path) -> Path:
    """Write `train.parquet`."""
    path = folder / "train.parquet"
    write_table(tokenised_rows(samples), path)
    return path
