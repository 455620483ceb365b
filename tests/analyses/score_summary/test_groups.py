"""Shares of tokens beside shares of KL by group: against plain sums over the token table."""

import numpy as np
import polars as pl
import pytest

import opd_diag as od
from opd_diag.analyses.groups import MOST, OTHERS, parts_of
from opd_diag.analyses.score_summary import score_summary, summary_lines
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import TableError

NAMES = ["math", "code", None]


@pytest.fixture(scope="module")
def data():
    """A run whose dropped rollouts have half the reward, and twice the KL in code."""
    data = null_run(prompts=36, samples=4, tokens=60, checkpoints=("a", "b"), k_grid=(2, 4))
    rollout = pl.col("rollout")
    rollouts = data.rollouts.with_columns(
        group=pl.col("prompt_id").rank("dense").cast(pl.Int64) % 3,
        trained=rollout % 4 != 0,
        reward=pl.when(rollout % 5 != 0).then((rollout % 4 != 0) * 0.5 + rollout % 7 * 0.1),
    ).with_columns(group=pl.col("group").replace_strict([0, 1, 2], NAMES, return_dtype=pl.String))
    code = rollouts.filter(pl.col("group") == "code")["rollout"].to_list()
    tokens = data.tokens.with_columns(
        in_loss=pl.struct("rollout", "position").hash(seed=1) % 7 != 0,
        reverse_kl=(pl.col("reverse_kl") * (1 + rollout.is_in(code))).cast(pl.Float32),
    )
    return data._replace(tokens=tokens, rollouts=rollouts)


@pytest.fixture(scope="module")
def table(data):
    return od.score_summary(data.tokens, data.rollouts).score_groups


def members(data, row):
    value = pl.col("group").fill_null("unknown")
    if row["split"] == "trained":
        value = pl.when("trained").then(pl.lit("kept")).otherwise(pl.lit("dropped"))
    return data.rollouts.with_columns(inside=value == row["group"])


def test_shares_and_means_are_those_of_plain_sums(data, table) -> None:
    assert table.height == 2 * (3 + 2)
    for row in table.to_dicts():
        rollouts = members(data, row)
        tokens = data.tokens.filter("in_loss", checkpoint=row["checkpoint"]).join(
            rollouts.select("rollout", "prompt_id", "inside"), on="rollout"
        )
        own, rest = tokens.filter("inside"), tokens.filter(~pl.col("inside"))
        inside, outside = rollouts.filter("inside"), rollouts.filter(~pl.col("inside"))
        assert row["n_rollouts"] == inside.height
        assert row["n"] == own.height
        assert row["n_prompts"] == own["prompt_id"].n_unique()
        assert row["token_share"] == pytest.approx(own.height / tokens.height)
        for kl in ("reverse_kl", "forward_kl"):
            mean, others = (part[kl].cast(pl.Float64).mean() for part in (own, rest))
            total = tokens[kl].cast(pl.Float64).sum()
            assert row[kl] == pytest.approx(mean)
            assert row[f"{kl}_difference"] == pytest.approx(mean - others)
            assert row[f"{kl}_share"] == pytest.approx(own[kl].cast(pl.Float64).sum() / total)
        whole = tokens["reverse_kl"].cast(pl.Float64).mean()
        assert row["lift"] == pytest.approx(row["reverse_kl"] / whole)
        assert row["lift"] == pytest.approx(row["reverse_kl_share"] / row["token_share"])
        assert row["length"] == pytest.approx(own.height / inside.height)
        assert row["length_difference"] == pytest.approx(
            row["length"] - rest.height / outside.height
        )
        assert row["reward"] == pytest.approx(inside["reward"].mean())
        assert row["reward_difference"] == pytest.approx(
            inside["reward"].mean() - outside["reward"].mean()
        )
        assert row["reverse_kl_low"] < row["reverse_kl"] < row["reverse_kl_high"]
    for _, part in table.group_by("checkpoint", "split"):
        for share in ("token_share", "reverse_kl_share", "forward_kl_share"):
            assert part[share].sum() == pytest.approx(1)


