"""Lists of K types: coverage, stability and selectors against sets and loops."""

import numpy as np
import polars as pl
import pytest
import scipy.stats
from scipy.sparse import csr_array

from opd_diag.analyses.rock_tokens import rock_tokens
from opd_diag.analyses.rock_tokens.lists import agreement, split_totals, suggested_k
from opd_diag.analyses.rock_tokens.occurrences import Sums
from opd_diag.analyses.rock_tokens.options import Options
from opd_diag.analyses.rock_tokens.ranking import SELECTORS, Totals, rank_types
from opd_diag.datasets import rock_run

K_LIST = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)
TOP = 12


@pytest.fixture(scope="module")
def data():
    return rock_run(prompts=10, samples=2, tokens=80, types=70, checkpoints=("a", "b"), seed=6)


@pytest.fixture(scope="module", params=["last", "first"])
def rank_by(request):
    return request.param


@pytest.fixture(scope="module")
def found(data, rank_by):
    return rock_tokens(data.tokens, data.rollouts, top=TOP, rank_by=rank_by)


def totals(rows):
    """Sum by type: n, ranking loss, its square, loss of the other checkpoint, gradient."""
    return {
        token: np.array(values)
        for token, *values in rows.group_by("token_id")
        .agg(
            pl.len().alias("n"),
            pl.col("own").sum().alias("loss"),
            (pl.col("own") ** 2).sum().alias("square"),
            pl.col("other").sum(),
            pl.col("grad_logits").cast(pl.Float64).sum(),
        )
        .iter_rows()
    }


@pytest.fixture(scope="module")
def rows(data, rank_by):
    keys = ["rollout", "position", "token_id"]
    kl = pl.col("reverse_kl").cast(pl.Float64)
    own, other = ("a", "b") if rank_by == "first" else ("b", "a")
    return (
        data.tokens.filter(checkpoint=own)
        .select(*keys, "grad_logits", own=kl)
        .join(data.tokens.filter(checkpoint=other).select(*keys, other=kl), on=keys)
        .join(data.rollouts.select("rollout", "half"), on="rollout")
    )


def score_by_hand(selector, value, everything):
    """Score a type from its n, loss, square and other loss; None where it may not be listed."""
    n, loss, square, other, _ = value
    if selector == "R":
        return loss
    if selector == "frequency":
        return n
    if selector == "joint":
        return min(loss, other)
    if n < 2:
        return None
    if selector == "mean":
        return loss / n
    s = np.sqrt(max(square - loss**2 / n, 0) / (n - 1))
    if selector == "lower_bound":
        return n * max(loss / n - scipy.stats.t.ppf(0.95, n - 1) * s / np.sqrt(n), 0)
    # Empirical Bayes: one-way random effects with unbalanced counts.
    values = np.array(list(everything.values()))
    ns, xs, squares = values[:, 0], values[:, 1], values[:, 2]
    N, k = ns.sum(), len(ns)
    grand = xs.sum() / N
    within = (squares - xs**2 / ns).sum() / (N - k)
    among = (ns * (xs / ns - grand) ** 2).sum() / (k - 1)
    between = max((among - within) / ((N - (ns**2).sum() / N) / (k - 1)), 0)
    if between == 0:
        return None
    return grand + between / (between + within / n) * (loss / n - grand)


def list_by_hand(selector, t, size, eligible):
    scores = {token: score_by_hand(selector, t[token], t) for token in t if token in eligible}
    able = {token: score for token, score in scores.items() if score is not None}
    return set(sorted(able, key=lambda token: (-able[token], token))[:size])


def shares_by_hand(t, chosen):
    n, loss, _, _, gradient = (
        sum(t[token][i] for token in t if token in chosen) / sum(v[i] for v in t.values())
        for i in range(5)
    )
    return n, loss, gradient


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_list_holds_what_a_loop_over_types_says(selector, rows, found):
    whole = totals(rows)
    halves = [totals(rows.filter(half=half)) for half in (0, 1)]
    eligible = {token for token in whole if whole[token][0] >= 2}
    checks = [(found.rock_selectors, TOP)]
    if selector in ("R", "frequency"):
        checks += [(found.rock_cutoff, size) for size in (5, 10, 20, 30, TOP)]
    for table, size in checks:
        row = table.filter(selector=selector, K=size).row(0, named=True)
        n, loss, gradient = shares_by_hand(whole, list_by_hand(selector, whole, size, eligible))
        assert row["position_share"] == pytest.approx(n)
        assert row["coverage"] == pytest.approx(loss)
        assert row["lift"] == pytest.approx(loss / n)
        assert row["grad_share"] == pytest.approx(gradient)
        both = [
            shares_by_hand(there, list_by_hand(selector, here, size, eligible))
            for here, there in (halves, halves[::-1])
        ]
        n, loss, _ = np.mean(both, axis=0)
        assert row["cross_coverage"] == pytest.approx(loss)
        assert row["cross_lift"] == pytest.approx(loss / n)
        assert row["cross_coverage_low"] < row["cross_coverage"] < row["cross_coverage_high"]
        assert row["n"] == len(eligible)


