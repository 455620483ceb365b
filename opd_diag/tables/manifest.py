"""The manifest of a run: what made it, and the fingerprints that every reader checks."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from opd_diag.errors import ManifestError
from opd_diag.tables.files import atomic_path

FORMAT = "opd-diag run"
SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
REQUIRED = ("versions", "fingerprint", "parts", "teacher", "checkpoints", "rollouts")

Manifest = dict[str, Any]


def digest(value: object) -> str:
    """Return the sha256 of `value` written as JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(run: Path) -> Manifest:
    """Read and check the manifest of a run.

    Raises:
        ManifestError: If there is none, it is no JSON, it is not of this format and schema
            version, or a part of it is missing.
    """
    path = run / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_bytes(), parse_constant=_refuse)
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(
            f"{path}: no such file; expected a run made by `opd-diag score`"
        ) from None
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; expected a readable file") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: not JSON ({error}); expected a whole manifest") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ManifestError(f"{path}: another kind of file; expected format {FORMAT!r}")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ManifestError(
            f"{path}: schema version {manifest.get('schema_version')}; expected {SCHEMA_VERSION}"
        )
    missing = [key for key in REQUIRED if key not in manifest]
    if missing:
        raise ManifestError(f"{path}: no {', '.join(missing)}; expected a whole manifest")
    wrong = [name for name, right in _forms(manifest) if not right]
    if wrong:
        raise ManifestError(
            f"{path}: {', '.join(wrong)} not as `opd-diag score` writes it; expected a whole "
            "manifest"
        )
    return manifest


def _forms(manifest: Manifest) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a manifest that readers rely on, and whether each has its form."""
    for name in ("versions", "fingerprint", "teacher", "checkpoints", "rollouts"):
        yield name, isinstance(manifest[name], dict)
    if isinstance(manifest["teacher"], dict):
        yield "teacher", isinstance(manifest["teacher"].get("path"), str)
    if isinstance(manifest["fingerprint"], dict):
        yield "fingerprint k_grid", _is_grid(manifest["fingerprint"].get("k_grid"))
    yield "parts", _is_parts(manifest["parts"])
    yield "warnings", _is_texts(manifest.get("warnings", []))
    yield "batch_tokens", _is_sizes(manifest.get("batch_tokens", []))
    if isinstance(manifest["checkpoints"], dict):
        for name, known in manifest["checkpoints"].items():
            yield f"checkpoint {name!r}", is_checkpoint_name(name) and _is_checkpoint(known)


def is_checkpoint_name(name: str) -> bool:
    """Tell whether a name can stand in the name of a folder, and leads to no other folder."""
    return bool(name) and name.isprintable() and not set(name) & set("/\\")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_grid(grid: object) -> bool:
    if not isinstance(grid, list) or not all(map(_is_count, grid)):
        return False
    return bool(grid) and all(a < b for a, b in pairwise([1, *grid]))


def _is_parts(parts: object) -> bool:
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return False
    keys = ("first", "last", "rows")
    return bool(parts) and all(_is_count(part.get(key)) for part in parts for key in keys)


def _is_sizes(sizes: object) -> bool:
    return isinstance(sizes, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_count, pair)) for pair in sizes
    )


def _is_checkpoint(known: object) -> bool:
    if not isinstance(known, dict):
        return False
    texts = isinstance(known.get("path"), str) and isinstance(known.get("fingerprint"), str)
    floor = known.get("noise_floor") or {}
    floors = floor.get("p95", {}) if isinstance(floor, dict) else None
    return (
        texts
        and isinstance(floors, dict)
        and all(isinstance(value, float) for value in floors.values())
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def write_manifest(run: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a run.

    Raises:
        StorageError: If it cannot be written.
    """
    with atomic_path(run / MANIFEST_NAME) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n")
