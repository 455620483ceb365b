"""A run on disk: one set of rollouts, one teacher, one or more checkpoints on the same tokens."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.errors import TableError
from opd_diag.tables.arguments import Tables, arguments_of
from opd_diag.tables.columns import RESULTS
from opd_diag.tables.files import check_path
from opd_diag.tables.gradients import GradientSums, read_gradients
from opd_diag.tables.manifest import Manifest, digest, read_manifest
from opd_diag.tables.results import (
    digest_columns,
    read_result,
    read_result_metadata,
    result_path,
    write_results,
)
from opd_diag.tables.rollouts import ROLLOUTS_NAME, VOCAB_NAME, read_rollouts_table, read_vocab
from opd_diag.tables.tokens import part_path, read_part_metadata, scan_tokens

OTHER_RUN = "made from another run"
SUBSETS = ("policy", "step", "group")  # options that leave rollouts out


def open_run(path: str | Path) -> "Run":
    """Open a run that `score` has made.

    Args:
        path: Folder of the run.

    Raises:
        ManifestError: If the folder holds no run, or one of another schema version.
        StorageError: If it cannot be a path: too long, or not UTF-8.
    """
    check_path(path)
    folder = Path(path)
    return Run(folder, read_manifest(folder))


class Run:
    """A run on disk. Tables are read and checked when they are asked for.

    Attributes:
        path: Folder of the run.
        manifest: What made it.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, checkpoints={list(self.checkpoints)})"

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Names of the checkpoints, in the order that `score` was given."""
        return tuple(self.manifest.checkpoints)

    @property
    def k_grid(self) -> tuple[int, ...]:
        """The K of the columns that hold one value per K."""
        return self.manifest.k_grid

    @cached_property
    def rollouts(self) -> pl.DataFrame:
        """One row per rollout.

        Raises:
            TableError: If the table is missing, damaged or breaks its schema.
        """
        return read_rollouts_table(self.path, self.manifest)

    @cached_property
    def vocab(self) -> pl.DataFrame:
        """One row per decodable token id.

        Raises:
            TableError: If the table is missing, damaged or breaks its schema.
        """
        return read_vocab(self.path, self.manifest)

    def tokens(self, checkpoint: str | None = None) -> pl.LazyFrame:
        """Scan the token table of one checkpoint, or of all in order.

        Raises:
            TableError: If the checkpoint is unknown, not yet complete, or a part is damaged,
                or if a part has other tokens than the same part of the first checkpoint.
        """
        names = self.checkpoints if checkpoint is None else (checkpoint,)
        return pl.concat([self._tokens(name) for name in names])

    def _tokens(self, checkpoint: str) -> pl.LazyFrame:
        self._know(checkpoint)
        run, manifest = self.path, self.manifest
        tokens = scan_tokens(run, checkpoint, manifest)
        first = self.checkpoints[0]
        for part in range(len(manifest.parts)) if checkpoint != first else ():
            ours = read_part_metadata(run, checkpoint, part, manifest)["keys"]
            if ours != read_part_metadata(run, first, part, manifest)["keys"]:
                raise TableError(
                    f"{self.path}: part {part} of checkpoint {checkpoint!r} holds other tokens "
                    f"than that of {first!r}; expected the same rollouts, positions and ids"
                )
        return tokens

    def gradients(self, checkpoint: str) -> GradientSums:
        """Read the gradient sums of one checkpoint.

        Raises:
            TableError: If the checkpoint is unknown, not yet complete, or a part is damaged.
        """
        self._know(checkpoint)
        return read_gradients(self.path, checkpoint, self.manifest)

    def noise_floor(self, checkpoint: str) -> dict[str, float]:
        """Return how far each column moves when other rollouts share a batch.

        Returns:
            The 95th percentile of |difference| by column; empty while it was not measured.

        Raises:
            TableError: If the checkpoint is unknown.
        """
        self._know(checkpoint)
        floor = self.manifest.checkpoints[checkpoint].noise_floor
        return {} if floor is None else dict(floor.p95)

    def input_hash(self, checkpoints: Sequence[str]) -> str:
        """Return the hash of what a result over `checkpoints` is made from: files and models.

        Raises:
            TableError: If a checkpoint is unknown.
        """
        for name in checkpoints:
            self._know(name)
        manifest = self.manifest
        made_from: list[Any] = [
            manifest.fingerprint,
            {name: manifest.checkpoints[name].fingerprint for name in checkpoints},
        ]
        if manifest.schema_version > 1:
            folders = tuple(
                f"{kind}/checkpoint={name}/"
                for kind in ("tokens", "gradients")
                for name in checkpoints
            )
            made_from.append(
                {
                    name: one.sha256
                    for name, one in manifest.files.items()
                    if name in (ROLLOUTS_NAME, VOCAB_NAME) or name.startswith(folders)
                }
            )
        return digest(made_from)

    @property
    def teacher_source(self) -> str:
        """Where the teacher's part of the scores comes from: `weights`, or what stands for them."""
        return self.manifest.teacher.source or "weights"

    @property
    def results_folder(self) -> Path:
        """Folder of the result tables."""
        return self.path / "results"

    def is_stale(self, name: str, folder: Path | None = None) -> bool:
        """Tell whether a result does not hold for the run as it is now; see `why_stale`."""
        return self.why_stale(name, folder) is not None

    def why_stale(self, name: str, folder: Path | None = None) -> str | None:
        """Tell why a result does not hold for the run as it is now, or None if it does.

        It may have been made from other tokens, of all checkpoints before one was added or while
        they stood in another order, or by another version, whose table has other columns.

        Args:
            name: Name of the table.
            folder: Folder of the results; by default the run's own.

        Raises:
            TableError: If there is no such result.
        """
        metadata = read_result_metadata(result_path(folder or self.results_folder, name))
        covered = metadata["checkpoints"]
        known = all(checkpoint in self.checkpoints for checkpoint in covered)
        if not known or metadata["input_hash"] != self.input_hash(covered):
            return OTHER_RUN
        if name not in RESULTS:
            return None
        if metadata.get("columns") != digest_columns(name):
            return "made by a version of opd-diag with other columns"
        then = metadata["run_checkpoints"]
        if metadata["arguments"].get("checkpoint") is None and then != self._complete():
            if sorted(then) == sorted(self._complete()):
                return f"made while the order of the checkpoints was {', '.join(then)}"
            return f"made while the run held {', '.join(then)} only"
        return None

    def _complete(self) -> list[str]:
        """Return the checkpoints all of whose parts are there: one that is being added is not."""
        parts = range(len(self.manifest.parts))
        return [
            name
            for name in self.checkpoints
            if all(self.manifest.lists(self.path, part_path(self.path, name, n)) for n in parts)
        ]

    def subset_of(self, name: str, folder: Path | None = None) -> str | None:
        """Say which rollouts alone a result was made from, or None if from all.

        Args:
            name: Name of the table.
            folder: Folder of the results; by default the run's own.

        Returns:
            A clause such as `only rollouts of group 'math'`.

        Raises:
            TableError: If there is no such result.
        """
        path = result_path(folder or self.results_folder, name)
        asked = read_result_metadata(path)["arguments"]
        parts = [f"{name} {asked[name]!r}" for name in SUBSETS if asked.get(name) is not None]
        return f"only rollouts of {', '.join(parts)}" if parts else None

    def result(self, name: str, folder: Path | None = None) -> pl.DataFrame:
        """Read a result table.

        Args:
            name: Name of the table.
            folder: Folder of the results; by default the run's own.

        Raises:
            TableError: If there is none, it is damaged, or it is stale.
        """
        path = result_path(folder or self.results_folder, name)
        if why := self.why_stale(name, folder):
            raise TableError(f"{path}: {why}; expected a result of {self.path} as it is now")
        return read_result(path)

    def save(
        self,
        tables: Tables | Mapping[str, pl.DataFrame],
        *,
        arguments: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> list[Path]:
        """Write the result tables of one analysis, in place of those of an earlier one.

        A table of your own, such as `run.save({"my_table": frame})`, is kept beside them, with
        what it was made from; `result("my_table")` reads it.

        Args:
            tables: What an analysis returned, or tables by name.
            arguments: Every choice that made them, JSON values; None: those that the analysis was
                called with, which it keeps beside its tables, or none for tables of your own.
            folder: Folder of the results; by default the run's own.

        Returns:
            The paths written.

        Raises:
            TableError: If a table breaks its schema; then none is written.
            OptionError: If the tables were put together by hand and come without arguments.
            StorageError: If one cannot be written.
        """
        own = isinstance(tables, Mapping) and not any(name in RESULTS for name in tables)
        if arguments is None:
            arguments = {} if own else arguments_of(tables)
        if not isinstance(tables, Mapping):
            tables = tables._asdict()
        named = [table["checkpoint"] for table in tables.values() if "checkpoint" in table.columns]
        covered = {name for names in named for name in names.unique()} if named else None
        checkpoints = [name for name in self.checkpoints if covered is None or name in covered]
        return write_results(
            self.results_folder if folder is None else folder,
            tables,
            arguments=arguments,
            input_hash=self.input_hash(checkpoints),
            checkpoints=checkpoints,
            run_checkpoints=self._complete(),
            retokenised=int((~self.rollouts["token_exact"]).sum()),
            teacher_source=self.teacher_source,
        )

    def results(self, folder: Path | None = None) -> list[str]:
        """Return the names of the result tables on disk, stale ones too.

        Args:
            folder: Folder of the results; by default the run's own.
        """
        return sorted(path.stem for path in (folder or self.results_folder).glob("*.parquet"))

    def _know(self, checkpoint: str) -> None:
        if checkpoint not in self.checkpoints:
            raise TableError(
                f"{self.path}: no checkpoint {checkpoint!r}; expected one of "
                f"{', '.join(self.checkpoints)}"
            )
