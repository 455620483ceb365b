import numpy as np
import polars as pl
import pytest

from opd_diag.analyses.teachability.contexts import read_contexts, units_of
from opd_diag.analyses.teachability.gains import gains_table
from opd_diag.analyses.teachability.options import Options, choose_pair
from opd_diag.datasets import null_run, teachable_run
from opd_diag.errors import TableError
from opd_diag.tables.source import as_source, choose_rollouts


def contexts_of(tokens, rollouts, *, noise_floor=None):
    source = as_source(tokens, rollouts)
    pair = choose_pair(source, None, None, None)
    return read_contexts(source, pair, choose_rollouts(rollouts), Options(noise_floor=noise_floor))


def table_of(tokens, rollouts, *, trained_steps=None, **options):
    contexts = contexts_of(tokens, rollouts, **options)
    return gains_table(contexts, units_of(contexts, trained_steps))


@pytest.fixture(scope="module")
def data():
    run = null_run(prompts=8, samples=3, tokens=40, checkpoints=("a", "b"))
    # Prompts of a dump need not stand together.
    mixed = run.rollouts["prompt_id"].shuffle(seed=3)
    return run.tokens, run.rollouts.with_columns(mixed)


def paired(tokens, rollouts):
    one, other = tokens.partition_by("checkpoint", maintain_order=True)
    gain = {
        f"{kl}_gain": (one[kl] - other[kl]).cast(pl.Float64) for kl in ("forward_kl", "reverse_kl")
    }
    return one.with_columns(**gain).join(rollouts, on="rollout", how="left", maintain_order="left")


def test_means_equal_those_of_the_rows(data):
    tokens, rollouts = data
    table, rows = table_of(tokens, rollouts), paired(tokens, rollouts)
    low_h = pl.col("student_entropy") <= pl.col("student_entropy").median()
    q3 = low_h & (pl.col("forward_kl") > pl.col("forward_kl").median())
    for group, chosen in {
        "all": pl.lit(True),
        "Q3": q3,
        "correct": pl.col("correct"),
        "wrong": ~pl.col("correct"),
    }.items():
        kept = rows.filter(chosen)
        for kl in ("forward_kl", "reverse_kl"):
            row = table.filter(group=group, feature="all", kl=kl).row(0, named=True)
            assert row["n"] == kept.height
            assert row["n_prompts"] == kept["prompt_id"].n_unique()
            assert row["base"] == pytest.approx(kept[kl].cast(pl.Float64).mean())
            assert row["gain"] == pytest.approx(kept[f"{kl}_gain"].mean())
            large = kept.filter(pl.col(kl) > 0.01)
            assert row["n_relative"] == large.height
            share = kept[f"{kl}_gain"].sum() / kept[kl].cast(pl.Float64).sum()
            assert row["relative"] == pytest.approx(share)
            relative = (large[f"{kl}_gain"] / large[kl].cast(pl.Float64)).median()
            assert row["relative_median"] == pytest.approx(relative)
            assert row["gain_low"] < row["gain"] < row["gain_high"]


