import numpy as np
import polars as pl
import pytest

from opd_diag.datasets.rocks import equal_gradients, rock_run, unchanged_run
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.columns.tokens import TOKENS
from opd_diag.tables.schema import check_table


def mean_by_kind(run, checkpoint):
    kinds = dict.fromkeys(run.truth["rocks"], "rock")
    kinds |= dict.fromkeys(run.truth["learned"], "learned")
    kind = pl.col("token_id").replace_strict(kinds, default="other", return_dtype=pl.String)
    rows = run.tokens.filter(checkpoint=checkpoint).group_by(kind=kind)
    return dict(rows.agg(pl.col("reverse_kl").mean()).iter_rows())


def test_rocks_stay_and_learned_types_fall_to_the_others():
    run = rock_run(prompts=40, height=6.0)
    check_table(run.tokens, TOKENS, "tokens")
    check_table(run.rollouts, ROLLOUTS, "rollouts")
    first, last = mean_by_kind(run, "step0"), mean_by_kind(run, "step300")
    assert first["rock"] / first["other"] == pytest.approx(6, rel=0.15)
    assert first["learned"] / first["other"] == pytest.approx(6, rel=0.15)
    assert last["rock"] / first["rock"] == pytest.approx(1, rel=0.1)
    assert last["learned"] / last["other"] == pytest.approx(1, rel=0.15)
    listed = run.rollouts["response_token_ids"].explode(empty_as_null=False)
    assert listed.to_list() == run.tokens.filter(checkpoint="step0")["token_id"].to_list()


def test_unchanged_types_differ_and_stay():
    run = unchanged_run(prompts=60, tokens=300, types=70)
    means = (
        run.tokens.group_by("token_id", "checkpoint")
        .agg(pl.col("reverse_kl").mean())
        .pivot("checkpoint", index="token_id", values="reverse_kl")
        .sort("token_id")
    )
    truth = np.log(run.truth["means"])
    first, last = (np.log(means[name].to_numpy()) for name in ("step0", "step150"))
    assert np.corrcoef(first, truth)[0, 1] > 0.9
    assert abs((last - first).mean()) < 0.05


def test_equal_gradients_sum_to_the_mean_that_was_planted():
    planted = equal_gradients([3, 40_000], norm2=4.0, noise=1.0, prompt_noise=0.0)
    sums = planted.sums
    assert sums.n[sums.token_id == 1].sum() == 40_000
    mean = sums.S[sums.token_id == 1].sum(axis=0) / 40_000
    assert mean @ mean == pytest.approx(4.0, rel=0.05)
    assert sums.Q[sums.token_id == 1].sum() / 40_000 == pytest.approx(4.0 + 16.0, rel=0.05)
