"""The summary of scores: every number against a plain count over the token table."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import opd_diag as od
from opd_diag.analyses.score_summary import score_summary, summary_lines
from opd_diag.analyses.score_summary.histogram import STARTS
from opd_diag.analyses.score_summary.sums import COLUMNS
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import TableError

GROUPS = {"all": pl.lit(True), "correct": pl.col("correct"), "wrong": ~pl.col("correct")}


def spoilt(seed=0, **options):
    """A run with tokens outside the loss, missing values and rollouts of unknown outcome."""
    data = null_run(**{"prompts": 12, "samples": 2, "tokens": 70, "checkpoints": ("a", "b")}
                    | options, k_grid=(2, 4), seed=seed)  # fmt: skip
    rng = np.random.default_rng(seed)
    kl = data.tokens["reverse_kl"].to_numpy() * 10.0 ** rng.integers(-6, 3, data.tokens.height)
    keys = pl.struct("rollout", "position").hash(seed=seed) % 9
    tokens = data.tokens.with_columns(
        pl.Series("reverse_kl", kl, pl.Float32), in_loss=keys != 0
    ).with_columns(
        forward_kl=pl.when(pl.col("token_id") % 7 != 0).then("forward_kl"),
    )
    outcome = pl.when(pl.col("rollout") % 5 != 0).then(pl.col("rollout") % 3 == 0)
    return data._replace(tokens=tokens, rollouts=data.rollouts.with_columns(correct=outcome))


@pytest.fixture(scope="module")
def data():
    return spoilt()


@pytest.fixture(scope="module")
def tables(data):
    return score_summary(data.tokens, data.rollouts)


@pytest.fixture(scope="module")
def joined(data):
    """Tokens in the loss with their rollout's outcome, and their place among those in the loss."""
    tokens = data.tokens.filter("in_loss").join(
        data.rollouts.select("rollout", "prompt_id", "correct"), on="rollout"
    )
    of = ["checkpoint", "rollout"]
    return tokens.with_columns(
        index=pl.col("position").rank().over(of) - 1, n_tokens=pl.len().over(of)
    )


def check_means(rows, tokens):
    """Compare rows of a table with plain means; `tokens` gives those of one row."""
    assert rows.height
    for row in rows.iter_rows(named=True):
        values = tokens(row)[row["column"]].drop_nulls().cast(pl.Float64)
        assert row["n"] == values.len()
        assert row["value"] == pytest.approx(values.mean(), rel=1e-9)


def test_means_are_those_of_the_tokens_in_the_loss(tables, joined):
    table = tables.score_summary
    assert table.height == 2 * 3 * len(COLUMNS)
    check_means(
        table,
        lambda row: joined.filter(pl.col("checkpoint") == row["checkpoint"], GROUPS[row["group"]]),
    )
    assert (table["value_low"] < table["value"]).all()
    assert (table["value"] < table["value_high"]).all()


def test_positions_are_bins_of_the_tokens_in_the_loss(tables, joined):
    table = tables.score_positions
    assert (
        table.group_by("checkpoint", "group", "column", "axis")
        .agg(pl.col("n").sum())
        .join(tables.score_summary, on=["checkpoint", "group", "column"])
        .select((pl.col("n") == pl.col("n_right")).all())
        .item()
    )
    relative = (pl.col("index") / pl.col("n_tokens")).round(9)

    def tokens(row):
        place = relative if row["axis"] == "relative" else pl.col("index")
        start, end = round(row["start"], 9), round(row["end"], 9)
        return joined.filter(
            pl.col("checkpoint") == row["checkpoint"],
            GROUPS[row["group"]],
            place >= start,
            place < end,
        )

    check_means(table, tokens)


def test_histogram_counts_tokens_and_their_divergence(tables, joined):
    edges = [*STARTS, np.inf]
    for (name, group, column), rows in tables.score_histogram.group_by(
        "checkpoint", "group", "column"
    ):
        own = joined.filter(pl.col("checkpoint") == name, GROUPS[group])[column].drop_nulls()
        values = own.cast(pl.Float64).to_numpy()
        counts = np.histogram(values, edges)[0]
        sums = np.histogram(values, edges, weights=values)[0]
        rows = rows.sort("bin")
        assert rows["n"].to_list() == counts.tolist()
        assert rows["token_share"].to_numpy() == pytest.approx(counts / counts.sum())
        assert rows["loss_share"].to_numpy() == pytest.approx(sums / sums.sum())
        above = counts[::-1].cumsum()[::-1] / counts.sum()
        assert rows["token_share_above"].to_numpy() == pytest.approx(above)
        above = sums[::-1].cumsum()[::-1] / sums.sum()
        assert rows["loss_share_above"].to_numpy() == pytest.approx(above)
        assert rows["end"].to_list() == [*STARTS[1:].tolist(), None]


