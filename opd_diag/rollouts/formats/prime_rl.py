"""Token exports of prime-rl: `token_exports/step_N/rank_R.jsonl`, one packed sequence a line."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, RowError, about_prompt, need

KEYS = ("token_ids", "loss_mask", "inference_logprobs")
USED = (*KEYS, "step", "export_step", "rewards", "sample_id")


def is_complete(file: DumpFile) -> bool:
    """Tell whether the trainer has marked the step of a file as complete."""
    return file.path.parent.joinpath("STABLE").exists()


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a sequence; the response starts at the first token in the loss.

    What follows the response of a later turn stays in it, outside the loss.
    """
    tokens = need(row, "token_ids", list, "a list of token ids")
    mask = need(row, "loss_mask", list, "a list of true and false")
    logp = need(row, "inference_logprobs", list, "a list of numbers")
    if not len(tokens) == len(mask) == len(logp):
        raise RowError(
            f"token_ids, loss_mask, inference_logprobs have {len(tokens)}, {len(mask)}, "
            f"{len(logp)} values; expected equal lengths"
        )
    if not any(mask):
        file.skipped["no token in the loss"] += 1
        return
    start = next(n for n, kept in enumerate(mask) if kept)
    rewards = row.get("rewards")
    known = [r for r in rewards if r is not None] if isinstance(rewards, list) else []
    yield about_prompt(row, file) | {
        "id": row.get("sample_id"),
        "prompt_token_ids": tokens[:start],
        "response_token_ids": tokens[start:],
        "loss_mask": None if all(mask[start:]) else mask[start:],
        # A log-prob that is not finite is written as null.
        "sampled_logp": None if None in logp[start:] else logp[start:],
        "reward": known[-1] if known else None,
        "step": row.get("export_step", row.get("step")),
    }
