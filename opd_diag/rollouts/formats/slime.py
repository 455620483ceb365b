"""Rollout dumps of slime and miles: a `.pt` file of samples for each training step."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, RowError, need

KEYS = ("tokens", "response_length", "rollout_id")
USED = (
    *(*KEYS, "loss_mask", "rollout_log_probs", "reward", "status", "prompt", "response"),
    *("label", "teacher_log_probs", "meta_info"),
)
_REWARDS = ("reward", "score")


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a sample; the prompt is what stands before the response's tokens."""
    tokens = need(row, "tokens", list, "a list of token ids")
    length = need(row, "response_length", int, "a number of tokens")
    if not tokens and not length:
        file.skipped["aborted before its prompt was tokenised"] += 1
        return
    if not 0 <= length <= len(tokens):
        raise RowError(f"response_length is {length}; expected 0 to {len(tokens)}, as many tokens")
    if row.get("remove_sample"):
        file.skipped["removed by the trainer"] += 1
        return
    reward = row.get("reward")
    if isinstance(reward, dict):
        reward = _one_reward(reward)
        if reward is None:
            file.used.discard("reward")
    start = len(tokens) - length
    yield {
        "prompt_token_ids": tokens[:start],
        "response_token_ids": tokens[start:],
        "loss_mask": row.get("loss_mask"),
        "sampled_logp": row.get("rollout_log_probs"),
        "reward": reward,
        "finish_reason": row.get("status"),
        "step": row.get("rollout_id"),
        "answer": row.get("label"),
        "trainer_teacher_logp": _teacher(row, length),
    }


def _one_reward(rewards: dict[str, Any]) -> Any:
    """Take the reward out of an object of several values; of several, only one of a known name.

    Which of others the trainer used is not in the dump.
    """
    named = [rewards[key] for key in _REWARDS if key in rewards]
    values = named or [value for value in rewards.values() if isinstance(value, int | float)]
    return values[0] if len(values) == 1 else None


def _teacher(row: Row, length: int) -> Any:
    """Find the teacher's log-probs of the response, which may stand in `meta_info`."""
    meta = row.get("meta_info")
    values = row.get("teacher_log_probs")
    if values is None and isinstance(meta, dict):
        values = meta.get("teacher_log_probs")
    if values is not None and hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, list) or not 0 < length <= len(values):
        return None
    return values[len(values) - length :]  # some teachers score the prompt too
