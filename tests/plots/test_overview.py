"""The page holds the headline figure of every analysis that has a result, and no other."""

import polars as pl
import pytest

from opd_diag import plots
from opd_diag.errors import TableError
from opd_diag.plots.overview import PANELS
from opd_diag.plots.saving import save_figure
from opd_diag.plots.style import style
from opd_diag.tables.columns import ANALYSES, RESULTS
from opd_diag.tables.schema import empty_table, polars_schema


def score_summary(values):
    """A result of `score_summary` with these means of one checkpoint each."""
    same = {"group": "all", "column": "reverse_kl", "unit": "nat", "n": 90, "n_prompts": 9}
    ends = [{"value": v, "value_low": v - 0.1, "value_high": v + 0.1} for v in values]
    rows = [same | end | {"checkpoint": f"s{i}", "reason": None} for i, end in enumerate(ends)]
    return pl.DataFrame(rows, schema=polars_schema(RESULTS["score_summary"]))


def empty(name):
    return empty_table(RESULTS[name])


def test_every_analysis_has_a_panel():
    of = {next(a for a, tables in ANALYSES.items() if name in tables) for name in PANELS}
    assert of == set(ANALYSES) - {"findings", "loss_audit", "update_alignment"}
    assert all(getattr(plots, name) is draw for name, draw in PANELS.items())


def test_panels_are_drawn_from_their_tables():
    values = [0.5, 0.4, 0.3]
    page = plots.overview({"score_summary": score_summary(values)}, title="my run")
    (ax,) = page.axes
    (line,) = [line for line in ax.get_lines() if line.get_label() != "_nolegend_"]
    assert line.get_ydata().tolist() == values
    assert [label.get_text() for label in ax.get_xticklabels()] == ["s0", "s1", "s2"]
    assert page.get_suptitle() == "my run"


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_there_are_as_many_panels_as_results(n):
    names = list(PANELS)[:n]
    tables = {name: empty(name) for name in names} | {"release_curves": empty("release_curves")}
    page = plots.overview(tables)
    assert len(page.axes) == n
    assert all(ax.texts for ax in page.axes)  # each says why it is empty


def test_without_a_headline_there_is_no_page():
    with pytest.raises(
        TableError, match="tables: none of this page; expected one of score_summary"
    ):
        plots.overview({"release_curves": empty("release_curves")})


def test_the_page_has_the_width_of_its_place():
    tables = {name: empty(name) for name in PANELS}
    with style("two-columns"):
        assert plots.overview(tables).get_size_inches()[0] == 7.0
    assert plots.overview(tables).get_size_inches().tolist() == [12.8, 12.0]


@pytest.mark.parametrize("size", ["screen", "one-column", "two-columns"])
def test_long_names_in_a_panel_leave_the_others_their_room(size, tmp_path):
    tables = {
        "score_summary": score_summary([0.5, 0.4, 0.3]),
        "score_positions": empty("score_positions"),
        "rock_tokens": empty("rock_tokens"),
    }
    with style(size):
        page = plots.overview(tables)
        first, second, _ = page.axes
        second.set_ylabel("wide " * 20)
        second.set_yticks([0, 1], ["a very long name of a tick" * 2] * 2)
        save_figure(page, tmp_path / "x.png")
        page.draw_without_rendering()
        box, whole = first.get_window_extent(), page.bbox
    assert box.width > 0.3 * whole.width
    assert box.x1 < whole.width / 2
