"""The kit of all analyses: reading, summing, tables and wording."""

import numpy as np
import polars as pl
import pytest

from opd_diag.analyses import reasons, wording
from opd_diag.analyses.answers import Finding
from opd_diag.analyses.prompts import Prompts, join, select
from opd_diag.analyses.tables import interval_columns, ratio, result_table, spread
from opd_diag.analyses.tokens import read_tokens
from opd_diag.datasets import null_run
from opd_diag.errors import TableError
from opd_diag.tables.source import as_source, choose_rollouts


@pytest.fixture(scope="module")
def run():
    return null_run(prompts=6, samples=2, tokens=30, types=80, checkpoints=("a", "b"))


def test_tokens_come_sorted_whatever_the_order_of_the_table(run) -> None:
    shuffled = run.tokens.sample(fraction=1.0, shuffle=True, seed=1)
    source = as_source(shuffled, run.rollouts)
    tokens = read_tokens(source, choose_rollouts(source.rollouts), ("a", "b"))
    for name in ("a", "b"):
        expected = run.tokens.filter(checkpoint=name)["reverse_kl"].to_numpy()
        assert (tokens.column("reverse_kl", name) == expected).all()
    assert tokens.lengths.tolist() == [30] * 12
    assert tokens.position.tolist() == list(range(30)) * 12
    assert tokens.row.tolist() == np.repeat(np.arange(12), 30).tolist()


def test_some_rollouts_and_some_tokens(run) -> None:
    source = as_source(run.tokens, run.rollouts)
    some = choose_rollouts(source.rollouts).filter(pl.col("rollout").is_in([3, 7]))
    tokens = read_tokens(source, some, "a")
    mask = tokens.position >= 20
    kept = tokens.where(mask)
    assert kept.lengths.tolist() == [10, 10]
    expected = run.tokens.filter(
        pl.col("checkpoint") == "a", pl.col("rollout").is_in([3, 7]), pl.col("position") >= 20
    )
    assert (kept.column("student_logp") == expected["student_logp"].to_numpy()).all()
    margin = expected["margin"].to_numpy()
    assert (kept.column("margin", k=8) == margin[:, 2]).all()
    assert (kept.column("margin") == margin).all()
    assert kept.frame(["reverse_kl"]).equals(expected.select("reverse_kl"))


def test_batches_are_the_frame_in_pieces(run) -> None:
    source = as_source(run.tokens, run.rollouts)
    tokens = read_tokens(source, choose_rollouts(source.rollouts), "b")
    kept = tokens.where(tokens.position % 3 == 0)
    pieces = list(kept.batches(["reverse_kl"], most=70))
    assert len(pieces) == 6
    whole = pl.concat(pieces)
    assert (whole["reverse_kl"].to_numpy() == kept.column("reverse_kl")).all()
    assert (whole["row"].to_numpy() == kept.row).all()
    assert whole["index"].to_list() == list(range(10)) * 12
    assert set(whole["n_tokens"]) == {10}


def test_other_tokens_under_a_checkpoint_are_refused(run) -> None:
    changed = run.tokens.with_columns(
        pl.when((pl.col("checkpoint") == "b") & (pl.col("position") == 4))
        .then(pl.col("token_id") + 1)
        .otherwise("token_id")
        .cast(pl.Int32)
        .alias("token_id")
    )
    with pytest.raises(TableError, match="differ"):
        source = as_source(changed, run.rollouts)
        read_tokens(source, choose_rollouts(source.rollouts), ("a", "b")).column("reverse_kl", "b")


def test_a_missing_column_and_a_strange_rollout_are_named(run) -> None:
    source = as_source(run.tokens.drop("margin", "js"), run.rollouts)
    with pytest.raises(TableError, match=r"(?s)'margin'.*'js'"):
        read_tokens(source, choose_rollouts(source.rollouts), "a", columns=["margin", "js"])
    with pytest.raises(TableError, match="rollout 11 is not in the rollouts table"):
        source = as_source(run.tokens, run.rollouts.head(11))
        read_tokens(source, choose_rollouts(source.rollouts), "a")


def test_prompts_sum_and_estimate() -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([f"p{i:02d}" for i in range(40)], 5))
    values = rng.normal(size=(200, 2))
    values[3, 0] = np.nan
    prompts = Prompts(pl.Series(labels), seed=0)
    x, m = prompts.sums_and_counts(values)
    for place, name in enumerate(sorted(set(labels))):
        rows = values[labels == name]
        assert x[place] == pytest.approx(np.nansum(rows, axis=0))
        assert m[place].tolist() == np.isfinite(rows).sum(axis=0).tolist()
    means = prompts.ratio(x, m)
    assert means.estimate == pytest.approx(np.nanmean(values, axis=0))
    assert (means.low < means.estimate).all()
    assert (means.estimate < means.high).all()
    both = join([select(means, slice(0, 1)), select(means, [1])])
    assert all((a == b).all() for a, b in zip(both, means, strict=True))
    median = prompts.median(values[:, 1])
    assert median.estimate == pytest.approx(np.median(values[:, 1]))
    assert np.isnan(Prompts(np.zeros(0), seed=0).ratio(np.zeros((0, 1)), np.zeros((0, 1))).low[0])


