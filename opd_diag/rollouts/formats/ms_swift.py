"""Completion logs of ms-swift: `completions.jsonl`, each line a batch as an object of lists."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, RowError, nan_to_none, need, only_number

KEYS = ("prompt", "completion")
USED = (*KEYS, "step", "gen_step")
_KNOWN = (*USED, "advantages", "entropy")


def holds_lists(row: Row) -> bool:
    """Tell whether a row is a batch: lists of texts, not a text or messages."""
    prompts = row.get("prompt")
    completions = row.get("completion")
    return (
        isinstance(prompts, list)
        and isinstance(completions, list)
        and all(isinstance(prompt, str) for prompt in prompts)
    )


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollouts of a batch; a single reward column is the reward."""
    prompts = need(row, "prompt", list, "a list of texts")
    completions = need(row, "completion", list, "a list of texts")
    reward = only_number(row, _KNOWN)
    rewards = row[reward] if reward is not None else [None] * len(prompts)
    steps = row.get("step", row.get("gen_step"))
    if not isinstance(steps, list):
        steps = [steps] * len(prompts)
    if not isinstance(rewards, list) or not (
        len(prompts) == len(completions) == len(rewards) == len(steps)
    ):
        raise RowError("the lists of the batch differ in length; expected equal lengths")
    if reward is not None:
        file.used.add(reward)
    batch = (str(prompts), str(completions))
    if batch in file.seen:
        file.skipped["logged again at a later step"] += len(prompts)
        return
    file.seen.clear()
    file.seen.add(batch)
    for prompt, completion, value, step in zip(prompts, completions, rewards, steps, strict=True):
        yield {
            "prompt": prompt,
            "response": completion,
            "reward": nan_to_none(value),
            "step": step,
        }
