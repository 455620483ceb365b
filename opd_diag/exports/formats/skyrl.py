"""SkyRL's pretokenised rows: input_ids, and loss_mask of 0 and 1 over the whole sequence."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from opd_diag.exports.samples import Sample
from opd_diag.tables.parquet import write_table

BINARY = True
LOADED_BY = "pretokenised SFT data: the file"


def write(samples: Iterable[Sample], folder: Path) -> Path:
    """Write `train.parquet`."""
    rows = [(sample.whole, [0] * len(sample.prompt) + sample.mask) for sample in samples]
    schema = {"input_ids": pl.List(pl.Int64), "loss_mask": pl.List(pl.Int64)}
    path = folder / "train.parquet"
    write_table(pl.DataFrame(rows, schema=schema, orient="row"), path)
    return path
