"""The public function: planted effects found, bad input refused, figures against plain loops."""

import dataclasses
import inspect
from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from opd_diag.analyses.rock_tokens import rock_tokens, summary_lines
from opd_diag.analyses.rock_tokens.options import Options
from opd_diag.datasets import null_run, rock_run, save_run
from opd_diag.errors import OptionError, TableError
from opd_diag.tables.columns.rock_tokens import TABLES
from opd_diag.tables.manifest import NoiseFloor
from opd_diag.tables.schema import check_table

LABELS = ("stagnant", "changed", "undecided")
USED = ["checkpoint", "rollout", "position", "token_id", "in_loss", "reverse_kl", "grad_logits"]
PLANTED = {"top": 16, "detail": 60}
HEIGHT = 6.0


def asked(data, **options):
    return rock_tokens(data.tokens, data.rollouts, **options)


def of(table, ids):
    return table.filter(pl.col("token_id").is_in(ids))


@pytest.fixture(scope="module")
def planted():
    data = rock_run(prompts=32, height=HEIGHT, rocks=4, learned=4)
    return data, asked(data, **PLANTED)


@pytest.fixture(scope="module")
def small():
    """A run with tokens outside the loss, null losses and two checkpoints."""
    data = rock_run(prompts=8, samples=2, tokens=80, types=70, checkpoints=("a", "b"), seed=3)
    row = pl.int_range(pl.len())
    tokens = data.tokens.with_columns(
        in_loss=pl.col("rollout") * 80 + pl.col("position") != 7,
        reverse_kl=pl.when(row % 97 != 5).then("reverse_kl"),
    )
    return data._replace(tokens=tokens.with_columns(in_loss=pl.col("in_loss") & (row % 80 > 1)))


@pytest.fixture(scope="module")
def found(small):
    return asked(small, top=10, detail=30)


def occurrences(data):
    """List (prompt, half, rollout, token, first loss, last loss, gradient) of what counts."""
    first, last = (
        data.tokens.filter(checkpoint=name).sort("rollout", "position") for name in ("a", "b")
    )
    known = {row[0]: row[1:] for row in data.rollouts["rollout", "prompt_id", "half"].iter_rows()}
    return [
        (*known[one["rollout"]], one["rollout"], one["token_id"],
         one["reverse_kl"], two["reverse_kl"], two["grad_logits"])
        for one, two in zip(first.to_dicts(), last.to_dicts(), strict=True)
        if one["in_loss"] and one["reverse_kl"] is not None and two["reverse_kl"] is not None
    ]  # fmt: skip


def test_every_table_keeps_its_schema(planted):
    _, result = planted
    assert list(result._asdict()) == list(TABLES)
    for name, table in result._asdict().items():
        assert check_table(table, TABLES[name], name).height
        assert set(table["pairing"]) == {"paired"}


def test_planted_rocks_are_recovered_ranked_and_persistent(planted):
    data, result = planted
    rocks = of(result.rock_tokens, data.truth["rocks"])
    assert rocks["is_rock"].all()
    for row in rocks.to_dicts():
        # Among the planted ones and the few types more common than they are.
        assert row["rank"] <= 8 + 4
        assert row["rank_low"] <= row["rank"] <= row["rank_high"]
        assert row["lift_low"] > 1
        assert row["lift_p_adjusted"] < 0.01
        assert row["label"] == "stagnant"
        assert abs(row["relative_change"]) < 0.06
        assert row["recurring_share"] > row["recurring_share_null"] + 0.1


def test_planted_lift_is_estimated_without_bias(planted):
    data, _ = planted
    result = asked(data, rank_by="first", **PLANTED)
    rows = result.rock_tokens.with_columns(
        planted=pl.col("token_id").is_in(data.truth["rocks"] + data.truth["learned"])
    )
    means = rows.group_by("planted").agg(pl.col("R").sum() / pl.col("n").sum()).sort("planted")
    assert means["R"][1] / means["R"][0] == pytest.approx(HEIGHT, rel=0.1)


