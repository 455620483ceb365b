"""The test behind each question: false and missed answers, on ugly nulls and planted effects."""

import numpy as np
import polars as pl
import pytest
import scipy.stats

from opd_diag.analyses.findings import answer
from opd_diag.analyses.questions import QUESTIONS
from opd_diag.analyses.rock_tokens import findings, rock_tokens
from opd_diag.datasets import null_run
from opd_diag.datasets.nulls import NULLS, ugly_run

CHECKPOINTS = ("step0", "step150", "step300")
OURS = [key for key, question in QUESTIONS.items() if question.analysis == "rock_tokens"]


def evidence(data, **options):
    return rock_tokens(data.tokens, data.rollouts, **{"detail": 1} | options).rock_evidence


def scaled(data, types, own, others):
    """Multiply KL by one factor for each checkpoint, of some types and of the others."""
    names = dict(zip(CHECKPOINTS, zip(own, others, strict=True), strict=True))
    factor = pl.lit(1.0)
    for name, (inside, outside) in names.items():
        value = pl.when(pl.col("token_id").is_in(types)).then(inside).otherwise(outside)
        factor = pl.when(pl.col("checkpoint") == name).then(value).otherwise(factor)
    return data._replace(
        tokens=data.tokens.with_columns((pl.col("reverse_kl") * factor).cast(pl.Float32))
    )


@pytest.mark.parametrize("kind", ["all", "topics", "memory"])
def test_questions_hold_their_level_on_ugly_nulls(kind):
    p = {key: [] for key in OURS}
    for seed in range(10):
        rows = evidence(ugly_run(prompts=32, tokens=100, seed=seed, **NULLS[kind]), seed=seed)
        for row in rows.to_dicts():
            p[row["question"]].append(row["p"])
    values = np.array(list(p.values()))
    assert values.shape == (4, 10)
    assert (values <= 0.05).sum() <= scipy.stats.binom.ppf(0.9999, 40, 0.05)
    assert (values <= 0.002).sum() == 0


def test_planted_rocks_carry_more_and_stay_while_the_rest_falls():
    hits = dict.fromkeys(OURS, 0)
    for seed in range(5):
        data = ugly_run(prompts=48, sigma=1.5, snapshots=0.4, seed=seed)
        data = scaled(data, list(range(5, 25)), (3.0, 3.0, 3.0), (1.0, 0.6, 0.3))
        for row in evidence(data, top=20, seed=seed).to_dicts():
            hits[row["question"]] += row["p"] <= 0.004 and row["difference"] > 0
    assert hits == dict.fromkeys(OURS, 5)


def test_types_that_only_differ_in_level_are_no_rocks_that_stay():
    for seed in range(3):
        data = ugly_run(prompts=48, sigma=1.5, seed=seed)
        data = scaled(data, list(range(5, 25)), (3.0, 2.0, 1.5), (1.0, 2 / 3, 0.5))
        rows = {row["question"]: row for row in evidence(data, top=20, seed=seed).to_dicts()}
        assert rows["rocks-carry-more"]["p"] <= 0.004
        assert rows["rocks-stay"]["p"] > 0.05
        assert rows["rocks-stay"]["control"] == pytest.approx(-0.5, abs=0.1)


def test_nothing_falls_so_nothing_stays_while_the_rest_falls():
    data = ugly_run(prompts=48, sigma=1.5, seed=0)
    data = scaled(data, list(range(5, 25)), (3.0, 4.5, 6.0), (1.0, 1.1, 1.2))
    (row,) = evidence(data, top=20).filter(question="rocks-stay").to_dicts()
    assert row["difference"] > 0.3
    assert row["p"] == 1
    assert "did not fall" in row["reason"]


def test_the_difference_of_rocks_is_that_of_a_group_by():
    data = ugly_run(prompts=20, tokens=80, seed=3)
    result = rock_tokens(data.tokens, data.rollouts, top=30)
    rows = {row["question"]: row for row in result.rock_evidence.to_dicts()}
    cross = result.rock_cutoff.filter(selector="R", K=30).row(0, named=True)
    assert rows["rocks-carry-more"]["estimate"] == cross["cross_lift"]
    assert rows["rocks-carry-more"]["difference"] == pytest.approx(np.log(cross["cross_lift"]))
    groups = result.rock_groups.filter(checkpoint="step300", measured_on="other half")
    change = dict(groups.select("group", "relative_change").iter_rows())
    stay = rows["rocks-stay"]
    assert stay["estimate"] == pytest.approx(change["rock"])
    assert stay["control"] == pytest.approx(change["rest"])
    assert stay["difference"] == pytest.approx(change["rock"] - change["rest"])
    assert stay["chosen_under"] == groups["chosen_under"][0] == "step150"
    assert rows["type-tells"]["compared_with"] == "step150"


def test_two_checkpoints_cannot_tell_types_apart_and_one_answers_one_question():
    data = ugly_run(prompts=20, tokens=60, checkpoints=CHECKPOINTS[:2])
    rows = {row["question"]: row for row in evidence(data).to_dicts()}
    assert rows["type-tells"]["p"] is None
    assert rows["type-tells"]["reason"].startswith("two checkpoints")
    assert rows["rocks-stay"]["chosen_under"] == "step0 and step150"
    table = answer(findings(evidence(data, checkpoint="step0")), CHECKPOINTS)
    answers = dict(table.select("question", "answer").iter_rows())
    assert sorted(answers) == sorted(OURS)
    assert [key for key, given in answers.items() if given != "not asked"] == ["rocks-carry-more"]


def test_every_answer_has_its_words_its_margin_and_its_source():
    data = ugly_run(prompts=12, tokens=60)
    for finding in findings(evidence(data)):
        assert set(finding.meaning) == {"yes", "no", "undecided"}
        assert set(finding.advice) == {"yes", "no"}
        assert finding.margin > 0
        assert finding.source == "rock_evidence"
        assert finding.filter == f"question = {finding.question}"


def test_an_equal_loss_of_all_types_is_a_no_where_there_are_prompts_enough():
    data = null_run(prompts=80, samples=4, tokens=100, types=200, checkpoints=CHECKPOINTS)
    table = answer(findings(evidence(data, top=50)), CHECKPOINTS)
    answers = dict(table.select("question", "answer").iter_rows())
    assert answers["rocks-carry-more"] == "no"
    assert "yes" not in answers.values()
