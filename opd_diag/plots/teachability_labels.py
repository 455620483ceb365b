"""What the figures of `teachability` share: the direction of KL they show, intervals, and names."""

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import bars, counted

KL = "forward_kl"
GAIN = "gain in KL(teacher ‖ student) (nat)"


def interval(
    ax: Axes,
    at: Sequence[float],
    rows: pl.DataFrame,
    name: str,
    *,
    colour: str,
    label: str | None = None,
    horizontal: bool = False,
) -> None:
    """Draw a column with its interval."""
    values = (rows[f"{name}{end}"].to_list() for end in ("", "_low", "_high"))
    bars(ax, at, *values, colour=colour, label=label, horizontal=horizontal)


def pair(rows: pl.DataFrame) -> str:
    """Name the two checkpoints."""
    return f"{rows['features_from'][0]} to {rows['checkpoint'][0]}"


def counts(rows: pl.DataFrame) -> str:
    """Say how many tokens and prompts stand behind the first row."""
    return f"{counted(rows['n'][0], 'token')}, {counted(rows['n_prompts'][0], 'prompt')}"


def why(table: pl.DataFrame) -> str:
    """Say why there is nothing to draw: the table's own first reason."""
    return next(iter(table["reason"].drop_nulls()), "no rows")
