"""The trainer's log-probs of the teacher: each fault is made on the sample data and named."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

import opd_diag as od
from opd_diag.scoring.parts.alignment import EDGES
from opd_diag.scoring.parts.teacher_audit import (
    TEACHER,
    add_audits,
    count_audit,
    count_top,
    diagnose_audit,
)
from opd_diag.tables.info import info
from opd_diag.tables.rollouts import Rollouts
from tests.scoring.heard import Heard

SAMPLE = Path(__file__).parents[2] / "sample_data"
TEACHER_PATH, STUDENT_PATH = str(SAMPLE / "teacher"), str(SAMPLE / "students" / "step0")
N = 2


@pytest.fixture(scope="module")
def sample() -> Rollouts:
    """Some rollouts of the sample data, cut so that scoring them costs little."""
    whole = od.read_rollouts(SAMPLE / "rollouts_step0.jsonl", limit=N)
    table = whole.table.with_columns(
        pl.col(name).list.head(100) for name in ("response_token_ids", "sampled_logp")
    )
    return Rollouts(table, whole.report)


@pytest.fixture(scope="module")
def logits(sample) -> dict[str, list[torch.Tensor]]:
    """Logits of teacher, student and a random model at every response token, by transformers."""
    models = {
        "teacher": AutoModelForCausalLM.from_pretrained(TEACHER_PATH, dtype=torch.float32),
        "student": AutoModelForCausalLM.from_pretrained(STUDENT_PATH, dtype=torch.float32),
    }
    torch.manual_seed(0)
    models["random"] = AutoModelForCausalLM.from_config(models["teacher"].config)
    at: dict[str, list[torch.Tensor]] = {name: [] for name in models}
    for row in sample.table.iter_rows(named=True):
        prompt, response = row["prompt_token_ids"], row["response_token_ids"]
        ids = torch.tensor([prompt + response])
        for name, model in models.items():
            with torch.no_grad():
                at[name].append(model.eval()(ids).logits[0, len(prompt) - 1 : -1].float())
    return at


def logps(logits, sample, temperature=1.0, top=None, of=None):
    """Log-probs of the response, at a temperature, renormalised on the top K of some logits."""
    lists = []
    for number, (x, tokens) in enumerate(
        zip(logits, sample.table["response_token_ids"], strict=True)
    ):
        x = x / temperature
        logp = x.log_softmax(1)
        if top is not None:
            best = (of[number] if of else x).topk(top, 1).indices
            logp = logp - logp.gather(1, best).logsumexp(1, keepdim=True)
        lists.append(logp.gather(1, torch.tensor(tokens.to_list())[:, None])[:, 0].tolist())
    return lists


FAULTS = {
    "aligned": lambda x, data: logps(x["teacher"], data),
    "rounded to bfloat16: aligned": lambda x, data: [
        torch.tensor(one).bfloat16().tolist() for one in logps(x["teacher"], data)
    ],
    "shifted by one": lambda x, data: [[*one[1:], 0.0] for one in logps(x["teacher"], data)],
    "behind: shifted by one": lambda x, data: [
        [0.0, *one[:-1]] for one in logps(x["teacher"], data)
    ],
    "all zero": lambda x, data: [[0.0] * len(one) for one in logps(x["teacher"], data)],
    "equals the student": lambda x, data: logps(x["student"], data),
    "renormalised top K": lambda x, data: logps(x["teacher"], data, top=4),
    "on the student's: renormalised top K": lambda x, data: logps(
        x["teacher"], data, top=4, of=x["student"]
    ),
    "other temperature": lambda x, data: logps(x["teacher"], data, temperature=0.7),
    "other model": lambda x, data: logps(x["random"], data),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_names_each_fault(sample, logits, fault):
    values = pl.Series(FAULTS[fault](logits, sample), dtype=pl.List(pl.Float32))
    rollouts = Rollouts(sample.table.with_columns(trainer_teacher_logp=values), sample.report)
    seen = od.check(rollouts, teacher=TEACHER_PATH, students={"s": STUDENT_PATH}, device="cpu")
    (line,) = [one for one in seen if one.what == "trainer's log-probs of the teacher"]
    assert line.detail.split(": ")[0] == fault.split(": ")[-1], line
    expected = {"aligned": "green", "other temperature": "yellow", "renormalised top K": "yellow"}
    assert line.level == expected.get(fault.split(": ")[-1], "red")
    if fault == "other model":
        assert "an untrained model" in line.detail
    if fault == "other temperature":
        assert "they fit temperature 0.7" in line.detail


@pytest.mark.parametrize("fault", ["aligned", "shifted by one", "equals the student"])
def test_score_keeps_what_it_found_and_warns(sample, logits, tmp_path, fault):
    values = pl.Series(FAULTS[fault](logits, sample), dtype=pl.List(pl.Float32))
    rollouts = Rollouts(sample.table.with_columns(trainer_teacher_logp=values), sample.report)
    run = od.score(
        rollouts, teacher=TEACHER_PATH, students={"s": STUDENT_PATH}, out=tmp_path / "run",
        device="cpu", part_tokens=90, noise_floor="off", progress=Heard(),
    )  # fmt: skip
    assert len(run.manifest.parts) > 1
    seen = info(run)["checkpoints"]["s"]["trainer_teacher"]
    assert seen["diagnosis"] == fault
    assert seen["n"] == run.tokens("s").collect()["teacher_logp"].count()
    told = [line for line in run.manifest.warnings if "log-probs of the teacher" in line]
    assert len(told) == (fault != "aligned")
    assert all(fault in line for line in told)


def test_rollouts_without_such_log_probs_say_nothing(sample):
    seen = od.check(sample, teacher=TEACHER_PATH, students={"s": STUDENT_PATH}, device="cpu")
    assert "trainer's log-probs of the teacher" not in [one.what for one in seen]
    assert count_audit(np.full(3, np.nan), {TEACHER: np.zeros(3)}, np.zeros(3, int)) is None
    assert add_audits([None, None]) is None


def test_counts_of_parts_add_up_and_few_tokens_are_too_few():
    rng = np.random.default_rng(0)
    teacher, response = -rng.gamma(1, 1, 60), np.repeat([0, 1, 2], 20)
    others = {TEACHER: teacher, "student": teacher - rng.normal(0, 1, 60)}
    whole = count_audit(teacher, others, response)
    parts = [
        count_audit(teacher[i], {name: v[i] for name, v in others.items()}, response[i])
        for i in (slice(0, 20), slice(20, 60))
    ]
    added = add_audits([*(part.packed() for part in parts), None])
    assert (added.n, added.zeros) == (whole.n, whole.zeros) == (60, 0)
    assert all((added.bins[name] == whole.bins[name]).all() for name in whole.bins)
    assert whole.bins[TEACHER][: np.searchsorted(EDGES, 1e-5)].sum() == 60
    assert diagnose_audit(whole).diagnosis == "aligned"
    few = count_audit(teacher[:5], {TEACHER: teacher[:5]}, response[:5])
    assert diagnose_audit(few).diagnosis == "too few tokens"


def test_likeliest_ids_that_the_trainer_saw_are_held_against_ours(sample, logits) -> None:
    best = [x.topk(4, 1) for x in logits["teacher"]]
    mass = [
        (top.values - x.logsumexp(1, keepdim=True)).exp().sum(1).tolist()
        for top, x in zip(best, logits["teacher"], strict=True)
    ]
    ids = [top.indices[:, 0].tolist() for top in best]
    counted = []
    for number in range(N):
        ours = np.array(ids[number])
        theirs = {"trainer_top_id": ours.astype(float), "trainer_top_mass": np.array(mass[number])}
        theirs["trainer_top_id"][:10] += 1
        top = count_top(theirs, ours)
        nothing = np.full(len(ours), np.nan)
        counted.append(count_audit(nothing, {TEACHER: nothing}, np.zeros(len(ours)), top))
    whole = add_audits([one.packed() for one in counted])
    n = sum(map(len, ids))
    assert whole.top["n"] == n
    assert whole.top["same"] == n - 10 * N
    assert whole.top["mass"] == pytest.approx(sum(map(sum, mass)), rel=1e-6)
    told = diagnose_audit(whole)
    assert told.diagnosis == "too few tokens"
    assert f"its likeliest token is ours at {(n - 10 * N) / n:.1%} of {n}" in told.detail
    assert count_top(dict.fromkeys(theirs, nothing), ours) == {}


def test_rounded_log_probs_of_the_teacher_are_aligned_to_the_last_decimal(sample, logits) -> None:
    ours = np.concatenate([np.array(one) for one in logps(logits["teacher"], sample)])
    audit = count_audit(np.round(ours, 2), {TEACHER: ours}, np.zeros(len(ours)))
    told = diagnose_audit(audit)
    assert told.diagnosis == "aligned"
    assert told.p95 <= 1e-5
