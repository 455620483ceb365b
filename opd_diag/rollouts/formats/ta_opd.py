"""Context banks of TA-OPD: a table (CSV, JSONL or Parquet) whose token lists are JSON strings."""

import json
from collections.abc import Iterator
from typing import Any

import opd_diag.rollouts.formats.generic as generic
from opd_diag.rollouts.rows import DumpFile, Row, RowError, about_prompt

KEYS = generic.TOKENS
USED = generic.USED
_LISTS = (*generic.TOKENS, "teacher_prompt_token_ids", "loss_mask", "sampled_logp")


def holds_strings(row: Row) -> bool:
    """Tell whether the token lists of a row are JSON strings."""
    return all(isinstance(row.get(key), str) for key in KEYS)


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a row, its lists, numbers and flags read out of their strings."""
    record = about_prompt(row, file)
    record |= {key: row[key] for key in USED if row.get(key) is not None}
    for key in (*_LISTS, "reward", "correct"):
        if isinstance(record.get(key), str):
            record[key] = _parse(record[key], key)
    yield record


def _parse(value: str, key: str) -> Any:
    try:
        return json.loads(value.lower() if key == "correct" else value)
    except (ValueError, RecursionError):
        raise RowError(f"{key} is not JSON; expected a value written as JSON") from None