def test_planted_learned_types_are_not_reported_as_staying(planted):
    data, result = planted
    learned = of(result.rock_tokens, data.truth["learned"])
    assert learned["is_rock"].all()
    assert (learned["label"] == "changed").all()
    change = 1 / HEIGHT - 1
    for row in learned.to_dicts():
        assert row["relative_change_low"] < change + 0.05
        assert row["relative_change_high"] > change - 0.05
        assert row["recurring_share"] <= row["recurring_share_null"]
        assert row["R_ctx"] < 0.05 * row["R"]


def test_the_trajectory_of_a_group_passes_through_every_checkpoint(planted):
    _, result = planted
    rocks = result.rock_groups.filter(group="rock", measured_on="other half")
    assert rocks["checkpoint"].to_list() == ["step0", "step150", "step300"]
    # Half of the summed height of the planted ones goes, evenly: nothing else changes.
    level = rocks["level"].to_numpy()
    assert level[1] == pytest.approx((level[0] + level[2]) / 2, rel=0.05)
    assert rocks["change"].to_list()[0] is None
    np.testing.assert_allclose(rocks["change"].to_numpy()[1:], level[1:] - level[0])
    np.testing.assert_allclose(
        rocks["relative_change"].to_numpy()[1:], level[1:] / level[0] - 1, rtol=1e-6
    )
    assert (rocks["relative_change_high"].drop_nulls() < 0).all()
    assert set(result.rock_groups["chosen_under"]) == {"step150"}
    counted = rocks.row(2, named=True)
    labels = result.rock_tokens.filter("is_rock")["label"].drop_nulls()
    assert counted["n_labelled"] == labels.len()
    for name in LABELS:
        assert counted[f"n_{name}"] == (labels == name).sum()


def test_counts_shares_and_lift_are_those_of_a_plain_loop(small, found):
    rows = occurrences(small)
    n, loss, gradient, prompts = Counter(), defaultdict(float), defaultdict(float), defaultdict(set)
    for prompt, _, _, token, _, last, norm in rows:
        n[token] += 1
        loss[token] += last
        gradient[token] += norm
        prompts[token].add(prompt)
    all_loss, all_norm = sum(loss.values()), sum(gradient.values())
    order = sorted((t for t in n if n[t] >= 2), key=lambda t: -loss[t])
    rank = {token: place for place, token in enumerate(order, start=1)}
    ranked = found.rock_tokens.filter(pl.col("rank").is_not_null())
    assert ranked["token_id"].to_list() == order
    for row in found.rock_tokens.to_dicts():
        t = row["token_id"]
        assert row["n"] == n[t]
        assert row["n_prompts"] == len(prompts[t])
        assert row["rank"] == rank.get(t)
        assert row["is_rock"] == (rank.get(t, 99) <= 10)
        assert row["R"] == pytest.approx(loss[t], rel=1e-6)
        assert row["mean_loss"] == pytest.approx(loss[t] / n[t], rel=1e-6)
        assert row["position_share"] == pytest.approx(n[t] / len(rows))
        assert row["loss_share"] == pytest.approx(loss[t] / all_loss)
        assert row["lift"] == pytest.approx(loss[t] / n[t] / (all_loss / len(rows)))
        assert row["grad_share"] == pytest.approx(gradient[t] / all_norm)


def test_p_values_are_adjusted_over_all_types(found):
    assert found.rock_tokens.filter(pl.col("n") < 10)["lift_p"].is_null().all()
    rows = found.rock_tokens.drop_nulls("lift_p").sort("lift_p")
    assert rows["n"].min() >= 10
    m = rows.height
    smallest, adjusted = 1.0, []
    for place, p in reversed(list(enumerate(rows["lift_p"], start=1))):
        smallest = min(smallest, p * m / place)
        adjusted.append(smallest)
    np.testing.assert_allclose(rows["lift_p_adjusted"], adjusted[::-1])


def test_shares_of_rollouts_are_those_of_a_plain_loop(small, found):
    rows = occurrences(small)
    rocks = set(found.rock_tokens.filter("is_rock")["token_id"])
    border = np.quantile([row[5] for row in rows], 0.95)
    assert found.rock_outputs.height == small.rollouts.height
    for row in found.rock_outputs.to_dicts():
        own = [r for r in rows if r[2] == row["rollout"]]
        of_rocks = [r for r in own if r[3] in rocks]
        events = [r for r in own if r[5] >= border]
        assert row["n"] == len(own)
        assert row["n_rock"] == len(of_rocks)
        assert row["rock_share"] == pytest.approx(len(of_rocks) / len(own))
        shares = sum(r[5] for r in of_rocks) / sum(r[5] for r in own)
        assert row["rock_loss_share"] == pytest.approx(shares)
        assert row["n_events"] == len(events)
        assert row["n_events_not_rock"] == sum(r[3] not in rocks for r in events)
    in_loss = small.tokens.filter(pl.col("in_loss") & (pl.col("checkpoint") == "a")).height
    assert found.rock_outputs["n_dropped"].sum() == in_loss - len(rows) > 0


