"""Rollout dumps of slime and miles: a `.pt` file of samples for each training step."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, RowError, need

KEYS = ("tokens", "response_length", "rollout_id")
USED = (*KEYS, "loss_mask", "rollout_log_probs", "reward", "status", "prompt", "response")


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
    if isinstance(reward, dict):  # several rewards, of which only the trainer knows the one it used
        file.used.discard("reward")
        reward = None
    start = len(tokens) - length
    yield {
        "prompt_token_ids": tokens[:start],
        "response_token_ids": tokens[start:],
        "loss_mask": row.get("loss_mask"),
        "sampled_logp": row.get("rollout_log_probs"),
        "reward": reward,
        "finish_reason": row.get("status"),
        "step": row.get("rollout_id"),
    }
