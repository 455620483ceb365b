"""Tell what a token type is from its bytes alone: digits, markup, the start of a word, others."""

import unicodedata

import polars as pl

from opd_diag.tables.columns.rock_tokens import TOKEN_CLASSES

MARKUP = frozenset("\\$#*|`")
DISCOURSE = frozenset({
    "actually", "again", "also", "alternatively", "although", "anyway", "because", "besides",
    "but", "consequently", "finally", "first", "firstly", "furthermore", "hence", "hmm", "hold",
    "however", "if", "indeed", "instead", "just", "last", "lastly", "let", "maybe", "meanwhile",
    "moreover", "nevertheless", "next", "nonetheless", "now", "oh", "ok", "okay", "otherwise",
    "overall", "perhaps", "rather", "second", "secondly", "similarly", "since", "so", "still",
    "suppose", "then", "therefore", "third", "though", "thus", "unless", "wait", "well",
    "whereas", "while", "yet",
})  # fmt: skip
"""Words that steer the text rather than carry its content, in lower case."""


def token_classes(vocabulary: pl.DataFrame) -> pl.Series:
    """Give the class of every token type, one of `TOKEN_CLASSES`.

    The first that fits: `special`; `whitespace`; `markup`, what holds one of `MARKUP`; `digit`,
    digits with no letter; `punctuation`, no digit and no letter; `other script`, a letter that is
    not Latin, or bytes that are no whole characters; `discourse`, one of `DISCOURSE`; `word start`,
    after a space; `word continuation`.

    Args:
        vocabulary: Columns `bytes` and `is_special`.

    Returns:
        Classes, in the order of the rows.
    """
    columns = vocabulary["bytes"], vocabulary["is_special"]
    classes = [
        "special" if special else _class_of(spelled)
        for spelled, special in zip(*columns, strict=True)
    ]
    return pl.Series("token_class", classes, dtype=pl.Enum(TOKEN_CLASSES))


def _class_of(spelled: bytes) -> str:
    text = spelled.decode(errors="surrogateescape")
    word = text.strip()
    if not word:
        return "whitespace"
    if MARKUP.intersection(word):
        return "markup"
    letters = [sign for sign in word if sign.isalpha() or "\udc80" <= sign <= "\udcff"]
    if not letters:
        return "digit" if any(sign.isnumeric() for sign in word) else "punctuation"
    if not all(_is_latin(sign) for sign in letters):
        return "other script"
    if word.lower() in DISCOURSE:
        return "discourse"
    return "word start" if text[0].isspace() else "word continuation"


def _is_latin(sign: str) -> bool:
    return sign.isascii() or unicodedata.name(sign, "").startswith("LATIN ")
