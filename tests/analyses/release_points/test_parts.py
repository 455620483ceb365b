"""The parts of the analysis, each against brute force or an independent source."""

import numpy as np
import polars as pl
import pytest
import scipy.stats

from opd_diag.analyses.release_points import release_points
from opd_diag.analyses.release_points.budgets import windows
from opd_diag.analyses.release_points.segments import cut_again
from opd_diag.datasets import null_run
from opd_diag.stats.changepoints import downward_shift
from opd_diag.stats.cluster_averages import cluster_median

FEW_K = (2, 4)


@pytest.fixture(scope="module")
def noisy():
    """Noise in which the first tenth of the tokens does not count and some numbers are missing."""
    data = null_run(prompts=12, samples=2, tokens=180, k_grid=FEW_K, seed=4)
    known = (pl.col("rollout") * 7 + pl.col("position") * 13) % 29 != 0
    tokens = data.tokens.with_columns(
        (pl.col("position") >= pl.col("rollout") % 12 * 3).alias("in_loss"),
        *(
            pl.when(known).then(pl.col(name)).alias(name)
            for name in ("margin", "student_logp", "reverse_kl")
        ),
    )
    return tokens, data.rollouts, release_points(tokens, data.rollouts, k_grid=FEW_K)


def in_loss(tokens, rollout):
    return tokens.filter((pl.col("rollout") == rollout) & pl.col("in_loss"))


def test_scores_and_points_agree_with_a_loop_over_tokens(noisy):
    tokens, _, found = noisy
    for point in found.release_points.iter_rows(named=True):
        rows = in_loss(tokens, point["rollout"])
        margins, first = {}, {}
        for place, row in enumerate(rows.iter_rows(named=True)):
            first.setdefault(row["segment"], (row["position"], place))
            if row["margin"] is not None:
                margins.setdefault(row["segment"], []).append(row["margin"][1])
        scores = [np.log1p(np.mean(values)) for values in margins.values()]
        assert point["n_segments"] == len(scores)
        assert point["n_tokens"] == rows.height
        shift = downward_shift(scores)
        if shift is None:
            assert point["reason"] == "no downward split"
            continue
        assert point["tau"] == shift.tau
        assert point["gain"] == pytest.approx(shift.gain, abs=1e-4)
        assert point["mean_before"] == pytest.approx(np.mean(scores[: shift.tau]), rel=1e-5)
        assert point["mean_after"] == pytest.approx(np.mean(scores[shift.tau :]), rel=1e-5)
        assert point["accepted"] == (shift.gain > 6)
        if point["accepted"]:
            position, place = first[list(margins)[shift.tau]]
            assert point["release_token"] == position
            assert point["release_frac"] == pytest.approx(place / rows.height)


def test_curves_agree_with_plain_means(noisy):
    tokens, _, found = noisy
    counted = tokens.filter("in_loss").with_columns(
        index=pl.int_range(pl.len()).over("rollout"),
        size=pl.len().over("rollout"),
        advantage=pl.col("teacher_logp") - pl.col("student_logp"),
    )
    early = counted.filter(pl.col("index") < pl.col("size") / 5)["advantage"].std(ddof=0)
    for axis, chosen in (
        ("relative", (pl.col("index") / pl.col("size")).is_between(0.25, 0.2999999)),
        ("absolute", pl.col("index").is_between(80, 95)),
    ):
        rows = counted.filter(chosen)
        margin = rows["margin"].arr.get(1)
        expected = {
            ("advantage", None): rows["advantage"].mean(),
            ("advantage_std", None): rows["advantage"].std(ddof=0),
            ("student_entropy", None): rows["student_entropy"].mean(),
            ("margin", 4): margin.mean(),
            ("log1p_margin", 4): margin.log1p().mean(),
        }
        if axis == "relative":
            expected["advantage_std_over_early", None] = rows["advantage"].std(ddof=0) / early
        shown = found.release_curves.filter(
            (pl.col("axis") == axis) & (pl.col("bin") == 5) & (pl.col("split") == "all")
        )
        values = {(q, k): v for q, k, v in shown.select("quantity", "k", "value").iter_rows()}
        for key, value in expected.items():
            assert values[key] == pytest.approx(value, rel=1e-5), key
        n = dict(shown.select("quantity", "n").iter_rows())
        assert n["student_entropy"] == rows.height
        assert n["advantage"] == rows["advantage"].count()


