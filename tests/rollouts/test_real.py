"""Files that TRL, the LM evaluation harness and verl wrote; the scripts in `real` made them."""

import json
from pathlib import Path

import pytest

from opd_diag.rollouts import read_rollouts
from opd_diag.text.tokenizers import encode_prompt, load_tokenizer

REAL = Path(__file__).parent / "real"
SAMPLE = Path(__file__).parents[2] / "sample_data"
PROMPTS = ["Add 3 and 4.", "Is 12 even?"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(REAL / "tokenizer"))


def decoded(table, tokenizer) -> list[str]:
    return [tokenizer.decode(ids) for ids in table["response_token_ids"]]


@pytest.mark.parametrize("kind", ["trl_text", "trl_chat"])
def test_trl_completions_hold_the_text_but_not_every_token(kind, tokenizer) -> None:
    read = read_rollouts(REAL / kind, tokenizer=tokenizer)
    generated = json.loads((REAL / "expected.json").read_text())[kind]
    assert read.report["format"] == "trl"
    assert read.table["step"].to_list() == [1] * 4 + [2] * 4
    texts = [
        row["completion"] if kind == "trl_text" else row["completion"][0]["content"]
        for row in generated
    ]
    assert decoded(read.table, tokenizer) == texts
    lengths = [len(row["completion_ids"]) for row in generated]
    assert read.table["reward"].to_list() == pytest.approx([n / 12 for n in lengths])
    for row, ids in zip(generated, read.table["prompt_token_ids"], strict=True):
        template = "raw" if kind == "trl_text" else "chat"
        assert ids.to_list() == encode_prompt(tokenizer, row["prompt"], template=template)

    # Six of eight come back exactly. One has lost its end token; one a special token, and two
    # tokens of it are read as the one token that is spelled alike.
    ids = [row["completion_ids"] for row in generated]
    again = read.table["response_token_ids"].to_list()
    assert sum(a == b for a, b in zip(ids, again, strict=True)) == 6
    ended = next(n for n, row in enumerate(ids) if row[-1] == tokenizer.eos_token_id)
    assert ids[ended] == [*again[ended], tokenizer.eos_token_id]
    assert read.report["retokenised"]["round_trip_failed"] == 0


def test_prompts_of_trls_distillation_get_their_special_tokens_back() -> None:
    """TRL logs them decoded without, where `real/make_distillation.py` let it train the sample."""
    student = load_tokenizer(str(SAMPLE / "students" / "step0"))
    read = read_rollouts(REAL / "trl_distillation", tokenizer=student)
    generated = json.loads((REAL / "expected_distillation.json").read_text())
    assert read.report["format"] == "trl"
    assert read.table.height == len(generated) == 12
    assert read.table["prompt_token_ids"].to_list() == [row["prompt_ids"] for row in generated]
    counts = read.report["retokenised"]
    assert (counts["prompts"], counts["prompts_restored"], counts["prompts_without_markers"]) == (
        *(len({str(row["prompt_ids"]) for row in generated}),) * 2,
        0,
    )
    # The responses were cut before their end tokens; one holds half a character.
    again = read.table["response_token_ids"].to_list()
    exact = sum(a == row["completion_ids"] for a, row in zip(again, generated, strict=True))
    assert exact == 11
    assert counts["broken_characters"] == 1
    raw = read_rollouts(REAL / "trl_distillation", tokenizer=student, template="raw")
    assert not any(
        a == row["prompt_ids"]
        for a, row in zip(raw.table["prompt_token_ids"].to_list(), generated, strict=True)
    )


def test_lm_eval_samples_are_read_once_over_two_filters(tokenizer) -> None:
    path = REAL / "lm_eval" / "samples_tiny_add.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["filter"] for row in rows] == ["whole", "whole", "number", "number"]
    read = read_rollouts(path, tokenizer=tokenizer)
    assert read.report["format"] == "lm-eval"
    assert read.report["skipped"] == {"the same document under another filter": 2}
    assert decoded(read.table, tokenizer) == [row["resps"][0][0] for row in rows[:2]]
    assert read.table["correct"].to_list() == [False, False]
    prompts = [encode_prompt(tokenizer, prompt, template="raw") for prompt in PROMPTS]
    assert read.table["prompt_token_ids"].to_list() == prompts


def test_verl_prompts_are_restored_with_their_special_tokens(tokenizer) -> None:
    read = read_rollouts(REAL / "verl", tokenizer=tokenizer)
    assert read.report["format"] == "verl"
    chats = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    assert read.table["prompt_token_ids"].to_list() == chats
    assert read.report["retokenised"]["prompts_restored"] == 2
    assert decoded(read.table, tokenizer) == ["The answer is 7.", "Yes"]
    assert read.table["step"].to_list() == [5, 5]
    assert read.table["reward"].to_list() == [1.0, 0.0]
    assert read.table["correct"].to_list() == [True, False]
