"""Which part of the teacher is here, and where the rest comes from."""

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

from opd_diag.errors import OptionError
from opd_diag.scoring.teachers.hidden_states import digest_states
from opd_diag.scoring.teachers.logprobs import DUMP
from opd_diag.tables.teacher_sources import LOGPROBS, STATES, WEIGHTS


class TeacherSource(NamedTuple):
    """Where the teacher's part comes from; by default from its weights.

    Attributes:
        states: Folder of its final hidden states.
        norm: Whether these states are to go through its final norm.
        logprobs: File of its log-probs, or `dump` for those that the rollouts hold.
        floor: The least log-prob that it gives to an id that the file does not tell, nat.
    """

    states: str | None = None
    norm: bool = False
    logprobs: str | None = None
    floor: float | None = None

    @property
    def name(self) -> str:
        """What the manifest and the tables call it."""
        if self.logprobs is not None:
            return LOGPROBS
        return WEIGHTS if self.states is None else STATES

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies it beside the teacher's own files; nothing for weights.

        Raises:
            ModelError: If a file cannot be read.
        """
        if self.logprobs is not None:
            digest = self.logprobs
            if digest != DUMP:
                with Path(digest).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"teacher_logprobs": {"sha256": digest, "floor": self.floor}}
        if self.states is None:
            return {}
        return {"teacher_states": {**digest_states(self.states), "norm": self.norm}}


def check_source(
    teacher_states: str | None,
    teacher_norm: bool,
    teacher_logprobs: str | None = None,
    teacher_floor: float | None = None,
) -> TeacherSource:
    """Check what is said of the teacher's source.

    Raises:
        OptionError: If options do not stand together, or there is no such file or folder.
    """
    if teacher_states is not None and teacher_logprobs is not None:
        raise OptionError("teacher_states: beside teacher_logprobs; expected one of them")
    if teacher_norm and teacher_states is None:
        raise OptionError("teacher_norm: without teacher_states; expected both")
    if teacher_floor is not None and teacher_logprobs in (None, DUMP):
        raise OptionError("teacher_floor: without a file of teacher_logprobs; expected both")
    if teacher_floor is not None and not (teacher_floor < 0 and math.isfinite(teacher_floor)):
        raise OptionError(f"teacher_floor: {teacher_floor}; expected a log-prob below 0 (nat)")
    if teacher_states is not None:
        if not Path(teacher_states).is_dir():
            raise OptionError(f"teacher_states: {teacher_states!r} is no folder; expected one")
        return TeacherSource(str(Path(teacher_states).resolve()), teacher_norm)
    if teacher_logprobs is None:
        return TeacherSource()
    if teacher_logprobs != DUMP:
        if not Path(teacher_logprobs).is_file():
            raise OptionError(
                f"teacher_logprobs: {teacher_logprobs!r} is no file; expected one, or dump"
            )
        teacher_logprobs = str(Path(teacher_logprobs).resolve())
    return TeacherSource(logprobs=teacher_logprobs, floor=teacher_floor)