def test_every_k_of_the_list_stands_in_the_table_and_the_size_asked_for_too(found):
    types = found.rock_cutoff["n"][0]
    for selector in ("R", "frequency"):
        ks = found.rock_cutoff.filter(selector=selector)["K"].to_list()
        assert ks == sorted({TOP, *(k for k in K_LIST if k <= types)})


def test_coverage_on_the_rows_that_chose_is_the_larger_one(found):
    ours = found.rock_cutoff.filter(selector="R")
    assert (ours["coverage"] >= ours["cross_coverage"] - 1e-9).all()
    small = ours.filter(pl.col("K") < 50)
    assert (small["coverage"] > small["cross_coverage"]).any()


def made_up(prompts=9, types=40, seed=0):
    rng = np.random.default_rng(seed)
    n = rng.poisson(0.6, (prompts, types)).astype(float)
    x = n * rng.gamma(1.0, 1.0, (prompts, types))
    sparse = [csr_array(a) for a in (n, x, x**2, x + n)]
    return n, x, Sums(
        names=("a", "b"),
        ranked=0,
        token_id=np.arange(types, dtype=np.int32),
        prompt_id=[str(i) for i in range(prompts)],
        half=np.arange(prompts, dtype=np.uint8) % 2,
        n=[sparse[0]] * 2,
        x=[sparse[1], sparse[3]],
        square=sparse[2],
        gradient=sparse[1],
        paired=True,
    )  # fmt: skip


def asked(sums, **choices):
    """Rank made-up sums, without the tokens behind them."""
    options = Options(rank_by="first", **choices)
    return rank_types(None, sums, sums, options)


def test_splits_are_disjoint_halves_of_the_prompts():
    n, x, sums = made_up()
    one, other = split_totals(asked(sums))
    assert one.n.shape == (50, 40)
    np.testing.assert_allclose(one.n + other.n, np.tile(n.sum(axis=0), (50, 1)))
    np.testing.assert_allclose(one.x + other.x, np.tile(x.sum(axis=0), (50, 1)))
    # Each side is the sum of 4 of the 9 prompts: find which.
    for row in one.x[:10]:
        member, *_ = np.linalg.lstsq(x.T, row, rcond=None)
        assert sorted(member.round(6)) == [0.0] * 5 + [1.0] * 4
    assert len(np.unique(one.x.round(9), axis=0)) > 30


def test_agreement_is_that_of_sets():
    _, _, sums = made_up(types=60)
    n = np.asarray(sums.n[0].sum(axis=0)).ravel()
    eligible = n >= 2
    universe = int(eligible.sum())
    ks = (3, 10, 20, universe)
    splits = split_totals(asked(sums, seed=1))
    found = agreement("R", splits, ks, eligible, Options())
    for split in range(50):
        for place, k in enumerate(ks):
            lists = [
                set(sorted(np.flatnonzero(eligible), key=lambda t: -side.R[split, t])[:k])
                for side in splits
            ]
            absent = [
                sum(side.x[split, list(chosen)] == 0)
                for side, chosen in zip(splits, lists, strict=True)
            ]
            jaccard = len(lists[0] & lists[1]) / len(lists[0] | lists[1])
            if any(absent) and k < universe:
                continue  # which of the types with R = 0 are listed is drawn
            assert found.jaccard[split, place] == pytest.approx(jaccard)
            shared = k * k / universe
            chance = shared / (2 * k - shared)
            if k < universe:
                assert found.corrected[split, place] == pytest.approx(
                    (jaccard - chance) / (1 - chance)
                )
    assert (found.jaccard[:, -1] == 1).all()  # types that a half lacks have R = 0, and stay in U


def test_lists_without_information_agree_by_chance():
    rng = np.random.default_rng(0)
    n, zero = np.ones((50, 400)), np.zeros((50, 400))
    sides = [Totals("first", n, zero, rng.random((50, 400)), zero) for _ in range(2)]
    eligible = np.ones(400, bool)
    found = agreement("R", (sides[0], sides[1]), (20, 50, 100), eligible, Options())
    assert np.abs(found.corrected.mean(axis=0)).max() < 0.02
    # The order of ids is no agreement either: equal scores are drawn.
    ties = agreement("frequency", (sides[0], sides[1]), (20, 50, 100), eligible, Options())
    assert np.abs(ties.corrected.mean(axis=0)).max() < 0.02