def test_the_example_is_the_rollout_with_the_median_share(small, found):
    shares = found.rock_outputs["rock_share"]
    away = (shares - shares.median()).abs()
    example = found.rock_example
    assert example["rollout"].unique().to_list() == [away.arg_min()]
    tokens = small.tokens.filter(checkpoint="b", rollout=away.arg_min())
    assert example["token_id"].to_list() == tokens["token_id"].to_list()
    rocks = found.rock_tokens.filter("is_rock")["token_id"].to_list()
    assert example["is_rock"].to_list() == example["token_id"].is_in(rocks).to_list()
    known = example.filter(pl.col("value").is_not_null())
    assert known.height == found.rock_outputs["n"][away.arg_min()]
    values = tokens.join(known, on="position")
    np.testing.assert_allclose(values["value"], values["reverse_kl"])


def test_groups_are_measured_on_the_prompts_that_did_not_choose_them(small, found):
    rows = occurrences(small)
    size = 10
    chosen = {}
    for half in (0, 1):
        ends, n = defaultdict(lambda: np.zeros(2)), Counter()
        for _, side, _, token, first, last, _ in rows:
            if side == half:
                ends[token] += first, last
                n[token] += 1
        # Both of two checkpoints choose, alike: the geometric mean of their losses.
        loss = {token: np.sqrt(pair.prod()) for token, pair in ends.items()}
        ranked = sorted((t for t in n if n[t] >= 2), key=lambda t: loss[t])
        chosen["rock", half] = ranked[-size:]
        chosen["high_kl", half] = sorted(ranked, key=lambda t: loss[t] / n[t])[-size:]
        everything = {row[3] for row in rows}
        chosen["rest", half] = everything - set(chosen["rock", half])
    for group in ("rock", "high_kl", "rest"):
        for side, other in (("other half", 1), ("same half", 0)):
            inside = [r for r in rows if r[3] in chosen[group, abs(other - r[1])]]
            first, last = (sum(r[i] for r in inside) for i in (4, 5))
            row = found.rock_groups.filter(checkpoint="b", group=group, measured_on=side)
            assert row["n"].item() == len(inside)
            assert row["level"].item() == pytest.approx(last / len(inside))
            assert row["relative_change"].item() == pytest.approx(last / first - 1, abs=1e-6)


def test_controls_are_as_frequent_and_no_rocks(planted):
    _, result = planted
    rows = result.rock_tokens
    n = dict(rows.select("token_id", "n").iter_rows())
    rocks = rows.filter("is_rock")
    controls = rocks["control_token_id"].drop_nulls()
    assert controls.n_unique() == controls.len() > 0
    assert not set(controls) & set(rocks["token_id"])
    for row in rocks.to_dicts():
        if row["control_token_id"] is None:
            assert "no type as frequent is left as control" in row["reason"]
            continue
        away = abs(np.log10(n[row["token_id"]] / n[row["control_token_id"]]))
        assert row["match_distance"] == pytest.approx(away)
        assert away <= 0.2
    # Nearest pairs first: no rock could have had a nearer control that is still free.
    free = set(rows.filter(pl.col("rank") > 16)["token_id"]) - set(controls)
    for row in rocks.drop_nulls("control_token_id").to_dicts():
        nearest = min(abs(np.log10(n[row["token_id"]] / n[t])) for t in free)
        assert row["match_distance"] <= nearest + 1e-4
    assert rows.filter(~pl.col("is_rock"))["control_token_id"].is_null().all()


