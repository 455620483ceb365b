"""Figures show the numbers of their tables, with units, and say so when there are none."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from opd_diag import plots
from opd_diag.analyses.rock_tokens import rock_tokens
from opd_diag.datasets import rock_run, save_run
from opd_diag.plots.style import CONTROL, colour, style
from opd_diag.tables.columns.rock_tokens import GROUPS

FIGURES = {
    plots.rock_tokens: "rock_tokens",
    plots.rock_tokens_change: "rock_tokens",
    plots.rock_tokens_gradients: "rock_tokens",
    plots.rock_groups: "rock_groups",
    plots.rock_cutoff: "rock_cutoff",
    plots.rock_selectors: "rock_selectors",
    plots.rock_outputs: "rock_outputs",
    plots.rock_example: "rock_example",
    plots.rock_persistence: "rock_persistence",
    plots.rock_persistence_classes: "rock_persistence",
    plots.rock_persistence_types: "rock_persistence",
    plots.rock_composition: "rock_composition",
    plots.rock_composition_lift: "rock_composition",
}
WITHOUT_AXES = (plots.rock_example, plots.rock_persistence_types)
NAMES = [figure.__name__ for figure in FIGURES]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    data = rock_run(prompts=12, samples=2, tokens=120, checkpoints=("a", "b", "c"))
    return rock_tokens(save_run(data, tmp_path_factory.mktemp("run")), top=12)


@pytest.mark.parametrize("figure", FIGURES, ids=NAMES)
def test_every_figure_draws_on_the_axes_it_is_given_and_labels_them(figure, tables, tmp_path):
    _, ax = plt.subplots()
    table = getattr(tables, FIGURES[figure])
    assert figure(table, ax=ax) is ax
    assert ax.get_title(loc="left") or ax.get_title()
    if figure not in WITHOUT_AXES:
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_legend() is not None
    own = figure(table)
    assert isinstance(own, Axes)
    assert own is not ax
    own.figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("figure", FIGURES, ids=NAMES)
def test_an_empty_table_is_said_and_not_drawn(figure, tables):
    ax = figure(getattr(tables, FIGURES[figure]).clear())
    assert ax.texts
    assert not ax.axison


def scattered(ax, label):
    (found,) = (c for c in ax.collections if str(c.get_label()).startswith(label))
    return np.asarray(found.get_offsets())


def line(ax, label):
    (found,) = (one for one in ax.lines if one.get_label() == label)
    return found


def as_points(rows, x, y):
    return rows.select(x, y).to_numpy()


def test_the_funnel_marks_rocks_and_controls_and_holds_the_band(tables):
    rows = tables.rock_tokens
    ax = plots.rock_tokens(rows)
    rocks = rows.filter("is_rock")
    controls = rows.filter(pl.col("token_id").is_in(rocks["control_token_id"].implode()))
    for label, own in (
        ("rocks", rocks),
        ("controls", controls),
        ("other types", rows.filter(~pl.col("is_rock") & (pl.col("mean_loss") > 0))),
    ):
        drawn = scattered(ax, label)
        expected = as_points(own.sort("n"), "n", "mean_loss")
        np.testing.assert_allclose(drawn[np.lexsort(drawn.T)], expected[np.lexsort(expected.T)])
    band = ax.collections[0].get_paths()[0].vertices
    for row in rows.unique("n").to_dicts():
        at = band[band[:, 0] == row["n"], 1]
        assert np.isclose(at, row["mean_loss_p10"]).any()
        assert np.isclose(at, row["mean_loss_p90"]).any()
    assert ax.get_xscale() == ax.get_yscale() == "log"
    named = [text.get_text() for text in ax.texts]
    assert named[0] == repr(rocks.sort("rank")["text"][0])
    assert len(named) <= 8
    assert set(named) <= {repr(text) for text in rocks["text"]}


@pytest.mark.parametrize("size", ["screen", "one-column"])
@pytest.mark.parametrize("seed", range(3))
def test_no_name_hides_another(tables, size, seed):
    near = np.random.default_rng(seed).uniform(0.5, 2.0, tables.rock_tokens.height)
    rows = tables.rock_tokens.with_columns(n=pl.lit(40), mean_loss=pl.Series(near))
    with style(size):
        ax = plots.rock_tokens(rows.with_columns(is_rock=pl.lit(True), rank=pl.int_range(pl.len())))
        ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert 2 <= len(boxes) <= 8
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_the_view_of_the_funnel_holds_the_points_and_not_the_whole_band(tables):
    rows = tables.rock_tokens.with_columns(mean_loss_p10=pl.lit(1e-13))
    low, high = plots.rock_tokens(rows).get_ylim()
    positive = rows.filter(pl.col("mean_loss") > 0)["mean_loss"]
    assert positive.min() / 5 < low < positive.min()
    assert positive.max() < high < 5 * positive.max()


def test_equal_values_stand_in_a_view_with_ticks(tables):
    names = ("mean_loss", "mean_loss_p10", "mean_loss_p90", "mean_first", "mean_last")
    same = {name: pl.lit(0.3) for name in (*names, "mean_last_low", "mean_last_high")}
    rows = tables.rock_tokens.with_columns(n=pl.lit(7), **same)
    for figure in (plots.rock_tokens, plots.rock_tokens_change):
        ax = figure(rows)
        for low, high in (ax.get_xlim(), ax.get_ylim()):
            assert high / low == pytest.approx(10)
            assert np.ceil(np.log10(low)) <= np.log10(high)  # a power of ten has a tick


def test_change_is_drawn_against_the_line_of_none(tables):
    rows = tables.rock_tokens
    ax = plots.rock_tokens_change(rows)
    same = line(ax, "no change")
    np.testing.assert_array_equal(same.get_xdata(), same.get_ydata())
    lost = rows.filter(pl.col("label") == "changed")["token_id"][0]
    rows = rows.with_columns(label=pl.when(pl.col("token_id") != lost).then("label"))
    ax = plots.rock_tokens_change(rows)
    for label in ("stagnant", "changed", "undecided", None):
        own = rows.filter("is_rock", pl.col("label").eq_missing(pl.lit(label)))
        if own.is_empty():
            assert f"rocks, {label}" not in str(ax.get_legend_handles_labels())
            continue
        drawn = scattered(ax, f"rocks, {label or 'no interval'}")
        np.testing.assert_allclose(np.sort(drawn[:, 0]), np.sort(own["mean_first"].to_numpy()))
        np.testing.assert_allclose(np.sort(drawn[:, 1]), np.sort(own["mean_last"].to_numpy()))
    assert rows.filter(pl.col("label") == "changed").height
    alone = plots.rock_tokens_change(rows.with_columns(mean_first=None, mean_last=None))
    assert [text.get_text() for text in alone.texts] == ["no two checkpoints to compare"]


def test_gradients_stand_raw_and_across_halves_with_negative_ones(tables):
    rows = tables.rock_tokens.drop_nulls("norm2_cross")
    ax = plots.rock_tokens_gradients(tables.rock_tokens)
    for label, name in (("raw", "norm2_raw"), ("across", "norm2_cross")):
        np.testing.assert_allclose(scattered(ax, label), as_points(rows, "n", name))
    assert scattered(ax, "across")[:, 1].min() < 0
    bottom, top = ax.get_ylim()
    assert bottom < scattered(ax, "across")[:, 1].min()
    assert scattered(ax, "raw")[:, 1].max() < top
    ax.figure.draw_without_rendering()
    shown = [text for text in ax.get_yticklabels() if text.get_text()]
    boxes = sorted(text.get_window_extent().y0 for text in shown)
    heights = max(text.get_window_extent().height for text in shown)
    assert len(boxes) >= 3
    assert min(np.diff(boxes)) > heights
    alone = plots.rock_tokens_gradients(tables.rock_tokens.with_columns(norm2_cross=None))
    assert [text.get_text() for text in alone.texts] == ["no gradient sums of these rollouts"]


@pytest.mark.parametrize("group", GROUPS)
def test_groups_are_drawn_on_other_prompts_with_intervals_and_on_those_that_chose(tables, group):
    ax = plots.rock_groups(tables.rock_groups)
    own = tables.rock_groups.filter(group=group)
    other, same = (own.filter(measured_on=side) for side in ("other half", "same half"))
    np.testing.assert_allclose(line(ax, f"{group}, other half").get_ydata(), other["level"])
    np.testing.assert_allclose(line(ax, f"{group}, the half that chose").get_ydata(), same["level"])
    place = GROUPS.index(group)
    drawn = ax.collections[place].get_paths()[0].vertices[:, 1]
    for name in ("level_low", "level_high"):
        assert all(np.isclose(drawn, value).any() for value in other[name])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]


def test_the_cutoff_holds_both_curves_and_the_size_of_the_paper(tables):
    table = tables.rock_cutoff
    ax = plots.rock_cutoff(table)
    for name in ("R", "frequency"):
        rows = table.filter(selector=name)
        stable = line(ax, f"agreement by {name}, 5-95 % of splits")
        np.testing.assert_allclose(stable.get_ydata(), rows["J_c"].cast(float).fill_null(np.nan))
        np.testing.assert_array_equal(stable.get_xdata(), rows["K"])
        covered = line(ax, f"coverage on the other half, by {name}")
        np.testing.assert_allclose(covered.get_ydata(), rows["cross_coverage"])
        suggested = rows["suggested_K"][0]
        if suggested is not None:
            mark = line(ax, f"suggested by {name}: {suggested}")
            assert set(mark.get_xdata()) == {suggested}
    own = line(ax, "coverage by R on the rows that chose")
    np.testing.assert_allclose(own.get_ydata(), table.filter(selector="R")["coverage"])
    assert set(line(ax, "paper: 100").get_xdata()) == {100}
    reasons = table.with_columns(J_c=None, cross_coverage=None, reason=pl.lit("too few prompts"))
    assert plots.rock_cutoff(reasons).texts[0].get_text() == "too few prompts"


def test_selectors_stand_by_stability_and_lift(tables):
    table = tables.rock_selectors
    ax = plots.rock_selectors(table)
    for row in table.drop_nulls(["J_c", "cross_lift"]).to_dicts():
        point = line(ax, row["selector"])
        assert point.get_xdata()[0] == pytest.approx(row["J_c"])
        assert point.get_ydata()[0] == pytest.approx(row["cross_lift"])
    heights = {float(y) for one in ax.collections for path in one.get_paths()
               for y in path.vertices[:, 1]}  # fmt: skip
    for low in table["cross_lift_low"].drop_nulls():
        assert any(abs(low - height) < 1e-9 for height in heights)
    assert any(set(one.get_ydata()) == {1} for one in ax.lines)


def test_every_rollout_is_counted_in_both_histograms(tables):
    ax = plots.rock_outputs(tables.rock_outputs)
    assert len(ax.patches) == 2
    for place, name in enumerate(("rock_share", "rock_loss_share")):
        counts, _ = np.histogram(tables.rock_outputs[name].drop_nulls(), np.linspace(0, 1, 41))
        # An outline goes up and down at both sides of every bar.
        heights = ax.patches[place].get_path().vertices[:, 1]
        assert heights.max() == counts.max()
        assert sorted(set(heights)) == sorted({0, *counts})
    assert "share of tokens (24 rollouts)" in ax.get_legend_handles_labels()[1]


def test_the_example_writes_every_token_and_underlines_the_rocks(tables):
    rows = tables.rock_example.head(6).with_columns(
        text=pl.Series([" costs", " $3", "\n", "中", "\t", None]),
        is_rock=pl.Series([True, False, False, True, False, False]),
        value=pl.Series([0.0, 4.0, 1.0, None, 0.5, 0.1]),
    )
    ax = plots.rock_example(rows)
    ax.figure.canvas.draw()
    written = [text.get_text() for text in ax.texts]
    assert written[0] == " costs"
    assert written[1] == " $3"  # and starts no formula
    assert written[2] == "⏎"
    assert written[-1] == f"[{rows['token_id'][5]}]"
    lines = {text.get_position()[1] for text in ax.texts}
    assert lines == {0, 1}
    cells, marks = ax.collections
    assert len(cells.get_paths()) == 5  # one token is outside the loss
    assert len(marks.get_paths()) == 2
    assert to_hex(marks.get_facecolor()[0]) == to_hex(colour(0))
    assert "(nat)" in ax.child_axes[0].get_xlabel()


def test_a_word_longer_than_a_line_stays_in_its_cells(tables):
    rows = tables.rock_example.head(2).with_columns(text=pl.Series(["x" * 250, "y"]))
    ax = plots.rock_example(rows)
    assert [len(text.get_text()) for text in ax.texts] == [100, 100, 50, 1]
    ax.figure.draw_without_rendering()
    inside = ax.get_window_extent()
    character = inside.width / 101
    assert all(text.get_window_extent().x1 <= inside.x1 + character for text in ax.texts)


def test_a_long_example_says_how_much_of_it_is_drawn(tables):
    rows = pl.concat([tables.rock_example] * 40).with_columns(text=pl.lit("word " * 4))
    ax = plots.rock_example(rows)
    assert len(ax.texts) == 60 * 5
    assert "its first 300 of 4,800 tokens" in ax.get_title(loc="left")


def test_texts_that_no_font_draws_and_dollars_do_no_harm(tables, tmp_path):
    texts = ["$x$", "\\frac{$", "中文", "\U0001f469", "_{", None]
    rows = tables.rock_tokens
    names = pl.Series([texts[i % len(texts)] for i in range(rows.height)], dtype=pl.String)
    ax = plots.rock_tokens(rows.with_columns(text=names))
    ax.figure.savefig(tmp_path / "figure.png")
    named = [text.get_text() for text in ax.texts]
    assert "'$x$'" in named
    assert any(name.startswith("#") for name in named)


def test_types_of_no_group_are_grey(tables):
    ax = plots.rock_tokens(tables.rock_tokens)
    (rest,) = (c for c in ax.collections if str(c.get_label()).startswith("other types"))
    assert to_hex(rest.get_facecolor()[0]) == CONTROL.lower()


def test_survival_is_drawn_over_steps_where_names_hold_them(tables):
    rows = tables.rock_persistence
    ax = plots.rock_persistence(rows)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    rocks = rows.filter(name="rock")
    drawn = line(ax, f"rocks ({rocks['n_hard_first'][0]:,} hard at first)")
    np.testing.assert_allclose(drawn.get_ydata(), rocks["survival"])
    steps = {"a": 0, "b": 50, "c": 400}
    named = rows.with_columns(step=pl.col("checkpoint").replace_strict(steps))
    ax = plots.rock_persistence(named)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0, 50, 400])
    assert ax.get_xlabel() == "training step"


def test_the_four_classes_add_up_to_bars(tables):
    rows = tables.rock_persistence.filter(pl.col("kind") != "type", checkpoint="c").reverse()
    ax = plots.rock_persistence_classes(tables.rock_persistence)
    assert len(ax.containers) == 3
    ends = np.zeros(rows.height)
    for bars, name in zip(ax.containers, ("learned", "rock", "regressed"), strict=True):
        np.testing.assert_allclose([bar.get_x() for bar in bars], ends)
        ends += rows[f"share_{name}"].to_numpy()
    easy = rows["share_easy"].to_numpy()
    np.testing.assert_allclose(ends + easy, 1)


def test_listed_types_are_written_with_their_numbers(tables):
    rows = tables.rock_persistence.filter(kind="type")
    ax = plots.rock_persistence_types(tables.rock_persistence)
    written = [text.get_text() for text in ax.texts]
    assert len(written) == 5 * (1 + rows.height)
    for row in rows.to_dicts():
        assert f"“{row['text']}”" in written
        assert f"{row['n']:,}" in written
        assert f"{row['lift']:.2f}" in written
    many = pl.concat([tables.rock_persistence] * 4)
    assert len(plots.rock_persistence_types(many).texts) == 5 * 26


def test_composition_stands_beside_its_control(tables):
    rows = tables.rock_composition.filter(phase="all")
    ax = plots.rock_composition(tables.rock_composition)
    for group, label in (("rock", "share of the rock tokens"), ("all", "share of all tokens")):
        own = rows.filter(group=group)
        np.testing.assert_allclose(line(ax, label).get_ydata(), own["position_share"])
    ax = plots.rock_composition_lift(tables.rock_composition)
    own = rows.filter(group="all")
    np.testing.assert_allclose(line(ax, "logit gradient").get_xdata(), own["grad_lift"])
    assert any(set(one.get_xdata()) == {1} for one in ax.lines)
