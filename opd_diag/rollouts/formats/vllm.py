"""Outputs of vLLM: a RequestOutput as JSON, with one completion or several."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, RowError, about_prompt, need

KEYS = ("prompt_token_ids", "outputs")
USED = (*KEYS, "prompt")


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the completions of a request."""
    for output in need(row, "outputs", list, "a list of completions"):
        if not isinstance(output, dict):
            raise RowError("outputs holds something else; expected completions with token_ids")
        tokens = need(output, "token_ids", list, "a list of token ids")
        yield about_prompt(row, file) | {
            "prompt_token_ids": need(row, "prompt_token_ids", list, "a list of token ids"),
            "response_token_ids": tokens,
            "sampled_logp": _sampled(output.get("logprobs"), tokens),
            "finish_reason": output.get("finish_reason"),
        }


def _sampled(logprobs: Any, tokens: list[Any]) -> list[float] | None:
    """Pick the log-prob of each token out of `{id: {logprob, rank, decoded_token}}`."""
    if not isinstance(logprobs, list) or not logprobs:
        return None
    if len(logprobs) != len(tokens):
        raise RowError(f"logprobs has {len(logprobs)} values; expected {len(tokens)}")
    try:
        return [place[str(token)]["logprob"] for place, token in zip(logprobs, tokens, strict=True)]
    except (KeyError, TypeError):
        raise RowError("logprobs lacks a sampled token; expected {id: {logprob}}") from None