def test_the_preset_of_the_paper_drops_the_most_frequent_and_takes_the_next_ranks(small):
    rows = asked(small, top=10, preset="paper").rock_tokens
    frequent = rows.sort("n", descending=True).head(5)
    assert frequent["rank"].is_null().all()
    assert frequent["reason"].str.contains("among the 5 most frequent types: left out").all()
    assert rows["rank"].drop_nulls().to_list() == list(range(1, rows["rank"].count() + 1))
    rocks = rows.filter("is_rock").sort("rank")
    following = rows.filter(pl.col("rank").is_between(11, 20)).sort("rank")
    assert rocks["control_token_id"].to_list() == following["token_id"].to_list()
    ours = asked(small, top=10, exclude_top_frequent=5).rock_tokens
    assert ours["rank"].to_list() == rows["rank"].to_list()
    assert ours["control_token_id"].to_list() != rows["control_token_id"].to_list()


def test_a_loss_of_either_sign_has_no_shares_and_says_why(small):
    result = asked(small, top=10, loss="sampled_log_ratio")
    rows = result.rock_tokens
    assert rows["loss"].unique().to_list() == ["sampled_log_ratio"]
    ratio = pl.col("student_logp") - pl.col("teacher_logp")
    counted = small.tokens.filter(pl.col("in_loss") & (pl.col("checkpoint") == "b"))
    expected = counted.group_by("token_id").agg(expected=ratio.sum())
    both = rows.join(expected, on="token_id")
    np.testing.assert_allclose(both["R"], both["expected"], atol=1e-4)
    assert rows["R"].min() < 0 < rows["R"].max()
    for table, names in (
        (rows, ["loss_share", "lift", "lift_low"]),
        (result.rock_cutoff, ["coverage", "cross_coverage", "lift", "cross_lift"]),
        (result.rock_selectors, ["coverage", "cross_lift"]),
        (result.rock_groups, ["relative_change"]),
        (result.rock_outputs, ["rock_loss_share"]),
    ):
        for name in names:
            assert table[name].is_null().all(), name
    for table in (rows, result.rock_cutoff, result.rock_outputs):
        assert table["reason"].str.contains("the loss can be negative").all()
    assert rows["R_low"].is_not_null().any()
    assert result.rock_groups["change"].is_not_null().any()
    assert any("the loss can be negative" in line for line in summary_lines(result))


def test_one_checkpoint_is_selected_but_not_compared(small):
    result = asked(small, checkpoint="a", top=10)
    rows = result.rock_tokens
    assert set(rows["pairing"]) == {"one checkpoint"}
    assert rows["reason"].str.contains("one checkpoint: persistent under it alone").all()
    for name in ("mean_first", "mean_last", "relative_change", "label", "measured_on"):
        assert rows[name].is_null().all()
    assert rows["CCR"].is_not_null().any()
    assert result.rock_groups["checkpoint"].unique().to_list() == ["a"]
    assert result.rock_groups["change"].is_null().all()
    joint = result.rock_selectors.filter(selector="joint").row(0, named=True)
    assert joint["reason"] == "needs two checkpoints on the same tokens"
    assert joint["J"] is None
    assert joint["lift"] is None
    assert not any("change from" in line for line in summary_lines(result))
    asked_for = result.rock_evidence.drop_nulls("p")["question"].to_list()
    assert asked_for == ["rocks-carry-more"]
    assert result.rock_evidence["reason"][1].startswith("one checkpoint")


def test_a_middle_checkpoint_chooses_groups_and_changes_nothing_else(planted):
    data, result = planted
    ends = asked(data, checkpoint=["step0", "step300"], **PLANTED)
    for name in ("rock_tokens", "rock_cutoff", "rock_selectors", "rock_outputs", "rock_example"):
        assert_frame_equal(getattr(ends, name), getattr(result, name))
    assert set(ends.rock_groups["chosen_under"]) == {"step0 and step300"}
    assert ends.rock_groups["reason"].str.contains("two checkpoints: both choose").any()


def test_checkpoints_stand_in_the_order_asked_for(planted):
    data, _ = planted
    back = asked(data, checkpoint=["step300", "step150", "step0"], **PLANTED)
    names = back.rock_groups["checkpoint"].unique(maintain_order=True).to_list()
    assert names == ["step300", "step150", "step0"]
    assert set(back.rock_tokens["checkpoint"]) == {"step0"}  # the last one ranks
    learned = of(back.rock_tokens, data.truth["learned"])
    assert (learned["relative_change"] > 2).all()


