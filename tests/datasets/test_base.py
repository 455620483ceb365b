import polars as pl

from opd_diag.datasets import null_run
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.columns.tokens import token_columns
from opd_diag.tables.schema import check_table


def test_null_run_is_a_valid_run():
    run = null_run(prompts=6, samples=2, tokens=50, checkpoints=("a", "b"), k_grid=(2, 4))
    assert check_table(run.tokens, token_columns((2, 4)), "tokens").height == 2 * 12 * 50
    assert check_table(run.rollouts, ROLLOUTS, "rollouts").height == 12
    assert run.rollouts.group_by("half").len()["len"].to_list() == [6, 6]


def test_tokens_are_the_same_under_every_checkpoint_and_scores_are_not():
    run = null_run(prompts=4, samples=2, tokens=40, checkpoints=("a", "b"))
    a, b = run.tokens.partition_by("checkpoint", include_key=False)
    same = ["rollout", "position", "token_id", "segment", "in_loss", "repeat"]
    assert a.select(same).equals(b.select(same))
    assert not a["reverse_kl"].equals(b["reverse_kl"])
    listed = run.rollouts["response_token_ids"].explode(empty_as_null=False)
    assert listed.to_list() == a["token_id"].to_list()


def test_equal_seeds_give_equal_runs():
    first, again, other = (null_run(prompts=3, tokens=30, seed=s) for s in (1, 1, 2))
    assert first.tokens.equals(again.tokens)
    assert first.rollouts.equals(again.rollouts)
    assert not first.tokens.equals(other.tokens)


def test_scores_stay_in_their_ranges():
    tokens = null_run(prompts=6, tokens=80).tokens
    bad = tokens.filter(
        (pl.col("student_logp") > 0)
        | (pl.col("teacher_logp") > 0)
        | (pl.col("reverse_kl") < 0)
        | (pl.col("js") > 0.6932)
        | (pl.col("teacher_rank") < 1)
        | (pl.col("teacher_mass").arr.max() > 1)
        | (pl.col("margin").arr.min() < 0)
        | (pl.col("overlap").arr.max() > 1)
    )
    assert bad.is_empty()
