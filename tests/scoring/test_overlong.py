"""Rollouts longer than a context: left out and named, cut, or refused."""

import polars as pl
import pytest

from opd_diag.errors import OptionError, RolloutError
from opd_diag.scoring.overlong import fit_rollouts, overlong_line
from opd_diag.scoring.preflight.check import check
from opd_diag.scoring.score import score
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.info import info
from opd_diag.tables.rollouts import prompt_halves
from opd_diag.tables.schema import check_table

CONTEXT = 512  # of the tiny models; the last token of a response is only a target


@pytest.fixture
def some_long(make_rollouts):
    """Two that fit, the second only just; one long in its response, one in its prompt."""
    responses = [[6, 7], [8] * (CONTEXT - 4), [9] * 600, [6]]
    prompts = [[5]] + [[5] * 5] * 2 + [[5] * 513]
    rollouts = make_rollouts(prompts, responses, sampled_logp=[[-1.0] * len(r) for r in responses])
    masks = pl.Series([[True] * len(r) for r in responses])
    names = pl.Series(["a", "b", "b", "c"])
    table = rollouts.table.with_columns(loss_mask=masks, prompt_id=names)
    return type(rollouts)(table, rollouts.report)


def fit(rollouts, teacher, student, overlong, **options):
    options = {"max_response_tokens": None} | options
    origin = {"revision": None, "trust_remote_code": False}
    return fit_rollouts(
        rollouts, [teacher], {"a": student}, overlong=overlong, origin=origin, **options
    )


def test_long_rollouts_are_left_out_counted_and_named(some_long, teacher, student) -> None:
    fitted = fit(some_long, teacher, student, "skip")
    table = check_table(fitted.table, ROLLOUTS, "rollouts")
    before = some_long.table
    assert table["rollout_id"].to_list() == before["rollout_id"].to_list()[:2]
    assert table["rollout"].to_list() == [0, 1]
    halves = prompt_halves(["a", "b"])
    assert table["half"].to_list() == [halves["a"], halves["b"]]
    told = fitted.report["overlong"]
    assert (told["left_out"], told["cut"], told["context"]) == (2, 0, CONTEXT)
    assert told["first"] == before["rollout_id"].to_list()[2:]
    line = overlong_line(fitted.report)
    assert line.startswith("longer than a context of 512 tokens: 2 left out; first ")
    same = table.drop("rollout", "half", "sample")
    assert same.equals(before.head(2).drop("rollout", "half", "sample"))


def test_long_responses_are_cut_and_long_prompts_left_out(some_long, teacher, student) -> None:
    fitted = fit(some_long, teacher, student, "cut")
    assert fitted.table.height == 3
    for column in ("response_token_ids", "loss_mask", "sampled_logp"):
        assert fitted.table[column].list.len().to_list() == [2, CONTEXT - 4, CONTEXT - 4]
    assert fitted.table["sample"].to_list() == [0, 0, 1]
    told = fitted.report["overlong"]
    assert (told["left_out"], told["cut"]) == (1, 1)
    run_lengths = fitted.table.select(
        pl.col("prompt_token_ids").list.len() + pl.col("response_token_ids").list.len() - 1
    ).to_series()
    assert run_lengths.max() == CONTEXT


def test_the_teachers_own_prompt_counts_for_the_teacher(make_rollouts, teacher, student) -> None:
    rollouts = make_rollouts([[5]] * 2, [[6] * 3] * 2)
    longer = pl.Series([[5] * 600, None], dtype=pl.List(pl.Int32))
    table = rollouts.table.with_columns(teacher_prompt_token_ids=longer)
    fitted = fit(type(rollouts)(table, {}), teacher, student, "skip")
    assert fitted.table["rollout_id"].to_list() == rollouts.table["rollout_id"].to_list()[1:]


def test_what_fits_and_what_is_cut_anyway_stays(some_long, make_rollouts, teacher, student) -> None:
    short = make_rollouts([[5]], [[6]])
    assert fit(short, teacher, student, "skip") is short
    assert overlong_line(short.report) is None
    fitted = fit(some_long, teacher, student, "skip", max_response_tokens=100)
    assert fitted.table.height == 3
    assert fit(some_long, teacher, student, "error") is some_long


def test_nothing_that_fits_and_an_unknown_choice_are_refused(
    make_rollouts, teacher, student
) -> None:
    rollouts = make_rollouts([[5]], [[6] * 600])
    with pytest.raises(RolloutError, match="all 1 are longer than a context of 512 tokens"):
        fit(rollouts, teacher, student, "skip")
    with pytest.raises(OptionError, match="overlong: 'drop'; expected skip, error, cut"):
        fit(rollouts, teacher, student, "drop")


def test_a_run_goes_on_without_them_and_says_so(some_long, teacher, student, tmp_path, capsys):
    students = {"a": student}
    run = score(some_long, teacher=teacher, students=students, out=tmp_path / "run")
    assert run.tokens("a").collect().height == 2 + CONTEXT - 4
    assert info(run)["rollouts"]["report"]["overlong"]["left_out"] == 2
    assert "2 left out; first " in capsys.readouterr().err
    again = score(some_long, teacher=teacher, students=students, out=tmp_path / "run")
    assert again.rollouts.equals(run.rollouts)
    levels = {f.what: f.level for f in check(some_long, teacher=teacher, students=student)}
    assert levels["overlong"] == "yellow"
