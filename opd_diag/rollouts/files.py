"""The files of a dump, and the rows in them."""

import csv
import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO, Any, NamedTuple

import polars as pl

from opd_diag.errors import RolloutError, first_line
from opd_diag.rollouts.pickles import read_pickle
from opd_diag.rollouts.rows import COMPRESSED, CutLineError, RowError
from opd_diag.tables.files import check_path

SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet", ".csv", ".pt", ".pth", ".dp")
_TEXTS = (".jsonl", ".json", ".ndjson", ".csv")
_PARQUET_ROWS = 1_024


class Candidate(NamedTuple):
    """A file that may belong to a dump.

    Attributes:
        path: Where it lies.
        named: Whether a path or a pattern stands for it; if not, it was met in a folder, where
            other files may lie too.
    """

    path: Path
    named: bool


def find_files(paths: Iterable[str | PathLike[str]]) -> list[Candidate]:
    """List the files that paths, folders and globs stand for, 2 before 10.

    Args:
        paths: Files in the order wanted; folders and globs are sorted by the numbers in the names.

    Raises:
        RolloutError: If a path does not exist, or a folder or glob holds no file of a known kind.
        StorageError: If one cannot be a path: too long, or not UTF-8.
    """
    files: list[Candidate] = []
    for given in paths:
        check_path(given)
        path = Path(given)
        if path.is_file():
            files.append(Candidate(path, named=True))
            continue
        if path.is_dir():
            inside = [p for p in path.rglob("*") if kind_of_file(p) and p.is_file()]
            expected = f"files ending in {', '.join(SUFFIXES)}"
        elif glob.has_magic(str(given)):
            inside = [p for p in map(Path, glob.glob(str(given), recursive=True)) if p.is_file()]
            expected = "at least one file"
        else:
            raise RolloutError(f"{given}: no such file; expected a file, a folder or a pattern")
        if not inside:
            raise RolloutError(f"{given}: no rollouts; expected {expected}")
        files += [Candidate(p, named=not path.is_dir()) for p in sorted(inside, key=_natural)]
    if not files:
        raise RolloutError("rollouts: no path; expected at least one")
    for file in files:
        check_path(file.path)
    return files


def kind_of_file(path: Path) -> str | None:
    """Return the ending that tells how a file is read, without that of its compression."""
    compressed = path.suffix in COMPRESSED
    suffix = Path(path.stem).suffix if compressed else path.suffix
    return suffix if suffix in (_TEXTS if compressed else SUFFIXES) else None


def read_rows(path: Path, *, trust_pickle: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a file with their line or row number, from 1.

    A row that cannot be read comes as a `RowError` in its place, so that all of them can be told
    at once; a last line without its end, after others, as a `CutLineError`.

    Raises:
        RolloutError: If the file as a whole cannot be read.
    """
    kind = kind_of_file(path)
    try:
        if kind == ".parquet":
            yield from _parquet_rows(path)
        elif kind == ".csv":
            yield from _csv_rows(path)
        elif kind in (".pt", ".pth", ".dp"):
            yield from read_pickle(path, trust_pickle=trust_pickle)
        elif kind == ".json":
            yield from _json_rows(path)
        else:
            yield from _lines(path)
    except (OSError, EOFError, zlib.error) as error:  # the last two of a damaged gzip file
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RolloutError(f"{path}: {reason}; expected a readable file") from error


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.as_posix())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _opened(path: Path) -> IO[bytes]:
    """Open a text file, compressed or not."""
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.open(path))
    if path.suffix != ".zst":
        return path.open("rb")
    try:
        lines = pl.read_lines(path).to_series()
    except pl.exceptions.PolarsError as error:
        raise RolloutError(
            f"{path}: cannot be decompressed ({first_line(error)}); expected lines in UTF-8"
        ) from error
    return io.BytesIO("".join(f"{line}\n" for line in lines).encode())


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = _parse(line)
                # Only the last line has no end.
                if isinstance(row, RowError) and number > 1 and not line.endswith(b"\n"):
                    row = CutLineError(*row.args)
                yield number, row


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(":")[0]
        return RowError(f"not JSON ({reason}); expected one JSON object")


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with _opened(path) as file:
        content = _parse(file.read())
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
    with _opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
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
