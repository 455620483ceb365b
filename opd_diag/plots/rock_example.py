"""Draw one rollout as text: `rock_example`."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm

from opd_diag.plots.style import colour, nothing, panel, readable, style
from opd_diag.plots.wrapping import wrapped

WIDTH = 100  # characters in a line
CHARACTER = 0.075  # inches
LINE = 0.2
MOST_LINES = 60


def rock_example(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw one rollout token by token, coloured by loss, rocks underlined.

    Args:
        table: `rock_example`, of which at most 60 lines are drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        if table.is_empty() or table["value"].is_null().all():
            return nothing(panel(ax), "no rollout has a token in the loss")
        words = [
            readable(f"[{token_id}]" if text is None else text, "monospace")
            for text, token_id in table.select("text", "token_id").iter_rows()
        ]
        pieces = [piece for piece in wrapped(words, WIDTH) if piece.line < MOST_LINES]
        lines = pieces[-1].line + 1
        ax = panel(ax, size=(WIDTH * CHARACTER + 1, 0.9 + LINE * lines))
        known = table["value"].drop_nulls().to_numpy()
        # A square root: few tokens hold most of the loss, and the others would look alike.
        shades = ScalarMappable(
            PowerNorm(0.5, vmin=min(known.min(), 0), vmax=known.max()), "YlOrRd"
        )
        shades.set_array(known)
        values, rocks = table["value"].to_list(), table["is_rock"].to_list()
        for piece in pieces:
            span, value = [(piece.at, piece.width)], values[piece.token]
            if value is not None:
                shade = shades.to_rgba(value, alpha=0.75)
                ax.broken_barh(span, (piece.line - 0.42, 0.84), color=shade, linewidth=0)
            if rocks[piece.token]:
                ax.broken_barh(span, (piece.line + 0.36, 0.1), color=colour(0), linewidth=0)
            ax.text(piece.at, piece.line, piece.text, fontsize=7, family="monospace", va="center",
                    parse_math=False)  # fmt: skip
        ax.get_figure(root=True).colorbar(  # type: ignore[union-attr]
            shades, ax=ax, fraction=0.03, pad=0.01, label=f"{table['loss'][0]} (nat)"
        )
        ax.set_xlim(0, WIDTH)
        ax.set_ylim(lines - 0.4, -0.6)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set_xlabel("tokens of a rock type are underlined; uncoloured ones are outside the loss")
        drawn = pieces[-1].token + 1
        part = "" if drawn == table.height else f", its first {drawn:,} of {table.height:,} tokens"
        ax.set_title(f"Rollout {table['rollout'][0]} under {table['checkpoint'][0]}{part}")
        return ax
