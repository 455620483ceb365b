"""Files that are complete or absent, regular files, and the lock of a run."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path

from opd_diag.errors import StorageError

LOCK_NAME = ".lock"
_TEMPORARY = ".tmp"
_MOST_SHOWN = 120  # characters of a path that is too long


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` once it is on the disk.

    Args:
        path: The file to be. Its folder is made if it is missing.

    Yields:
        Where to write. Nothing is left there if the block raises.

    Raises:
        StorageError: If `path` is a folder, or the disk refuses: full, read-only, no permission.
    """
    if os.path.isdir(path):
        raise StorageError(f"{path}: a folder; expected a file, or a name for one")
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
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


def check_path(path: str | os.PathLike[str]) -> None:
    """Refuse what cannot be a path: too long, not UTF-8, or relative to a folder that is gone.

    Raises:
        StorageError: If it cannot.
    """
    text = os.fspath(path)
    brief = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
    try:
        text.encode()
        os.getcwd()
        os.stat(text)
    except UnicodeEncodeError:
        name = ascii(brief).strip("'\"")
        raise StorageError(f"{name}: not UTF-8; expected a path in UTF-8") from None
    except ValueError:
        raise StorageError(f"{brief!a}: holds a null byte; expected a path") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise StorageError(f"{brief}: too long; expected a path with shorter names") from None
        if error.errno == errno.ELOOP:
            raise StorageError(f"{brief}: links go round in a circle; expected a path") from None
        try:
            os.getcwd()
        except FileNotFoundError:
            raise StorageError(
                "working directory: deleted; expected one that exists (change to another folder)"
            ) from None


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, but no pipe, device or folder: they may wait for ever or never end.

    Raises:
        OSError: If it cannot be opened or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def require_regular(path: Path) -> None:
    """Check that a path is a regular file.

    Raises:
        OSError: If it is missing, or something else.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_leftover(path: Path) -> bool:
    """Tell whether a file is what a killed process left of one that it was writing."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def remove_leftovers(folder: Path, below: Sequence[str]) -> None:
    """Remove what killed processes left in a folder and below some of its folders.

    Args:
        folder: The folder. This process alone writes to it and to the others.
        below: Folders in it.

    Raises:
        StorageError: If a file cannot be removed.
    """
    pattern = f".*{_TEMPORARY}"
    try:
        for name in below:
            for path in (folder / name).rglob(pattern):
                path.unlink(missing_ok=True)
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{error.filename}: cannot be removed ({error.strerror}); expected permission"
        ) from error


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run for one writer. The lock dies with its process.

    Args:
        folder: The run. It is made if it is missing.

    Raises:
        StorageError: If another process writes to the run, or the folder cannot be made.
    """
    from filelock import FileLock, Timeout

    path = folder / LOCK_NAME
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: {error.strerror}; expected a folder that can be written"
        ) from error
    try:
        lock.acquire()
    except Timeout:
        raise StorageError(
            f"{folder}: process {_owner(path)} is writing to this run; expected one writer at a "
            "time"
        ) from None
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be locked ({error.strerror}); expected a writable folder on a file "
            "system that supports locks"
        ) from error
    try:
        with contextlib.suppress(OSError):  # only names the owner; the lock holds without it
            path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def _owner(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return file.read(99).decode(errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"
