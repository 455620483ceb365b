"""Figures show the numbers of their tables, with units, and say so when there are none."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes

from opd_diag import plots
from opd_diag.analyses.release_points import release_points
from opd_diag.datasets.releases import release_run

FIGURES = {
    plots.release_points: "release_points",
    plots.release_points_positions: "release_points",
    plots.release_summary: "release_summary",
    plots.release_correlation: "release_correlation",
    plots.release_budgets: "release_budgets",
    plots.release_example: "release_example",
    plots.release_curves: "release_curves",
    plots.release_curves_absolute: "release_curves",
    plots.release_curves_advantage: "release_curves",
    plots.release_curves_entropy: "release_curves",
    plots.release_curves_margin: "release_curves",
    plots.release_curves_overlap: "release_curves",
    plots.release_curves_policy: "release_curves",
}
NAMES = [figure.__name__ for figure in FIGURES]


@pytest.fixture(scope="module")
def tables():
    data = release_run(prompts=6, samples=2, checkpoints=("a", "b"), segment_tokens=5)
    teacher = pl.when(pl.col("sample") == 1).then(pl.lit("teacher")).otherwise("policy")
    return release_points(data.tokens, data.rollouts.with_columns(policy=teacher))


@pytest.mark.parametrize("figure", FIGURES, ids=NAMES)
def test_every_figure_draws_on_the_axes_it_is_given_and_labels_them(figure, tables, tmp_path):
    _, ax = plt.subplots()
    table = getattr(tables, FIGURES[figure])
    assert figure(table, ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.get_title(loc="left") or ax.get_title()
    assert ax.get_legend() is not None
    own = figure(table)
    assert isinstance(own, Axes)
    assert own is not ax
    own.figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("figure", FIGURES, ids=NAMES)
def test_an_empty_table_is_said_and_not_drawn(figure, tables):
    table = getattr(tables, FIGURES[figure])
    ax = figure(table.clear())
    assert ax.texts
    assert not ax.axison


def test_the_histogram_counts_every_gain_and_marks_both_thresholds(tables):
    ax = plots.release_points(tables.release_points)
    marks = {line.get_xdata()[0] for line in ax.lines}
    assert marks == {0, 6}
    assert "a (12 rollouts)" in ax.get_legend_handles_labels()[1]


def test_curves_carry_value_and_interval(tables):
    rows = tables.release_curves.filter(
        pl.col("checkpoint") == "a",
        pl.col("split") == "all",
        pl.col("axis") == "relative",
        pl.col("quantity") == "advantage",
    ).sort("bin")
    ax = plots.release_curves_advantage(tables.release_curves)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), rows["value"])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), np.arange(0.025, 1, 0.05))
    drawn = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert set(rows["value_low"].round(9)) <= set(drawn.round(9))
    assert set(rows["value_high"].round(9)) <= set(drawn.round(9))


def test_the_example_marks_the_cut_and_writes_the_text(tables):
    rows = tables.release_example.filter(pl.col("checkpoint") == "a")
    text = "It costs $3,\n so " + "very " * 40
    ax = plots.release_example(rows.with_columns(text=pl.lit(text)))
    cut = rows.filter(~pl.col("kept"))["segment"][0] - 0.5
    assert any(np.allclose(line.get_ydata(), cut) for line in ax.lines)
    label = ax.get_yticklabels()[0].get_text()
    assert label.startswith("It costs $3, so very")
    assert label.endswith("…")


def test_the_rule_stands_beside_its_controls(tables):
    ax = plots.release_summary(tables.release_summary)
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert [text.split("\n")[0] for text in shown] == [
        "downward",
        "upward",
        "downward,",
        "step beats a line",
    ]
    assert ax.get_title(loc="left") == "Rollouts with a shift of the margin above the threshold 6"
    assert ax.get_xlim()[0] < 0
    assert ax.get_legend_handles_labels()[1] == ["a", "b"]


def test_the_teacher_is_drawn_once(tables):
    ax = plots.release_curves_entropy(tables.release_curves)
    assert ax.get_legend_handles_labels()[1] == ["student a", "student b", "teacher"]


def test_no_two_figures_have_one_title(tables):
    titles = []
    for figure, table in FIGURES.items():
        ax = figure(getattr(tables, table))
        titles.append(ax.get_title(loc="left") or ax.get_title())
        plt.close(ax.figure)
    assert len(set(titles)) == len(titles)


def test_a_control_without_a_value_says_why_in_its_row(tables):
    lost = pl.col("statistic") == "step_beats_line"
    rows = tables.release_summary.with_columns(
        pl.when(~lost).then(pl.col("^value.*$")),
        n=pl.when(lost).then(1).otherwise("n"),
        reason=pl.when(lost).then(pl.lit("too few prompts")),
    )
    (words,) = plots.release_summary(rows).texts
    assert words.get_text() == "too few prompts\n(1 rollout)"
    assert words.get_position()[1] == 3


def test_curves_say_how_many_prompts_and_stand_left_without_a_style_around_them(tables):
    names = [name for name in NAMES if name.startswith("release_curves")]
    for name in names:
        ax = getattr(plots, name)(tables.release_curves)
        assert ax.get_title(loc="left").endswith("(band: 95 %, 6 prompts)")
        assert not ax.get_title(loc="center")
    one = tables.release_curves.with_columns(n_prompts=pl.lit(1, pl.UInt32))
    assert "1 prompt)" in plots.release_curves(one).get_title(loc="left")


def test_one_policy_has_no_curve_of_policies(tables):
    rows = tables.release_curves.filter(pl.col("split") != "policy")
    words = [text.get_text() for text in plots.release_curves_policy(rows).texts]
    assert words == ["all rollouts are of one policy"]


def test_correlations_fill_a_square_with_the_line_of_no_change(tables):
    rows = tables.release_correlation.with_columns(
        pearson_early=0.9 + 0.01 * pl.int_range(pl.len()) % 0.05, pearson_late=pl.lit(0.95)
    )
    ax = plots.release_correlation(rows)
    assert ax.get_xlim() == ax.get_ylim()
    low, high = ax.get_xlim()
    assert 0.8 < low < 0.9
    assert 0.95 < high < 1
    points = np.concatenate([c.get_offsets() for c in ax.collections])
    assert ((low <= points) & (points <= high)).all()
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), ax.lines[0].get_ydata())
    same = plots.release_correlation(rows.with_columns(pearson_early=1.0, pearson_late=1.0))
    assert same.get_xlim()[0] < 1 < same.get_xlim()[1]
