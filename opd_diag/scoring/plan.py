"""The plan of a run: what identifies it, its parts, and the manifest that holds both."""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from opd_diag.errors import ModelMismatchError, StorageError
from opd_diag.scoring.batches import Part
from opd_diag.tables.files import LOCK_NAME, is_leftover
from opd_diag.tables.manifest import (
    FORMAT,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Manifest,
    digest,
    read_manifest,
    write_manifest,
)

_MOST_NAMED = 4


def claim_run(
    folder: Path,
    *,
    fingerprint: Mapping[str, Any],
    parts: Sequence[Part],
    teacher: Mapping[str, Any],
    rollouts: Mapping[str, Any],
) -> Manifest:
    """Open the manifest of a run, or begin one, and make sure that it is the same run.

    Args:
        folder: The run, held by its lock.
        fingerprint: What identifies the run, JSON values.
        parts: Its parts.
        teacher: What is recorded of the teacher.
        rollouts: What was seen while the rollouts were read.

    Raises:
        ModelMismatchError: If the folder holds another run. The message names what differs.
        StorageError: If the folder holds other files and no run.
        ManifestError: If its manifest is damaged.
    """
    if (folder / MANIFEST_NAME).exists():
        manifest = read_manifest(folder)
        differing = differences(manifest["fingerprint"], fingerprint)
        if differing:
            raise ModelMismatchError(
                f"{folder}: holds another run: {'; '.join(differing)}; expected the same "
                "arguments, or a new folder"
            )
        return manifest
    others = [
        path.name for path in folder.iterdir() if path.name != LOCK_NAME and not is_leftover(path)
    ]
    if others:
        raise StorageError(
            f"{folder}: holds {len(others)} other files, such as {min(others)}; expected a new "
            "folder, or a run"
        )
    manifest = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "versions": _versions(),
        "fingerprint": dict(fingerprint),
        "parts": [
            {"first": part.start, "last": part.stop - 1, "rows": part.rows} for part in parts
        ],
        "batch_tokens": [],
        "teacher": dict(teacher),
        "checkpoints": {},
        "rollouts": dict(rollouts),
        "warnings": [],
    }
    write_manifest(folder, manifest)
    return manifest


def claim_checkpoints(
    folder: Path,
    manifest: Manifest,
    students: Mapping[str, str],
    prints: Mapping[str, Any],
    *,
    trusted: bool = False,
) -> None:
    """Add checkpoints to a manifest, and make sure that those it knows have the same weights.

    Args:
        folder: The run.
        manifest: Its manifest, changed in place and written.
        students: Model folders or hub ids by name.
        prints: Fingerprints of their weights by name.
        trusted: Whether code that comes with a model may run, in this call.

    Raises:
        ModelMismatchError: If a name is known with other weights.
    """
    known = manifest["checkpoints"]
    for name, path in students.items():
        if name in known and known[name]["fingerprint"] != digest(prints[name]):
            files = differences(known[name]["files"], prints[name])
            raise ModelMismatchError(
                f"{folder}: checkpoint {name!r} has other weights: {'; '.join(files)}; expected "
                "those of the first time, or another name"
            )
        if name not in known:
            known[name] = {
                "path": path,
                "fingerprint": digest(prints[name]),
                "files": prints[name],
            }
    for model in (manifest["teacher"], *(known[name] for name in students)):
        model["trust_remote_code"] = trusted or model.get("trust_remote_code", False)
    write_manifest(folder, manifest)


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Name what differs between two fingerprints, the first few entries of it."""
    named = []
    for key in dict.fromkeys((*found, *expected)):
        was, now = found.get(key), expected.get(key)
        if was == now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            named += [f"{key} {inner}" for inner in differences(was, now)]
        else:
            named.append(f"{key} was {_short(was)}, is {_short(now)}")
    if len(named) > _MOST_NAMED:
        named[_MOST_NAMED:] = [f"and {len(named) - _MOST_NAMED} more"]
    return named


def _short(value: object) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:8]}..."


def batch_tokens_of(manifest: Manifest, part: int) -> int | None:
    """Return the batch size that a part is scored with, or None if none was set yet."""
    sizes = [size for first, size in manifest.get("batch_tokens", []) if first <= part]
    return int(sizes[-1]) if sizes else None


def set_batch_tokens(folder: Path, manifest: Manifest, part: int, size: int) -> None:
    """Record the batch size that holds from a part on."""
    kept = [pair for pair in manifest.get("batch_tokens", []) if pair[0] < part]
    manifest["batch_tokens"] = [*kept, [part, size]]
    write_manifest(folder, manifest)


def _versions() -> dict[str, str]:
    names = ("opd-diag", "torch", "transformers", "polars", "numpy")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}
