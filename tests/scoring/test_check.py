"""The preflight: what it finds, and that its diagnoses are the right ones."""

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opd_diag.scoring.preflight.check import check
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
    return {f.what: f for f in check(rollouts, teacher=teacher, student=student, **options)}


def test_a_sound_job_is_green(sampled, teacher, student, tmp_path):
    found = check(sampled(), teacher=teacher, student=student, out=tmp_path / "run")
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


def test_rollouts_without_log_probs_pass(rollouts, teacher, student):
    found = findings(rollouts, teacher, student)
    assert found["generator's log-probs"].detail.startswith("too few tokens")
    assert found["empty responses"].level == "yellow"


def test_ids_outside_the_vocabulary_are_red_and_the_last(make_rollouts, teacher, student, ids):
    found = check(make_rollouts([[5]], [[6, ids]]), teacher=teacher, student=student)
    assert found[-1].level == "red"
    assert f"made.jsonl:1: response_token_ids holds {ids}" in found[-1].detail


def test_a_folder_without_weights_is_red(rollouts, teacher, tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path)
    found = check(rollouts, teacher=teacher, student=str(tmp_path))
    assert found[-1].level == "red"
    assert "no weights in this folder" in found[-1].detail


def test_log_probs_of_the_check_are_those_of_the_model(sampled, student, ids):
    row = sampled().table.row(0, named=True)
    logits = own_logits(student, row["prompt_token_ids"], row["response_token_ids"], ids)
    logp = torch.tensor(logits).log_softmax(1).numpy()
    own = logp[np.arange(60), row["response_token_ids"]]
    np.testing.assert_allclose(row["sampled_logp"], own, rtol=1e-4, atol=1e-4)
