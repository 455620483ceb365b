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


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


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
    assert label.startswith(r"It costs \$3, so very")
    assert label.endswith("…")


def test_the_rule_stands_beside_its_controls(tables):
    ax = plots.release_summary(tables.release_summary)
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert [text.split("\n")[0] for text in shown] == [
        "downward",
        "upward",
        "downward, segments shuffled",
        "step beats a line",
    ]
    assert "paper" in ax.get_legend_handles_labels()[1]
