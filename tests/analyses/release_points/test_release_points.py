"""The public function: planted effects found, nulls not found, bad input refused."""

import json
import math

import numpy as np
import polars as pl
import pytest
import scipy.stats
from polars.testing import assert_frame_equal, assert_series_equal

from opd_diag.analyses.release_points import release_points, summary_lines
from opd_diag.analyses.release_points.options import choose_rule
from opd_diag.analyses.release_points.points import judge
from opd_diag.analyses.release_points.segments import Segments
from opd_diag.analyses.tokens import TokenTable
from opd_diag.datasets import null_run, save_run
from opd_diag.datasets.releases import release_run
from opd_diag.errors import OptionError, TableError
from opd_diag.exports import export
from opd_diag.tables.columns.release_points import TABLES
from opd_diag.tables.schema import check_table

FEW_K = (2, 4)


def small(**options):
    """Make a small run that nothing splits."""
    data = release_run(**{"prompts": 8, "samples": 2, "k_grid": FEW_K} | options)
    nothing = {"correct": pl.Boolean, "finish_reason": pl.String}
    without = data.rollouts.with_columns(pl.lit(None, t).alias(n) for n, t in nothing.items())
    return data._replace(rollouts=without)


def analysed(data, **options):
    return release_points(data.tokens, data.rollouts, k_grid=FEW_K, **options)


def statistic(found, name, *, k=4, split="all", group="all"):
    rows = found.release_summary.filter(
        pl.col("statistic") == name,
        pl.col("split") == split,
        pl.col("group") == group,
        pl.col("k").is_null() | (pl.col("k") == k),
    )
    return rows.row(0, named=True)


@pytest.fixture(scope="module")
def planted():
    data = small(prompts=24, checkpoints=("a", "b"))
    return data, analysed(data)


def test_every_table_keeps_its_schema(planted):
    _, found = planted
    assert list(found._asdict()) == list(TABLES)
    for name, table in found._asdict().items():
        assert check_table(table, TABLES[name], name).height
        assert table["checkpoint"].unique(maintain_order=True).to_list() == ["a", "b"]


def test_planted_drops_are_found_at_the_right_token(planted):
    data, found = planted
    points = found.release_points.filter(pl.col("checkpoint") == "a")
    assert points["accepted"].all()
    away = np.abs(points["tau"].to_numpy().astype(int) - data.truth["tau"])
    # A drop of four standard deviations is seldom missed, and then by one segment.
    assert (away == 0).mean() > 0.8
    assert away.max() <= 2
    exact = away == 0
    token = points["release_token"].to_numpy()[exact]
    assert (token == data.truth["release_token"][exact]).all()
    share = data.truth["release_token"] / 320
    np.testing.assert_allclose(points["release_frac"].to_numpy()[exact], share[exact])
    np.testing.assert_allclose(points["scale"].to_numpy()[exact], 1 / share[exact])


def test_the_summary_of_a_planted_drop_tells_it_from_its_controls(planted):
    _, found = planted
    assert statistic(found, "accepted_at_6")["value"] == 1
    up = statistic(found, "accepted_up")
    assert (up["value"], up["value_low"]) == (0, 0)
    assert 0.05 < up["value_high"] < 0.2  # Wilson's, on 24 prompts
    assert statistic(found, "accepted_minus_up")["value"] == 1
    assert statistic(found, "accepted_shuffled")["value"] < 0.05
    assert statistic(found, "gain_minus_up")["value_low"] > 10
    ends = statistic(found, "margin_early_minus_late")
    assert ends["value_low"] > 0.5
    assert ends["p"] < 0.001
    fade = statistic(found, "margin_late_over_early")
    assert fade["value_high"] < 0.6
    assert statistic(found, "accepted_at_6")["paper"] == 0.79
    assert statistic(found, "accepted_at_6", k=2)["paper"] is None


def test_a_planted_drop_stops_the_rollout_soon_after_it(planted):
    data, found = planted
    points = found.release_points.filter(pl.col("checkpoint") == "a")
    read = points["stop_segments"].to_numpy().astype(int)
    assert (read > data.truth["tau"]).mean() > 0.95
    assert np.median(read - data.truth["tau"]) <= 3
    assert statistic(found, "stopped")["value"] == 1
    assert statistic(found, "stopped_minus_up")["value"] == 1
    assert statistic(found, "stopped_not_accepted")["value"] == 0
    delay = statistic(found, "stop_delay")
    expected = (read - points["tau"].cast(pl.Int64).to_numpy()).mean()
    assert delay["value"] == pytest.approx(expected)
    saved = 1 - points["stop_frac"].to_numpy()
    assert statistic(found, "stop_saved")["value"] == pytest.approx(saved.mean())


