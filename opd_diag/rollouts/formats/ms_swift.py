"""Completion logs of ms-swift: `completions.jsonl`, each line a batch as an object of lists."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import (
    GROUPS,
    REFERENCES,
    DumpFile,
    Row,
    RowError,
    about_prompt,
    nan_to_none,
    need,
    only_number,
)

KEYS = ("prompt", "completion")
USED = (*KEYS, "step", "gen_step")
_KNOWN = (*USED, "id", "prompt_id", "advantages", "entropy", *REFERENCES, *GROUPS)


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
    lists = {key: row[key] for key in (*REFERENCES, *GROUPS) if _is_list(row.get(key), prompts)}
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        yield about_prompt({key: values[number] for key, values in lists.items()}, file) | {
            "prompt": prompt,
            "response": completion,
            "reward": nan_to_none(rewards[number]),
            "step": steps[number],
        }


def _is_list(value: Any, like: list[Any]) -> bool:
    return isinstance(value, list) and len(value) == len(like)