def test_the_table_holds_mean_and_spread_of_the_splits(data, found):
    row = found.rock_cutoff.filter(selector="R", K=10).row(0, named=True)
    assert row["J_p05"] <= row["J"] <= row["J_p95"]
    U = row["n"]
    chance = (100 / U) / (20 - 100 / U)
    assert row["J_c"] == pytest.approx((row["J"] - chance) / (1 - chance))
    again = found.rock_selectors.filter(selector="R", K=TOP).row(0, named=True)
    ours = found.rock_cutoff.filter(selector="R", K=TOP).row(0, named=True)
    for name in ("J", "J_c", "J_c_p05", "coverage", "cross_lift_high"):
        assert again[name] == pytest.approx(ours[name])


@pytest.mark.parametrize(
    ("stable", "types", "expected"),
    [
        ({5, 10, 20, 30}, 400, 30),
        ({5, 10, 20, 50}, 400, 20),  # 30 is not stable: nothing beyond counts
        ({10, 20}, 400, 20),  # 5 is below those that are judged
        ({5}, 400, 5),
        ({20, 30}, 400, None),
        ({5, 10, 20, 30}, 50, 20),  # K at most half of the types
        (set(), 400, None),
    ],
)
def test_the_suggested_size_is_the_largest_with_every_smaller_one_stable(stable, types, expected):
    ks = [5, 7, 10, 20, 30, 50]
    # The 5th percentile decides, not the mean.
    low = np.linspace(0.2, 0.69, 50)
    high = np.linspace(0.7, 0.9, 50)
    corrected = np.column_stack([high if k in stable else low + 0.25 * (k == 50) for k in ks])
    assert suggested_k(ks, corrected, types) == expected


def test_planted_rocks_make_a_stable_list_of_more_than_frequency():
    run = rock_run(prompts=40, rocks=5, learned=5, height=8.0, types=120)
    found = rock_tokens(run.tokens, run.rollouts, top=10)
    by = {row["selector"]: row for row in found.rock_selectors.to_dicts()}
    assert by["R"]["J_c_p05"] >= 0.7
    assert by["R"]["cross_lift_low"] > by["frequency"]["cross_lift_high"]
    assert by["mean"]["cross_lift_low"] > by["R"]["cross_lift_high"]
    assert found.rock_cutoff.filter(selector="R")["suggested_K"][0] >= 10


def test_joint_ranks_by_the_smaller_loss_of_both(data):
    found = rock_tokens(data.tokens, data.rollouts, top=TOP, rank_by="joint").rock_tokens
    sums = data.tokens.group_by("token_id", "checkpoint").agg(
        pl.col("reverse_kl").cast(pl.Float64).sum(), n=pl.len()
    )
    smaller = sums.filter(pl.col("n") >= 2).group_by("token_id").agg(pl.col("reverse_kl").min())
    expected = smaller.sort("reverse_kl", descending=True)["token_id"].to_list()
    ranked = found.filter(pl.col("rank").is_not_null())
    assert ranked["token_id"].to_list() == expected
    assert found["checkpoint"].unique().to_list() == ["b"]
    last = dict(sums.filter(checkpoint="b").select("token_id", "reverse_kl").iter_rows())
    for row in found.to_dicts():
        assert row["R"] == pytest.approx(last[row["token_id"]], rel=1e-6)
    assert found["rank_low"].is_null().all()
    assert ranked["reason"].str.contains("joint rank: no interval of it").all()


def test_noise_makes_no_stable_list_of_mean_loss_and_says_so():
    run = rock_run(prompts=12, samples=1, tokens=60, rocks=0, learned=0, types=200)
    found = rock_tokens(run.tokens, run.rollouts, top=30)
    mean = found.rock_selectors.filter(selector="mean").row(0, named=True)
    assert abs(mean["J_c"]) < 0.1
    assert mean["cross_lift_low"] < 1 < mean["cross_lift_high"]
    ours = found.rock_cutoff.filter(selector="R")
    if ours["suggested_K"][0] is None:
        assert ours["reason"].str.contains("no stable list: too few prompts").all()
    tight = rock_tokens(run.tokens, run.rollouts, top=90).rock_cutoff.filter(K=90)
    assert tight["reason"].str.contains("fewer types than twice K").all()
