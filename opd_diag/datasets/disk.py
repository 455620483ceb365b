"""Write a generated run to disk, so that every command can be tried without a model."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl

from opd_diag.datasets.base import Dataset
from opd_diag.tables.columns.rollouts import VOCAB
from opd_diag.tables.gradients import GradientSums, write_gradients
from opd_diag.tables.manifest import Checkpoint, Manifest, Model, Part, write_manifest
from opd_diag.tables.parquet import write_table
from opd_diag.tables.rollouts import ROLLOUTS_NAME, VOCAB_NAME
from opd_diag.tables.run import Run, open_run
from opd_diag.tables.schema import polars_schema
from opd_diag.tables.tokens import write_part
from opd_diag.tables.verify import list_files

HIDDEN = 8


def save_run(dataset: Dataset, path: str | Path, *, seed: int = 0) -> Run:
    """Write a generated run to a folder, as one part for each checkpoint.

    The vocabulary spells every id as its number, and the gradient sums are those of independent
    standard normal gradients of 8 dimensions.

    Args:
        dataset: The run in memory.
        path: Folder of the run.
        seed: Seed of the gradients.

    Returns:
        The run, opened.

    Raises:
        TableError: If a table breaks its schema.
        StorageError: If a file cannot be written.
    """
    folder = Path(path)
    tokens, rollouts = dataset.tokens, dataset.rollouts
    k_grid = list(dataset.k_grid)
    names = tokens["checkpoint"].unique(maintain_order=True).to_list()
    write_table(rollouts, folder / ROLLOUTS_NAME)
    write_table(_vocabulary(1 + int(tokens["token_id"].max())), folder / VOCAB_NAME)  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    for name in names:
        rows = tokens.filter(pl.col("checkpoint") == name).drop("checkpoint")
        write_part(rows, folder, name, 0, k_grid=k_grid, statistics={})
        write_gradients(_gradients(rows, rollouts, rng), folder, name, 0)
    manifest = Manifest(
        fingerprint={"k_grid": k_grid, "generated": seed},
        parts=(Part(0, rollouts.height, rows.height),),
        teacher=Model("generated"),
        checkpoints={name: Checkpoint("generated", fingerprint=name) for name in names},
        rollouts={"source": "generated"},
        versions={"opd-diag": version("opd-diag")},
    )
    list_files(folder, manifest)
    write_manifest(folder, manifest)
    return open_run(folder)


def _vocabulary(size: int) -> pl.DataFrame:
    text = [f" {token_id}" for token_id in range(size)]
    return pl.DataFrame(
        {
            "token_id": range(size),
            "text": text,
            "bytes": [word.encode() for word in text],
            "is_special": [False] * size,
        },
        schema=polars_schema(VOCAB),
    )


def _gradients(
    tokens: pl.DataFrame, rollouts: pl.DataFrame, rng: np.random.Generator
) -> GradientSums:
    kinds = (
        tokens.lazy()
        .filter("in_loss")
        .join(rollouts.lazy().select("rollout", "half"), on="rollout")
        .group_by("token_id", "half")
        .len()
        .sort("token_id", "half")
        .collect()
    )
    n = kinds["len"].to_numpy().astype(np.int64)
    # A sum of n standard normal vectors, and the sum of their squared norms given that sum.
    sums = rng.standard_normal((n.size, HIDDEN)) * np.sqrt(n)[:, None]
    within = rng.chisquare(np.maximum(HIDDEN * (n - 1), 1)) * (n > 1)
    return GradientSums(
        kinds["token_id"].to_numpy(),
        kinds["half"].to_numpy(),
        n,
        sums.astype(np.float32),
        (sums**2).sum(axis=1) / n + within,
    )
