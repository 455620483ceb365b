"""The manifest of a run: what made it, and the fingerprints that every reader checks."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from opd_diag.errors import ManifestError
from opd_diag.tables.files import atomic_path

FORMAT = "opd-diag run"
SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
REQUIRED = ("versions", "fingerprint", "parts", "teacher", "checkpoints", "rollouts")

T = TypeVar("T", bound="Model")


class Part(NamedTuple):
    """Whole rollouts with consecutive numbers.

    Attributes:
        start: First rollout.
        stop: One past the last rollout.
        rows: Number of response tokens that are scored.
    """

    start: int
    stop: int
    rows: int


@dataclass
class Model:
    """What is recorded of a model.

    Attributes:
        path: Folder or hub id, as given.
        trust_remote_code: Whether code that came with it could run.
        dtype: Dtype that it was loaded with, once it was.
        logits: Number of its logits, padding ids included.
    """

    path: str
    trust_remote_code: bool = False
    dtype: str | None = None
    logits: int | None = None


@dataclass
class NoiseFloor:
    """How far the same rows move when other rollouts share their batch.

    Attributes:
        rollouts: Number of rollouts that were scored again.
        tokens: Number of their tokens.
        p95: 95th percentile of |difference| by column, in the column's unit.
    """

    rollouts: int = 0
    tokens: int = 0
    p95: dict[str, float] = field(default_factory=dict)


@dataclass
class Checkpoint(Model):
    """What is recorded of a student checkpoint.

    Attributes:
        fingerprint: Digest of `files`.
        files: The sha256 of each of its files, or the commit of a hub id.
        decodable: Number of ids that it shares with the teacher.
        noise_floor: Set once the checkpoint is finished.
        statistics: Totals over all parts, once it is finished.
        alignment: How the generator's log-probs compare with the checkpoint's.
    """

    fingerprint: str = ""
    files: dict[str, str] = field(default_factory=dict)
    decodable: int | None = None
    noise_floor: NoiseFloor | None = None
    statistics: dict[str, Any] | None = None
    alignment: dict[str, Any] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether everything about it is known."""
        return self.noise_floor is not None


@dataclass
class Manifest:
    """What made a run.

    Attributes:
        fingerprint: What identifies the run, JSON values; `k_grid` among them.
        parts: Its parts, in order.
        teacher: The teacher.
        checkpoints: Student checkpoints by name, in order.
        rollouts: What was seen while the rollouts were read, JSON values.
        versions: Versions of the libraries that began it.
        batch_tokens: (part, tokens of a batch from that part on), rising.
        warnings: What a reader of the run must know.
    """

    fingerprint: dict[str, Any]
    parts: tuple[Part, ...]
    teacher: Model
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    rollouts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    batch_tokens: list[tuple[int, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def k_grid(self) -> tuple[int, ...]:
        """The K of the columns that hold one value per K."""
        return tuple(self.fingerprint["k_grid"])

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values, in the order of the file."""
        return {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "versions": self.versions,
            "fingerprint": self.fingerprint,
            "parts": [
                {"first": part.start, "last": part.stop - 1, "rows": part.rows}
                for part in self.parts
            ],
            "batch_tokens": [list(pair) for pair in self.batch_tokens],
            "teacher": _known(self.teacher, _MODEL_KEYS),
            "checkpoints": {
                name: _known(checkpoint, _CHECKPOINT_KEYS)
                for name, checkpoint in self.checkpoints.items()
            },
            "rollouts": self.rollouts,
            "warnings": self.warnings,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Manifest":
        """Take a manifest from JSON values that have its form."""
        return cls(
            fingerprint=values["fingerprint"],
            parts=tuple(
                Part(part["first"], part["last"] + 1, part["rows"]) for part in values["parts"]
            ),
            teacher=_model(Model, values["teacher"]),
            checkpoints={
                name: _model(Checkpoint, known) for name, known in values["checkpoints"].items()
            },
            rollouts=values["rollouts"],
            versions=values["versions"],
            batch_tokens=[(part, size) for part, size in values.get("batch_tokens", [])],
            warnings=values.get("warnings", []),
        )


_MODEL_KEYS = ("path", "trust_remote_code", "dtype", "logits")
_CHECKPOINT_KEYS = (
    "path",
    "fingerprint",
    "files",
    "trust_remote_code",
    "dtype",
    "logits",
    "decodable",
    "noise_floor",
    "statistics",
    "alignment",
)


def _known(model: Model, keys: tuple[str, ...]) -> dict[str, Any]:
    """Write what is known of a model, `keys` in order."""
    values = {key: getattr(model, key) for key in keys}
    if isinstance(model, Checkpoint) and model.noise_floor is not None:
        values["noise_floor"] = vars(model.noise_floor)
    return {key: value for key, value in values.items() if value is not None}


def _model(kind: type[T], values: Mapping[str, Any]) -> T:
    known = {field.name: values[field.name] for field in fields(kind) if field.name in values}
    floor = known.get("noise_floor")
    if floor is not None:
        counts = {key: floor.get(key, 0) for key in ("rollouts", "tokens")}
        known["noise_floor"] = NoiseFloor(**counts, p95=floor.get("p95", {}))
    return kind(**known)


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
        values = json.loads(path.read_bytes(), parse_constant=_refuse)
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(
            f"{path}: no such file; expected a run made by `opd-diag score`"
        ) from None
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; expected a readable file") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: not JSON ({error}); expected a whole manifest") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ManifestError(f"{path}: another kind of file; expected format {FORMAT!r}")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise ManifestError(
            f"{path}: schema version {values.get('schema_version')}; expected {SCHEMA_VERSION}"
        )
    missing = [key for key in REQUIRED if key not in values]
    if missing:
        raise ManifestError(f"{path}: no {', '.join(missing)}; expected a whole manifest")
    wrong = [name for name, right in _checked(values) if not right]
    if wrong:
        raise ManifestError(
            f"{path}: {', '.join(wrong)} not as `opd-diag score` writes it; expected a whole "
            "manifest"
        )
    return Manifest.from_json(values)


def _checked(values: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the entries of a manifest that readers rely on, and whether each has its form."""
    for name in ("versions", "fingerprint", "teacher", "checkpoints", "rollouts"):
        yield name, isinstance(values[name], dict)
    if isinstance(values["teacher"], dict):
        yield "teacher", isinstance(values["teacher"].get("path"), str)
    if isinstance(values["fingerprint"], dict):
        yield "fingerprint k_grid", _is_grid(values["fingerprint"].get("k_grid"))
    yield "parts", _is_parts(values["parts"])
    yield "warnings", _is_texts(values.get("warnings", []))
    yield "batch_tokens", _is_sizes(values.get("batch_tokens", []))
    if isinstance(values["checkpoints"], dict):
        for name, known in values["checkpoints"].items():
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


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Write the manifest of a run.

    Raises:
        StorageError: If it cannot be written.
    """
    with atomic_path(run / MANIFEST_NAME) as temporary:
        temporary.write_text(json.dumps(manifest.to_json(), indent=1, allow_nan=False) + "\n")
