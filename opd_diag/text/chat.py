"""Chat prompts as text: the turns in them, whether or not the special tokens are still there.

A template puts the same text around the contents of every conversation. That text is learnt from
the template itself, by rendering contents that are known, and is then looked for in a prompt.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from opd_diag.errors import ModelError
from opd_diag.text.tokenizers import encode_text, render_chat
from opd_diag.text.vocabulary import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]

_SYSTEM, _USER, _REPLY, _NEXT = "XqzSystemXqz", "XqzUserXqz", "XqzReplyXqz", "XqzNextXqz"
# Options that change what a known template writes before the answer.
_OPTIONS: tuple[Mapping[str, Any], ...] = ({}, {"enable_thinking": False})
_ROLE_FIRST = re.compile(r"\s*(system|user|human|developer)\n")


class Chat(NamedTuple):
    """A prompt read as a conversation.

    Attributes:
        messages: Its turns, up to the answer.
        options: Options of the template that write it so.
        token_ids: Ids of the prompt, special tokens and all.
    """

    messages: list[dict[str, Any]]
    options: Mapping[str, Any]
    token_ids: list[int]


class _Surroundings(NamedTuple):
    """What a template writes around contents.

    Attributes:
        start: Before the first user turn, where no system turn is given.
        system: Before and after a system turn; None where the template takes none.
        reply: Between a user turn and the answer to it; empty where nothing but blanks stands
            there, which tells nothing.
        next_user: Between an answer and the next user turn, or empty.
        end: After the last user turn, where the answer is to follow.
        options: Options of the template.
    """

    start: str
    system: tuple[str, str] | None
    reply: str
    next_user: str
    end: str
    options: Mapping[str, Any]


class ChatReader:
    """Reads chat prompts back that one tokenizer's template has written.

    Args:
        tokenizer: With or without a chat template; without one nothing is read.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._special = special_ids(tokenizer)

    @cached_property
    def markers(self) -> tuple[str, ...]:
        """The special tokens that the template writes, all of them where there is no template."""
        texts = self._tokenizer.convert_ids_to_tokens(sorted(self._special))
        written = self._render([{"role": "user", "content": _USER}], {})
        return tuple(t for t in texts if t and (written is None or t in written))

    def marker_in(self, text: str) -> str | None:
        """Return a special token of the template that stands in a text, if there is one."""
        return next((marker for marker in self.markers if marker in text), None)

    def looks_stripped(self, text: str) -> bool:
        """Tell whether a text without special tokens is what a chat template leaves of a prompt."""
        if self.marker_in(text) is not None:
            return False
        ends = (one.end for one in self._stripped if one.end.strip())
        return bool(_ROLE_FIRST.match(text)) or any(text.endswith(end) for end in ends)

    def read(self, text: str) -> Chat | None:
        """Read a prompt that holds its special tokens; None if the template does not write it."""
        for around, messages in _conversations(text, self._whole):
            if self._render(messages, around.options) == text:
                return Chat(messages, around.options, encode_text(self._tokenizer, text))
        return None

    def restore(self, text: str, *, bare: bool = False) -> Chat | None:
        """Read a prompt that was decoded without its special tokens, and put them back.

        The result counts only if it decodes, without special tokens, to the very text.

        Args:
            text: The prompt.
            bare: Whether a template counts of which nothing but the contents is left. Where it
                does not, a text without any trace of a template is no chat.
        """
        known = [one for one in self._stripped if bare or (one.start + one.end).strip()]
        for around, messages in _conversations(text, known):
            rendered = self._render(messages, around.options)
            if rendered is None:
                continue
            token_ids = encode_text(self._tokenizer, rendered)
            if self._strip(token_ids) == text:
                return Chat(messages, around.options, token_ids)
        return None

    @cached_property
    def _whole(self) -> list[_Surroundings]:
        return list(self._surroundings(stripped=False))

    @cached_property
    def _stripped(self) -> list[_Surroundings]:
        return list(self._surroundings(stripped=True))

    def _surroundings(self, *, stripped: bool) -> Iterator[_Surroundings]:
        system, user, reply, after = (
            {"role": role, "content": content}
            for role, content in (
                ("system", _SYSTEM),
                ("user", _USER),
                ("assistant", _REPLY),
                ("user", _NEXT),
            )
        )
        seen = []
        for options in _OPTIONS:

            def parts(*messages: Message, options: Mapping[str, Any] = options) -> list[str] | None:
                text = self._render(messages, options)
                if text is not None and stripped:
                    text = self._strip(encode_text(self._tokenizer, text))
                return None if text is None else _between(text, messages)

            alone = parts(user)
            if alone is None:
                continue
            ruled = parts(system, user)
            longer = parts(user, reply, after)
            around = _Surroundings(
                start=alone[0],
                system=(ruled[0], ruled[1]) if ruled else None,
                reply=_telling(longer[1] if longer else alone[1]),
                next_user=_telling(longer[2]) if longer else "",
                end=alone[1],
                options=options,
            )
            if around[:-1] not in seen:
                seen.append(around[:-1])
                yield around

    def _render(self, messages: Sequence[Message], options: Mapping[str, Any]) -> str | None:
        if self._tokenizer.chat_template is None:
            return None
        try:
            return render_chat(self._tokenizer, messages, **options)
        except ModelError:
            return None

    def _strip(self, token_ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def with_system(messages: Sequence[Message], system: str) -> list[dict[str, Any]]:
    """Give a conversation another system turn, in place of its own if it has one."""
    others = [dict(message) for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": system}, *others]


def _between(text: str, messages: Sequence[Message]) -> list[str] | None:
    """Cut a text at the contents of messages; None unless each stands in it once, in order."""
    parts = []
    for message in messages:
        if text.count(message["content"]) != 1:
            return None
        before, text = text.split(message["content"])
        parts.append(before)
    return [*parts, text]


def _telling(text: str) -> str:
    return text if text.strip() else ""


def _conversations(
    text: str, known: Sequence[_Surroundings]
) -> Iterator[tuple[_Surroundings, list[dict[str, Any]]]]:
    """Yield what a text may be as a conversation; one whose answer is already begun comes last."""
    for begun in (False, True):
        for around in known:
            for messages in _turns(text, around, begun=begun):
                yield around, messages


def _turns(text: str, around: _Surroundings, *, begun: bool) -> Iterator[list[dict[str, Any]]]:
    """Cut a text at what surrounds its turns; nothing if it is not surrounded so.

    Contents that spell the surroundings themselves are taken for turns.

    Args:
        text: The prompt.
        around: What surrounds the turns.
        begun: Whether the text goes on after the start of the answer, as a turn of the assistant.
    """
    for messages, rest in _heads(text, around):
        if not begun and not rest.endswith(around.end):
            continue
        body = rest if begun else rest[: len(rest) - len(around.end)]
        place, complete = 0, False
        while not complete:
            at = body.find(around.reply, place) if around.reply else -1
            after = at + len(around.reply)
            following = body.find(around.next_user, after) if at >= 0 and around.next_user else -1
            if at < 0 or (following < 0 and not begun):
                break
            messages.append({"role": "user", "content": body[place:at]})
            complete = following < 0
            stop = len(body) if complete else following
            messages.append({"role": "assistant", "content": body[after:stop]})
            place = following + len(around.next_user)
        if not begun:
            messages.append({"role": "user", "content": body[place:]})
        if complete or not begun:
            yield messages


def _heads(text: str, around: _Surroundings) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Yield what may stand before the first user turn, and the text from its content on."""
    if text.startswith(around.start):
        yield [], text[len(around.start) :]
    if around.system is not None:
        before, after = around.system
        at = text.find(after, len(before)) if after else -1
        if text.startswith(before) and at >= 0:
            system = {"role": "system", "content": text[len(before) : at]}
            yield [system], text[at + len(after) :]
