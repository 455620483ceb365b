"""The manifest of a run: what made it, and checksums of its files, which every reader checks."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from opd_diag.errors import ManifestError, TableError
from opd_diag.tables.checksums import Checksum, verify, verify_embedded
from opd_diag.tables.files import atomic_path, open_regular

FORMAT = "opd-diag run"
SCHEMA_VERSION = 3
# Older runs are read. The files of version 1 hold checksums of their own, and belong to any run;
# up to version 2 the token table lacks the columns of truncated and bounded divergences.
READABLE_VERSIONS = (1, 2, SCHEMA_VERSION)
MANIFEST_NAME = "manifest.json"
_LONGEST = 200  # bytes of the name of a checkpoint, which is part of the name of a folder
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
        source: Of the teacher: `weights`, or what its part comes from in their place.
    """

    path: str
    trust_remote_code: bool = False
    dtype: str | None = None
    logits: int | None = None
    source: str | None = None


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
        trainer_teacher: How the trainer's log-probs of the teacher compare with the teacher's.
    """

    fingerprint: str = ""
    files: dict[str, str] = field(default_factory=dict)
    decodable: int | None = None
    noise_floor: NoiseFloor | None = None
    statistics: dict[str, Any] | None = None
    alignment: dict[str, Any] | None = None
    trainer_teacher: dict[str, Any] | None = None

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
        files: Checksums of the run's files by path in the run; those of results are their own.
        edits: Files that were changed by hand and accepted: `file`, `before` and `after`, sha256.
        schema_version: Version of the format that the run was written in.
    """

    fingerprint: dict[str, Any]
    parts: tuple[Part, ...]
    teacher: Model
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    rollouts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    batch_tokens: list[tuple[int, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: dict[str, Checksum] = field(default_factory=dict)
    edits: list[dict[str, Any]] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    @property
    def k_grid(self) -> tuple[int, ...]:
        """The K of the columns that hold one value per K."""
        return tuple(self.fingerprint["k_grid"])

    def lists(self, run: Path, path: Path) -> bool:
        """Tell whether a file belongs to the run, by its name alone."""
        return self.schema_version == 1 or path.relative_to(run).as_posix() in self.files

    def verify_file(self, run: Path, path: Path) -> None:
        """Check that a file is the one that the manifest lists.

        Args:
            run: Folder of the run.
            path: The file, in that folder.

        Raises:
            TableError: If it is missing, not listed, or another one.
        """
        try:
            if self.schema_version == 1:
                verify_embedded(path)
            elif self.lists(run, path):
                verify(path, self.files[path.relative_to(run).as_posix()])
            else:
                raise TableError(
                    f"{path}: not in the manifest of its run; expected a file that `opd-diag "
                    "score` wrote (run the same command again)"
                )
        except FileNotFoundError:
            raise TableError(
                f"{path}: no such file; expected the one that the manifest lists"
            ) from None
        except OSError as error:
            raise TableError(
                f"{path}: damaged ({error.strerror}); expected a readable file"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values, in the order of the file."""
        values = {
            "format": FORMAT,
            "schema_version": self.schema_version,
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
            "files": {name: one._asdict() for name, one in sorted(self.files.items())},
            "edits": self.edits,
        }
        return {**values, "checksum": digest(values)}

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
            files={
                name: Checksum(one["sha256"], one["size"])
                for name, one in values.get("files", {}).items()
            },
            edits=values.get("edits", []),
            schema_version=values["schema_version"],
        )


_MODEL_KEYS = ("path", "trust_remote_code", "dtype", "logits", "source")
_CHECKPOINT_KEYS = (
    *("path", "fingerprint", "files", "trust_remote_code", "dtype", "logits", "decodable"),
    *("noise_floor", "statistics", "alignment", "trainer_teacher"),
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


def read_manifest(run: Path, *, edited: bool = False) -> Manifest:
    """Read and check the manifest of a run.

    Args:
        run: Folder of the run.
        edited: Whether a manifest that was changed by hand is read, too.

    Raises:
        ManifestError: If there is none, it is no JSON, it is not of this format or of no schema
            version that is read, a part of it is missing, or it is not what was written.
    """
    path = run / MANIFEST_NAME
    try:
        with open_regular(path) as file:
            values = json.loads(file.read(), parse_constant=_refuse, parse_float=_finite)
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
    version = values.get("schema_version")
    if isinstance(version, bool) or version not in READABLE_VERSIONS:
        raise ManifestError(
            f"{path}: schema version {str(version)[:40]}; expected {READABLE_VERSIONS[0]} to "
            f"{READABLE_VERSIONS[-1]}"
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
    summed = version != 1 or "checksum" in values
    if summed and not edited and not is_as_written(values):
        raise ManifestError(
            f"{path}: damaged or edited (its checksum does not fit); expected the manifest as it "
            "was written, or `opd-diag info --accept-edits` to take it as it is"
        )
    return Manifest.from_json(values)


def is_as_written(values: Mapping[str, Any]) -> bool:
    """Tell whether the values of a manifest fit the checksum among them."""
    rest = {name: value for name, value in values.items() if name != "checksum"}
    return bool(values.get("checksum") == digest(rest))


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
    yield "files", _is_files(values.get("files", {}))
    edits = values.get("edits", [])
    yield "edits", isinstance(edits, list) and all(isinstance(edit, dict) for edit in edits)
    if isinstance(values["checkpoints"], dict):
        for name, known in values["checkpoints"].items():
            yield f"checkpoint {name!r}", is_checkpoint_name(name) and _is_checkpoint(known)


def is_checkpoint_name(name: str) -> bool:
    """Tell whether a name can stand in the name of a folder, and leads to no other folder."""
    return name.isprintable() and not set(name) & set("/\\") and 0 < len(name.encode()) <= _LONGEST


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


def _is_files(files: object) -> bool:
    return isinstance(files, dict) and all(
        isinstance(one, dict) and isinstance(one.get("sha256"), str) and _is_count(one.get("size"))
        for one in files.values()
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


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Write the manifest of a run.

    Raises:
        StorageError: If it cannot be written.
    """
    with atomic_path(run / MANIFEST_NAME) as temporary:
        temporary.write_text(json.dumps(manifest.to_json(), indent=1, allow_nan=False) + "\n")
