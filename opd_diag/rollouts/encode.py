"""Token ids for the rollouts whose dump holds text."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from opd_diag.errors import RolloutError
from opd_diag.rollouts.raw_rollout import Ids, Prompt, RawRollout
from opd_diag.text.retokenise import restore_chat, retokenise
from opd_diag.text.tokenizers import encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Encoded(NamedTuple):
    """Token ids of the rollouts, in their order.

    Attributes:
        prompts: Ids of each prompt.
        responses: Ids of each response.
        teacher_prompts: Ids of the teacher's prompt, None where it reads the student's.
        token_exact: Whether all these ids come from the dump.
        drift: Counts of what was tokenised again.
    """

    prompts: list[Ids]
    responses: list[Ids]
    teacher_prompts: list[Ids | None]
    token_exact: list[bool]
    drift: dict[str, int]


def encode_records(
    records: Sequence[RawRollout],
    tokenizer: "PreTrainedTokenizerBase | None",
    *,
    eos: str,
    template: str,
    stripped: bool,
) -> Encoded:
    """Turn the texts of rollouts into token ids; ids of the dump are kept.

    Args:
        records: Rollouts.
        tokenizer: The student's.
        eos: Whether the end token follows a text response: `append`, `never`, or `auto`, which is
            where the dump says that the response stopped or is one token longer.
        template: `chat` or `raw`, for prompts that are text.
        stripped: Whether the texts lack their special tokens, which are then put back if possible.

    Raises:
        RolloutError: If there is text and no tokenizer.
        ModelError: If the chat template is wanted and missing, or refuses a prompt.
    """
    texts = [r for r in records if isinstance(r.response, str)]
    exact = [_has_ids(r) for r in records]
    if tokenizer is None:
        if not all(exact):
            first = records[exact.index(False)]
            raise RolloutError(
                f"{first.source}:{first.source_row}: text without token ids; expected a tokenizer "
                "to make them, or prompt_token_ids and response_token_ids"
            )
        return Encoded(
            [r.prompt for r in records],  # type: ignore[misc]
            [r.response for r in records],  # type: ignore[misc]
            [r.teacher_prompt for r in records],  # type: ignore[misc]
            exact,
            {},
        )
    prompts = _Prompts(tokenizer, template=template, stripped=stripped)
    made, drift = _responses(texts, tokenizer, eos)
    ready = iter(made)
    return Encoded(
        [prompts.encode(r.prompt) for r in records],
        [next(ready) if isinstance(r.response, str) else r.response for r in records],
        [None if r.teacher_prompt is None else prompts.encode(r.teacher_prompt) for r in records],
        exact,
        {} if all(exact) else drift | prompts.counts | _prompt_lengths(records, prompts),
    )


def _has_ids(record: RawRollout) -> bool:
    parts = (record.prompt, record.response, record.teacher_prompt)
    return all(part is None or isinstance(part, np.ndarray) for part in parts)


def _responses(
    records: Sequence[RawRollout], tokenizer: "PreTrainedTokenizerBase", eos: str
) -> tuple[list[Ids], dict[str, int]]:
    again = retokenise(tokenizer, [str(r.response) for r in records])
    end = tokenizer.eos_token_id
    appended = 0
    for record, ids in zip(records, again.token_ids, strict=True):
        stopped = record.finish_reason == "stop" or record.n_response == len(ids) + 1
        wanted = eos == "append" or (eos == "auto" and stopped)
        if wanted and end is not None and ids[-1:] != [end]:
            ids.append(end)
            appended += 1
    told = [(len(i), r.n_response) for i, r in zip(again.token_ids, records, strict=True)]
    told = [(here, there) for here, there in told if there is not None]
    drift = {
        "responses": len(records),
        "round_trip_failed": again.round_trip.count(False),
        "broken_characters": again.broken.count(True),
        "eos_appended": appended,
        "lengths_told": len(told),
        "lengths_differ": sum(here != there for here, there in told),
        "tokens_told": sum(there for _, there in told if there is not None),
        "tokens_made": sum(here for here, _ in told),
    }
    return [np.asarray(ids, dtype=np.int32) for ids in again.token_ids], drift


def _prompt_lengths(records: Sequence[RawRollout], prompts: "_Prompts") -> dict[str, int]:
    told = [r for r in records if r.n_prompt is not None and not isinstance(r.prompt, np.ndarray)]
    differ = sum(len(prompts.encode(r.prompt)) != r.n_prompt for r in told)
    return {"prompt_lengths_told": len(told), "prompt_lengths_differ": differ}


class _Prompts:
    """Encodes every distinct prompt once."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", *, template: str, stripped: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._stripped = stripped
        self._known: dict[str, Ids] = {}
        self.counts = {"prompts": 0, "prompts_restored": 0, "prompts_without_special_tokens": 0}

    def encode(self, prompt: Prompt) -> Ids:
        if isinstance(prompt, np.ndarray):
            return prompt
        key = json.dumps(prompt)
        if key not in self._known:
            self._known[key] = np.asarray(self._make(prompt), dtype=np.int32)
        return self._known[key]

    def _make(self, prompt: str | list[dict[str, Any]]) -> list[int]:
        self.counts["prompts"] += 1
        if self._stripped and isinstance(prompt, str):
            restored = restore_chat(self._tokenizer, prompt)
            if restored is not None:
                self.counts["prompts_restored"] += 1
                return restored
            self.counts["prompts_without_special_tokens"] += 1
        return encode_prompt(self._tokenizer, prompt, template=self._template)
