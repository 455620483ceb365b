"""Completion logs of TRL's trainers: `completions/completions_<step>.parquet`."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import (
    GROUPS,
    REFERENCES,
    DumpFile,
    Row,
    about_prompt,
    nan_to_none,
    only_number,
)

KEYS = ("step", "prompt", "completion")
USED = KEYS
_KNOWN = (*KEYS, "id", "prompt_id", "advantage", *REFERENCES, *GROUPS)


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a row; a single reward column is the reward."""
    reward = only_number(row, _KNOWN)
    if reward is not None:
        file.used.add(reward)
    yield about_prompt(row, file) | {
        "prompt": row.get("prompt"),
        "response": row.get("completion"),
        "reward": nan_to_none(row[reward]) if reward is not None else None,
        "step": row.get("step"),
    }
