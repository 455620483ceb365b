import polars as pl
import pytest

from opd_diag.datasets import null_run, release_run, save_run
from opd_diag.errors import TableError
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.columns.tokens import token_columns
from opd_diag.tables.rollouts import prompt_halves
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


def test_halves_are_dealt_as_those_of_a_dump_are():
    rollouts = null_run(prompts=11, samples=2, tokens=40).rollouts
    halves = prompt_halves(rollouts["prompt_id"])
    assert rollouts["half"].to_list() == [halves[name] for name in rollouts["prompt_id"]]
    assert sorted(halves.values()) == [0] * 6 + [1] * 5


@pytest.mark.parametrize("make", [null_run, release_run])
def test_a_run_is_saved_with_its_own_grid(tmp_path, make):
    data = make(prompts=4, samples=1, k_grid=(2, 8))
    run = save_run(data, tmp_path / "run")
    assert data.k_grid == run.k_grid == (2, 8)
    assert run.tokens().collect().equals(data.tokens)


def test_a_grid_of_another_length_than_the_columns_is_refused(tmp_path):
    data = null_run(prompts=4, samples=1, k_grid=(2, 8))
    with pytest.raises(TableError, match="margin"):
        save_run(data._replace(k_grid=(2, 4, 8)), tmp_path / "run")
