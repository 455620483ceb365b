"""Result tables: where they stand, what made them, and whether they still hold."""

import contextlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.errors import TableError, first_line
from opd_diag.tables.checksums import digest_table, room_for_checksum, verify_embedded
from opd_diag.tables.columns import RESULTS
from opd_diag.tables.manifest import digest
from opd_diag.tables.parquet import read_metadata, read_parquet, written_table
from opd_diag.tables.schema import check_table

METADATA_KEY = "opd_diag"
CONTENT_KEY = "opd_diag_content"
BYTES_KEY = "opd_diag_bytes"
OWN_NAME = re.compile("[a-z][a-z0-9_]*")
_NEEDED = {"arguments": dict, "input_hash": str, "checkpoints": list, "versions": dict}
_LATER = {"columns", "run_checkpoints"}  # results of schema version 2 lack both


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
    run_checkpoints: Sequence[str],
    retokenised: int = 0,
    teacher_source: str = "weights",
) -> list[Path]:
    """Check the tables of one analysis and write them, each complete or not at all.

    A disk that is full leaves the tables of an earlier analysis as they were.

    Args:
        folder: Folder of results.
        tables: Tables by name: those of `RESULTS`, which must have their columns, or a user's own.
        arguments: Every choice that made them, JSON values.
        input_hash: Hash of what they were made from.
        checkpoints: The checkpoints that they cover.
        run_checkpoints: All checkpoints of the run.
        retokenised: Rollouts of the run that were tokenised again from text.
        teacher_source: Where the teacher's part of the scores comes from.

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
        "run_checkpoints": list(run_checkpoints),
        "retokenised": retokenised,
        "teacher_source": teacher_source,
        "versions": {name: version(name) for name in ("opd-diag", "polars", "numpy")},
    }
    texts = {
        name: json.dumps(metadata | {"columns": digest_columns(name)}, allow_nan=False)
        for name in checked
    }
    paths = {name: result_path(folder, name) for name in checked}
    # All are on the disk before the first takes the place of an earlier one.
    with contextlib.ExitStack() as written:
        for name, table in checked.items():
            text = texts[name]
            stored = {METADATA_KEY: text, CONTENT_KEY: _content(name, table, text)}
            stored[BYTES_KEY] = room_for_checksum()
            written.enter_context(written_table(table, paths[name], stored))
    return list(paths.values())


def _checked(name: str, table: pl.DataFrame) -> pl.DataFrame:
    if name in RESULTS:
        return check_table(table, RESULTS[name], name)
    if not OWN_NAME.fullmatch(name):
        raise TableError(
            f"name: {name!r}; expected lower-case letters, digits and _ for a table of your own"
        )
    return _as_read(table)


def digest_columns(name: str) -> str | None:
    """Return a digest of the names, dtypes and units of a result's columns; None: a user's own."""
    columns = RESULTS.get(name)
    if columns is None:
        return None
    return digest([[column.name, str(column.dtype), column.unit] for column in columns])


def read_result_metadata(path: Path) -> dict[str, Any]:
    """Read what made a result.

    Returns:
        `arguments`, `input_hash`, `checkpoints` that it covers, `run_checkpoints`, `retokenised`,
        `teacher_source`, `versions`, and `columns`, a digest of its columns then; an older result
        may lack `run_checkpoints`, `retokenised`, `teacher_source` and `columns`.

    Raises:
        TableError: If the file is missing, damaged or no result of ours.
    """
    _verify_bytes(path)
    try:
        metadata: dict[str, Any] = json.loads(read_metadata(path)[METADATA_KEY])
        if not _is_metadata(metadata):
            raise KeyError(*_NEEDED)
    except (KeyError, ValueError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{path}: no metadata of ours; expected a result of `analyze`") from None
    return metadata


def _verify_bytes(path: Path) -> None:
    """Check the bytes before they are decoded: at some damage the decoder ends the process."""
    try:
        verify_embedded(path)
    except FileNotFoundError:
        return  # whoever reads it says so
    except OSError as error:
        raise TableError(f"{path}: damaged ({error.strerror}); expected a readable file") from error


def _is_metadata(values: object) -> bool:
    return (
        isinstance(values, dict)
        and all(isinstance(values.get(name), kind) for name, kind in _NEEDED.items())
        and len(values.keys() & _LATER) != 1
        and _are_texts(values["checkpoints"])
        and _are_texts(values.get("run_checkpoints", []))
    )


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def read_result(path: Path) -> pl.DataFrame:
    """Read a result table and check it; a user's own is read as it is.

    Raises:
        TableError: If the file is missing or damaged, breaks its schema, or was not written by
            `Run.save`.
    """
    read_result_metadata(path)
    stored, table = read_metadata(path), read_parquet(path)
    if stored.get(CONTENT_KEY) != _content(path.stem, table, stored.get(METADATA_KEY, "")):
        raise TableError(
            f"{path}: damaged or edited (its content does not fit its checksum); expected the "
            "table as `opd-diag analyze` wrote it: the same command makes it again"
        )
    if path.stem in RESULTS:  # one of another version of the library may have other columns
        table = check_table(table, RESULTS[path.stem], str(path))
    return table


def _content(name: str, table: pl.DataFrame, metadata: str) -> str:
    """Return a checksum of a result's name, its values and what made it."""
    return digest([name, digest_table(table), metadata])


def _as_read(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table as it comes back from Parquet, where some dtypes are others."""
    with io.BytesIO() as file:
        try:
            table.write_parquet(file)
        except pl.exceptions.PolarsError as error:
            raise TableError(
                f"table: {first_line(error)}; expected dtypes that Parquet holds"
            ) from error
        file.seek(0)
        return pl.read_parquet(file)