def test_turning_the_order_of_checkpoints_turns_the_change(small):
    tokens = pl.concat([small.tokens.filter(checkpoint=name) for name in ("b", "a")])
    everything = {"top": 70, "detail": 70, "min_count": 1}
    there = asked(small, **everything)
    back = asked(small._replace(tokens=tokens), **everything)
    assert back.rock_tokens["checkpoint"].unique().to_list() == ["a"]
    # Every type is in both lists, so both directions measure the same occurrences.
    both = there.rock_tokens.join(back.rock_tokens, on="token_id", suffix="_back")
    assert both.height == there.rock_tokens.height
    both = both.drop_nulls(["label", "label_back"])
    assert both["change_p"].to_list() == both["change_p_back"].to_list()
    product = (1 + both["relative_change"]) * (1 + both["relative_change_back"])
    np.testing.assert_allclose(product, 1, rtol=1e-6)
    ends = (1 + both["relative_change_low"]) * (1 + both["relative_change_high_back"])
    np.testing.assert_allclose(ends, 1, rtol=1e-6)


def test_the_order_of_rows_does_not_matter(small, found):
    mixed = small._replace(
        tokens=pl.concat(
            [
                small.tokens.filter(checkpoint=name).sample(fraction=1, shuffle=True, seed=1)
                for name in ("a", "b")
            ]
        ),
        rollouts=small.rollouts.sample(fraction=1, shuffle=True, seed=2),
    )
    again = asked(mixed, top=10, detail=30)
    for name in TABLES:
        assert_frame_equal(getattr(again, name), getattr(found, name), rel_tol=1e-9)


def test_only_the_columns_that_are_used_are_needed(small, found):
    result = rock_tokens(
        small.tokens.select(USED),
        small.rollouts.select("rollout", "prompt_id", "half"),
        top=10,
        detail=30,
    )
    for name in TABLES:
        assert_frame_equal(getattr(result, name), getattr(found, name))


def test_doubling_every_prompt_doubles_counts_and_nothing_else(small, found):
    more = small.rollouts.height
    doubled = small._replace(
        tokens=pl.concat(
            [small.tokens, small.tokens.with_columns((pl.col("rollout") + more).cast(pl.UInt32))]
        ),
        rollouts=pl.concat(
            [
                small.rollouts,
                small.rollouts.with_columns((pl.col("rollout") + more).cast(pl.UInt32)),
            ]
        ),
    )
    twice = asked(doubled, top=10, detail=30, min_count=4)
    # A prompt stays one cluster: the same answer twice is no more evidence.
    same = ["token_id", "n_prompts", "rank", "rank_low", "rank_high", "mean_loss", "lift"]
    same += ["loss_share", "loss_share_low", "loss_share_high"]
    frequent = pl.col("n") >= pl.when(pl.col("n").max() > 200).then(20).otherwise(10)
    for name in same:
        one, two = (r.rock_tokens.filter("is_rock")[name] for r in (found, twice))
        assert_frame_equal(one.to_frame(), two.to_frame(), rel_tol=1e-6)
    one, two = (r.rock_tokens.filter(frequent)["lift_low", "lift_high"] for r in (found, twice))
    assert_frame_equal(one, two, rel_tol=1e-6)
    assert (twice.rock_tokens["n"] == 2 * found.rock_tokens["n"]).all()
    np.testing.assert_allclose(twice.rock_tokens["R"], 2 * found.rock_tokens["R"])
    assert_frame_equal(twice.rock_cutoff, found.rock_cutoff, rel_tol=1e-6)
    groups = [r.rock_groups.filter(group="rock").drop("n", pl.selectors.starts_with("n_"))
              for r in (found, twice)]  # fmt: skip
    assert_frame_equal(*groups, rel_tol=1e-6)


def test_equal_seeds_give_equal_tables_and_the_seed_reaches_the_draws(small, found):
    again = asked(small, top=10, detail=30)
    other = asked(small, top=10, detail=30, seed=5)
    for name in TABLES:
        assert getattr(again, name).equals(getattr(found, name))
    assert other.rock_tokens["R"].to_list() == found.rock_tokens["R"].to_list()
    assert other.rock_tokens["lift_low"].to_list() != found.rock_tokens["lift_low"].to_list()