def test_watched_noise_stops_more_often_than_the_whole_is_accepted_and_as_often_shuffled():
    data = small(prompts=60, samples=4, segments=40, shape="none")
    found = analysed(data)
    stopped, accepted = (statistic(found, name) for name in ("stopped", "accepted"))
    assert stopped["value_low"] > accepted["value"] + 0.01
    for name in ("stopped_minus_up", "stopped_minus_shuffled"):
        row = statistic(found, name)
        assert row["value_low"] < 0 < row["value_high"]
    assert statistic(found, "stopped_not_accepted")["value"] > 0.5


def test_white_noise_is_seldom_accepted_and_as_often_up_as_down():
    down = up = 0
    n = 800
    for seed in range(2):
        data = small(prompts=100, samples=4, segments=20, shape="none", seed=seed)
        points = analysed(data).release_points
        down += int((points["gain"] > 6).sum())
        up += int((points["gain_up"] > 6).sum())
    assert scipy.stats.binom.sf(down - 1, n, 0.004) > 1e-3
    assert scipy.stats.binom.sf(up - 1, n, 0.004) > 1e-3


def test_noise_with_memory_is_accepted_often_and_the_controls_show_it():
    data = small(prompts=48, samples=4, segments=50, shape="none", phi=0.6)
    found = analysed(data)
    rate = statistic(found, "accepted")
    assert 0.08 < rate["value"] < 0.26  # a naive reading: "a release point in 16 % of rollouts"
    for name in ("accepted_minus_up", "gain_minus_up", "margin_early_minus_late"):
        balance = statistic(found, name)
        assert balance["value_low"] < 0 < balance["value_high"]
    assert statistic(found, "accepted_shuffled")["value_high"] < rate["value_low"]
    assert statistic(found, "autocorrelation")["value_low"] > 0.2


def test_a_smooth_decline_is_reported_as_such():
    common = {"prompts": 24, "segments": 120, "segment_tokens": 2, "drop": 1.5}
    line, step = (analysed(small(shape=shape, **common)) for shape in ("line", "step"))
    for found in (line, step):
        assert statistic(found, "accepted_at_6")["value"] > 0.95
    assert statistic(line, "step_beats_line")["value"] < 0.15
    assert statistic(step, "step_beats_line")["value"] > 0.85


def test_a_release_point_keeps_more_than_a_shuffled_one_only_where_something_is_planted(planted):
    data, found = planted
    margin = statistic(found, "margin_release_minus_shuffled")
    assert margin["value_low"] > 0
    kl = statistic(found, "reverse_kl_release_minus_shuffled")
    assert kl["value_low"] < 0 < kl["value_high"]
    kept = data.tokens.with_columns(
        reverse_kl=pl.when(pl.col("margin").arr.get(0) > 11).then(1.0).otherwise(0.1)
    ).with_columns(pl.col("reverse_kl").cast(pl.Float32))
    assert (
        statistic(
            release_points(kept, data.rollouts, checkpoint="a", k_grid=FEW_K),
            "reverse_kl_release_minus_shuffled",
        )["value_low"]
        > 0
    )


def test_splits_part_the_rollouts_and_show_the_teachers_own_prefixes():
    data = small(prompts=12)
    rollouts = data.rollouts.with_columns(
        policy=pl.when(pl.col("rollout") % 2 == 0)
        .then(pl.lit("step0"))
        .otherwise(pl.lit("teacher")),
        correct=pl.when(pl.col("rollout") >= 4).then(pl.col("rollout") % 3 == 0),
    )
    found = release_points(data.tokens, rollouts, k_grid=FEW_K)
    rates = found.release_summary.filter(pl.col("statistic") == "accepted")
    sizes = {(s, g): n for s, g, n in rates.select("split", "group", "n").iter_rows()}
    assert sizes["policy", "step0"] == sizes["policy", "teacher"] == 12
    assert sizes["correct", "unknown"] == 4
    assert sum(n for (split, _), n in sizes.items() if split == "correct") == 24
    assert not any(split == "step" for split, _ in sizes)  # one step only
    curves = found.release_curves.filter(pl.col("quantity") == "advantage_std")
    assert set(curves.filter(pl.col("split") == "policy")["group"]) == {"step0", "teacher"}
    alone = release_points(data.tokens, rollouts, policy="teacher", k_grid=FEW_K)
    ours = curves.filter(pl.col("group") == "teacher")
    theirs = alone.release_curves.filter(quantity="advantage_std", axis="relative", split="all")
    assert_series_equal(ours["value"], theirs["value"], rel_tol=1e-9)
    assert alone.release_points["policy"].unique().to_list() == ["teacher"]


