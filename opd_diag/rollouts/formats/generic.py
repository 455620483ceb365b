"""The project's own keys: one rollout a line, as token ids or as text."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, about_prompt

TOKENS = ("prompt_token_ids", "response_token_ids")
TEXT = ("prompt", "response")
# Other names that trainers and data sets give to the same.
ALIASES = {
    "prompt_ids": "prompt_token_ids",
    "completion_ids": "response_token_ids",
    "response_ids": "response_token_ids",
    "completion": "response",
}
RESPONSES = (
    *("response_token_ids", "response"),
    *(alias for alias, key in ALIASES.items() if key.startswith("response")),
)
USED = (
    *TOKENS,
    *TEXT,
    *("id", "prompt_id", "step", "policy", "reward", "correct", "finish_reason"),
    *("loss_mask", "sampled_logp", "teacher_prompt", "teacher_prompt_token_ids"),
    *("answer", "group", "trained", "trainer_teacher_logp"),
    *("trainer_top_id", "trainer_top_mass"),
)


def fits(row: Row) -> bool:
    """Tell whether a row has a key that says what was asked or answered."""
    return any(key in row for key in (*TOKENS, *TEXT, *ALIASES))


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a row; the project's own names come before others for the same."""
    rollout = about_prompt(row, file) | {key: row[key] for key in USED if key in row}
    for alias, key in ALIASES.items():
        if key not in rollout and alias in row:
            rollout[key] = row[alias]
            file.used.add(alias)
    yield rollout
