"""Which part of the teacher is here, and where the rest comes from."""

from pathlib import Path
from typing import Any, NamedTuple

from opd_diag.errors import OptionError
from opd_diag.scoring.teachers.hidden_states import digest_states

WEIGHTS, STATES = "weights", "hidden states"


class TeacherSource(NamedTuple):
    """Where the teacher's part comes from.

    Attributes:
        states: Folder of its final hidden states; None: its weights are here.
        norm: Whether these states are to go through its final norm.
    """

    states: str | None = None
    norm: bool = False

    @property
    def name(self) -> str:
        """What the manifest and the tables call it."""
        return WEIGHTS if self.states is None else STATES

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies it beside the teacher's own files; nothing for weights.

        Raises:
            ModelError: If a file cannot be read.
        """
        if self.states is None:
            return {}
        return {"teacher_states": {**digest_states(self.states), "norm": self.norm}}


def check_source(teacher_states: str | None, teacher_norm: bool) -> TeacherSource:
    """Check what is said of the teacher's source.

    Raises:
        OptionError: If options do not stand together, or there is no such folder.
    """
    if teacher_states is None:
        if teacher_norm:
            raise OptionError("teacher_norm: without teacher_states; expected both")
        return TeacherSource()
    if not Path(teacher_states).is_dir():
        raise OptionError(f"teacher_states: {teacher_states!r} is no folder; expected one")
    return TeacherSource(str(Path(teacher_states).resolve()), teacher_norm)
