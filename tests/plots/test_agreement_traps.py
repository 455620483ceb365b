"""Figures show the numbers of their tables, and say so when there are none."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes

from opd_diag import plots
from opd_diag.analyses.agreement_traps import agreement_traps
from opd_diag.datasets import trap_run

FIGURES = {
    plots.agreement_traps: "agreement_traps",
    plots.trap_map: "trap_map",
    plots.trap_trace: "trap_trace",
    plots.trap_phases: "trap_phases",
    plots.trap_phases_gradient: "trap_phases",
    plots.trap_phases_shares: "trap_phases",
    plots.trap_summary: "trap_summary",
    plots.trap_cuts: "trap_cuts",
    plots.trap_cuts_correct: "trap_cuts",
    plots.trap_persistence: "trap_persistence",
    plots.trap_outcomes: "trap_outcomes",
    plots.trap_sensitivity: "trap_sensitivity",
    plots.trap_vocabulary: "trap_vocabulary",
}
NAMES = [figure.__name__ for figure in FIGURES]


@pytest.fixture(scope="module")
def tables():
    data = trap_run(prompts=8, samples=4, tokens=300, length=100, seed=2)
    return agreement_traps(data.tokens, data.rollouts, draws=2)


@pytest.mark.parametrize("figure", FIGURES, ids=NAMES)
def test_every_figure_draws_on_the_axes_it_is_given_and_labels_them(figure, tables, tmp_path):
    _, ax = plt.subplots()
    table = getattr(tables, FIGURES[figure])
    assert figure(table, ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.get_title(loc="left") or ax.get_title()
    own = figure(table)
    assert isinstance(own, Axes)
    assert own is not ax
    own.figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("figure", FIGURES, ids=NAMES)
def test_an_empty_table_is_said_and_not_drawn(figure, tables):
    ax = figure(getattr(tables, FIGURES[figure]).clear())
    assert ax.texts
    assert not ax.axison


def points(ax, label):
    (line,) = (line for line in ax.lines if line.get_label() == label)
    return line


def test_the_map_holds_every_bin_and_marks_every_cut(tables):
    rows = tables.trap_map.filter(checkpoint="step0")
    ax = plots.trap_map(tables.trap_map)
    mesh = ax.collections[0].get_array()
    drawn = np.sort(np.ma.masked_invalid(mesh).compressed())
    np.testing.assert_allclose(drawn, np.sort(rows["mean_kl"].to_numpy()), rtol=1e-6)
    cuts = rows.unique("row").filter(pl.col("cut").is_not_null()).sort("row")
    np.testing.assert_allclose(np.sort(points(ax, "cut").get_xdata()), np.sort(cuts["cut"]))


def test_the_map_leaves_shorter_rollouts_blank(tables):
    rows = tables.trap_map.filter((pl.col("row") > 0) | (pl.col("start") < 60))
    mesh = plots.trap_map(rows).collections[0].get_array()
    blank = np.ma.getmaskarray(np.ma.masked_invalid(mesh)).reshape(32, -1)
    assert blank[0].sum() == blank.sum() > 0


def test_the_trace_shows_windows_threshold_and_stretch(tables):
    rows = tables.trap_trace.filter(checkpoint="step0")
    ax = plots.trap_trace(tables.trap_trace)
    mean = points(ax, "mean of the window ending here").get_ydata()
    np.testing.assert_allclose(mean[63:].astype(float), rows["mean_kl"][63:])
    assert set(points(ax, "threshold").get_ydata()) == set(rows["threshold"])
    inside = rows.filter(phase="agreement")["position"]
    (span,) = (p for p in ax.patches if p.get_label() == "low-KL stretch")
    assert span.get_x() == inside[0] - 0.5
    assert span.get_width() == inside.len()


def test_phases_stand_beside_shuffled_tokens(tables):
    rows = tables.trap_phases.filter(checkpoint="step0", split="all", quantity="reverse_kl")
    ax = plots.trap_phases(tables.trap_phases)
    drawn = points(ax, "KL(student ‖ teacher)").get_ydata()
    np.testing.assert_allclose(drawn, rows["value"].drop_nulls())
    shuffled = points(ax, "the same, blocks shuffled").get_ydata()
    np.testing.assert_allclose(shuffled, rows["shuffled"].drop_nulls())


def test_the_curve_of_cuts_holds_kept_and_its_interval(tables):
    rows = tables.trap_cuts.filter(checkpoint="step0", signal="gain_reverse_kl").sort("tokens_kept")
    ax = plots.trap_cuts(tables.trap_cuts)
    own = rows.filter(rule="prefix, same share")
    np.testing.assert_allclose(points(ax, "low-KL cut").get_ydata(), own["kept"])
    np.testing.assert_allclose(points(ax, "prefix, same share").get_ydata(), own["rule_kept"])
    low = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert set(own["kept_low"].drop_nulls().round(9)) <= set(low.round(9))
    assert "release points" not in ax.get_legend_handles_labels()[1]


def test_without_a_second_checkpoint_the_gradient_is_drawn(tables):
    lone = pl.col("signal").is_in(["gain_reverse_kl", "gain_forward_kl", "grad_logits_other"])
    blank = pl.when(lone).then(None).otherwise("kept").alias("kept")
    ax = plots.trap_cuts(tables.trap_cuts.with_columns(blank))
    assert ax.get_ylabel().startswith("gradient norm per token kept (nat/logit)")


def test_ratios_are_held_against_one(tables):
    ax = plots.trap_summary(tables.trap_summary)
    assert set(points(ax, "as shuffled").get_xdata()) == {1}
    rows = tables.trap_summary.filter(checkpoint="step0", group="all", measure="longest_run")
    drawn = points(ax, "step0 (32 rollouts)").get_xdata()
    assert rows["ratio"][0] in drawn


def test_the_run_stands_beside_every_shuffle(tables):
    rows = tables.trap_persistence
    ax = plots.trap_persistence(rows)
    assert points(ax, "observed").get_ydata() == rows["longest_run"][0]
    widest = rows.filter("keeps_course")
    line = points(ax, "blocks of 64 shuffled, steady course kept")
    np.testing.assert_allclose(line.get_ydata(), widest["shuffled"])
    assert len(ax.get_legend_handles_labels()[1]) == 5


def test_every_comparison_of_outcomes_has_its_row(tables):
    rows = tables.trap_outcomes.filter(pl.col("difference_low").is_not_null(), checkpoint="step0")
    ax = plots.trap_outcomes(tables.trap_outcomes)
    np.testing.assert_allclose(points(ax, "step0").get_xdata(), rows["difference"])
    assert len(ax.get_yticks()) == rows.height


def test_the_setting_asked_for_is_marked(tables):
    ax = plots.trap_sensitivity(tables.trap_sensitivity)
    rows = tables.trap_sensitivity.filter("is_setting", checkpoint="step0")
    assert points(ax, "the setting asked for").get_ydata() == rows["ratio"][0]


def test_up_to_two_checkpoints_are_split_by_outcome_and_more_are_not(tables):
    rows = tables.agreement_traps
    two = plots.agreement_traps(rows)
    assert two.get_title(loc="left").endswith("(by outcome)")
    fired = rows.filter("triggered")
    counts = [c for (c,) in fired.group_by("checkpoint", "correct").len().select("len").rows()]
    labels = two.get_legend_handles_labels()[1]
    assert len(labels) == len(two.patches) == len(counts)
    assert sorted(int(label.split("(")[1].split(" ")[0]) for label in labels) == sorted(counts)
    first = rows["checkpoint"][0]
    third = rows.filter(checkpoint=first).with_columns(checkpoint=pl.lit("third"))
    three = plots.agreement_traps(pl.concat([rows, third]))
    assert "correct and wrong together" in three.get_title(loc="left")
    own = fired.filter(checkpoint=first)
    heights, _ = np.histogram(own["cut_frac"], np.linspace(0, 1, 21))
    assert three.patches[-1].get_path().vertices[:, 1].max() == heights.max()
    label = next(x for x in three.get_legend_handles_labels()[1] if x.startswith("third"))
    for outcome, word in ((True, "correct"), (False, "wrong")):
        n = own.filter(correct=outcome).height
        assert (f"{n} {word}" in label) == bool(n)


def test_types_stand_beside_shuffled_kl(tables):
    rows = tables.trap_vocabulary.filter(checkpoint="step0").drop_nulls("p")
    ax = plots.trap_vocabulary(tables.trap_vocabulary)
    first = rows.head(24).sort("log_odds", descending=True)
    shown = [value for line in ax.lines[:-1] for value in line.get_xdata()]
    assert sorted(shown) == pytest.approx(sorted(first["log_odds"]))
    (label, *_) = [text.get_text() for text in ax.get_yticklabels()]
    row = first.row(0, named=True)
    assert label == f"#{row['token_id']} ({row['n_in']} / {row['n_out']})"
    assert f"{rows.height} tested" in ax.get_title(loc="left")
