"""A teacher of whom log-probs alone are known: what is exact, bounded and null."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import entr, log_softmax, rel_entr

import opd_diag as od
from opd_diag.errors import ModelMismatchError, OptionError, RolloutError
from opd_diag.scoring.columns.known_teacher import bounds
from opd_diag.scoring.preflight.check import check
from opd_diag.scoring.score import score
from opd_diag.tables.info import info
from opd_diag.tables.teacher_sources import source_line
from tests.scoring.reference import own_logits

K = 16
GRID = (2, 4, 16)
ALWAYS_EXACT = ["student_logp", "student_rank", "student_entropy", "student_top_id", "teacher_logp"]


@pytest.fixture(scope="module")
def logits(rollouts, teacher, student, ids):
    """Float64 logits of both models by rollout, by transformers alone."""
    read = {}
    for row in rollouts.table.iter_rows(named=True):
        if response := row["response_token_ids"]:
            prompt = row["teacher_prompt_token_ids"] or row["prompt_token_ids"]
            read[row["rollout_id"]] = (
                own_logits(student, row["prompt_token_ids"], response, ids),
                own_logits(teacher, prompt, response, ids),
                response,
            )
    return read


def rows_of(logits, kind):
    """What a server answers of each rollout, in the form of `kind`."""
    for name, (x, y, response) in logits.items():
        lq = log_softmax(y, axis=1)
        whose = x if kind in ("student", "sglang ids") else y
        top = np.argsort(-whose, axis=1)[:, :K]
        own = [float(row[token]) for row, token in zip(lq, response, strict=True)]
        pairs = [[(int(i), float(row[i])) for i in best] for row, best in zip(lq, top, strict=True)]
        if kind in ("student", "teacher"):
            yield {
                "id": name,
                "logprobs": own,
                "top_ids": [[i for i, _ in one] for one in pairs],
                "top_logprobs": [[v for _, v in one] for one in pairs],
                "top_of": kind,
            }
        elif kind == "sampled":
            yield {"id": name, "logprobs": own}
        elif kind == "vllm":  # with the prompt before it, the first entry null
            answer = [None, {"7": {"logprob": -1.0, "rank": 1, "decoded_token": "a"}}]
            for one, token, value, row in zip(pairs, response, own, lq, strict=True):
                told = dict(one) | {token: value}
                ranks = {i: 1 + int((row > v).sum()) for i, v in told.items()}
                answer.append({str(i): {"logprob": told[i], "rank": ranks[i]} for i in told})
            yield {"id": name, "prompt_logprobs": answer}
        else:
            key = "input_token_ids_logprobs" if kind == "sglang ids" else "input_top_logprobs"
            told = [[[v, t, None] for v, t in zip(own, response, strict=True)]]
            others = [[[v, i, None] for i, v in one] for one in pairs]
            yield {
                "id": name,
                "meta_info": {
                    "input_token_logprobs": [[None, 5, None], *told[0]],
                    key: [None, *others],
                },
            }


def write(path, logits, kind):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(logits, kind)))
    return str(path)


@pytest.fixture(scope="module")
def want(rollouts, teacher, student, tmp_path_factory):
    """The same columns from the weights."""
    out = tmp_path_factory.mktemp("weights") / "run"
    run = score(
        rollouts, teacher=teacher, students={"s": student}, out=out, k_grid=GRID, noise_floor="off"
    )
    return run.tokens("s").collect()


def scored(rollouts, teacher, student, out, **options):
    return score(
        rollouts, teacher=teacher, students={"s": student}, out=out, k_grid=GRID,
        noise_floor="off", **options,
    )  # fmt: skip


def same(got, want, name, rows=None):
    a, b = (np.array(frame[name].to_list(), float) for frame in (got, want))
    rows = slice(None) if rows is None else rows
    np.testing.assert_allclose(a[rows], b[rows], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["student", "sglang ids"])
def test_the_students_top_k_gives_margins_masses_and_bounds(
    rollouts, teacher, student, logits, want, tmp_path, kind
):
    path = write(tmp_path / "known.jsonl", logits, kind)
    run = scored(rollouts, teacher, student, tmp_path / "run", teacher_logprobs=path)
    got = run.tokens("s").collect()
    exact = ("margin", "teacher_mass", "student_mass", "reverse_kl_top", "advantage_var")
    for name in (*ALWAYS_EXACT, *exact):
        same(got, want, name)
    for name in ("reverse_kl", "forward_kl", "js", "teacher_entropy", "grad_logits"):
        assert got[name].null_count() == got.height, name
    assert (got["reverse_kl_low"] <= want["reverse_kl"] * (1 + 1e-5) + 1e-6).all()
    assert (got["forward_kl_low"] <= want["forward_kl"] * (1 + 1e-5) + 1e-6).all()
    assert (got["reverse_kl_low"] / want["reverse_kl"]).median() > 0.5
    assert got["reverse_kl_high"].null_count() == got.height
    told = got["teacher_top_id"].is_not_null()  # where no other id can have more
    assert told.any()
    assert (got["teacher_top_id"] == want["teacher_top_id"]).filter(told).all()
    assert run.gradients("s").n.sum() == 0
    assert info(run)["teacher"]["source"] == "log-probs"
    assert "nothing: types are ranked" in source_line(run.teacher_source, "rock_tokens")
    assert source_line("weights", "rock_tokens") is None
    reasons = od.findings(run)["reason"].to_list()
    assert all("known by log-probs alone" in reason for reason in reasons)
    audit = od.loss_audit(run).loss_audit
    assert audit.filter(estimator="k1")["mean"].is_not_null().all()
    assert audit["exact"].null_count() == audit.height


@pytest.mark.parametrize("kind", ["teacher", "vllm", "sglang"])
def test_the_teachers_top_k_gives_its_own_and_what_meets(
    rollouts, teacher, student, logits, want, tmp_path, kind
):
    path = write(tmp_path / "known.jsonl", logits, kind)
    floor = min(float(log_softmax(y, axis=1).min()) for _, y, _ in logits.values())
    run = scored(
        rollouts, teacher, student, tmp_path / "run", teacher_logprobs=path, teacher_floor=floor
    )
    got = run.tokens("s").collect()
    for name in ALWAYS_EXACT:
        same(got, want, name)
    for name in ("teacher_top_id", "teacher_top_logp", "teacher_rank"):
        told = got[name].is_not_null()
        assert told.all() or (name == "teacher_rank" and kind != "vllm" and told.any()), name
        same(got, want, name, told.to_numpy())
    for name in ("teacher_top_mass", "student_mass_teacher_top", "reverse_kl_teacher_top"):
        same(got, want, name)
    for name in ("overlap", "teacher_mass", "teacher_top_mass", "reverse_kl_teacher_top"):
        a, b = (np.array(frame[name].to_list(), float) for frame in (got, want))
        told = np.isfinite(a)
        assert told.any() or name == "teacher_mass", name  # where the ids meet
        np.testing.assert_allclose(a[told], b[told], rtol=1e-4, atol=1e-5, err_msg=name)
    kl = want["reverse_kl"]
    assert (got["reverse_kl_low"] <= kl * (1 + 1e-5) + 1e-6).all()
    assert (got["reverse_kl_high"] >= kl * (1 - 1e-5) - 1e-6).all()


def test_sampled_log_probs_alone_give_the_advantage(
    rollouts, teacher, student, logits, want, tmp_path
):
    lists = [
        [float(row[t]) for row, t in zip(log_softmax(logits[name][1], axis=1), tokens, strict=True)]
        if tokens
        else []
        for name, tokens in rollouts.table.select("rollout_id", "response_token_ids").iter_rows()
    ]
    table = rollouts.table.with_columns(
        trainer_teacher_logp=pl.Series(lists, dtype=pl.List(pl.Float32))
    )
    dump = type(rollouts)(table, rollouts.report)
    run = scored(dump, teacher, student, tmp_path / "dump", teacher_logprobs="dump")
    path = write(tmp_path / "sampled.jsonl", logits, "sampled")
    other = scored(rollouts, teacher, student, tmp_path / "file", teacher_logprobs=path)
    got = run.tokens("s").collect()
    for name in ALWAYS_EXACT:
        same(got, want, name)
    assert got["reverse_kl_low"].null_count() == got.height
    assert got.drop("teacher_logp").equals(other.tokens("s").collect().drop("teacher_logp"))
    assert run.manifest.checkpoints["s"].trainer_teacher is None  # not compared with itself
    found = check(dump, teacher=teacher, students={"s": student}, teacher_logprobs="dump")
    assert "red" not in [finding.level for finding in found]
    (line,) = [finding.detail for finding in found if finding.what == "teacher"]
    assert "sampled tokens" in line


def test_what_is_wrong_is_said(rollouts, teacher, student, logits, tmp_path):
    path = tmp_path / "known.jsonl"
    write(path, logits, "student")
    rows = [json.loads(line) for line in path.read_text().splitlines()]

    def refused(message, *rows, error=RolloutError, **options):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"teacher_logprobs": str(path)} | options
        with pytest.raises(error, match=message):
            scored(rollouts, teacher, student, tmp_path / "run", **options)

    first, *rest = rows
    refused("no log-probs of the teacher for 1 of 9 rollouts, first r0", *rest)
    refused("logprobs has 3 values; expected 40", first | {"logprobs": [-1.0] * 3}, *rest)
    refused("expected a finite number up to 0", first | {"logprobs": [0.5] * 40}, *rest)
    refused("line 1: no logprobs, top_ids and top_logprobs", {"id": "r0"}, *rest)
    for kept, lost in (("top_ids", "top_logprobs"), ("top_logprobs", "top_ids")):
        alone = {name: first[name] for name in ("id", kept)}
        for row in (alone, alone | {"logprobs": first["logprobs"]}, first | {lost: None}):
            refused(f"line 1: {kept} without {lost}; expected both or neither", row, *rest)
    wrong = {"id": "r0", "prompt_logprobs": [None] + [{"3": {"logprob": -1.0}}] * 40}
    refused("is not among its prompt_logprobs", wrong, *rest)
    meta = {"input_token_logprobs": [[-1.0, 3, None]] * 40}
    refused("is of token 3; expected", {"id": "r0", "meta_info": meta}, *rest)
    twice = [[3, 3]] * 40, [[-1.0, -1.0]] * 40
    refused("stands twice", {"id": "r0", "top_ids": twice[0], "top_logprobs": twice[1]}, *rest)
    refused("is no file", *rows, error=OptionError, teacher_logprobs="nowhere")
    refused("beside teacher_logprobs", *rows, error=OptionError, teacher_states=".")
    refused("expected a log-prob below 0", *rows, error=OptionError, teacher_floor=1.0)
    refused("no log-probs of the teacher for 8", *rows, teacher_logprobs="dump")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored(rollouts, teacher, student, tmp_path / "run", teacher_logprobs=str(path))
    refused("teacher_logprobs sha256", first | {"extra": 1}, *rest, error=ModelMismatchError)


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_bounds_hold_on_many_random_distributions(whose):
    """10^5 pairs, from equal to far apart, and K of 1 to 8 of 12 ids."""
    rng = np.random.default_rng(0)
    n, ids = 100_000, 12
    x = rng.standard_normal((n, ids)) * rng.gamma(2, 1.5, (n, 1))
    y = x + rng.standard_normal((n, ids)) * 10.0 ** rng.uniform(-3, 1, (n, 1))
    lp, lq = log_softmax(x, axis=1), log_softmax(y, axis=1)
    order = np.argsort(-(lp if whose == "student" else lq))
    k = rng.integers(1, 9, (n, 1))
    inside = np.arange(ids) < k
    p, q = (
        torch.tensor(np.where(inside, np.take_along_axis(one, order, 1), -np.inf))
        for one in (lp.astype(np.float32), lq.astype(np.float32))
    )
    entropy = torch.tensor(entr(np.exp(lp)).sum(1))
    exact = rel_entr(np.exp(lp), np.exp(lq)).sum(1)
    forward = rel_entr(np.exp(lq), np.exp(lp)).sum(1)
    floor = float(lq.min())
    low, high, forward_low = (one.numpy() for one in bounds(p, q, entropy, floor))
    assert (low <= exact * (1 + 1e-6) + 1e-6).all()
    assert (high >= exact * (1 - 1e-6) - 1e-5).all()
    assert (forward_low <= forward * (1 + 1e-6) + 1e-6).all()
    assert np.median(low[exact > 1e-3] / exact[exact > 1e-3]) > 0.4
    assert np.isnan(bounds(p, q, entropy, None)[1].numpy()).all()
