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
from opd_diag.plots.style import SINGLE, on_page, style
from opd_diag.plots.teachability import teachability_contrast
from opd_diag.plots.trap_controls import trap_persistence

COLUMNS = 2
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
        size = SINGLE[0] * columns, SINGLE[1] * rows + (0.4 if title else 0)
        figure, grid = plt.subplots(rows, columns, figsize=on_page(size), squeeze=False)
        for ax, name in zip(grid.flat, names, strict=False):
            PANELS[name](tables[name], ax=ax)
        for ax in grid.flat[len(names) :]:
            ax.remove()
        if title:
            figure.suptitle(title, x=0.01, ha="left")
    return figure
