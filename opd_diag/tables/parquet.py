"""Parquet files, written whole or not at all, read with one clear line when damaged."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from opd_diag.errors import TableError, first_line
from opd_diag.tables.checksums import embed_checksum, room_for_checksum
from opd_diag.tables.files import atomic_path, require_regular


def write_table(frame: pl.DataFrame, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a table to Parquet, complete or not at all.

    Raises:
        StorageError: If it cannot be written.
    """
    with written_table(frame, path, metadata):
        pass


@contextlib.contextmanager
def written_table(
    frame: pl.DataFrame, path: Path, metadata: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Write a table to Parquet, and give it its name when the block ends without an error.

    Raises:
        StorageError: If it cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            frame.write_parquet(temporary, metadata=dict(metadata or {}))
            if room_for_checksum() in (metadata or {}).values():
                embed_checksum(temporary)
        except pl.exceptions.ComputeError as error:  # so polars tells of a disk that is full
            raise OSError(str(error).rpartition("IO error: ")[2]) from error
        yield


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a Parquet file.

    Raises:
        TableError: If the file is missing or damaged.
    """
    with _readable(path):
        return pl.read_parquet(path, hive_partitioning=False, glob=False)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the key-value metadata of a Parquet file.

    Raises:
        TableError: If the file is missing or damaged.
    """
    with _readable(path):
        return pl.read_parquet_metadata(path)


def n_rows(path: Path) -> int:
    """Return the number of rows of a Parquet file, read from its footer.

    Raises:
        TableError: If the file is missing or damaged.
    """
    with _readable(path):
        lazy = pl.scan_parquet(path, hive_partitioning=False, glob=False)
        return int(lazy.select(pl.len()).collect().item())


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        require_regular(path)
        yield
    except FileNotFoundError:
        raise TableError(f"{path}: no such file; expected a Parquet table") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = first_line(error)
        raise TableError(f"{path}: damaged ({reason}); expected a whole Parquet file") from error
