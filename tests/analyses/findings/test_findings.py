from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

import opd_diag as od
from opd_diag.analyses import findings as package
from opd_diag.analyses.answers import Finding
from opd_diag.analyses.findings import ANSWERED_BY, INTERVENED, answer, needed_tables, summary_lines
from opd_diag.analyses.questions import QUESTIONS
from opd_diag.datasets import null_run, save_run
from opd_diag.tables.columns import ANALYSES, INTERVENTIONS

WORDS = {
    "meaning": {"yes": "It is so.", "no": "It is not so.", "undecided": "It may be so."},
    "advice": {"yes": "Do it.", "no": "Leave it."},
}


def asked(question="rocks-carry-more", checkpoint="a", difference=1.0, half=0.5, **options):
    ends = {"difference_low": difference - half, "difference_high": difference + half}
    return Finding(
        question=question,
        checkpoint=checkpoint,
        unit="ratio",
        estimate=1 + difference,
        low=1 + difference - half,
        high=1 + difference + half,
        control=1.0,
        difference=difference,
        margin=0.1,
        n_prompts=48,
        source="rock_summary",
        filter="statistic = lift",
        **ends,
        **WORDS,
        **options,
    )


def test_p_is_adjusted_over_all_rows_that_were_asked():
    rows = [
        asked(p=0.03),
        asked("rocks-stay", p=0.02),
        asked("margin-falls", checkpoint="b", p=0.001),
        asked("margin-drops", p=None),
    ]
    table = answer(rows, ["a", "b"])
    assert table["question"].to_list() == [
        "rocks-carry-more",
        "rocks-stay",
        "margin-falls",
        "margin-drops",
    ]
    assert table["p_adjusted"].to_list() == pytest.approx([0.04, 0.04, 0.003, None])
    assert table["answer"].to_list() == ["yes", "yes", "yes", "not asked"]
    # One more row that is asked, and the first two are no longer found.
    more = answer([*rows, asked("cut-rollouts-wrong", p=0.9)], ["a", "b"])
    assert more["answer"].to_list()[:3] == ["undecided", "undecided", "yes"]


def test_advice_stands_only_beside_yes_and_no():
    rows = [
        asked("rocks-carry-more", p=0.001),
        asked("rocks-persist", p=0.7, difference=0.01, half=0.02),
        asked("rocks-stay", p=0.7),
        asked("margin-falls", p=None, reason="too few prompts"),
    ]
    table = answer(rows, ["a"])
    assert table["answer"].to_list() == ["yes", "no", "undecided", "not asked"]
    assert table["what_to_do"].to_list() == ["Do it.", "Leave it.", None, None]
    assert table["what_it_means"].to_list() == [
        "It is so.",
        "It is not so.",
        "It may be so.",
        None,
    ]
    assert table["reason"].to_list() == [None, None, None, "too few prompts"]


def test_the_smallest_difference_is_shown_in_four_of_five_such_runs():
    row = answer([asked(p=0.5, half=1.96), asked("rocks-stay", p=0.5)], ["a"]).row(0, named=True)
    # Standard error 1, two tests: normal draws round that difference pass the first step of Holm.
    draws = np.random.default_rng(0).normal(row["smallest"], 1, 100_000)
    p = 2 * norm.sf(np.abs(draws))
    assert (p <= 0.05 / 2).mean() == pytest.approx(0.8, abs=0.01)


def test_questions_and_their_answerers_fit_the_analyses():
    made_by = {**ANALYSES, **INTERVENTIONS}
    assert {question.analysis for question in QUESTIONS.values()} <= set(made_by)
    for analysis, ask in (*ANSWERED_BY.items(), *INTERVENED.items()):
        assert set(needed_tables(ask)) <= set(made_by[analysis])


@pytest.fixture
def run(tmp_path):
    return save_run(null_run(prompts=6, samples=2, tokens=80), tmp_path / "run")


def ask_of_rocks(rock_tokens: pl.DataFrame) -> list[Finding]:
    return [asked(checkpoint=rock_tokens["checkpoint"][0], p=0.001)]