def test_a_planted_difference_lies_outside_of_1_and_a_missing_one_inside(table) -> None:
    rows = {row["group"]: row for row in table.filter(checkpoint="a").to_dicts()}
    assert rows["code"]["lift_low"] > 1
    assert rows["code"]["reverse_kl_difference_low"] > 0
    assert rows["dropped"]["reverse_kl_difference_low"] < 0
    assert rows["dropped"]["reverse_kl_difference_high"] > 0
    assert rows["dropped"]["reward_difference_high"] < 0


def test_the_summary_names_groups_and_what_training_dropped(data) -> None:
    text = "\n".join(summary_lines(od.score_summary(data.tokens, data.rollouts)))
    assert "  code: " in text
    assert "dropped by training: 36 rollouts; length " in text


def test_a_dump_without_groups_has_no_rows(data) -> None:
    for extra in ({}, {"group": "math", "trained": None}):
        rollouts = data.rollouts.drop("group", "trained", "reward")
        rollouts = rollouts.with_columns(
            pl.lit(value, pl.Boolean if key == "trained" else pl.String).alias(key)
            for key, value in extra.items()
        )
        assert od.score_summary(data.tokens, rollouts).score_groups.is_empty()


def test_beyond_forty_groups_the_smallest_are_others() -> None:
    sizes = np.arange(1, 61)
    names = pl.Series("group", [f"g{n}" for n in np.repeat(sizes, sizes)])
    table = pl.DataFrame([names, pl.Series("trained", [None] * len(names), dtype=pl.Boolean)])
    (parts,) = parts_of(table)
    assert parts.names[0] == "g60"
    assert parts.names[-1] == OTHERS
    assert len(parts.names) == MOST
    counts = parts.members().sum(axis=0)
    assert counts.sum() == len(names)
    assert counts[-1] == sizes[: 60 - MOST + 1].sum()


@pytest.mark.parametrize(
    ("analysis", "options"),
    [
        (od.score_summary, {}),
        (od.release_points, {"k_grid": (2, 4)}),
        (od.agreement_traps, {"k_grid": (2, 4), "window": 8, "draws": 2, "block": 4}),
        (od.teachability, {"k_grid": (2, 4), "k": 4}),
    ],
)
def test_every_analysis_takes_a_group_and_it_is_that_of_its_rollouts_alone(
    data, analysis, options
) -> None:
    own = data.rollouts.filter(pl.col("group") == "code")
    tokens = data.tokens.join(own.select("rollout"), on="rollout", how="semi")
    ours = analysis(data.tokens, data.rollouts, group="code", **options)
    alone = analysis(tokens, own, **options)
    for one, two in zip(ours, alone, strict=True):
        assert one.equals(two)
    with pytest.raises(TableError, match="group: no rollouts of 'x'; expected one of code, math"):
        analysis(data.tokens, data.rollouts, group="x", **options)


def test_headline_tables_have_a_row_for_each_group(data) -> None:
    release = od.release_points(data.tokens, data.rollouts, k_grid=(2, 4)).release_summary
    assert set(release.filter(split="group")["group"]) == {"math", "code", "unknown"}
    assert set(release.filter(split="trained")["group"]) == {"true", "false"}
    traps = od.agreement_traps(
        data.tokens, data.rollouts, k_grid=(2, 4), window=8, draws=2, block=4
    ).trap_summary
    for measure in ("prevalence", "tokens_saved", "kl_after_cut"):
        rows = traps.filter(pl.col("group").str.starts_with("group: "), measure=measure)
        assert set(rows["group"]) == {"group: math", "group: code", "group: unknown"}
        whole = traps.filter(group="all", measure=measure, checkpoint="a")["n"][0]
        assert rows.filter(checkpoint="a")["n"].sum() == whole
    kl = od.teachability(data.tokens, data.rollouts, k_grid=(2, 4), k=4).teachability_kl
    of_code = kl.filter(group="group: code", kl="reverse_kl", checkpoint="b").row(0, named=True)
    code = data.rollouts.filter(pl.col("group") == "code")["rollout"].to_list()
    tokens = data.tokens.filter("in_loss", pl.col("rollout").is_in(code), checkpoint="b")
    assert of_code["mean"] == pytest.approx(tokens["reverse_kl"].cast(pl.Float64).mean())


