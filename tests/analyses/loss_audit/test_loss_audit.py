"""The loss audit on tokens that their student sampled: planted bias, none, and bad input."""

import numpy as np
import polars as pl
import pytest

import opd_diag as od
from opd_diag.analyses.findings import answer
from opd_diag.analyses.loss_audit import loss_audit, summary_lines
from opd_diag.analyses.loss_audit.findings import findings
from opd_diag.errors import OptionError
from opd_diag.plots.loss_audit import NOTHING
from opd_diag.plots.style import why_blank
from tests.analyses.loss_audit.on_policy import K_GRID, on_policy_run


@pytest.fixture(scope="module")
def data():
    return on_policy_run(0)


@pytest.fixture(scope="module")
def tables(data):
    return loss_audit(*data, k_grid=K_GRID, clamp=(0.5,))


def of(table, estimator):
    return table.filter(estimator=estimator).row(0, named=True)


def asked(table, sampled_here=True):
    """The finding of a table, as if it was known who sampled the tokens."""
    table = table.with_columns(pl.lit(sampled_here, pl.Boolean).alias("sampled_here"))
    return answer(findings(table), ["s"]).row(0, named=True)


def test_the_numbers_are_those_of_the_tokens(data, tables):
    tokens = data[0].filter("in_loss")
    x = tokens["reverse_kl"].to_numpy().astype(float)
    a = (tokens["student_logp"].cast(float) - tokens["teacher_logp"].cast(float)).to_numpy()
    row = of(tables.loss_audit, "k1_clamp_0.5")
    e = a.clip(-0.5, 0.5)
    assert row["n"] == x.size
    assert row["mean"] == pytest.approx(e.mean())
    assert row["bias"] == pytest.approx((e - x).mean())
    assert row["relative"] == pytest.approx(e.mean() / x.mean())
    assert row["variance"] == pytest.approx((e - x).var())
    assert row["at_clamp"] == pytest.approx((np.abs(a) > 0.5).mean())
    signed = np.abs(a - x) > 1e-6
    assert row["flips"] == pytest.approx((np.sign(a) * np.sign(a - x) < 0)[signed].mean())
    means = tokens.with_columns(e=e, x=x).group_by("rollout").agg(pl.col("e", "x").mean())
    assert row["correlation"] == pytest.approx(np.corrcoef(means["e"], means["x"])[0, 1])
    for name in ("mean", "bias", "variance", "flips", "correlation", "flipped_gradient"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], name
    bins = tables.loss_bins.filter(estimator="k1_clamp_0.5")
    assert bins["n"].sum() == x.size
    assert (bins["exact"] >= bins["start"]).all()
    assert np.average(bins["mean"], weights=bins["n"]) == pytest.approx(e.mean())


def test_a_loss_that_is_off_in_one_group_is_seen_there(data):
    tokens, rollouts = data
    half = pl.col("rollout") % 2
    rollouts = rollouts.with_columns(
        group=pl.when(half == 0).then(pl.lit("math")).otherwise(pl.lit("code"))
    )
    tokens = tokens.with_columns(
        teacher_logp=pl.when(half == 0).then("teacher_logp").otherwise(pl.col("student_logp"))
    )
    tables = loss_audit(tokens, rollouts, k_grid=K_GRID, clamp=())
    groups = tables.loss_groups.filter(estimator="k1")
    assert dict(groups.select("group", "relative").iter_rows())["code"] == 0
    math = groups.row(by_predicate=pl.col("group") == "math", named=True)
    expected = tokens.filter("in_loss", half == 0)
    x, a = expected["reverse_kl"].cast(float), expected["student_logp"] - expected["teacher_logp"]
    assert math["n"] == x.len()
    assert math["n_rollouts"] == expected["rollout"].n_unique()
    assert math["relative"] == pytest.approx(a.sum() / x.sum(), rel=1e-5)
    assert math["bias_low"] < math["bias"] < math["bias_high"]
    lines = summary_lines(tables)
    assert any(line.strip().startswith("code: 0") for line in lines)
    whole = tables.loss_audit.filter(estimator="k1").row(0, named=True)
    assert groups["n"].sum() == whole["n"]


def test_a_dump_without_groups_has_no_rows_of_them(tables):
    assert tables.loss_groups.is_empty()


def test_the_exact_mean_lies_in_the_interval_of_a_sampled_estimator():
    covered, missed = 0, 0
    for seed in range(30):
        rows = loss_audit(
            *on_policy_run(seed, tokens=25, apart=0.3), k_grid=K_GRID, clamp=(), top_k=()
        ).loss_audit
        row = of(rows, "k1")
        covered += row["bias_low"] <= 0 <= row["bias_high"]
        missed += row["p"] <= 0.05
    assert covered >= 25  # 95 %: fewer in 1 of 300 such tests
    assert missed <= 4


