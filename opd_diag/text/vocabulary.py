"""The vocabulary as bytes: what each token id spells, whatever the tokenizer's own notation is."""

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import polars as pl

from opd_diag.errors import ModelError, RolloutError, faults
from opd_diag.tables.columns.rollouts import VOCAB
from opd_diag.tables.schema import check_table, polars_schema

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPACE = "▁"  # how SentencePiece writes a space
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ID_COLUMNS = ("prompt_token_ids", "response_token_ids", "teacher_prompt_token_ids")
_MANY_ROWS = 4


class OutsideVocabularyError(RolloutError):
    """Rollouts hold ids that the tokenizer does not have."""


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the number of decodable ids: the largest id plus one.

    This is `len(tokenizer)` unless the vocabulary has gaps, which would cut off its last tokens.
    """
    return int(max(tokenizer.get_vocab().values())) + 1


def token_pieces(tokenizer: "PreTrainedTokenizerBase") -> list[str | bytes | None]:
    """List the pieces of a tokenizer in its own notation, by id; None where an id has no piece."""
    pieces: list[str | bytes | None] = [None] * vocabulary_size(tokenizer)
    for piece, token_id in tokenizer.get_vocab().items():
        pieces[token_id] = piece
    return pieces


def token_bytes(tokenizer: "PreTrainedTokenizerBase") -> list[bytes]:
    """List the bytes that every decodable id spells inside a running text.

    Byte-level BPE and SentencePiece vocabularies, with byte pieces such as `<0x0A>`, are read in
    their own notation; added tokens are taken as they stand. An id without a piece spells nothing.

    Returns:
        One bytes object for each id from 0.

    Raises:
        ModelError: If the vocabulary is in neither notation.
    """
    added = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
    pieces = token_pieces(tokenizer)
    spell = _speller(tokenizer, pieces)
    spelled = []
    for token_id, piece in enumerate(pieces):
        if token_id in added:
            spelled.append(added[token_id].encode())
        elif isinstance(piece, str):
            spelled.append(spell(piece))
        else:
            spelled.append(piece or b"")
    return spelled


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Return the ids of control tokens, such as the end of a turn or padding."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(token_id for token_id, token in added if token.special)}


def vocab_table(tokenizer: "PreTrainedTokenizerBase") -> pl.DataFrame:
    """Make the vocabulary table of a run: token_id, text, bytes, is_special.

    Raises:
        ModelError: If the vocabulary is neither byte-level nor SentencePiece.
    """
    spelled = token_bytes(tokenizer)
    special = special_ids(tokenizer)
    frame = pl.DataFrame(
        {
            "token_id": range(len(spelled)),
            "text": [escape(piece) for piece in spelled],
            "bytes": spelled,
            "is_special": [token_id in special for token_id in range(len(spelled))],
        },
        schema=polars_schema(VOCAB),
    )
    return check_table(frame, VOCAB, "vocabulary")


def escape(spelled: bytes) -> str:
    r"""Write bytes as text, those that are no UTF-8 as `\xNN`."""
    return spelled.decode("utf-8", errors="backslashreplace")


def check_ids(table: pl.DataFrame, size: int) -> None:
    """Check that every id of a rollouts table lies in a vocabulary.

    Args:
        table: Rollouts.
        size: Number of decodable ids.

    Raises:
        OutsideVocabularyError: If an id is below 0 or not below `size`: with the file and line of
            each row, or in one line where most rows hold one, for then the tokenizer is another
            than that of the dump.
    """
    outside_ids: list[tuple[str, int, str]] = []
    for column in _ID_COLUMNS:
        ids = pl.col(column).list
        outside = table.select("source", "source_row", low=ids.min(), high=ids.max()).filter(
            (pl.col("low") < 0) | (pl.col("high") >= size)
        )
        outside_ids += [
            (source, row, f"{column} holds {low if low < 0 else high}; expected 0 to {size - 1}")
            for source, row, low, high in outside.iter_rows()
        ]
    if not outside_ids:
        return
    source = outside_ids[0][0]
    rows = {(name, row) for name, row, _ in outside_ids}
    if len(rows) >= _MANY_ROWS and 2 * len(rows) > table.height:
        largest = max(int(table[column].list.max().max() or 0) for column in _ID_COLUMNS)  # type: ignore[arg-type]
        raise OutsideVocabularyError(
            f"rollouts: {len(rows):,} of {table.height:,} hold token ids outside the vocabulary, "
            f"up to {largest}; expected 0 to {size - 1}, or the tokenizer that made the dump"
        )
    if len({name for name, _, _ in outside_ids}) > 1:
        lines = [f"{name}:{row}: {fault}" for name, row, fault in outside_ids]
        raise OutsideVocabularyError(faults("rollouts", lines))
    if len(outside_ids) == 1:
        raise OutsideVocabularyError(f"{source}:{outside_ids[0][1]}: {outside_ids[0][2]}")
    lines = [f"line {row}: {fault}" for _, row, fault in outside_ids]
    raise OutsideVocabularyError(faults(source, lines))


def _speller(
    tokenizer: "PreTrainedTokenizerBase", pieces: list[str | bytes | None]
) -> Callable[[str], bytes]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in Python has no decoder to ask, only its pieces
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        kinds = {"ByteLevel"} if "Ġ" in text and _SPACE not in text else {"Metaspace"}
    else:
        kinds = set(_decoder_kinds(json.loads(backend.to_str())["decoder"]))
    if "ByteLevel" in kinds:
        table = _byte_of_character()
        return lambda piece: _byte_level(piece, table)
    if "Metaspace" in kinds:
        return _sentencepiece
    kind = ", ".join(sorted(kinds)) or "missing"
    raise ModelError(
        f"{tokenizer.name_or_path or 'tokenizer'}: its decoder is {kind}; "
        "expected a byte-level or a SentencePiece vocabulary"
    )


def _decoder_kinds(decoder: Any) -> Iterator[str]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _decoder_kinds(part)
    elif decoder["type"] == "Replace" and decoder["pattern"].get("String") == _SPACE:
        yield "Metaspace"
    else:
        yield decoder["type"]


def _byte_of_character() -> dict[str, int]:
    """Map the 256 signs of a byte-level vocabulary to bytes (GPT-2, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    signs = {chr(byte): byte for byte in printable}
    return signs | {chr(256 + n): byte for n, byte in enumerate(others)}


def _byte_level(piece: str, table: dict[str, int]) -> bytes:
    if all(sign in table for sign in piece):
        return bytes([table[sign] for sign in piece])
    return piece.encode()


def _sentencepiece(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes.fromhex(byte.group(1)) if byte else piece.replace(_SPACE, " ").encode()
