"""Rollout dumps of slime and miles: a `.pt` file of samples for each training step."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import GROUPS, DumpFile, Row, RowError, first_known, need, of_top

KEYS = ("tokens", "response_length", "rollout_id")
USED = (
    *(*KEYS, "loss_mask", "rollout_log_probs", "reward", "status", "prompt", "response"),
    *("label", "metadata", "teacher_log_probs", "meta_info", "remove_sample"),
)
_REWARDS = ("reward", "score")
# The first is what a sample is routed by, where there are several teachers.
_GROUPS = ("opd_teacher", *GROUPS)


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
        if reward is None and not any(_answers(row)):
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
        "group": first_known(row.get("metadata"), _GROUPS),
        **_top(row, tokens[start:]),
        **_teacher(row, length),
    }


def _one_reward(rewards: dict[str, Any]) -> Any:
    """Take the reward out of an object of several values; of several, only one of a known name.

    Which of others the trainer used is not in the dump. In distillation the object is what the
    teacher's server answered, which holds no reward.
    """
    named = [rewards[key] for key in _REWARDS if key in rewards]
    values = named or [value for value in rewards.values() if isinstance(value, int | float)]
    return values[0] if len(values) == 1 else None


def _answers(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the `meta_info` of the teacher's server, wherever the sample keeps it."""
    reward = row.get("reward")
    inside = [reward, reward.get("teacher")] if isinstance(reward, dict) else []
    for holder in (row, *inside):
        if isinstance(holder, dict) and isinstance(holder.get("meta_info"), dict):
            yield holder["meta_info"]


def _top(row: Row, response: list[Any]) -> dict[str, Any]:
    """Find the teacher's likeliest ids at each token of the response: [log-prob, id, text] each."""
    for meta in _answers(row):
        entries = meta.get("input_top_logprobs")
        if isinstance(entries, list) and 0 < len(response) <= len(entries):
            own = entries[len(entries) - len(response) :]
            if all(isinstance(entry, list) and all(map(_is_pair, entry)) for entry in own):
                return of_top([{one[1]: one[0] for one in entry} for entry in own], response)
    return {}


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and len(entry) > 1 and isinstance(entry[1], int)


def _teacher(row: Row, length: int) -> dict[str, Any]:
    """Find the teacher's log-probs of the response, as numbers or as [log-prob, id, text]."""
    told = [row.get("teacher_log_probs")]
    for meta in _answers(row):
        told += [meta.get("teacher_log_probs"), _first(meta.get("input_token_logprobs"))]
    for values in told:
        if values is not None and hasattr(values, "tolist"):
            values = values.tolist()
        # Some teachers score the prompt too.
        if isinstance(values, list) and 0 < length <= len(values):
            return {"trainer_teacher_logp": values[len(values) - length :]}
    return {}


def _first(entries: Any) -> list[Any] | None:
    """Take the log-prob of each entry; the first token of an input has none."""
    if not isinstance(entries, list):
        return None
    return [entry[0] if isinstance(entry, list) and entry else None for entry in entries]
