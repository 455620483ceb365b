"""One rollout as its dump tells it, in the generic keys: ids or text, every value checked."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opd_diag.rollouts.rows import Row, RowError, kind_of

Ids = NDArray[np.int32]
Messages = list[dict[str, Any]]
Prompt = Ids | str | Messages

_FINISH = {
    **dict.fromkeys(("stop", "eos", "completed", "stop_sequence", "end_turn"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "truncated"), "length"),
}


@dataclass(slots=True)
class RawRollout:
    """One rollout. Prompt and response are token ids where the dump has them, else text.

    A response of several messages is a conversation that goes on: the assistant's turns count in
    the loss, those of users and tools between them do not. `n_prompt` and `n_response` are the
    lengths that the dump tells, to check texts that are tokenised again; `part` is the number of
    the rollout where a line holds several.
    """

    prompt: Prompt
    response: Ids | str | Messages
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
    trainer_teacher_logp: NDArray[np.float32] | None
    trainer_top_id: Ids | None
    trainer_top_mass: NDArray[np.float32] | None
    answer: str | None
    group: str | None
    trained: bool | None
    n_prompt: int | None
    n_response: int | None
    source: str
    source_row: int
    part: int | None


def check_rollout(row: Row, *, source: str, source_row: int, part: int | None) -> RawRollout:
    """Check one rollout in the generic keys.

    Raises:
        RowError: If a key is missing or a value is not what it should be.
    """
    prompt = read_prompt(row, "prompt_token_ids", "prompt")
    if prompt is None:
        raise RowError("no prompt; expected prompt_token_ids or prompt")
    response = _response(row)
    if isinstance(response, list) and not isinstance(prompt, list):
        raise RowError("response is messages beside a prompt that is not; expected messages")
    length = len(response) if isinstance(response, np.ndarray) else None
    return RawRollout(
        prompt=prompt,
        response=response,
        teacher_prompt=read_prompt(row, "teacher_prompt_token_ids", "teacher_prompt"),
        rollout_id=_read_name(row, "id"),
        prompt_id=_read_name(row, "prompt_id"),
        step=_read_whole(row, "step"),
        policy=_read_name(row, "policy"),
        reward=_read_number(row, "reward"),
        correct=_read_flag(row, "correct"),
        finish_reason=_read_finish(row),
        loss_mask=_read_mask(row, length),
        sampled_logp=_read_logp(row, "sampled_logp", length),
        trainer_teacher_logp=_read_logp(row, "trainer_teacher_logp", length, holes=True),
        trainer_top_id=_read_top_id(row, length),
        trainer_top_mass=_read_logp(row, "trainer_top_mass", length),
        answer=_read_answer(row),
        group=_read_name(row, "group"),
        trained=_read_flag(row, "trained"),
        n_prompt=_read_whole(row, "n_prompt"),
        n_response=_read_whole(row, "n_response"),
        source=source,
        source_row=source_row,
        part=part,
    )


def is_readable(row: Row, key: str) -> bool:
    """Tell whether a row holds one of the `CARRIED` keys as it should be."""
    try:
        CARRIED[key](row, key)
    except RowError:
        return False
    return True


def read_prompt(row: Row, ids_key: str, text_key: str) -> Prompt | None:
    """Read a prompt: token ids if they are there, else text or messages.

    Raises:
        RowError: If it is something else.
    """
    if row.get(ids_key) is not None:
        ids = _read_ids(row[ids_key], ids_key)
        if not len(ids):
            raise RowError(f"{ids_key} is empty; expected at least one id")
        return ids
    value = row.get(text_key)
    if value is None:
        return None
    if isinstance(value, str):
        if not value:
            raise RowError(f"{text_key} is empty; expected text")
        return _read_text(value, text_key)
    return _messages(value, text_key, "text or messages of role, content")


def _messages(value: Any, key: str, expected: str) -> Messages:
    if not isinstance(value, list) or not value or not all(map(_is_message, value)):
        raise RowError(f"{key} is {kind_of(value)}; expected {expected}")
    for message in value:
        _read_text(message["role"] + (message.get("content") or ""), key)
    return value


def _response(row: Row) -> Ids | str | Messages:
    if row.get("response_token_ids") is not None:
        return _read_ids(row["response_token_ids"], "response_token_ids")
    value = row.get("response")
    if value is None:
        raise RowError("no response; expected response_token_ids or response")
    if isinstance(value, str):
        return _read_text(value, "response")
    messages = _messages(value, "response", "text or messages of role, content")
    if len(messages) == 1 and isinstance(messages[0].get("content"), str):
        return str(messages[0]["content"])
    if messages[0]["role"] != "assistant" or messages[-1]["role"] != "assistant":
        raise RowError("response starts or ends with another's turn; expected the assistant's")
    return messages


def _is_message(value: Any) -> bool:
    """Tell whether a value is a turn: text, or calls of tools without any."""
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    content = value.get("content")
    return isinstance(content, str) or (content is None and bool(value.get("tool_calls")))


def _read_text(value: str, key: str) -> str:
    """Check that a text is valid Unicode."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(f"{key} holds half a surrogate pair; expected valid Unicode") from None
    return value


