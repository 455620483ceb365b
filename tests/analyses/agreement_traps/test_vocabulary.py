"""Types of low-KL stretches: counts of a loop, planted types found, types of a prompt not."""

import numpy as np
import polars as pl
import pytest

from opd_diag.analyses.agreement_traps import agreement_traps
from opd_diag.analyses.agreement_traps.checkpoint import read_checkpoint
from opd_diag.analyses.agreement_traps.options import Options
from opd_diag.analyses.agreement_traps.persistence import shuffled_blocks
from opd_diag.analyses.agreement_traps.shuffles import shuffled_cuts
from opd_diag.analyses.agreement_traps.vocabulary import trap_vocabulary
from opd_diag.datasets import NULLS, save_run, trap_run, ugly_run
from opd_diag.tables.source import as_source, choose_rollouts

PLANTED, BOUND, LONELY = 390, 391, 392
PRIOR = 500


def table_of(data, **options):
    """Make the one table, of the first checkpoint."""
    chosen = Options(**options)
    source = as_source(data.tokens, data.rollouts)
    rollouts = choose_rollouts(source.rollouts)
    one = read_checkpoint(source, source.checkpoints[0], rollouts, chosen)
    main = shuffled_cuts(
        one.sample_kl,
        one.sample_lengths,
        [chosen.rule],
        one.sample_thresholds([chosen.rule]),
        block=chosen.block,
        draws=chosen.draws,
        seed=chosen.seed,
    )[chosen.rule]
    return trap_vocabulary(one, shuffled_blocks(one, main), None)


@pytest.fixture(scope="module")
def spoken():
    """Plant three types: in stretches, in prompts that have a stretch, and in one prompt."""
    data = trap_run(prompts=30, samples=3, tokens=300, length=100, seed=3)
    onset = data.truth["onset"]
    count = data.tokens.height // 2
    dice = pl.Series(np.tile(np.random.default_rng(0).random(count), 2))
    tokens = data.tokens.join(onset, on="rollout", how="left", maintain_order="left")
    since = pl.col("position").cast(pl.Int64) - pl.col("onset")
    has_stretch = (pl.col("rollout") // 3).is_in((onset["rollout"] // 3).unique().to_list())
    token_id = (
        pl.when((since >= 0) & (since < 100) & (dice < 0.15))
        .then(PLANTED)
        .when(has_stretch & (dice > 0.95))
        .then(BOUND)
        .when((pl.col("rollout") == onset["rollout"][0]) & (since >= 0) & (dice > 0.5))
        .then(LONELY)
        .otherwise("token_id")
    )
    tokens = tokens.with_columns(token_id=token_id.cast(pl.Int32)).drop("onset", "degenerate")
    return data._replace(tokens=tokens)


@pytest.fixture(scope="module")
def found(spoken):
    return agreement_traps(spoken.tokens, spoken.rollouts, checkpoint="step0")


def row(table, token_id):
    return table.filter(token_id=token_id).row(0, named=True)


def test_counts_and_log_odds_are_those_of_a_group_by(spoken, found):
    table = found.trap_vocabulary
    own = spoken.tokens.filter(checkpoint="step0").join(found.agreement_traps, on="rollout")
    end = pl.col("cut_token") + pl.col("n_agreement")
    inside = (pl.col("position") >= pl.col("cut_token")) & (pl.col("position") < end)
    own = own.with_columns(inside=inside.fill_null(False))
    counts = own.group_by("token_id").agg(
        n_in=pl.col("inside").sum(), n_out=(~pl.col("inside")).sum(), n=pl.len()
    )
    counts = counts.filter(pl.col("n") >= 10)
    both = table.join(counts, on="token_id", suffix="_loop")
    assert both.height == table.height == counts.height
    for name in ("n_in", "n_out"):
        assert both[name].to_list() == both[f"{name}_loop"].to_list()
    whole, everything = own["inside"].sum(), own.height
    prior = PRIOR * both["n"] / everything
    odds = [
        (side + prior) / (total + PRIOR - side - prior)
        for side, total in ((both["n_in"], whole), (both["n_out"], everything - whole))
    ]
    expected = np.log(odds[0] / odds[1])
    np.testing.assert_allclose(both["log_odds"], expected, rtol=1e-9, atol=1e-12)
    assert table["p"].drop_nulls().is_sorted()


def test_planted_types_are_found_and_types_of_a_prompt_are_not(found):
    table = found.trap_vocabulary
    planted, bound, lonely = (row(table, token) for token in (PLANTED, BOUND, LONELY))
    assert planted["p_adjusted"] < 0.01
    assert planted["log_odds_low"] > planted["null_p95"]
    # The prompts of the second have stretches: its log-odds are high, and so are those of chance.
    assert bound["log_odds_low"] > 0
    assert bound["log_odds"] < bound["null_p95"]
    assert bound["p"] > 0.05
    assert lonely["p"] is None
    assert "too few prompts" in lonely["reason"]
    others = table.filter(~pl.col("token_id").is_in([PLANTED, BOUND, LONELY]))
    assert (others["p_adjusted"] <= 0.05).sum() == 0


def test_a_type_as_common_as_under_shuffled_kl_has_no_low_p(found):
    table = found.trap_vocabulary.drop_nulls("p")
    alike = table["log_odds"].is_between(table["null_p05"], table["null_p95"])
    assert alike.any()
    assert (table.filter(alike)["p"] == 1).all()
    assert (table.filter(~alike)["p"] < 1).any()


@pytest.mark.parametrize("kind", ["topics", "memory", "all"])
def test_types_bound_to_prompts_are_not_found_in_ugly_nulls(kind):
    """The rates over 40 seeds of every kind stand in the validity study."""
    table = table_of(ugly_run(seed=1, checkpoints=("a",), **NULLS[kind]))
    assert table["p"].count() > 50
    assert (table["p_adjusted"] <= 0.05).sum() == 0
    assert (table["p"] <= 0.05).mean() < 0.06


def test_a_run_on_disk_gives_texts_and_classes_and_no_stretch_has_a_reason(tmp_path, spoken):
    run = save_run(spoken, tmp_path)
    table = agreement_traps(run, checkpoint="step0", draws=2, threshold=1e-9).trap_vocabulary
    assert table["text"].null_count() == 0
    assert set(table["token_class"]) <= {"word start", "word continuation", "digit", "special"}
    assert table["n_in"].sum() == 0
    assert table["log_odds"].is_null().all()
    assert table["p"].is_null().all()
    assert set(table["reason"]) == {"the rule fires nowhere: no stretch to look at"}