def test_bins_equal_those_of_the_rows(data):
    tokens, rollouts = data
    table, rows = table_of(tokens, rollouts), paired(tokens, rollouts)
    h = rows["student_entropy"].to_numpy()
    d = rows["forward_kl"].to_numpy()
    gain = rows["reverse_kl_gain"].to_numpy()
    place_h, place_d = (np.argsort(np.argsort(x)) * 10 // len(x) for x in (h, d))
    for b in range(10):
        row = table.filter(group="all", feature="entropy", kl="reverse_kl", bin=b).row(
            0, named=True
        )
        assert row["n"] == (place_h == b).sum()
        assert row["gain"] == pytest.approx(gain[place_h == b].mean())
        assert row["bin_high"] == h[place_h == b].max()
        plane = table.filter(feature="entropy x divergence", kl="reverse_kl", bin=b, other_bin=7)
        cell = (place_h == b) & (place_d == 7)
        assert plane["n"].item() == cell.sum()
        assert plane["gain"].item() == pytest.approx(gain[cell].mean())
        assert plane["other_high"].item() == d[place_d == 7].max()
    counts = table.filter(kl="forward_kl").group_by("group", "feature").agg(pl.col("n").sum())
    assert counts.group_by("group").agg(pl.col("n").n_unique())["n"].unique().to_list() == [1]


def test_contexts_are_kept_apart_by_step_where_the_checkpoints_steps_are_known(data):
    tokens, rollouts = data
    number = pl.col("rollout")
    prompt = number.cast(pl.String)
    # Rollouts 0-7 come from a at step 0, 8-15 from step 5, 16-23 from b at step 10; the last four
    # answer the prompts of the first four.
    steps = rollouts.with_columns(
        prompt_id=pl.when(number >= 20).then((number - 20).cast(pl.String)).otherwise(prompt),
        step=(number // 8 * 5).cast(pl.Int64),
        policy=pl.when(number < 8)
        .then(pl.lit("a"))
        .when(number < 16)
        .then(None)
        .otherwise(pl.lit("b")),
    )
    found = table_of(tokens, steps).filter(feature="all", kl="forward_kl")
    n = dict(zip(found["group"], found["n"], strict=True))
    assert (n["trained-on"], n["trained prompt"], n["held-out"]) == (16 * 40, 4 * 40, 4 * 40)
    given = table_of(tokens, steps.drop("policy"), trained_steps=(0, 5))
    given = given.filter(feature="all", kl="forward_kl")
    n = dict(zip(given["group"], given["n"], strict=True))
    assert (n["trained-on"], n["trained prompt"], n["held-out"]) == (8 * 40, 4 * 40, 12 * 40)
    unknown = table_of(tokens, steps.drop("policy"))
    assert not unknown["group"].is_in(["trained-on", "held-out"]).any()


def test_scoring_twice_gives_no_gain_beyond_the_noise_floor():
    run = teachable_run(prompts=12, samples=2, tokens=50, checkpoints=("a", "b"), seed=1)
    one = run.tokens.filter(pl.col("checkpoint") == "a")
    jitter = pl.Series(np.random.default_rng(0).normal(0, 1e-5, one.height).astype(np.float32))
    again = one.with_columns(
        pl.lit("b").alias("checkpoint"), forward_kl=pl.col("forward_kl") + jitter
    )
    floor = float(np.quantile(np.abs(jitter.to_numpy()), 0.95))
    table = table_of(pl.concat([one, again]), run.rollouts, noise_floor=floor)
    assert (table["gain"].abs().drop_nulls() <= floor).all()
    whole = table.filter(feature="all", group="all").sort("kl")
    assert whole["reason"].to_list() == ["within the noise floor"] * 2
    assert whole["relative"].abs().max() < 1e-4
    assert (whole["noise_floor"] == floor).all()


def test_the_relative_gain_counts_tokens_above_the_floor_only(data):
    tokens, rollouts = data
    table = table_of(tokens, rollouts, noise_floor=0.3)
    table = table.filter(feature="all", group="all", kl="forward_kl")
    base = tokens.filter(pl.col("checkpoint") == "a")["forward_kl"]
    assert table["n_relative"][0] == (base > 0.3).sum()


def test_null_scores_are_counted_and_left_out(data):
    tokens, rollouts = data
    hit = (pl.col("position") == 3) & (pl.col("checkpoint") == "b")
    broken = tokens.with_columns(forward_kl=pl.when(hit).then(None).otherwise("forward_kl"))
    table = table_of(broken, rollouts)
    missing = table.filter(group="missing")
    assert missing["n"].to_list() == [24, 24]
    assert missing["reason"].to_list() == ["a score is null"] * 2
    assert table.filter(group="all", feature="all")["n"].to_list() == [24 * 39] * 2
    assert table_of(tokens, rollouts).filter(group="missing").is_empty()


def test_row_order_of_tokens_and_rollouts_does_not_matter(data):
    tokens, rollouts = data
    shuffled = pl.concat(
        part.sample(fraction=1, shuffle=True, seed=2)
        for part in tokens.partition_by("checkpoint", maintain_order=True)
    )
    found = table_of(shuffled, rollouts.sample(fraction=1, shuffle=True, seed=1))
    assert found.equals(table_of(tokens, rollouts))


def test_tokens_without_a_rollout_are_refused(data):
    tokens, rollouts = data
    with pytest.raises(
        TableError, match="rollout 0 is not in the rollouts table; expected a row for each"
    ):
        contexts_of(tokens, rollouts.filter(pl.col("rollout") > 1).vstack(rollouts[:0]))


def test_no_token_in_the_loss_is_refused(data):
    tokens, rollouts = data
    with pytest.raises(TableError, match="none in the loss has every score"):
        contexts_of(tokens.with_columns(in_loss=False), rollouts)