def test_rocks_of_a_group_hold_shares_of_its_own_tokens_and_loss(data) -> None:
    rocks = od.rock_tokens(data.tokens, data.rollouts, checkpoint="a", top=5)
    table = rocks.rock_by_group
    assert set(table.filter(split="group")["group"]) == {"math", "code", "unknown"}
    assert set(table.filter(split="trained")["group"]) == {"kept", "dropped"}
    inside = data.tokens.filter("in_loss", checkpoint="a")
    for split, rows in table.group_by("split"):
        assert rows["n"].sum() == inside.height, split
        # Means of the parts, weighted by their tokens, are those of the other split.
        rocky = (rows["position_share"] * rows["n"]).sum()
        assert rocky == pytest.approx((table.filter(split="group")["position_share"]
                                       * table.filter(split="group")["n"]).sum())  # fmt: skip
        assert (rows["lift"] - rows["loss_share"] / rows["position_share"]).abs().max() < 1e-9


def test_gradients_of_all_rollouts_are_not_those_of_a_group(data, tmp_path) -> None:
    run = save_run(data, tmp_path / "run")
    whole, part = (od.rock_tokens(run, group=group).rock_tokens for group in (None, "code"))
    for name in ("norm2_raw", "coherence"):
        assert whole[name].is_not_null().any()
        assert part[name].is_null().all()


def test_the_first_tokens_after_another_prompt_stand_apart():
    data = null_run(prompts=12, samples=2, tokens=30, checkpoints=("a",), seed=1)
    even = pl.col("rollout") % 2 == 0
    own = pl.concat_list(pl.lit(3), pl.lit(4), pl.col("prompt_token_ids").list.tail(1))
    rollouts = data.rollouts.with_columns(
        teacher_prompt_token_ids=pl.when(even).then(own.cast(pl.List(pl.Int32)))
    )
    raised = pl.col("reverse_kl") + pl.when(even & (pl.col("position") == 0)).then(5).otherwise(0)
    tokens = data.tokens.with_columns(raised.cast(pl.Float32))
    summary = score_summary(tokens, rollouts)
    table = summary.score_first_tokens
    assert table["group"].unique().sort().to_list() == ["another prompt", "same prompt"]
    joined = tokens.filter("in_loss").with_columns(
        place=pl.when(pl.col("position") < 8).then(pl.col("position")).otherwise(8)
    )
    for row in table.iter_rows(named=True):
        place = 8 if row["place"] == "later" else int(row["place"])
        group = even if row["group"] == "another prompt" else ~even
        these = joined.filter(group, pl.col("place") == place)
        assert row["n"] == these.height
        assert row["n_rollouts"] == 12
        for name in ("reverse_kl", "teacher_logp"):
            assert row[name] == pytest.approx(these[name].cast(pl.Float64).mean(), rel=1e-6)
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    (end,) = table.filter(group="another prompt")["shared_end"].unique()
    assert end == 1
    whole = rollouts.filter(~even)["prompt_token_ids"].list.len().mean()
    assert table.filter(group="same prompt")["shared_end"].unique().to_list() == [whole]
    (line,) = [line for line in summary_lines(summary) if "teacher's prompt" in line]
    assert "another one in 12 rollouts" in line
    assert score_summary(data.tokens, data.rollouts).score_first_tokens.is_empty()