def test_a_loss_that_is_cut_is_found_and_one_that_is_not_is_no_bias(data):
    cut = loss_audit(*data, k_grid=K_GRID, loss="k1_clamp_0.2")
    assert asked(cut.loss_audit)["answer"] == "yes"
    assert "On average k1_clamp_0.2 is off" in asked(cut.loss_audit)["what_it_means"]
    many = loss_audit(*on_policy_run(1, prompts=60, samples=4, tokens=80), k_grid=K_GRID)
    found = asked(many.loss_audit)
    assert (found["answer"], found["control"]) == ("no", 1.0)
    assert found["estimate"] == of(many.loss_audit, "k1")["relative"]


def test_a_truncated_loss_is_that_of_the_masses_at_its_k(data):
    """`teacher_mass` has the whole K grid, the other columns a few K of it."""
    grid = (2, 4, 8)
    tokens = data[0].with_columns(
        pl.concat_list(pl.col("teacher_mass").arr.to_list(), pl.lit(0.5, pl.Float32))
        .list.to_array(3)
    )  # fmt: skip
    row = of(loss_audit(tokens, data[1], k_grid=grid).loss_audit, "student_top_4_renormalised")
    kept = tokens.filter("in_loss").select(
        part=pl.col("reverse_kl_top").arr.get(0).cast(float),
        p=pl.col("student_mass").arr.get(0).cast(float),
        q=pl.col("teacher_mass").arr.get(1).cast(float),
    )
    assert row["mean"] == pytest.approx(kept.select((pl.col("part") / pl.col("p") + (
        pl.col("q") / pl.col("p")).log()).mean()).item())  # fmt: skip


def test_who_did_not_sample_the_tokens_is_not_asked(tables):
    for known in (False, None):
        assert asked(tables.loss_audit, sampled_here=known)["answer"] == "not asked"
    assert "who sampled the tokens is not known" in tables.loss_audit["reason"][0]
    assert any("nobody knows who sampled" in line for line in summary_lines(tables))


def test_tokens_without_the_later_columns_keep_what_they_allow(data):
    tokens, rollouts = data
    later = [name for name in tokens.columns if "_top" in name or name == "student_mass"]
    tables = loss_audit(tokens.drop(later), rollouts, k_grid=K_GRID)
    rows = tables.loss_audit
    tops = rows.filter(pl.col("estimator").str.contains("top"))
    assert (tops["n"] == 0).all()
    assert tops["mean"].null_count() == tops.height
    assert of(rows, "k1")["n"] > 0
    assert any("top K sets that this run lacks" in line for line in summary_lines(tables))
    plain = loss_audit(tokens.drop(later), rollouts, k_grid=K_GRID, loss="student_top_4")
    assert asked(plain.loss_audit)["answer"] == "not asked"


def test_without_an_exact_kl_the_estimators_stand_alone(data):
    """A teacher of whom the log-probs of the sampled tokens alone are known."""
    tokens = data[0].with_columns(reverse_kl=pl.lit(None, pl.Float32))
    tables = loss_audit(tokens, data[1], k_grid=K_GRID)
    row = of(tables.loss_audit, "k1")
    kept = tokens.filter("in_loss")
    k1 = (kept["student_logp"].cast(float) - kept["teacher_logp"].cast(float)).to_numpy()
    assert (row["mean"], row["variance"]) == pytest.approx((k1.mean(), k1.var()))
    assert row["mean_low"] < row["mean"] < row["mean_high"]
    for name in ("exact", "bias", "relative", "p", "flips", "correlation"):
        assert row[name] is None, name
    assert "no exact KL" in row["reason"]
    assert any("mean" in line for line in summary_lines(tables))
    assert asked(tables.loss_audit)["answer"] == "not asked"


def test_what_makes_no_sense_is_refused(data):
    for options, message in (
        ({"loss": "kl"}, "loss: 'kl'; expected k1"),
        ({"clamp": (0.0,)}, "clamp: 0.0; expected numbers above 0"),
        ({"top_k": (3,)}, "top_k: 3; expected some of 4"),
        ({"seed": -1}, "seed: -1"),
    ):
        with pytest.raises(OptionError, match=message):
            loss_audit(*data, k_grid=K_GRID, **options)


def test_figures_show_the_estimators(tables):
    ax = od.plots.loss_audit(tables.loss_audit)
    assert len(ax.get_yticklabels()) == tables.loss_audit.height
    ax = od.plots.loss_audit_flips(tables.loss_audit)
    shown = {line.get_label(): line for line in ax.get_lines()}
    assert list(shown["the wrong sign"].get_xdata()) == tables.loss_audit["flips"].to_list()
    ax = od.plots.loss_bins(tables.loss_bins)
    assert "k1" in [line.get_label() for line in ax.get_lines()]
    for name in ("loss_audit", "loss_audit_flips", "loss_bins"):
        empty = getattr(tables, name.removesuffix("_flips")).clear()
        assert why_blank(getattr(od.plots, name)(empty).figure) == NOTHING