def test_groups_have_the_headline_curves_and_all_rollouts_have_all():
    found = analysed(release_run(prompts=8, samples=2, k_grid=FEW_K))
    curves = found.release_curves.filter(axis="relative")
    kinds = curves.group_by("split").agg(pl.struct("quantity", "k").n_unique())
    counts = dict(kinds.iter_rows())
    assert counts["correct"] == counts["finish_reason"] == 7
    assert counts["all"] == 11
    assert set(found.release_curves.filter(axis="absolute")["split"]) == {"all"}
    assert set(found.release_summary.filter(split="correct")["k"].drop_nulls()) == {4}


def test_many_groups_share_one_draw_and_small_ones_say_why():
    data = small(prompts=40)
    steps = pl.col("prompt_id").rank("dense").cast(pl.Int64) - 1
    rollouts = data.rollouts.with_columns(step=pl.when(steps < 20).then(0).otherwise(steps))
    found = release_points(data.tokens, rollouts, k_grid=FEW_K)
    rates = found.release_summary.filter(split="step", statistic="accepted_minus_up")
    one = rates.filter(group="0").row(0, named=True)
    assert one["n_prompts"] == 20
    alone = release_points(data.tokens, rollouts, k_grid=FEW_K, step=0)
    same = statistic(alone, "gain_mean")
    shared = statistic(found, "gain_mean", split="step", group="0")
    assert shared["value"] == pytest.approx(same["value"])
    width = same["value_high"] - same["value_low"]
    assert shared["value_high"] - shared["value_low"] == pytest.approx(width, rel=0.2)
    others = rates.filter(pl.col("group") != "0")
    assert others.height == 20
    assert set(others["reason"]) == {"too few prompts"}
    curves = found.release_curves.filter(split="step", group="25")
    assert curves["value"].is_not_null().all()
    assert set(curves["reason"]) == {"too few prompts"}


def test_batches_and_the_order_of_rows_do_not_matter(monkeypatch):
    data = small(prompts=6)
    whole = analysed(data)
    monkeypatch.setitem(TokenTable.batches.__kwdefaults__, "most", 700)
    shuffled = data._replace(tokens=data.tokens.sample(fraction=1, shuffle=True, seed=1))
    parts = analysed(shuffled)
    for name in ("release_points", "release_correlation", "release_example"):
        left, right = getattr(whole, name), getattr(parts, name)
        assert_frame_equal(left, right, rel_tol=1e-6)
    values = [
        f.release_summary.filter(~pl.col("statistic").str.contains("shuffled"))["value"]
        for f in (whole, parts)
    ]
    assert_series_equal(*values, rel_tol=1e-6)


def test_only_the_columns_that_are_used_are_needed():
    data = small()
    used = [
        "rollout",
        "position",
        "token_id",
        "segment",
        "in_loss",
        "student_logp",
        "teacher_logp",
        "margin",
    ]
    used += ["student_entropy", "teacher_entropy", "teacher_top_logp", "advantage_var"]
    used += ["reverse_kl", "grad_logits", "checkpoint"]
    found = release_points(
        data.tokens.select(used), data.rollouts.select("rollout", "prompt_id"), k_grid=FEW_K
    )
    assert found.release_points.drop("policy", "step", "correct", "finish_reason").equals(
        analysed(data).release_points.drop("policy", "step", "correct", "finish_reason")
    )


