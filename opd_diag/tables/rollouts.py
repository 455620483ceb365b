"""The rollouts of a run: one row per rollout."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.parquet import read_parquet
from opd_diag.tables.schema import check_table

ROLLOUTS_NAME = "rollouts.parquet"


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


def read_rollouts_table(path: Path) -> pl.DataFrame:
    """Read a rollouts table and check it.

    Raises:
        TableError: If the file is missing, damaged or breaks the schema.
    """
    return check_table(read_parquet(path), ROLLOUTS, str(path))


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
