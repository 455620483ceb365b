"""Draw one page with the headline figure of every analysis."""

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opd_diag.errors import TableError
from opd_diag.plots.release_points import release_summary
from opd_diag.plots.rock_tokens import rock_tokens
from opd_diag.plots.score_summary import score_positions, score_summary
from opd_diag.plots.style import SINGLE, legend_below, on_page, style
from opd_diag.plots.teachability import teachability_contrast
from opd_diag.plots.trap_controls import trap_persistence

COLUMNS = 2
WIDEST_LEGEND = 0.6  # of its panel; a wider one is laid out again
LOWEST = 3.0  # inches: a panel's height
# Where the student stands, then of each analysis what it finds beside what chance gives.
PANELS: Mapping[str, Callable[..., Axes]] = {
    "score_summary": score_summary,
    "score_positions": score_positions,
    "release_summary": release_summary,
    "rock_tokens": rock_tokens,
    "teachability_contrast": teachability_contrast,
    "trap_persistence": trap_persistence,
}


def overview(tables: Mapping[str, pl.DataFrame], *, title: str = "") -> Figure:
    """Draw the headline figure of every analysis that has a result, on one page.

    Args:
        tables: Result tables by name; those in `PANELS` are drawn.
        title: What stands above them.

    Returns:
        The page, with one axes for each of these tables.

    Raises:
        TableError: If there is none of them.
    """
    names = [name for name in PANELS if name in tables]
    if not names:
        raise TableError(f"tables: none of this page; expected one of {', '.join(PANELS)}")
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    with style():
        width, _ = on_page((SINGLE[0] * columns, SINGLE[1]))
        height = max(SINGLE[1] * width / (SINGLE[0] * columns), LOWEST)
        figure = plt.figure(figsize=(width, height * rows + (0.4 if title else 0)))
        # Each in a figure of its own: wide labels of one panel leave the others their room.
        panels = figure.subfigures(rows, columns, squeeze=False)
        for panel, name in zip(panels.flat, names, strict=False):
            ax = PANELS[name](tables[name], ax=panel.subplots())
            legend = ax.get_legend()
            if legend and legend.get_window_extent().width > WIDEST_LEGEND * panel.bbox.width:
                legend_below(ax)
        if title:
            figure.suptitle(title, x=0.01, ha="left")
    return figure
