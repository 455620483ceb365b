"""Several teachers: which of them scores the tokens of which rollout."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from opd_diag.errors import OptionError, RolloutError
from opd_diag.scoring.models.fingerprints import fingerprint
from opd_diag.tables.manifest import is_checkpoint_name

GROUP = "group"
DEFAULT = "default"  # the teacher of the rollouts whose group has none of its own


def named_teachers(teacher: str | Mapping[str, str], teacher_by: str | None) -> dict[str, str]:
    """Return the teachers by the group that they are for; a single one has the name "".

    Raises:
        OptionError: If several teachers come without `teacher_by`, or one with it.
    """
    if teacher_by not in (None, GROUP):
        raise OptionError(f"teacher_by: {teacher_by!r}; expected {GROUP}")
    if isinstance(teacher, str):
        if teacher_by is not None:
            raise OptionError("teacher_by: with one teacher without a name; expected NAME=PATH")
        return {"": teacher}
    if not teacher:
        raise OptionError("teacher: none; expected at least one")
    if teacher_by is None:
        raise OptionError("teacher: named teachers without teacher_by; expected teacher_by group")
    for name in teacher:
        if not is_checkpoint_name(name):
            raise OptionError(f"teacher: the name {name[:60]!r}; expected that of a group")
    return {name: str(path) for name, path in teacher.items()}


def check_several(
    others: Sequence[str],
    states: str | None,
    logprobs: str | None,
    *,
    keep_states: bool = False,
) -> None:
    """Check that several teachers are here with their weights.

    Raises:
        OptionError: If their hidden states or log-probs were to be read or kept.
    """
    if others and (states is not None or logprobs is not None or keep_states):
        raise OptionError(
            "teacher: several, whose hidden states are neither read nor kept, nor their log-probs "
            "read; expected their weights"
        )


def teacher_of_rollouts(table: pl.DataFrame, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the number of each rollout's teacher. Shape (rollouts,).

    Args:
        table: The rollouts.
        names: Groups of the teachers; `default` is that of all other rollouts.

    Raises:
        RolloutError: If a rollout has none.
    """
    if len(names) == 1 and names[0] in ("", DEFAULT):
        return np.zeros(table.height, np.int64)
    numbers = {name: number for number, name in enumerate(names)}
    rest = numbers.get(DEFAULT, -1)
    groups = table[GROUP].to_list()
    own = np.array([numbers.get(group, rest) for group in groups], np.int64)
    if (own < 0).any():
        without = sorted({str(groups[row] or "none") for row in np.flatnonzero(own < 0)})
        raise RolloutError(
            f"rollouts: {int((own < 0).sum()):,} of groups without a teacher "
            f"({', '.join(without[:5])}); expected one for each of them, or one named {DEFAULT}"
        )
    return own


def fingerprint_teachers(teachers: Mapping[str, str], **origin: Any) -> dict[str, str]:
    """Return the checksums of the files of all teachers; of several, under the teacher's name.

    Raises:
        ModelError: If one cannot be read.
    """
    if len(teachers) == 1 and "" in teachers:
        return fingerprint(teachers[""], **origin)
    return {
        f"{name}: {file}": value
        for name, path in teachers.items()
        for file, value in fingerprint(path, **origin).items()
    }


def written(teachers: Mapping[str, str]) -> str:
    """Write the teachers in a line: a path, or NAME=PATH for each."""
    return ", ".join(f"{name}={path}" if name else path for name, path in teachers.items())
