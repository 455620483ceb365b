"""Result tables: where they stand, what made them, and whether they still hold."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.errors import TableError
from opd_diag.tables.columns import RESULTS
from opd_diag.tables.parquet import read_metadata, read_parquet, written_table
from opd_diag.tables.schema import check_table

METADATA_KEY = "opd_diag"
_NEEDED = {"arguments", "input_hash", "checkpoints", "versions"}


def result_path(folder: Path, name: str) -> Path:
    """Return where a result table stands in a folder of results."""
    return folder / f"{name}.parquet"


def write_results(
    folder: Path,
    tables: Mapping[str, pl.DataFrame],
    *,
    arguments: Mapping[str, Any],
    input_hash: str,
    checkpoints: Sequence[str],
    retokenised: int = 0,
) -> list[Path]:
    """Check the tables of one analysis and write them, each complete or not at all.

    A disk that is full leaves the tables of an earlier analysis as they were.

    Args:
        folder: Folder of results.
        tables: Tables by name, each known to `RESULTS`.
        arguments: Every choice that made them, JSON values.
        input_hash: Hash of what they were made from.
        checkpoints: The checkpoints that they cover.
        retokenised: Rollouts of the run that were tokenised again from text.

    Returns:
        The paths written.

    Raises:
        TableError: If a table breaks its schema; then none is written.
        StorageError: If one cannot be written.
    """
    checked = {name: check_table(table, RESULTS[name], name) for name, table in tables.items()}
    metadata = {
        "arguments": dict(arguments),
        "input_hash": input_hash,
        "checkpoints": list(checkpoints),
        "retokenised": retokenised,
        "versions": {name: version(name) for name in ("opd-diag", "polars", "numpy")},
    }
    text = {METADATA_KEY: json.dumps(metadata, allow_nan=False)}
    paths = {name: result_path(folder, name) for name in checked}
    # All are on the disk before the first takes the place of an earlier one.
    with contextlib.ExitStack() as written:
        for name, table in checked.items():
            written.enter_context(written_table(table, paths[name], text))
    return list(paths.values())


def read_result_metadata(path: Path) -> dict[str, Any]:
    """Read what made a result: `arguments`, `input_hash`, `checkpoints`, `retokenised`, `versions`.

    Raises:
        TableError: If the file is missing, damaged or no result of ours.
    """
    try:
        metadata: dict[str, Any] = json.loads(read_metadata(path)[METADATA_KEY])
        if not metadata.keys() >= _NEEDED:
            raise KeyError(*_NEEDED)
    except (KeyError, ValueError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{path}: no metadata of ours; expected a result of `analyze`") from None
    return metadata


def read_result(path: Path) -> pl.DataFrame:
    """Read a result table and check it.

    Raises:
        TableError: If the file is missing, damaged, unknown or breaks its schema.
    """
    if path.stem not in RESULTS:
        raise TableError(f"{path}: unknown result; expected one of {', '.join(RESULTS)}")
    return check_table(read_parquet(path), RESULTS[path.stem], str(path))
