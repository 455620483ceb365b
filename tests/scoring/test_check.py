"""The preflight: what it finds, and that its diagnoses are the right ones."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opd_diag.errors import RolloutError
from opd_diag.rollouts import read_rollouts
from opd_diag.scoring.preflight.check import check
from opd_diag.scoring.score import score
from opd_diag.tables.rollouts import Rollouts
from tests.scoring.reference import own_logits


@pytest.fixture(scope="module")
def sampled(make_rollouts, student, ids):
    """Rollouts sampled by the student, with its own log-probs, as a function of temperature."""
    model = AutoModelForCausalLM.from_pretrained(student).eval()

    def sample(temperature: float = 1.0, seed: int = 0) -> Rollouts:
        generator = torch.Generator().manual_seed(seed)
        prompts = torch.randint(3, ids, (8, 5), generator=generator)
        sequence, logps = prompts, []
        with torch.inference_mode():
            for _ in range(60):
                logits = model(sequence).logits[:, -1, :ids] / temperature
                token = torch.multinomial(logits.softmax(1), 1, generator=generator)
                logps.append(logits.log_softmax(1).gather(1, token))
                sequence = torch.cat((sequence, token), 1)
        return make_rollouts(
            prompts.tolist(), sequence[:, 5:].tolist(), sampled_logp=torch.cat(logps, 1).tolist()
        )

    return sample


def findings(rollouts, teacher, student, **options):
    return {f.what: f for f in check(rollouts, teacher=teacher, students=student, **options)}


def test_a_sound_job_is_green(sampled, teacher, student, tmp_path):
    found = check(sampled(), teacher=teacher, students=student, out=tmp_path / "run")
    assert {finding.level for finding in found} == {"green"}
    details = {finding.what: finding.detail for finding in found}
    assert details["generator's log-probs"].startswith("aligned")
    assert "480 response tokens" in details["rollouts"]
    assert "float32 (saved as float32)" in details["teacher"]
    assert str(tmp_path) in details["disk"]
    assert not (tmp_path / "run").exists()


def test_the_saved_dtype_is_told_beside_the_loaded_one(sampled, teacher, student, tmp_path):
    AutoModelForCausalLM.from_pretrained(student, dtype=torch.bfloat16).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(student).save_pretrained(tmp_path)
    found = findings(sampled(), teacher, str(tmp_path))
    assert "float32 (saved as bfloat16)" in found["student"].detail


def test_log_probs_of_the_token_before_are_called_shifted(sampled, teacher, student):
    rollouts = sampled()
    for shift in (1, -1):
        moved = pl.col("sampled_logp").list.shift(shift)
        table = rollouts.table.with_columns(moved.list.eval(pl.element().fill_null(-1.0)))
        found = findings(Rollouts(table), teacher, student)["generator's log-probs"]
        assert found.level == "red"
        assert found.detail.startswith("shifted by one"), found.detail


@pytest.mark.parametrize("temperature", [0.6, 1.5])
def test_another_temperature_is_named(sampled, teacher, student, temperature):
    found = findings(sampled(temperature), teacher, student)["generator's log-probs"]
    assert found.level == "yellow"
    assert found.detail.startswith("other temperature"), found.detail
    assert found.detail.endswith(f"temperature {temperature:g}")
    agrees = findings(sampled(temperature), teacher, student, temperature=temperature)
    assert agrees["generator's log-probs"].detail.startswith("aligned")


def test_another_checkpoint_is_called_so(sampled, teacher, later):
    found = findings(sampled(), teacher, later)["generator's log-probs"]
    assert found.level == "yellow"
    assert found.detail.startswith("other checkpoint"), found.detail


def test_rollouts_without_log_probs_are_not_green(rollouts, teacher, student):
    found = findings(rollouts, teacher, student)
    assert found["generator's log-probs"].level == "yellow"
    assert found["generator's log-probs"].detail.startswith(
        "too few tokens: no token in the loss has a log-prob"
    )
    assert found["empty responses"].level == "yellow"


def test_ids_outside_the_vocabulary_are_red_and_the_last(make_rollouts, teacher, student, ids):
    found = check(make_rollouts([[5]], [[6, ids]]), teacher=teacher, students=student)
    assert found[-1].level == "red"
    assert f"made.jsonl:1: response_token_ids holds {ids}" in found[-1].detail


def test_a_folder_without_weights_is_red(rollouts, teacher, tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path)
    found = check(rollouts, teacher=teacher, students=str(tmp_path))
    assert found[-1].level == "red"
    assert "no weights in this folder" in found[-1].detail


def test_log_probs_of_the_check_are_those_of_the_model(sampled, student, ids):
    row = sampled().table.row(0, named=True)
    logits = own_logits(student, row["prompt_token_ids"], row["response_token_ids"], ids)
    logp = torch.tensor(logits).log_softmax(1).numpy()
    own = logp[np.arange(60), row["response_token_ids"]]
    np.testing.assert_allclose(row["sampled_logp"], own, rtol=1e-4, atol=1e-4)


def test_every_student_is_looked_at_under_its_name(sampled, teacher, student, later):
    found = findings(sampled(), teacher, {"first": student, "last": later})
    assert {found[f"student ({name})"].level for name in ("first", "last")} == {"green"}
    assert found["generator's log-probs (first)"].detail.startswith("aligned")
    assert found["generator's log-probs (last)"].detail.startswith("other checkpoint")
    assert found["time"].detail.endswith("for 2 students")
    assert [what for what in found if what == "disk"] == ["disk"]
    alone = findings(sampled(), teacher, student)
    assert "generator's log-probs" in alone
    assert "students" not in alone["time"].detail


def test_one_wrong_student_among_several_is_named(sampled, teacher, student, tmp_path):
    found = check(sampled(), teacher=teacher, students={"a": student, "b": str(tmp_path)})
    red = [finding for finding in found if finding.level == "red"]
    assert [finding.what for finding in red] == ["tokenizer (b)"]


def test_a_student_without_a_tokenizer_takes_the_one_named(
    sampled, teacher, student, tmp_path, tiny_tokenizer
):
    AutoModelForCausalLM.from_pretrained(student).save_pretrained(tmp_path / "bare")
    bare = str(tmp_path / "bare")
    assert findings(sampled(), teacher, bare)["tokenizer"].level == "red"
    found = check(sampled(), teacher=teacher, students=bare, tokenizer=student)
    assert "red" not in {finding.level for finding in found}


def read_text(prompt: str, tokenizer, tmp_path, **options):
    path = tmp_path / "dump.jsonl"
    path.write_text(json.dumps({"prompt": prompt, "response": "The answer is 7."}) + "\n")
    return read_rollouts(path, tokenizer=tokenizer, **options)


def test_prompts_without_their_chat_markers_are_red(tiny_tokenizer, teacher, student, tmp_path):
    lost = read_text("user\nAdd 3 and 4.", tiny_tokenizer, tmp_path)
    found = findings(lost, teacher, student)
    assert found["prompts"].level == "red"
    assert "the chat markers are missing from the prompt: 1 of 1" in found["prompts"].detail
    raw = read_text("user\nAdd 3 and 4.", tiny_tokenizer, tmp_path, template="raw")
    assert findings(raw, teacher, student)["prompts"].level == "yellow"
    kept = read_text("user\nAdd 3 and 4.\nassistant\n", tiny_tokenizer, tmp_path)
    assert "prompts" not in findings(kept, teacher, student)


def test_a_dump_without_a_token_in_the_loss_is_red_and_not_scored(
    make_rollouts, teacher, student, tmp_path
):
    """Also where the limit of tokens leaves none that is in the loss."""
    options = {"teacher": teacher, "students": student}
    made = make_rollouts([[5]] * 2, [[6, 7, 8]] * 2, loss_mask=[[False] * 3] * 2)
    found = check(made, **options)
    assert [one.what for one in found if one.level == "red"] == ["loss"]
    assert next(one for one in found if one.what == "loss").detail.startswith("0 of 6 tokens")
    late = make_rollouts([[5]] * 2, [[6, 7, 8]] * 2, loss_mask=[[False, False, True]] * 2)
    for rollouts, most, tokens in ((made, None, 6), (late, 2, 4)):
        with pytest.raises(RolloutError) as caught:
            score(rollouts, **options, out=tmp_path / "run", max_response_tokens=most)
        assert f"rollouts: none of {tokens} response tokens is in the loss" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_the_teacher_reads_and_what_counts_is_told(make_rollouts, teacher, student):
    made = make_rollouts([[5]] * 2, [[6, 7, 8]] * 2)
    table = made.table.with_columns(
        teacher_prompt_token_ids=pl.Series([[5, 9], None], dtype=pl.List(pl.Int32)),
        loss_mask=pl.Series([[True, False, True], None]),
    )
    report = {"prompt_ids": {"merged": 2, "shared": 1}, "left_out": {"config.json": "no dump"}}
    report |= {"repeated": {"rollouts": 2, "first": ["b:1", "a:1"]}, "cut_files": ["c.jsonl"]}
    found = findings(Rollouts(table, report), teacher, student)
    assert found["teacher's prompts"].detail.endswith("in 1 of 2 rollouts")
    assert found["loss"].detail == "5 of 6 tokens are in the loss"
    assert found["loss"].level == "green"
    assert found["repeated rollouts"].level == found["cut file"].level == "yellow"
    assert found["prompt ids"].level == "yellow"
    assert found["files left out"].detail == "config.json (no dump)"
