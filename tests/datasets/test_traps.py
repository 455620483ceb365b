import polars as pl
import pytest

from opd_diag.datasets import null_run, trap_run
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.columns.tokens import token_columns
from opd_diag.tables.schema import check_table


def test_stretches_are_where_the_truth_says_and_nowhere_else():
    run = trap_run(prompts=6, samples=2, tokens=120, length=40, share=0.5, seed=4)
    check_table(run.tokens, token_columns(), "tokens")
    check_table(run.rollouts, ROLLOUTS, "rollouts")
    plain = null_run(prompts=6, samples=2, tokens=120, checkpoints=("step0", "step1"), seed=4)
    onset = run.truth["onset"]
    assert onset.height == 6
    assert onset["degenerate"].sum() == 3
    both = run.tokens.join(onset, on="rollout", how="left", maintain_order="left").with_columns(
        ratio=pl.col("reverse_kl") / plain.tokens["reverse_kl"]
    )
    since = pl.col("position").cast(pl.Int64) - pl.col("onset")
    inside = both.filter(since >= 0, since < 40)
    assert inside.height == 2 * 6 * 40
    assert inside["ratio"].to_numpy() == pytest.approx(0.05, rel=1e-5)
    assert set(inside.filter("degenerate")["repeat"]) == {32}
    outside = both.join(inside, on=["checkpoint", "rollout", "position"], how="anti")
    assert outside["ratio"].to_numpy() == pytest.approx(1)


def test_the_gain_is_half_of_the_forward_kl():
    run = trap_run(prompts=4, samples=2, tokens=80, length=20)
    first, last = run.tokens.partition_by("checkpoint", include_key=False)
    assert (last["forward_kl"] / first["forward_kl"]).to_numpy() == pytest.approx(0.5)


def test_degenerate_rollouts_are_wrong_and_the_others_with_a_stretch_correct():
    run = trap_run(prompts=10, samples=2, tokens=80, length=20, share=0.8)
    joined = run.rollouts.join(run.truth["onset"], on="rollout")
    assert (joined["correct"] != joined["degenerate"]).all()
