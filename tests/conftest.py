"""Fixtures that several parts share."""

import os

# Before the first import of tokenizers: its threads and forked test processes do not mix.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The answer is 12. Then we add 3 + 4 = 7, and so on.",
    "Let us think step by step.\n\nFirst, a naïve café. 中文 text, привет, 👩‍🔬!",
    "def f(x):\n    return x ** 2  # e.g. a function",
]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def _train_bpe(corpus: list[str] | None = None, size: int = 320) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with three special tokens and one added token that is none."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(corpus or CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|start|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens(["<think>"])
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def train_bpe():
    """The function that trains a tiny byte-level BPE, on a corpus of one's own or the usual one."""
    return _train_bpe


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with a chat template; specials <|pad|> 0, <|start|> 1, <|end|> 2."""
    return _train_bpe()


@pytest.fixture(scope="session")
def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer: ▁ for a space, <0xNN> for bytes outside the vocabulary."""
    letters = "▁abcdefghijklmnopqrstuvwxyzT."
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    raw = Tokenizer(
        models.BPE(
            vocab={piece: n for n, piece in enumerate([*pieces, "▁t", "▁th"])},
            merges=[("▁", "t"), ("▁t", "h")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
