import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes

from opd_diag import plots
from opd_diag.analyses.teachability import teachability
from opd_diag.datasets import teachable_run

FIGURES = {
    plots.teachability: "teachability",
    plots.teachability_groups: "teachability",
    plots.teachability_plane: "teachability",
    plots.teachability_plane_compatibility: "teachability",
    plots.teachability_contrast: "teachability_contrast",
    plots.teachability_models: "teachability_models",
    plots.teachability_selectors: "teachability_selectors",
    plots.teachability_selectors_captured: "teachability_selectors",
    plots.teachability_overlap: "teachability_overlap",
    plots.teachability_support: "teachability_support",
}
NAMES = [figure.__name__ for figure in FIGURES]
WITHOUT_LEGEND = {
    plots.teachability_groups,
    plots.teachability_plane,
    plots.teachability_plane_compatibility,
    plots.teachability_overlap,
}


@pytest.fixture(scope="module")
def data():
    return teachable_run(prompts=12, samples=5, tokens=140, compatibility=0.1)


@pytest.fixture(scope="module")
def tables(data):
    return teachability(data.tokens, data.rollouts)


@pytest.fixture(scope="module")
def alone(data):
    first = data.tokens.filter(pl.col("checkpoint") == "step0")
    return teachability(first, data.rollouts)


@pytest.mark.parametrize("figure", FIGURES, ids=NAMES)
def test_every_figure_draws_on_the_axes_it_is_given_and_labels_them(figure, tables, tmp_path):
    _, ax = plt.subplots()
    table = getattr(tables, FIGURES[figure])
    assert figure(table, ax=ax) is ax
    assert ax.axison
    assert ax.get_title(loc="left") or ax.get_title()
    assert ax.get_yticklabels()
    if figure is not plots.teachability_overlap:  # its axes are the selectors' names
        assert ax.get_xlabel()
    assert (ax.get_legend() is None) == (figure in WITHOUT_LEGEND)
    own = figure(table)
    assert isinstance(own, Axes)
    assert own is not ax
    own.figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("figure", FIGURES, ids=NAMES)
def test_an_empty_table_is_said_and_not_drawn(figure, tables):
    ax = figure(getattr(tables, FIGURES[figure]).clear())
    assert ax.texts[0].get_text() == "no rows"
    assert not ax.axison


@pytest.mark.parametrize("figure", FIGURES, ids=NAMES)
def test_one_checkpoint_gives_its_reason_where_a_gain_would_stand(figure, alone):
    ax = figure(getattr(alone, FIGURES[figure]))
    if figure in (plots.teachability_plane_compatibility, plots.teachability_overlap):
        assert ax.axison
    else:
        assert "one checkpoint: a change needs two" in ax.texts[0].get_text()


def test_gain_stands_by_tenths_of_both_scores_beside_the_mean_of_all(tables):
    table = tables.teachability
    ax = plots.teachability(table)
    rows = table.filter(group="all", kl=table["kl"][0])
    for line, feature in zip(ax.lines, ("d_learn", "d_incompat"), strict=False):
        np.testing.assert_allclose(line.get_ydata(), rows.filter(feature=feature)["gain"])
    assert set(ax.lines[-1].get_ydata()) == {rows.filter(feature="all")["gain"].item()}


def test_the_plane_holds_every_cell_in_its_place(tables):
    table = tables.teachability
    cells = table.filter(feature="entropy x divergence", kl=table["kl"][0])
    for figure, name in (
        (plots.teachability_plane, "gain"),
        (plots.teachability_plane_compatibility, "compatibility"),
    ):
        drawn = np.ma.filled(figure(table).images[0].get_array(), np.nan)
        assert drawn.shape == (10, 10)
        sure = cells.filter(pl.col(f"{name}_low").is_not_null())
        assert 20 < sure.height < 100
        for row in sure.iter_rows(named=True):
            assert drawn[row["other_bin"], row["bin"]] == pytest.approx(row[name])
        assert np.isnan(drawn).sum() == 100 - sure.height
        assert (sure["n"] >= 50).all()
        unsure = cells.filter(pl.col("n") > 0, pl.col(f"{name}_low").is_null())
        assert len(figure(table).patches) == unsure.height


