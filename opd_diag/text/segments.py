"""Segments: the sentences, lines or blocks that the tokens of a response are grouped into.

A segmenter works on the bytes of the response as its tokens spell them, so that no tokenizer is
needed once the vocabulary's bytes are known, and a token never straddles by accident of decoding.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opd_diag.errors import OptionError
from opd_diag.stats.ragged import starts_of

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

# A fixed list, so that no data has to be downloaded. "no" is left out on purpose: "The answer is
# no. Next" has to split.
ABBREVIATIONS = (
    *("al", "approx", "cf", "dr", "e.g", "eq", "fig", "i.e"),
    *("mr", "mrs", "ms", "resp", "st", "vs"),
)
VERSION = 1

_LINE = re.compile(r"[^\n]*\n+|[^\n]+")
# A special token ends a word but spells nothing that a sentence splitter should read.
_SPECIAL = b" "


def segmenter_spec(name: str) -> dict[str, object]:
    """Describe a segmenter for the manifest, and refuse an unknown one.

    Args:
        name: `punkt`, `newline`, or `block:N` with N tokens to a segment.

    Returns:
        Name, version and parameters: equal specifications give equal segments.

    Raises:
        OptionError: If there is no such segmenter.
    """
    parameters: dict[str, object] = {}
    if name == "punkt":
        import nltk

        parameters = {"abbreviations": list(ABBREVIATIONS), "nltk": nltk.__version__}
    elif name != "newline":
        parameters = {"tokens": _block_size(name)}
    return {"name": name, "version": VERSION, "parameters": parameters}


def segment_responses(
    responses: Sequence[Sequence[int] | NDArray[np.integer]],
    vocab_bytes: Sequence[bytes],
    is_special: NDArray[np.bool_],
    *,
    segmenter: str = "punkt",
    inside: Sequence[NDArray[np.bool_] | None] | None = None,
) -> list[NDArray[np.uint32]]:
    """Number the segments of responses, one number for each token.

    A run of newlines belongs to the segment that it ends, and blank lines at the start to the first
    one. Tokens that hold parts of one character share a segment, and a special token takes the
    segment before it.

    A response of several turns is cut where the model's own tokens begin and end: each span is read
    by itself, so that no sentence goes on across what a tool or a user wrote.

    Args:
        responses: Token ids of every response.
        vocab_bytes: The bytes that every token id spells, by id.
        is_special: Whether the id is a special token. Shape (vocabulary,).
        segmenter: `punkt`, `newline`, or `block:N` with N tokens to a segment.
        inside: Which tokens of each response the model wrote, None where it wrote all.

    Returns:
        The numbers of each response: not falling, contiguous from 0. Shape (its tokens,) each.

    Raises:
        OptionError: If there is no such segmenter.
    """
    ids = [np.asarray(response, dtype=np.int64) for response in responses]
    if inside is not None and any(mask is not None for mask in inside):
        return _segment_spans(ids, vocab_bytes, is_special, segmenter, inside)
    if segmenter not in ("punkt", "newline"):
        size = _block_size(segmenter)
        return [(np.arange(len(row)) // size).astype(np.uint32) for row in ids]

    spelled = [
        _SPECIAL if special else piece
        for piece, special in zip(vocab_bytes, is_special.tolist(), strict=True)
    ]
    lengths = np.fromiter(map(len, spelled), dtype=np.int64, count=len(spelled))
    texts = [b"".join([spelled[i] for i in row.tolist()]) for row in ids]
    ends = [segment_ends(text, segmenter=segmenter) for text in texts]
    return [
        _number(lengths[row], is_special[row], text, end)
        for row, text, end in zip(ids, texts, ends, strict=True)
    ]


def _turns(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where the model's tokens begin and end; a single token left out ends nothing."""
    single = ~mask[1:-1] & mask[:-2] & mask[2:]
    whole = mask.copy()
    whole[1:-1] |= single
    return np.flatnonzero(whole[1:] != whole[:-1]) + 1


