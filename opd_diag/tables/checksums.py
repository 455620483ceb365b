"""Checksums: whether a file is the one that the manifest of its run lists."""

import functools
import hashlib
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

import polars as pl

from opd_diag.errors import TableError
from opd_diag.tables.files import open_regular

# Results, and files of runs of schema version 1, hold their checksum among their metadata.
_MARK = b"sha256 of this file with 64 zeros here: "
_ZEROS = b"0" * 64
_WINDOW = 1 << 20  # a format keeps its metadata at one end of the file
_BLOCK = 1 << 20
_AS_TEXT = (pl.String, pl.Categorical, pl.Enum, pl.Decimal)


class Checksum(NamedTuple):
    """What identifies the bytes of a file.

    Attributes:
        sha256: Of all its bytes, as 64 hex digits.
        size: Number of bytes.
    """

    sha256: str
    size: int


def checksum(path: Path) -> Checksum:
    """Return the checksum of a file.

    It is read again only if its size, times or place on the disk are others than the last time.

    Raises:
        OSError: If it cannot be read or is no regular file.
    """
    stat = path.stat()
    return _checksum(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def forget_checksums() -> None:
    """Let every file be read again when its checksum is asked for."""
    _checksum.cache_clear()
    _verify_embedded.cache_clear()


@functools.lru_cache(maxsize=262_144)
def _checksum(path: Path, size: int, *_: int) -> Checksum:
    with open_regular(path) as file:
        return Checksum(hashlib.file_digest(file, "sha256").hexdigest(), size)


def verify(path: Path, expected: Checksum) -> None:
    """Check that a file is the one that a manifest lists.

    Raises:
        TableError: If it is another one.
        OSError: If it cannot be read or is no regular file.
    """
    if path.stat().st_size != expected.size or checksum(path) != expected:
        raise TableError(
            f"{path}: damaged, edited or of another run (its bytes are not those that the manifest "
            "lists); expected the file that `opd-diag score` wrote: the same command makes it "
            "again, and `opd-diag info --accept-edits` takes it as it is"
        )


def room_for_checksum() -> str:
    """Return what stands among the metadata of a file until `embed_checksum` fills it in."""
    return (_MARK + _ZEROS).decode()


def embed_checksum(path: Path) -> None:
    """Fill in the checksum of a file that is being written and has room for it.

    Raises:
        OSError: If it cannot be read or written.
    """
    with path.open("r+b") as file:
        place = _find(file)
        assert place is not None, path
        whole = _digest_without(file, place)
        file.seek(place)
        file.write(whole)


def verify_embedded(path: Path) -> None:
    """Check a file against the checksum inside it, before anybody decodes it.

    A file without one, such as one that another program wrote, passes.

    Raises:
        TableError: If a byte has changed.
        OSError: If the file cannot be read or is no regular file.
    """
    stat = path.stat()
    _verify_embedded(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.lru_cache(maxsize=65_536)
def _verify_embedded(path: Path, *_: int) -> None:
    with open_regular(path) as file:
        place = _find(file)
        if place is None:
            return
        file.seek(place)
        written = file.read(len(_ZEROS))
        if written != _digest_without(file, place):
            raise TableError(
                f"{path}: damaged (its bytes are not those that were written); expected the file "
                "as it was"
            )


def _find(file: BinaryIO) -> int | None:
    """Return where the digest stands: after the last mark at the end, or the first at the start."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _WINDOW)
    file.seek(start)
    at = file.read().rfind(_MARK)
    if at < 0 and start:
        start = 0
        file.seek(start)
        at = file.read(_WINDOW).find(_MARK)
    end = start + at + len(_MARK)
    return None if at < 0 or end + len(_ZEROS) > size else end


def _digest_without(file: BinaryIO, place: int) -> bytes:
    """Return the sha256 of a file in which the digest is zeros, as 64 hex digits."""
    whole = hashlib.sha256()
    file.seek(0)
    left = place
    while left and (block := file.read(min(left, _BLOCK))):
        whole.update(block)
        left -= len(block)
    whole.update(_ZEROS)
    file.seek(place + len(_ZEROS))
    while block := file.read(_BLOCK):
        whole.update(block)
    return whole.hexdigest().encode()


def digest_table(table: pl.DataFrame) -> str:
    """Return a sha256 over names, dtypes and values of a table."""
    whole = hashlib.sha256()
    for column in table:
        whole.update(f"{column.name} {column.dtype}\n".encode())
        _add_column(whole, column)
    return whole.hexdigest()


def _add_column(whole: "hashlib._Hash", column: pl.Series) -> None:
    whole.update(column.is_null().to_numpy().tobytes())
    if isinstance(column.dtype, pl.List):
        whole.update(column.list.len().fill_null(0).to_numpy().tobytes())
        _add_column(whole, column.drop_nulls().list.explode(empty_as_null=False))
    elif isinstance(column.dtype, pl.Struct):
        for field in column.struct.fields:
            _add_column(whole, column.struct.field(field))
    elif column.dtype in _AS_TEXT:
        column = column.cast(pl.String).cast(pl.Binary)
        whole.update(column.bin.size().fill_null(0).to_numpy().tobytes())
        whole.update(b"".join(column.drop_nulls()))
    elif column.dtype == pl.Binary:
        whole.update(column.bin.size().fill_null(0).to_numpy().tobytes())
        whole.update(b"".join(column.drop_nulls()))
    elif isinstance(column.dtype, pl.Array) and not column.dtype.inner.is_numeric():
        _add_column(whole, column.arr.to_list())
    elif column.dtype != pl.Null:
        whole.update(column.drop_nulls().to_numpy().tobytes())
