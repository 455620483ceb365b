"""What the figures of `teachability` share: the direction of KL they show, and names."""

import polars as pl

from opd_diag.plots.style import counted
from opd_diag.tables.columns.tokens import KL_NAMES


def leading(table: pl.DataFrame) -> str:
    """Name the direction of KL that leads: that of the first row."""
    return table["kl"][0] if table.height else "forward_kl"


def gain(kl: str) -> str:
    """Label an axis of gain."""
    return f"gain in {KL_NAMES[kl]} (nat)"


def pair(rows: pl.DataFrame) -> str:
    """Name the two checkpoints that the gain lies between."""
    return f"{rows['gain_from'][0] or rows['features_from'][0]} to {rows['checkpoint'][0]}"


def counts(rows: pl.DataFrame) -> str:
    """Say how many tokens and prompts stand behind the first row."""
    return f"{counted(rows['n'][0], 'token')}, {counted(rows['n_prompts'][0], 'prompt')}"


def why(table: pl.DataFrame) -> str:
    """Say why there is nothing to draw: the table's own first reason."""
    return next(iter(table["reason"].drop_nulls()), "no rows")
