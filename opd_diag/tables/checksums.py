"""A checksum inside a file, so that a changed byte is noticed before a number is read."""

import functools
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from opd_diag.errors import TableError

CHECKSUM_KEY = "opd_diag_seal"
_MARK = b"sha256 of this file with 64 zeros here: "
_ZEROS = b"0" * 64
UNSET = (_MARK + _ZEROS).decode()

# A format keeps its metadata at one end of the file.
_WINDOW = 1 << 20
_BLOCK = 1 << 20


def set_checksum(path: Path) -> None:
    """Put a file's sha256 in the place that `UNSET`, among its metadata, keeps for it.

    Args:
        path: A file that was just written with `UNSET` as a metadata value.

    Raises:
        OSError: If the file cannot be written.
    """
    with path.open("r+b") as file:
        place = _find(file)
        assert place is not None, f"{path}: written without a place for its checksum"
        digest = _digest(file, place)
        file.seek(place)
        file.write(digest)


def verify_checksum(path: Path) -> None:
    """Check that a file holds the bytes that were written.

    A file without a checksum, such as one that another program wrote, passes. A file that was
    checked before is read again only if its size, times or place on the disk are others.

    Raises:
        TableError: If a byte has changed.
        OSError: If the file cannot be read.
    """
    stat = path.stat()
    _verify(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.lru_cache(maxsize=65_536)
def _verify(path: Path, *_: int) -> None:
    with path.open("rb") as file:
        place = _find(file)
        if place is None:
            return
        file.seek(place)
        written = file.read(len(_ZEROS))
        if written != _digest(file, place):
            raise TableError(
                f"{path}: damaged (its bytes are not those that were written); expected the file "
                "as it was, or no such file and the same command again"
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


def _digest(file: BinaryIO, place: int) -> bytes:
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
