import numpy as np
import polars as pl
import pytest
from scipy.stats import skew, spearmanr

from opd_diag.datasets import NULLS, ugly_run
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.columns.tokens import token_columns
from opd_diag.tables.schema import check_table


def first(run):
    return run.tokens.filter(pl.col("checkpoint") == run.tokens["checkpoint"][0])


def log_kl(run):
    return first(run).filter(pl.col("reverse_kl") > 0)["reverse_kl"].log().to_numpy()


def lag(values, rollout):
    """Correlation of neighbours inside a rollout."""
    inside = rollout[1:] == rollout[:-1]
    return np.corrcoef(values[1:][inside], values[:-1][inside])[0, 1]


@pytest.mark.parametrize("kind", NULLS)
def test_every_null_is_a_valid_run_and_keeps_ranges(kind):
    run = ugly_run(prompts=6, tokens=60, seed=3, **NULLS[kind])
    check_table(run.tokens, token_columns(), "tokens")
    check_table(run.rollouts, ROLLOUTS, "rollouts")
    bad = run.tokens.filter(
        (pl.col("student_logp") > 0)
        | (pl.col("teacher_logp") > 0)
        | (pl.min_horizontal("reverse_kl", "forward_kl", "student_entropy") < 0)
        | (pl.col("teacher_mass").arr.min() < 0)
        | (pl.col("teacher_mass").arr.max() > 1)
        | (pl.col("margin").arr.min() < 0)
        | (pl.col("teacher_rank") < 1)
    )
    assert bad.is_empty()
    listed = run.rollouts["response_token_ids"].explode(empty_as_null=False)
    assert listed.to_list() == first(run)["token_id"].to_list()


def test_equal_seeds_give_equal_runs_and_others_do_not():
    one, again, other = (ugly_run(prompts=4, seed=s, **NULLS["all"]) for s in (1, 1, 2))
    assert one.tokens.equals(again.tokens)
    assert one.rollouts.equals(again.rollouts)
    assert not one.tokens.equals(other.tokens)


def test_log_kl_has_the_spread_and_the_zeros_that_are_asked_for():
    run = ugly_run(sigma=2.0, zeros=0.7, snapshots=0.0, seed=1)
    assert log_kl(run).std() == pytest.approx(2.0, abs=0.06)
    share = [(table["reverse_kl"] == 0).mean() for table in run.tokens.partition_by("checkpoint")]
    assert share == pytest.approx([0.7] * 3, abs=0.02)


def test_snapshots_are_exchangeable_or_identical():
    one, two, three = (
        table.drop("checkpoint")
        for table in ugly_run(snapshots=0.0).tokens.partition_by("checkpoint")
    )
    assert one.equals(two)
    assert two.equals(three)
    run = ugly_run(sigma=2.0, zeros=0.5, snapshots=0.6, seed=2)
    a, b, c = (table["reverse_kl"].to_numpy() for table in run.tokens.partition_by("checkpoint"))
    both = (a > 0) & (b > 0) & (c > 0)
    moved = np.log(b[both] / a[both])
    # Two draws of the token's noise; the prompt's third of it is shared inside 48 clusters.
    assert moved.std() == pytest.approx(0.6 * np.sqrt(2 * (1 + 1 / 9)), rel=0.1)
    assert abs(moved.mean()) < 4 * 0.2 * np.sqrt(2 / 48)
    means = [values.mean() for values in (a, b, c)]
    assert np.ptp(means) / np.mean(means) < 0.3


def test_the_teacher_is_the_same_under_every_snapshot():
    run = ugly_run(prompts=6, seed=4, **NULLS["all"])
    names = [name for name in run.tokens.columns if name.startswith("teacher_")]
    same = [name for name in names if name not in ("teacher_mass", "teacher_top_rank")]
    keys = ["rollout", "position", "token_id", "segment", "in_loss", "repeat"]
    tables = [t.select(*keys, *same) for t in run.tokens.partition_by("checkpoint")]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_memory_is_that_of_a_reversible_series():
    run = ugly_run(prompts=60, tokens=300, memory=0.6, snapshots=0.0, seed=5)
    tokens = first(run)
    rollout = tokens["rollout"].to_numpy()
    for values in (tokens["reverse_kl"], tokens["margin"].arr.get(1)):
        logs = values.log().to_numpy()
        assert lag(logs, rollout) == pytest.approx(0.6, abs=0.03)
        # The steps of a reversible series are symmetric: no jumps up with slow decay.
        assert abs(skew(np.diff(logs))) < 0.06


