"""One rollout as a dump tells it, in the generic keys, checked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opd_diag.rollouts.dump import RowError
from opd_diag.rollouts.values import (
    Ids,
    Row,
    kind_of,
    read_finish,
    read_flag,
    read_ids,
    read_logp,
    read_mask,
    read_name,
    read_number,
    read_text,
    read_whole,
)

Prompt = Ids | str | list[dict[str, Any]]


@dataclass(slots=True)
class Record:
    """One rollout. Prompt and response are token ids where the dump has them, else text.

    `n_prompt` and `n_response` are the lengths that the dump tells, to check texts that are
    tokenised again; `part` is the number of the rollout where a line holds several.
    """

    prompt: Prompt
    response: Ids | str
    teacher_prompt: Prompt | None
    rollout_id: str | None
    prompt_id: str | None
    step: int | None
    policy: str | None
    reward: float | None
    correct: bool | None
    finish_reason: str | None
    loss_mask: NDArray[np.bool_] | None
    sampled_logp: NDArray[np.float32] | None
    n_prompt: int | None
    n_response: int | None
    source: str
    source_row: int
    part: int | None


def check_record(row: Row, *, source: str, source_row: int, part: int | None) -> Record:
    """Check one rollout in the generic keys.

    Raises:
        RowError: If a key is missing or a value is not what it should be.
    """
    prompt = _prompt(row, "prompt_token_ids", "prompt")
    if prompt is None:
        raise RowError("no prompt; expected prompt_token_ids or prompt")
    response = _response(row)
    length = None if isinstance(response, str) else len(response)
    return Record(
        prompt=prompt,
        response=response,
        teacher_prompt=_prompt(row, "teacher_prompt_token_ids", "teacher_prompt"),
        rollout_id=read_name(row, "id"),
        prompt_id=read_name(row, "prompt_id"),
        step=read_whole(row, "step"),
        policy=read_name(row, "policy"),
        reward=read_number(row, "reward"),
        correct=read_flag(row, "correct"),
        finish_reason=read_finish(row),
        loss_mask=read_mask(row, length),
        sampled_logp=read_logp(row, length),
        n_prompt=read_whole(row, "n_prompt"),
        n_response=read_whole(row, "n_response"),
        source=source,
        source_row=source_row,
        part=part,
    )


def _prompt(row: Row, ids_key: str, text_key: str) -> Prompt | None:
    if row.get(ids_key) is not None:
        ids = read_ids(row[ids_key], ids_key)
        if not len(ids):
            raise RowError(f"{ids_key} is empty; expected at least one id")
        return ids
    value = row.get(text_key)
    if value is None:
        return None
    if isinstance(value, str):
        if not value:
            raise RowError(f"{text_key} is empty; expected text")
        return read_text(value, text_key)
    if not isinstance(value, list) or not value or not all(map(_is_message, value)):
        raise RowError(
            f"{text_key} is {kind_of(value)}; expected text or messages of role, content"
        )
    for message in value:
        read_text(message["role"] + message["content"], text_key)
    return value


def _response(row: Row) -> Ids | str:
    if row.get("response_token_ids") is not None:
        return read_ids(row["response_token_ids"], "response_token_ids")
    value = row.get("response")
    if value is None:
        raise RowError("no response; expected response_token_ids or response")
    if isinstance(value, list) and len(value) == 1 and _is_message(value[0]):
        value = value[0]["content"]
    if not isinstance(value, str):
        raise RowError(f"response is {kind_of(value)}; expected text or one message")
    return read_text(value, "response")


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content"), str)
    )
