"""Files that are complete or absent, and the lock of a run."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from opd_diag.errors import StorageError

LOCK_NAME = ".lock"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` once it is on the disk.

    Args:
        path: The file to be. Its folder is made if it is missing.

    Yields:
        Where to write. Nothing is left there if the block raises.

    Raises:
        StorageError: If the disk refuses: full, read-only, no permission.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        reason = error.strerror or str(error)
        raise StorageError(
            f"{path}: cannot be written ({reason}); expected room and permission"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run for one writer. The lock dies with its process.

    Args:
        folder: The run. It is made if it is missing.

    Raises:
        StorageError: If another process writes to the run, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK_NAME).open("a+")
    except OSError as error:
        raise StorageError(
            f"{folder}: {error.strerror}; expected a folder that can be written"
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise StorageError(
                f"{folder}: process {owner} is writing to this run; expected one writer at a time"
            ) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
