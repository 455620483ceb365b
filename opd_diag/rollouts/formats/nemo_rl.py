"""GRPO logs of NeMo-RL: `train_data_stepN.jsonl`, one padded sequence a line."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, RowError, about_prompt, need

KEYS = ("token_ids", "token_loss_mask", "input_lengths")
USED = (*KEYS, "generation_logprobs", "rewards")


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a row, cut at its length; it starts at the first token in the loss.

    Every value stands in a batch of one, as the logger writes it, or alone.
    """
    alone = {key: _alone(row.get(key)) for key in USED}
    tokens = need(alone, "token_ids", list, "a list of token ids")
    mask = need(alone, "token_loss_mask", list, "a list of 1 and 0")
    length = need(alone, "input_lengths", int, "a number of tokens")
    if not 0 <= length <= len(tokens) == len(mask):
        raise RowError(
            f"input_lengths is {length} of {len(tokens)} token_ids and {len(mask)} in "
            "token_loss_mask; expected no more than equal numbers"
        )
    mask = mask[:length]
    if not any(mask):
        file.skipped["no token in the loss"] += 1
        return
    start = next(n for n, kept in enumerate(mask) if kept)
    logp = alone["generation_logprobs"]
    yield about_prompt(row, file) | {
        "prompt_token_ids": tokens[:start],
        "response_token_ids": tokens[start:length],
        "loss_mask": None if all(mask[start:]) else mask[start:],
        "sampled_logp": logp[start:length] if isinstance(logp, list) else None,
        "reward": alone["rewards"],
        "step": file.number_in_name(r"step_?(\d+)\.jsonl$"),
    }


def _alone(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value
