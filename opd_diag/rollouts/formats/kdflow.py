"""Rollout dumps of KDFlow: `rollout_data/<step>.jsonl` of prompt and output."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, about_prompt

KEYS = ("prompt", "output")
USED = (*KEYS, "reward_result")


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a row; the step is the name of the file."""
    reward = row.get("reward_result")
    if isinstance(reward, dict):  # several values, of which none is said to be the reward
        file.used.discard("reward_result")
        reward = None
    yield about_prompt(row, file) | {
        "prompt": row.get("prompt"),
        "response": row.get("output"),
        "reward": reward,
        "step": file.number_in_name(r"(?:^|/)(\d+)\.jsonl$"),
    }
