"""Rollout dumps of verl: `rollout_data_dir/<step>.jsonl`, text without its special tokens."""

import re
from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, about_prompt

KEYS = ("input", "output", "score", "step")
USED = (*KEYS, "acc", "uid")
# Since 0.9.1 the uid of a prompt goes on with the numbers of the session and of the sample.
_SAMPLE_OF_UID = re.compile(r"([0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12})_\d+_\d+")


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a row."""
    uid = row.get("uid")
    sample = _SAMPLE_OF_UID.fullmatch(uid) if isinstance(uid, str) else None
    yield about_prompt(row, file) | {
        "prompt_id": sample.group(1) if sample else uid,
        "prompt": row.get("input"),
        "response": row.get("output"),
        "reward": row.get("score"),
        "correct": row.get("acc"),
        "step": row.get("step"),
    }