def test_both_contrasts_stand_beside_what_they_are_without_an_effect(tables):
    table = tables.teachability_contrast
    ax = plots.teachability_contrast(table)
    table = table.sort(pl.col("contrast") != "matched", maintain_order=True)
    observed, adjusted, null = ax.lines[:3]
    np.testing.assert_allclose(observed.get_xdata(), table["difference"])
    np.testing.assert_allclose(adjusted.get_xdata(), table["adjusted"].drop_nulls())
    np.testing.assert_allclose(null.get_xdata(), table["null"])
    ends = np.array([path.vertices[:, 0] for path in ax.collections[0].get_paths()])
    np.testing.assert_allclose(ends, table.select("difference_low", "difference_high").to_numpy())
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert sum("sure, divergent tokens" in label for label in labels) == 2
    assert sum("matched pairs" in label for label in labels) == 2


@pytest.mark.parametrize(
    ("figure", "name"),
    [(plots.teachability_selectors, "gain"), (plots.teachability_selectors_captured, "captured")],
)
def test_every_selector_that_is_there_has_its_line_and_band(figure, name, tables):
    lead = tables.teachability_selectors["kl"][0]
    rows = tables.teachability_selectors.filter(pl.col("gain").is_not_null(), kl=lead)
    ax = figure(tables.teachability_selectors)
    letters = {"divergence (D)": "D", "entropy (H)": "H", "compatibility (C)": "C"}
    lines = {letters.get(str(of.get_label()), of.get_label()): of for of in ax.lines}
    assert set(lines) == set(rows["selector"])
    assert not {line.get_label() for line in ax.lines} & set(letters.values())
    assert len(ax.collections) == len(lines)
    assert "rock-free" not in lines
    for selector, line in lines.items():
        of = rows.filter(selector=selector).sort("budget")
        np.testing.assert_allclose(line.get_xdata(), of["actual_budget"])
        np.testing.assert_allclose(line.get_ydata(), of[name])
    looks = {(line.get_color(), line.get_linestyle()) for line in ax.lines}
    assert len(looks) == len(lines)


def test_the_overlap_matrix_is_symmetric_and_holds_the_nearest_budget(tables):
    table = tables.teachability_overlap
    ax = plots.teachability_overlap(table, budget=0.18)
    assert "20%" in ax.get_title(loc="left")
    drawn = np.ma.filled(ax.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(drawn, drawn.T)
    np.testing.assert_array_equal(np.diag(drawn), 1)
    names = [label.get_text() for label in ax.get_xticklabels()]
    row = table.filter(budget=0.2, selector="D", other="H").row(0, named=True)
    assert drawn[names.index("D"), names.index("H")] == row["jaccard"]


def test_the_models_show_both_fits_of_every_term(tables):
    table = tables.teachability_models
    ax = plots.teachability_models(table)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert "local: local compatibility" in labels
    rows = table.filter(pl.col("standard").is_not_null(), kl=table["kl"][0])
    rows = rows.filter(pl.col("model") != "base", pl.col("term") != "position")
    rows = rows.filter((pl.col("model") != "local") | (pl.col("term") == "local compatibility"))
    for line, trimmed in zip(ax.lines, (False, True), strict=False):
        np.testing.assert_allclose(line.get_xdata(), rows.filter(trimmed=trimmed)["standard"])


def test_the_definitions_stand_side_by_side_at_every_k(tables):
    table = tables.teachability_support.filter(kl=tables.teachability_support["kl"][0])
    ax = plots.teachability_support(tables.teachability_support)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "4", "8", "16", "32", "64"]
    mass = table.filter(definition="teacher_mass").sort("k")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), mass["standard"])
