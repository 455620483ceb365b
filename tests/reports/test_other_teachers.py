"""The page of runs that know less: a teacher that ran elsewhere, one prompt, no outcome."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import log_softmax

import opd_diag as od
from opd_diag.tables.run import Run
from tests.scoring.reference import own_hidden, own_logits

GRID = (2, 4)
TOP = 4


def made(make_rollouts, ids, *, prompts=6, correct=True):
    """Twelve rollouts of a few prompts, half of them right."""
    rng = np.random.default_rng(4)
    responses = [rng.integers(3, ids, length).tolist() for length in rng.integers(20, 40, 12)]
    which = [number % prompts for number in range(12)]
    return make_rollouts(
        [[3, 4 + prompt] for prompt in which],
        responses,
        prompt_id=[f"p{prompt}" for prompt in which],
        correct=[number < 6 if correct else None for number in range(12)],
    )


def sources(rollouts, teacher, ids, folder: Path, source: str):
    """The rollouts and the options of `score` for a source of the teacher."""
    if source == "weights":
        return rollouts, {}
    rows, logprobs = [], []
    for row in rollouts.table.iter_rows(named=True):
        prompt, response = row["prompt_token_ids"], row["response_token_ids"]
        if source == "hidden states":
            states = torch.tensor(own_hidden(teacher, prompt, response), dtype=torch.float32)
            # The state before the first token of the prompt is not needed, nor is the last.
            whole = torch.cat([torch.zeros(len(prompt) - 1, states.shape[1]), states])
            values = {"token_ids": torch.tensor(prompt + response)[:-1], "hidden_states": whole}
            folder.mkdir(exist_ok=True)
            save_file(values, folder / f"{row['rollout']}.safetensors")
            continue
        scores = log_softmax(own_logits(teacher, prompt, response, ids), axis=1)
        own = [float(at[token]) for at, token in zip(scores, response, strict=True)]
        best = np.argsort(-scores, axis=1)[:, :TOP]
        logprobs.append(own)
        rows.append(
            {
                "id": row["rollout_id"],
                "logprobs": own,
                "top_ids": best.tolist(),
                "top_logprobs": np.take_along_axis(scores, best, 1).tolist(),
                "top_of": "teacher",
            }
        )
    if source == "hidden states":
        return rollouts, {"teacher_states": str(folder)}
    if source == "log-probs of the dump":
        column = pl.Series(logprobs, dtype=pl.List(pl.Float32))
        table = rollouts.table.with_columns(trainer_teacher_logp=column)
        return type(rollouts)(table, rollouts.report), {"teacher_logprobs": "dump"}
    path = folder.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rollouts, {"teacher_logprobs": str(path)}


def with_results(run: Run) -> Run:
    for name in ("score_summary", "loss_audit", "release_points", "agreement_traps"):
        run.save(getattr(od, name)(run))
    return run


@pytest.mark.parametrize(
    ("source", "floor"),
    [
        ("weights", "KL(student ‖ teacher)"),
        ("hidden states", "KL(student ‖ teacher)"),
        ("top-k file", "lower bound of KL(student ‖ teacher)"),
        ("log-probs of the dump", "student&#x27;s log-prob of the token"),
    ],
)
def test_the_page_of_every_source_of_the_teacher(
    make_rollouts, ids, teacher, student, later, tmp_path, source, floor
):
    rollouts, options = sources(made(make_rollouts, ids), teacher, ids, tmp_path / "known", source)
    run = od.score(
        rollouts, teacher=teacher, students={"a": student, "b": later}, out=tmp_path / "run",
        k_grid=GRID, **options,
    )  # fmt: skip
    text = od.report(with_results(run), run, rollouts=4).path.read_text()
    assert f"<dt>Noise floor, b</dt><dd>{floor} " in text
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert len(data["rollouts"]) == 4
    known = run.tokens("b").collect()
    colours = [one["name"] for one in data["colours"]]
    assert "advantage" in colours
    for name in ("reverse_kl", "forward_kl", "teacher_entropy", "grad_logits"):
        assert (name in colours) == bool(known[name].count())
    assert ('<option value="kl">' in text) == ("reverse_kl" in colours)
    measure = "KL" if "reverse_kl" in colours else "k1"
    column = pl.col("reverse_kl" if measure == "KL" else "k1")
    means = (
        known.filter("in_loss").with_columns(k1=pl.col("student_logp") - pl.col("teacher_logp"))
        .group_by("rollout").agg(column.mean()).sort(column)
    )  # fmt: skip
    first = data["rollouts"][0]
    assert f"highest {measure}" in first["reasons"]
    assert first["row"] == means["rollout"][-1]


@pytest.mark.parametrize("prompts", [1, 6])
def test_the_page_of_one_checkpoint_without_outcomes(
    make_rollouts, ids, teacher, student, tmp_path, prompts
):
    rollouts = made(make_rollouts, ids, prompts=prompts, correct=False)
    run = od.score(
        rollouts, teacher=teacher, students={"a": student}, out=tmp_path / "run", k_grid=GRID,
        noise_floor="off",
    )  # fmt: skip
    text = od.report(with_results(run), rollouts=12).path.read_text()
    assert "Noise floor" not in text
    assert "highest KL" in text
    assert "correct with high KL" not in text