def _read_ids(value: Any, key: str) -> Ids:
    """Read token ids."""
    what = "a list of token ids"
    array = _array(value, key, what)
    if array.size and array.dtype.kind not in "iu":
        raise RowError(f"{key} holds something else than whole numbers; expected {what}")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 2**31:
        raise RowError(f"{key} holds {array.min()} to {array.max()}; expected ids from 0")
    return array.astype(np.int32)


def _read_mask(row: Row, length: int | None) -> NDArray[np.bool_] | None:
    """Read `loss_mask`, one flag for each response token."""
    value = row.get("loss_mask")
    if value is None:
        return None
    array = _array(value, "loss_mask", "a list of true and false")
    if array.size and (array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all()):
        raise RowError("loss_mask holds other values; expected true and false, or 1 and 0")
    _same_length("loss_mask", array, length)
    return array.astype(np.bool_)


def _read_logp(
    row: Row, key: str, length: int | None, *, holes: bool = False
) -> NDArray[np.float32] | None:
    """Read one log-prob (nat) or probability for each response token.

    Some may be missing (null) where there may be `holes`: they become NaN.
    """
    value = row.get(key)
    if value is None:
        return None
    absent = np.zeros(0, np.int64)
    if holes and isinstance(value, list) and None in value:
        absent = np.flatnonzero([one is None for one in value])
        value = [0.0 if one is None else one for one in value]
    array = _array(value, key, "a list of numbers")
    if array.size and (array.dtype.kind not in "iuf" or not (np.abs(array) < 1e30).all()):
        raise RowError(f"{key} holds other values; expected finite numbers")
    _same_length(key, array, length)
    values = array.astype(np.float32)
    values[absent] = np.nan
    return values


def _read_top_id(row: Row, length: int | None) -> Ids | None:
    """Read the teacher's likeliest id at each response token."""
    if row.get("trainer_top_id") is None:
        return None
    ids = _read_ids(row["trainer_top_id"], "trainer_top_id")
    _same_length("trainer_top_id", ids, length)
    return ids


def _read_answer(row: Row) -> str | None:
    """Read a reference answer; a number or a list becomes the text that JSON has for it."""
    value = row.get("answer")
    if value is None or isinstance(value, str):
        return value if value is None else _read_text(value, "answer")
    try:
        return _read_text(json.dumps(value, ensure_ascii=False, allow_nan=False), "answer")
    except (TypeError, ValueError):
        raise RowError(f"answer is {kind_of(value)}; expected a value of JSON") from None


def _read_name(row: Row, key: str) -> str | None:
    """Read an id or a name; a whole number becomes text."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, str):
        return _read_text(value, key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RowError(f"{key} is {kind_of(value)}; expected text or a whole number")


def _read_whole(row: Row, key: str) -> int | None:
    """Read a whole number, also one that stands as text or as 3.0."""
    value = row.get(key)
    if value is None:
        return None
    if (isinstance(value, str) and value.isdecimal() and len(value) < 20) or (
        isinstance(value, float) and value.is_integer()
    ):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    raise RowError(f"{key} is {kind_of(value)}; expected a whole number")


def _read_number(row: Row, key: str) -> float | None:
    """Read a finite number."""
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise RowError(f"{key} is {kind_of(value)}; expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RowError(f"{key} is {number}; expected a finite number, or null where it is missing")
    return number


def _read_flag(row: Row, key: str) -> bool | None:
    """Read true or false, also written as 1 and 0."""
    value = row.get(key)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise RowError(f"{key} is {kind_of(value)}; expected true or false")


def _read_finish(row: Row) -> str | None:
    """Read why the response ended: `stop`, `length` or `other`."""
    value = row.get("finish_reason")
    if value is None:
        return None
    if not isinstance(value, str):
        raise RowError(f"finish_reason is {kind_of(value)}; expected text")
    return _FINISH.get(value, "other")


def _array(value: Any, key: str, what: str) -> NDArray[Any]:
    if isinstance(value, list | tuple | np.ndarray):
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError):
            raise RowError(f"{key} is not flat; expected {what}") from None
        if array.ndim == 1:
            return array
    raise RowError(f"{key} is {kind_of(value)}; expected {what}")


def _same_length(key: str, array: NDArray[Any], length: int | None) -> None:
    if length is None:
        raise RowError(f"{key} beside a response without ids; expected response_token_ids")
    if len(array) != length:
        raise RowError(f"{key} has {len(array)} values; expected {length}, one a response token")


# Keys that hold for a rollout whatever format it comes in, and how each is read.
CARRIED: dict[str, Callable[[Row, str], object]] = {
    **dict.fromkeys(("id", "prompt_id", "policy"), _read_name),
    "step": _read_whole,
    "reward": _read_number,
    **dict.fromkeys(("correct", "trained"), _read_flag),
    "finish_reason": lambda row, _: _read_finish(row),
}
