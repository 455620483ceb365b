"""Figures of `score_summary` draw what stands in their tables."""

import numpy as np
import polars as pl
import pytest

from opd_diag import plots
from opd_diag.analyses.score_summary import score_summary
from opd_diag.datasets import null_run
from opd_diag.plots.style import why_blank
from opd_diag.tables.columns.score_summary import TABLES
from opd_diag.tables.schema import empty_table

FIGURES = (
    "score_summary",
    "score_positions",
    "score_positions_absolute",
    "score_positions_forward",
    "score_histogram",
    "score_histogram_forward",
)


@pytest.fixture(scope="module")
def tables():
    data = null_run(
        prompts=8, samples=2, tokens=80, checkpoints=("a", "b", "c"), k_grid=(2, 4), types=50
    )
    right = data.rollouts.with_columns(correct=pl.col("rollout") % 2 == 0)
    return score_summary(data.tokens, right)._asdict()


def table_of(name):
    return max((table for table in TABLES if name.startswith(table)), key=len)


def test_means_stand_at_their_checkpoints(tables):
    ax = plots.score_summary(tables["score_summary"])
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["a", "b", "c"]
    shown = {line.get_label(): line for line in ax.get_lines()}
    assert len(shown) == 6
    rows = tables["score_summary"].filter(column="forward_kl", group="wrong")
    line = shown["teacher ‖ student, wrong"]
    assert np.round(line.get_xdata()).tolist() == [0, 1, 2]
    assert line.get_ydata().tolist() == rows["value"].to_list()


@pytest.mark.parametrize(
    ("name", "column", "axis"),
    [
        ("score_positions", "reverse_kl", "relative"),
        ("score_positions_absolute", "reverse_kl", "absolute"),
        ("score_positions_forward", "forward_kl", "relative"),
    ],
)
def test_curves_are_those_of_the_first_and_last_checkpoint(tables, name, column, axis):
    ax = getattr(plots, name)(tables["score_positions"])
    shown = {line.get_label(): line for line in ax.get_lines()}
    assert set(shown) == {"a, correct", "a, wrong", "c, correct", "c, wrong"}
    rows = tables["score_positions"].filter(
        checkpoint="c", group="correct", column=column, axis=axis
    )
    assert shown["c, correct"].get_ydata().tolist() == rows["value"].to_list()
    middle = (rows["start"] + rows["end"]) / 2
    assert shown["c, correct"].get_xdata().tolist() == middle.to_list()


@pytest.mark.parametrize("name", ["score_summary", "score_positions", "score_histogram"])
def test_outcomes_that_few_of_many_prompts_hold_are_not_drawn(tables, name):
    few = pl.when(pl.col("group") == "correct").then(6).otherwise(96).cast(pl.UInt32)
    ax = getattr(plots, name)(tables[name].with_columns(n_prompts=few))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels
    assert all(label.endswith(", all") for label in labels)


@pytest.mark.parametrize("name", ["score_histogram", "score_histogram_forward"])
def test_steps_are_the_shares_of_the_last_checkpoint(tables, name):
    ax = getattr(plots, name)(tables["score_histogram"])
    column = "forward_kl" if name.endswith("forward") else "reverse_kl"
    rows = tables["score_histogram"].filter(checkpoint="c", group="wrong", column=column)
    steps = {patch.get_label(): patch.get_data() for patch in ax.patches}
    assert steps["tokens, wrong"].values.tolist() == rows["token_share"].to_list()
    assert steps["their KL, wrong"].values.tolist() == rows["loss_share"].to_list()
    assert "c" in ax.get_title(loc="left").split()[-1]


def test_titles_differ(tables):
    titles = [
        getattr(plots, name)(tables[table_of(name)]).get_title(loc="left") for name in FIGURES
    ]
    assert len(set(titles)) == len(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_table_says_why(name):
    ax = getattr(plots, name)(empty_table(TABLES[table_of(name)]))
    assert why_blank(ax.figure) == "no token in the loss has a divergence"
