"""The files of a dump, and the rows in them."""

import csv
import glob
import json
import re
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.errors import RolloutError, first_line
from opd_diag.rollouts.pickles import read_pickle
from opd_diag.rollouts.rows import RowError

SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet", ".csv", ".pt", ".pth")
_PARQUET_ROWS = 1_024


def find_files(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """List the files that paths, folders and globs stand for, 2 before 10.

    Args:
        paths: Files in the order wanted; folders and globs are sorted by the numbers in the names.

    Raises:
        RolloutError: If a path does not exist, or a folder or glob holds no dump.
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_file():
            found.append(path)
            continue
        if path.is_dir():
            inside = [p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file()]
            expected = f"files ending in {', '.join(SUFFIXES)}"
        elif glob.has_magic(str(given)):
            inside = [p for p in map(Path, glob.glob(str(given), recursive=True)) if p.is_file()]
            expected = "at least one file"
        else:
            raise RolloutError(f"{given}: no such file; expected a file, a folder or a pattern")
        if not inside:
            raise RolloutError(f"{given}: no rollouts; expected {expected}")
        found += sorted(inside, key=_natural)
    if not found:
        raise RolloutError("rollouts: no path; expected at least one")
    return found


def read_rows(path: Path, *, trust_pickle: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a file with their line or row number, from 1.

    A row that cannot be read comes as a `RowError` in its place, so that all of them can be told
    at once.

    Raises:
        RolloutError: If the file as a whole cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path)
        elif path.suffix == ".csv":
            yield from _csv_rows(path)
        elif path.suffix in (".pt", ".pth"):
            yield from read_pickle(path, trust_pickle=trust_pickle)
        elif path.suffix == ".json":
            yield from _json_rows(path)
        else:
            yield from _lines(path)
    except OSError as error:
        raise RolloutError(
            f"{path}: {error.strerror or error}; expected a readable file"
        ) from error


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.as_posix())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parse(line)


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(":")[0]
        return RowError(f"not JSON ({reason}); expected one JSON object")


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    content = _parse(path.read_bytes())
    if isinstance(content, RowError):  # one object a line under another name
        yield from _lines(path)
    else:
        yield from enumerate(content if isinstance(content, list) else [content], start=1)


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        total = lazy.select(pl.len()).collect().item()
        for start in range(0, total, _PARQUET_ROWS):
            chunk = lazy.slice(start, _PARQUET_ROWS).collect()
            yield from enumerate(chunk.iter_rows(named=True), start=start + 1)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = first_line(error)
        raise RolloutError(f"{path}: not Parquet ({reason}); expected a Parquet file") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        try:
            for row in reader:
                if None in row or None in row.values():
                    fault = RowError("another number of fields than the header; expected as many")
                    yield reader.line_num, fault
                else:
                    yield reader.line_num, {k: v or None for k, v in row.items()}
        except (csv.Error, UnicodeDecodeError) as error:
            raise RolloutError(f"{path}: not CSV ({error}); expected CSV in UTF-8") from error
