"""Keep trained models between runs, with the minutes that their training took."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


class StageCache:
    """Hold trained model folders under the exact settings that made them."""

    def __init__(self, folder: Path | None) -> None:
        """Use a folder, or none to keep nothing."""
        self.folder = folder
        self.reused: list[str] = []

    def restore(self, name: str, key: str, target: Path) -> float | None:
        """Copy a kept model to ``target`` and return its minutes, or None if none fits."""
        note = self.folder and self.folder / f"{name}.json"
        if not note or not note.exists():
            return None
        kept = json.loads(note.read_text(encoding="utf-8"))
        if kept["key"] != key:
            return None
        shutil.copytree(self.folder / name, target)
        self.reused.append(name)
        return kept["minutes"]

    def keep(self, name: str, key: str, source: Path, minutes: float) -> None:
        """Keep a copy of a trained model."""
        if self.folder is None:
            return
        shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(source, self.folder / name)
        note = json.dumps({"key": key, "minutes": minutes})
        (self.folder / f"{name}.json").write_text(note, encoding="utf-8")
