"""Batches that verl keeps to skip a rollout, token by token.

They are `{step}/{inner}/tq_batch.pt`, in older versions `{step}/gen_batch.dp`.
"""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import (
    GROUPS,
    REFERENCES,
    DumpFile,
    Row,
    RowError,
    first_known,
    need,
    of_top,
)

KEYS = ("prompts", "responses", "response_mask")
USED = (
    *(*KEYS, "loss_mask", "rollout_log_probs", "rm_scores", "key", "global_steps", "uid"),
    *("reward_model", "teacher_ids", "teacher_logprobs", "input_ids"),
    *("position_ids", "session_id", "tag", *GROUPS),
)
_STEP = r"(?:^|/)(?:[a-z]+_)?(\d+)/gen_batch\.dp$"


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a trajectory, whose key is `{uid}_{session}_{index}`."""
    prompt = need(row, "prompts", list, "a list of token ids")
    response = need(row, "responses", list, "a list of token ids")
    mask = need(row, "response_mask", list, "a list of 1 and 0")
    if not any(mask):
        file.skipped["no token in the loss"] += 1
        return
    key = row.get("key")
    model, step = row.get("reward_model"), row.get("global_steps")
    yield {
        "id": key,
        "prompt_id": key.split("_")[0] if isinstance(key, str) else row.get("uid"),
        "prompt_token_ids": prompt,
        "response_token_ids": response,
        "loss_mask": None if all(mask) else mask,
        "sampled_logp": row.get("rollout_log_probs"),
        "reward": _total(row.get("rm_scores")),
        "step": step if step is not None else file.number_in_name(_STEP),
        "group": first_known(row, GROUPS),
        "answer": first_known(model, REFERENCES),
        **_teacher(row, prompt, response),
    }


def _total(scores: Any) -> float | None:
    """Add the rewards of a trajectory's tokens, of which all but the last are 0."""
    if not isinstance(scores, list) or not scores:
        return None
    if not all(isinstance(score, int | float) for score in scores):
        raise RowError("rm_scores holds other values; expected numbers")
    return sum(scores)


def _teacher(row: Row, prompt: list[Any], response: list[Any]) -> dict[str, Any]:
    """Pick what the teacher says of each response token: row j scores token j + 1.

    With several ids a row the one that stands there counts; a token that is not among them has no
    log-prob.
    """
    ids, logps = row.get("teacher_ids"), row.get("teacher_logprobs")
    if not isinstance(ids, list) or not isinstance(logps, list):
        return {}
    if not len(ids) == len(logps) == len(prompt) + len(response):
        raise RowError(
            f"teacher_ids and teacher_logprobs have {len(ids)} and {len(logps)} rows; expected "
            f"{len(prompt) + len(response)}, one a token"
        )
    rows = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
    pairs = list(zip(ids[rows], logps[rows], strict=True))
    if not all(isinstance(part, list) for pair in pairs for part in pair):
        alone = [
            value if own == token else None
            for (own, value), token in zip(pairs, response, strict=True)
        ]
        return {"trainer_teacher_logp": alone if any(one is not None for one in alone) else None}
    if any(len(own) != len(values) for own, values in pairs):
        raise RowError("teacher_ids and teacher_logprobs of a token differ; expected as many")
    return of_top([dict(zip(own, values, strict=True)) for own, values in pairs], response)
