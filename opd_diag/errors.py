"""Errors that the user can mend: one line, `where: what was found; what was expected`."""

from collections.abc import Sequence

MOST_FAULTS = 20


class OpdDiagError(Exception):
    """Any fault of input, model or disk that the message alone explains."""


class RolloutError(OpdDiagError, ValueError):
    """A rollout dump is not what its format says."""


class TableError(OpdDiagError, ValueError):
    """A table breaks its schema, or a result does not belong to the run."""


class ManifestError(OpdDiagError, ValueError):
    """A manifest is missing, damaged or of another version."""


class ModelError(OpdDiagError, ValueError):
    """A model or tokenizer cannot be loaded or used."""


class ModelMismatchError(OpdDiagError, ValueError):
    """Two models, or a model and a run, do not belong together."""


class OptionError(OpdDiagError, ValueError):
    """An option has a value that makes no sense; the command line exits with 2."""


class StorageError(OpdDiagError, OSError):
    """A file cannot be written, or the run is in use."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def faults(where: str, found: Sequence[str]) -> str:
    """Join the faults of one file into one message, the first 20 of them.

    Args:
        where: The file or table.
        found: One `what was found; what was expected` for each fault.
    """
    if len(found) == 1:
        return f"{where}: {found[0]}"
    lines = [f"{where}: {len(found)} faults", *(f"  {fault}" for fault in found[:MOST_FAULTS])]
    if len(found) > MOST_FAULTS:
        lines.append(f"  ... and {len(found) - MOST_FAULTS} more")
    return "\n".join(lines)
