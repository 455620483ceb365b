"""Prompts for the teacher from a file of their own, such as those with a reference answer."""

from os import PathLike
from pathlib import Path
from typing import Any

from opd_diag.errors import RolloutError, faults
from opd_diag.rollouts.files import read_rows
from opd_diag.rollouts.raw_rollout import Prompt, RawRollout, read_prompt
from opd_diag.rollouts.rows import RowError

_KEYS = ("id", "prompt_id")


def give_teacher_prompts(rollouts: list[RawRollout], path: str | PathLike[str]) -> None:
    """Give rollouts the teacher's prompts of a file, in place of those of the dump.

    Each row of the file has `teacher_prompt` (text or messages) or `teacher_prompt_token_ids`, and
    `id` or `prompt_id` of the rollouts that it is for.

    Args:
        rollouts: They are changed. Those for which the file has no prompt stay as they are.
        path: JSON lines, JSON, Parquet or CSV.

    Raises:
        RolloutError: If the file cannot be read, a row has other keys, two rows are for the same
            rollouts, or none is for any of these.
    """
    file = Path(path)
    if not file.is_file():
        raise RolloutError(f"{path}: no such file; expected the teacher's prompts")
    prompts: dict[tuple[str, str], Prompt] = {}
    wrong = []
    for line, row in read_rows(file):
        try:
            key, prompt = _read(row)
            if key in prompts:
                raise RowError(f"{key[0]} {key[1]!r} once more; expected one prompt for each")
            prompts[key] = prompt
        except RowError as error:
            wrong.append(f"line {line}: {error}")
    if wrong:
        raise RolloutError(faults(str(path), wrong))
    used = 0
    for rollout in rollouts:
        keys = zip(_KEYS, (rollout.rollout_id, rollout.prompt_id), strict=True)
        own = [prompts[key, name] for key, name in keys if name and (key, name) in prompts]
        if own:
            rollout.teacher_prompt = own[0]
            used += 1
    if not used:
        raise RolloutError(
            f"{path}: prompts for none of the {len(rollouts)} rollouts; expected the id or the "
            "prompt_id of some"
        )


def _read(row: Any) -> tuple[tuple[str, str], Prompt]:
    if isinstance(row, RowError):
        raise row
    key = next((key for key in _KEYS if isinstance(row, dict) and row.get(key) is not None), None)
    if key is None:
        raise RowError("no id and no prompt_id; expected one of them")
    prompt = read_prompt(row, "teacher_prompt_token_ids", "teacher_prompt")
    if prompt is None:
        raise RowError("no prompt; expected teacher_prompt or teacher_prompt_token_ids")
    return (key, str(row[key])), prompt
