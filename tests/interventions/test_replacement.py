"""Replaced tokens: against the model one text at a time, and matching by its rule."""

from typing import Any

import polars as pl
import pytest
import torch
from scipy.stats import norm, rankdata
from transformers import AutoModelForCausalLM

import opd_diag as od
from opd_diag.errors import OptionError, TableError
from opd_diag.interventions import replacements, summary_lines
from opd_diag.scoring.models.loading import load_model
from opd_diag.tables.run import Run
from tests.interventions.quiet import Quiet


def replacement(run: Run, **options: Any) -> Any:
    return od.replacement(run, **({"progress": Quiet()} | options))


@pytest.fixture
def spans(run: Run, monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, int]]:
    """Every rollout's last two tokens are its answer: tiny models write no numbers."""
    lengths = run.rollouts["response_token_ids"].list.len().to_list()
    own = {rollout: (n - 2, n) for rollout, n in enumerate(lengths) if n > 8}
    monkeypatch.setattr(replacements, "_answer_spans", lambda _: own)
    return own


def test_changes_are_those_of_the_model_one_text_at_a_time(
    run: Run, spans: dict[int, tuple[int, int]], student: str
) -> None:
    rocks = run.result("rock_tokens").filter("is_rock")["token_id"].to_list()
    tokens = replacements._occurrences(run, "s", spans, rocks).gather_every(9)
    rescorer = replacements._Rescorer(run, load_model(student), spans, 4)
    found = rescorer.changes(tokens, Quiet())
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float64).eval()

    def logp(text: list[int], n: int) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([text])).logits[0, :, : run.vocab.height]
        rows = torch.log_softmax(logits, 1)
        return float(sum(rows[i - 1, text[i]] for i in range(len(text) - n, len(text))))

    for change, row in list(zip(found, tokens.iter_rows(named=True), strict=True))[:12]:
        about = run.rollouts.row(row["rollout"], named=True)
        prompt, response = about["prompt_token_ids"], about["response_token_ids"]
        before = [*prompt, *response]
        with torch.no_grad():
            logits = model(torch.tensor([before])).logits[0, :, : run.vocab.height]
        two = logits[len(prompt) + row["position"] - 1].topk(2).indices.tolist()
        after = list(before)
        after[len(prompt) + row["position"]] = next(i for i in two if i != row["token_id"])
        assert change == pytest.approx(logp(after, 2) - logp(before, 2), abs=1e-3)


def test_rocks_are_beside_others_alike(
    run: Run, spans: dict[int, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacements, "CALIPER", 0.8)  # few tokens are nearer in so small a run
    rocks = run.result("rock_tokens").filter("is_rock")["token_id"].to_list()
    everything = replacements._occurrences(run, "s", spans, rocks)
    left, right = replacements._matched(everything, 10, 0)
    assert left.height == right.height > 3
    assert left["token_id"].is_in(rocks).all()
    assert not right["token_id"].is_in(rocks).any()
    assert right.unique(["rollout", "position"]).height == right.height
    for name in ("log10_n", "student_logp", "student_entropy", "distance"):
        score = dict(
            zip(everything[name], norm.ppf((rankdata(everything[name]) - 0.5) / len(everything)),
                strict=True)
        )  # fmt: skip
        for one, other in zip(left[name], right[name], strict=True):
            assert abs(score[one] - score[other]) <= 0.8
    result = replacement(run, tokens=10)
    rows = result.replacement
    assert rows["group"].to_list() == ["rock", "others alike"]
    assert rows["n"].to_list() == [left.height] * 2
    assert rows["difference"][0] == pytest.approx(rows["change"][0] - rows["change"][1])
    run.save(result)
    assert "minus others alike" in summary_lines(result)[2]
    assert od.plots.replacement(rows).get_title("left").startswith("Replaced tokens")


def test_the_answer_is_the_last_box_or_number(run: Run) -> None:
    pieces = {text: i for i, text in enumerate(run.vocab["text"]) if i > 7}

    def ids(text: str) -> list[int]:
        return [pieces[sign] for sign in text]

    table = run.rollouts.head(4).with_columns(
        response_token_ids=pl.Series(
            [ids("12\\boxed{7}."), ids("so34.x"), ids("none"), ids("5")], dtype=pl.List(pl.Int32)
        ),
        correct=pl.Series([True, True, True, False]),
    )
    run.__dict__["rollouts"] = table
    assert replacements._answer_spans(run) == {0: (9, 10), 1: (2, 4)}
    run.__dict__["rollouts"] = table.with_columns(correct=pl.lit(None, pl.Boolean))
    with pytest.raises(TableError, match="none is known to be correct"):
        replacements._answer_spans(run)


def test_nothing_to_replace_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacements, "_answer_spans", lambda _: {})
    rows = replacement(run).replacement
    assert rows["n"].to_list() == [0, 0]
    assert "no rock in a correct rollout" in rows["reason"][0]
    with pytest.raises(OptionError, match="tokens: 0; expected 1 or more"):
        replacement(run, tokens=0)
