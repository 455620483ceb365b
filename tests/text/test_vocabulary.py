import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from opd_diag.errors import ModelError, RolloutError
from opd_diag.text.vocabulary import (
    check_ids,
    escape,
    special_ids,
    token_bytes,
    vocab_table,
    vocabulary_size,
)


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_pieces_of_a_byte_level_tokenizer_spell_the_text(tiny_tokenizer, text: str) -> None:
    spelled = token_bytes(tiny_tokenizer)
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(spelled[i] for i in ids) == text.encode()


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="▁")))
def test_pieces_of_a_metaspace_tokenizer_spell_the_text(metaspace_tokenizer, text: str) -> None:
    spelled = token_bytes(metaspace_tokenizer)
    ids = metaspace_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(spelled[i] for i in ids) == text.encode()


def test_vocab_table_marks_special_tokens_only(tiny_tokenizer) -> None:
    table = vocab_table(tiny_tokenizer)
    assert table["token_id"].to_list() == list(range(vocabulary_size(tiny_tokenizer)))
    assert table.filter("is_special")["text"].to_list() == ["<|pad|>", "<|start|>", "<|end|>"]
    assert table.filter(pl.col("text") == "<think>")["is_special"].to_list() == [False]


def test_all_single_bytes_are_there_and_invalid_ones_are_escaped(tiny_tokenizer) -> None:
    spelled = token_bytes(tiny_tokenizer)
    assert {bytes([byte]) for byte in range(256)} <= set(spelled)
    assert escape(b"a\xff\xe4\xb8\xad") == "a\\xff中"
    table = vocab_table(tiny_tokenizer)
    assert table.filter(pl.col("bytes") == b"\xff")["text"].to_list() == ["\\xff"]


def test_an_id_without_a_piece_spells_nothing_and_cuts_nothing_off() -> None:
    raw = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "c": 5}, merges=[]))
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    assert vocabulary_size(tokenizer) == 6
    assert token_bytes(tokenizer) == [b"a", b"b", b"", b"", b"", b"c"]
    assert special_ids(tokenizer) == set()


def test_a_vocabulary_in_another_notation_is_refused() -> None:
    raw = Tokenizer(models.WordLevel({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))
    raw.decoder = decoders.WordPiece()
    with pytest.raises(ModelError, match="its decoder is WordPiece; expected a byte-level"):
        token_bytes(PreTrainedTokenizerFast(tokenizer_object=raw))


def test_ids_outside_the_vocabulary_are_named_with_file_and_line() -> None:
    ids = pl.Series([[1, 2], [1, 9]], dtype=pl.List(pl.Int32))
    none = pl.Series([None, None], dtype=pl.List(pl.Int32))
    table = pl.DataFrame(
        {
            "source": ["a.jsonl", "a.jsonl"],
            "source_row": np.array([1, 2], dtype=np.uint32),
            "prompt_token_ids": ids,
            "response_token_ids": ids,
            "teacher_prompt_token_ids": none,
        }
    )
    check_ids(table, 10)
    with pytest.raises(RolloutError, match="line 2: response_token_ids holds 9; expected 0 to 8"):
        check_ids(table, 9)
