"""What the figures of `teachability` share: the direction of KL they show, intervals, names."""

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import bars, counted
from opd_diag.tables.columns.tokens import KL_NAMES


def leading(table: pl.DataFrame) -> str:
    """Name the direction of KL that leads: that of the first row."""
    return table["kl"][0] if table.height else "forward_kl"


def gain(kl: str) -> str:
    """Label an axis of gain."""
    return f"gain in {KL_NAMES[kl]} (nat)"


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
    """Name the two checkpoints that the gain lies between."""
    return f"{rows['gain_from'][0] or rows['features_from'][0]} to {rows['checkpoint'][0]}"


def counts(rows: pl.DataFrame) -> str:
    """Say how many tokens and prompts stand behind the first row."""
    return f"{counted(rows['n'][0], 'token')}, {counted(rows['n_prompts'][0], 'prompt')}"


def why(table: pl.DataFrame) -> str:
    """Say why there is nothing to draw: the table's own first reason."""
    return next(iter(table["reason"].drop_nulls()), "no rows")
