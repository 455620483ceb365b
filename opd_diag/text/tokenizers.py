"""Tokenizers: loading, comparing, and encoding prompts and responses, also from text again."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from opd_diag.errors import ModelError, ModelMismatchError, OptionError, first_line
from opd_diag.text.chat_templates import render_template
from opd_diag.text.model_files import (
    base_of_adapter,
    check_model_folder,
    has_tokenizer,
    hub_options,
)
from opd_diag.text.vocabulary import token_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Digits, spaces, a newline run, code, LaTeX, accents, a joined emoji and another script: where
# tokenizers with equal vocabularies but other merges or rules part.
PROBE = (
    "The answer is 12,345.678 - isn't it?  Yes:\n\n\tx_1 = \\frac{a}{b} + 3e-10;\n"
    "def f(x): return x**2  # naïve café\r\nÜbergröße 你好，世界 привет 👩‍🔬 www.example.org   \n"
)
MOST_IDS = 5


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


def load_tokenizer(
    name: str,
    *,
    fallback: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model folder or hub id.

    Args:
        name: Folder or hub id. An adapter without a tokenizer has that of its base model.
        fallback: Folder or hub id whose tokenizer is taken where there is none.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Whether code that comes with it may run.

    Raises:
        ModelError: If there is none that transformers can read, or no such folder.
    """
    check_model_folder(name)
    from transformers import AutoTokenizer

    source = name
    if Path(name).is_dir() and not has_tokenizer(name):
        source = fallback or base_of_adapter(name) or name
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=trust_remote_code, **hub_options(source)
        )
    except Exception as error:  # the readers below raise whatever they like, Exception itself too
        if fallback is not None and fallback != source:
            return load_tokenizer(fallback, revision=revision, trust_remote_code=trust_remote_code)
        reason = first_line(error)
        raise ModelError(
            f"{name}: no tokenizer ({reason}); expected tokenizer files that transformers reads, "
            "or tokenizer (--tokenizer) to name others"
        ) from error
    return tokenizer


def compare_tokenizers(
    teacher: "PreTrainedTokenizerBase",
    student: "PreTrainedTokenizerBase",
    *,
    names: tuple[str, str] = ("teacher", "student"),
) -> int:
    """Check that two tokenizers give the same ids the same meaning.

    The vocabularies are compared id by id, then a probe text is encoded. One may go on where the
    other ends, with added tokens only: these ids are then not shared.

    Args:
        teacher: The one tokenizer.
        student: The other one.
        names: What a message calls them.

    Returns:
        The number of shared decodable ids, from 0.

    Raises:
        ModelMismatchError: If they differ. The message names the first ids that do.
    """
    ours, theirs = token_pieces(teacher), token_pieces(student)
    shared = min(len(ours), len(theirs))
    added = teacher.added_tokens_decoder.keys() | student.added_tokens_decoder.keys()
    differing = [
        (token_id, a, b)
        for token_id, (a, b) in enumerate(zip_longest(ours, theirs))
        if a != b and not (token_id >= shared and token_id in added)
    ]
    where = " and ".join(names)
    if differing:
        shown = ", ".join(f"{i} ({a!r} and {b!r})" for i, a, b in differing[:MOST_IDS])
        only = all(token_id in added for token_id, _, _ in differing)
        of = "special or added tokens only, " if only else ""
        raise ModelMismatchError(
            f"{where}: their tokenizers differ in {of}{len(differing)} ids, first {shown}; "
            "expected one tokenizer"
        )
    one, other = (encode_text(tokenizer, PROBE) for tokenizer in (teacher, student))
    if one != other:
        at = next(n for n, (a, b) in enumerate(zip_longest(one, other)) if a != b)
        raise ModelMismatchError(
            f"{where}: their tokenizers encode a probe text differently from token {at} on, ids "
            f"{one[at : at + MOST_IDS]} and {other[at : at + MOST_IDS]}; expected one tokenizer"
        )
    return shared


def encode_responses(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Encode texts as they stand: no special tokens are added; those in the text are read."""
    if not texts:
        return []
    encoded: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return encoded


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


def encode_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    template: str = "chat",
) -> list[int]:
    """Encode a prompt as the generator would have read it.

    Args:
        tokenizer: The student's tokenizer.
        prompt: Text, or chat messages, which always go through the chat template.
        template: `chat` wraps a text as one user turn; `raw` takes it as it stands, after the
            token that the tokenizer starts a text with unless it stands there already.

    Raises:
        ModelError: If the chat template is wanted and missing, or refuses the messages.
        OptionError: If `template` is neither.
    """
    if isinstance(prompt, str):
        if template not in ("chat", "raw"):
            raise OptionError(f"template: {template!r}; expected chat or raw")
        if template == "raw":
            start = tokenizer.bos_token
            bare = bool(start) and prompt.startswith(str(start))
            return list(tokenizer(prompt, add_special_tokens=not bare)["input_ids"])
        prompt = [{"role": "user", "content": prompt}]
    return encode_text(tokenizer, render_chat(tokenizer, prompt))


def render_chat(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    *,
    answer: bool = True,
    **options: Any,
) -> str:
    """Write messages as the text that the model reads, up to the start of its answer.

    Args:
        tokenizer: Its chat template is used.
        messages: The turns. Where the last one is the assistant's, the answer goes on from it.
        answer: Whether an answer is to follow; if not, the last turn is closed.
        options: Options of the template.

    Raises:
        ModelError: If the chat template is missing, refuses the messages, or comes to no end.
    """
    from transformers import PreTrainedTokenizerBase

    begun = messages[-1]["role"] == "assistant"
    how = {
        "add_generation_prompt": answer and not begun,
        "continue_final_message": answer and begun,
        **options,
    }
    own = type(tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template
    try:
        if not own:
            return render_template(tokenizer, messages, **how)
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **how)
    except ModelError:
        raise
    except Exception as error:  # no template, or one that is code of a library
        reason = first_line(error)
        raise ModelError(
            f"chat template: {reason}; expected a template that takes the prompt, or template 'raw'"
        ) from error
    return text


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode a text as it stands: no special tokens are added; those in the text are read."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
