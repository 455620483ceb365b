"""Whether the files of a run are those that its manifest lists; accepting those that are not."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl

from opd_diag.errors import OpdDiagError, TableError
from opd_diag.tables.checksums import checksum, forget_checksums
from opd_diag.tables.columns.tokens import token_columns, with_later_columns
from opd_diag.tables.files import run_lock
from opd_diag.tables.gradients import gradients_path, read_gradients_part
from opd_diag.tables.manifest import (
    MANIFEST_NAME,
    Manifest,
    is_as_written,
    read_manifest,
    write_manifest,
)
from opd_diag.tables.parquet import read_metadata, read_parquet
from opd_diag.tables.rollouts import ROLLOUTS_NAME, VOCAB_NAME, read_rollouts_table, read_vocab
from opd_diag.tables.run import OTHER_RUN, Run
from opd_diag.tables.schema import check_table
from opd_diag.tables.tokens import METADATA_KEY, part_path, write_part

CHANGED, MISSING, UNLISTED = "changed", "missing", "not listed"


def list_files(run: Path, manifest: Manifest) -> None:
    """Let a manifest list the files of its run as they are.

    Args:
        run: Folder of the run.
        manifest: Its manifest, changed in place and not written.

    Raises:
        OSError: If a file cannot be read.
    """
    manifest.files = {
        path.relative_to(run).as_posix(): checksum(path)
        for path in run_files(run, manifest)
        if path.exists()
    }


def run_files(run: Path, manifest: Manifest) -> Iterator[Path]:
    """Yield every file that a whole run has, but results and the teacher's hidden states."""
    yield run / ROLLOUTS_NAME
    yield run / VOCAB_NAME
    for name in manifest.checkpoints:
        for part in range(len(manifest.parts)):
            yield part_path(run, name, part)
            yield gradients_path(run, name, part)


def verify_run(run: Run) -> dict[str, str]:
    """Read every file of a run again, and tell which are not as they were written.

    Returns:
        `changed`, `missing` or `not listed` by path in the run; for a result that cannot be used,
        why. Empty if all is well.
    """
    forget_checksums()
    faults = {}
    for path in run_files(run.path, run.manifest):
        name = path.relative_to(run.path).as_posix()
        if not path.exists():
            faults[name] = MISSING
        elif not run.manifest.lists(run.path, path):
            faults[name] = UNLISTED
        else:
            try:
                run.manifest.verify_file(run.path, path)
            except TableError:
                faults[name] = CHANGED
    for kind in ("tokens", "gradients"):  # nobody reads a part that was not planned
        for path in sorted((run.path / kind).rglob("part-*")):
            name = path.relative_to(run.path).as_posix()
            if not run.manifest.lists(run.path, path):
                faults.setdefault(name, UNLISTED)
    for name in run.results():
        try:
            if run.why_stale(name) in (None, OTHER_RUN):  # else it has to be made again, no more
                run.result(name)
        except OpdDiagError as error:
            faults[f"results/{name}.parquet"] = str(error)
    return faults


def accept_edits(folder: Path) -> list[str]:
    """Take the files of a run as they are now, and record which had changed.

    A run of schema version 1 is taken over into version 2, whose files the manifest lists.

    Args:
        folder: The run.

    Returns:
        What was accepted, by path in the run.

    Raises:
        ManifestError: If the manifest is not one.
        TableError: If a file that changed is not what its place asks for.
        StorageError: If another process writes to the run, or the manifest cannot be written.
    """
    forget_checksums()
    read_manifest(folder, edited=True)  # the lock makes a folder: none where there is no run
    with run_lock(folder):
        manifest = read_manifest(folder, edited=True)
        today = date.today().isoformat()
        accepted = []

        def accept(name: str, before: str | None, after: str) -> None:
            accepted.append(name)
            manifest.edits.append({"file": name, "before": before, "after": after, "date": today})

        if manifest.schema_version == 1:
            for path in run_files(folder, manifest):
                if path.exists():
                    manifest.verify_file(folder, path)
            list_files(folder, manifest)
            before = f"schema version {manifest.schema_version}"
            manifest.schema_version = 2
            accept(MANIFEST_NAME, before, "schema version 2")
        else:
            values = json.loads((folder / MANIFEST_NAME).read_bytes())
            if not is_as_written(values):
                accept(MANIFEST_NAME, str(values.get("checksum")), "as it is")
            for path in run_files(folder, manifest):
                name = path.relative_to(folder).as_posix()
                known = manifest.files.get(name)
                if known is None or not path.exists():
                    continue
                try:
                    changed = checksum(path) != known
                except OSError as error:
                    raise TableError(
                        f"{path}: {error.strerror}; expected a readable file"
                    ) from error
                if changed:
                    manifest.files[name] = checksum(path)
                    _check_edited(folder, manifest, path)
                    manifest.files[name] = checksum(path)
                    accept(name, known.sha256, manifest.files[name].sha256)
        if accepted:
            write_manifest(folder, manifest)
    return accepted


def _check_edited(folder: Path, manifest: Manifest, path: Path) -> None:
    """Check that a file that changed is what its place asks for."""
    if path.name == ROLLOUTS_NAME:
        table = read_rollouts_table(folder, manifest)
        last = manifest.parts[-1].stop
        if table.height != last or table["rollout"].to_list() != list(range(last)):
            raise TableError(f"{path}: {table.height} rows; expected rollouts 0 to {last - 1}")
    elif path.name == VOCAB_NAME:
        read_vocab(folder, manifest)
    elif path.suffix == ".safetensors":
        read_gradients_part(path)
    else:
        number = int(path.stem.removeprefix("part-"))
        frame = with_later_columns(read_parquet(path).lazy(), manifest.k_grid).collect()
        frame = check_table(frame, token_columns(manifest.k_grid)[1:], str(path))
        part = manifest.parts[number]
        if (
            frame.height != part.rows
            or not frame["rollout"].is_between(pl.lit(part.start), pl.lit(part.stop - 1)).all()
        ):
            raise TableError(
                f"{path}: {frame.height} rows; expected {part.rows}, of rollouts {part.start} to "
                f"{part.stop - 1}"
            )
        if METADATA_KEY not in read_metadata(path):  # other programs drop what is not theirs
            checkpoint = path.parent.name.removeprefix("checkpoint=")
            write_part(frame, folder, checkpoint, number, k_grid=manifest.k_grid, statistics={})