def test_correlations_agree_with_scipy(noisy):
    tokens, _, found = noisy
    for row in found.release_correlation.iter_rows(named=True):
        pair = in_loss(tokens, row["rollout"]).select("student_logp", "teacher_logp").to_numpy()
        size = len(pair)
        for side, part in (
            ("early", np.arange(size) < size / 5),
            ("late", np.arange(size) >= 0.8 * size),
        ):
            x, y = pair[part & ~np.isnan(pair).any(axis=1)].T
            assert row[f"n_{side}"] == len(x)
            if min(row["n_early"], row["n_late"]) < 32:
                assert row["reason"] == "fewer than 32 tokens on a side"
                assert row[f"pearson_{side}"] is None
                continue
            assert row[f"pearson_{side}"] == pytest.approx(scipy.stats.pearsonr(x, y)[0], abs=1e-5)
            assert row[f"spearman_{side}"] == pytest.approx(
                scipy.stats.spearmanr(x, y)[0], abs=1e-5
            )
    assert found.release_correlation["reason"].null_count() > 0


def test_budgets_agree_with_plain_sums(noisy):
    tokens, _, found = noisy
    counted = tokens.filter("in_loss").with_columns(
        index=pl.int_range(pl.len()).over("rollout"), size=pl.len().over("rollout")
    )
    half = counted.filter(pl.col("index") < (pl.col("size") / 2).round())
    kl, tokens_kept = half["reverse_kl"].sum(), half.height
    budgets = found.release_budgets
    row = budgets.row(
        by_predicate=(pl.col("window") == "first 50 %") & (pl.col("quantity") == "reverse_kl"),
        named=True,
    )
    assert row["n_tokens"] == tokens_kept
    assert row["token_share"] == pytest.approx(tokens_kept / counted.height)
    assert row["share"] == pytest.approx(kl / counted["reverse_kl"].sum(), rel=1e-5)
    assert row["lift"] == pytest.approx(row["share"] / row["token_share"])
    assert row["lift_low"] < 1 < row["lift_high"]
    everything = budgets.filter(pl.col("window") == "first 256 tokens")
    assert everything["share"].to_list() == [1.0] * 3


def test_windows_of_one_budget_keep_it_and_stay_inside():
    rng = np.random.default_rng(0)
    n = rng.integers(1, 400, 300)
    kept = np.where(rng.random(300) < 0.6, rng.integers(1, n + 1), n)
    listed = {w.name: w for w in windows(n, kept, np.random.default_rng(1))}
    for window in listed.values():
        assert (window.start >= 0).all()
        assert (window.stop <= n).all()
        assert (window.stop >= window.start).all()
    budget = {name: (w.stop - w.start).sum() for name, w in listed.items()}
    assert budget["release"] == kept.sum()
    assert budget["first"] == budget["last"] == budget["random"]
    assert budget["first"] == pytest.approx(kept.sum(), rel=0.01)
    assert (listed["last"].stop == n).all()
    whole = kept == n
    assert (listed["shuffled release"].stop[whole] == n[whole]).all()
    before, after = kept[~whole] / n[~whole], listed["shuffled release"].stop[~whole] / n[~whole]
    assert np.abs(np.sort(before)[20:] - np.sort(after)[20:]).mean() < 0.02
    assert (listed["first 256 tokens"].stop == np.minimum(256, n)).all()


def test_segments_of_other_segmenters_are_those_of_the_text():
    rollouts = pl.DataFrame({"response_token_ids": [[0, 1, 2, 0, 1], [], [2, 0, 0]]})
    vocabulary = pl.DataFrame({"bytes": [b"a ", b"b.", b"\n"], "is_special": [False, False, False]})
    flat, starts = cut_again(rollouts, vocabulary, "newline")
    assert flat.tolist() == [0, 0, 0, 1, 1, 0, 0, 0]  # blank lines go with the first segment
    assert starts.tolist() == [0, 5, 5]
    blocks, _ = cut_again(rollouts, None, "block:2")
    assert blocks.tolist() == [0, 0, 1, 1, 2, 0, 0, 1]


def test_cluster_median_is_the_median_and_covers_it():
    rng = np.random.default_rng(3)
    values = rng.normal(size=61)
    assert cluster_median(values, np.arange(61)).estimate == pytest.approx(np.median(values))
    assert cluster_median(values[:-1], np.arange(60)).estimate == pytest.approx(
        np.median(values[:-1])
    )
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        codes = np.repeat(np.arange(40), 3)
        sample = rng.normal(size=40)[codes] + rng.normal(size=120)
        found = cluster_median(sample, codes, draws=300, seed=seed)
        hits += found.low <= 0 <= found.high
    assert scipy.stats.binom.cdf(hits, 40, 0.92) > 1e-3
    assert cluster_median([], []).reason == "too few prompts"
