"""Samples of the LM evaluation harness: `samples_<task>_<date>.jsonl` of `--log_samples`."""

import json
from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, RowError, about_prompt, need

KEYS = ("doc_id", "arguments", "resps")
USED = (*KEYS, "metrics", "filter")


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the generations for a document, once: a document is written once for each filter."""
    document = need(row, "doc_id", (int, str), "the number of a document")
    if document in file.seen:
        file.skipped["the same document under another filter"] += 1
        return
    file.seen.add(document)
    prompts = _prompts(row.get("arguments"))
    answers = need(row, "resps", list, "a list of generations for each request")
    if len(prompts) != len(answers):
        raise RowError(f"{len(answers)} resps to {len(prompts)} arguments; expected one a request")
    correct = _correct(row, file) if sum(map(len, filter(_is_list, answers))) == 1 else None
    about = about_prompt(row, file)
    for prompt, generations in zip(prompts, answers, strict=True):
        if not _is_list(generations) or not all(isinstance(g, str) for g in generations):
            raise RowError("resps are no texts; expected a task of output type generate_until")
        for generation in generations:
            yield {"prompt": prompt, "response": generation, "correct": correct} | about


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _prompts(arguments: Any) -> list[Any]:
    """Take the prompts out of `{gen_args_0: {arg_0: prompt}}`, or of `[[prompt, options]]`."""
    requests = list(arguments.values()) if isinstance(arguments, dict) else arguments
    if not isinstance(requests, list):
        raise RowError("arguments is neither a list nor an object; expected the prompts")
    return [_prompt(request) for request in requests]


def _prompt(request: Any) -> Any:
    if isinstance(request, dict):
        prompt = request.get("arg_0")
    else:
        prompt = request[0] if isinstance(request, list) and request else None
    if not (isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str)):
        return prompt
    try:  # what is sent to a chat interface stands there as the JSON of its messages
        return json.loads(prompt[0])
    except (ValueError, RecursionError):
        raise RowError("arg_0 is no JSON; expected a text or messages written as JSON") from None


def _correct(row: Row, file: DumpFile) -> bool | None:
    """Take the first metric as right or wrong if it is 1 or 0."""
    metrics = row.get("metrics")
    name = metrics[0] if isinstance(metrics, list) and metrics else None
    value = row.get(name) if isinstance(name, str) else None
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        return None
    file.used.add(str(name))
    return bool(value)