def _segment_spans(
    responses: Sequence[NDArray[np.int64]],
    vocab_bytes: Sequence[bytes],
    is_special: NDArray[np.bool_],
    segmenter: str,
    inside: Sequence[NDArray[np.bool_] | None],
) -> list[NDArray[np.uint32]]:
    """Cut responses where a mask changes, number the segments of each piece, and go on counting."""
    places = [np.empty(0, np.int64) if mask is None else _turns(mask) for mask in inside]
    pieces = [np.split(ids, at) for ids, at in zip(responses, places, strict=True)]
    flat = [piece for own in pieces for piece in own]
    numbers = iter(segment_responses(flat, vocab_bytes, is_special, segmenter=segmenter))
    joined = []
    for own in pieces:
        parts, count = [], 0
        for _ in own:
            part = next(numbers)
            parts.append(part + np.uint32(count))
            count += int(part[-1]) + 1 if len(part) else 0
        joined.append(np.concatenate(parts))
    return joined


def segment_ends(text: bytes, *, segmenter: str = "punkt") -> NDArray[np.int64]:
    """Find where the segments of a text end.

    Args:
        text: The response. Need not be valid UTF-8.
        segmenter: `punkt` or `newline`.

    Returns:
        The byte after each segment's last one, rising; the end of the last segment is left out.
    """
    characters = text.decode("utf-8", errors="surrogateescape")
    ends: list[int] = []
    for line in _LINE.finditer(characters):
        if line.group().isspace():
            # Blank lines go with the segment before them; with none before, with the first.
            if ends:
                ends[-1] = line.end()
            continue
        if segmenter == "punkt":
            spans = _punkt().span_tokenize(line.group())
            ends += [line.start() + stop for _, stop in spans][:-1]
        ends.append(line.end())
    at = np.array(ends[:-1], dtype=np.int64)
    return at if len(characters) == len(text) else _byte_offsets(characters)[at]


def _number(
    lengths: NDArray[np.int64],
    special: NDArray[np.bool_],
    text: bytes,
    ends: NDArray[np.int64],
) -> NDArray[np.uint32]:
    """Number the tokens of one response by the ends of its segments."""
    starts = starts_of(lengths)
    if not text.isascii():
        # A token that starts inside a character stands with the token that holds its first byte.
        characters = text.decode("utf-8", errors="surrogateescape")
        inside = ~np.isin(starts, _byte_offsets(characters))
        starts = starts[_last_true(~inside)]
    segments = np.searchsorted(ends, starts, side="right")
    before = _last_true(~special)
    segments = np.where(before >= 0, segments[before], 0)
    return np.unique(segments, return_inverse=True)[1].astype(np.uint32)


def _last_true(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Index of the last true flag at or before each place, -1 where there is none."""
    return np.maximum.accumulate(np.where(flags, np.arange(len(flags)), -1))


def _byte_offsets(characters: str) -> NDArray[np.int64]:
    """Byte at which each character starts, and the length of the whole at the end."""
    points = np.frombuffer(characters.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
    width = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    width[(points >= 0xDC80) & (points <= 0xDCFF)] = 1  # one byte that is no UTF-8
    return np.concatenate(([0], np.cumsum(width, dtype=np.int64)))


def _block_size(name: str) -> int:
    match = re.fullmatch(r"block:([1-9]\d*)", name)
    if match is None:
        raise OptionError(f"segmenter: {name!r}; expected punkt, newline or block:N with N >= 1")
    return int(match.group(1))


@cache
def _punkt() -> "PunktSentenceTokenizer":
    # nltk pulls in much that a reader of a finished run never needs.
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    punkt = PunktSentenceTokenizer(parameters)
    # A decision depends on the few words around the stop only, and these come again and again.
    punkt.text_contains_sentbreak = lru_cache(maxsize=65_536)(punkt.text_contains_sentbreak)
    return punkt
