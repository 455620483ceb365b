"""Training examples: `input_ids` with `labels`, which are -100 where a token is not in the loss."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, RowError, about_prompt, need

KEYS = ("input_ids", "labels")
USED = (
    *KEYS,
    *("attention_mask", "id", "prompt_id", "step", "policy", "reward", "correct"),
    *("answer", "group"),
)
_OUTSIDE = -100
_CARRIED = ("id", "prompt_id", "step", "policy", "reward", "correct", "answer", "group")


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of an example: its response goes from the first label to the last.

    Padding that `attention_mask` marks is left out on both sides.
    """
    ids = need(row, "input_ids", list, "a list of token ids")
    labels = need(row, "labels", list, "a list of token ids and -100")
    attended = row.get("attention_mask") or [1] * len(ids)
    if not isinstance(attended, list) or not len(ids) == len(labels) == len(attended):
        raise RowError("input_ids, labels and attention_mask differ in length; expected equal ones")
    kept = [n for n, mark in enumerate(attended) if mark]
    ids, labels = [ids[n] for n in kept], [labels[n] for n in kept]
    counts = [label != _OUTSIDE for label in labels]
    if any(label != token for label, token, c in zip(labels, ids, counts, strict=True) if c):
        raise RowError("labels differ from input_ids; expected the same id or -100 at each place")
    if not any(counts):
        file.skipped["no token in the loss"] += 1
        return
    start, stop = counts.index(True), len(counts) - counts[::-1].index(True)
    inside = counts[start:stop]
    yield {
        **about_prompt(row, file),
        **{key: row[key] for key in _CARRIED if key in row},
        "prompt_token_ids": ids[:start],
        "response_token_ids": ids[start:stop],
        "loss_mask": None if all(inside) else inside,
    }
