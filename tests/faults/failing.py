"""A disk that fails at the n-th step, without a disk that fails."""

import os
from pathlib import Path

import pytest

from opd_diag.tables import files


class Failing:
    """Lets the n-th of the steps that bring files to the disk fail: sync of a file, rename."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None, code: int) -> None:
        self.steps = 0
        self._at, self._code = at, code
        sync, replace = os.fsync, Path.replace
        patch.setattr(files.os, "fsync", lambda handle: (self._step(), sync(handle)))
        patch.setattr(Path, "replace", lambda path, to: (self._step(), replace(path, to)))

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self._at:
            raise OSError(self._code, os.strerror(self._code))
