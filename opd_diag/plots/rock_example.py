"""Draw one rollout as text: `rock_example`."""

import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import nothing, panel, style
from opd_diag.plots.token_strip import WIDTH, readable_words, token_strip
from opd_diag.plots.wrapping import wrapped
from opd_diag.tables.columns.token_strip import TOKEN_STRIP
from opd_diag.tables.schema import polars_schema

MOST_LINES = 60


def rock_example(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw one rollout token by token, coloured by loss, rocks underlined.

    Args:
        table: `rock_example`, of which at most 60 lines are drawn, as `token_strip` draws them.
        ax: Where to draw; None: a new figure, as high as the text needs.
    """
    with style():
        if table.is_empty() or table["value"].is_null().all():
            return nothing(panel(ax), "no rollout has a token in the loss")
        drawn = 1 + max(
            p.token for p in wrapped(readable_words(table), WIDTH) if p.line < MOST_LINES
        )
        ax = token_strip(_strip(table.head(drawn)), ax=ax)
        part = "" if drawn == table.height else f", its first {drawn:,} of {table.height:,} tokens"
        title = f"Rollout {table['rollout'][0]} under {table['checkpoint'][0]}{part}"
        ax.set_title(title, y=1, pad=9, parse_math=False, fontsize=8)
        return ax


def _strip(table: pl.DataFrame) -> pl.DataFrame:
    """Give the table the columns of a strip; what this analysis does not know is null."""
    known = table.with_columns(
        pl.col("value").is_not_null().alias("in_loss"),
        pl.col("loss").alias("column"),
        pl.lit("nat").alias("unit"),
    )
    return known.with_columns(
        pl.lit(None, dtype).alias(name)
        for name, dtype in polars_schema(TOKEN_STRIP).items()
        if name not in known.columns
    )
