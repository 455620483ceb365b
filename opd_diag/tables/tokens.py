"""The token table: parts on disk, one folder for each checkpoint."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.errors import TableError
from opd_diag.tables.columns.tokens import token_columns, with_later_columns
from opd_diag.tables.manifest import Manifest
from opd_diag.tables.parquet import n_rows, read_metadata, write_table
from opd_diag.tables.schema import check_table

METADATA_KEY = "opd_diag"
_NEEDED = {"keys", "statistics"}
SAME_UNDER_EVERY_CHECKPOINT = ("rollout", "position", "token_id", "segment", "in_loss", "repeat")


def part_path(run: Path, checkpoint: str, part: int) -> Path:
    """Return where a part of the token table stands."""
    return run / "tokens" / f"checkpoint={checkpoint}" / f"part-{part:05d}.parquet"


def write_part(
    frame: pl.DataFrame,
    run: Path,
    checkpoint: str,
    part: int,
    *,
    k_grid: Sequence[int],
    statistics: Mapping[str, Any],
) -> None:
    """Check a part and write it, complete or not at all.

    Args:
        frame: Rows of whole rollouts, sorted by (rollout, position), without `checkpoint`,
            which the folder's name holds.
        run: Folder of the run.
        checkpoint: Name of the checkpoint.
        part: Number of the part, from 0.
        k_grid: The K of the array columns.
        statistics: Counts and sums of this part, JSON values; `read_part_metadata`
            gives them back.

    Raises:
        TableError: If the frame breaks the schema.
        StorageError: If it cannot be written.
    """
    path = part_path(run, checkpoint, part)
    columns = token_columns(k_grid)[1:]
    frame = check_table(frame, columns, str(path))
    metadata = {"keys": keys_digest(frame), "statistics": dict(statistics)}
    write_table(frame, path, {METADATA_KEY: json.dumps(metadata, allow_nan=False)})


def keys_digest(frame: pl.DataFrame) -> str:
    """Return a sha256 over the columns that do not depend on the checkpoint."""
    whole = hashlib.sha256()
    for name in SAME_UNDER_EVERY_CHECKPOINT:
        whole.update(frame[name].to_numpy().tobytes())
    return whole.hexdigest()


def read_part_metadata(run: Path, checkpoint: str, part: int, manifest: Manifest) -> dict[str, Any]:
    """Read the metadata of a part: `keys` and `statistics`.

    Raises:
        TableError: If the part is missing, damaged or was not written by `write_part`.
    """
    path = part_path(run, checkpoint, part)
    manifest.verify_file(run, path)
    try:
        metadata: dict[str, Any] = json.loads(read_metadata(path)[METADATA_KEY])
        if not metadata.keys() >= _NEEDED:
            raise KeyError(*_NEEDED)
    except (KeyError, ValueError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{path}: no metadata of ours; expected a part made by `score`") from None
    return metadata


def scan_tokens(run: Path, checkpoint: str, manifest: Manifest) -> pl.LazyFrame:
    """Scan the token table of one checkpoint.

    Args:
        run: Folder of the run.
        checkpoint: Name of the checkpoint.
        manifest: Its manifest.

    Returns:
        Rows sorted by (rollout, position), the column `checkpoint` first.

    Raises:
        TableError: If a part is missing, damaged, of another run, or has another number of rows.
    """
    paths = [part_path(run, checkpoint, part) for part in range(len(manifest.parts))]
    missing = [path.name for path in paths if not (path.exists() and manifest.lists(run, path))]
    if missing:
        raise TableError(
            f"{paths[0].parent}: {len(missing)} of {len(paths)} parts are missing, first "
            f"{missing[0]}; expected all (run the same `opd-diag score` again to go on)"
        )
    # Hashing leaves the interpreter free for other threads.
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda path: manifest.verify_file(run, path), paths))
    for path, part in zip(paths, manifest.parts, strict=True):
        rows = n_rows(path)
        if rows != part.rows:
            raise TableError(f"{path}: {rows} rows; expected {part.rows}")
    names = [column.name for column in token_columns(manifest.k_grid)[1:]]
    frames = pl.scan_parquet(paths, hive_partitioning=False, glob=False)
    frames = with_later_columns(frames, manifest.k_grid)
    return frames.select(pl.lit(checkpoint).alias("checkpoint"), *names)