def test_a_second_run_is_compared_unpaired(small):
    second = rock_run(prompts=6, samples=3, tokens=80, types=70, checkpoints=("a", "b"), seed=9)
    result = asked(small, top=10, second=(second.tokens, second.rollouts))
    for table in result:
        assert set(table["pairing"]) == {"unpaired"}
    assert result.rock_groups["checkpoint"].unique(maintain_order=True).to_list() == ["a", "b"]
    rows = result.rock_tokens
    assert rows["n_persistent"].is_null().all()
    assert rows["reason"].str.contains("unpaired: no context stage").all()
    # Nothing chose a type that neither half lists: it is measured on all of either run.
    free = rows.filter((pl.col("measured_on") == "both halves") & ~pl.col("is_rock"))
    means = (
        second.tokens.filter(checkpoint="b").group_by("token_id").agg(pl.col("reverse_kl").mean())
    )
    joined = free.drop_nulls("mean_last").join(means, on="token_id")
    assert joined.height > 5
    np.testing.assert_allclose(joined["mean_last"], joined["reverse_kl"], rtol=1e-6)
    np.testing.assert_allclose(
        joined["relative_change"], joined["mean_last"] / joined["mean_first"] - 1, rtol=1e-6
    )
    lines = summary_lines(result)
    assert any("(unpaired)" in line for line in lines)


def test_a_second_run_with_the_same_name_keeps_its_own(small, tmp_path):
    whole = rock_run(prompts=6, samples=2, tokens=80, types=70, checkpoints=("a", "b"), seed=3)
    run = save_run(whole, tmp_path)
    result = asked(small, top=10, second=run.path, second_checkpoint="a")
    names = result.rock_groups["checkpoint"].unique(maintain_order=True).to_list()
    assert names == ["a", "a (second run)"]
    with pytest.raises(TableError, match="checkpoint: no 'x'; expected one of a, b"):
        asked(small, second=run, second_checkpoint="x")


def test_a_run_on_disk_adds_texts_and_gradients(tmp_path):
    data = rock_run(prompts=8, samples=2, tokens=80, types=70, checkpoints=("a", "b"), seed=3)
    run = save_run(data, tmp_path)
    result = rock_tokens(run.path, top=10)
    rows = result.rock_tokens
    assert rows["text"].to_list() == [f" {i}" for i in rows["token_id"]]
    assert result.rock_example["text"].to_list() == [
        f" {i}" for i in result.rock_example["token_id"]
    ]
    known = rows.drop_nulls("norm2_cross")
    assert known.height > 20
    few = rows.filter(pl.col("norm2_cross").is_null())
    assert few["reason"].str.contains("too few occurrences in a half for gradients").all()
    lines = summary_lines(result)
    assert any("' 0'" in line for line in lines)
    # Gradient sums are those of all rollouts: of a part they are not known.
    part = rock_tokens(run, policy="a", top=10).rock_tokens
    assert part["norm2_cross"].is_null().all()
    assert part["reason"].str.contains("no gradient sums of these rollouts").all()


def test_a_mean_below_the_noise_of_scoring_is_marked(tmp_path):
    data = rock_run(prompts=6, samples=2, tokens=60, types=70, checkpoints=("a", "b"))
    run = save_run(data, tmp_path)
    run.manifest.checkpoints["b"].noise_floor = NoiseFloor(p95={"reverse_kl": 0.3})
    rows = rock_tokens(run, top=10).rock_tokens
    marked = rows["reason"].fill_null("").str.contains("mean loss below the noise floor")
    assert marked.to_list() == (rows["mean_loss"] < 0.3).to_list()
    assert marked.any()
    assert not marked.all()


