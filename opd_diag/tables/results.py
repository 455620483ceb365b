"""Result tables: where they stand, what made them, and whether they still hold."""

import contextlib
import json
import re
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
OWN_NAME = re.compile("[a-z][a-z0-9_]*")
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
        tables: Tables by name: those of `RESULTS`, which must have their columns, or a user's own.
        arguments: Every choice that made them, JSON values.
        input_hash: Hash of what they were made from.
        checkpoints: The checkpoints that they cover.
        retokenised: Rollouts of the run that were tokenised again from text.

    Returns:
        The paths written.

    Raises:
        TableError: If a table breaks its schema, or its name is no name; then none is written.
        StorageError: If one cannot be written.
    """
    checked = {name: _checked(name, table) for name, table in tables.items()}
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


def _checked(name: str, table: pl.DataFrame) -> pl.DataFrame:
    if name in RESULTS:
        return check_table(table, RESULTS[name], name)
    if not OWN_NAME.fullmatch(name):
        raise TableError(
            f"name: {name!r}; expected lower-case letters, digits and _ for a table of your own"
        )
    return table


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
    """Read a result table and check it; a user's own is read as it is.

    Raises:
        TableError: If the file is missing or damaged, breaks its schema, or was not written by
            `Run.save`.
    """
    if path.stem in RESULTS:
        return check_table(read_parquet(path), RESULTS[path.stem], str(path))
    read_result_metadata(path)
    return read_parquet(path)
