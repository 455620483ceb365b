"""TRL's SFTTrainer: pre-tokenised rows with labels, which it leaves as they are.

`load_dataset("parquet", data_files=...)`, then `SFTTrainer(train_dataset=...)`. Labels cannot hold
weights, so these have to be 0 or 1.
"""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from opd_diag.exports.samples import Sample
from opd_diag.tables.parquet import write_table

BINARY = True
LOADED_BY = 'SFTTrainer(train_dataset=load_dataset("parquet", data_files=...)), max_length=None'


def write(samples: Iterable[Sample], folder: Path) -> Path:
    """Write `train.parquet`: input_ids, and labels that are -100 where nothing is trained."""
    rows = [(sample.whole, sample.labels()) for sample in samples]
    schema = {"input_ids": pl.List(pl.Int64), "labels": pl.List(pl.Int64)}
    path = folder / "train.parquet"
    write_table(pl.DataFrame(rows, schema=schema, orient="row"), path)
    return path
