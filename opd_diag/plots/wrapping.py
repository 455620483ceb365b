"""Where the tokens of a text stand on lines of equal characters."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from unicodedata import east_asian_width


class Piece(NamedTuple):
    """What stands of one token on one line.

    Attributes:
        token: Number of the token.
        line: Number of the line.
        at: Characters before it in the line.
        width: Its characters.
        text: What it says.
    """

    token: int
    line: int
    at: int
    width: int
    text: str


def wrapped(words: Sequence[str], most: int) -> Iterator[Piece]:
    """Place words; a line ends after ⏎ and when it is full, inside a word longer than a line too.

    Args:
        words: Text of every token; a newline is written as ⏎.
        most: Characters in a line. East Asian wide ones count twice.
    """
    line = at = 0
    for token, word in enumerate(words):
        for run in re.findall(r"[^⏎]*⏎+|[^⏎]+", word):
            for text in _cut(run, most):
                width = _width(text)
                if at and at + width > most:
                    line, at = line + 1, 0
                yield Piece(token, line, at, width, text)
                at += width
            if run.endswith("⏎"):
                line, at = line + 1, 0


def _width(text: str) -> int:
    return sum(2 if east_asian_width(sign) in "WF" else 1 for sign in text)


def _cut(run: str, most: int) -> Iterator[str]:
    while _width(run) > most:
        size = most if _width(run[:most]) <= most else most // 2
        yield run[:size]
        run = run[size:]
    yield run