def test_a_question_without_its_tables_names_the_command(run, monkeypatch):
    monkeypatch.setattr(package, "ANSWERED_BY", {"rock_tokens": ask_of_rocks})
    table = od.findings(run)
    assert set(table["answer"]) == {"not asked"}
    assert table["question"].to_list() == [
        key for key, question in QUESTIONS.items() if question.analysis == "rock_tokens"
    ]
    assert all("opd-diag analyze rock-tokens" in reason for reason in table["reason"])
    run.save(od.rock_tokens(run)._asdict(), arguments={})
    assert od.findings(run)["answer"].to_list() == ["yes"]
    assert od.findings(run.path)["answer"].to_list() == ["yes"]


def test_a_stale_table_answers_nothing(run, monkeypatch):
    monkeypatch.setattr(package, "ANSWERED_BY", {"rock_tokens": ask_of_rocks})
    run.save(od.rock_tokens(run)._asdict(), arguments={})
    other = save_run(null_run(prompts=6, samples=2, tokens=80, seed=1), run.path, seed=1)
    table = od.findings(other)
    assert set(table["answer"]) == {"not asked"}
    assert "made from another run" in table["reason"][0]


def test_lines_say_the_answer_the_numbers_and_the_advice():
    rows = [
        asked(p=0.001, checkpoint="a"),
        asked(p=0.4, checkpoint="b"),
        asked("margin-falls", checkpoint="b", p=None, reason="too few prompts"),
    ]
    table = answer(rows, ["a", "b"])
    head, *lines = summary_lines(table)
    assert "2 tests" in head
    assert lines[0].startswith("undecided ")
    assert lines[0].endswith("(b, a yes)")
    assert "2 ratio [1.5, 2.5] against 1, p = 0.4. It may be so." in lines[1]
    assert lines[2].startswith("not asked ")
    assert "too few prompts" in lines[3]
    assert summary_lines(table, "rock_tokens") == [head, *lines[:2]]
    assert summary_lines(table, "teachability") == []


def test_an_answer_from_some_rollouts_says_which(tmp_path):
    data = null_run(prompts=12, samples=2, tokens=80, types=80)
    group = pl.when(pl.col("prompt_id").hash(1) % 2 == 0).then(pl.lit("math"))
    rollouts = data.rollouts.with_columns(group=group.otherwise(pl.lit("code")))
    run = save_run(data._replace(rollouts=rollouts), tmp_path / "run")
    run.save(od.release_points(run))
    run.save(od.agreement_traps(run, draws=2))
    whole = od.findings(run)
    assert not whole["reason"].drop_nulls().str.contains("only rollouts").any()
    run.save(od.release_points(run, group="math"))
    table = od.findings(run)
    said = table["reason"].fill_null("").str.starts_with("only rollouts of group 'math'")
    assert set(table.filter(said)["question"]) == {"margin-falls", "margin-drops", "cut-drops-poor"}
    assert od.info(run.path)["results"]["release_points"]["reason"].endswith("'math'")
    assert "reason" not in od.info(run.path)["results"]["agreement_traps"]


def test_a_question_without_a_difference_is_no_test():
    rows = [asked(p=0.03), replace(asked("rocks-stay", p=1.0), difference=None)]
    table = answer(rows, ["a"])
    assert table["answer"].to_list() == ["yes", "not asked"]
    assert table["p_adjusted"].to_list() == pytest.approx([0.03, None])
    assert table["p"].to_list() == [0.03, None]


@pytest.mark.parametrize(("accuracy", "said"), [(0.0, "not asked"), (0.5, "no")])
def test_a_ban_of_what_was_never_right_is_not_judged(accuracy, said):
    row = {
        "kind": "rock", "checkpoint": "a", "accuracy": accuracy, "accuracy_low": accuracy,
        "accuracy_high": accuracy, "control_difference": 0.0, "control_difference_low": -0.01,
        "control_difference_high": 0.01, "control_p": 1.0, "n_problems": 48, "reason": "",
    }  # fmt: skip
    table = answer(INTERVENED["knock_out"](pl.DataFrame([row])), ["a"])
    assert table["answer"].to_list() == [said]
    if said == "not asked":
        assert "fewer than 2% of the responses: nothing can be lost" in table["reason"][0]
