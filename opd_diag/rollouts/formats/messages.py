"""Chat logs: a list of messages, of which the assistant's turns are the response.

Known are `messages` (role, content), `conversations` (from, value), and a request's `messages` with
the `choices` of its answer.
"""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.formats.generic import RESPONSES
from opd_diag.rollouts.rows import DumpFile, Row, RowError, about_prompt, need

KEYS = ("messages", "conversations")
USED = (
    *(*KEYS, "choices"),
    *("id", "prompt_id", "step", "policy", "reward", "correct", "finish_reason"),
    *("answer", "group"),
)
_CARRIED = ("prompt_id", "step", "policy", "reward", "correct", "answer", "group")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "function": "tool"}


def fits(row: Row) -> bool:
    """Tell whether a row is a conversation, and has no response beside it."""
    turns = row.get("messages", row.get("conversations"))
    if not isinstance(turns, list) or not turns or any(key in row for key in RESPONSES):
        return False
    return all(isinstance(turn, dict) for turn in turns)


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the conversation of a row, or one rollout for each choice of an answer.

    The prompt ends before the first turn of the assistant; what follows the last one is left out.
    """
    turns = [_turn(turn) for turn in _list(row)]
    carried = about_prompt(row, file) | {key: row[key] for key in _CARRIED if key in row}
    if "choices" in row:
        for choice in need(row, "choices", list, "a list of answers"):
            if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
                raise RowError("choices holds something else; expected objects with a message")
            yield {
                **carried,
                "prompt": turns,
                "response": [_turn(choice["message"])],
                "finish_reason": choice.get("finish_reason"),
            }
        return
    own = [number for number, turn in enumerate(turns) if turn.get("role") == "assistant"]
    if not own:
        file.skipped["no turn of the assistant"] += 1
        return
    yield {
        **carried,
        "id": row.get("id"),
        "prompt": turns[: own[0]],
        "response": turns[own[0] : own[-1] + 1],
        "finish_reason": row.get("finish_reason"),
    }


def _list(row: Row) -> list[Any]:
    key = "messages" if "messages" in row else "conversations"
    turns: list[Any] = need(row, key, list, "a list of messages")
    return turns


def _turn(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise RowError("a message is no object; expected role and content")
    if "from" in turn and "role" not in turn:
        role = turn["from"]
        return {"role": _ROLES.get(str(role), role), "content": turn.get("value")}
    return turn
