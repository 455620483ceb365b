"""What the commands say of a dump before they score it."""

import json

import pytest
from typer.testing import CliRunner

from opd_diag.cli import app
from opd_diag.cli.read_dump import counts, notes


def invoke(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("text", ["response", "=x", "response=", "a=b"])
def test_a_mapping_of_another_form_is_bad_usage(text, tmp_path) -> None:
    dump = tmp_path / "a.jsonl"
    dump.write_text("{}")
    words = ["check", dump, "--teacher", tmp_path, "--student", tmp_path, "--map", text]
    result = invoke(*words, *(["--map", "a=c"] if text == "a=b" else []))
    assert result.exit_code == 2
    assert "KEY=THEIRS" in result.stderr


def test_a_wrong_student_is_told_as_such_and_not_as_faults_of_the_dump(
    train_bpe, tiny_tokenizer, tmp_path
) -> None:
    small = train_bpe(["aaa bbb"], size=260)
    small.save_pretrained(tmp_path / "student")
    tiny_tokenizer.save_pretrained(tmp_path / "teacher")
    dump = tmp_path / "a.jsonl"
    row = {"prompt_token_ids": [310], "response_token_ids": [311]}
    dump.write_text("".join(json.dumps(row) + "\n" for _ in range(48)))
    words = ("check", dump, "--teacher", tmp_path / "teacher", "--student")
    result = invoke(*words, tmp_path / "student")
    assert result.exit_code == 1
    assert "teacher and student: their tokenizers differ in" in result.stderr
    # With two wrong tokenizers it is one line about the dump.
    small.save_pretrained(tmp_path / "teacher")
    result = invoke(*words, tmp_path / "student")
    assert result.stderr.count("\n") == 1
    assert "48 of 48 hold token ids outside the vocabulary, up to 311" in result.stderr


def test_notes_tell_what_changes_the_results_and_nothing_of_a_plain_dump() -> None:
    plain = {
        "rollouts": 4,
        "response_tokens": 9,
        "loss_tokens": 9,
        "prompt_ids": {"merged": 0, "shared": 0},
        "teacher_prompts": 0,
        "retokenised": {"prompts": 4, "prompts_without_markers": 0},
    }
    assert notes(plain) == []
    assert notes({"source": "generated"}) == []
    told = notes(
        plain
        | {
            "loss_tokens": 7,
            "teacher_prompts": 3,
            "prompt_ids": {"merged": 2, "shared": 1},
            "retokenised": {"prompts": 4, "prompts_without_markers": 1},
        }
    )
    assert told == [
        "warning: the chat markers are missing from 1 of 4 prompts, which are read as they stand",
        "prompt ids that stand for the tokens of an earlier one: 2; each prompt counts once",
        "prompt ids that stand for several prompts: 1",
        "the teacher reads another prompt than the student in 3 of 4 rollouts",
        "7 of 9 response tokens are in the loss",
    ]


def test_counts_leave_out_what_is_nothing_and_cut_what_is_long() -> None:
    assert counts({"a_b": 2, "c": 0}) == "a b (2)"
    assert counts(3) == "3"
    many = counts({f"file{n}": "empty" for n in range(20)})
    assert many.endswith("file4 (empty) and 15 more")