def test_a_type_whose_loss_one_prompt_carries_has_no_interval_and_says_why():
    data = null_run(prompts=24, samples=2, tokens=100, types=20, seed=5)
    common = data.tokens["token_id"].mode()[0]
    carried = (pl.col("token_id") == common) & (pl.col("rollout") < 2)
    loss = pl.when(carried).then(1e4 * pl.col("reverse_kl")).otherwise("reverse_kl")
    rows = asked(data._replace(tokens=data.tokens.with_columns(reverse_kl=loss))).rock_tokens
    (one,) = of(rows, [common]).to_dicts()
    assert one["R"] > 0
    assert one["R_low"] is one["R_high"] is None
    assert one["rank_low"] == 1
    assert "a few prompts carry it: no interval of R" in one["reason"]
    assert rows.filter(pl.col("reason").str.contains("carry it: no interval of R")).height == 1
    for name in ("R", "lift"):
        ends = rows.drop_nulls(f"{name}_high")
        assert (ends[f"{name}_high"] <= 20 * ends[name]).all()
        assert (ends[f"{name}_low"] >= ends[name] / 20).all()
    assert rows["grad_share_low"].is_not_null().any()
    assert (rows["grad_share_low"].drop_nulls() > 0).all()


def test_too_few_prompts_are_said_and_have_no_intervals():
    data = null_run(prompts=3, types=70, tokens=60, checkpoints=("a", "b"))
    result = asked(data, top=10)
    rows = result.rock_tokens
    assert rows.select(pl.selectors.ends_with("_low", "_high")).null_count().row(0) == (
        rows.height,
    ) * len(rows.select(pl.selectors.ends_with("_low", "_high")).columns)
    common = rows.filter(pl.col("n") >= 10)
    assert common["reason"].str.contains("too few prompts").all()
    assert (result.rock_cutoff["reason"].str.contains("too few prompts")).all()
    assert result.rock_cutoff["suggested_K"].is_null().all()
    assert result.rock_groups["reason"].str.starts_with("too few prompts").all()
    assert result.rock_evidence["difference_low"].is_null().all()
    assert any("no interval" in line for line in summary_lines(result))


def test_a_run_without_any_repeated_type_answers_with_reasons():
    data = null_run(prompts=6, samples=1, tokens=5, types=64, checkpoints=("a", "b"))
    alone = (pl.col("rollout") * 5 + pl.col("position")).cast(pl.Int32)
    result = asked(data._replace(tokens=data.tokens.with_columns(token_id=alone)))
    assert not result.rock_tokens["is_rock"].any()
    assert result.rock_tokens["reason"].str.contains("fewer than 2 occurrences: not ranked").all()
    chosen = result.rock_groups.filter(pl.col("group") != "rest")
    assert chosen["level"].is_null().all()
    assert result.rock_evidence["p"].fill_null(1.0).eq(1.0).all()
    assert summary_lines(result)


def test_a_rollout_without_a_token_in_the_loss_says_so(small):
    tokens = small.tokens.with_columns(in_loss=pl.col("in_loss") & (pl.col("rollout") != 4))
    row = asked(small._replace(tokens=tokens), top=10).rock_outputs.row(4, named=True)
    assert row["rock_share"] is None
    assert row["reason"] == "no token in the loss"


def test_the_defaults_of_the_options_are_those_of_the_function():
    defaults = inspect.signature(rock_tokens).parameters
    for field in dataclasses.fields(Options):
        assert defaults[field.name].default == field.default, field.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "papers"}, "preset: 'papers'; expected one of opd-diag, paper"),
        ({"loss": "kl"}, "loss: 'kl'; expected one of reverse_kl, forward_kl, sampled_log_ratio"),
        ({"rank_by": "middle"}, "rank_by: 'middle'; expected one of last, first, joint"),
        ({"tau": "last"}, "tau: 'last'; expected one of own, first"),
        ({"top": 0}, "top: 0; expected 1 or more"),
        ({"min_count": 0}, "min_count: 0; expected 1 or more"),
        ({"detail": 0}, "detail: 0; expected 1 or more"),
        ({"exclude_top_frequent": -1}, "exclude_top_frequent: -1; expected 0 or more"),
        ({"eta": 1.5}, "eta: 1.5; expected a share from 0 to 1"),
        ({"second_checkpoint": "a"}, "second_checkpoint: no second run; expected both"),
    ],
)
def test_options_out_of_range_are_refused(small, options, message):
    with pytest.raises(OptionError, match=message):
        asked(small, **options)


