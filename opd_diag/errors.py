"""Errors that the user can mend: one line, `where: what was found; what was expected`."""

import re
from collections.abc import Sequence

MOST_FAULTS = 20
_LINES_NAMED = 3
_LINE = re.compile(r"line (\d+): ")


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
    """Join the faults of one file into one message: equal ones in a line, the first 20 of them.

    Args:
        where: The file or table.
        found: One `what was found; what was expected` for each fault, after `line N: ` where it is
            that of a line.
    """
    lines_with: dict[str, list[str]] = {}
    for fault in found:
        line = _LINE.match(fault)
        lines_with.setdefault(fault[line.end() :] if line else fault, []).append(
            line.group(1) if line else ""
        )
    told = [_at_lines(fault, numbers) for fault, numbers in lines_with.items()]
    if len(told) == 1:
        return f"{where}: {told[0]}"
    lines = [f"{where}: {len(found)} faults", *(f"  {fault}" for fault in told[:MOST_FAULTS])]
    if len(told) > MOST_FAULTS:
        rest = len(found) - sum(len(one) for one in list(lines_with.values())[:MOST_FAULTS])
        lines.append(f"  ... and {rest} more")
    return "\n".join(lines)


def _at_lines(fault: str, numbers: Sequence[str]) -> str:
    """Put the numbers of the first lines before a fault, and how many lines have it."""
    if len(numbers) == 1:
        return f"line {numbers[0]}: {fault}" if numbers[0] else fault
    if not all(numbers):
        return f"{fault} ({len(numbers)} times)"
    more = len(numbers) - _LINES_NAMED
    if more > 0:
        return f"lines {', '.join(numbers[:_LINES_NAMED])} and {more} more: {fault}"
    return f"lines {', '.join(numbers[:-1])} and {numbers[-1]}: {fault}"
