"""The rollouts of all files of one call, and what was noticed on the way."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.errors import RolloutError, faults
from opd_diag.rollouts.files import read_rows
from opd_diag.rollouts.formats import Format, detect_format
from opd_diag.rollouts.formats.prime_rl import is_complete
from opd_diag.rollouts.raw_rollout import RawRollout, check_rollout
from opd_diag.rollouts.rows import DumpFile, RowError, kind_of


class Dump:
    """A dump in one format, read file by file.

    Attributes:
        records: The rollouts so far.
    """

    def __init__(self, given: Format | None, *, trust_pickle: bool, limit: int | None) -> None:
        self.records: list[RawRollout] = []
        self._given = given
        self._detected: tuple[Format, str] | None = None
        self._trust_pickle = trust_pickle
        self._limit = limit
        self._files: dict[str, int] = {}
        self._skipped: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._last_batch: list[tuple[str, str]] = []

    @property
    def full(self) -> bool:
        """Whether as many rollouts are read as were wanted."""
        return self._limit is not None and len(self.records) >= self._limit

    @property
    def format(self) -> Format:
        """The format of the rollouts that were read.

        Raises:
            RolloutError: If there are none.
        """
        form = self._given or (self._detected and self._detected[0])
        if form is None or not self.records:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self._skipped.items())
            raise RolloutError(
                f"{next(iter(self._files), 'rollouts')}: no rollouts left ({reasons or 'none'} "
                "skipped); expected at least one"
            )
        return form

    def read(self, path: Path) -> None:
        """Read one file.

        Raises:
            RolloutError: If the file cannot be read, is empty, has faults (all are told at once),
                or is in another format than the files before it.
        """
        file = DumpFile(path)
        found = []
        records: list[RawRollout] = []
        form = self._given
        n_rows = 0
        for line, row in read_rows(path, trust_pickle=self._trust_pickle):
            n_rows += 1
            try:
                content = _object(row)
                form = form or self._detect(content, path)
                records += self._rollouts(content, line, file, form)
            except RowError as error:
                found.append(f"line {line}: {error}")
            if self._limit is not None and len(self.records) + len(records) >= self._limit:
                del records[self._limit - len(self.records) :]
                break
        if found:
            raise RolloutError(faults(str(path), found))
        if not n_rows:
            raise RolloutError(f"{path}: empty; expected at least one rollout")
        if form is not None and form.repeats and self._is_last_batch(records):
            file.skipped["logged again at a later step"] += len(records)
            records = []
        self.records += records
        self._files[str(path)] = len(records)
        self._skipped += file.skipped

    def _detect(self, row: dict[str, Any], path: Path) -> Format:
        """Detect the format of a file from its first row; one call reads one format."""
        form, why = detect_format(row, str(path))
        if self._detected is None:
            self._detected = (form, why)
        elif form.name != self._detected[0].name:
            raise RolloutError(
                f"{path}: format {form.name}, for {why}; expected {self._detected[0].name} as in "
                f"{next(iter(self._files))}, one format in a call"
            )
        return form

    def _rollouts(
        self, row: dict[str, Any], line: int, file: DumpFile, form: Format
    ) -> list[RawRollout]:
        if form.name == "prime-rl" and not is_complete(file):
            file.skipped["in a step that is not marked STABLE"] += 1
            return []
        file.used.update(form.used)
        rollouts = list(form.rollouts(row, file))
        self._unknown.update(str(key) for key in row.keys() - file.used)
        return [
            check_rollout(
                rollout,
                source=str(file.path),
                source_row=line,
                part=part if len(rollouts) > 1 else None,
            )
            for part, rollout in enumerate(rollouts)
        ]

    def _is_last_batch(self, records: list[RawRollout]) -> bool:
        batch = [(str(record.prompt), str(record.response)) for record in records]
        repeated = batch == self._last_batch
        self._last_batch = batch
        return repeated

    def report(self, table: pl.DataFrame, drift: dict[str, int]) -> dict[str, Any]:
        """Tell what was read and what was left out."""
        lengths = table["response_token_ids"].list.len()
        return {
            "format": self.format.name,
            "why": self._detected[1] if self._detected else "given",
            "files": [{"path": path, "rollouts": n} for path, n in self._files.items()],
            "rollouts": table.height,
            "prompts": table["prompt_id"].n_unique(),
            "response_tokens": int(lengths.sum()),
            "empty_responses": int((lengths == 0).sum()),
            "token_exact": int(table["token_exact"].sum()),
            "retokenised": drift,
            "unknown_keys": dict(sorted(self._unknown.items())),
            "skipped": dict(self._skipped),
            "trust_pickle": self._trust_pickle,
        }


def _object(row: Any) -> dict[str, Any]:
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, dict):
        raise RowError(f"{kind_of(row)}; expected an object")
    return row