def test_order_of_rows_does_not_matter(data, tables):
    shuffled = data.tokens.sample(fraction=1, shuffle=True, seed=3)
    again = score_summary(shuffled, data.rollouts, checkpoint=["a", "b"])
    for one, other in zip(tables, again, strict=True):
        keys = [name for name in ("checkpoint", "group", "column", "axis", "bin") if name in one]
        assert_frame_equal(one.sort(keys), other.sort(keys), rel_tol=1e-9)


def test_without_outcomes_there_is_one_group(data):
    bare = data.rollouts.with_columns(correct=pl.lit(None, pl.Boolean))
    for table in score_summary(data.tokens, bare):
        assert set(table["group"]) <= {"all"}


def test_a_column_without_a_value_is_null_and_not_zero(data):
    tokens = data.tokens.with_columns(forward_kl=pl.lit(None, pl.Float32))
    tables = score_summary(tokens, data.rollouts)
    rows = tables.score_summary.filter(column="forward_kl")
    assert rows["n"].sum() == 0
    assert rows["value"].is_null().all()
    assert "n/a" in "\n".join(summary_lines(tables))


def test_intervals_of_means_cover_the_truth():
    """Log-normal divergences with a prompt effect, whose mean is known."""
    inside = 0
    for seed in range(40):
        data = null_run(prompts=40, samples=2, tokens=30, k_grid=(2, 4), seed=seed)
        rng = np.random.default_rng(seed)
        prompt = data.rollouts["prompt_id"].rank("dense").to_numpy()[data.tokens["rollout"]] - 1
        effect = rng.normal(0, 0.5, 40)[prompt.astype(int)]
        kl = np.exp(effect + rng.normal(0, 1, data.tokens.height))
        tokens = data.tokens.with_columns(pl.Series("reverse_kl", kl, pl.Float32))
        row = score_summary(tokens, data.rollouts).score_summary.row(0, named=True)
        inside += row["value_low"] <= np.exp((0.5**2 + 1) / 2) <= row["value_high"]
    assert inside >= 33  # 40 at 95 %: fewer in 0.1 % of cases


def test_a_run_and_its_tables_say_the_same(data, tables, tmp_path):
    run = save_run(data, tmp_path / "run")
    found = od.score_summary(run)
    for one, other in zip(tables, found, strict=True):
        assert_frame_equal(one, other)
    run.save(found)
    assert run.result("score_histogram").height == found.score_histogram.height


def test_what_is_not_there_is_refused(data):
    with pytest.raises(TableError, match="no 'c'"):
        score_summary(data.tokens, data.rollouts, checkpoint="c")
    with pytest.raises(TableError, match="'grad_logits'"):
        score_summary(data.tokens.drop("grad_logits"), data.rollouts)
    with pytest.raises(TableError, match="policy"):
        score_summary(data.tokens, data.rollouts, policy="nobody")


def test_the_summary_says_each_mean_and_how_few_tokens_hold_it(tables):
    lines = summary_lines(tables)
    assert len(lines) == 1 + 2 * 5
    row = tables.score_summary.row(0, named=True)
    assert f"{row['value']:.3g} nat [{row['value_low']:.3g}, {row['value_high']:.3g}]" in lines[2]
    assert "of tokens have 0.1 nat or more and hold" in lines[2]
    assert lines[3].strip().startswith("correct ")


def test_a_column_that_the_run_does_not_know_is_called_so(data):
    bare = data.tokens.with_columns(reverse_kl=pl.lit(None, pl.Float32))
    rollouts = data.rollouts.with_columns(
        group=pl.when(pl.col("rollout") % 2 == 0).then(pl.lit("x")).otherwise(pl.lit("y")),
        teacher_prompt_token_ids=pl.lit([1, 2], data.rollouts["prompt_token_ids"].dtype),
    )
    found = score_summary(bare, rollouts)
    for table in (found.score_summary, found.score_histogram):
        reason = table.filter(column="reverse_kl")["reason"]
        assert set(reason) == {"unknown in this run"}
        assert "unknown in this run" not in table.filter(column="forward_kl")["reason"]
    assert set(found.score_groups["reason"]) == {"unknown in this run"}
    lines = [line for line in summary_lines(found) if line.startswith("  KL(student")]
    assert lines == ["  KL(student ‖ teacher)  n/a (unknown in this run)"] * 2
    none = score_summary(bare.with_columns(in_loss=False), rollouts)
    assert "unknown in this run" not in none.score_summary["reason"]
