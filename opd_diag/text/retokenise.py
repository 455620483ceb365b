"""Text tokenised again: what a dump without token ids can give back, and what it cannot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from opd_diag.text.tokenizers import encode_responses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
