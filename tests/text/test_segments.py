import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd_diag.text.segments import (
    segment_ends,
    segment_responses,
    segmenter_spec,
)
from opd_diag.text.vocabulary import token_bytes

SINGLE = [bytes([byte]) for byte in range(256)]
PLAIN = np.zeros(256, dtype=bool)


def segments_of(ids, vocab, special, *, segmenter: str = "punkt") -> np.ndarray:
    """Segment one response."""
    (numbers,) = segment_responses([ids], vocab, special, segmenter=segmenter)
    return numbers


def sentences(text: str, segmenter: str = "punkt") -> list[str]:
    """Segment a text of single bytes, and give the text of each segment."""
    data = text.encode()
    numbers = segments_of(list(data), SINGLE, PLAIN, segmenter=segmenter)
    cut = np.split(np.frombuffer(data, dtype=np.uint8), np.flatnonzero(np.diff(numbers)) + 1)
    return [part.tobytes().decode() for part in cut]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is no. Next one.", ["The answer is no.", " Next one."]),
        ("See eq. 2 and fig. 3, e.g. this, cf. Dr. Who.", None),
        ("It is 3.5 here. Is it? Yes!", ["It is 3.5 here.", " Is it?", " Yes!"]),
        ('He said "yes." Then (so.) Done.', ['He said "yes."', " Then (so.)", " Done."]),
        ("$a = b$\n$c = d$\n", ["$a = b$\n", "$c = d$\n"]),
        ("One.\n\n\nTwo.", ["One.\n\n\n", "Two."]),
        ("One. \n \n Two.", ["One. \n \n", " Two."]),
        ("\n\nOne. Two.\n", ["\n\nOne.", " Two.\n"]),
        ("中文。没有空格。 End. 第二。", ["中文。没有空格。 End.", " 第二。"]),
        (" \n ", None),
    ],
)
def test_sentences_and_lines_end_segments(text, expected) -> None:
    assert sentences(text) == (expected or [text])


def test_lines_and_blocks() -> None:
    assert sentences("A. B.\nC.", "newline") == ["A. B.\n", "C."]
    assert sentences("abcdefg", "block:3") == ["abc", "def", "g"]


def test_the_segmentation_is_that_of_a_plain_reading_of_the_rule() -> None:
    # Ends of sentences from nltk itself and ends of newline runs, all but the last, counted for
    # each byte by hand.
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    text = "First we add. Then $x = 2.5$ holds!\nSo e.g. this. Is it? Yes."
    parameters = PunktParameters()
    parameters.abbrev_types = {"e.g"}
    ends = {stop for _, stop in PunktSentenceTokenizer(parameters).span_tokenize(text)}
    ends = sorted((ends - {35}) | {36})  # the newline after "holds!" belongs to its segment
    by_hand = [sum(end <= place for end in ends[:-1]) for place in range(len(text))]
    assert segments_of(list(text.encode()), SINGLE, PLAIN).tolist() == by_hand


def test_special_tokens_take_the_segment_before_them() -> None:
    vocab = [b"<|s|>", b"One.", b" Two.", b"<|e|>"]
    special = np.array([True, False, False, True])
    numbers = segments_of([0, 1, 3, 2, 3, 3], vocab, special)
    assert numbers.tolist() == [0, 0, 0, 1, 1, 1]
    assert segments_of([0, 3], vocab, special).tolist() == [0, 0]


def test_pieces_of_one_character_stay_together() -> None:
    snow = "雪".encode()
    vocab = [b"A. ", snow[:1], snow[1:2], snow[2:], b" B.", b"A." + b" " + snow[:1]]
    plain = np.zeros(len(vocab), dtype=bool)
    assert segments_of([0, 1, 2, 3, 4], vocab, plain).tolist() == [0, 1, 1, 1, 1]
    # The first byte of the character stands in a token of the sentence before.
    assert segments_of([5, 2, 3], vocab, plain).tolist() == [0, 0, 0]


def test_a_token_over_a_border_stands_in_the_segment_where_it_starts() -> None:
    vocab = [b"One", b". T", b"wo."]
    assert segments_of([0, 1, 2], vocab, np.zeros(3, dtype=bool)).tolist() == [0, 0, 1]


def test_numbers_are_contiguous_where_a_token_swallows_a_segment() -> None:
    vocab = [b"One. Two. Thr", b"ee. Four."]
    numbers = segments_of([0, 1], vocab, np.zeros(2, dtype=bool))
    assert numbers.tolist() == [0, 1]


def test_tokens_that_spell_nothing_are_numbered() -> None:
    vocab = [b"", b"One. Two."]
    assert segments_of([0, 1, 0], vocab, np.zeros(2, dtype=bool)).tolist() == [0, 0, 1]
    assert segments_of([], vocab, np.zeros(2, dtype=bool)).tolist() == []


