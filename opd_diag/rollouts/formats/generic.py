"""The project's own keys: one rollout a line, as token ids or as text."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row

TOKENS = ("prompt_token_ids", "response_token_ids")
TEXT = ("prompt", "response")
USED = (
    *TOKENS,
    *TEXT,
    *("id", "prompt_id", "step", "policy", "reward", "correct", "finish_reason"),
    *("loss_mask", "sampled_logp", "teacher_prompt", "teacher_prompt_token_ids"),
)


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a row."""
    yield {key: row[key] for key in USED if key in row}