def test_a_result_table_has_nulls_for_nan_and_the_order_of_its_schema() -> None:
    prompts = Prompts(np.arange(30), seed=0)
    interval = prompts.ratio(np.arange(30.0)[:, None], np.ones((30, 1)))
    values = {
        **interval_columns("value", interval, share=True),
        "n": [30], "n_prompts": 30, "split": "all", "group": "all", "statistic": "x", "unit": "nat",
        "paper": np.array([np.nan]), "reason": [""],
    }  # fmt: skip
    table = result_table("release_summary", values, checkpoint="a")
    row = table.row(0, named=True)
    assert (row["checkpoint"], row["paper"], row["reason"], row["k"]) == ("a", None, None, None)
    assert row["value"] == pytest.approx(14.5)
    assert (row["value_low"], row["value_high"]) == (1.0, 1.0)
    with pytest.raises(TableError, match="not in the schema"):
        result_table("release_summary", {**values, "strange": [1]}, checkpoint="a")
    with pytest.raises(TableError, match="null"):
        result_table("release_summary", {**values, "n": [None]}, checkpoint="a")
    assert spread([1, 2], np.array([2, 0]), 3).tolist()[::2] == [2, 1]
    assert np.isnan(ratio([1, 0], [0, 2])[0])


def test_a_single_value_of_numpy_stands_in_every_row() -> None:
    for value in (np.float64(0.5), np.float32(0.5), np.array(0.5)):
        table = result_table("teachability_contrast", {
            "kl": ["forward_kl", "reverse_kl"], "n": np.int64(7), "n_prompts": 2,
            "difference": value, "contrast": "matched", "checkpoint": "b", "features_from": "a",
        })  # fmt: skip
        assert table["difference"].to_list() == [0.5, 0.5]
        assert table["n"].to_list() == [7, 7]


def test_numbers_for_a_person() -> None:
    row = {"value": 0.8341, "value_low": 0.81, "value_high": 0.851, "unit": "share", "reason": None}
    assert wording.estimate(row) == "83.4 % [81.0, 85.1]"
    nat = {"kl": 0.04183, "kl_low": 0.0241, "kl_high": 0.0686}
    assert wording.estimate(nat, "kl", "nat") == "0.0418 nat [0.0241, 0.0686]"
    few = "too few prompts, 5 of like weight would do"
    none = {"value": 1.306, "value_low": None, "value_high": None, "reason": "too few prompts"}
    assert wording.estimate(none) == f"1.31 [no interval: {few}]"
    assert wording.estimate({**none, "value": None}) == f"n/a ({few})"
    assert wording.number(1234.5) == "1,234"
    assert wording.p_value(0.0321) == "p = 0.032"
    assert wording.p_value(1e-9) == "p < 0.001"


def test_reasons_are_joined_and_null_where_there_are_none() -> None:
    frame = pl.DataFrame({"n": [1, 5, 9]})
    parts = [reasons.note("small", pl.col("n") < 6), reasons.note("odd five", pl.col("n") == 5)]
    assert frame.select(reasons.notes(*parts))["reason"].to_list() == [
        "small",
        "small; odd five",
        None,
    ]


def test_an_answer_needs_the_direction_or_an_interval_inside_the_margin() -> None:
    words = {"meaning": {}, "advice": {}}

    def finding(difference: float, half: float, **options) -> Finding:
        ends = {"difference_low": difference - half, "difference_high": difference + half}
        return Finding(
            question="?",
            checkpoint="a",
            difference=difference,
            margin=0.1,
            **ends,
            **words,
            **options,
        )

    assert finding(0.5, 0.1).answer(0.01) == "yes"
    assert finding(-0.5, 0.1).answer(0.01) == "no"
    assert finding(-0.5, 0.1, direction=0).answer(0.01) == "yes"
    assert finding(-0.5, 0.1, direction=-1).answer(0.01) == "yes"
    assert finding(0.02, 0.05).answer(0.6) == "no"
    assert finding(0.02, 0.05, direction=0).answer(0.6) == "no"
    assert finding(0.02, 0.5).answer(0.6) == "undecided"
    assert finding(0.02, 0.5).answer(None) == "not asked"


def test_a_part_of_the_rows_shares_the_draws_of_all() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(40), 3)
    prompts = Prompts(labels, seed=1)
    values = rng.normal(size=120)
    rows = labels % 3 == 1
    part = prompts.part(rows)
    assert part.count == 13
    np.testing.assert_array_equal(part.draws, prompts.draws[:, 1::3])
    x, m = part.sums_and_counts(values[rows])
    assert x == pytest.approx([values[labels == p].sum() for p in range(1, 40, 3)])
    interval = part.ratio(x[:, None], m[:, None])
    assert interval.low[0] < values[rows].mean() < interval.high[0]
    whole = prompts.part(np.ones(120, np.bool_))
    assert whole.median(values) == prompts.median(values)
    assert prompts.part(np.zeros(120, np.bool_)).median([]).reason == "too few prompts"


def test_a_rate_of_0_has_an_interval() -> None:
    prompts = Prompts(np.repeat(np.arange(30), 2), seed=0)
    x, m = prompts.sums_and_counts(np.zeros((60, 1)))
    interval = prompts.rate(x, m)
    assert interval.low[0] == 0
    assert 0.05 < interval.high[0] < 0.2
