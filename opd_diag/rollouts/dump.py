"""The rollouts of all files of one call, and what was noticed on the way."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.errors import RolloutError, faults
from opd_diag.rollouts.files import Candidate, read_rows
from opd_diag.rollouts.formats import Format, detect_format, fits
from opd_diag.rollouts.formats.prime_rl import is_complete
from opd_diag.rollouts.raw_rollout import CARRIED, RawRollout, check_rollout, is_readable
from opd_diag.rollouts.rows import CutLineError, DumpFile, RowError, kind_of

_LEFT_OUT_NAMED = 3
_KEYS_NAMED = 20
_OF_PROMPT = ("prompt_id", "step", "policy")


class Dump:
    """A dump in one format, read file by file.

    Args:
        given: Its format, None to detect it.
        keys: Keys of the dump by the generic key that they stand for.
        trust_pickle: Whether pickles may run code.
        limit: How many rollouts are wanted.

    Attributes:
        rollouts: The rollouts so far.
    """

    def __init__(
        self,
        given: Format | None,
        *,
        keys: Mapping[str, str] | None = None,
        trust_pickle: bool = False,
        limit: int | None = None,
    ) -> None:
        self.rollouts: list[RawRollout] = []
        self._given = given
        self._keys = dict(keys or {})
        self._detected: tuple[Format, str] | None = None
        self._trust_pickle = trust_pickle
        self._limit = limit
        self._files: dict[str, int] = {}
        self._left_out: dict[str, str] = {}
        self._cut: list[str] = []
        self._skipped: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._row_keys: dict[str, None] = {}  # in the order in which they were met
        self._unmet = set(self._keys.values())
        self._last_batch: list[tuple[str, str]] = []

    @property
    def full(self) -> bool:
        """Whether as many rollouts are read as were wanted."""
        return self._limit is not None and len(self.rollouts) >= self._limit

    @property
    def format(self) -> Format:
        """The format of the rollouts that were read.

        Raises:
            RolloutError: If there are none.
        """
        form = self._given or (self._detected and self._detected[0])
        if form is None or not self.rollouts:
            raise RolloutError(self._nothing_left())
        return form

    def read(self, file: Candidate) -> None:
        """Read one file.

        A file that was met in a folder and is no dump, or not one of the format given, is left out
        and named in the report.

        Raises:
            RolloutError: If the file cannot be read, is empty, has faults (all are told at once),
                or is in another format than the files before it.
        """
        rows = read_rows(file.path, trust_pickle=self._trust_pickle)
        if not file.named:
            first, reason = self._first_row(rows, file.path)
            if reason:
                self._left_out[str(file.path)] = reason
                return
            rows = itertools.chain([first], rows)
        self._read_rows(file.path, rows)

    def _first_row(
        self, rows: Iterator[tuple[int, Any]], path: Path
    ) -> tuple[tuple[int, Any], str | None]:
        """Look at the first row of a file that may be no dump; tell why it is none, if so."""
        try:
            first = next(rows, None)
            if first is None:
                return (0, None), "empty"
            row = _object(first[1])
            if self._given is None:
                self._format_of(row, path)
            elif not fits(self._given, self._with_mapped(row)):
                return first, f"not in the format {self._given.name}"
        except RowError as error:
            return (0, None), str(error).partition(";")[0]
        except RolloutError as error:
            told = str(error).removeprefix(f"{path}: ")
            return (0, None), told if "trust_pickle" in told else told.partition(",")[0]
        return first, None

    def _read_rows(self, path: Path, rows: Iterator[tuple[int, Any]]) -> None:
        file = DumpFile(path)
        wrong: list[str] = []
        rollouts: list[RawRollout] = []
        form = self._given
        n_rows = 0
        other = ""
        for line, row in rows:
            if isinstance(row, CutLineError) and n_rows:
                self._cut.append(str(path))
                continue
            n_rows += 1
            try:
                content = _object(row)
                self._meet(content)
                form = form or self._detect(content, path)
                rollouts += self._rollouts(self._with_mapped(content), line, file, form)
            except RowError as error:
                wrong.append(f"line {line}: {error}")
                other = other or self._other_format(row, path)
            if self._limit is not None and len(self.rollouts) + len(rollouts) >= self._limit:
                del rollouts[self._limit - len(self.rollouts) :]
                break
        if wrong:
            told = faults(str(path), wrong)
            other = other or (self._unmet_keys() if self._unmet else "")
            if other:
                told += f"\n  {other}" if "\n" in told else f" ({other})"
            raise RolloutError(told)
        if not n_rows:
            raise RolloutError(f"{path}: empty; expected at least one rollout")
        if form is not None and form.repeats and self._is_last_batch(rollouts):
            file.skipped["logged again at a later step"] += len(rollouts)
            rollouts = []
        self._drop_ids_of_prompts(rollouts, file, form)
        self.rollouts += rollouts
        self._files[str(path)] = len(rollouts)
        self._skipped += file.skipped

    def _with_mapped(self, row: dict[str, Any]) -> dict[str, Any]:
        """Put the values of mapped keys under the generic keys that they stand for.

        What is missing leaves what the format finds, but a group of another kind is no group.
        """
        mapped = {ours: _value_at(row, theirs) for ours, theirs in self._keys.items()}
        return row | {
            ours: value for ours, value in mapped.items() if value is not None or ours == "group"
        }

    def _meet(self, row: dict[str, Any]) -> None:
        """Note which mapped keys a row has, and which keys there are."""
        if self._keys:
            self._row_keys.update(dict.fromkeys(map(str, row)))
            self._unmet = {key for key in self._unmet if not _has(row, key)}

    def _unmet_keys(self) -> str:
        mapped = [f"{ours}={key}" for ours, key in self._keys.items() if key in self._unmet]
        there = list(self._row_keys)
        more = f" and {len(there) - _KEYS_NAMED} more" if len(there) > _KEYS_NAMED else ""
        return (
            f"map: no row has the key of {', '.join(mapped)}; expected one of "
            f"{', '.join(there[:_KEYS_NAMED])}{more}, a dot leading into objects and lists"
        )

    def check_mapped(self) -> None:
        """Check that every mapped key stands in some row.

        Raises:
            RolloutError: If one does not.
        """
        if self._unmet and self._row_keys:
            raise RolloutError(self._unmet_keys())

    def _format_of(self, row: dict[str, Any], path: Path) -> tuple[Format, str]:
        return detect_format(self._with_mapped(row), str(path), in_file=row.keys())

    def _detect(self, row: dict[str, Any], path: Path) -> Format:
        """Detect the format of a file from its first row; one call reads one format."""
        form, why = self._format_of(row, path)
        if self._detected is None:
            self._detected = (form, why)
        elif form.name != self._detected[0].name:
            raise RolloutError(
                f"{path}: format {form.name}, for {why}; expected {self._detected[0].name} as in "
                f"{next(iter(self._files))}, one format in a call (--format takes the files of "
                "one format out of a folder)"
            )
        return form

    def _other_format(self, row: Any, path: Path) -> str:
        """Say which format a row has that breaks the one given."""
        if self._given is None or not isinstance(row, dict):
            return ""
        try:
            form, why = self._format_of(row, path)
        except RolloutError:
            return ""
        return "" if form is self._given else f"--format {form.name} would fit, for {why}"

    def _rollouts(
        self, row: dict[str, Any], line: int, file: DumpFile, form: Format
    ) -> list[RawRollout]:
        if form.name == "prime-rl" and not is_complete(file):
            file.skipped["in a step that is not marked STABLE"] += 1
            return []
        file.used.update(form.used, self._keys, (key.split(".")[0] for key in self._keys.values()))
        told = {key: row[key] for key in self._keys if key in row}
        rollouts = list(form.rollouts(row, file))
        rollouts = [
            rollout | {key: _share_of(value, number, len(rollouts)) for key, value in told.items()}
            for number, rollout in enumerate(rollouts)
        ]
        self._carry(rollouts, row, file, form)
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

    def _carry(
        self, rollouts: list[dict[str, Any]], row: dict[str, Any], file: DumpFile, form: Format
    ) -> None:
        """Take generic keys from a row whose format does not know them, where they read as such.

        Of a row of several rollouts a single value holds for all if it is about the prompt.
        """
        for key in CARRIED:
            if key in form.used or row.get(key) is None:
                continue
            shares = [_share_of(row[key], n, len(rollouts)) for n in range(len(rollouts))]
            of_each = len(rollouts) == 1 or isinstance(row[key], list) or key in _OF_PROMPT
            if not of_each or not all(is_readable({key: share}, key) for share in shares):
                continue
            for rollout, share in zip(rollouts, shares, strict=True):
                if rollout.get(key) is None:
                    rollout[key] = share
                    file.used.add(key)

    def _drop_ids_of_prompts(
        self, rollouts: list[RawRollout], file: DumpFile, form: Format | None
    ) -> None:
        """Drop ids that the format does not know where they come twice in the file."""
        carried = form is not None and "id" in file.used - {*form.used, *self._keys}
        names = [one.rollout_id for one in rollouts if one.rollout_id is not None]
        if not carried or len(set(names)) == len(names):
            return
        self._unknown["id"] += len(names)
        for rollout in rollouts:
            rollout.rollout_id = None

    def _is_last_batch(self, rollouts: list[RawRollout]) -> bool:
        batch = [(str(rollout.prompt), str(rollout.response)) for rollout in rollouts]
        repeated = batch == self._last_batch
        self._last_batch = batch
        return repeated

    def _nothing_left(self) -> str:
        if not self._files and self._left_out:
            named = [f"{path} ({reason})" for path, reason in self._left_out.items()]
            more = len(named) - _LEFT_OUT_NAMED
            listed = ", ".join(named[:_LEFT_OUT_NAMED]) + (f", and {more} more" * (more > 0))
            return f"rollouts: no dump among {len(named)} files: {listed}; expected at least one"
        reasons = ", ".join(f"{n} {reason}" for reason, n in self._skipped.items())
        return (
            f"{next(iter(self._files), 'rollouts')}: no rollouts left ({reasons or 'none'} "
            "skipped); expected at least one"
        )

    def report(
        self,
        table: pl.DataFrame,
        drift: Mapping[str, int],
        prompts: Mapping[str, int],
        repeated: Sequence[tuple[str, str]],
    ) -> dict[str, Any]:
        """Tell what was read and what was left out.

        Args:
            table: The rollouts table.
            drift: Counts of what was tokenised again.
            prompts: Counts of prompt ids that do not stand for one prompt each.
            repeated: Where rollouts stand that an earlier file has too, and where they do there.
        """
        lengths = table["response_token_ids"].list.len()
        masks = table["loss_mask"].list.sum()
        spans = _n_spans(table["loss_mask"])
        detected = self._detected[1] if self._detected else "given"
        return {
            "format": self.format.name,
            "why": detected,
            "files": [{"path": path, "rollouts": n} for path, n in self._files.items()],
            "left_out": dict(self._left_out),
            "map": dict(self._keys),
            "rollouts": table.height,
            "prompts": table["prompt_id"].n_unique(),
            "prompt_ids": dict(prompts),
            "repeated": {"rollouts": len(repeated), "first": list(repeated[0]) if repeated else []},
            "response_tokens": int(lengths.sum()),
            "loss_tokens": int(pl.select(pl.coalesce(masks, lengths).sum()).item()),
            "several_spans": {
                "rollouts": int((spans > 1).sum()),
                "most": max(spans.to_list(), default=1),
            },
            "groups": _counts(table["group"]),
            "not_trained": int((~table["trained"]).sum()),
            "answers": table.height - table["answer"].null_count(),
            "teacher_prompts": table.height - table["teacher_prompt_token_ids"].null_count(),
            "empty_responses": int((lengths == 0).sum()),
            "token_exact": int(table["token_exact"].sum()),
            "retokenised": dict(drift),
            "unknown_keys": dict(sorted(self._unknown.items())),
            "skipped": dict(self._skipped),
            "cut_files": list(self._cut),
            "trust_pickle": self._trust_pickle,
        }


def _n_spans(masks: pl.Series) -> pl.Series:
    """Count the unbroken stretches of tokens that count, one where there is no mask."""
    starts = masks.list.eval(pl.element() & ~pl.element().shift(fill_value=False))
    return starts.list.sum().fill_null(1)


def _counts(names: pl.Series) -> dict[str, int]:
    """Count the rollouts of each group, most first; without those of no group."""
    counted = names.drop_nulls().value_counts(sort=True)
    return dict(zip(*counted.get_columns(), strict=True))


def _object(row: Any) -> dict[str, Any]:
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, dict):
        raise RowError(f"{kind_of(row)}; expected an object")
    return row


def _share_of(value: Any, number: int, count: int) -> Any:
    """Take the part of one rollout where a row of several holds a list of as many values."""
    return value[number] if count > 1 and isinstance(value, list) and len(value) == count else value


def _has(row: Any, path: str) -> bool:
    """Tell whether there is something under a key, null too; see `_value_at`."""
    if isinstance(row, dict) and path in row:
        return True
    outer, _, last = path.rpartition(".")
    inner = _value_at(row, outer) if outer else None
    return _value_at(row, path) is not None or (isinstance(inner, dict) and last in inner)


def _value_at(row: Any, path: str) -> Any:
    """Return what stands under a key, or under keys and list places with dots between them."""
    if isinstance(row, dict) and path in row:
        return row[path]
    key, _, rest = path.partition(".")
    if isinstance(row, list) and key.isdecimal() and int(key) < len(row):
        inner = row[int(key)]
    elif isinstance(row, dict):
        inner = row.get(key)
    else:
        return None
    return _value_at(inner, rest) if rest and inner is not None else inner