def test_tables_that_do_not_fit_are_refused(small):
    def refused(message, tokens=small.tokens, rollouts=small.rollouts, **options):
        with pytest.raises(TableError, match=message):
            rock_tokens(tokens, rollouts, **options)

    refused("checkpoint: no 'x'; expected one of a, b", checkpoint="x")
    refused("policy: no rollouts of 'x'; expected one of a", policy="x")
    refused("step: no rollouts of 9; expected one of 0", step=9)
    refused("tokens: no column 'grad_logits'; expected it", small.tokens.drop("grad_logits"))
    refused("rollouts: no column 'half'; expected it", rollouts=small.rollouts.drop("half"))
    refused("expected each token once", pl.concat([small.tokens, small.tokens.head(1)]))
    refused(
        "checkpoints 'a' and 'b' differ in .rollout, position, token_id.",
        small.tokens.filter((pl.col("checkpoint") == "a") | (pl.col("position") > 0)),
    )
    refused("rollout 15 is not in the rollouts table", rollouts=small.rollouts.head(15))
    refused("none in the loss with a finite value", small.tokens.with_columns(in_loss=False))
    refused("no rollouts table beside it", rollouts=None)


def test_the_summary_describes_the_list_on_the_other_half_and_its_first_types(planted):
    data, result = planted
    # The lift on the rows that chose is no finding, and is not printed.
    inflated = result.rock_cutoff.with_columns(lift=pl.lit(9.87), coverage=pl.lit(0.987))
    lines = summary_lines(result._replace(rock_cutoff=inflated))
    assert not any("9.87" in line or "98.7" in line for line in lines)
    ours = result.rock_cutoff.filter(selector="R", K=16).row(0, named=True)
    (sentence,) = (line for line in lines if line.startswith("  list of 16, on the half"))
    assert f"{100 * ours['cross_coverage']:.1f} % [" in sentence
    assert f"lift {ours['cross_lift']:.3g} [" in sentence
    (first,) = (line for line in lines if line.startswith("  first types"))
    for row in result.rock_tokens.head(8).to_dicts():
        assert f"#{row['token_id']} {100 * row['loss_share']:.1f} % ({row['lift']:.3g})" in first
    (change,) = (line for line in lines if "change from step0 to step300" in line)
    rocks = result.rock_groups.filter(
        checkpoint="step300", group="rock", measured_on="other half"
    ).row(0, named=True)
    assert f"rocks {100 * rocks['relative_change']:.1f} % [" in change
    assert f"of {data.rollouts['prompt_id'].n_unique()} prompts" in lines[0]
    assert len(lines) <= 12
    verdicts = ("changed", "stagnant", "more than", "differ", "no change")
    assert not any(word in line for line in lines for word in verdicts)


def test_a_second_run_of_the_same_rollouts_is_refused(small, tmp_path):
    run = save_run(rock_run(prompts=6, samples=2, tokens=80, types=70, seed=3), tmp_path)
    message = "second: the same rollouts as the run; expected a run of other rollouts"
    with pytest.raises(OptionError, match=message):
        rock_tokens(run, second=run.path, top=10)
    with pytest.raises(OptionError, match=message):
        asked(small, second=(small.tokens, small.rollouts), second_checkpoint="b")


def test_intervals_of_types_need_five_effective_prompts():
    data = null_run(prompts=24, samples=2, tokens=100, types=200, seed=5)
    # Almost all occurrences of one type stand in one prompt, a few in ten others.
    row = pl.int_range(pl.len())
    ids = pl.when((pl.col("rollout") < 2) & (row % 2 == 0)).then(199).otherwise("token_id")
    ids = pl.when((row % 400 == 1) & (pl.col("token_id") != 199)).then(199).otherwise(ids)
    data = data._replace(tokens=data.tokens.with_columns(token_id=ids.cast(pl.Int32)))
    (one,) = of(asked(data).rock_tokens, [199]).to_dicts()
    counts = (
        data.tokens.filter(pl.col("token_id") == 199)
        .join(data.rollouts.select("rollout", "prompt_id"), on="rollout")
        .group_by("prompt_id")
        .len()["len"]
        .to_numpy()
        .astype(float)
    )
    assert one["n_prompts"] == counts.size >= 10
    assert one["effective_prompts"] == pytest.approx(counts.sum() ** 2 / (counts**2).sum())
    assert one["effective_prompts"] < 5
    assert one["lift_low"] is one["R_low"] is one["rank_low"] is None
    assert "too few prompts" in one["reason"]
