"""The rollouts of a run, one row per rollout, and its vocabulary."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.tables.columns.rollouts import ADDED_LATER, ROLLOUTS, VOCAB
from opd_diag.tables.manifest import Manifest
from opd_diag.tables.parquet import read_parquet
from opd_diag.tables.schema import check_table, polars_schema

ROLLOUTS_NAME = "rollouts.parquet"
VOCAB_NAME = "vocab.parquet"
# Tokens outside the loss that end a span. What a tool or a user wrote is longer than one token;
# a single one is a token that the trainer left out of its loss.
SHORTEST_TURN = 2


@dataclass(frozen=True)
class Rollouts:
    """Rollouts, and what was seen while they were read.

    Attributes:
        table: One row per rollout, the columns of `ROLLOUTS`.
        report: Files, format and why it was taken, unknown keys, counts. JSON values only.
    """

    table: pl.DataFrame
    report: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        table, form = self.table, self.report.get("format")
        return (
            f"Rollouts({table.height:,} of {table['prompt_id'].n_unique():,} prompts, "
            f"{int(n_tokens(table).sum()):,} response tokens{f', format {form}' if form else ''})"
        )


def n_tokens(table: pl.DataFrame) -> pl.Series:
    """Return the number of response tokens of every rollout. Shape (rollouts,)."""
    return table["response_token_ids"].list.len()


def repeated_line(report: Mapping[str, Any]) -> str | None:
    """Say how many rollouts were read from two files; None where none was."""
    repeated = report.get("repeated", {})
    if not repeated.get("rollouts"):
        return None
    return (
        "rollouts that another file has too, with the same prompt, response and step: "
        f"{repeated['rollouts']:,}, all of which count; first {' as '.join(repeated['first'])}"
    )


def read_rollouts_table(run: Path, manifest: Manifest) -> pl.DataFrame:
    """Read the rollouts table of a run and check it.

    Raises:
        TableError: If the file is missing, damaged, of another run or breaks the schema.
    """
    path = run / ROLLOUTS_NAME
    manifest.verify_file(run, path)
    return check_rollouts(read_parquet(path), str(path))


def check_rollouts(table: pl.DataFrame, where: str) -> pl.DataFrame:
    """Check a rollouts table, and give it the columns that came after the others if it lacks them.

    Args:
        table: Rollouts.
        where: The file or table that a message names.

    Raises:
        TableError: If it breaks the schema.
    """
    schema = polars_schema(ROLLOUTS)
    absent = [name for name in ADDED_LATER if name not in table.columns]
    table = table.with_columns(pl.lit(None, schema[name]).alias(name) for name in absent)
    return check_table(table, ROLLOUTS, where)


def without_empty(table: pl.DataFrame) -> pl.DataFrame:
    """Leave out the later columns that hold nothing, so that older tables have the same digest."""
    empty = [name for name in ADDED_LATER if table[name].null_count() == table.height]
    return table.drop(empty)


def read_vocab(run: Path, manifest: Manifest) -> pl.DataFrame:
    """Read the vocabulary of a run and check it.

    Raises:
        TableError: As `read_rollouts_table` does.
    """
    path = run / VOCAB_NAME
    manifest.verify_file(run, path)
    return check_table(read_parquet(path), VOCAB, str(path))


def prompt_halves(prompt_ids: Iterable[str]) -> dict[str, int]:
    """Deal the prompts into two halves in turn, ordered by the hash of their ids.

    The halves do not depend on the order of the rows, nor on how often a prompt occurs.

    Args:
        prompt_ids: Prompt ids, each any number of times.

    Returns:
        0 or 1 for each prompt id. The halves differ by at most one prompt.
    """
    ordered = sorted(set(prompt_ids), key=lambda p: blake2b(p.encode(), digest_size=16).digest())
    return {prompt_id: place % 2 for place, prompt_id in enumerate(ordered)}
