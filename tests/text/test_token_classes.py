"""Classes of tokens from their bytes."""

from pathlib import Path

import polars as pl
import pytest

from opd_diag.tables.columns.rock_tokens import TOKEN_CLASSES
from opd_diag.text.token_classes import DISCOURSE, token_classes

CASES = {
    b" wait": "discourse",
    b"So": "discourse",
    b"THEREFORE": "discourse",
    b" so-called": "word start",
    b"\n": "whitespace",
    b" \t ": "whitespace",
    b"": "whitespace",
    b"7": "digit",
    b" 1,234.5": "digit",
    "½".encode(): "digit",
    b"x2": "word continuation",
    b" and": "word start",
    b"ing": "word continuation",
    " café".encode(): "word start",
    b"\\frac": "markup",
    b" $": "markup",
    b"**": "markup",
    b"```": "markup",
    b"|": "markup",
    b"##": "markup",
    b".": "punctuation",
    b" (": "punctuation",
    "。".encode(): "punctuation",
    "中文".encode(): "other script",
    " привет".encode(): "other script",
    b"\xe4\xb8": "other script",  # a part of a character
}


@pytest.mark.parametrize(("spelled", "expected"), CASES.items(), ids=map(repr, CASES))
def test_a_class_follows_from_the_bytes(spelled: bytes, expected: str) -> None:
    vocabulary = pl.DataFrame({"bytes": [spelled], "is_special": [False]})
    assert token_classes(vocabulary).to_list() == [expected]


def test_special_tokens_are_special_whatever_they_spell() -> None:
    vocabulary = pl.DataFrame({"bytes": [b"so", b"<|end|>"], "is_special": [True, True]})
    classes = token_classes(vocabulary)
    assert classes.to_list() == ["special", "special"]
    assert classes.dtype == pl.Enum(TOKEN_CLASSES)


def test_the_list_of_words_is_in_lower_case() -> None:
    assert all(word == word.lower() and word.isalpha() for word in DISCOURSE)
    assert set(CASES.values()) | {"special"} == set(TOKEN_CLASSES)


def test_the_docs_list_the_words() -> None:
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    listed = text.split("Discourse is this list, in either case:")[1].split(".\n")[0]
    assert {word.strip() for word in listed.split(",")} == DISCOURSE
