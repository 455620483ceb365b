"""Rollout dumps of verl: `rollout_data_dir/<step>.jsonl`, text without its special tokens."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row

KEYS = ("input", "output", "score", "step")
USED = (*KEYS, "acc", "uid")


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a row."""
    yield {
        "prompt_id": row.get("uid"),
        "prompt": row.get("input"),
        "response": row.get("output"),
        "reward": row.get("score"),
        "correct": row.get("acc"),
        "step": row.get("step"),
    }
