"""Token ids for the rollouts whose dump holds text."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opd_diag.errors import RolloutError
from opd_diag.rollouts.raw_rollout import Ids, Messages, Prompt, RawRollout
from opd_diag.text.chat import Chat, ChatReader, with_system
from opd_diag.text.tokenizers import encode_prompt, encode_text, render_chat, retokenise
from opd_diag.text.vocabulary import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextOptions(NamedTuple):
    """How text becomes token ids.

    Attributes:
        eos: Whether the end token follows a text response: `append`, `never`, or `auto`, which is
            where the dump says that the response stopped or is one token longer.
        template: `chat` or `raw` for prompts that are text, or `auto`, which looks for the chat
            template in them.
        rendered: Whether a text prompt without a trace of the template is what the model read.
        stripped: Whether the texts are known to lack their special tokens.
        teacher_system: The system turn of the teacher's prompt, None for the student's own.
    """

    eos: str = "auto"
    template: str = "auto"
    rendered: bool = False
    stripped: bool = False
    teacher_system: str | None = None


class Encoded(NamedTuple):
    """Token ids of the rollouts, in their order.

    Attributes:
        prompts: Ids of each prompt.
        responses: Ids of each response.
        teacher_prompts: Ids of the teacher's prompt, None where it reads the student's.
        loss_masks: Which response tokens count, None where all do.
        token_exact: Whether all these ids come from the dump.
        drift: Counts of what was tokenised again.
    """

    prompts: list[Ids]
    responses: list[Ids]
    teacher_prompts: list[Ids | None]
    loss_masks: list[NDArray[np.bool_] | None]
    token_exact: list[bool]
    drift: dict[str, int]


def encode_rollouts(
    rollouts: Sequence[RawRollout],
    tokenizer: "PreTrainedTokenizerBase | None",
    options: TextOptions,
) -> Encoded:
    """Turn the texts of rollouts into token ids; ids of the dump are kept.

    Raises:
        RolloutError: If there is text and no tokenizer, or a prompt that is not what the options
            say.
        ModelError: If the chat template is wanted and missing, or refuses a prompt.
    """
    exact = [_has_ids(r) for r in rollouts]
    if tokenizer is None:
        if not all(exact) or options.teacher_system is not None:
            first = rollouts[exact.index(False)] if not all(exact) else rollouts[0]
            what = "a system turn to write" if all(exact) else "text without token ids"
            raise RolloutError(
                f"{first.source}:{first.source_row}: {what}; expected a tokenizer "
                "to make them, or prompt_token_ids and response_token_ids"
            )
        return Encoded(
            [r.prompt for r in rollouts],  # type: ignore[misc]
            [r.response for r in rollouts],  # type: ignore[misc]
            [r.teacher_prompt for r in rollouts],  # type: ignore[misc]
            [r.loss_mask for r in rollouts],
            exact,
            {},
        )
    prompts = _Prompts(tokenizer, options)
    student_prompts = [prompts.encode(r, r.prompt) for r in rollouts]
    teacher_prompts = [prompts.encode_teacher(r) for r in rollouts]
    responses, masks, drift = _responses(rollouts, tokenizer, options.eos)
    if not all(exact):
        drift |= prompts.counts | _prompt_lengths(rollouts, student_prompts)
    return Encoded(
        student_prompts, responses, teacher_prompts, masks, exact, {} if all(exact) else drift
    )


def _has_ids(rollout: RawRollout) -> bool:
    parts = (rollout.prompt, rollout.response, rollout.teacher_prompt)
    return all(part is None or isinstance(part, np.ndarray) for part in parts)


def _responses(
    rollouts: Sequence[RawRollout], tokenizer: "PreTrainedTokenizerBase", eos: str
) -> tuple[list[Ids], list[NDArray[np.bool_] | None], dict[str, int]]:
    """Encode the responses: one text, or the turns of a conversation with what counts in them."""
    texts = [(r, r.response) for r in rollouts if isinstance(r.response, str)]
    again = retokenise(tokenizer, [text for _, text in texts])
    of_text = iter(again.token_ids)
    appended = conversations = 0
    told: list[tuple[int, int]] = []
    responses: list[Ids] = []
    masks: list[NDArray[np.bool_] | None] = []
    for rollout in rollouts:
        response, mask = rollout.response, rollout.loss_mask
        if isinstance(response, np.ndarray):
            responses.append(response)
            masks.append(mask)
            continue
        if isinstance(response, str):
            ids = next(of_text)
        else:
            conversations += 1
            ids, own = _encode_turns(rollout, response, tokenizer)
            mask = np.asarray(own, dtype=np.bool_)
        stopped = rollout.finish_reason == "stop" or rollout.n_response == len(ids) + 1
        end = tokenizer.eos_token_id
        if (
            (eos == "append" or (eos == "auto" and stopped))
            and end is not None
            and ids[-1:] != [end]
        ):
            ids = [*ids, end]
            mask = None if mask is None else np.append(mask, True)
            appended += 1
        if rollout.n_response is not None:
            told.append((len(ids), rollout.n_response))
        responses.append(np.asarray(ids, dtype=np.int32))
        masks.append(None if mask is None or mask.all() else mask)
    drift = {
        "responses": len(texts) + conversations,
        "round_trip_failed": again.round_trip.count(False),
        "broken_characters": again.broken.count(True),
        "eos_appended": appended,
        "lengths_told": len(told),
        "lengths_differ": sum(here != there for here, there in told),
        "tokens_told": sum(there for _, there in told),
        "tokens_made": sum(here for here, _ in told),
    }
    if conversations:
        drift["conversations"] = conversations
    return responses, masks, drift


def _encode_turns(
    rollout: RawRollout, turns: Messages, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[bool]]:
    """Encode the turns that follow a prompt; the assistant's own tokens count, no others.

    An assistant's turn goes up to the special token that closes it, which it wrote itself; in the
    last turn that token is left to the rule for ends.
    """
    assert isinstance(rollout.prompt, list)
    messages = [*rollout.prompt, *turns]
    special = _special_texts(tokenizer)
    ids: list[int] = []
    own: list[bool] = []
    written = ""
    for number in range(len(rollout.prompt), len(messages)):
        if messages[number]["role"] != "assistant":
            continue
        before = render_chat(tokenizer, messages[:number])
        after = render_chat(tokenizer, messages[: number + 1], answer=False)
        if not (before.startswith(written) and after.startswith(before)):
            raise RolloutError(
                f"{rollout.source}:{rollout.source_row}: the chat template rewrites earlier turns "
                f"at turn {number + 1}; expected one that only adds to them, or token ids"
            )
        answer, closing = _closing(after[len(before) :], special)
        last = number == len(messages) - 1
        # The first turn follows the prompt, which is encoded by itself.
        pieces = [(before[len(written) :], False)] if written else []
        pieces += [(answer, True), ("" if last else closing, True)]
        for text, counts in pieces:
            piece = encode_text(tokenizer, text) if text else []
            ids += piece
            own += [counts] * len(piece)
        written = before + answer + closing
    return ids, own


def _special_texts(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    return [
        text for text in tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer))) if text
    ]


def _closing(turn: str, special: Sequence[str]) -> tuple[str, str]:
    """Split a turn as the template writes it into the answer and the token that closes it."""
    text = turn.rstrip()
    for token in special:
        if text.endswith(token):
            return text.removesuffix(token), token
    return text, ""


def _prompt_lengths(rollouts: Sequence[RawRollout], prompts: Sequence[Ids]) -> dict[str, int]:
    told = [
        (len(ids), r.n_prompt)
        for r, ids in zip(rollouts, prompts, strict=True)
        if r.n_prompt is not None and not isinstance(r.prompt, np.ndarray)
    ]
    differ = sum(here != there for here, there in told)
    return {"prompt_lengths_told": len(told), "prompt_lengths_differ": differ}


class _Prompts:
    """Encodes every distinct prompt once, for the student and for the teacher."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", options: TextOptions) -> None:
        self._tokenizer = tokenizer
        self._options = options
        self._reader = ChatReader(tokenizer)
        self._student: dict[str, Ids] = {}
        self._teacher: dict[str, Ids] = {}
        self.counts = dict.fromkeys(
            ("prompts", "prompts_restored", "prompts_as_they_stand", "prompts_without_markers"), 0
        )

    def encode(self, rollout: RawRollout, prompt: Prompt) -> Ids:
        """Return the ids of a prompt."""
        if isinstance(prompt, np.ndarray):
            return prompt
        key = json.dumps(prompt)
        if key not in self._student:
            self.counts["prompts"] += 1
            self._student[key] = np.asarray(self._make(rollout, prompt), dtype=np.int32)
        return self._student[key]

    def encode_teacher(self, rollout: RawRollout) -> Ids | None:
        """Return the ids of the teacher's prompt, None where it reads the student's."""
        if rollout.teacher_prompt is not None:
            return self.encode(rollout, rollout.teacher_prompt)
        system, prompt = self._options.teacher_system, rollout.prompt
        if system is None:
            return None
        key = str(prompt.tobytes()) if isinstance(prompt, np.ndarray) else json.dumps(prompt)
        if key not in self._teacher:
            chat = self._chat(rollout)
            rendered = render_chat(
                self._tokenizer, with_system(chat.messages, system), **chat.options
            )
            if system not in rendered:
                raise RolloutError(
                    f"{rollout.source}:{rollout.source_row}: the chat template leaves out the "
                    "system turn; expected a template with one, or teacher_prompts"
                )
            self._teacher[key] = np.asarray(encode_text(self._tokenizer, rendered), dtype=np.int32)
        return self._teacher[key]

    def _make(self, rollout: RawRollout, prompt: str | Messages) -> list[int]:
        if not isinstance(prompt, str):
            return encode_prompt(self._tokenizer, prompt)
        template = self._options.template
        marker = self._reader.marker_in(prompt) if self._tokenizer.chat_template else None
        if template == "chat" and marker is not None:
            raise RolloutError(
                f"{rollout.source}:{rollout.source_row}: the prompt holds {marker!r}, which the "
                "chat template writes itself; expected a bare prompt, or template raw "
                "(--template raw) for one that stands as the model read it"
            )
        if template == "auto":
            restored = self._restore(prompt)
            if restored is not None:
                self.counts["prompts_restored"] += 1
                return restored.token_ids
            if self._options.stripped or self._reader.looks_stripped(prompt):
                self.counts["prompts_without_markers"] += 1
                template = "raw"
            else:
                template = "raw" if self._options.rendered or marker is not None else "chat"
        if template == "raw" and marker is None and self._tokenizer.chat_template:
            self.counts["prompts_as_they_stand"] += 1
        return encode_prompt(self._tokenizer, prompt, template=template)

    def _restore(self, prompt: str) -> Chat | None:
        if self._reader.marker_in(prompt) is not None:
            return None
        return self._reader.restore(prompt, bare=self._options.stripped)

    def _chat(self, rollout: RawRollout) -> Chat:
        """Read a prompt as the turns that it was rendered from."""
        prompt = rollout.prompt
        if isinstance(prompt, list):
            return Chat(prompt, {}, [])
        ids = self.encode(rollout, prompt)
        text = self._tokenizer.decode(
            ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        chat = self._reader.read(str(text))
        if chat is None:
            raise RolloutError(
                f"{rollout.source}:{rollout.source_row}: the prompt is not what the chat template "
                "writes, so that its system turn cannot be replaced; expected a chat prompt, or "
                "the teacher's prompts in a file (--teacher-prompts)"
            )
        return chat
