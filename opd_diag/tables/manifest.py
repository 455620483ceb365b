"""The manifest of a run: what made it, and the fingerprints that every reader checks."""

import hashlib
import json
from collections.abc import Mapping
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
        manifest = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(
            f"{path}: no such file; expected a run made by `opd-diag score`"
        ) from None
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; expected a readable file") from error
    except ValueError as error:
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
    return manifest


def write_manifest(run: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a run.

    Raises:
        StorageError: If it cannot be written.
    """
    with atomic_path(run / MANIFEST_NAME) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n")
