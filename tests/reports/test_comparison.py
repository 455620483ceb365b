"""Two runs side by side: means and differences speak of the same prompts."""

import re

import polars as pl

import opd_diag as od
from opd_diag.datasets import null_run, save_run
from opd_diag.reports.comparison import compare_means


def number(text):
    return float(re.match(r"-?[\d.]+", text)[0])


def test_means_are_those_of_the_prompts_that_both_runs_hold(tmp_path):
    whole = null_run(prompts=9, samples=2, tokens=40, types=80)
    # What the second run lacks is far from the teacher: over all prompts it would look better.
    far = pl.when(pl.col("rollout") >= 12).then(9.0).otherwise(pl.col("reverse_kl"))
    ids = pl.concat_list((pl.col("rollout") // 2).cast(pl.Int32)).alias("prompt_token_ids")
    whole = whole._replace(
        tokens=whole.tokens.with_columns(far.cast(pl.Float32).alias("reverse_kl")),
        rollouts=whole.rollouts.with_columns(ids),
    )
    few = pl.col("rollout") < 12
    worse = (pl.col("reverse_kl") * 1.5).cast(pl.Float32)
    part = whole._replace(
        rollouts=whole.rollouts.filter(few), tokens=whole.tokens.filter(few).with_columns(worse)
    )
    runs = [save_run(data, tmp_path / name) for data, name in ((whole, "a"), (part, "b"))]
    compared = compare_means(*runs)
    assert compared["prompts"] == 6
    row = compared["rows"][0]
    first, second = map(number, row["means"])
    by_hand = whole.tokens.filter(few, "in_loss")["reverse_kl"].cast(pl.Float64).mean()
    assert first == float(f"{by_hand:.3g}")
    assert abs(number(row["difference"]) - (second - first)) < 0.002
    assert second > first
    text = od.report(*runs, rollouts=0).path.read_text()
    assert "Means are over the rollouts of the 6 prompts that both hold" in text


def test_runs_that_share_no_prompt_are_described_by_all_of_theirs(tmp_path):
    ours = null_run(prompts=6, samples=1, tokens=40, types=80)
    prompt = pl.Series([[i] for i in range(6)], dtype=ours.rollouts["prompt_token_ids"].dtype)
    theirs = ours._replace(rollouts=ours.rollouts.with_columns(prompt_token_ids=prompt))
    runs = [save_run(ours, tmp_path / "a"), save_run(theirs, tmp_path / "b")]
    compared = compare_means(*runs)
    assert compared["prompts"] == 0
    mean = ours.tokens.filter("in_loss")["reverse_kl"].cast(pl.Float64).mean()
    assert [number(text) for text in compared["rows"][0]["means"]] == [float(f"{mean:.3g}")] * 2
    assert compared["rows"][0]["difference"] == "n/a (no values on shared prompts)"
    assert "means are over all rollouts" in od.report(*runs, rollouts=0).path.read_text()
