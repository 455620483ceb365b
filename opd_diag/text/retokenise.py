"""Text tokenised again: what a dump without token ids can give back, and what it cannot."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from opd_diag.errors import ModelError
from opd_diag.text.tokenizers import encode_responses, render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROLE = re.compile(r"(?:\A|\n)(system|user|assistant)\n")


class Retokenised(NamedTuple):
    """Token ids made from texts.

    Attributes:
        token_ids: Ids of each text.
        round_trip: Whether the ids decode to the very text. False is a proof of drift; True is no
            proof against it, for another cut of the same text decodes to it too.
        broken: Whether the text holds the replacement character, which stands for bytes that were
            no UTF-8 when the dump was written and are lost.
    """

    token_ids: list[list[int]]
    round_trip: list[bool]
    broken: list[bool]


def retokenise(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> Retokenised:
    """Encode texts as they stand and decode them again."""
    token_ids = encode_responses(tokenizer, texts)
    decoded = (
        tokenizer.batch_decode(
            token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if texts
        else []
    )
    return Retokenised(
        token_ids,
        round_trip=[a == b for a, b in zip(decoded, texts, strict=True)],
        broken=["\N{REPLACEMENT CHARACTER}" in text for text in texts],
    )


def restore_chat(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int] | None:
    """Put back the special tokens of a chat prompt that was decoded without them.

    The roles are read from their lines and rendered with the chat template. The result counts only
    if it decodes, without special tokens, to the very text.

    Returns:
        Ids of the prompt, or None if it cannot be restored.
    """
    parts = _ROLE.split(text)
    if len(parts) < 3 or parts[0]:
        return None
    messages = [
        {"role": role, "content": content}
        for role, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
        messages.pop()  # the template opens the answer itself
    if not messages:
        return None
    try:
        token_ids = encode_responses(tokenizer, [render_chat(tokenizer, messages)])[0]
    except ModelError:
        return None
    decoded = tokenizer.decode(
        token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return token_ids if decoded == text else None