def test_effects_are_where_they_are_asked_for():
    run = ugly_run(prompts=200, tokens=80, prompt_effect=1.0, correct_effect=2.0, seed=6)
    levels = first(run).group_by("rollout").agg(pl.col("reverse_kl").log().mean()).sort("rollout")
    level = levels["reverse_kl"].to_numpy().reshape(-1, 2)
    assert np.corrcoef(level.T)[0, 1] > 0.9
    right = run.rollouts["correct"].to_numpy().reshape(-1, 2)
    assert right[:, 0].mean() == pytest.approx(0.5, abs=0.12)
    assert np.corrcoef(right.T)[0, 1] > 0.2
    assert spearmanr(level.mean(axis=1), right.mean(axis=1)).statistic < -0.2
    # Within a prompt, nothing tells the right one.
    mixed = right[:, 0] != right[:, 1]
    gap = np.where(right[mixed, 0], 1, -1) * (level[mixed, 0] - level[mixed, 1])
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(mixed.sum())


def test_lengths_follow_the_level_of_kl():
    run = ugly_run(prompts=200, tokens=100, seed=7, **NULLS["lengths"])
    levels = first(run).group_by("rollout").agg(pl.len(), pl.col("reverse_kl").log().mean())
    assert levels["len"].log().std() == pytest.approx(0.5, abs=0.08)
    assert np.corrcoef(levels["len"].log(), levels["reverse_kl"])[0, 1] > 0.5


def test_topics_bind_types_to_prompts_and_bursts_bring_them_back():
    run = ugly_run(prompts=60, topical=0.5, seed=8)
    ids = first(run).with_columns(prompt=pl.col("rollout") // 2)
    topical = ids.filter(pl.col("token_id") >= 400 - 6 * (200 // 6))
    assert topical.height / ids.height == pytest.approx(0.5, abs=0.03)
    per_type = topical.group_by("token_id").agg(pl.col("prompt").n_unique(), pl.len())
    common = per_type.filter(pl.col("len") >= 50)
    assert common["prompt"].max() < 30  # of 60: a topic has about 10
    repeats = [
        ugly_run(bursts=bursts, seed=8, prompts=20)
        .tokens.filter(pl.col("checkpoint") == "step0")
        .group_by("rollout")
        .agg(pl.col("token_id").n_unique())["token_id"]
        .mean()
        for bursts in (0.0, 0.5)
    ]
    assert repeats[1] < 0.8 * repeats[0]


def test_only_a_trend_moves_along_the_response():
    def slope(run, name):
        tokens = first(run).with_columns(x=pl.col("position") / pl.col("position").max())
        value = pl.col(name).arr.get(1) if name == "margin" else pl.col(name)
        return np.polyfit(tokens["x"], tokens.select(value.log()).to_series(), 1)[0]

    plain = ugly_run(prompts=60, seed=9, memory=0.6)
    falling = ugly_run(prompts=60, seed=9, trend=-1.0)
    for name in ("reverse_kl", "margin"):
        assert abs(slope(plain, name)) < 0.25
        assert slope(falling, name) == pytest.approx(-1.0, abs=0.25)


def test_margins_are_bound_to_kl_only_where_asked():
    def correlation(**options):
        tokens = first(ugly_run(seed=10, snapshots=0.0, **options))
        return np.corrcoef(tokens["reverse_kl"].log(), tokens["margin"].arr.get(1).log())[0, 1]

    assert abs(correlation()) < 0.04
    assert correlation(margin_with_kl=-0.3) == pytest.approx(-0.3, abs=0.05)


def test_columns_hang_together_as_in_a_scored_run():
    tokens = first(ugly_run(seed=11, **NULLS["all"])).filter(pl.col("reverse_kl") > 0)
    for name, sign in (("forward_kl", 1), ("grad_logits", 1), ("student_entropy", 1)):
        assert sign * spearmanr(tokens["reverse_kl"], tokens[name]).statistic > 0.5
    mass = tokens["teacher_mass"].arr.get(3)
    assert spearmanr(tokens["forward_kl"], mass).statistic < -0.5


def test_a_fall_takes_the_same_share_from_every_token():
    run = ugly_run(prompts=200, tokens=60, fall=0.3, snapshots=0.1, seed=12)
    a, b, c = (t["reverse_kl"].to_numpy() for t in run.tokens.partition_by("checkpoint"))
    assert np.exp(np.log(c / a).mean()) == pytest.approx(0.7, rel=0.03)
    assert np.exp(np.log(b / a).mean()) == pytest.approx(0.7**0.5, rel=0.03)
    low = a < np.median(a)
    assert np.log(c / a)[low].mean() == pytest.approx(np.log(c / a)[~low].mean(), abs=0.05)
