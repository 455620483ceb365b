"""Problems with reference answers: from a run, from a file, or from both."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from opd_diag.errors import OptionError, RolloutError, faults
from opd_diag.tables.files import open_regular
from opd_diag.tables.run import Run
from opd_diag.text.tokenizers import encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_ANSWERS = (
    "run: no rollout has a reference answer; expected problems (--problems), a file with "
    "prompt_id and answer in each line"
)


class Problem(NamedTuple):
    """One problem.

    Attributes:
        name: Its prompt_id, which its random numbers belong to.
        prompt: Ids of the prompt.
        answer: Reference answer.
    """

    name: str
    prompt: list[int]
    answer: str


def read_problems(
    run: Run, path: str | Path | None, tokenizer: "PreTrainedTokenizerBase"
) -> list[Problem]:
    """Read the problems of a study.

    A line of the file is a JSON object with `prompt_id` and `answer`, and `prompt` (text or chat
    messages, which are written by the chat template) or `prompt_token_ids` where the run has no
    such prompt.

    Args:
        run: A run; its prompts, and its answers where no file is given.
        path: The file, or None.
        tokenizer: Encodes prompts.

    Raises:
        OptionError: If there is no file and the run has no answers.
        RolloutError: If a line of the file is no problem; all faults are named.
    """
    table = run.rollouts.unique("prompt_id", keep="first", maintain_order=True)
    prompts = dict(table.select("prompt_id", "prompt_token_ids").iter_rows())
    if path is None:
        with_answer = run.rollouts.filter(pl.col("answer").is_not_null())
        answers = with_answer.unique("prompt_id", keep="first", maintain_order=True)
        if answers.is_empty():
            raise OptionError(NO_ANSWERS)
        return [
            Problem(name, list(prompts[name]), answer)
            for name, answer in answers.select("prompt_id", "answer").iter_rows()
        ]
    problems: dict[str, Problem] = {}
    found: list[str] = []
    for number, line in enumerate(_lines(Path(path)), start=1):
        if not line.strip():
            continue
        try:
            problem = _problem(line, prompts, tokenizer)
            if problem.name in problems:
                raise ValueError(f"prompt_id {problem.name!r} twice; expected each problem once")
            problems[problem.name] = problem
        except ValueError as error:
            found.append(f"line {number}: {error}")
    if not problems and not found:
        found.append("no problem; expected a JSON object in each line")
    if found:
        raise RolloutError(faults(str(path), found))
    return list(problems.values())


def check_lengths(
    problems: Iterable[Problem], max_new_tokens: int, context: int | None, model: str
) -> None:
    """Refuse prompts that leave no room for a response.

    Raises:
        RolloutError: If a prompt and its response may exceed the context; all are named.
    """
    if context is None:
        return
    found = [
        f"prompt {one.name} has {len(one.prompt):,} tokens, with {max_new_tokens:,} new ones more "
        f"than the {context:,} of the model's context; expected a shorter prompt, or a smaller "
        "--max-new-tokens"
        for one in problems
        if len(one.prompt) + max_new_tokens > context
    ]
    if found:
        raise RolloutError(faults(model, found))


def _lines(path: Path) -> list[str]:
    """Read the lines of a file, which end with a line feed alone: texts may hold other breaks."""
    try:
        with open_regular(path) as file:
            return file.read().decode().split("\n")
    except OSError as error:
        raise RolloutError(
            f"{path}: {error.strerror}; expected a file of problems, one JSON object a line"
        ) from error
    except UnicodeDecodeError as error:
        raise RolloutError(f"{path}: not UTF-8; expected JSON lines in UTF-8") from error


def _problem(
    line: str, prompts: dict[str, list[int]], tokenizer: "PreTrainedTokenizerBase"
) -> Problem:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ValueError("no JSON object; expected one with prompt_id and answer")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair; expected valid Unicode") from None
    name, answer = row.get("prompt_id"), row.get("answer")
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise ValueError("no prompt_id; expected the name of the problem")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise ValueError("no answer; expected a text or a number")
    if isinstance(answer, float) and not math.isfinite(answer):
        raise ValueError(f"answer is {answer}; expected a text or a finite number")
    name, known = str(name), prompts.get(str(name))
    ids = row.get("prompt_token_ids")
    prompt = row.get("prompt")
    if ids is not None and not _are_ids(ids):
        raise ValueError(
            "prompt_token_ids is no list of ids; expected one or more whole numbers from 0"
        )
    if ids is None and prompt is not None:
        if not _is_prompt(prompt):
            raise ValueError(
                "prompt is neither text nor turns; expected a text or a list of turns with role "
                "and content"
            )
        template = "raw" if isinstance(prompt, str) and not tokenizer.chat_template else "chat"
        ids = encode_prompt(tokenizer, prompt, template=template)
    if ids is None and known is None:
        raise ValueError(
            f"prompt_id {name!r} is no prompt of the run; expected prompt or prompt_token_ids too"
        )
    if ids is not None and not ids:
        raise ValueError("prompt is of no token; expected at least one")
    if ids is not None and known is not None and list(ids) != list(known):
        raise ValueError(
            f"prompt_id {name!r} has another prompt in the run; expected the same, or another name"
        )
    outside = max(ids or known or [0])
    if outside >= len(tokenizer):
        raise ValueError(f"prompt_token_ids holds {outside}; expected 0 to {len(tokenizer) - 1}")
    return Problem(name, list(ids or known or []), str(answer))


def _are_ids(value: Any) -> bool:
    """Tell whether a value is a list of token ids, at least one."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value)
    )


def _is_prompt(value: Any) -> bool:
    """Tell whether a value is a text, or turns of a conversation, at least one."""
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, list) and bool(value) and all(map(_is_turn, value))


def _is_turn(value: Any) -> bool:
    """Tell whether a value is a turn: text, or calls of tools without any."""
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    content = value.get("content")
    return isinstance(content, str) or (content is None and bool(value.get("tool_calls")))
