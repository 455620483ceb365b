"""The token table of a tiny pair against brute force from both models' own float64 logits."""

import numpy as np
import polars as pl
import pytest
from transformers import AutoModelForCausalLM

from opd_diag.scoring.score import score
from opd_diag.tables.columns.tokens import token_columns
from opd_diag.tables.run import Run
from tests.scoring.reference import (
    brute_repeat,
    gradients,
    own_hidden,
    own_logits,
    row_columns,
)

IDS_AND_RANKS = [c.name for c in token_columns() if c.dtype in (pl.Int32, pl.UInt32)]


@pytest.fixture(scope="module")
def run(rollouts, teacher, student, tmp_path_factory) -> Run:
    out = tmp_path_factory.mktemp("columns") / "run"
    return score(rollouts, teacher=teacher, students={"s": student}, out=out, part_tokens=60)


@pytest.fixture(scope="module")
def expected(rollouts, teacher, student, ids) -> tuple[pl.DataFrame, np.ndarray]:
    """Every column by brute force, and the gradient in the hidden state of every row."""
    head = AutoModelForCausalLM.from_pretrained(student).lm_head.weight[:ids].detach().numpy()
    rows, vectors = [], []
    for rollout in rollouts.table.iter_rows(named=True):
        response = rollout["response_token_ids"]
        if not response:
            continue
        prompt = rollout["prompt_token_ids"]
        x = own_logits(student, prompt, response, ids)
        y = own_logits(teacher, rollout["teacher_prompt_token_ids"] or prompt, response, ids)
        hidden = own_hidden(student, prompt, response)
        repeat = brute_repeat(response)
        for t, token in enumerate(response):
            norms, vector = gradients(hidden[t], head, y[t])
            vectors.append(vector)
            rows.append(
                {
                    "rollout": rollout["rollout"],
                    "position": t,
                    "token_id": token,
                    "in_loss": rollout["loss_mask"][t] if rollout["loss_mask"] else True,
                    "repeat": repeat[t],
                    "half": rollout["half"],
                    **row_columns(x[t], y[t], token),
                    **norms,
                }
            )
    return pl.DataFrame(rows), np.array(vectors)


def test_every_column_agrees_with_brute_force(run, expected):
    got, (want, _) = run.tokens("s").collect(), expected
    bounds = [name for name in got.columns if name.endswith(("_low", "_high"))]
    assert all(got[name].null_count() == got.height for name in bounds)  # the teacher is exact
    others = ("checkpoint", "segment", *bounds)
    checked = [c.name for c in token_columns() if c.name not in others]
    for name in checked:
        ours, theirs = np.array(got[name].to_list()), np.array(want[name].to_list())
        if name in (*IDS_AND_RANKS, "in_loss", "repeat"):
            assert (ours == theirs).all(), name
        else:
            # A logit of 10 has a spacing of 1e-6 in float32.
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6, err_msg=name)


def test_segments_start_at_zero_and_never_skip(run):
    steps = run.tokens("s").select(
        first=pl.col("segment").first().over("rollout"),
        step=pl.col("segment").cast(pl.Int64).diff().over("rollout"),
    )
    steps = steps.collect()
    assert (steps["first"] == 0).all()
    assert steps["step"].drop_nulls().is_in([0, 1]).all()


def test_gradient_sums_are_the_sums_of_the_gradients(run, expected):
    want, vectors = expected
    sums = run.gradients("s")
    counted = want["in_loss"].to_numpy()
    keys = 2 * want["token_id"].to_numpy() + want["half"].to_numpy()
    assert sums.n.sum() == counted.sum()
    assert (np.unique(keys[counted]) == 2 * sums.token_id.astype(np.int64) + sums.half).all()
    for token_id, half, n, S, Q in zip(*sums, strict=True):
        rows = vectors[counted & (keys == 2 * int(token_id) + int(half))]
        assert n == len(rows)
        np.testing.assert_allclose(S, rows.sum(0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(Q, (rows**2).sum(), rtol=1e-3, atol=1e-6)


def test_parts_hold_whole_rollouts_in_order(run, rollouts):
    got = run.tokens("s").collect()
    assert len(run.manifest.parts) > 1
    assert got.select("rollout", "position").equals(
        got.select("rollout", "position").sort(pl.all())
    )
    responses = rollouts.table["response_token_ids"].to_list()
    assert got["token_id"].to_list() == [token for response in responses for token in response]


def test_a_student_that_is_its_teacher_has_no_divergence(rollouts, teacher, folder):
    table = rollouts.table.with_columns(teacher_prompt_token_ids=pl.lit(None, pl.List(pl.Int32)))
    same = type(rollouts)(table)
    got = score(same, teacher=teacher, students={"same": teacher}, out=folder).tokens().collect()
    for name in ("reverse_kl", "forward_kl", "js", "union_kl", "advantage_var", "grad_logits"):
        assert got[name].max() < 1e-6, name
    assert (got["overlap"].arr.min() == 1).all()
    assert (got["student_rank"] == got["teacher_rank"]).all()


@pytest.mark.parametrize("temperature", [0.7, 1.6])
def test_temperature_divides_the_logits_of_both(
    rollouts, teacher, student, ids, folder, temperature
):
    got = score(
        rollouts, teacher=teacher, students=student, out=folder, temperature=temperature, limit=1
    ).tokens()
    got = got.collect()
    head = AutoModelForCausalLM.from_pretrained(student).lm_head.weight[:ids].detach().numpy()
    prompt, response = rollouts.table.row(0, named=True)["prompt_token_ids"], got["token_id"]
    x, y = (own_logits(model, prompt, response, ids) for model in (student, teacher))
    hidden = own_hidden(student, prompt, response)
    for t in range(0, len(response), 9):
        row = got.row(t, named=True)
        norms, _ = gradients(hidden[t], head, y[t], temperature=temperature)
        want = row_columns(x[t] / temperature, y[t] / temperature, response[t]) | norms
        for name in ("student_logp", "reverse_kl", "js", "grad_logits", "grad_hidden", "grad_head"):
            assert row[name] == pytest.approx(want[name], rel=2e-4, abs=2e-7), name
        assert row["margin"] == pytest.approx(want["margin"], rel=2e-4, abs=1e-5)


def test_the_grid_of_k_and_the_cut_responses_are_recorded(rollouts, teacher, student, folder, ids):
    run = score(
        rollouts,
        teacher=teacher,
        students=student,
        out=folder,
        k_grid=(3, 10, 10_000),
        max_response_tokens=5,
    )
    got = run.tokens().collect()
    assert run.k_grid == (3, 10)
    assert got["margin"].dtype == pl.Array(pl.Float32, 2)
    assert got["position"].max() == 4
    assert run.manifest.fingerprint["max_response_tokens"] == 5
    assert run.rollouts["response_token_ids"].list.len().max() == 40
