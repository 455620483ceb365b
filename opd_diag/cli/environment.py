"""What a command needs of the process that it runs in, told in one line where it is missing."""

import errno
import os
import runpy
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from opd_diag.errors import StorageError

# Libraries end the process, past any handling, if less address space is left.
LEAST_ADDRESS_SPACE = 2 << 30
_NO_MEMORY = (
    "map segment",
    "allocate memory",
    "cannot allocate",
    "out of memory",
    "can't start new thread",
    "could not spawn threads",
    "static TLS",
    "Resource temporarily unavailable",
)


class UnusableEnvironmentError(StorageError):
    """The process lacks something that every command needs."""


def check_environment() -> None:
    """Refuse to begin in a folder that is gone, or with too little address space.

    Raises:
        UnusableEnvironmentError: If a command could not work.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UnusableEnvironmentError(
            "working directory: deleted; expected one that exists (change to another folder)"
        ) from None
    limit = _address_space()
    if limit is not None and limit < LEAST_ADDRESS_SPACE:
        raise UnusableEnvironmentError(
            f"memory: this process may address {limit / 2**20:,.0f} MiB (ulimit -v), too little to "
            f"load libraries; expected at least {LEAST_ADDRESS_SPACE >> 20:,}"
        )


def versions() -> list[str]:
    """Name the versions of the package and of what it stands on, without importing any of it."""
    others = [f"{name} {version(name)}" for name in ("transformers", "polars")]
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    # The one file of torch that says what it was built for, and imports nothing.
    torch = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    built_for = f"for CUDA {torch['cuda']}" if torch["cuda"] else "without CUDA"
    return [
        f"opd-diag {version('opd-diag')}",
        ", ".join([f"torch {torch['__version__']} {built_for}", *others]),
    ]


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error means that a library found too little memory."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    # The reasons of native libraries are texts; those of Rust are no Exception at all.
    causes = [error, error.__cause__, error.__context__]
    return any(text in str(cause) for cause in causes if cause is not None for text in _NO_MEMORY)


def _address_space() -> int | None:
    """Return the limit on the address space of this process in bytes, or None without one."""
    try:
        import resource
    except ImportError:  # there is none on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit
