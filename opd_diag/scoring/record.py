"""The record of a run that is being scored: what identifies it, what is there, what is known.

It owns the manifest and alone writes it.
"""

import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from opd_diag.errors import ManifestError, ModelMismatchError, StorageError, TableError
from opd_diag.scoring.parts.teacher_states import FOLDER, StatesFolder
from opd_diag.scoring.parts.totals import totals, warnings
from opd_diag.tables.checksums import Checksum
from opd_diag.tables.files import LOCK_NAME, is_leftover
from opd_diag.tables.gradients import gradients_path
from opd_diag.tables.manifest import (
    MANIFEST_NAME,
    Checkpoint,
    Manifest,
    Model,
    Part,
    digest,
    read_manifest,
    write_manifest,
)
from opd_diag.tables.rollouts import ROLLOUTS_NAME, VOCAB_NAME
from opd_diag.tables.tokens import part_path

_MOST_NAMED = 4
ROLLOUTS = "rollouts"  # in the fingerprint: a digest, which tells a person nothing


@dataclass(frozen=True)
class Measured:
    """What a worker measured of students whose parts are all there.

    Attributes:
        teacher: The teacher's dtype and number of logits, as attributes of `Model`.
        students: The same of every student by name, and its `decodable` and `noise_floor`.
    """

    teacher: Mapping[str, Any]
    students: Mapping[str, Mapping[str, Any]]


class RunRecord:
    """What is known of a run while it is scored.

    Attributes:
        folder: The run, held by its lock.
        manifest: Its manifest, changed and written here alone.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts of the run."""
        return self.manifest.parts

    def add_checkpoints(
        self,
        students: Mapping[str, str],
        fingerprints: Mapping[str, dict[str, str]],
        *,
        trusted: bool = False,
    ) -> list[str]:
        """Add checkpoints, and make sure that those that are known have the same weights.

        A checkpoint of which no part is finished binds nothing: it is replaced, or forgotten if it
        is not among these. Where these are all checkpoints of the run, they take the order of
        these; else new ones come last.

        Args:
            students: Model folders or hub ids by name.
            fingerprints: Fingerprints of their weights by name.
            trusted: Whether code that comes with a model may run, in this call.

        Returns:
            Names of checkpoints that were replaced or forgotten.

        Raises:
            ModelMismatchError: If a name is known with other weights.
        """
        known = self.manifest.checkpoints
        empty = [
            name
            for name, one in known.items()
            if not one.is_finished and not has_finished_part(self.folder, self.manifest, name)
        ]
        dropped = [
            name
            for name in empty
            if name not in students or known[name].fingerprint != digest(fingerprints[name])
        ]
        for name in empty:
            del known[name]
        for name, path in students.items():
            files = fingerprints[name]
            if name in known and known[name].fingerprint != digest(files):
                differing = differences(known[name].files, files)
                raise ModelMismatchError(
                    f"{self.folder}: checkpoint {name!r} has other weights: "
                    f"{'; '.join(differing)}; expected those of the first time, or another name"
                )
            if name not in known:
                known[name] = Checkpoint(path=path, fingerprint=digest(files), files=files)
        if known.keys() == students.keys():
            self.manifest.checkpoints = {name: known[name] for name in students}
        for model in (self.manifest.teacher, *(known[name] for name in students)):
            model.trust_remote_code = trusted or model.trust_remote_code
        self._write()
        return dropped

    def missing(self, checkpoint: str) -> list[int]:
        """Return the parts that a checkpoint lacks, or that are not those of the manifest."""
        return [n for n in range(len(self.parts)) if not self._has_part(checkpoint, n)]

    def drop_changed(self, students: Collection[str]) -> list[str]:
        """Forget files that are not as they were written, so that they are made again.

        Args:
            students: Names of the checkpoints that are scored; the files of others are left.

        Returns:
            Paths in the run of what was forgotten.
        """
        own = {f"checkpoint={name}" for name in students}
        changed = [
            path
            for path in self.manifest.files
            if (path.count("/") < 2 or path.split("/")[1] in own)
            and not self._is_as_written(self.folder / path)
        ]
        for path in changed:
            del self.manifest.files[path]
        if changed:
            self._write()
        return changed

    def add_files(self, files: Mapping[str, Checksum]) -> None:
        """List files that were written, by path in the run."""
        self.manifest.files.update(files)
        self._write()

    def teacher_states(self, part: int) -> Checksum | None:
        """Return the checksum of the teacher's hidden states of a part, or None without any."""
        path = StatesFolder(self.folder).path(part).relative_to(self.folder)
        return self.manifest.files.get(path.as_posix())

    def remove_teacher_states(self) -> None:
        """Remove the teacher's hidden states, and forget them."""
        kept = {
            path: one
            for path, one in self.manifest.files.items()
            if not path.startswith(f"{FOLDER}/")
        }
        if kept != self.manifest.files:
            self.manifest.files = kept
            self._write()
        StatesFolder(self.folder).remove()

    def _has_part(self, checkpoint: str, number: int) -> bool:
        place = (self.folder, checkpoint, number)
        return all(self._is_as_written(path(*place)) for path in (part_path, gradients_path))

    def _is_as_written(self, path: Path) -> bool:
        try:
            self.manifest.verify_file(self.folder, path)
        except TableError:
            return False
        return True

    def is_pending(self, checkpoint: str) -> bool:
        """Tell whether a checkpoint is not finished."""
        return not self.manifest.checkpoints[checkpoint].is_finished or bool(
            self.missing(checkpoint)
        )

    def state(self) -> str:
        """Say how far the run is."""
        left = {name: len(self.missing(name)) for name in self.manifest.checkpoints}
        return ", ".join(
            f"{name} has {len(self.parts) - n} of {len(self.parts)} parts"
            for name, n in left.items()
        )

    def batch_tokens(self, part: int) -> int | None:
        """Return the batch size that a part is scored with, or None if none was set yet."""
        sizes = [size for first, size in self.manifest.batch_tokens if first <= part]
        return sizes[-1] if sizes else None

    def set_batch_tokens(self, part: int, size: int) -> None:
        """Record the batch size that holds from a part on."""
        kept = [pair for pair in self.manifest.batch_tokens if pair[0] < part]
        self.manifest.batch_tokens = [*kept, (part, size)]
        self._write()

    def add_measured(self, measured: Measured) -> list[str]:
        """Record students whose parts are all there, with their totals.

        Returns:
            The warnings of the run.
        """
        for name, values in measured.students.items():
            checkpoint = self.manifest.checkpoints[name]
            _set(checkpoint, values)
            whole = totals(self.folder, name, self.manifest)
            checkpoint.statistics = whole.statistics
            checkpoint.alignment = whole.alignment._asdict()
            if whole.trainer_teacher is not None:
                checkpoint.trainer_teacher = whole.trainer_teacher._asdict()
        _set(self.manifest.teacher, measured.teacher)
        self.manifest.warnings = warnings(self.manifest.checkpoints)
        self._write()
        return self.manifest.warnings

    def _write(self) -> None:
        write_manifest(self.folder, self.manifest)


def open_record(
    folder: Path,
    *,
    fingerprint: Mapping[str, Any],
    parts: Sequence[Part],
    teacher: Model,
    rollouts: Mapping[str, Any],
    say: Callable[[str], None],
) -> RunRecord:
    """Open the record of a run, or begin one, and make sure that it is the same run.

    Args:
        folder: The run, held by its lock.
        fingerprint: What identifies the run, JSON values.
        parts: Its parts.
        teacher: The teacher, and where its part comes from.
        rollouts: What was seen while the rollouts were read.
        say: Told if the folder is taken over from another run of which no part was finished.

    Raises:
        ModelMismatchError: If the folder holds another run. The message names what differs.
        StorageError: If the folder holds other files and no run.
        ManifestError: If its manifest is damaged, or plans other parts.
    """
    own = {LOCK_NAME}
    if (folder / MANIFEST_NAME).exists():
        manifest = read_manifest(folder)
        differing = differences(
            {**manifest.fingerprint, ROLLOUTS: None}, {**fingerprint, ROLLOUTS: None}
        )
        if manifest.fingerprint.get(ROLLOUTS) != fingerprint.get(ROLLOUTS):
            had, given = (sum(p.stop - p.start for p in of) for of in (manifest.parts, parts))
            differing.insert(0, f"it has {had:,} rollouts, you gave {given:,} (not the same)")
        finished = [
            name for name in manifest.checkpoints if has_finished_part(folder, manifest, name)
        ]
        if differing and finished:
            raise ModelMismatchError(
                f"{folder}: holds another run: {'; '.join(differing)}; expected the same "
                "arguments, or a new folder"
            )
        if not differing and manifest.parts != tuple(parts):
            raise ManifestError(
                f"{folder / MANIFEST_NAME}: {len(manifest.parts)} parts; expected the "
                f"{len(parts)} that these rollouts make"
            )
        if not differing:
            return RunRecord(folder, manifest)
        say(f"{folder}: taken over from another run, of which no part was finished")
        for kind in ("tokens", "gradients", FOLDER):
            shutil.rmtree(folder / kind, ignore_errors=True)
        for name in (ROLLOUTS_NAME, VOCAB_NAME):
            (folder / name).unlink(missing_ok=True)
        own |= {MANIFEST_NAME, "results", "plots"}
    others = [
        path.name for path in folder.iterdir() if path.name not in own and not is_leftover(path)
    ]
    if others:
        raise StorageError(
            f"{folder}: holds {len(others)} other files, such as {min(others)}; expected a new "
            "folder, or a run"
        )
    manifest = Manifest(
        fingerprint=dict(fingerprint),
        parts=tuple(parts),
        teacher=teacher,
        rollouts=dict(rollouts),
        versions=_versions(),
    )
    write_manifest(folder, manifest)
    return RunRecord(folder, manifest)


def has_finished_part(folder: Path, manifest: Manifest, checkpoint: str) -> bool:
    """Tell whether any part of a checkpoint is there."""
    paths = [part_path(folder, checkpoint, part) for part in range(len(manifest.parts))]
    return any(path.exists() and manifest.lists(folder, path) for path in paths)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what differs between two fingerprints, the first few entries of it."""
    named = []
    for key in dict.fromkeys((*before, *now)):
        was, is_ = before.get(key), now.get(key)
        if was == is_:
            continue
        if isinstance(was, dict) and isinstance(is_, dict):
            named += [f"{key} {inner}" for inner in differences(was, is_)]
        else:
            named.append(f"{key} was {_short(was)}, is {_short(is_)}")
    if len(named) > _MOST_NAMED:
        named[_MOST_NAMED:] = [f"and {len(named) - _MOST_NAMED} more"]
    return named


def _set(model: Model, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(model, name, value)


def _short(value: object) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:8]}..."


def _versions() -> dict[str, str]:
    names = ("opd-diag", "torch", "transformers", "polars", "numpy")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}