@given(st.lists(st.integers(0, 255)), st.sampled_from(["punkt", "newline", "block:4"]))
def test_any_bytes_give_contiguous_numbers_that_do_not_fall(data, segmenter) -> None:
    numbers = segments_of(data, SINGLE, PLAIN, segmenter=segmenter)
    assert numbers.dtype == np.uint32
    assert len(numbers) == len(data)
    if data:
        assert numbers[0] == 0
        assert set(np.diff(numbers.astype(int))) <= {0, 1}


@given(st.text(alphabet='aB1. !?\n"é中', max_size=60))
def test_every_segment_but_a_blank_text_holds_something_to_read(text) -> None:
    parts = sentences(text) if text else []
    if text.strip():
        assert all(part.strip() for part in parts)
    assert "".join(parts) == text


@given(st.text(alphabet='aB1. !?\n"é中', max_size=60))
def test_the_numbers_do_not_depend_on_how_the_text_is_cut(tiny_tokenizer, text) -> None:
    vocab = token_bytes(tiny_tokenizer)
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    numbers = segments_of(ids, vocab, np.zeros(len(vocab), dtype=bool))
    starts = np.cumsum([0, *(len(vocab[i]) for i in ids)])[:-1]
    ends = segment_ends(text.encode())
    whole = np.array([0, *np.cumsum([len(c.encode()) for c in text])])
    start = whole[np.searchsorted(whole, starts, side="right") - 1]  # start of the character
    unshared = np.isin(starts, whole)
    expected = np.searchsorted(ends, start, side="right")
    assert (np.diff(numbers[unshared].astype(int)) <= np.diff(expected[unshared])).all()
    assert (numbers[unshared] <= expected[unshared]).all()


def test_many_responses_are_segmented_as_one_by_one() -> None:
    texts = [b"One. Two.", b"", "é. Ü!\nx".encode(), b"\xff\xfe. a"]
    responses = [list(text) for text in texts]
    many = segment_responses(responses, SINGLE, PLAIN)
    for response, numbers in zip(responses, many, strict=True):
        assert numbers.tolist() == segments_of(response, SINGLE, PLAIN).tolist()


def test_specifications_are_json_and_unknown_names_are_refused() -> None:
    for name in ("punkt", "newline", "block:16"):
        spec = segmenter_spec(name)
        assert spec["name"] == name
        assert json.loads(json.dumps(spec)) == spec
    assert segmenter_spec("block:16") != segmenter_spec("block:8")
    for name in ("sentence", "block:0", "block:", "block:-1"):
        with pytest.raises(ValueError, match="expected punkt, newline or block:N"):
            segmenter_spec(name)
        with pytest.raises(ValueError, match="expected punkt, newline or block:N"):
            segments_of([1], SINGLE, PLAIN, segmenter=name)


def test_importing_the_segmenters_does_not_import_nltk() -> None:
    code = "import sys, opd_diag.text.segments; print('nltk' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


@pytest.mark.parametrize("segmenter", ["punkt", "newline", "block:3"])
@pytest.mark.parametrize("spans", [1, 2, 20])
def test_a_span_is_cut_as_if_it_stood_alone(segmenter, spans):
    rng = np.random.default_rng(spans)
    texts = [b"One. Two words\nand", b" three. So", b"77", b"Yes.\n\nNo. Well"]
    pieces, mask = [], []
    for turn in range(2 * spans - 1):
        ids = list(texts[rng.integers(len(texts))])
        pieces.append(ids)
        mask += [turn % 2 == 0] * len(ids)
    whole = [token for piece in pieces for token in piece]
    got, plain = segment_responses(
        [whole, whole], SINGLE, PLAIN, segmenter=segmenter, inside=[np.array(mask), None]
    )
    expected, count = [], 0
    for piece in pieces:
        own = segments_of(piece, SINGLE, PLAIN, segmenter=segmenter)
        expected += (own + count).tolist()
        count += int(own[-1]) + 1
    assert got.tolist() == expected
    assert plain.tolist() == segments_of(whole, SINGLE, PLAIN, segmenter=segmenter).tolist()


def test_a_single_token_left_out_of_the_loss_ends_no_span():
    ids = list(b"One two. Three four. Five")
    mask = np.ones(len(ids), bool)
    mask[[4, 14]] = False
    (got,) = segment_responses([ids], SINGLE, PLAIN, inside=[mask])
    assert got.tolist() == segments_of(ids, SINGLE, PLAIN).tolist()
    mask[5] = False
    (cut,) = segment_responses([ids], SINGLE, PLAIN, inside=[mask])
    assert cut[3] < cut[4] < cut[6]
