"""The page holds the headline figure of every analysis that has a result, and no other."""

import numpy as np
import polars as pl
import pytest

from opd_diag import plots
from opd_diag.errors import TableError
from opd_diag.plots.overview import PANELS
from opd_diag.plots.style import style
from opd_diag.tables.columns import ANALYSES, RESULTS
from opd_diag.tables.schema import empty_table, polars_schema


def release_points(gains):
    """A result of `release_points` with these gains."""
    columns = RESULTS["release_points"]
    row = {column.name: None for column in columns}
    same = {"checkpoint": "a", "prompt_id": "p", "n_segments": 9, "n_tokens": 90, "scale": 1.0}
    rows = [row | same | {"rollout": i, "gain": g, "accepted": g > 6} for i, g in enumerate(gains)]
    return pl.DataFrame(rows, schema=polars_schema(columns))


def empty(name):
    return empty_table(RESULTS[name])


def test_every_analysis_has_a_panel():
    assert set(PANELS) == set(ANALYSES) - {"findings"}
    assert all(getattr(plots, name) is draw for name, draw in PANELS.items())


def test_panels_are_drawn_from_their_tables():
    gains = [1.0, 2.0, 7.0, 9.0]
    page = plots.overview({"release_points": release_points(gains)}, title="my run")
    (ax,) = page.axes
    vertices = np.concatenate([patch.get_path().vertices for patch in ax.patches])
    counts, edges = np.histogram(gains, "auto")
    assert vertices[:, 1].max() == counts.max()
    assert (vertices[:, 0].min(), vertices[:, 0].max()) == (edges[0], edges[-1])
    assert "a (4 rollouts)" in ax.get_legend_handles_labels()[1]
    assert ax.get_title(loc="left") == "Gain of a release point"
    assert page.get_suptitle() == "my run"


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_there_are_as_many_panels_as_results(n):
    names = list(PANELS)[:n]
    tables = {name: empty(name) for name in names} | {"release_curves": empty("release_curves")}
    page = plots.overview(tables)
    assert len(page.axes) == n
    assert all(ax.texts for ax in page.axes)  # each says why it is empty


def test_without_a_headline_there_is_no_page():
    with pytest.raises(
        TableError, match="tables: none of an analysis; expected one of rock_tokens"
    ):
        plots.overview({"release_curves": empty("release_curves")})


def test_the_page_has_the_width_of_its_place():
    tables = {name: empty(name) for name in PANELS}
    with style("two-columns"):
        assert plots.overview(tables).get_size_inches()[0] == 7.0
    assert plots.overview(tables).get_size_inches().tolist() == [12.8, 8.0]