def test_rollouts_that_cannot_be_judged_say_why():
    data = small(prompts=3, segments=12)
    tokens = data.tokens.filter(pl.col("rollout") != 0).with_columns(
        in_loss=pl.col("rollout") != 1,
        segment=pl.when(pl.col("rollout") == 2).then(pl.col("segment") // 2).otherwise("segment"),
        margin=pl.when(pl.col("rollout") == 3)
        .then(pl.lit([1.0, 1.0], dtype=pl.Array(pl.Float32, 2)))
        .otherwise("margin"),
    )
    tokens = tokens.with_columns(pl.col("segment").cast(pl.UInt32))
    found = release_points(tokens, data.rollouts, k_grid=FEW_K)
    rows = found.release_points
    assert rows["reason"][:4].to_list() == ["too few segments"] * 3 + ["flat"]
    assert rows["n_tokens"][:4].to_list() == [0, 0, 96, 96]
    assert rows["gain"][:4].is_null().all()
    assert not rows["accepted"][:4].any()
    assert statistic(found, "accepted_at_6")["n"] == 3  # too few segments is not "no collapse"
    assert statistic(found, "too_few_segments")["value"] == 0.5
    assert statistic(found, "accepted_at_6")["reason"] == "too few prompts"
    assert found.release_summary["value_low"].is_null().all()


def test_presets_and_their_parts():
    data = small(segments=6, shape="none")
    ours, paper = analysed(data), analysed(data, preset="paper")
    assert (ours.release_points["reason"] == "too few segments").all()
    assert paper.release_points["reason"].is_null().sum() > 10
    assert paper.release_points["accepted"].sum() > 0  # noise, accepted by the paper's rule
    strict = analysed(data, preset="paper", threshold=1e6)
    assert strict.release_points["accepted"].sum() == 0
    assert strict.release_points["gain"].equals(paper.release_points["gain"])
    fewer = analysed(data, min_segments=6).release_points
    assert "too few segments" not in fewer["reason"].to_list()
    assert (fewer["tau"].drop_nulls() == 3).all()  # 3 a side leave one place


def test_the_headline_and_its_nulls_stand_at_the_chosen_threshold():
    data = small(segments=20, shape="none", prompts=24)
    for options in ({"preset": "paper"}, {"threshold": 2.5}, {"statistic": "cusum"}):
        found = analysed(data, **options)
        expected = {"preset": 0.0, "threshold": 2.5, "statistic": 1.6}[next(iter(options))]
        rows = {
            name: statistic(found, name)
            for name in ("accepted", "accepted_up", "accepted_shuffled", "accepted_minus_up")
        }
        assert {row["threshold"] for row in rows.values()} == {expected}
        points = found.release_points
        assert rows["accepted"]["value"] == points["accepted"].mean()
        name = "cusum_up" if "statistic" in options else "gain_up"
        assert rows["accepted_up"]["value"] == (points[name] > expected).sum() / points.height
        assert statistic(found, "accepted_at_6")["threshold"] == 6
    paper = statistic(analysed(data, preset="paper"), "accepted_shuffled")
    assert paper["value"] > 0.05  # noise that the paper's rule accepts
    ours = statistic(analysed(data), "accepted_shuffled")
    assert paper["value"] > 5 * ours["value"]


def test_the_cumulative_sum_finds_small_drops_in_the_middle_and_is_seldom_wrong():
    rng = np.random.default_rng(8)
    noise = rng.normal(size=(4000, 50))
    fallen = noise - 0.5 * (np.arange(50) >= 25)
    nothing = np.zeros(noise.size, np.int64)
    accepted = {}
    sizes = np.full(4000, 50)
    for statistic_ in ("bic", "cusum"):
        rule = choose_rule("opd-diag", statistic_, None, None, None)
        for name, series in (("noise", noise), ("fallen", fallen)):
            segments = Segments(
                sizes, series.reshape(-1, 1), nothing + 1, nothing, nothing, sizes, np.arange(4000)
            )
            accepted[statistic_, name] = int(judge(segments, 0, rule)["accepted"].sum())
    for statistic_ in ("bic", "cusum"):
        assert scipy.stats.binom.sf(accepted[statistic_, "noise"] - 1, 4000, 0.0045) > 1e-3
    assert accepted["cusum", "fallen"] > 1.25 * accepted["bic", "fallen"]


def test_other_segmenters_cut_the_same_tokens_elsewhere(tmp_path):
    data = small(segment_tokens=8)
    run = save_run(data, tmp_path / "run")
    stored, same = release_points(run), release_points(tmp_path / "run", segmenter="block:8")
    assert stored.release_points.equals(same.release_points)
    coarse = release_points(run, segmenter="block:32")
    assert coarse.release_points["n_segments"].to_list() == [10] * 16
    one_line = release_points(run, segmenter="newline")
    assert (one_line.release_points["reason"] == "too few segments").all()
    texts = stored.release_example["text"].to_list()
    spelled = data.rollouts["response_token_ids"][int(stored.release_example["rollout"][0])]
    assert "".join(texts).split() == [str(i) for i in spelled]


def test_equal_seeds_give_equal_tables():
    data = small(prompts=6)
    for left, right in zip(analysed(data, seed=3), analysed(data, seed=3), strict=True):
        assert left.equals(right)


def test_a_run_of_noise_has_flat_curves():
    outside = total = 0
    for seed in range(5):
        data = null_run(prompts=24, samples=2, tokens=100, k_grid=FEW_K, seed=seed)
        rollouts = data.rollouts.drop("correct", "finish_reason")
        ratios = release_points(data.tokens, rollouts, k_grid=FEW_K).release_summary.filter(
            (pl.col("split") == "all") & pl.col("statistic").str.ends_with("_late_over_early")
        )
        total += ratios.height
        outside += ratios.filter((pl.col("value_low") > 1) | (pl.col("value_high") < 1)).height
    assert outside <= scipy.stats.binom.ppf(0.9999, total, 0.08)


def test_bad_options_are_refused():
    data = small(prompts=2)
    with pytest.raises(OptionError, match=r"preset: 'papers'; expected paper or opd-diag"):
        analysed(data, preset="papers")
    with pytest.raises(OptionError, match="statistic: 'mean'; expected bic or cusum"):
        analysed(data, statistic="mean")
    for options, message in (
        ({"min_size": 0}, "min_size: 0; expected 1 or more"),
        ({"min_segments": 1}, "min_segments: 1; expected 2 or more"),
        ({"threshold": math.nan}, "threshold: nan; expected a finite number"),
        ({"seed": -1}, "seed: -1; expected 0 or more"),
    ):
        with pytest.raises(OptionError, match=message):
            analysed(data, **options)
    with pytest.raises(OptionError, match="k: 3; expected one of 2, 4"):
        analysed(data, k=3)
    with pytest.raises(OptionError, match="segmenter: 'commas'; expected punkt, newline or block"):
        analysed(data, segmenter="commas")
    with pytest.raises(OptionError, match="'newline' reads text; expected a run"):
        analysed(data, segmenter="newline")
    with pytest.raises(TableError, match="policy: no rollouts of 'teacher'; expected one of step0"):
        analysed(data, policy="teacher")
    with pytest.raises(TableError, match="step: no rollouts of 7; expected one of 0"):
        analysed(data, step=7)
    with pytest.raises(TableError, match="no 'x'; expected one of step0"):
        analysed(data, checkpoint="x")


def test_summary_lines_name_the_figures_and_the_reasons(planted):
    _, found = planted
    lines = summary_lines(found)
    assert lines[0] == "a: 48 rollouts"
    assert lines[1] == "  released at the threshold 6: 100.0 % [86.2, 100.0] of the rollouts"
    assert "13 % of the response" in lines[-1]
    assert len(lines) <= 21
    strict = summary_lines(analysed(small(), threshold=500.5))
    assert strict[1].startswith("  released at the threshold 500: 0.0 % [0.0, ")
    tiny = summary_lines(analysed(small(prompts=2, segments=6)))
    assert tiny[0] == "step0: 4 rollouts, 4 too few segments"
    assert any("n/a (too few prompts" in line for line in tiny)


def test_the_default_k_is_4_or_the_smallest_of_a_grid_without_4(tmp_path) -> None:
    data = release_run(prompts=8, samples=2, drop=2.0, k_grid=(8, 16))
    run = save_run(data, tmp_path / "run")
    usual, asked = release_points(run), release_points(run, k=8)
    for ours, theirs in zip(usual, asked, strict=True):
        assert_frame_equal(ours, theirs)
    accepted = usual.release_summary.filter(statistic="accepted")
    assert accepted["k"].unique().to_list() == [8]
    with pytest.raises(OptionError, match="k: 4; expected one of 8, 16"):
        release_points(run, k=4)
    grid = (2, 4, 8)
    data = null_run(prompts=8, samples=2, tokens=120, k_grid=grid)
    found = release_points(data.tokens, data.rollouts, k_grid=grid).release_summary
    assert found.filter(statistic="accepted")["k"].unique().to_list() == [4]
    run.save(usual)
    exported = export(run, rule="release", to="parquet", out=tmp_path / "export")
    assert exported.rule is not None
    assert json.loads(exported.rule.read_text())["k"] == 8
